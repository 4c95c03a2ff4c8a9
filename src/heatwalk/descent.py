"""Neighbours of neighbours: most of what a coarse search missed is near to what it found.

    around x        the cells that x found, and the nearest of those that found x       B(x)
    compared        x with all of B(x), and of B(y) for every y in B(x), each once      about a thousand cells

A search by lists compares a cell with a share of all cells that hardly falls as they become more; a round of this one
with as many whatever their number. The rows of a task's B(x), B(y) and points are looked up in files by position, where
near cells stand together, so that what is read lies together.
Source: Dong, Charikar, Li, Efficient k-nearest neighbor graph construction for generic similarity measures (2011).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute, exact
from heatwalk.exchange import reverse
from heatwalk.lists import Lists, scaled
from heatwalk.progress import track
from heatwalk.scratch import array as scratch_array
from heatwalk.scratch import picked, remove

_CELLS_A_TASK = 4096
_BAND_CELLS = 2**16  # whose incoming edges are sorted together


class Edges(NamedTuple):
    indices: Any  # (cell, neighbor)
    distances: Any  # (cell, neighbor)


def descended(divided: Lists, found: Edges, workers: compute.Workers) -> None:
    """Put the nearest of every cell's neighbours of neighbours in the place of those found.

    found: names of cells, by position. The result depends on no partition into tasks.
    """
    shape = found.indices.shape
    around = _around(divided, found, workers)
    tasks = compute.blocks(shape[0], _CELLS_A_TASK)

    def search(rows: slice) -> None:
        nearest = _nearest(divided, around, rows, shape[1])
        found.indices[rows], found.distances[rows] = nearest.names.astype(np.int32), nearest.distances

    for _ in track(workers.in_order(search, tasks), "neighbors: neighbours of neighbours", len(tasks)):
        pass
    remove(around)


def _around(divided: Lists, found: Edges, workers: compute.Workers):
    """(position, 2 neighbors) int32: positions of the neighbours of every cell, and of the nearest whose neighbour it
    is, as many; -1 where there are fewer."""
    n_cells, width = found.indices.shape
    around = scratch_array(workers.folder, "around", (n_cells, 2 * width), np.int32)
    bands = compute.blocks(n_cells, _BAND_CELLS)
    positions = scratch_array(workers.folder, "positions", (n_cells, width), np.int32)

    def located(rows: slice) -> None:
        positions[rows] = divided.place[found.indices[rows]]

    for _ in workers.in_order(located, bands):
        pass
    incoming = reverse(Edges(positions, found.distances), bands, _CELLS_A_TASK, workers, "neighbors: exchange")

    def both(band: int) -> None:
        rows, part = bands[band], slice(*incoming.start[band : band + 2])
        target, source = incoming.target[part] - rows.start, incoming.source[part]
        # Bits of positive numbers are in the order of the numbers.
        nearness = (incoming.distance[part] / divided.unit).astype(np.float32).view(np.uint32)
        order = np.argsort(target.astype(np.uint64) << np.uint64(32) | nearness, kind="stable")
        target, source = target[order], source[order]
        rank = np.arange(len(target)) - np.searchsorted(target, target)
        kept = rank < width
        here = np.full((rows.stop - rows.start, 2 * width), -1, np.int32)
        here[:, :width] = positions[rows]
        here[target[kept], width + rank[kept]] = source[kept]
        around[rows] = here

    for _ in track(workers.in_order(both, range(len(bands))), "neighbors: both directions", len(bands)):
        pass
    remove(incoming.target, incoming.source, incoming.distance, positions)
    return around


def _nearest(divided: Lists, around, rows: slice, width: int) -> exact.Found:
    queries, first = np.arange(rows.start, rows.stop), around[rows]
    near = _different(first, len(divided.place))
    second = picked(around, near)
    everything = _different(np.concatenate([second.ravel(), first.ravel(), queries]), len(divided.place))
    local = np.full(len(divided.place) + 1, -1, np.int32)  # the last one is for -1
    local[everything] = np.arange(len(everything), dtype=np.int32)
    through = np.full(len(divided.place) + 1, -1, np.int32)
    through[near] = np.arange(len(near), dtype=np.int32)
    points = picked(divided.points, everything)
    # A few more than asked for: single precision may swap the last ones.
    found = np.empty((len(queries), width + max(2, width // 10)), np.int64)
    shifted = scaled(points, points[local[queries]].mean(axis=0, dtype=np.float64), divided.unit)
    _compiled()(through[first], local[first], local[second], local[queries], shifted, found)
    names = divided.order[everything]
    ranked = exact.ranked(points, names, points[local[queries]], divided.order[queries], found, divided.unit)
    return exact.best(ranked, width)


def _different(values: np.ndarray, largest: int) -> np.ndarray:
    """The different values, ascending, without -1; all are below `largest`."""
    there = np.zeros(largest + 1, bool)
    there[values] = True
    return np.flatnonzero(there[:-1])


@lru_cache(maxsize=1)
def _compiled() -> Callable:
    import numba

    # Sums in any order: what is found is ranked again by distances that are summed in one.
    @numba.njit(nogil=True, fastmath=True)
    def square(points, left, right):
        total = np.float32(0)
        for column in range(points.shape[1]):
            difference = points[left, column] - points[right, column]
            total += difference * difference
        return total

    @numba.njit(nogil=True)
    def search(through, first, second, queries, points, found):
        """For every query the nearest of first and of second[through], itself left out; -1 for none."""
        seen = np.full(len(points), -1, np.int32)
        squares = np.empty(found.shape[1], np.float32)
        for query in range(len(queries)):
            seen[queries[query]] = query
            squares[:] = np.inf
            found[query] = -1
            worst = 0
            for neighbor in range(first.shape[1]):
                if first[query, neighbor] < 0:
                    continue
                row = second[through[query, neighbor]]
                for step in range(-1, len(row)):
                    candidate = first[query, neighbor] if step < 0 else row[step]
                    if candidate < 0 or seen[candidate] == query:
                        continue
                    seen[candidate] = query
                    distance = square(points, queries[query], candidate)
                    if distance < squares[worst]:
                        squares[worst], found[query, worst] = distance, candidate
                        worst = np.argmax(squares)

    return search
