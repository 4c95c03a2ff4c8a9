"""report: one HTML page with the pictures and the evidence."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import compared, compute, evidence, pictures
from heatwalk.diffusion_map import coordinates
from heatwalk.evidence import Spectra, recall
from heatwalk.pictures import Column, number
from heatwalk.progress import log, track

_COMPONENTS, _ASSOCIATED = 10, 24  # largest table of what goes with what
_STRONG = 0.5  # R^2
_SMALL_PICTURES, _SMALLEST = 5, 50
_STAGES = ("cells", "pca", "neighbors", "affinity", "diffusion_map", "deep_diffusion_map", "atlas")


class Report(NamedTuple):
    path: Path
    warnings: tuple[str, ...]  # each says what is off and what to do


def report(results: Mapping[str, Any], path: Path, *, dataset: str, color_by: Sequence[str] = ()) -> Report:
    """Write one self-contained HTML page: the pictures of a dataset and the evidence for each number.

    results: stage -> published result (a mapping of arrays with `.manifest`, `.run` and `.folder`).
    color_by: columns of obs to colour the cells by; empty takes up to 6, those with 2 to 40 levels first.
    The page loads nothing and runs nothing: no network, no JavaScript. The same results give the same bytes.
    Returns the path, and everything on the page that a reader must not miss.
    """
    log.info("report: reading what the stages gave for %s", dataset)
    path = Path(path)
    obs = results["cells"]["obs"]
    spectra = Spectra(*(np.atleast_2d(results["diffusion_map"][name][...]) for name in Spectra._fields))
    components = np.asarray(results["affinity"]["components"][:])
    columns = [column for name in obs.columns if (column := evidence.column(str(name), obs[name])) is not None]
    chosen, unknown = evidence.choose(columns, [str(name) for name in obs.columns], color_by)
    map_ = _map(results, spectra, components, chosen)
    representation = _representation(results, components, columns)
    cells = _cells(results, obs)
    warnings = evidence.concerns(results, spectra, components, cells, representation, map_, unknown)
    page = {
        "dataset": dataset,
        "header": _header(results, spectra, components),
        "warnings": warnings,
        "map": map_,
        "spectrum": _spectrum(results, spectra),
        "network": compared.network(results, map_["figures"][0]["all"], components),
        "graph": _graph(results, spectra, components),
        "representation": representation,
        "cells": cells,
        "stages": _stages(results),
        "totals": _totals(results),
        "where": _where(results),
        "features": "genes" if cells["sparse"] else "features",
        "box": pictures,
    }
    text = _render(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate, which a name in a damaged file can hold, has no UTF-8.
    path.write_bytes(text.encode("utf-8", errors="replace"))
    log.info("report: wrote %s, %.1f MB, %d warnings", path, len(text) / 1e6, len(warnings))
    return Report(path, tuple(f"{warning.text} {warning.remedy}" for warning in warnings))


# ---- the sections ----------------------------------------------------------------------------------------------------


def _header(results, spectra: Spectra, components: np.ndarray) -> dict:
    cells = results["cells"]
    selected = np.asarray(cells["selected"][:]) if "selected" in cells else None
    started = [run["started"] for stage in results if (run := results[stage].run or {}).get("started")]
    n_graph = int(components.max()) + 1
    graph = "the graph is connected" if n_graph == 1 else f"the graph is in {n_graph} pieces"
    return {
        "cells": len(components),
        "genes": None if selected is None else (int(selected.sum()), len(selected)),
        "graph": n_graph,
        "modes": spectra.eigenvalues.shape[1],
        "date": _date(max(started)) if started else None,
        "verdict": f"{evidence.verdict(results, spectra)}; recall {recall(results):.3f}; {graph}.",
    }


def _map(results, spectra: Spectra, components: np.ndarray, chosen: list[Column]) -> dict:
    """Pictures of the largest component for every chosen column, and small ones of the others."""
    stage = results.get("atlas")
    t = float((stage.manifest["parameters"] if stage else {}).get("t", 1))
    modes = min(3, spectra.eigenvalues.shape[1])
    points = np.empty((len(components), modes))
    for rows in compute.blocks(len(components), 8 * compute.BLOCK_CELLS):
        vectors = results["diffusion_map"]["eigenvectors"][rows, :modes]
        points[rows] = coordinates(spectra.eigenvalues[:, :modes], vectors, components[rows], t=t)
    if not chosen:
        density = np.asarray(results["affinity"]["density"][:], np.float64)
        chosen = [pictures.coloured(Column("density of cells", values=density))]
    largest = np.flatnonzero(components == 0)
    views = [(0, 1), (0, 2), (1, 2)] if modes == 3 else [(0, 1)][: modes - 1] or [(0, None)]
    figures = []
    for column in track(chosen, "report: drawing", len(chosen)):
        # The ends of a scale of numbers are those of the cells drawn.
        own = column.of(largest) if column.levels else pictures.coloured(column.of(largest))
        drawn = [_draw(points[largest], own, view, 900 if not place else 460) for place, view in enumerate(views)]
        keys = pictures.legend(own) if own.levels else []
        grey = 0 if own.levels else int(np.isnan(own.values).sum())
        figures.append({"all": column, "column": own, "pictures": drawn, "keys": keys, "grey": grey})
    first = chosen[0]._replace(scale=figures[0]["column"].scale)
    sizes = np.bincount(components)[: _SMALL_PICTURES + 1]
    small = []
    for label in np.flatnonzero(sizes >= _SMALLEST)[1:]:
        cells = np.flatnonzero(components == label)
        small.append((label + 1, len(cells), _draw(points[cells], first.of(cells), views[0], 460)))
    others = np.flatnonzero(np.isin(components, [label - 1 for label, *_ in small]))
    return {
        "figures": figures,
        "small": small,
        "small_keys": pictures.legend(first.of(others)) if small and first.levels else [],
        "ramp": pictures.ramp(24),
        "t": t,
        "drawn": len(largest),
        "missing": int((~np.isfinite(points[largest])).any(axis=1).sum()),
        "blended": len(largest) > pictures.POINTS_UP_TO,
    }


def _draw(points: np.ndarray, column: Column, view: tuple[int, int | None], pixels: int) -> pictures.Picture:
    first, second = view
    if second is None:  # one component alone: cells are spread across it
        random = np.random.default_rng(0).uniform(-1, 1, len(points))
        return pictures.picture(np.stack([points[:, 0], random], axis=1), column, (1, 0), pixels)
    return pictures.picture(points[:, [first, second]], column, (first + 1, second + 1), pixels)


def _spectrum(results, spectra: Spectra) -> dict:
    parameters = results["diffusion_map"].manifest["parameters"]
    tolerance, chosen = parameters.get("tolerance"), spectra.eigenvalues.shape[1]
    values, computed = spectra.eigenvalues[0], spectra.spectrum[0]
    computed = computed[np.isfinite(computed)]
    drops = -np.diff(np.concatenate([[1.0], computed]))
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where((values > 0) & (values < 1), -1 / np.log(values), np.nan)
    split = (chosen, f"{chosen} kept") if len(computed) > chosen else None
    level = (float(tolerance), f"tolerance {number(float(tolerance))}") if tolerance else None
    rows = zip(values, steps, spectra.residuals[0], spectra.converged[0], strict=True)
    return {
        "automatic": parameters.get("n_components") == "auto",
        "computed": len(computed),
        "chosen": chosen,
        "drop": (int(drops.argmax()), float(drops.max())) if len(drops) else None,
        "next": float(computed[chosen - 1] - computed[chosen]) if split else None,
        "pairs": [(place, *row) for place, row in enumerate(rows, start=1) if np.isfinite(row[0])],
        "slowest": steps[0],
        "landmarks": bool(evidence.by_landmarks(results)[0, 0]),
        "values": pictures.sequence(
            computed,
            "eigenvalue",
            f"Eigenvalues of {len(computed)} components, falling from {number(computed.max(initial=0), 4)}.",
            filled=np.arange(len(computed)) < chosen,
            split=split,
        ),
        "residuals": pictures.sequence(
            spectra.residuals[0],
            "residual",
            f"Residuals of {chosen} components; the largest is {number(np.nanmax(spectra.residuals[0], initial=0))}.",
            filled=spectra.converged[0],
            logarithmic=True,
            level=level,
        ),
    }


def _graph(results, spectra: Spectra, components: np.ndarray) -> dict:
    affinity, parameters = results["affinity"], results["neighbors"].manifest["parameters"]
    edges = np.diff(np.asarray(affinity["indptr"][:])) - 1  # without the diagonal
    sizes = np.bincount(components)
    kept = np.isfinite(spectra.eigenvalues)
    pieces = [
        (label + 1, int(size), int(kept[label].sum()), int((kept[label] & spectra.converged[label]).sum()))
        for label, size in enumerate(sizes[:20])
    ]
    drawn = (
        (edges, "links of a cell", "Histogram of the number of links of a cell."),
        (affinity["bandwidths"][:], "bandwidth of a cell", "Histogram of the kernel's bandwidth."),
        (affinity["density"][:], "density around a cell", "Histogram of the density of cells."),
        (affinity["degrees"][:], "degree of a cell", "Histogram of the degrees after the density is divided out."),
    )
    return {
        "recall": recall(results),
        "probes": int(results["neighbors"]["probes"][...]) if "probes" in results["neighbors"] else None,
        "neighbors": parameters.get("n_neighbors"),
        "sample": min(1000, len(components)),
        "alpha": affinity.manifest["parameters"].get("alpha"),
        "links": (int(edges.min()), float(np.median(edges)), int(edges.max())),
        "pieces": pieces,
        "rest": (len(sizes) - 20, int(sizes[20:].sum())),
        "charts": [chart for each in drawn if (chart := pictures.histogram(*each)) is not None],
    }


def _representation(results, components: np.ndarray, columns: list[Column]) -> dict:
    pca, eigenvectors = results["pca"], results["diffusion_map"]["eigenvectors"]
    columns = [column for column in columns if not len(column.levels) > evidence.LEVELS]
    columns.sort(key=lambda column: not evidence.kind(column.name))  # depth and batch first
    shown = columns[:_ASSOCIATED]
    tables, strong = [], {column.name: [] for column in shown}
    sources = (("PC", pca["coordinates"], None), ("DC", eigenvectors, components == 0))
    for prefix, matrix, inside in sources if shown else ():
        n_modes = min(_COMPONENTS, matrix.shape[1])
        log.info("report: comparing %d components with %d columns of obs", n_modes, len(shown))
        values = evidence.association(matrix, shown, n_modes, inside)
        tables.append((prefix, n_modes, [(column.name, row) for column, row in zip(shown, values, strict=True)]))
        for column, row in zip(shown, values, strict=True):
            above = np.flatnonzero(row > _STRONG)
            strong[column.name] += [(f"{prefix} {place + 1}", float(row[place])) for place in above]
    share = None
    if "variances" in pca and "total_variance" in pca:
        share = 100 * np.asarray(pca["variances"][:], np.float64) / float(pca["total_variance"][...])
    about = None if share is None else f"{len(share)} components explain {share.sum():.0f}% of the variance."
    return {
        "scree": None if share is None else pictures.columns(share, "component", "% of variance", about),
        "share": None if share is None else float(share.sum()),
        "dimensions": pca["coordinates"].shape[1],
        "tables": tables,
        "strong": [(name, evidence.kind(name), above) for name, above in strong.items() if above],
        "left": len(columns) - len(shown),
    }


def _cells(results, obs) -> dict:
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


def _stages(results) -> list[dict]:
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
                "started": _date(run.get("started")),
                "host": run.get("host"),
                "versions": dict(run.get("versions") or {}),
                "notes": [str(note) for note in run.get("notes") or ()],
            }
        )
    return rows


def _totals(results) -> dict:
    runs = [results[stage].run or {} for stage in results]
    return {
        "seconds": sum(run.get("seconds") or 0 for run in runs),
        "longest": max((run.get("seconds") or 0 for run in runs), default=0),
        "memory": max((run.get("peak_memory_bytes") or 0 for run in runs), default=0),
    }


def _where(results) -> dict:
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


# ---- the page --------------------------------------------------------------------------------------------------------


def _render(page: dict) -> str:
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


def _date(started: str | None) -> str | None:
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
