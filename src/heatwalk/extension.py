"""extension: new points in the map of a reference, how far each can be trusted, and labels carried over to it."""

from collections.abc import Mapping, MutableMapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute, novelty, placing
from heatwalk.diffusion_map import DiffusionMap
from heatwalk.errors import BadInput, Problem, first_few
from heatwalk.progress import log, track
from heatwalk.search import searcher
from heatwalk.unexplained import Unexplained

_POINTS = 2**17  # placed at a time: lists are then shared by many of them
NO_LABEL = "unassigned"
_FEW = 20  # cells of a label: the 15th neighbour of a new one is then elsewhere
_VOTES = 2**23  # points times labels that are counted at a time


class Reference(NamedTuple):
    """What new points are placed in."""

    points: Any  # (cell, dimension)
    neighbors: Any  # as `neighbors` gives them
    affinity: Any  # as `affinity` gives it
    map: Any  # DiffusionMap ("nystrom", "landmark") or DeepDiffusionMap ("network")
    split: Any = None  # (cell,), 1 for cells set aside for the calibration of trust
    labels: Any = None  # name -> (cell,), a table or a mapping
    unexplained: Unexplained | None = None  # what the points do not show of its cells

    @classmethod
    def of(cls, results: Mapping[str, Mapping]) -> "Reference":
        """A reference from the published results of its stages."""
        from heatwalk.affinity import Affinity
        from heatwalk.deep_diffusion_map import DeepDiffusionMap
        from heatwalk.neighbors import Neighbors

        kind = DeepDiffusionMap if "deep_diffusion_map" in results else DiffusionMap
        map_ = kind(**results["deep_diffusion_map" if kind is DeepDiffusionMap else "diffusion_map"])
        graph, cells = Affinity(**results["affinity"]), results["cells"]
        neighbors = Neighbors(**results["neighbors"])
        points, rest = results["pca"]["coordinates"], Unexplained.of(results["pca"], cells)
        return cls(points, neighbors, graph, map_, cells["split"], cells["obs"], rest)


class Extension(NamedTuple):
    coordinates: Any  # (point, mode) float32
    trust: Any  # (point,) float32, in (0, 1]
    novelty: Any  # (point,) float32
    component: Any  # (point,) int32, piece of the reference's graph
    labels: Any  # (point,) table, a column for every name of `transfer`
    probability: Any  # (point,) table of the same columns


