"""Rows out of stored matrices: CSR, CSC and dense arrays of HDF5 or Zarr, block by block and checked before use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from heatwalk.errors import Problem
from heatwalk.inputs.opened import number_type, rebatch
from heatwalk.inputs.problems import bad, raise_all
from heatwalk.inputs.sizes import amount

STRIP_BYTES = 2**28  # dense rows are read in whole chunks, as far as this allows


class Sparse(NamedTuple):
    """The three arrays of a compressed matrix, still on disk."""

    data: object
    indices: object
    indptr: object
    shape: tuple[int, int]
    by_cell: bool  # CSR: one run of entries per cell; otherwise CSC, one run per feature


class ForwardReader:
    """Hands out a one-dimensional array front to back, read in whole chunks, so that no chunk is decoded twice."""

    def __init__(self, array):
        self.array = array
        self.chunk = (getattr(array, "chunks", None) or (1,))[0]
        self.position, self.kept = 0, np.empty(0, array.dtype)

    def take(self, count: int) -> np.ndarray:
        """The next `count` entries."""
        missing = count - len(self.kept)
        if missing > 0:
            stop = min(-(-(self.position + missing) // self.chunk) * self.chunk, self.array.shape[0])
            self.kept = np.concatenate([self.kept, self.array[self.position : stop]])
            self.position = stop
        taken, self.kept = self.kept[:count], self.kept[count:]
        return taken


def open_sparse(parts: Sparse, where: str, storage, memory: int) -> tuple[np.dtype, Callable[[int], Iterator]]:
    """Check a stored sparse matrix; its type, and the function that reads its rows."""
    problems = [
        Problem("HW-IN-008", f"{where}/{name}", f"has {len(array.shape)} dimensions, not 1", "write the matrix again")
        for name, array in zip(("data", "indices", "indptr"), parts[:3], strict=True)
        if len(array.shape) != 1
    ]
    raise_all(problems)
    for name, array in zip(("data", "indices", "indptr"), parts[:3], strict=True):
        problems += storage.check(array, f"{where}/{name}")
    raise_all(problems)
    dtype = number_type(parts.data.dtype, f"{where}/data")
    raise_all(_missing(parts, where, storage))
    pointers = _pointers(parts, where, memory)
    if parts.by_cell:
        return dtype, lambda n_rows: _read_csr(parts, pointers, dtype, where, n_rows)
    index_bytes = max(4, np.dtype(parts.indices.dtype).itemsize)
    need = 2 * parts.data.shape[0] * (dtype.itemsize + index_bytes) + 16 * parts.shape[0]
    if need > memory:
        raise bad(
            "HW-IN-011",
            where,
            f"is stored by gene (CSC): turning it round takes {amount(need)} of {amount(memory)}",
            "convert it once where memory allows: adata.X = adata.X.tocsr(), then write; or give more memory",
        )
    return dtype, lambda n_rows: _read_csc(parts, pointers, dtype, where, n_rows)


def _missing(parts: Sparse, where: str, storage) -> list[Problem]:
    """Missing chunks read as zeros, which is right only where zeros are all that can stand there."""
    minor = parts.shape[1] if parts.by_cell else parts.shape[0]
    zeros_fit = {"data": False, "indices": minor == 1, "indptr": parts.data.shape[0] == 0}
    problems = []
    for name in ("data", "indices", "indptr"):
        missing = storage.missing_chunks(getattr(parts, name))
        if missing and not zeros_fit[name]:
            cause = f"{missing:,} chunks have no stored bytes and would read as zeros"
            problems.append(Problem("HW-IN-012", f"{where}/{name}", cause, "copy or export the source again"))
    return problems


def _pointers(parts: Sparse, where: str, memory: int) -> np.ndarray:
    """The row pointers, checked; SciPy itself would take broken ones and crash later."""
    major = parts.shape[0] if parts.by_cell else parts.shape[1]
    remedy = "the matrix was damaged or written by hand: export it again"
    problems = []
    for name in ("indices", "indptr"):
        if np.dtype(getattr(parts, name).dtype).kind not in "iu":
            cause = f"is of type {getattr(parts, name).dtype}, not whole numbers"
            problems.append(Problem("HW-IN-021", f"{where}/{name}", cause, remedy))
    count, indices = parts.data.shape[0], parts.indices.shape[0]
    if count != indices:
        problems.append(Problem("HW-IN-021", where, f"{count:,} values but {indices:,} indices", remedy))
    if parts.indptr.shape[0] != major + 1:
        cause = f"has {parts.indptr.shape[0]:,} entries, {major + 1:,} are needed"
        problems.append(Problem("HW-IN-021", f"{where}/indptr", cause, remedy))
    elif parts.indptr.shape[0] * 8 > memory:
        cause = f"{parts.indptr.shape[0]:,} row pointers do not fit {amount(memory)}"
        problems.append(Problem("HW-IN-011", f"{where}/indptr", cause, "give more memory"))
    raise_all(problems)
    pointers = np.asarray(parts.indptr[:]).astype(np.int64)
    falls = np.flatnonzero(np.diff(pointers) < 0)
    if pointers[0] != 0:
        problems.append(Problem("HW-IN-021", f"{where}/indptr", f"starts at {pointers[0]}, not 0", remedy))
    if len(falls):
        cause = f"falls {len(falls):,} times, first after row {falls[0]:,}"
        problems.append(Problem("HW-IN-021", f"{where}/indptr", cause, remedy))
    if pointers[-1] != count:
        problems.append(Problem("HW-IN-021", f"{where}/indptr", f"ends at {pointers[-1]:,}, not {count:,}", remedy))
    raise_all(problems)
    return pointers


def _check_indices(indices: np.ndarray, pointers: np.ndarray, bound: int, first: int, where: str) -> None:
    if not len(indices) or (int(indices.min()) >= 0 and int(indices.max()) < bound):
        return
    wrong = np.flatnonzero((indices < 0) | (indices >= bound))
    row = first + int(np.searchsorted(pointers, wrong[0], side="right")) - 1
    cause = f"{len(wrong):,} indices are not in 0..{bound - 1} (first: {indices[wrong[0]]} in row {row:,})"
    raise bad("HW-IN-022", f"{where}/indices", cause, "the matrix was damaged or written by hand: export it again")


def _read_csr(parts: Sparse, pointers: np.ndarray, dtype: np.dtype, where: str, n_rows: int) -> Iterator:
    import scipy.sparse

    data, indices = ForwardReader(parts.data), ForwardReader(parts.indices)
    for first in range(0, parts.shape[0], n_rows):
        rows = pointers[first : first + n_rows + 1]
        rows = rows - rows[0]
        columns = indices.take(int(rows[-1]))
        _check_indices(columns, rows, parts.shape[1], first, where)
        values = data.take(int(rows[-1])).astype(dtype)
        triple = (values, columns.astype(np.int32), rows)
        block = scipy.sparse.csr_matrix(triple, shape=(len(rows) - 1, parts.shape[1]))
        block.sum_duplicates()  # also sorts; entries written twice mean their sum
        yield block


def _read_csc(parts: Sparse, pointers: np.ndarray, dtype: np.dtype, where: str, n_rows: int) -> Iterator:
    import scipy.sparse

    indices = np.asarray(parts.indices[:])
    _check_indices(indices, pointers, parts.shape[0], 0, where)
    triple = (np.asarray(parts.data[:]).astype(dtype), indices.astype(np.int32), pointers)
    matrix = scipy.sparse.csc_matrix(triple, shape=parts.shape).tocsr()
    del triple, indices
    matrix.sum_duplicates()
    for first in range(0, parts.shape[0], n_rows):
        yield scipy.sparse.csr_matrix(matrix[first : first + n_rows])


def read_dense(array, dtype: np.dtype, n_rows: int) -> Iterator[np.ndarray]:
    """Rows of a stored array, items flattened; chunks are decoded once when a strip of them is not too large."""
    chunk = (getattr(array, "chunks", None) or (1,))[0]
    row_bytes = max(1, int(np.prod(array.shape[1:], dtype=float)) * np.dtype(array.dtype).itemsize)
    strip = n_rows
    if chunk * row_bytes <= STRIP_BYTES:
        strip = -(-n_rows // chunk) * chunk

    def strips() -> Iterator[np.ndarray]:
        for first in range(0, array.shape[0], strip):
            values = np.asarray(array[first : first + strip])
            yield values.reshape(len(values), -1).astype(dtype, copy=False)

    return rebatch(strips(), n_rows)
