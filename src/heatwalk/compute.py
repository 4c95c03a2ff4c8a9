"""Blocks, workers and thread counts: the only module that knows Dask's scheduler and who may use which core.

Sums are the same on any number of cores because work is cut into blocks of a fixed size, every block is computed by one
thread, and the results are taken in block order.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

BLOCK_CELLS = 8192  # rows of a block, and of a Zarr chunk, unless the config says otherwise


def available_threads() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blocks(length: int, size: int) -> list[slice]:
    """Consecutive row ranges of one size, the last shorter.

    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def in_order(function: Callable, items: Sequence, threads: int | None = None) -> Iterator:
    """`function(item)` of every item, computed on Dask's threads a wave at a time, yielded in the order of the items.

    items   0 1 2 3 | 4 5 6 7 | 8        a wave is two items a thread: what waits for its turn stays bounded
    yields  0 1 2 3   4 5 6 7   8
    """
    import dask

    threads = threads or available_threads()
    task = dask.delayed(function, pure=False, traverse=False)
    with one_blas_thread():
        for wave in blocks(len(items), 2 * threads):
            yield from dask.compute(*map(task, items[wave]), scheduler="threads", num_workers=threads)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread: parallel reductions differ in the last bits, and Dask's threads already fill the cores."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


@contextmanager
def faiss_threads(threads: int | None) -> Iterator[None]:
    """faiss, called from this thread, on so many threads; as before afterwards."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or available_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def faiss_differences() -> Iterator[None]:
    """faiss without |x|^2 + |y|^2 - 2xy, which loses small distances; as before afterwards."""
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 2**31 - 1
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
