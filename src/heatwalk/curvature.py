"""curvature: how every cell's surroundings bend, from the walk's spread and from surfaces through the points."""

from collections.abc import MutableMapping
from math import gamma
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute, exact
from heatwalk.affinity import affinity
from heatwalk.diffusion_map import DiffusionMap, coordinates
from heatwalk.errors import BadInput, Problem
from heatwalk.neighbors import Neighbors, neighbors
from heatwalk.progress import log, track
from heatwalk.search import frame
from heatwalk.surface import MOST_DIMENSIONS, Surface, n_coefficients, surface, widest_gap
from heatwalk.walks import SMALLEST, Walk, walk

_WIDE_UP_TO = 20_000  # cells; beyond, the walk takes the graph that is there
_WALK_NEIGHBORS = 150  # of the walk's own graph
_SCALE_NEIGHBOR = 30  # the median distance to it is that graph's bandwidth
_WIDEST, _WIDEST_OF_MANY = 500, 200  # cells that a surface is fitted to
_OFFERED = 1.5  # times as many are looked for: a cell that is moved onto its surface has other neighbours
_SAMPLE = 1000  # cells on which scales and dimensions are compared
_AGREE = 0.9  # rank correlation of two halves of the points, from which a scale is taken
_NOISE = 0.1  # and below which what halves have in common is chance
_EDGE = 0.5  # of the way that the centroid of a cell's surroundings lies off at a straight edge
_LOST = 0.01  # mass of a walk
_STATIONARY = 0.01  # nats from the stationary distribution
_FIT_BYTES = 2**26  # of point differences held at a time
REASONS = ("", "too few cells around", "coincident cells", "the walk is stationary", "no normal direction")


class Curvature(NamedTuple):
    curvature: Any  # (cell,) float64, 1 / length^2
    uncertainty: Any  # (cell,) float64, standard error
    diffusion: Any  # (cell,) float64, by the entropy of the walk alone
    quadric: Any  # (cell,) float64, by the surface alone
    laziness: Any  # (cell,) float64, the definition of 2022
    dimension: Any  # (cell,) int32
    boundary: Any  # (cell,) bool
    lost_mass: Any  # (cell,) float64
    reason: Any  # (cell,) uint8, place in REASONS


class _Halves(NamedTuple):
    """Surfaces at some cells by one half of the points and by the other, at every scale."""

    sample: np.ndarray  # (sampled,) cells
    scales: list[int]
    values: np.ndarray  # (half, scale, sampled)


