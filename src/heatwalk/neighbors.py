"""neighbors: the nearest cells of every cell, with the recall of the search measured."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute, exact, lists
from heatwalk.errors import BadInput, Problem
from heatwalk.lists import Lists
from heatwalk.progress import log, track
from heatwalk.scratch import array as scratch_array
from heatwalk.scratch import rearranged, remove
from heatwalk.search import enough, within

_EXACT_UP_TO = 20_000  # cells; below, exact search is faster than building an index
_SAMPLE = 1000  # cells that the recall is measured on
_MARGIN = 0.004  # of recall: another sample of cells finds a little more or less
_QUERIES_A_TASK = 512
_LISTS_A_TASK = 8


class Neighbors(NamedTuple):
    indices: Any  # (cell, neighbor) int32
    distances: Any  # (cell, neighbor), floating type of the points
    order: Any  # (cell,) int64, cells by locality
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
    scheduler: str = "threads",
    device: str = "cpu",
    block_cells: int = compute.BLOCK_CELLS,
    scratch: Path | None = None,
    out: MutableMapping | None = None,
) -> Neighbors:
    """The `n_neighbors` nearest other points of every point, nearest first, equal distances by index.

    points: (cell, dimension), finite. Distances are Euclidean, in the units and floating type of the points, computed
    again from differences: a duplicate is at exactly 0.
    method: "exact"; "inverted_lists" (k-means lists, of which the few nearest to a cell's own are searched; cells are
    read in blocks, and kept in files of the folder `scratch` if given); or "auto", exact up to 20,000 cells.
    device: "cuda" compares all pairs on the first GPU that torch sees (exact, "auto" then never uses lists).
    The recall is the share of the true neighbours found, measured on up to 1,000 seeded cells against exact search; as
    many lists are searched as it takes to be at least `min_recall`. order: the cells list by list, near lists together.
    Raises BadInput for non-finite points, fewer than two of them, or `n_neighbors` that they cannot give.
    Source: Johnson, Douze, Jegou, Billion-scale similarity search with GPUs (2017), for the search structure.
    """
    out = {} if out is None else out
    compute.check_device(device)
    if device != "cpu" and method == "inverted_lists":
        cause = f"inverted_lists are searched on the CPU, device is {device!r}"
        raise BadInput(Problem("HW-NB-007", "method", cause, "set method to auto or exact, or compute: device: cpu"))
    points = points if points.dtype in (np.float32, np.float64) else np.asarray(points[:], np.float64)
    ranges = compute.blocks(points.shape[0], block_cells)
    centre, unit = _check(points, ranges, n_neighbors, method, min_recall)
    shape = (points.shape[0], n_neighbors)
    arrays.make(out, "indices", shape, np.int32)
    arrays.make(out, "distances", shape, points.dtype)
    with compute.workers(scheduler, threads, scratch) as workers:
        if method == "exact" or (method == "auto" and (device != "cpu" or shape[0] <= _EXACT_UP_TO)):
            order, recall, probes = np.arange(shape[0]), 1.0, 0
            _exactly(points, centre, unit, n_neighbors, workers, block_cells, device, out)
        else:
            options = {"workers": workers, "block_cells": block_cells}
            divided = lists.divide(points, centre, unit, seed=seed, **options)
            order = divided.order
            probes, recall = _in_lists(divided, n_neighbors, min_recall, seed, workers, block_cells, out)
    arrays.make(out, "order", order.shape, np.int64)[:] = order
    out["recall"], out["probes"] = np.float64(recall), np.int64(probes)
    return Neighbors(out["indices"], out["distances"], out["order"], recall, probes)


def _check(points, ranges: list[slice], n_neighbors: int, method: str, min_recall: float) -> tuple[np.ndarray, float]:
    """The mean of the points, and a bound on their coordinates about it; BadInput when they cannot be searched."""
    if method not in ("auto", "exact", "inverted_lists"):
        raise BadInput(Problem("HW-NB-004", "method", f"{method!r} is unknown", "use auto, exact or inverted_lists"))
    if not 0 <= min_recall <= 1:
        raise BadInput(
            Problem("HW-NB-006", "min_recall", f"{min_recall} is no share", "set min_recall between 0 and 1")
        )
    n_cells = points.shape[0]
    if points.ndim != 2 or n_cells < 2:
        cause = f"points have shape {points.shape}"
        raise BadInput(Problem("HW-NB-001", "points", cause, "give a (cell, dimension) array of at least 2 cells"))
    if not 1 <= n_neighbors < n_cells:
        cause = f"n_neighbors is {n_neighbors}, the bounds are 1 and {n_cells - 1} for {n_cells} cells"
        raise BadInput(Problem("HW-NB-003", "n_neighbors", cause, f"set n_neighbors between 1 and {n_cells - 1}"))
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


def _exactly(
    points, centre: np.ndarray, unit: float, n_neighbors: int, workers, block_cells: int, device: str, out
) -> None:
    """Exact search of all points, a few queries at a time against all blocks."""
    n_cells = points.shape[0]

    def search(rows: slice) -> exact.Found:
        queries = np.asarray(points[rows])
        return exact.nearest(points, None, queries, np.arange(n_cells)[rows], n_neighbors, centre, unit, device)

    for rows in track(compute.blocks(n_cells, block_cells), "neighbors: searching", -(-n_cells // block_cells)):
        parts = [slice(rows.start + part.start, rows.start + part.stop) for part in _parts(rows)]
        found = list(workers.in_order(search, parts))
        out["indices"][rows] = np.concatenate([part.names for part in found]).astype(np.int32)
        out["distances"][rows] = np.concatenate([part.distances for part in found])


def _parts(rows: slice) -> list[slice]:
    return compute.blocks(rows.stop - rows.start, _QUERIES_A_TASK)


def _in_lists(
    divided: Lists, n_neighbors: int, min_recall: float, seed: int, workers, block_cells: int, out
) -> tuple[int, float]:
    """Search by lists, as many as the recall on a sample asks for; the number of lists and the recall measured."""
    n_cells, n_lists = len(divided.order), len(divided.centroids)
    sample = np.sort(np.random.default_rng(seed).choice(n_cells, min(_SAMPLE, n_cells), replace=False))
    truth = _truth(divided, sample, n_neighbors, workers)
    probes = enough(divided, sample, truth.names, min_recall + min(_MARGIN, (1 - min_recall) / 2))
    shape = (n_cells, n_neighbors)
    while True:
        indices = scratch_array(workers.folder, "indices", shape, np.int32)
        distances = scratch_array(workers.folder, "distances", shape, divided.points.dtype)
        groups = compute.blocks(n_lists, _LISTS_A_TASK)

        def search(group: slice, probes=probes, indices=indices, distances=distances) -> None:
            for number in range(group.start, group.stop):
                rows = slice(divided.start[number], divided.start[number + 1])
                if rows.start < rows.stop:
                    queries, names = divided.points[rows], divided.order[rows]
                    found = within(divided, number, queries, names, probes, n_neighbors)
                    indices[rows], distances[rows] = found.names.astype(np.int32), found.distances

        for _ in track(workers.in_order(search, groups), "neighbors: searching", len(groups)):
            pass
        # Neighbours as near as the last true one count: with ties, which of them is found is chance.
        radius = truth.distances[:, -1:] * (1 + 4 * np.finfo(divided.points.dtype).eps)
        there = np.concatenate([distances[row : row + 1] for row in sample])
        recall = float((there <= radius).mean())
        log.info("neighbors: recall %.4f with %d of %d lists", recall, probes, n_lists)
        if recall >= min_recall or probes == n_lists:
            break
        probes = min(n_lists, probes + max(1, probes // 3))
    for name, source in (("indices", indices), ("distances", distances)):
        # The place of a position is the cell that stands there.
        for rows, values in rearranged(workers, source, divided.order, block_cells):
            out[name][rows] = values
    remove(indices, distances, divided.points)
    return probes, recall


def _truth(divided: Lists, sample: np.ndarray, n_neighbors: int, workers) -> exact.Found:
    """True neighbours of the sampled positions."""

    def search(part: slice) -> exact.Found:
        queries = np.concatenate([divided.points[row : row + 1] for row in sample[part]])
        names = divided.order[sample[part]]
        return exact.nearest(divided.points, divided.order, queries, names, n_neighbors, divided.centre, divided.unit)

    parts = compute.blocks(len(sample), _QUERIES_A_TASK // 2)
    found = list(track(workers.in_order(search, parts), "neighbors: sampling", len(parts)))
    return exact.Found(*(np.concatenate(values) for values in zip(*found, strict=True)))
