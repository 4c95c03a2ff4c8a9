"""What a run needs, looked at before anything is submitted: one line each, within a minute, never a hang."""

import contextlib
import importlib.util
import platform
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from heatwalk import compute, jobs, needs, slurm, store, worker_jobs
from heatwalk.config import Plan, memory_bytes
from heatwalk.errors import BadInput, HeatwalkError, OutOfResources, Problem
from heatwalk.profiles import Cluster

_BEGINS = 25.0  # seconds that a job of a moment may wait
_ENDS = 20.0  # and take
_POLL = 0.5
_QUESTIONS = 180.0  # seconds between two of the executor's, at the most
_PLUGINS = ("snakemake_executor_plugin_slurm", "snakemake_executor_plugin_slurm_jobstep")
_ON_THE_NODE = "import snakemake_executor_plugin_slurm_jobstep, heatwalk.cluster as c; print('code', c.code_in_use())"


class Finding(NamedTuple):
    """What one check found."""

    name: str
    said: str
    problems: tuple[Problem, ...] = ()
    exit_code: int = 0


def examine(plan: Plan, threads: int, cluster: Cluster | None, top: Path) -> Iterator[Finding]:
    """Every check of this machine, then those of the cluster up to the first that fails: what follows needs it."""
    for name, check in _here(plan, threads, top):
        yield _found(name, check)
    for name, check in _there(plan, cluster) if cluster else ():
        finding = _found(name, check)
        yield finding
        if finding.problems:
            return


def before_a_run(plan: Plan, cluster: Cluster) -> Iterator[Problem]:
    """Raise what would keep every job from its end; a queue that is full now is said, and waited for."""
    for _, check in _there(plan, cluster):
        try:
            check()
        except HeatwalkError as error:
            if any(problem.code != "HW-SL-006" for problem in error.problems):
                raise
            yield from error.problems


def _found(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, check())
    except HeatwalkError as error:
        return Finding(name, "", error.problems, error.exit_code)


def _here(plan: Plan, threads: int, top: Path) -> list[tuple[str, Callable[[], str]]]:
    settings = plan.config["compute"]
    return [
        ("workflow", lambda: f"{top}, {len(plan.datasets)} datasets"),
        ("python", lambda: f"{sys.executable} {platform.python_version()}, {threads} threads"),
        ("folder", _folder),
        ("room", lambda: _room(plan, threads)),
        ("device", lambda: compute.check_device(settings["device"]) or settings["device"]),
        ("scheduler", lambda: _scheduler(settings)),
    ]


def _there(plan: Plan, cluster: Cluster) -> list[tuple[str, Callable[[], str]]]:
    return [
        ("commands", slurm.check_commands),
        ("executor", _executor),
        ("controller", slurm.check_controller),
        ("partition", lambda: slurm.check_partition(cluster.partition)),
        ("account", lambda: slurm.check_account(cluster.account, cluster.partition)),
        ("status", lambda: slurm.check_status(cluster.status_command, max(3 * cluster.first_question, _QUESTIONS))),
        ("largest job", lambda: _largest(plan, cluster)),
        ("node", lambda: _node(Path("results", ".work"), cluster)),
    ]


def _folder() -> str:
    """The working folder takes files, and two writers cannot have one lock."""
    name = f"doctor-{secrets.token_hex(4)}"
    try:
        with store.lock(Path("results", name, "one")):
            pass
    except OSError as error:
        problem = Problem("HW-RS-003", f"{Path.cwd()}", f"cannot be written ({error})", "make it writable")
        raise OutOfResources(problem) from None
    finally:
        shutil.rmtree(Path("results", ".work", name), ignore_errors=True)
    return f"{Path.cwd()} takes files and locks, {needs.amount(shutil.disk_usage(Path.cwd()).free)} free"


def _room(plan: Plan, threads: int) -> str:
    memory = memory_bytes(plan.config["memory"])
    rows, bad = needs.of_config(plan, threads)
    if bad:
        raise BadInput(*bad)
    problems = needs.check(rows, memory, Path("results"))
    if problems:
        raise OutOfResources(*problems)
    most = max((row.need.memory for row in rows), default=0)
    disk = sum(row.need.result for row in rows)
    return f"at most {needs.amount(most)} of {needs.amount(memory)} memory, {needs.amount(disk)} of results"


def _scheduler(settings: dict) -> str:
    scheduler = settings["scheduler"]
    if scheduler == "slurm":
        word = worker_jobs.written(settings["slurm"])
        worker_jobs.check(worker_jobs.allowed(word))
        return word
    if "://" in scheduler:
        from heatwalk import cluster

        cluster.check_it_is_private(scheduler)
        cluster.check_it_answers(scheduler)
    return scheduler


