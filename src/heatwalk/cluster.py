"""Worker processes and Dask schedulers, as `compute.workers` uses them.

A function and all it needs is written once to a file of the scratch folder, and every task is the name of that file and
an item: nothing that a task needs lives in a worker alone, so a worker that dies costs the items it had in hand.
"""

import asyncio
import hashlib
import importlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from heatwalk import compute, worker_jobs
from heatwalk.errors import BadInput, HeatwalkError, OutOfResources, Problem
from heatwalk.progress import log

_CONNECT_SECONDS = 15
_ANSWER_SECONDS = 20
_NO_WORKER_SECONDS = 35
_CLOSE_SECONDS = 15
_STARTS = 4  # of a worker process that dies before it has begun
_POLL_SECONDS = 3
_LIBRARIES = ("numpy", "scipy", "numba", "faiss", "zarr")  # the bits of a result come from them too
_TALKATIVE = {"distributed", "tornado", "asyncio"}  # loggers


@contextmanager
def workers(scheduler: str, here: compute.Workers) -> Iterator[compute.Workers]:
    """Workers of a local cluster of processes, in jobs of Slurm's, or of the scheduler at an address."""
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        # Of a name used once: a task that outlives a killed run must not find the files of the next run.
        folder = here.folder.resolve()  # a worker may have started elsewhere
        client, threads = _joined(scheduler, here.threads, folder, stack)
        numbers = itertools.count()

        @contextmanager
        def submitting(function: Callable) -> Iterator[Callable]:
            import cloudpickle

            path = folder / f"{next(numbers)}.pickle"
            path.write_bytes(cloudpickle.dumps(function, protocol=5))
            try:
                yield lambda item: _Task(client, path, item)
            finally:
                path.unlink(missing_ok=True)

        yield compute.Workers(submitting, _Task.result, threads, folder, here)


def _joined(scheduler: str, threads: int, folder: Path, stack: ExitStack) -> tuple:
    """A client of the scheduler that was asked for, and the number of its workers' threads."""
    if scheduler.startswith("slurm"):
        hired = stack.enter_context(worker_jobs.hired(scheduler, folder))
        client = stack.enter_context(_connected(hired.address, hired.security))
        _wait_for_workers(client, hired.allowed.wait, hired.none_came)
        return client, hired.threads  # more of them come later
    if scheduler == "processes":
        client = stack.enter_context(_connected(stack.enter_context(_local(threads, folder))))
    else:
        check_it_is_private(scheduler)
        client = stack.enter_context(_connected(scheduler))
    return client, _wait_for_workers(client, _NO_WORKER_SECONDS, _no_workers)


@contextmanager
def _local(n_workers: int, folder: Path) -> Iterator[str]:
    """The address of a cluster of processes on this machine, which listens to this machine alone."""
    import dask
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL + 1, "preload": __name__}
    # No dashboard still is a web server, on port 8787 unless told otherwise.
    web = {"dashboard_address": None, "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"}}
    # Where temporary files are, scheduler and workers would leave the locks of their folders.
    with _environment_kept(), dask.config.set({"temporary-directory": f"{folder}"}):
        try:
            cluster = LocalCluster(n_workers=n_workers, host="127.0.0.1", worker_class=_nanny(), **web, **options)
        except RuntimeError as error:
            remedy = "set compute: scheduler: threads, then type: heatwalk resume"
            remedy += " (a script of your own needs: if __name__ == '__main__')"
            cause = f"{n_workers} worker processes could not be started, {_STARTS} times in a row ({error})"
            raise _lost(cause, remedy) from None
        nannies = list(cluster.workers.values())
        try:
            yield cluster.scheduler_address
        finally:
            try:
                cluster.close(timeout=_CLOSE_SECONDS)
            except Exception as error:  # the work is done, and a process that is being replaced now has none
                log.info("worker processes did not end by themselves (%r)", error)
                for pid in filter(None, (nanny.pid for nanny in nannies)):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def _nanny() -> type:
    """What starts a worker process and replaces one that dies; Dask's own gives up one that dies at its start."""
    from distributed import Nanny as Daily
    from distributed import Status

    class Nanny(Daily):
        async def instantiate(self) -> Status:
            for started in range(1, _STARTS + 1):
                status = await super().instantiate()
                if status != Status.stopped or self.status != Status.init:
                    break  # one that ran is replaced by Dask itself, unless it is to end
                log.info("a worker process died at its start, %d of %d", started, _STARTS)
            return status

    return Nanny


