"""Declared sizes against stored bytes: a file of a kilobyte cannot hold eight petabytes."""

import math

from heatwalk.errors import Problem

RATIO = 1000  # gzip cannot do better; zstd and blosc do on constant data, which the allowance covers
ALLOWANCE = 2**26  # bytes that an array may declare whatever is stored
DIMENSIONS = 8


def amount(length: float) -> str:
    """Bytes as a person writes them.

    >>> amount(99), amount(1_500_000), amount(4e9)
    ('99 bytes', '1.5 MB', '4.0 GB')
    """
    if length < 1e5:
        return f"{length:,.0f} bytes"
    return f"{length / 1e6:.1f} MB" if length < 1e9 else f"{length / 1e9:.1f} GB"


def missing(storage, array, where: str) -> list[Problem]:
    """A problem when chunks of an array that cannot be all zeros have no bytes."""
    count = storage.missing_chunks(array)
    if not count:
        return []
    cause = f"{count:,} chunks have no stored bytes and would read as zeros or empty text"
    remedy = (
        "copy or export the source again, whole; if zeros are what it holds, write it again after "
        "zarr.config.set({'array.write_empty_chunks': True})"
    )
    return [Problem("HW-IN-012", where, cause, remedy)]


def check_size(
    shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, stored: int, where: str, memory: int
) -> list[Problem]:
    """Problems with the number of dimensions, the declared bytes and the size of one chunk."""
    remedy = "the file was damaged or made to fail: export it again"
    if len(shape) > DIMENSIONS:
        return [Problem("HW-IN-010", where, f"declares {len(shape)} dimensions, at most {DIMENSIONS} are read", remedy)]
    declared = math.prod(shape) * max(itemsize, 1)
    if declared > ALLOWANCE + RATIO * stored:
        cause = f"declares {declared:,} bytes ({' x '.join(map(str, shape))}) but stores {stored:,}"
        return [Problem("HW-IN-010", where, cause, remedy)]
    chunk = math.prod(chunks) * max(itemsize, 1) if chunks else 0
    if chunk > memory:
        cause = f"has chunks of {amount(chunk)}, and {amount(memory)} may be held"
        return [Problem("HW-IN-011", where, cause, "write the array again with smaller chunks, or give more memory")]
    return []


def check_memory(declared: int, where: str, memory: int) -> list[Problem]:
    """A problem when something that is read whole does not fit."""
    if declared <= memory:
        return []
    cause = f"takes {amount(declared)} at once, and {amount(memory)} may be held"
    return [Problem("HW-IN-011", where, cause, "give more memory, or write it as .h5ad, which is read in rows")]
