"""What the report of an atlas and that of a query have in common: cells, stages, provenance, and the page itself."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np

from heatwalk import pictures
from heatwalk.pictures import number

_STAGES = (
    "cells", "pca", "neighbors", "affinity", "diffusion_map", "deep_diffusion_map", "curvature", "pseudotime",
    "particles", "random_walk", "riemannian_diffusion", "generation_metrics", "extension", "atlas",
)  # fmt: skip


def draw(points: np.ndarray, column: pictures.Column, view: tuple[int, int | None], pixels: int) -> pictures.Picture:
    first, second = view
    if second is None:  # one component alone: cells are spread across it
        random = np.random.default_rng(0).uniform(-1, 1, len(points))
        return pictures.picture(np.stack([points[:, 0], random], axis=1), column, (1, 0), pixels)
    return pictures.picture(points[:, [first, second]], column, (first + 1, second + 1), pixels)


def cells(results, obs) -> dict:
    cells = results["cells"]
    removed = []
    if "removed" in cells:
        table = cells["removed"]
        thresholds = table["threshold"] if "threshold" in table else [""] * len(table)
        removed = [(str(r), _plain(t), int(c)) for r, t, c in zip(table.index, thresholds, table["cells"], strict=True)]
        removed = [(r, "none" if (r, t) == ("max_counts", "0") else t, c) for r, t, c in removed]
    gone = sum(row[2] for row in removed)
    split = np.bincount(np.asarray(cells["split"][:]), minlength=2) if "split" in cells else None
    histograms = []
    for name, label in (
        ("total_counts", "counts of a cell"),
        ("n_genes_by_counts", "genes found in a cell"),
        ("pct_counts_mt", "mitochondrial counts, %"),
    ):
        if name in obs:
            values = obs[name].to_numpy(np.float64, na_value=np.nan)
            histograms.append(pictures.histogram(values, label, f"Histogram of {label}."))
    parameters = cells.manifest["parameters"]
    return {
        "kept": len(obs),
        "removed": removed,
        "gone": gone,
        "share": gone / max(gone + len(obs), 1),
        "split": None if split is None else (int(split[0]), int(split[1:].sum())),
        "charts": [chart for chart in histograms if chart is not None],
        "facts": [(key, _plain(parameters[key])) for key in ("kind", "source", "layer") if parameters.get(key)],
        "columns": [str(name) for name in obs.columns],
        "notes": [str(note) for note in (cells.run or {}).get("notes") or ()],
        "sparse": parameters.get("kind", "counts") in ("counts", "logged"),
    }


def stages(results) -> list[dict]:
    rows = []
    for stage in [*_STAGES, *(name for name in results if name not in _STAGES)]:
        if stage not in results:
            continue
        manifest, run = results[stage].manifest, results[stage].run or {}
        rows.append(
            {
                "name": stage,
                "root": manifest.get("root", ""),
                "code": manifest.get("code") or "",
                "inputs": dict(manifest.get("inputs") or {}),
                "parameters": list(_flat(manifest.get("parameters") or {})),
                "seconds": run.get("seconds"),
                "memory": run.get("peak_memory_bytes"),
                "predicted": run.get("predicted") or {},
                "threads": run.get("threads"),
                "started": date(run.get("started")),
                "host": run.get("host"),
                "versions": dict(run.get("versions") or {}),
                "notes": [str(note) for note in run.get("notes") or ()],
            }
        )
    return rows


def computed(results) -> str | None:
    """When the last stage began, for people."""
    started = [run["started"] for stage in results if (run := results[stage].run or {}).get("started")]
    return date(max(started)) if started else None


def totals(results) -> dict:
    runs = [results[stage].run or {} for stage in results]
    return {
        "seconds": sum(run.get("seconds") or 0 for run in runs),
        "longest": max((run.get("seconds") or 0 for run in runs), default=0),
        "memory": max((run.get("peak_memory_bytes") or 0 for run in runs), default=0),
    }


def where(results) -> dict:
    """What to type, from the folder that holds the results."""
    import shlex

    folder = Path(results["cells"].folder).parent
    shown = f"{folder.parent.name}/{folder.name}"
    atlas = {name: json.dumps(f"{shown}/atlas/{name}", ensure_ascii=False) for name in ("atlas.zarr", "atlas.h5ad")}
    links = dict(results["atlas"].manifest.get("links") or {}) if "atlas" in results else {}
    return {
        "verify": f"heatwalk verify {shlex.quote(shown)}",
        "zarr": atlas["atlas.zarr"] if "atlas.zarr" in links else None,
        "h5ad": atlas["atlas.h5ad"] if "atlas.h5ad" in links else None,
    }


def render(page: dict) -> str:
    """The page; its style is allowed by hash, so that nothing else in it can be."""
    import base64
    import hashlib

    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "seconds": _duration, "bytes": _size}
    source = Path(__file__).with_name("report.html.j2").read_text("utf-8")
    text = environment.from_string(source).render(page)
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return text.replace("STYLE-HASH", f"sha256-{digest}", 1)


def date(started: str | None) -> str | None:
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M}"
    except (TypeError, ValueError):
        return None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not recorded"
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {int(seconds % 60):02} s"


def _size(length: float | None) -> str:
    if length is None:
        return "not recorded"
    return f"{length / 1e9:.1f} GB" if length >= 1e9 else f"{length / 1e6:.0f} MB"


def _plain(value) -> str:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return number(float(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _flat(parameters: Mapping, above: str = "") -> list[tuple[str, str]]:
    """Nested parameters as lines: selection.n_genes, 1000."""
    lines = []
    for key, value in sorted(parameters.items(), key=lambda item: str(item[0])):
        name = f"{above}{key}"
        lines += _flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, _exact(value))]
    return lines


def _exact(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