def _executor() -> str:
    absent = [name.replace("_", "-") for name in _PLUGINS if importlib.util.find_spec(name) is None]
    if absent:
        remedy = "pip install -r envs/cluster.txt"
        raise OutOfResources(Problem("HW-SL-001", "Snakemake", f"{', '.join(absent)} is not installed", remedy))
    return ", ".join(_PLUGINS)


def _largest(plan: Plan, cluster: Cluster) -> str:
    """The first try of every stage fits the partition; a job that asks for more would wait for ever."""
    threads = plan.config["threads"]
    rows, _ = needs.of_config(plan, threads, missing_in=Path("results"))
    if not rows:
        return "nothing to run"
    limit = slurm.time_limit(cluster.partition)
    asked = [(jobs.megabytes(row.need, 1), jobs.minutes(row.need, 1), row) for row in rows]
    memory, minutes = max(asked, key=lambda one: one[0]), max(asked, key=lambda one: one[1])
    if limit and minutes[1] > limit:
        cause = f"its job asks for {minutes[1]} minutes, the partition gives {limit}"
        remedy = f"--set-resources {minutes[2].stage}:runtime={limit}, or another slurm_partition"
        raise BadInput(Problem("HW-SL-010", f"results/{minutes[2].dataset}/{minutes[2].stage}", cause, remedy))
    refusal = slurm.would_refuse(cluster.partition, cluster.account, memory[0], threads)
    if refusal:
        cause = f"its job asks for {memory[0]} MB and {threads} cores, and no node takes it ({refusal})"
        remedy = "set threads to the cores of a node, lower memory, or name another slurm_partition"
        raise BadInput(Problem("HW-SL-010", f"results/{memory[2].dataset}/{memory[2].stage}", cause, remedy))
    return f"{memory[0]} MB, {minutes[1]} minutes, {threads} cores at the first try"


def _node(work: Path, cluster: Cluster) -> str:
    """A job of a moment: it begins, sees this folder, and has this Python with this heatwalk."""
    folder = (work / f"doctor-{secrets.token_hex(4)}").resolve()
    folder.mkdir(parents=True)
    number = ""
    try:
        (folder / "asked").write_text(f"{folder.name}\n")
        number = slurm.submit(_script(folder), cluster.partition, cluster.account)
        _wait(lambda: slurm.state(number) not in ("PENDING", "CONFIGURING"), _BEGINS)
        if slurm.state(number) in ("PENDING", "CONFIGURING"):
            raise slurm.waits(number)
        _wait(lambda: _answer(folder) or slurm.state(number) not in ("RUNNING", "COMPLETING"), _ENDS)
        _wait(lambda: _answer(folder), 5)  # of a file system that shows files late
        return _understood(folder, _answer(folder), number)
    finally:
        if number and slurm.state(number) in ("PENDING", "CONFIGURING", "RUNNING"):
            with contextlib.suppress(OutOfResources):
                slurm.ask("scancel", number)
        shutil.rmtree(folder, ignore_errors=True)


def _script(folder: Path) -> str:
    asked, answer = (shlex.quote(str(folder / name)) for name in ("asked", "answer"))
    python = shlex.join([sys.executable, "-c", _ON_THE_NODE])
    return f"cat {asked} > {answer} && hostname >> {answer}; {python} >> {answer} 2>&1; echo ended $? >> {answer}"


def _answer(folder: Path) -> str:
    """What the job wrote, once it has written its last line."""
    with contextlib.suppress(OSError):
        text = (folder / "answer").read_text(errors="replace")
        return text if re.search(r"^ended \d+$", text, re.MULTILINE) else ""
    return ""


def _understood(folder: Path, answer: str, number: str) -> str:
    from heatwalk import cluster

    lines = answer.splitlines()
    if not answer.startswith(folder.name):
        seen = f"job {number} ended ({slurm.state(number) or 'forgotten'}), and what it wrote is not here"
        if slurm.state(number) == "RUNNING":
            seen = f"job {number} has not answered in {_ENDS:.0f} seconds"
        remedy = "work in a folder that is the same on all nodes (--directory), or name another slurm_partition"
        raise OutOfResources(Problem("HW-SL-007", f"{Path.cwd()}", f"nodes do not share this folder: {seen}", remedy))
    host, code = lines[1], next((line.split()[1] for line in lines if line.startswith("code ")), "")
    if lines[-1] != "ended 0":
        cause = f"node {host} cannot run {sys.executable} ({lines[-2] if len(lines) > 3 else lines[-1]})"
        remedy = "install heatwalk with envs/cluster.txt in a folder that all nodes see"
        raise OutOfResources(Problem("HW-SL-008", host, cause, remedy))
    if code != cluster.code_in_use():
        cause = f"node {host} has another heatwalk, or other versions of what it computes with"
        raise OutOfResources(Problem("HW-SL-008", host, cause, "install this one there, or share its folder"))
    return f"{host} sees this folder, and has this heatwalk"


def _wait(true: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(_POLL)
