"""Workers in jobs of Slurm's, for the time of a stage: submitted when it begins, cancelled when it ends.

The scheduler is a part of the stage's own process. A stage that is killed takes it along, and workers that lose their
scheduler, or find none when their job begins at last, end by themselves. Both talk by TLS with certificates of this
stage alone, on the network interface that was named and on no other.
"""

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from heatwalk import slurm
from heatwalk.errors import BadInput, HeatwalkError, OutOfResources, Problem, first_few
from heatwalk.progress import log

_NAME = "heatwalk-workers"
_ALONE_SECONDS = 30  # that a worker looks for its scheduler
_CLOSE_SECONDS = 15
_NEEDED = ("dask_jobqueue", "cryptography")
_DIRECTIVES = ["--requeue"]
# One thread a worker: what a stage computes fills a core by itself.
_PROLOGUE = [f"export {name}_NUM_THREADS=1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")]


class Allowed(NamedTuple):
    """What workers may take: so many jobs, each of so many cores, memory and minutes."""

    partition: str = ""
    account: str = ""
    jobs: int = 2
    threads: int = 4
    memory: str = "8GB"
    minutes: int = 60
    interface: str = ""
    wait: int = 50  # seconds for the first worker


class Hired(NamedTuple):
    """A scheduler whose workers will come."""

    address: str
    security: object
    allowed: Allowed
    cluster: object
    folder: Path

    @property
    def threads(self) -> int:
        return self.allowed.jobs * self.allowed.threads

    def none_came(self) -> HeatwalkError:
        """Why there is no worker: jobs wait, or ended with the line that they wrote last."""
        numbers = [job.job_id for job in self.cluster.workers.values() if job.job_id]
        states = {number: slurm.state(number) or "forgotten" for number in numbers}
        said = "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"{_NAME}-*.err")))
        last = said.strip().splitlines()[-1:] if said.strip() else []
        jobs = first_few([f"{number} {state}" for number, state in states.items()]) or "none was taken"
        cause = (
            f"no worker has come in {self.allowed.wait} seconds (jobs: {jobs}{''.join(f'; {line}' for line in last)})"
        )
        remedy = "set compute: slurm: wait to more seconds, or another partition; then type: heatwalk resume"
        return OutOfResources(Problem("HW-RS-007", "compute: scheduler: slurm", cause, remedy))


def written(settings: dict) -> str:
    """The section `compute: slurm` as a stage takes it, one word: slurm://partition?jobs=2&...

    >>> written({"partition": "main", "jobs": 3, "interface": "ib0"})
    'slurm://main?jobs=3&interface=ib0'
    """
    others = {name: value for name, value in settings.items() if name != "partition" and value != ""}
    return f"slurm://{settings.get('partition', '')}?{urlencode(others)}"


def allowed(scheduler: str) -> Allowed:
    """What such a word allows; BadInput where it says something else.

    >>> allowed("slurm://main?jobs=3&interface=ib0")[:3]
    ('main', '', 3)
    """
    partition, _, rest = scheduler.removeprefix("slurm").removeprefix("://").partition("?")
    given = dict(parse_qsl(rest))
    unknown = sorted(set(given) - set(Allowed._fields) | ({"partition"} & set(given)))
    numbers = {name: given[name] for name, kind in Allowed.__annotations__.items() if kind is int and name in given}
    wrong = [f"{name}={value}" for name, value in numbers.items() if not (value.isdecimal() and int(value) > 0)]
    if unknown or wrong:
        cause = (
            f"{', '.join(unknown or wrong)} of {scheduler!r} {'is unknown' if unknown else 'is no number from 1 on'}"
        )
        raise _cannot(cause, f"known are {', '.join(Allowed._fields[1:])}")
    return Allowed(partition, **{**given, **{name: int(value) for name, value in numbers.items()}})


@contextmanager
def hired(scheduler: str, folder: Path) -> Iterator[Hired]:
    """A scheduler in this process, and jobs of workers for it; folder: seen by all nodes, for this stage alone."""
    wanted = allowed(scheduler)
    check(wanted)
    from dask_jobqueue import SLURMCluster
    from distributed.security import Security

    security = Security.temporary()
    cluster = SLURMCluster(**_options(wanted, folder), security=security)
    try:
        for _ in range(wanted.jobs):
            cluster.worker_spec.update(cluster.new_worker_spec())
        try:
            cluster.sync(cluster._correct_state)  # `scale` would say in a log only what sbatch refused
        except RuntimeError as error:
            raise slurm.refused(f"{error}".strip().splitlines()[-1]) from None
        log.info("%d jobs of %d workers each were submitted", wanted.jobs, wanted.threads)
        yield Hired(cluster.scheduler_address, security, wanted, cluster, folder)
    finally:
        with suppress(OSError, TimeoutError):
            cluster.close(timeout=_CLOSE_SECONDS)


def _options(wanted: Allowed, folder: Path) -> dict:
    """What dask-jobqueue is told."""
    quiet = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    web = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # no dashboard still is a web server
    # Files that a worker maps would count as its memory; Slurm itself sees to the memory of a job.
    workers = {"worker_extra_args": [*quiet, "--memory-limit", "0"], "death_timeout": _ALONE_SECONDS}
    where = {"log_directory": str(folder), "local_directory": "/tmp", "shared_temp_directory": str(folder)}  # noqa: S108
    job = {"job_name": _NAME, "job_script_prologue": _PROLOGUE, "job_extra_directives": _DIRECTIVES}
    job |= {"queue": wanted.partition or None, "account": wanted.account or None, "walltime": f"{wanted.minutes}"}
    size = {"cores": wanted.threads, "processes": wanted.threads, "memory": wanted.memory}
    network = {"interface": wanted.interface, "protocol": "tls://", "scheduler_options": web}
    return {
        **size,
        **workers,
        **where,
        **job,
        **network,
        "python": sys.executable,
        "silence_logs": logging.CRITICAL + 1,
    }


def check(wanted: Allowed) -> None:
    """Raise what would otherwise be said late, or never."""
    import psutil

    absent = [name.replace("_", "-") for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise _cannot(f"{', '.join(absent)} is not installed", "pip install -r envs/cluster.txt")
    known = sorted(psutil.net_if_addrs())
    if wanted.interface not in known:
        cause = f"there is no network interface {wanted.interface!r}" if wanted.interface else "interface is empty"
        raise _cannot(cause, f"name the one that nodes reach this machine by: {first_few(known)}")
    slurm.check_commands()
    slurm.check_controller()
    slurm.check_partition(wanted.partition)
    slurm.check_account(wanted.account, wanted.partition)
    refusal = slurm.would_refuse(wanted.partition, wanted.account, _megabytes(wanted.memory), wanted.threads)
    if refusal:
        raise _cannot(f"no node takes a job of {wanted.threads} cores and {wanted.memory} ({refusal})", "ask for less")


def _megabytes(memory: str) -> int:
    from dask.utils import parse_bytes

    try:
        return -(-parse_bytes(memory) // 2**20)
    except ValueError:
        raise _cannot(f"{memory!r} is no amount of memory", "write it like 8GB") from None


def _cannot(cause: str, remedy: str) -> BadInput:
    return BadInput(Problem("HW-CP-004", "compute: slurm", cause, remedy))
