"""neighbors: the nearest cells of every cell, with the recall of the search measured."""

from collections.abc import MutableMapping
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute
from heatwalk.errors import BadInput, Problem
from heatwalk.progress import log, track

_EXACT_UP_TO = 20_000  # cells; below, exact search is faster than building an index
_SAMPLE = 1000  # cells that the recall is measured on
_GATHER_BYTES = 2**25  # candidate vectors held at a time by one thread
_CANDIDATES = 2**22  # candidates held at a time


class Neighbors(NamedTuple):
    indices: Any  # (cell, neighbor) int32
    distances: Any  # (cell, neighbor), floating type of the points
    recall: float
    probes: int


def neighbors(
    points,
    *,
    n_neighbors: int = 30,
    method: str = "auto",
    min_recall: float = 0.99,
    seed: int = 0,
    threads: int | None = None,
    block_cells: int = compute.BLOCK_CELLS,
    out: MutableMapping | None = None,
) -> Neighbors:
    """The `n_neighbors` nearest other points of every point, nearest first, equal distances by index.

    points: (cell, dimension), finite. Distances are Euclidean, in the units and floating type of the points, computed
    again from differences: a duplicate is at exactly 0.
    method: "exact"; "inverted_lists" (k-means lists, of which the nearest few are searched); or "auto", exact up to
    20,000 cells. The recall is the share of the true neighbours found, measured on up to 1,000 seeded cells against
    exact search; more lists are searched until it is at least `min_recall`.
    Raises BadInput for non-finite points, fewer than two of them, or `n_neighbors` that they cannot give.
    Source: Johnson, Douze, Jegou, Billion-scale similarity search with GPUs (2017), for the search structure.
    """
    out = {} if out is None else out
    points = np.asarray(points[:])
    points = points if points.dtype in (np.float32, np.float64) else points.astype(np.float64)
    _check(points, n_neighbors, method)
    n_cells = len(points)
    exact = method == "exact" or (method == "auto" and n_cells <= _EXACT_UP_TO)
    sample = np.sort(np.random.default_rng(seed).choice(n_cells, min(_SAMPLE, n_cells), replace=False))
    with compute.faiss_threads(threads), compute.one_blas_thread():
        centred, unit = _centred(points)
        truth = _flat(centred)
        index, probes, recall = (None, 0, 1.0)
        if not exact:
            index = _inverted_lists(centred, seed)
            probes, recall = _probes(index, truth, points, centred, unit, sample, n_neighbors, min_recall)
        indices = arrays.make(out, "indices", (n_cells, n_neighbors), np.int32)
        distances = arrays.make(out, "distances", (n_cells, n_neighbors), points.dtype)
        ranges = compute.blocks(n_cells, block_cells)
        for rows in track(ranges, "neighbors: searching", len(ranges)):
            here = np.arange(n_cells)[rows]
            if exact:
                indices[rows], distances[rows] = _exact(truth, points, centred, unit, here, n_neighbors, threads)
            else:
                found = index.search(centred[rows], _width(n_neighbors, n_cells))[1]
                indices[rows], distances[rows] = _nearest(points, here, found, n_neighbors, threads)
    out["recall"], out["probes"] = np.float64(recall), np.int64(probes)
    return Neighbors(indices, distances, recall, probes)


def _check(points: np.ndarray, n_neighbors: int, method: str) -> None:
    if method not in ("auto", "exact", "inverted_lists"):
        raise BadInput(Problem("HW-NB-004", "method", f"{method!r} is unknown", "use auto, exact or inverted_lists"))
    if points.ndim != 2 or len(points) < 2:
        cause = f"points have shape {points.shape}"
        raise BadInput(Problem("HW-NB-001", "points", cause, "give a (cell, dimension) array of at least 2 cells"))
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        cause = f"{len(bad)} of {len(points)} points are not finite, the first in row {bad[0]}"
        raise BadInput(Problem("HW-NB-002", "points", cause, "remove those cells, or mend the representation"))
    if not 1 <= n_neighbors < len(points):
        cause = f"n_neighbors is {n_neighbors}, the bounds are 1 and {len(points) - 1} for {len(points)} cells"
        raise BadInput(Problem("HW-NB-003", "n_neighbors", cause, f"set n_neighbors to at most {len(points) - 1}"))
    if not np.ptp(points, axis=0).any():
        cause = f"all {len(points)} points are the same"
        raise BadInput(Problem("HW-NB-005", "points", cause, "give a representation that tells cells apart"))


