"""The symmetric conjugate A = D^-1/2 W D^-1/2 of the walk, in row blocks of bounded size, in memory or in files.

Cells stand component by component, and by locality within a component: a product then reads vectors nearby. The blocks
are the same wherever they are kept, and so is every bit of a product.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from heatwalk import compute
from heatwalk.progress import track
from heatwalk.scratch import array as scratch_array

_BLOCK_EDGES = 2**18  # edges of a row block
_READ_EDGES = 2**20  # edges read at a time, by every thread
_READ_BYTES = 50  # for each of them
COLUMNS = 4  # of a block of vectors that the solver multiplies
COMPILED_FROM = 2**21  # edges: a second of compilation is gained back


def filling_bytes(n_cells: int, n_edges: int, threads: int) -> int:
    """Bytes that are held while A is gathered, A left out: before there is any vector to multiply."""
    return 80 * n_cells + _READ_BYTES * min(_READ_EDGES * threads, n_edges)


class Component(NamedTuple):
    """The square block of A of one component."""

    indptr: np.ndarray  # (row + 1,) int64, into columns and values
    columns: Any  # (edge,) int32, counted from where the component begins
    values: Any  # (edge,) float64

    @property
    def size(self) -> int:
        return len(self.indptr) - 1

    def blocks(self) -> list[slice]:
        """Row ranges of about `_BLOCK_EDGES` edges each."""
        return cuts(self.indptr, slice(0, self.size), _BLOCK_EDGES)

    def times(self, rows: slice, block: np.ndarray) -> np.ndarray:
        """Some rows of A times a block of vectors, (row, column)."""
        if block.shape[1] != COLUMNS or self.indptr[-1] - self.indptr[0] < COMPILED_FROM:
            return self.rows(rows) @ block
        result = np.empty((rows.stop - rows.start, COLUMNS))
        edges = slice(self.indptr[rows.start], self.indptr[rows.stop])
        pointers = (self.indptr[rows.start : rows.stop + 1] - edges.start).astype(np.uint64)
        # Without a sign no index is tested for one.
        _four_columns()(pointers, self.columns[edges].view(np.uint32), self.values[edges], block, result)
        return result

    def rows(self, rows: slice) -> scipy.sparse.csr_array:
        edges = slice(self.indptr[rows.start], self.indptr[rows.stop])
        pointers = (self.indptr[rows.start : rows.stop + 1] - edges.start).astype(np.int32)
        shape = (rows.stop - rows.start, self.size)
        return scipy.sparse.csr_array((self.values[edges], self.columns[edges], pointers), shape=shape)


@lru_cache(maxsize=1)
def _four_columns() -> Callable:
    """A sparse matrix times four columns: twice as fast as for any number of them, with the same sums."""
    import numba

    @numba.njit(nogil=True)
    def multiply(pointers, columns, values, block, result):
        for row in range(len(result)):
            first = second = third = fourth = 0.0
            for entry in range(pointers[row], pointers[row + 1]):
                value, column = values[entry], columns[entry]
                first += value * block[column, 0]
                second += value * block[column, 1]
                third += value * block[column, 2]
                fourth += value * block[column, 3]
            result[row, 0], result[row, 1], result[row, 2], result[row, 3] = first, second, third, fourth

    return multiply


class Conjugate(NamedTuple):
    order: np.ndarray  # (position,) int64, the cell at every position
    place: np.ndarray  # (cell,) int64, the position of every cell
    start: np.ndarray  # (component + 1,) int64, the position where a component begins
    root: np.ndarray  # (position,) float64, sqrt(degrees)
    indptr: np.ndarray  # (position + 1,) int64
    columns: Any  # (edge,) int32, counted from where the component begins
    values: Any  # (edge,) float64

    def component(self, label: int) -> Component:
        rows = slice(self.start[label], self.start[label + 1] + 1)
        return Component(self.indptr[rows], self.columns, self.values)


def cuts(indptr: np.ndarray, rows: slice, n_edges: int) -> list[slice]:
    """Consecutive row ranges with at most so many edges each, or one row.

    >>> cuts(np.array([0, 2, 4, 9, 10]), slice(0, 4), 4)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    found, start = [], rows.start
    while start < rows.stop:
        stop = int(np.searchsorted(indptr, indptr[start] + n_edges, side="right")) - 1
        stop = min(max(stop, start + 1), rows.stop)
        found.append(slice(start, stop))
        start = stop
    return found


def conjugate(affinity, *, held: bool, band_edges: int, workers: compute.Workers) -> Conjugate:
    """A from the stored weights, held in memory or kept in files, gathered `band_edges` entries at a time."""
    components, by_locality = np.asarray(affinity.components[:]), np.asarray(affinity.order[:])
    order = by_locality[np.argsort(components[by_locality], kind="stable")]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    start = np.concatenate([[0], np.cumsum(np.bincount(components))])
    old, root = np.asarray(affinity.indptr[:], np.int64), np.sqrt(np.asarray(affinity.degrees[:]))
    indptr = np.concatenate([[0], np.cumsum(np.diff(old)[order])])
    n_edges, folder = int(indptr[-1]), None if held else workers.folder
    columns = scratch_array(folder, "columns", (n_edges,), np.int32)
    values = scratch_array(folder, "values", (n_edges,), np.float64)
    everything = slice(0, len(order))
    ranges = cuts(old, everything, _READ_EDGES)
    for band in [everything] if held else cuts(indptr, everything, band_edges):
        edges = slice(indptr[band.start], indptr[band.stop])
        # In memory the band is all there is, and is filled where it stays.
        parts = (
            (columns, values) if held else tuple(np.empty(edges.stop - edges.start, a.dtype) for a in (columns, values))
        )

        def fill(rows: slice, band=band, parts=parts, first=edges.start) -> None:
            inside = (place[rows] >= band.start) & (place[rows] < band.stop)
            if not inside.any():
                return
            read, length = slice(old[rows.start], old[rows.stop]), np.diff(old[rows.start : rows.stop + 1])
            column, weight = np.asarray(affinity.indices[read]), np.array(affinity.weights[read])
            weight /= np.repeat(root[rows], length) * np.take(root, column)
            # Where a weight underflowed, the edge may lead out of the component.
            origin = np.repeat(start[components[rows]], length)
            column = np.where(weight > 0, np.take(place, column) - origin, 0).astype(np.int32)
            target = np.repeat(indptr[place[rows]] - first - (old[rows] - read.start), length) + np.arange(len(column))
            if not inside.all():
                kept = np.repeat(inside, length)
                column, weight, target = column[kept], weight[kept], target[kept]
            parts[0][target], parts[1][target] = column, weight

        for _ in track(workers.here.in_order(fill, ranges), "diffusion_map: matrix", len(ranges)):
            pass
        if not held:
            columns[edges], values[edges] = parts
    return Conjugate(order, place, start, root[order], indptr, columns, values)
