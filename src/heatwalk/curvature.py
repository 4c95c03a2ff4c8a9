"""curvature: how every cell's surroundings bend, from the walk's spread and from surfaces through the points."""

from collections.abc import MutableMapping
from math import gamma
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute
from heatwalk.affinity import affinity
from heatwalk.deep_diffusion_map import DeepDiffusionMap
from heatwalk.errors import BadInput, Problem
from heatwalk.genes import genes
from heatwalk.halves import FIT_BYTES, SCALE_NEIGHBOR, Halves, one_value, scales_of, surfaces
from heatwalk.neighbors import neighbors
from heatwalk.nodes import MANY, drawn
from heatwalk.progress import log
from heatwalk.spread import LOST, NEIGHBORS, every_of, spread
from heatwalk.surface import MOST_DIMENSIONS, Surface, counting, widest_gap
from heatwalk.walks import Walk

_WIDEST, _WIDEST_OF_MANY = 500, 300  # that a surface is fitted to, up to 20,000 cells and beyond
_FEWEST = 60  # cells
_LEAST_SLOPE = 0.1  # of the line
_EDGE = 0.5  # of the way that the centroid of a cell's surroundings lies off at a straight edge
_FLAT = 1e-12  # of the first eigenvalue: a direction in which nothing lies
_STATIONARY = 1e-5  # nats from the stationary distribution
REASONS = ("known", "too few cells around", "coincident cells", "the walk is stationary", "no such surface")


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
    scales: Any  # (scale,) int32, cells that a surface may be fitted to
    agreement: Any  # (scale,) float64, rank correlation of two halves of the points
    chosen: Any  # (2,) int32, dimension and scale
    null: Any  # (flat,) float64, of a flat sample as dense and as noisy, away from its edges
    correlation: Any = None  # (gene, 1) float64
    p_value: Any = None  # (gene, 1) float64
    false_discovery_rate: Any = None  # (gene, 1) float64
    relevance: Any = None  # (gene, 1) float64


