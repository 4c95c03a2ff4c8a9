"""report: one HTML page with the pictures and the evidence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import bend, compared, course, evidence, landed, likeness, page, pictures
from heatwalk.evidence import Spectra, recall
from heatwalk.pictures import Column, number
from heatwalk.progress import log, track

_COMPONENTS, _ASSOCIATED = 10, 24  # largest table of what goes with what
_STRONG = 0.5  # R^2
_SMALL_PICTURES, _SMALLEST = 5, 50


class Report(NamedTuple):
    path: Path
    warnings: tuple[str, ...]  # each says what is off and what to do


def report(
    results: Mapping[str, Any],
    path: Path,
    *,
    dataset: str,
    color_by: Sequence[str] = (),
    reference: Mapping[str, Any] | None = None,
) -> Report:
    """Write one self-contained HTML page: the pictures of a dataset and the evidence for each number.

    results: stage -> published result (a mapping of arrays with `.manifest`, `.run` and `.folder`); reference: the same
    of a query's reference (cells, affinity and the map it landed in).
    color_by: columns of obs to colour the cells by; empty takes up to 6, those with 2 to 40 levels first.
    The page loads nothing and runs nothing: no network, no JavaScript. The same results give the same bytes.
    Returns the path, and everything on the page that a reader must not miss.
    """
    log.info("report: reading what the stages gave for %s", dataset)
    path = Path(path)
    shown = landed.shown(results, reference, dataset, color_by) if reference else _shown(results, dataset, color_by)
    text, warnings = page.render(shown), shown["warnings"]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate, which a name in a damaged file can hold, has no UTF-8.
    path.write_bytes(text.encode("utf-8", errors="replace"))
    log.info("report: wrote %s, %.1f MB, %d warnings", path, len(text) / 1e6, len(warnings))
    return Report(path, tuple(f"{warning.text} {warning.remedy}" for warning in warnings))


def _shown(results, dataset: str, color_by: Sequence[str]) -> dict:
    """What the page of an atlas shows."""
    obs, spectra = results["cells"]["obs"], Spectra.of(results)
    components = np.asarray(results["affinity"]["components"][:])
    columns = [column for name in obs.columns if (column := evidence.column(str(name), obs[name])) is not None]
    chosen, unknown = evidence.choose(columns, [str(name) for name in obs.columns], color_by)
    chosen = [*chosen, *evidence.densities(results)]
    # A network has one set of axes for all pieces of the graph.
    drawn = components if "diffusion_map" in results else np.zeros_like(components)
    map_ = _map(results, spectra, drawn, chosen)
    representation = _representation(results, drawn, columns)
    cells = page.cells(results, obs)
    network = compared.network(results, map_["figures"][0]["all"], drawn)
    warnings = evidence.concerns(results, spectra, components, cells, representation, map_, unknown)
    time_course = course.section(results)
    bent = bend.section(results, columns)
    made = likeness.section(results)
    warnings += [
        *evidence.about_network(network),
        *course.concerns(time_course),
        *bend.concerns(bent),
        *likeness.concerns(made),
    ]
    return {
        "dataset": dataset,
        "landed": None,
        "header": _header(results, spectra, components),
        "warnings": warnings,
        "map": map_,
        "spectrum": _spectrum(results, spectra),
        "network": network,
        "course": time_course,
        "bend": bent,
        "made": made,
        "graph": _graph(results, spectra, components),
        "representation": representation,
        "cells": cells,
        "stages": page.stages(results),
        "totals": page.totals(results),
        "where": page.where(results),
        "features": "genes" if cells["sparse"] else "features",
        "box": pictures,
    }


# ---- the sections ----------------------------------------------------------------------------------------------------


def _header(results, spectra: Spectra, components: np.ndarray) -> dict:
    cells = results["cells"]
    selected = np.asarray(cells["selected"][:]) if "selected" in cells else None
    n_graph = int(components.max()) + 1
    graph = "the graph is connected" if n_graph == 1 else f"the graph is in {n_graph} pieces"
    return {
        "cells": len(components),
        "genes": None if selected is None else (int(selected.sum()), len(selected)),
        "graph": n_graph,
        "modes": spectra.eigenvalues.shape[1],
        "date": page.computed(results),
        "verdict": f"{evidence.verdict(results, spectra)}; recall {recall(results):.3f}; {graph}.",
    }


def _map(results, spectra: Spectra, components: np.ndarray, chosen: list[Column]) -> dict:
    """Pictures of the largest component for every chosen column, and small ones of the others."""
    stage = results.get("atlas")
    neural = "diffusion_map" not in results
    stage = results["deep_diffusion_map"] if neural else stage
    t = float((stage.manifest["parameters"] if stage else {}).get("t", 1))
    modes = min(3, spectra.eigenvalues.shape[1])
    points = (compared.learnt if neural else compared.exact)(results, modes, t)
    if not chosen:
        density = np.asarray(results["affinity"]["density"][:], np.float64)
        chosen = [pictures.coloured(Column("density of cells", values=density))]
    largest = np.flatnonzero(components == 0)
    views = [(0, 1), (0, 2), (1, 2)] if modes == 3 else [(0, 1)][: modes - 1] or [(0, None)]
    figures = []
    for column in track(chosen, "report: drawing", len(chosen)):
        # The ends of a scale of numbers are those of the cells drawn.
        own = column.of(largest) if column.levels else pictures.coloured(column.of(largest))
        drawn = [page.draw(points[largest], own, view, 900 if not place else 460) for place, view in enumerate(views)]
        keys = pictures.legend(own) if own.levels else []
        grey = 0 if own.levels else int(np.isnan(own.values).sum())
        figures.append({"all": column, "column": own, "pictures": drawn, "keys": keys, "grey": grey})
    first = chosen[0]._replace(scale=figures[0]["column"].scale)
    sizes = np.bincount(components)[: _SMALL_PICTURES + 1]
    small = []
    for label in np.flatnonzero(sizes >= _SMALLEST)[1:]:
        cells = np.flatnonzero(components == label)
        small.append((label + 1, len(cells), page.draw(points[cells], first.of(cells), views[0], 460)))
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
        "stretched": compared.stretched(results, components, t),
    }


def _spectrum(results, spectra: Spectra) -> dict:
    neural = "diffusion_map" not in results
    parameters = {} if neural else results["diffusion_map"].manifest["parameters"]
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
        "neural": neural,
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
    kept, converged = np.isfinite(spectra.eigenvalues), spectra.converged
    if len(kept) < len(sizes):  # a network's components are those of all pieces together
        kept, converged = (np.broadcast_to(values, (len(sizes), values.shape[1])) for values in (kept, converged))
    pieces = [
        (label + 1, int(size), int(kept[label].sum()), int((kept[label] & converged[label]).sum()))
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
    pca, neural = results["pca"], "diffusion_map" not in results
    modes = results["deep_diffusion_map"]["coordinates"] if neural else results["diffusion_map"]["eigenvectors"]
    columns = [column for column in columns if not len(column.levels) > evidence.LEVELS]
    columns.sort(key=lambda column: not evidence.kind(column.name))  # depth and batch first
    shown = columns[:_ASSOCIATED]
    tables, strong = [], {column.name: [] for column in shown}
    sources = (("PC", pca["coordinates"], None), ("DC", modes, components == 0))
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
