"""neighbors: the nearest cells of every cell, with the recall of the search measured."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute, lists
from heatwalk.errors import BadInput, Problem
from heatwalk.lists import Lists
from heatwalk.progress import log, track

_EXACT_UP_TO = 20_000  # cells; below, exact search is faster than building an index
_SAMPLE = 1000  # cells that the recall is measured on
_GATHER_BYTES = 2**24  # candidate vectors held at a time by one thread
_CANDIDATES = 2**22  # candidates held at a time
_LISTS_A_TASK = 8
_STEPS = tuple(int(8 * 2 ** (step / 2)) for step in range(30))  # lists searched, if the recall before was too low


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
    scratch: Path | None = None,
    out: MutableMapping | None = None,
) -> Neighbors:
    """The `n_neighbors` nearest other points of every point, nearest first, equal distances by index.

    points: (cell, dimension), finite. Distances are Euclidean, in the units and floating type of the points, computed
    again from differences: a duplicate is at exactly 0.
    method: "exact"; "inverted_lists" (k-means lists, of which the few nearest to a cell's own are searched; cells are
    read in blocks, and kept in files of the folder `scratch` if given); or "auto", exact up to 20,000 cells.
    The recall is the share of the true neighbours found, measured on up to 1,000 seeded cells against exact search;
    more lists are searched until it is at least `min_recall`.
    Raises BadInput for non-finite points, fewer than two of them, or `n_neighbors` that they cannot give.
    Source: Johnson, Douze, Jegou, Billion-scale similarity search with GPUs (2017), for the search structure.
    """
    out = {} if out is None else out
    points = points if points.dtype in (np.float32, np.float64) else np.asarray(points[:], np.float64)
    ranges = compute.blocks(points.shape[0], block_cells)
    centre, unit = _check(points, ranges, n_neighbors, method)
    n_cells = points.shape[0]
    indices = arrays.make(out, "indices", (n_cells, n_neighbors), np.int32)
    distances = arrays.make(out, "distances", (n_cells, n_neighbors), points.dtype)
    recall, probes = 1.0, 0
    if method == "exact" or (method == "auto" and n_cells <= _EXACT_UP_TO):
        points = np.asarray(points[:])
        search = _everywhere(lists.scaled(points, centre, unit), points, unit, threads)
        for rows in track(ranges, "neighbors: searching", len(ranges)):
            indices[rows], distances[rows] = search(np.arange(n_cells)[rows], n_neighbors)
    else:
        options = {"seed": seed, "threads": threads, "block_cells": block_cells, "scratch": scratch}
        divided = lists.divide(points, centre, unit, **options)
        probes, recall = _probes(divided, n_neighbors, min_recall, seed, threads)
        found = _by_lists(divided, probes, n_neighbors, threads, scratch)
        place = lists.positions(divided.order)
        for rows in ranges:
            indices[rows], distances[rows] = (array[place[rows]] for array in found)
    out["recall"], out["probes"] = np.float64(recall), np.int64(probes)
    return Neighbors(indices, distances, recall, probes)


def _check(points, ranges: list[slice], n_neighbors: int, method: str) -> tuple[np.ndarray, float]:
    """The mean of the points, and a bound on their coordinates about it; BadInput when they cannot be searched."""
    if method not in ("auto", "exact", "inverted_lists"):
        raise BadInput(Problem("HW-NB-004", "method", f"{method!r} is unknown", "use auto, exact or inverted_lists"))
    n_cells = points.shape[0]
    if points.ndim != 2 or n_cells < 2:
        cause = f"points have shape {points.shape}"
        raise BadInput(Problem("HW-NB-001", "points", cause, "give a (cell, dimension) array of at least 2 cells"))
    if not 1 <= n_neighbors < n_cells:
        cause = f"n_neighbors is {n_neighbors}, the bounds are 1 and {n_cells - 1} for {n_cells} cells"
        raise BadInput(Problem("HW-NB-003", "n_neighbors", cause, f"set n_neighbors to at most {n_cells - 1}"))
    total, low, high = np.zeros(points.shape[1]), np.inf, -np.inf
    bad: list[int] = []
    for rows in ranges:
        block = np.asarray(points[rows])
        bad += list(rows.start + np.flatnonzero(~np.isfinite(block).all(axis=1)))
        total += block.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    if bad:
        cause = f"{len(bad)} of {n_cells} points are not finite, the first in row {bad[0]}"
        raise BadInput(Problem("HW-NB-002", "points", cause, "remove those cells, or mend the representation"))
    if (low == high).all():
        cause = f"all {n_cells} points are the same"
        raise BadInput(Problem("HW-NB-005", "points", cause, "give a representation that tells cells apart"))
    centre = total / n_cells
    largest = float(max((high - centre).max(), (centre - low).max()))
    return centre, float(2.0 ** np.ceil(np.log2(largest)))  # a power of two: scaling by it rounds nothing


def _by_lists(divided: Lists, probes: int, n_neighbors: int, threads, scratch) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours and distances of all cells, by position."""
    shape = (len(divided.order), n_neighbors)
    indices = lists.scratch_array(scratch, "indices", shape, np.int32)
    distances = lists.scratch_array(scratch, "distances", shape, divided.points.dtype)
    groups = compute.blocks(len(divided.centroids), _LISTS_A_TASK)

    def search(group: slice) -> None:
        for number in range(group.start, group.stop):
            rows = np.arange(divided.start[number], divided.start[number + 1])
            if len(rows):
                near = lists.candidates(divided, number, rows, probes, _width(n_neighbors, shape[0]))
                here = slice(rows[0], rows[-1] + 1)
                indices[here], distances[here] = _nearest(
                    divided.points, rows, near, n_neighbors, divided.unit, divided.order
                )

    for _ in track(compute.in_order(search, groups, threads), "neighbors: searching", len(groups)):
        pass
    return indices, distances