def dask_setup(worker) -> None:
    """What a worker process of ours does at its start: leave Ctrl-C to the process that started it, and will end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _connected(address: str, security=None):
    """A client of the scheduler at an address; security: certificates, those of Dask's own configuration if None."""
    from distributed import Client

    check_it_answers(address, security)
    client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False, security=security)
    try:
        yield client
    finally:
        with suppress(OSError):
            client.close(timeout=_CLOSE_SECONDS)


def check_it_answers(address: str, security=None) -> None:
    """Ask a scheduler who it is: a client would wait for ever where something listens and says nothing."""
    from distributed.core import rpc
    from distributed.security import Security

    async def ask() -> str:
        async with rpc(address, connection_args=(security or Security()).get_connection_args("client")) as there:
            return (await there.identity())["type"]

    async def ask_in_time() -> str:
        return await asyncio.wait_for(ask(), _CONNECT_SECONDS)

    try:
        with ThreadPoolExecutor(1) as thread:  # in a notebook this one is busy with a loop of its own
            found = thread.submit(lambda: asyncio.run(ask_in_time())).result()
    except Exception as error:
        found = f"{error}" or f"nothing for {_CONNECT_SECONDS} seconds"
    if found != "Scheduler":
        cause = f"no Dask scheduler answers at {address} ({found})"
        raise _lost(cause, "start it, or set compute: scheduler: threads; then type: heatwalk resume")


def check_it_is_private(address: str) -> None:
    """Refuse a scheduler of another machine that does not ask who we are: it runs what anybody sends it."""
    import dask
    from distributed.security import Security

    kind, _, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]") or rest
    if kind == "tcp" and not (host in ("localhost", "::1") or host.startswith("127.")):
        cause = f"{address} is on another machine, and anybody there may run anything by it"
        raise _open(cause, "start scheduler and workers with --tls-ca-file, --tls-cert and --tls-key, and write tls://")
    try:
        known = kind != "tls" or Security().get_connection_args("client").get("ssl_context")
        cause = "Dask's configuration names no certificates"
    except Exception as error:
        ours = [dask.config.get(f"distributed.comm.tls.{name}") for name in ("ca-file", "client.cert", "client.key")]
        known, cause = False, f"certificates {', '.join(map(str, ours))} cannot be used ({error})"
    if not known:
        names = " ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"))
        raise _open(cause, f"name the files in {names}")


def _open(cause: str, remedy: str) -> BadInput:
    return BadInput(Problem("HW-CP-003", "compute: scheduler", cause, remedy))


class _Task:
    """An item under way."""

    def __init__(self, client, path: Path, item):
        self._client = client
        try:
            self._future = client.submit(_calling(), str(path), code_in_use(), item, pure=False)
        except Exception:
            if client.status != "running":
                raise _scheduler_lost() from None
            raise

    def cancel(self) -> None:
        self._future.release()  # unlike `cancel` of Dask, waits for nobody

    def result(self):
        """The result; an error when the scheduler, or every worker, is gone."""
        seen = time.monotonic()
        while True:
            try:
                return self._future.result(timeout=_POLL_SECONDS)
            except Exception as error:
                if isinstance(error, TimeoutError) and self._future.status != "error":
                    seen = time.monotonic() if _n_threads(self._client) else seen
                    if time.monotonic() - seen > _NO_WORKER_SECONDS:
                        raise _no_workers() from None
                    continue
                explained = _explained(self._client, error)
                if explained:
                    raise explained from None
                raise


