"""An HDF5 file to write, on a disk that may fill: HDF5 crashes when it closes a file whose writes have failed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hdf5_file(path: Path) -> Iterator:
    """A new h5py.File; raises the OSError of the first write that failed, once HDF5 has closed the file in peace."""
    import h5py

    with open(path, "w+b", buffering=0) as file:
        patient = _Patient(file.fileno())
        try:
            with h5py.File(patient, "w", libver=("earliest", "v110")) as opened:
                yield opened
        except Exception:
            # What HDF5 makes of bytes that it finds missing is no news beside the reason.
            if patient.error:
                raise patient.error from None
            raise
        if patient.error:
            raise patient.error


class _Patient:
    """The file as HDF5 sees it: every write succeeds. What could not be written reads as zeros."""

    def __init__(self, descriptor: int):
        self._descriptor, self._place, self._size = descriptor, 0, 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def write(self, content) -> int:
        left, place = memoryview(content).cast("B"), self._place
        n_bytes = len(left)
        while len(left) and not self.error:
            try:
                written = os.pwrite(self._descriptor, left, place)
            except OSError as error:
                self.error = error
                break
            left, place = left[written:], place + written
        self._place += n_bytes
        self._size = max(self._size, self._place)
        return n_bytes

    def readinto(self, into) -> int:
        into = memoryview(into).cast("B")
        found = os.pread(self._descriptor, len(into), self._place)
        into[: len(found)] = found
        into[len(found) :] = bytes(len(into) - len(found))
        self._place += len(into)
        return len(into)

    def read(self, n_bytes: int = -1) -> bytes:
        content = bytearray(self._size - self._place if n_bytes < 0 else n_bytes)
        self.readinto(content)
        return bytes(content)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._place if size is None else size
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self.error = self.error or error
        return self._size

    def flush(self) -> None:
        """Nothing waits here to be written."""