def _probes(divided: Lists, n_neighbors: int, min_recall: float, seed: int, threads) -> tuple[int, float]:
    """Fewest lists, by factors of sqrt 2 from 8, whose search of a sample reaches the recall; and the recall."""
    n_cells, n_lists = len(divided.order), len(divided.centroids)
    sample = np.sort(np.random.default_rng(seed).choice(n_cells, min(_SAMPLE, n_cells), replace=False))
    whole = lists.scaled(divided.points, divided.centre, divided.unit)
    radius = _everywhere(whole, divided.points, divided.unit, threads, divided.order)(sample, n_neighbors)[1][:, -1:]
    del whole
    # Neighbours as near as the last true one count: with ties, which of them is found is chance.
    radius = radius * (1 + 4 * np.finfo(divided.points.dtype).eps)
    home = np.searchsorted(divided.start, sample, side="right") - 1

    def distances(number: int) -> np.ndarray:
        rows = sample[home == number]
        near = lists.candidates(divided, number, rows, probes, _width(n_neighbors, n_cells))
        return _nearest(divided.points, rows, near, n_neighbors, divided.unit, divided.order)[1]

    for probes in (*(steps for steps in _STEPS if steps < n_lists), n_lists):
        found = np.concatenate(list(compute.in_order(distances, np.unique(home), threads)))
        recall = float((found <= radius).mean())
        if recall >= min_recall:
            break
        log.info("neighbors: recall %.4f with %d lists is under %.4f, searching harder", recall, probes, min_recall)
    log.info("neighbors: recall %.4f with %d of %d lists", recall, probes, n_lists)
    return probes, recall


def _width(n_neighbors: int, n_cells: int) -> int:
    """A few more than asked for: the cell itself is among them, and single precision may swap the last ones."""
    return min(n_neighbors + 1 + max(2, n_neighbors // 10), n_cells)


def _everywhere(scaled: np.ndarray, points, unit: float, threads: int | None, labels: np.ndarray | None = None):
    """A search among all points: rows, number of neighbours -> neighbours and distances, ties by index.

    Where a point that single precision left out might still be as near as the last one found (ties, duplicates, tight
    groups far apart), twice as many candidates are looked at.
    """
    import faiss

    n_cells, dimension = points.shape
    # Bounds on the error of a distance: rounded coordinates, of magnitude up to 1, and sums of `dimension` squares.
    absolute, relative = 4 * 2**-24 * np.sqrt(dimension), (dimension + 4) * 2**-24

    def search(rows: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
        indices = np.empty((len(rows), n_neighbors), np.int32)
        distances = np.empty((len(rows), n_neighbors), points.dtype)
        left, width = np.arange(len(rows)), _width(n_neighbors, n_cells)
        while len(left):
            unsure = [left[:0]]
            for part in compute.blocks(len(left), max(1, _CANDIDATES // width)):
                here = left[part]
                with compute.faiss_threads(threads), compute.faiss_differences():
                    squares, found = faiss.knn(scaled[rows[here]], scaled, width)
                indices[here], distances[here] = _ranked(points, rows[here], found, n_neighbors, unit, labels, threads)
                farther = unit * (np.sqrt(squares[:, -1]) * (1 - relative) - absolute)
                unsure.append(here[distances[here, -1] * (1 + relative) >= farther])
            left = np.concatenate(unsure) if width < n_cells else left[:0]
            width = min(2 * width, n_cells)
        return indices, distances

    return search


def _ranked(
    points, rows, candidates, n_neighbors: int, unit: float, labels, threads: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """`_nearest`, on Dask's threads."""

    def rank(part: slice) -> tuple[np.ndarray, np.ndarray]:
        return _nearest(points, rows[part], candidates[part], n_neighbors, unit, labels)

    pieces = list(compute.in_order(rank, compute.blocks(len(rows), 1024), threads))
    return np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])


def _nearest(points, rows, candidates, n_neighbors: int, unit: float, labels=None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest candidates of the given rows by distances recomputed from differences, ties by index.

    labels: the cell at every position, where rows and candidates are positions.
    """
    step = max(1, _GATHER_BYTES // (candidates.shape[1] * points.shape[1] * points.dtype.itemsize))
    indices = np.empty((len(rows), n_neighbors), np.int32)
    ranked = np.empty((len(rows), n_neighbors), points.dtype)
    for part in compute.blocks(len(rows), step):
        near, here = candidates[part], rows[part, None]
        # `take` lets other threads run, indexing does not.
        difference = np.take(points, near, axis=0, mode="wrap")
        difference -= points[here]
        difference *= points.dtype.type(1 / unit)  # squares neither overflow nor underflow
        distances = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference)) * points.dtype.type(unit)
        distances[(near == here) | (near < 0)] = np.inf  # itself, or lists that ran out
        names = near if labels is None else labels[near]
        order = np.lexsort((names, distances), axis=-1)[:, :n_neighbors]
        indices[part], ranked[part] = np.take_along_axis(names, order, 1), np.take_along_axis(distances, order, 1)
    return indices, ranked