def curvature(
    points,
    graph,
    map_,
    cells=None,
    *,
    estimator: str = "combined",
    t: int = 8,
    ball: int = 50,
    dimension: str | int = "auto",
    null_points: int = 2000,
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
    noise, and flattens extremes. The walk has a graph of its own: 150 neighbours, beyond 10,000 cells every fourth of
    them, one bandwidth, alpha = 1. Beyond 20,000 cells, so many drawn at random are nodes: the walk is on them, which
    other cells enter by their first step, and surfaces go through them.
    "quadric": a surface through the cells around (`heatwalk.surface`), at the smallest scale at which estimates from
    two halves of the points have a correlation of .9 over a sample, or the scale where they agree most. Where that is
    below .3: the smallest at which both say one value for all, nine parts to one of error, among twice as many cells.
    "combined": line + rho (quadric - line), the line being the regression of quadric on diffusion, and rho how far two
    halves agree on what is left: evidence shrunk to the prior that diffusion gives.
    "pointwise": mean of P^t(x, y) over the `ball` cells nearest to x in the map (larger: lazier, more curved; no sign).
    map_: a DiffusionMap or a DeepDiffusionMap. dimension: of the surface, or "auto": where the eigenvalues of local
    covariances fall most, at any scale. null_points: so many of a flat sample of the same dimension, spacing and noise
    go through the same steps; 0: none. genes: see `heatwalk.genes`, along the curvature; none without `cells`.
    Cells without a value are NaN, `reason` says why (REASONS). uncertainty is that of the surface, shrunk as the
    estimate is. Raises BadInput for options out of bounds, a graph of other cells, or fewer than 60 cells.
    Sources: Bhaskar et al., Diffusion Curvature (2022); Fay and Herriot, Estimates of income for small places (1979).
    """
    out = {} if out is None else out
    _check(points, graph, estimator, t, ball, dimension)
    options = {"seed": seed, "threads": threads, "scheduler": scheduler, "block_cells": block_cells, "scratch": scratch}
    made, spacing, noise = _estimated(points, graph, map_, estimator, t, ball, dimension, options)
    _tell(made)
    made["null"] = np.empty(0)
    if null_points and 2 <= made["chosen"][0] < points.shape[1]:
        like = (made["chosen"][0], points.shape[1], spacing, noise)
        made["null"] = _flat(null_points, *like, estimator, t, ball, options)
    if cells is not None:
        found = genes(cells, made["curvature"][:, None], block_cells=block_cells, threads=threads)
        made |= found._asdict()
    for name, values in made.items():
        arrays.make(out, name, values.shape, values.dtype)[...] = values
    return Curvature(**{name: out[name] for name in Curvature._fields if name in out})


def _estimated(points, graph, map_, estimator: str, t: int, ball: int, dimension, options: dict):
    """The arrays of the result but its null and genes; the spacing of the cells and the noise about the surface."""
    component, nodes = np.asarray(graph.components[:]), drawn(points, options["seed"])
    own, every = component[nodes.cells], every_of(len(nodes.cells), t)
    with compute.workers("threads", options["threads"], options["scratch"]) as workers:
        most = min(_WIDEST if points.shape[0] <= MANY else _WIDEST_OF_MANY, len(own) // 4)
        chosen, halves = scales_of(nodes.points, own, dimension, most, options["seed"], workers)
        founded = halves.agree()
        if not halves.settled():
            wider = (nodes.points, own, chosen[0], min(2 * most, len(own) // 2), options["seed"], workers)
            chosen, halves = one_value(chosen, halves, scales_of(*wider)[1])
        halves = halves._replace(sample=nodes.cells[halves.sample])
        fitted, around = surfaces(points, nodes, component, chosen, NEIGHBORS, every, workers, options["block_cells"])
        walked, bent = spread(nodes, around, graph, map_, chosen[0], t, ball, options, workers)
    spacing = float(np.median(around.near[nodes.cells]))
    small = np.bincount(own, minlength=component.max() + 1)[component] <= chosen[1]
    made = _joined(walked, bent, fitted, halves, chosen, small, estimator, founded)
    made |= {"scales": np.asarray(halves.scales, np.int32), "agreement": halves.agreement()}
    made["chosen"] = np.asarray(chosen, np.int32)
    return made, spacing, float(np.nanmedian(fitted.noise))


def _flat(n_points, dimension, ambient, spacing, noise, estimator, t, ball, options: dict) -> np.ndarray:
    """The estimate on a flat square as dense and as noisy, of its points away from the edges.

    None where distances between cells are mostly noise: no sheet looks like that.
    """
    # So that the 30th neighbour is where it is in the data, with what noise adds to squared distances.
    own = spacing**2 - 2 * (ambient - dimension) * noise**2
    if own < spacing**2 / 4:
        log.warning("curvature: distances between cells are mostly noise: there is no flat sample to compare with")
        return np.empty(0)
    rng = np.random.default_rng([options["seed"], 8])
    flat = np.zeros((n_points, ambient))
    flat[:, :dimension] = rng.uniform(size=(n_points, dimension))
    ball_volume = np.pi ** (dimension / 2) / gamma(dimension / 2 + 1)
    flat[:, :dimension] *= (n_points * ball_volume / SCALE_NEIGHBOR) ** (1 / dimension) * np.sqrt(own)
    flat += noise * rng.normal(size=flat.shape)
    graph = affinity(flat, neighbors(flat, n_neighbors=min(30, n_points - 1), **options), **_without_seed(options))
    nowhere = DeepDiffusionMap(flat[:, :dimension], *(None,) * (len(DeepDiffusionMap._fields) - 1))
    made = _estimated(flat, graph, nowhere, estimator, t, ball, dimension, options)[0]
    inner = made["curvature"][~made["boundary"]]
    return inner[np.isfinite(inner)]


def bytes_held(n_cells: int, row_bytes: int, threads: int) -> int:
    """Bytes at the peak: the nodes and the graph of their walk, what cells keep of them, and differences of points."""
    nodes = min(n_cells, MANY)
    kept = NEIGHBORS // every_of(nodes, 8) + 1
    # Edges lead both ways, once in the affinity and once in the order of the walk; other cells enter by theirs.
    edges = 48 * nodes * kept + (8 if n_cells == nodes else 32) * n_cells * kept
    return nodes * (row_bytes + 20 * threads) + 250 * n_cells + edges + threads * 4 * FIT_BYTES


def _without_seed(options: dict) -> dict:
    return {name: value for name, value in options.items() if name != "seed"}


def _check(points, graph, estimator: str, t: int, ball: int, dimension: str | int) -> None:
    n_cells = points.shape[0]
    if graph.degrees.shape[0] != n_cells:
        cause = f"there are {n_cells} points and a graph of {graph.degrees.shape[0]} cells"
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
    if n_cells < _FEWEST or points.shape[1] < 2:
        cause = f"{n_cells} cells in {points.shape[1]} dimensions are too few to tell how they bend"
        raise BadInput(Problem("HW-CU-005", "points", cause, f"give at least {_FEWEST} cells in two dimensions"))


def _joined(
    walked: Walk, spread, fitted: Surface, halves: Halves, chosen, small, estimator: str, founded: bool
) -> dict:
    reason = _reasons(walked, fitted, chosen[0], small)
    quadric, error = fitted.curvature, np.sqrt(fitted.variance)
    line = _line(spread, quadric, halves, chosen, founded)
    prior = np.sqrt(line.left + line.variance)
    weight, shrunk = _weighed(line, error**2, founded)
    value, uncertainty = {
        "combined": (line.values + weight * (quadric - line.values), shrunk),
        "diffusion": (spread, prior),
        "quadric": (quadric, error),
        "pointwise": (walked.laziness, np.full(len(reason), np.nan)),
    }[estimator]
    reason[(reason == 0) & ~np.isfinite(value)] = 1
    dimension, _ = widest_gap(fitted.eigenvalues)
    return {
        "curvature": np.where(reason > 0, np.nan, value),
        "uncertainty": np.where(reason > 0, np.nan, uncertainty),
        "diffusion": np.where((reason == 3) | small, np.nan, spread),
        "quadric": quadric,
        "laziness": walked.laziness,
        "dimension": dimension.astype(np.int32),
        "boundary": fitted.lopsided > _EDGE,
        "lost_mass": walked.lost,
        "reason": reason.astype(np.uint8),
    }


def _reasons(walked: Walk, fitted: Surface, dimension: int, small: np.ndarray) -> np.ndarray:
    """Places in REASONS, the last that applies. small: of a component with fewer cells than a surface needs."""
    reason = np.zeros(len(small), np.int64)
    reason[~np.isfinite(fitted.curvature)] = 1
    reason[walked.mixing < _STATIONARY] = 3
    if not 2 <= dimension < fitted.eigenvalues.shape[1]:
        reason[:] = 4
    else:  # cells on a line, or fewer directions still
        reason[fitted.eigenvalues[:, dimension - 1] <= _FLAT * fitted.eigenvalues[:, 0]] = 4
    reason[fitted.eigenvalues[:, 0] <= 0] = 2
    reason[small & (reason != 2)] = 1
    return reason


class _Line(NamedTuple):
    values: np.ndarray  # (cell,)
    variance: np.ndarray  # (cell,) of the values, of mean and slope
    agreement: float  # of the halves on what is left, for all points
    left: float  # its variance


def _line(spread: np.ndarray, quadric: np.ndarray, halves: Halves, chosen, founded: bool) -> _Line:
    """The regression of quadric on diffusion, and how far halves agree on what is left.

    Both are curvatures, so the slope has a prior of 1 with a standard deviation of 1; values within one scale share
    their noise, so there are N = n / (the cells that count in a surface) of them. Where halves agree, the slope is
    .1 at the least; else what the walk sees, edges above all, need not be curvature. Extremes are drawn in for the
    regression alone. A correlation r of halves has a variance of (1 - r^2)^2 / N, and is drawn in to 0 by it; what is
    left may then still be as large as the error of their covariance.
    """
    known = np.isfinite(spread) & np.isfinite(quadric)
    if known.sum() < 20:
        return _Line(*(np.full(len(spread), np.nan) for _ in range(2)), 0.0, 0.0)
    response, over = _drawn_in(quadric[known]), spread - spread[known].mean()
    number, square = max(known.sum() / (chosen[1] * counting(chosen[0])), 2), (over[known] ** 2).mean() or 1.0
    slope = (over[known] * response).mean() / square
    rest = np.var(response - slope * over[known]) / number
    error = rest / square
    slope = max((error + slope) / (error + 1), _LEAST_SLOPE if founded else 0.0)
    line, variance = response.mean() + slope * over, rest + over**2 * error / (1 + error)
    sides = [_drawn_in(side) - line[halves.sample] for side in halves.values[:, halves.scales.index(chosen[1])]]
    both = np.isfinite(sides[0]) & np.isfinite(sides[1])
    if both.sum() < 20:
        return _Line(line, variance, 0.0, 0.0)
    covariance = np.cov(sides[0][both], sides[1][both])
    product = covariance[0, 0] * covariance[1, 1]
    agreement = max(covariance[0, 1] / np.sqrt(product), 0.0) if product > 0 else 0.0
    share = agreement**2 / (agreement**2 + (1 - agreement**2) ** 2 / number)
    left = share * covariance[0, 1] + (1 - share) * np.sqrt(product / number)
    # Of all points, not of half of them: Spearman and Brown.
    return _Line(line, variance, float(2 * share * agreement / (1 + share * agreement)), float(left))


def _weighed(line: _Line, square: np.ndarray, founded: bool) -> tuple[np.ndarray, np.ndarray]:
    """The weight of a quadric of this variance against the line, and the standard error of the two together.

    It is rho where halves of the points found the line. Where they agree on nothing, the line is a prior of variance
    left + V, V its own: with rho = left / (left + square) it is (rho square + (1 - rho) V) / (square + (1 - rho) V).
    """
    missing = 0.0 if founded else (1 - line.agreement) * line.variance
    weight = (line.agreement * square + missing) / np.maximum(square + missing, np.finfo(float).tiny)
    return weight, np.sqrt(_product(line.left, square) + (1 - weight) ** 2 * line.variance)


def _product(left: float, square: np.ndarray) -> np.ndarray:
    """Variance of what is known by a prior of one variance and a measurement of another."""
    return left * square / np.maximum(left + square, np.finfo(float).tiny)


def _drawn_in(values: np.ndarray) -> np.ndarray:
    """Values no farther from the median than 7 median deviations."""
    middle = np.nanmedian(values)
    deviation = 7 * np.nanmedian(np.abs(values - middle))
    return np.clip(values, middle - deviation, middle + deviation)


def _tell(made: dict) -> None:
    log.info("curvature: surfaces of dimension %d through %d cells", *made["chosen"])
    for code, why in enumerate(REASONS):
        count = int((made["reason"] == code).sum())
        if code and count:
            log.warning("curvature: %d of %d cells have none: %s", count, len(made["reason"]), why)
    lost = float(np.max(made["lost_mass"]))
    if lost > 2 * LOST:
        log.warning("curvature: a walk lost %.3f of its mass to entries too small to follow", lost)
