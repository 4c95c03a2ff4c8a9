"""Blocks, workers and thread counts: the only module that knows Dask's scheduler and who may use which core.

Sums are the same on any number of cores because work is cut into blocks of a fixed size, every block is computed by one
thread, and the results are taken in block order.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from heatwalk.errors import OutOfResources, Problem

BLOCK_CELLS = 8192  # rows of a block, and of a Zarr chunk, unless the config says otherwise


class Workers:
    """Who computes blocks: threads of this process, worker processes, or the workers of a Dask scheduler."""

    def __init__(self, submitting: Callable, result: Callable, threads: int, folder: Path | None, here=None):
        self._submitting, self._result, self.threads = submitting, result, threads
        self.folder = folder  # where what they share is kept; None: in memory
        self.here = here or self  # threads of this process

    def in_order(self, function: Callable, items: Sequence) -> Iterator:
        """`function(item)` of every item, in the order of the items; two items a worker are under way at a time.

        items   0 1 2 3 4 5 6 7 8      under way [3 4 5 6]      yielded 0 1 2
        """
        with self._submitting(function) as submit:
            under_way: deque = deque()
            try:
                for item in items:
                    under_way.append(submit(item))
                    if len(under_way) == 2 * self.threads:
                        yield self._result(under_way.popleft())
                while under_way:
                    yield self._result(under_way.popleft())
            finally:
                for future in under_way:
                    future.cancel()


@contextmanager
def workers(
    scheduler: str = "threads", threads: int | None = None, scratch: Path | None = None, *, files: bool = False
) -> Iterator[Workers]:
    """Workers for the time of the block.

    scheduler: "threads"; "processes", started here, as many as threads; "slurm://PARTITION?jobs=2&interface=ib0", in
    jobs for the time of the block (worker_jobs.Allowed has every option); or the address of a Dask scheduler. Workers
    see the same files and the same heatwalk: on other machines, scratch is a folder that all see.
    scratch: where they share files, in a folder of this call's own; without one, memory for threads, unless `files` are
    asked for, and a temporary folder otherwise.
    """
    with ExitStack() as stack:
        stack.enter_context(one_blas_thread())
        if scratch is not None or files or scheduler != "threads":
            # Workers may hold files of theirs for a moment more.
            own = TemporaryDirectory(prefix="heatwalk-", dir=scratch, ignore_cleanup_errors=True)
            scratch = Path(stack.enter_context(own))
        here = stack.enter_context(_threads(threads or available_threads(), scratch))
        if scheduler == "threads":
            yield here
        else:
            from heatwalk import cluster

            yield stack.enter_context(cluster.workers(scheduler, here))


@contextmanager
def _threads(threads: int, scratch: Path | None) -> Iterator[Workers]:
    from threadpoolctl import threadpool_limits

    # A BLAS built on OpenMP has a number of threads for every thread that calls it, which end with the executor.
    with ThreadPoolExecutor(threads, initializer=partial(threadpool_limits, 1, user_api="blas")) as executor:

        @contextmanager
        def submitting(function: Callable) -> Iterator[Callable]:
            yield lambda item: executor.submit(function, item)

        yield Workers(submitting, Future.result, threads, scratch)


def in_order(function: Callable, items: Sequence, threads: int | None = None) -> Iterator:
    """`function(item)` of every item, on threads, in the order of the items."""
    with workers("threads", threads) as pool:
        yield from pool.in_order(function, items)


def available_threads() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blocks(length: int, size: int) -> list[slice]:
    """Consecutive row ranges of one size, the last shorter.

    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def check_device(device: str) -> None:
    """Raise unless the device is "cpu", or "cuda" and torch sees one."""
    if device == "cpu":
        return
    try:
        import torch

        there = device == "cuda" and torch.cuda.is_available()
        cause = f"torch {torch.__version__} sees no {device!r} device"
    except ImportError:
        there, cause = False, "torch is not installed"
    if not there:
        remedy = "set compute: device: cpu, or install torch with CUDA (envs/neural.txt) where a GPU is"
        raise OutOfResources(Problem("HW-CP-002", "compute: device", cause, remedy))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread: parallel reductions differ in the last bits, and the workers already fill the cores."""
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
