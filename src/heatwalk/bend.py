"""The report's section on curvature: the map coloured by it, what else it goes with, and how far it can be believed."""

from collections.abc import Mapping

import numpy as np

from heatwalk import course, page, pictures
from heatwalk.curvature import REASONS
from heatwalk.evidence import Concern
from heatwalk.pictures import Column
from heatwalk.query import NAMES

_GENES = 12  # of a table
_GROUPS = 12  # of the obs columns shown
_BELIEVED = 0.5  # agreement of two halves of the points, below which a surface is mostly noise
_DENSITY = 0.7  # rank correlation with the density


def section(results: Mapping, columns: list[Column]) -> dict | None:
    """Pictures of the largest piece of the graph, and what curvature goes with; None without curvature."""
    if "curvature" not in results:
        return None
    found = results["curvature"]
    own = np.asarray(results["affinity"]["components"][:]) == 0
    values, error = (np.asarray(found[name][:]) for name in ("curvature", "uncertainty"))
    column = pictures.coloured(Column("curvature", values=values[own]))
    edge = pictures.coloured(Column("uncertainty", values=error[own]))
    points, view = course.places(results, own)
    null = np.asarray(found["null"][:])
    chosen = [int(number) for number in found["chosen"][:]]
    reason = np.bincount(np.asarray(found["reason"][:]), minlength=len(REASONS))
    scales, agreement = np.asarray(found["scales"][:]), np.asarray(found["agreement"][:])
    return {
        "pictures": [page.draw(points, each, view, 640) for each in (column, edge)],
        "column": column,
        "ramp": pictures.ramp(24),
        "dimension": chosen[0],
        "scale": chosen[1],
        "estimator": found.manifest["parameters"]["estimator"],
        "believed": float(agreement[scales == chosen[1]].max(initial=-1)),
        "scales": [(int(scale), float(value)) for scale, value in zip(scales, agreement, strict=True)],
        "null": None if not len(null) else tuple(float(value) for value in np.percentile(null, [5, 50, 95])),
        "beyond": None if not len(null) else _beyond(values, null),
        "edge": float(np.asarray(found["boundary"][:]).mean()),
        "lost": float(np.asarray(found["lost_mass"][:]).max()),
        "unknown": [(text, int(count)) for text, count in zip(REASONS[1:], reason[1:], strict=True) if count],
        "all": len(values),
        "density": _ranked(values, np.asarray(results["affinity"]["density"][:])),
        "degree": _ranked(values, np.asarray(results["affinity"]["degrees"][:])),
        "chart": pictures.histogram(values, "curvature", "Histogram of the curvature."),
        "groups": [table for each in columns if each.levels and (table := _by_group(each, values, error))],
        **_genes(results),
    }


def concerns(shown: dict | None) -> list[Concern]:
    if not shown:
        return []
    found = []
    if shown["density"] is not None and abs(shown["density"]) > _DENSITY:
        text = f"Curvature follows the density of cells (rank correlation {shown['density']:.2f})."
        found.append(Concern(text, "Compare it with the density's picture before reading it as shape."))
    if shown["believed"] < _BELIEVED:
        text = f"Surfaces through two halves of the cells agree little on curvature ({shown['believed']:.2f})."
        found.append(Concern(text, "Read the curvature as the walk's alone; more cells or fewer components may help."))
    missing = sum(count for _, count in shown["unknown"])
    if missing > 0.01 * shown["all"]:
        text = f"{missing:,} of {shown['all']:,} cells have no curvature ({shown['unknown'][0][0]})."
        found.append(Concern(text, "Set curvature: dimension, or raise neighbors: n_neighbors until pieces join."))
    return found


def _beyond(values: np.ndarray, null: np.ndarray) -> tuple[float, float]:
    """Shares of the cells above and below all but 1% of the flat sample."""
    low, high = np.percentile(null, [0.5, 99.5])
    known = values[np.isfinite(values)]
    return (float((known > high).mean()), float((known < low).mean())) if len(known) else (0.0, 0.0)


def _ranked(values: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's correlation over the cells that have a curvature."""
    from scipy.stats import spearmanr

    known = np.isfinite(values)
    if known.sum() < 3 or np.ptp(values[known]) == 0 or np.ptp(other[known]) == 0:
        return None
    return float(spearmanr(values[known], other[known]).statistic)


def _by_group(column: Column, values: np.ndarray, error: np.ndarray) -> tuple | None:
    """Name of a column, and of each of its levels the number of cells, quartiles and the median standard error."""
    if len(column.levels) > _GROUPS:
        return None
    rows = []
    for code, level in enumerate(column.levels):
        own = (column.codes == code) & np.isfinite(values)
        if own.sum() >= 3:
            quartiles = np.percentile(values[own], [25, 50, 75])
            rows.append((level, int(own.sum()), *(float(value) for value in quartiles), float(np.median(error[own]))))
    return (column.name, rows) if rows else None


def _genes(results: Mapping) -> dict:
    """The genes that rise or fall with curvature."""
    found, var = results["curvature"], results["cells"]["var"]
    names = next((var[name] for name in NAMES if name in var), var.index.to_series()).astype(str).to_numpy()
    correlation, rate = (np.asarray(found[name][:, 0]) for name in ("correlation", "false_discovery_rate"))
    known = np.isfinite(correlation)
    order = np.argsort(-np.where(known, np.abs(correlation), -1), kind="stable")[: min(_GENES, int(known.sum()))]
    first = [(names[gene], float(correlation[gene]), float(rate[gene])) for gene in order]
    return {"first": first, "found": int((rate < 0.05).sum()), "tested": int(known.sum())}