def extension(
    reference: Reference,
    points,
    unexplained: Unexplained | None = None,
    *,
    method: str = "auto",
    t: int = 1,
    landmarks: int = 5000,
    min_trust: float = 0.05,
    transfer: Sequence[str] = (),
    seed: int = 0,
    threads: int | None = None,
    scheduler: str = "threads",
    block_cells: int = compute.BLOCK_CELLS,
    scratch: Path | None = None,
    out: MutableMapping | None = None,
) -> Extension:
    """Coordinates lambda^t psi of new points, without touching the reference.

    "nystrom": p(x, y) = k(x, y) / d_y^alpha over the reference's nearest cells y, rows divided by their sums, and
    lambda^t psi(x) = lambda^(t - 1) sum_y p(x, y) psi(y), with the bandwidth and alpha of the reference's graph; within
    the component that has most of the row. "landmark": the same with so many cells in place of all, their bandwidths
    from each other, each mode divided by the factor by which they shrink it on a sample of the reference. "network":
    the trained network (its own t); points need no neighbours for it, but their trust does. "auto": "network" where
    the reference's map is one, else "nystrom".
    novelty(x) = log r(x) - 2/3 mean of log r(y) over the 15 nearest cells y, r the distance to the 15th nearest cell,
    of those not set aside. Where `unexplained` is given of both, distances are between what points share with their
    like, and what is left of a point at its depth is added (`unexplained.yardstick`). trust: the share of the cells set
    aside that are at least as novel (a conformal p value): below 0.05 for 5% of points like the reference's.
    transfer: names among `reference.labels`. A point's label is the one with most of sum_y p(x, y) over cells that have
    one, which is its probability; "unassigned" below `min_trust`.
    points: (point, dimension), as the reference's; BadInput for other shapes or values.
    Sources: Bengio et al., Out-of-sample extensions (2004); Vovk et al., Algorithmic learning in a random world (2005).
    """
    out = {} if out is None else out
    method = {"auto": "nystrom" if isinstance(reference.map, DiffusionMap) else "network"}.get(method, method)
    _check(reference, points, unexplained, method, t, landmarks, min_trust)
    graph, n_points = placing.graph_of(reference), points.shape[0]
    judge = novelty.calibrated(reference, min_trust, seed, unexplained is not None)
    known = {name: coded(reference.labels, reference.points.shape[0], name) for name in transfer}
    arrays.make(out, "coordinates", (n_points, placing.n_modes(reference.map)), np.float32)
    for name in ("trust", "novelty", "component"):
        arrays.make(out, name, (n_points,), np.int32 if name == "component" else np.float32)
    labels, probability = ({name: np.empty(n_points, kind) for name in known} for kind in (np.int32, np.float32))
    ranges = compute.blocks(n_points, max(1, _POINTS // block_cells) * block_cells)
    with compute.workers(scheduler, threads, scratch) as workers:
        place = placing.METHODS[method](reference, graph, t, landmarks, seed, workers)
        search = searcher(reference.points, graph.width, reference.neighbors.indices, seed, workers)
        for rows in track(ranges, "extension: placing", len(ranges)):
            block = _finite(points, rows)
            weights = placing.weights(found := search(block), graph)
            out["coordinates"][rows] = place(block, found, weights, workers)
            out["component"][rows] = placing.component_of(found, weights, graph)
            out["novelty"][rows], trust = novelty.judged(found, block, unexplained, rows, judge)
            out["trust"][rows] = trust.astype(np.float32)
            for name, (values, codes) in known.items():
                best, probability[name][rows] = _vote(weights, codes[found.names], len(values))
                labels[name][rows] = np.where(trust < min_trust, len(values), best)
    out["labels"], out["probability"] = _tables(labels, probability, known, n_points)
    return Extension(*(out[name] for name in Extension._fields))


def coded(labels: Mapping | None, n_cells: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of a column of labels, and the place of every cell's among them; -1 where it has none."""
    if labels is None or name not in labels:
        known = {} if labels is None else labels
        given = first_few([str(other) for other in known if as_labels(known[other]) is not None]) or "none"
        cause = f"the reference has no labels {name!r}"
        raise BadInput(Problem("HW-EX-007", "transfer", cause, f"use some of: {given}"))
    column = labels[name]
    if len(column) != n_cells:
        cause = f"{len(column)} labels for {n_cells} cells of the reference"
        raise BadInput(Problem("HW-EX-007", f"transfer: {name}", cause, "give one label for every reference cell"))
    import pandas

    names = as_labels(column)
    if names is None:
        cause = f"{name!r} holds numbers, not labels"
        raise BadInput(Problem("HW-EX-007", "transfer", cause, "name a column of categories or whole numbers"))
    codes, values = pandas.factorize(names.mask(names == NO_LABEL), sort=True)
    if not len(values):
        cause = f"no cell of the reference has a label {name!r}"
        raise BadInput(Problem("HW-EX-007", f"transfer: {name}", cause, "name another column"))
    few = [str(value) for value, count in zip(values, np.bincount(codes[codes >= 0]), strict=True) if count < _FEW]
    if few:
        log.warning(
            "extension: %s: fewer than %d cells of the reference are %s: new ones are hardly ever trusted",
            name,
            _FEW,
            first_few(few),
        )
    return np.asarray(values, object), codes


def as_labels(column):
    """A column as text (pandas), missing where it is missing, whole numbers without a point; None for other numbers."""
    import pandas

    series = pandas.Series(np.asarray(column, object)).convert_dtypes()
    if pandas.api.types.is_float_dtype(series):
        return None
    return series.astype("string").reset_index(drop=True)


def _tables(labels: dict, probability: dict, known: dict, n_points: int):
    """Labels as categories, "unassigned" the last one, and their probabilities, (point,) tables."""
    import pandas

    names = pandas.RangeIndex(n_points).astype(str)
    chosen = {
        name: pandas.Categorical.from_codes(labels[name], [*values, NO_LABEL]) for name, (values, _) in known.items()
    }
    return pandas.DataFrame(chosen, index=names), pandas.DataFrame(probability, index=names)


def _check(reference: Reference, points, unexplained, method: str, t: int, landmarks: int, min_trust: float) -> None:
    n_cells, dimension = reference.points.shape
    if method not in ("nystrom", "landmark", "network"):
        raise BadInput(
            Problem("HW-EX-001", "method", f"{method!r} is unknown", "use auto, nystrom, landmark or network")
        )
    if hasattr(reference.map, "weights") != (method == "network"):
        kind = type(reference.map).__name__
        remedy = "set method to network" if hasattr(reference.map, "weights") else "give a DeepDiffusionMap as the map"
        raise BadInput(Problem("HW-EX-002", "method", f"{method!r} cannot use a {kind}", remedy))
    if points.ndim != 2 or points.shape[1] != dimension or points.shape[0] == 0:
        cause = f"points have shape {points.shape}, the reference has {n_cells} cells of {dimension} dimensions"
        raise BadInput(Problem("HW-EX-003", "points", cause, f"give a (point, {dimension}) array of at least 1 point"))
    if not (isinstance(t, Integral) and t >= 1):
        raise BadInput(Problem("HW-EX-004", "t", f"{t!r} is no whole number above 0", "set t to one"))
    if not (isinstance(landmarks, Integral) and landmarks >= 2):
        raise BadInput(Problem("HW-EX-005", "landmarks", f"{landmarks!r} is below 2", "set landmarks to about 5000"))
    if not 0 <= min_trust < 1:
        raise BadInput(Problem("HW-EX-006", "min_trust", f"{min_trust} is no share", "set it to at least 0, below 1"))

    given = ((unexplained, points, "points"), (reference.unexplained, reference.points, "cells of the reference"))
    for left, of, name in given:
        lengths = [values.shape[0] for values in left or ()]
        if lengths and lengths != 2 * [of.shape[0]]:
            cause = f"there are {lengths[0]} squared lengths and {lengths[1]} depths for {of.shape[0]} {name}"
            raise BadInput(Problem("HW-EX-010", "unexplained", cause, "give one of each for every one, in their order"))


def _vote(weights: np.ndarray, codes: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """The label with most weight in every row, and its share; `n_labels` and nothing where no neighbour has one."""
    blocks = compute.blocks(len(weights), max(1, _VOTES // (n_labels + 1)))
    if len(blocks) > 1:
        parts = [_vote(weights[some], codes[some], n_labels) for some in blocks]
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))
    rows = np.repeat(np.arange(len(weights)), weights.shape[1])
    place = rows * (n_labels + 1) + codes.ravel() % (n_labels + 1)  # -1 goes to the last column
    votes = np.bincount(place, weights.ravel(), len(weights) * (n_labels + 1))
    votes = votes.reshape(len(weights), n_labels + 1)[:, :n_labels]
    total, best = votes.sum(axis=1), votes.argmax(axis=1)
    share = np.divide(votes[np.arange(len(best)), best], total, out=np.zeros(len(best)), where=total > 0)
    return np.where(total > 0, best, n_labels), share.astype(np.float32)


def _finite(points, rows: slice) -> np.ndarray:
    block = np.asarray(points[rows])
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad):
        cause = f"{len(bad)} new points are not finite, the first in row {rows.start + bad[0]}"
        raise BadInput(Problem("HW-EX-008", "points", cause, "remove those points, or mend the representation"))
    return block