def curvature(
    points,
    graph,
    map_: DiffusionMap,
    *,
    estimator: str = "combined",
    t: int = 8,
    ball: int = 50,
    dimension: str | int = "auto",
    seed: int = 0,
    threads: int | None = None,
    scheduler: str = "threads",
    block_cells: int = compute.BLOCK_CELLS,
    scratch: Path | None = None,
    out: MutableMapping | None = None,
) -> Curvature:
    """Mean sectional curvature of every cell's surroundings: on a surface the Gaussian curvature, 1 on a unit sphere.

    "diffusion": the spread of t steps of the walk beside that in flat space of the same dimension d,
        4 (h_flat - h) / (tau d (d - 1)),  h = -sum_y p log(p / volume),  h_flat = d/2 log(2 pi e tau),
    as h = h_flat - S tau / 4 + O(tau^2) for scalar curvature S and variance tau of the walk. It is smooth, sees through
    noise, and flattens extremes. Up to 20,000 cells the walk has a graph of its own (150 neighbours, one bandwidth,
    alpha = 1), beyond it `graph`.
    "quadric": a surface through the cells around (`heatwalk.surface`), at the smallest scale at which estimates from
    two halves of the points have a correlation of .9 over a sample, or the scale where they agree most.
    "combined": line + rho (quadric - line), the line being the regression of quadric on diffusion, and rho how far two
    halves agree on what is left: evidence shrunk to the prior that diffusion gives.
    "pointwise": mean of P^t(x, y) over the `ball` cells nearest to x in the map (larger: lazier, more curved; no sign).
    dimension: of the surface, or "auto": where the eigenvalues of local covariances fall most, at any scale.
    Cells without a value are NaN, `reason` says why. uncertainty is that of the surface, shrunk as the estimate is.
    Raises BadInput for options out of bounds, other numbers of cells, or fewer than 40 of them.
    Sources: Bhaskar et al., Diffusion Curvature (2022); Fay and Herriot, Estimates of income for small places (1979).
    """
    out = {} if out is None else out
    _check(points, graph, estimator, t, ball, dimension)
    n_cells, component = points.shape[0], np.asarray(graph.components[:])
    options = {"seed": seed, "threads": threads, "scheduler": scheduler, "block_cells": block_cells, "scratch": scratch}
    with compute.workers("threads", threads, scratch) as workers:
        most = min(_WIDEST if n_cells <= _WIDE_UP_TO else _WIDEST_OF_MANY, n_cells // 4)
        chosen, halves = _scales(points, component, dimension, most, seed, workers)
        width = min(n_cells - 1, max(_WALK_NEIGHBORS, int(_OFFERED * chosen[1])))
        around = neighbors(points, n_neighbors=width, **options)
        fitted = _surfaces(points, around, component, chosen[1], chosen[0], workers, block_cells)
        walked, spread = _walked(points, around, graph, map_, chosen[0], t, ball, options, workers)
    result = _joined(walked, spread, fitted, halves, chosen, component, estimator)
    for name, values in zip(Curvature._fields, result, strict=True):
        arrays.make(out, name, values.shape, values.dtype)[:] = values
    _tell(result, chosen)
    return Curvature(*(out[name] for name in Curvature._fields))


def _check(points, graph, estimator: str, t: int, ball: int, dimension: str | int) -> None:
    n_cells = points.shape[0]
    if len(graph.degrees) != n_cells:
        cause = f"there are {n_cells} points and a graph of {len(graph.degrees)} cells"
        raise BadInput(Problem("HW-CU-001", "affinity", cause, "compute the affinity of these points again"))
    if estimator not in ("combined", "diffusion", "quadric", "pointwise"):
        remedy = "use combined, diffusion, quadric or pointwise"
        raise BadInput(Problem("HW-CU-002", "estimator", f"{estimator!r} is unknown", remedy))
    for name, value in (("t", t), ("ball", ball)):
        if not (isinstance(value, Integral) and value >= 1):
            cause = f"{value!r} is no whole number above 0"
            raise BadInput(Problem("HW-CU-003", name, cause, f"set {name} to {8 if name == 't' else 50}"))
    highest = min(points.shape[1], MOST_DIMENSIONS)
    if dimension != "auto" and not (isinstance(dimension, Integral) and 1 <= dimension <= highest):
        cause = f"{dimension!r} is no dimension between 1 and {highest}"
        raise BadInput(Problem("HW-CU-004", "dimension", cause, "set dimension to auto, or to one of these"))
    if n_cells < 40:
        cause = f"{n_cells} cells are too few to tell how they bend"
        raise BadInput(Problem("HW-CU-005", "points", cause, "give at least 40 cells"))


def _scales(points, component: np.ndarray, dimension, most: int, seed: int, workers) -> tuple[tuple[int, int], _Halves]:
    """The dimension and how many cells a surface is fitted to; and what the two halves of the points say."""
    rng, n_cells = np.random.default_rng([seed, 7]), points.shape[0]
    half = rng.permutation(n_cells) % 2
    sample = np.sort(rng.choice(n_cells, min(_SAMPLE, n_cells), replace=False))
    held = _held(points)
    found = [_in_half(held, np.flatnonzero(half == side), sample, int(_OFFERED * most / 2), workers) for side in (0, 1)]
    if dimension == "auto":
        dimension = _dimension(held, sample, exact.merged(*found, most), most)
    first = max(30, 3 * n_coefficients(dimension))
    scales = sorted({min(most, int(first * 1.5**step)) for step in range(20)})
    values = np.full((2, len(scales), len(sample)), np.nan)
    if 2 <= dimension < points.shape[1]:
        for side, near in enumerate(found):
            for row, scale in enumerate(scales):
                made = _fit(held, sample, near.names, component, max(scale // 2, 8), dimension, workers)
                values[side, row] = made.curvature
    halves = _Halves(sample, scales, values)
    return (int(dimension), _first_agreeing(halves)), halves


def _held(points) -> np.ndarray:
    return points if isinstance(points, np.ndarray) else np.asarray(points[:])


def _in_half(held: np.ndarray, rows: np.ndarray, sample: np.ndarray, width: int, workers) -> exact.Found:
    """The nearest of some rows to the sampled cells, themselves left out."""
    base, (centre, unit) = held[rows], frame(held)
    width = min(width, len(rows) - 1)

    def search(part: slice) -> exact.Found:
        return exact.nearest(base, rows, held[sample[part]], sample[part], width, centre, unit)

    parts = list(workers.in_order(search, compute.blocks(len(sample), 128)))
    return exact.Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _dimension(held: np.ndarray, sample: np.ndarray, found: exact.Found, most: int) -> int:
    """Where the eigenvalues of local covariances fall most, in the mean over cells, at the scale where they do most."""
    best = (0.0, 1)
    for scale in sorted({min(most, int(20 * 1.5**step)) for step in range(12)}):
        logs = np.zeros(held.shape[1])
        for rows in compute.blocks(len(sample), 64):
            around = held[found.names[rows, :scale]].astype(np.float64)
            around -= around.mean(axis=1, keepdims=True)
            values = np.linalg.eigvalsh(around.transpose(0, 2, 1) @ around)[:, ::-1]
            logs += np.log(np.maximum(values, 1e-12 * np.maximum(values[:, :1], 1e-300))).sum(axis=0)
        dimension, gap = widest_gap(np.exp((logs - logs[0]) / len(sample)))
        best = max(best, (float(gap), int(dimension)))
    return best[1]


def _first_agreeing(halves: _Halves) -> int:
    agreement = np.array([_correlation(*halves.values[:, row]) for row in range(len(halves.scales))])
    there = agreement >= _AGREE
    return halves.scales[int(there.argmax()) if there.any() else int(agreement.argmax())]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation where both are known; -1 where hardly any are."""
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 20:
        return -1.0
    ranks = [np.argsort(np.argsort(values[both], kind="stable"), kind="stable") for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _surfaces(points, around, component: np.ndarray, width: int, dimension: int, workers, block_cells: int) -> Surface:
    held, n_cells, made = _held(points), points.shape[0], []
    ranges = compute.blocks(n_cells, block_cells)
    for rows in track(ranges, "curvature: fitting surfaces", len(ranges)):
        names = np.asarray(around.indices[rows])
        cells = np.arange(rows.start, rows.stop)
        made.append(_fit(held, cells, names, component, width, min(dimension, held.shape[1] - 1), workers))
    return Surface(*(np.concatenate(values) for values in zip(*made, strict=True)))


def _fit(held, cells: np.ndarray, names: np.ndarray, component: np.ndarray, width: int, dimension: int, workers):
    """Surfaces at some cells through the nearest `width` of the named points of their own component."""
    rows = max(1, _FIT_BYTES // (8 * names.shape[1] * (3 * held.shape[1] + 2 * n_coefficients(dimension))))

    def fit(part: slice) -> Surface:
        near = names[part]
        known = component[near] == component[cells[part]][:, None]
        return surface(held[cells[part]], held[near].astype(np.float64), known, width, dimension)

    made = list(workers.in_order(fit, compute.blocks(len(cells), rows)))
    return Surface(*(np.concatenate(values) for values in zip(*made, strict=True)))


def _walked(points, around, graph, map_, dimension: int, t: int, ball: int, options: dict, workers):
    """What the walk says, and (cell,) the mean sectional curvature by its entropy."""
    n_cells, components = around.indices.shape[0], graph.components
    width = min(_WALK_NEIGHBORS, around.indices.shape[1])
    radius = np.asarray(around.distances[:, width - 1], np.float64)
    ball_volume = np.pi ** (dimension / 2) / gamma(dimension / 2 + 1)
    volume = ball_volume * np.maximum(radius, np.finfo(float).tiny ** 0.05) ** dimension / width
    if n_cells <= _WIDE_UP_TO:
        near = Neighbors(around.indices[:, :width], around.distances[:, :width], around.order, 1.0, 0)
        sigma = float(np.median(near.distances[:, min(_SCALE_NEIGHBOR, width) - 1]))
        if sigma > 0:
            rest = {name: value for name, value in options.items() if name != "seed"}
            graph = affinity(points, near, bandwidth=sigma, alpha=1.0, **rest)
            volume = volume.sum() * np.asarray(graph.stationary)
    walked = walk(graph, volume, _places(map_, components, t), t, ball, SMALLEST, workers)
    variance = t * _step(around, np.asarray(graph.bandwidths[:]), dimension)
    flat = dimension / 2 * np.log(2 * np.pi * np.e * variance)
    planes = max(dimension * (dimension - 1), 1)
    return walked, 4 * (flat - walked.entropy) / (variance * planes) if dimension > 1 else np.full(n_cells, np.nan)


def _places(map_, components, t: int):
    if hasattr(map_, "eigenvectors"):
        return coordinates(map_.eigenvalues, map_.eigenvectors, components, t=t)
    return map_.coordinates


def _step(around, sigma: np.ndarray, dimension: int) -> np.ndarray:
    """(cell,) variance of one step in one direction: that of a Gaussian cut off where the graph ends, sigma^2 c."""
    share = []
    for rows in compute.blocks(len(sigma), compute.BLOCK_CELLS):
        ratio = np.asarray(around.distances[rows], np.float64)[:, :_WALK_NEIGHBORS] / sigma[rows, None]
        kernel = np.where(ratio <= 2.5, np.exp(-(ratio**2) / 2), 0)
        share.append((kernel * ratio**2).sum(axis=1) / (1 + kernel.sum(axis=1)) / dimension)
    # One number for all: a cell's own would be what is measured.
    return sigma**2 * np.median(np.concatenate(share))


def _joined(walked: Walk, spread, fitted: Surface, halves: _Halves, chosen, component, estimator: str) -> Curvature:
    reason = _reasons(walked, fitted, chosen, component)
    quadric, error = fitted.curvature, np.sqrt(fitted.variance)
    line, rho, left = _line(spread, quadric, halves, chosen[1])
    prior = np.full(len(line), np.sqrt(left) if left > 0 else np.nanstd(line) if np.isfinite(line).any() else np.nan)
    shrunk = np.sqrt(left * error**2 / (left + error**2)) if left > 0 else prior
    value, uncertainty = {
        "combined": (line + rho * (quadric - line), shrunk),
        "diffusion": (spread, prior),
        "quadric": (quadric, error),
        "pointwise": (walked.laziness, np.full(len(reason), np.nan)),
    }[estimator]
    reason[(reason == 0) & ~np.isfinite(value)] = 1
    dimension, _ = widest_gap(fitted.eigenvalues)
    return Curvature(
        np.where(reason > 0, np.nan, value),
        np.where(reason > 0, np.nan, uncertainty),
        np.where(reason == 3, np.nan, spread),
        quadric,
        walked.laziness,
        dimension.astype(np.int32),
        fitted.lopsided > _EDGE,
        walked.lost,
        reason.astype(np.uint8),
    )


def _reasons(walked: Walk, fitted: Surface, chosen: tuple[int, int], component: np.ndarray) -> np.ndarray:
    """Places in REASONS, the last that applies."""
    reason = np.zeros(len(component), np.int64)
    reason[~np.isfinite(fitted.curvature)] = 1
    reason[np.bincount(component)[component] <= chosen[1]] = 1
    reason[fitted.eigenvalues[:, 0] <= 0] = 2
    reason[walked.mixing < _STATIONARY] = 3
    if not 2 <= chosen[0] < fitted.eigenvalues.shape[1]:
        reason[:] = 4
    return reason


def _line(spread: np.ndarray, quadric: np.ndarray, halves: _Halves, width: int) -> tuple[np.ndarray, float, float]:
    """The regression of quadric on diffusion; how far halves agree on what is left; and the variance of that.

    Both are curvatures, so the slope has a prior of 1 with a standard deviation of 1; values within one scale share
    their noise, so there are n / `width` of them. Extremes are drawn in for the regression alone.
    """
    known = np.isfinite(spread) & np.isfinite(quadric)
    if known.sum() < 20:
        return np.full(len(spread), np.nan), 0.0, 0.0
    response, over = _drawn_in(quadric[known]), spread[known] - spread[known].mean()
    slope = (over @ response) / (over @ over)
    rest = response - response.mean() - slope * over
    error = (rest @ rest) / (over @ over) / max(known.sum() / width, 2)
    slope = max((1 + slope / error) / (1 + 1 / error), _NOISE)
    line = response.mean() + slope * (spread - spread[known].mean())
    sides = [_drawn_in(side) - line[halves.sample] for side in halves.values[:, halves.scales.index(width)]]
    both = np.isfinite(sides[0]) & np.isfinite(sides[1])
    if both.sum() < 20:
        return line, 0.0, 0.0
    covariance = np.cov(sides[0][both], sides[1][both])
    agreement = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    if not agreement >= _NOISE:
        return line, 0.0, 0.0
    # Of all points, not of half of them: Spearman and Brown.
    return line, float(2 * agreement / (1 + agreement)), float(covariance[0, 1])


def _drawn_in(values: np.ndarray) -> np.ndarray:
    """Values no farther from the median than 7 median deviations."""
    middle = np.nanmedian(values)
    deviation = 7 * np.nanmedian(np.abs(values - middle))
    return np.clip(values, middle - deviation, middle + deviation)


def _tell(result: Curvature, chosen: tuple[int, int]) -> None:
    log.info("curvature: surfaces of dimension %d through %d cells", *chosen)
    for code, why in enumerate(REASONS):
        count = int((np.asarray(result.reason) == code).sum())
        if code and count:
            log.warning("curvature: %d of %d cells have none: %s", count, len(result.reason), why)
    lost = float(np.max(result.lost_mass))
    if lost > _LOST:
        log.warning("curvature: a walk lost %.3f of its mass to entries below %.0e", lost, SMALLEST)
