"""Arrays in files of the scratch folder, read and written by rows: never held, and never mapped, as a whole.

A mapped file counts as memory of the process that touched it; what is read here is a copy of the rows asked for.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from heatwalk import compute

_READ_ROWS = 2**17  # rows looked at when rows are gathered in another order
_BAND_BYTES = 2**28  # rows gathered at a time, by all threads together


class File:
    """An array of fixed-size rows in a file: `file[a:b]` reads, `file[a:b] = values` writes."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype):
        self.path, self.shape, self.dtype = Path(path), tuple(shape), np.dtype(dtype)
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        values = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(start * self._row_bytes)
            left = memoryview(values.reshape(-1)).cast("B") if values.size else b""
            while len(left):
                count = file.readinto(left)
                if not count:
                    raise OSError(f"{self.path} ends before row {stop}")
                left = left[count:]
        return values

    def __setitem__(self, rows: slice, values) -> None:
        start, stop, _ = rows.indices(self.shape[0])
        values = np.ascontiguousarray(np.broadcast_to(values, (stop - start, *self.shape[1:])), self.dtype)
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(start * self._row_bytes)
            left = memoryview(values.reshape(-1)).cast("B") if values.size else b""
            while len(left):
                left = left[file.write(left) :]


def array(folder: Path | None, name: str, shape: tuple[int, ...], dtype) -> "File | np.ndarray":
    """An array to fill: a file in the scratch folder, or memory where there is none.

    The file's space is taken at once: a disk that is too small says so before the work, not in the middle of it.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if folder is None:
        return np.empty(shape, dtype)
    path = Path(folder) / f"{name}.scratch"
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate") and n_bytes:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.truncate(n_bytes)
    return File(path, shape, dtype)


def remove(*arrays) -> None:
    """Give the space of scratch files back; arrays in memory go by themselves."""
    for each in arrays:
        if isinstance(each, File):
            each.path.unlink(missing_ok=True)


def gathered(source, place: np.ndarray, rows: slice) -> np.ndarray:
    """The rows of `source` whose place is within `rows`, at their places; source row i belongs to place[i].

    The source is read from end to end, so that no row is looked for by itself.
    """
    found = np.empty((rows.stop - rows.start, *source.shape[1:]), source.dtype)
    for part in compute.blocks(len(place), _READ_ROWS):
        here = np.flatnonzero((place[part] >= rows.start) & (place[part] < rows.stop))
        if len(here) == part.stop - part.start:
            found[place[part] - rows.start] = source[part]
        elif len(here):
            found[place[part][here] - rows.start] = np.take(source[part], here, axis=0)
    return found


def bands(shape: tuple[int, ...], dtype, multiple: int, threads: int) -> list[slice]:
    """Row ranges of a size that threads share, for `gathered`; their bounds are multiples of `multiple`."""
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    return compute.blocks(shape[0], max(1, _BAND_BYTES // (threads * row_bytes * multiple)) * multiple)


def rearranged(workers, source, place: np.ndarray, multiple: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Row ranges in order, each with the rows of `source` that belong there."""
    ranges = bands((len(place), *source.shape[1:]), source.dtype, multiple, workers.threads)
    return zip(ranges, workers.in_order(lambda rows: gathered(source, place, rows), ranges), strict=True)