def _explained(client, error: Exception) -> HeatwalkError | None:
    """What the end of a task means, None where it is the task's own error."""
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    # A connection breaks a moment before the client says that it does.
    if isinstance(error, CancelledError | CommClosedError) or client.status != "running":
        return _scheduler_lost()
    if isinstance(error, KilledWorker):
        cause = f"{error.allowed_failures + 1} workers died, one after the other, over the same block"
        return _lost(cause, "give workers more memory, or lower block_cells; then type: heatwalk resume")
    if isinstance(error, ImportError) and (error.name or "").startswith("heatwalk"):
        return _other_code(f"a worker ({error})")
    return None


def _calling() -> Callable:
    """`_call` for a worker that may have no heatwalk: found when it is called, not when the task is unpacked.

    What cannot be unpacked ends the worker, and Dask sends it to the next one.
    """

    def call(*arguments):
        from heatwalk.cluster import _call

        return _call(*arguments)

    return call


def _call(path: str, code: str, item):
    """What a worker does for a task."""
    if code_in_use() != code:
        from distributed import get_worker

        raise _other_code(f"the worker at {get_worker().address}")
    _one_blas_thread()
    return _function(path)(item)


@lru_cache(maxsize=1)
def _function(path: str) -> Callable:
    import cloudpickle

    return cloudpickle.loads(Path(path).read_bytes())


@lru_cache(maxsize=1)
def _one_blas_thread() -> None:
    """BLAS on one thread from now on: as `compute.one_blas_thread`, in a process where there is no afterwards."""
    import faiss  # noqa: F401 - each has a BLAS of its own, which must be there to be limited
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


@lru_cache(maxsize=1)
def code_in_use() -> str:
    """Hash of heatwalk, and the versions of what computes for it: a result is published under the code that made it."""
    versions = [(name, importlib.import_module(name).__version__) for name in _LIBRARIES]
    digest = hashlib.sha256(repr(versions).encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _wait_for_workers(client, seconds: float, none: Callable[[], HeatwalkError]) -> int:
    """Threads of all workers, of which there is at least one."""
    deadline = time.monotonic() + seconds
    while not (found := _n_threads(client)):
        if time.monotonic() > deadline:
            raise none()
        time.sleep(0.2)
    return found


def _n_threads(client) -> int:
    """Threads of all workers; a scheduler that does not say is lost."""
    try:
        return sum(client.sync(client.scheduler.ncores, callback_timeout=_ANSWER_SECONDS).values())
    except Exception:
        raise _scheduler_lost() from None


@contextmanager
def _quiet() -> Iterator[None]:
    """What Dask says about lost workers goes to the log of the run: on the terminal it would bury what to type."""
    import distributed  # noqa: F401 - makes the loggers

    def to_our_log(record: logging.LogRecord) -> bool:
        log.debug("%s: %s", record.name, record.getMessage())
        return False

    names = [name for name in list(logging.root.manager.loggerDict) if name.partition(".")[0] in _TALKATIVE]
    loggers = [logging.getLogger(name) for name in names]
    places = [*loggers, *(handler for logger in loggers for handler in logger.handlers)]
    for place in places:
        place.addFilter(to_our_log)
    try:
        yield
    finally:
        for place in places:
            place.removeFilter(to_our_log)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Dask sets variables of this process for those that it starts; they are as before afterwards."""
    import dask

    names = ("PYTHONHASHSEED", "__DASK_PARENT_PID", *dask.config.get("distributed.nanny.pre-spawn-environ"))
    before = {name: os.environ[name] for name in names if name in os.environ}
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def _other_code(who: str) -> BadInput:
    cause = f"{who} runs another heatwalk than this one, or other versions of {', '.join(_LIBRARIES)}"
    remedy = "install this one there, start it again, then type: heatwalk resume"
    return BadInput(Problem("HW-CP-001", "compute: scheduler", cause, remedy))


def _scheduler_lost() -> OutOfResources:
    return _lost("the Dask scheduler was lost", "start it again, then type: heatwalk resume")


def _no_workers() -> OutOfResources:
    cause = f"the Dask scheduler has had no worker for {_NO_WORKER_SECONDS} seconds"
    return _lost(cause, "start workers (dask worker ADDRESS), then type: heatwalk resume")


def _lost(cause: str, remedy: str) -> OutOfResources:
    return OutOfResources(Problem("HW-RS-005", "compute: scheduler", cause, remedy))
