"""Directed edges x -> y regrouped by y: what a union with the transpose needs, without holding the graph.

pass 1    every block counts its edges into each band of rows       band 0 | band 1 | band 2
pass 2    every block puts (y, x, distance) in its part of y's band #####    ###      ######
"""

from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.progress import track
from heatwalk.scratch import array as scratch_array


class Reversed(NamedTuple):
    start: np.ndarray  # (band + 1,) int64, where a band begins
    target: Any  # (edge,) int32, y
    source: Any  # (edge,) int32, x
    distance: Any  # (edge,), as given


def in_degrees(neighbors, block_cells: int, workers: compute.Workers) -> np.ndarray:
    """(cell,) int64, how many edges lead into every cell; one array of counts, whatever the threads."""
    n_cells = neighbors.indices.shape[0]
    found = np.zeros(n_cells, np.int64)
    ranges = compute.blocks(n_cells, block_cells)
    for targets in workers.here.in_order(lambda rows: np.asarray(neighbors.indices[rows]).ravel(), ranges):
        np.add.at(found, targets, 1)
    return found


def reverse(neighbors, bands: list[slice], block_cells: int, workers: compute.Workers) -> Reversed:
    """All edges of a neighbour graph by the band of rows that they lead into; within a band in the order of x."""
    n_cells, n_neighbors = neighbors.indices.shape
    first, ranges = np.array([band.start for band in bands]), compute.blocks(n_cells, block_cells)

    def band_of(targets: np.ndarray) -> np.ndarray:
        return np.searchsorted(first, targets, side="right") - 1

    def count(rows: slice) -> np.ndarray:
        return np.bincount(band_of(np.asarray(neighbors.indices[rows]).ravel()), minlength=len(bands))

    start, place = offsets(np.array(list(workers.in_order(count, ranges))))
    shape = (int(start[-1]),)
    target, source = (scratch_array(workers.folder, name, shape, np.int32) for name in ("target", "source"))
    distance = scratch_array(workers.folder, "distance", shape, neighbors.distances.dtype)

    def regroup(block: int) -> None:
        rows = ranges[block]
        found, values = (np.asarray(array[rows]).ravel() for array in (neighbors.indices, neighbors.distances))
        here = np.repeat(np.arange(rows.start, rows.stop, dtype=np.int32), n_neighbors)
        into = band_of(found)
        order = np.argsort(into, kind="stable")
        found, here, values = found[order], here[order], values[order]
        ends = np.searchsorted(into[order], np.arange(len(bands) + 1))
        for band in np.flatnonzero(np.diff(ends)):
            part = slice(ends[band], ends[band + 1])
            to = slice(place[block, band], place[block, band] + part.stop - part.start)
            target[to], source[to], distance[to] = found[part], here[part], values[part]

    for _ in track(workers.in_order(regroup, range(len(ranges))), "affinity: exchange", len(ranges)):
        pass
    return Reversed(start, target, source, distance)


def offsets(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where every band begins, and within it every block, from the number of edges of (block, band); all int64.

    >>> offsets(np.array([[1, 2], [3, 4]]))
    (array([ 0,  4, 10]), array([[0, 4],
           [1, 6]]))
    """
    counts = counts.astype(np.int64)
    start = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
    return start, start[:-1] + np.cumsum(counts, axis=0) - counts
