"""Directed edges x -> y regrouped by y: what a union with the transpose needs, without holding the graph.

pass 1    count the edges that lead into each band of rows          band 0 | band 1 | band 2
pass 2    append (y, x, distance) to the part of y's band           #####    ###      ######
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.lists import scratch_array


class Reversed(NamedTuple):
    start: np.ndarray  # (band + 1,) int64, where a band begins
    target: np.ndarray  # (edge,) int32, y
    source: np.ndarray  # (edge,) int32, x
    distance: np.ndarray  # (edge,), as given


def reverse(neighbors, bands: list[slice], block_cells: int, scratch: Path | None) -> Reversed:
    """All edges of a neighbour graph by the band of rows that they lead into; within a band in the order of x."""
    n_cells, n_neighbors = neighbors.indices.shape
    width, ranges = bands[0].stop, compute.blocks(n_cells, block_cells)
    counts = np.zeros(len(bands), np.int64)
    for rows in ranges:
        counts += np.bincount(np.asarray(neighbors.indices[rows]).ravel() // width, minlength=len(bands))
    start = np.concatenate([[0], np.cumsum(counts)])
    n_edges, floating = int(start[-1]), neighbors.distances.dtype
    target, source = (scratch_array(scratch, name, (n_edges,), np.int32) for name in ("target", "source"))
    distance = scratch_array(scratch, "distance", (n_edges,), floating)
    filled = start[:-1].copy()
    for rows in ranges:
        found = np.asarray(neighbors.indices[rows]).ravel()
        here = np.repeat(np.arange(rows.start, rows.stop, dtype=np.int32), n_neighbors)
        values = np.asarray(neighbors.distances[rows]).ravel()
        order = np.argsort(found // width, kind="stable")
        pieces = np.bincount(found // width, minlength=len(bands))
        for band, part in zip(np.flatnonzero(pieces), np.split(order, np.cumsum(pieces[pieces > 0])[:-1]), strict=True):
            to = slice(filled[band], filled[band] + len(part))
            target[to], source[to], distance[to] = found[part], here[part], values[part]
            filled[band] = to.stop
    return Reversed(start, target, source, distance)
