"""Where a stage puts what it computes: arrays in memory, or on disk behind the same two verbs.

A stage fills `out`, a mapping from array name to a writable sliceable array. A plain dict keeps NumPy arrays; a
`store.Draft` makes Zarr arrays from the schema. Stages see no difference.
"""

from collections.abc import MutableMapping

import numpy as np


def make(out: MutableMapping, name: str, shape: tuple[int, ...], dtype) -> object:
    """The array `out[name]`, made when it is not there yet."""
    if name not in out:
        maker = getattr(out, "make", None)
        if maker is None:
            out[name] = np.empty(shape, dtype)
        else:
            maker(name, shape, dtype)
    if tuple(out[name].shape) != tuple(shape):
        raise ValueError(f"out[{name!r}] has shape {tuple(out[name].shape)}, the result has {tuple(shape)}")
    return out[name]


class Appender:
    """Fills a one-dimensional array of unknown length, in order, one whole chunk at a time.

    append  [---]  [-----]  [--]        pieces of any length
    array   |#######|#######|##         written chunk by chunk: no chunk is read back or written twice
    """

    def __init__(self, out: MutableMapping, name: str, dtype):
        self.out, self.name, self.dtype = out, name, np.dtype(dtype)
        self.length = 0
        self._pieces: list[np.ndarray] = []
        self._pending = 0
        self._streams = hasattr(out, "make")
        if self._streams:
            out.make(name, (0,), dtype)

    def append(self, values: np.ndarray) -> None:
        if not len(values):
            return
        self._pieces.append(np.asarray(values, self.dtype))
        self._pending += len(values)
        self.length += len(values)
        if self._streams:
            chunk = self.out[self.name].chunks[0]
            if self._pending >= chunk:
                self._flush(self._pending // chunk * chunk)

    def close(self) -> object:
        """Write what is left; the finished array."""
        if self._streams:
            self._flush(self._pending)
        else:
            self.out[self.name] = np.concatenate(self._pieces) if self._pieces else np.empty(0, self.dtype)
        return self.out[self.name]

    def _flush(self, count: int) -> None:
        if not count:
            return
        values = np.concatenate(self._pieces)
        array = self.out[self.name]
        start = array.shape[0]
        array.resize((start + count,))
        array[start : start + count] = values[:count]
        self._pieces, self._pending = [values[count:]], len(values) - count