def _centred(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Points about their mean in single precision, divided by the largest coordinate; and that unit."""
    centred = points - points.mean(axis=0, dtype=np.float64)
    unit = float(max(centred.max(), -centred.min()))
    centred /= unit
    return np.ascontiguousarray(centred, dtype=np.float32), unit


def _flat(points: np.ndarray):
    import faiss

    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    return index


def _inverted_lists(points: np.ndarray, seed: int):
    """k-means lists, about 2 sqrt(n) of them, trained on at most 64 points a list."""
    import faiss

    n_lists = int(2 ** np.clip(np.round(np.log2(2.3 * np.sqrt(len(points)))), 2, 16))
    quantizer = faiss.IndexFlatL2(points.shape[1])
    index = faiss.IndexIVFFlat(quantizer, points.shape[1], min(n_lists, len(points)))
    index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = 1 + seed % 2**30, 10, 64
    index.cp.min_points_per_centroid = 1
    log.info("neighbors: dividing %d cells into %d lists", len(points), index.nlist)
    index.train(points)
    index.add(points)
    return index


def _probes(index, truth, points, centred, unit, sample, n_neighbors: int, min_recall: float) -> tuple[int, float]:
    """Fewest lists, doubling from 8, whose search of the sample reaches the recall; the number and the recall."""
    radius = _exact(truth, points, centred, unit, sample, n_neighbors)[1][:, -1:]
    # Neighbours as near as the last true one count: with ties, which of them is found is chance.
    radius = radius * (1 + 4 * np.finfo(points.dtype).eps)
    probes = min(8, index.nlist)
    while True:
        index.nprobe = probes
        found = index.search(centred[sample], _width(n_neighbors, len(points)))[1]
        recall = float((_nearest(points, sample, found, n_neighbors)[1] <= radius).mean())
        if recall >= min_recall or probes == index.nlist:
            log.info("neighbors: recall %.4f with %d of %d lists", recall, probes, index.nlist)
            return probes, recall
        log.info("neighbors: recall %.4f with %d lists is under %.4f, searching harder", recall, probes, min_recall)
        probes = min(2 * probes, index.nlist)


def _width(n_neighbors: int, n_cells: int) -> int:
    """A few more than asked for: the cell itself is among them, and single precision may swap the last ones."""
    return min(n_neighbors + 1 + max(2, n_neighbors // 10), n_cells)


def _exact(truth, points, centred, unit: float, rows, n_neighbors: int, threads: int | None = None):
    """The nearest of all points, ties by index. Where a point that single precision left out might still be as near as
    the last one found (ties, duplicates, tight groups far apart), twice as many candidates are looked at.
    """
    n_cells, dimension = points.shape
    indices = np.empty((len(rows), n_neighbors), np.int32)
    distances = np.empty((len(rows), n_neighbors), points.dtype)
    # Bounds on the error of a distance: rounded coordinates, of magnitude up to 1, and sums of `dimension` squares.
    absolute, relative = 4 * 2**-24 * np.sqrt(dimension), (dimension + 4) * 2**-24
    left, width = np.arange(len(rows)), _width(n_neighbors, n_cells)
    while len(left):
        unsure = [left[:0]]
        for part in compute.blocks(len(left), max(1, _CANDIDATES // width)):
            here = left[part]
            squares, found = truth.search(centred[rows[here]], width)
            indices[here], distances[here] = _nearest(points, rows[here], found, n_neighbors, threads)
            farther = unit * (np.sqrt(squares[:, -1]) * (1 - relative) - absolute)
            unsure.append(here[distances[here, -1] * (1 + relative) >= farther])
        left = np.concatenate(unsure) if width < n_cells else left[:0]
        width = min(2 * width, n_cells)
    return indices, distances


def _nearest(points, rows, candidates, n_neighbors: int, threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest candidates of the given rows by distances recomputed from differences, ties by index."""
    step = max(1, _GATHER_BYTES // (candidates.shape[1] * points.shape[1] * points.itemsize))

    def rank(part: slice) -> tuple[np.ndarray, np.ndarray]:
        near, here = candidates[part], rows[part, None]
        difference = points[near] - points[here]
        distances = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
        distances[(near == here) | (near < 0)] = np.inf  # itself, or a list that ran out
        order = np.lexsort((near, distances), axis=-1)[:, :n_neighbors]
        return np.take_along_axis(near, order, 1).astype(np.int32), np.take_along_axis(distances, order, 1)

    pieces = list(compute.in_order(rank, compute.blocks(len(rows), step), threads))
    return np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])
