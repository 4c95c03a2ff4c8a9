"""Heaps of strings that HDF5 does not come back from: a free object of no bytes is stepped over for ever."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

HEAP = b"GCOL\x01\0\0\0"  # version 1, then the bytes of the whole heap, then objects
HEADER = 16  # of a heap and of an object: index (0: free), count of uses, bytes
BLOCK = 2**24


def endless(path: Path) -> bool:
    """Does the file hold such a heap? Looked for in files with lengths of eight bytes, as all are that h5py writes."""
    with path.open("rb") as stream:
        start = stream.read(16)
        if len(start) < 16 or start[14 if start[8] < 2 else 10] != 8:
            return False
        return any(_does_not_end(stream, place) for place in list(_places(stream)))


def _places(stream: BinaryIO) -> Iterator[int]:
    """Where heaps begin."""
    stream.seek(0)
    before, kept = 0, b""
    while block := stream.read(BLOCK):
        text, at = kept + block, -1
        while (at := text.find(HEAP, at + 1)) >= 0:
            yield before - len(kept) + at
        before, kept = before + len(block), text[1 - len(HEAP) :]


def _does_not_end(stream: BinaryIO, place: int) -> bool:
    stream.seek(place)
    end = place + int.from_bytes(stream.read(HEADER)[8:], "little")
    place += HEADER
    while place + HEADER <= end:
        stream.seek(place)
        header = stream.read(HEADER)
        if len(header) < HEADER:
            return False
        index, size = int.from_bytes(header[:2], "little"), int.from_bytes(header[8:], "little")
        step = HEADER + -(-size // 8) * 8 if index else size
        if not step:
            return True
        place += step
    return False
