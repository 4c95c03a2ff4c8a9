"""The same results wherever and however they are made, and exactly what has to be made again."""

import functools
import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import qualified
from qualified import ROOT, Job
from workflow_runs import dry_run

from heatwalk import config, store
from heatwalk.errors import BadInput

# How a run may differ without a difference in what it makes: what is added to every command, and to its environment.
ELSEWHERE = {"LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "4242", "HOME": "/nonexistent"}
VARIANTS = {
    "one thread": ("--threads 1", {"OMP_NUM_THREADS": "1"}),
    "three threads": ("--threads 3", {"OMP_NUM_THREADS": "3"}),
    "locale, time zone, hash seed, home": ("", ELSEWHERE),
    "two worker processes": ("--threads 2 --scheduler processes", {}),
    "three worker processes": ("--threads 3 --scheduler processes", {}),
}


@pytest.fixture(scope="session")
def whole():
    return qualified.whole()


def shuffled(whole, generator: random.Random) -> list[Job]:
    """All jobs in an order in which they can run, drawn at random."""
    left, done = list(whole.jobs.values()), []
    while left:
        able = [job for job in left if {*job.inputs} <= {each.name for each in done}]
        done.append(generator.choice(able))
        left.remove(done[-1])
    return done


def with_arguments(job: Job, more: str) -> Job:
    """A job with arguments that go before those of its rule; none that its stage does not know."""
    if "--scheduler" in more and "--scheduler" not in job.command:
        more = more.partition("--scheduler")[0]
    return job._replace(command=f"{job.command} {more}")  # of an argument given twice the later counts


@pytest.mark.qualification("the same hash")
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_hashes_in_any_order_and_surroundings(whole, tmp_path, variant, record_property):
    """Every job by itself in a random order, in another folder with a space in its name."""
    more, environment = VARIANTS[variant]
    folder = qualified.prepare(tmp_path / "another place")
    different = []
    for job in shuffled(whole, random.Random(variant)):
        done = qualified.run(with_arguments(job, more), folder, **environment)
        assert done.returncode == 0, f"{job.name}: {done.stderr}"
        if qualified.root(folder, job.name) != whole.root(job.name):
            different.append(job.name)
    record_property("trials", dict(Counter(job.stage for job in whole.jobs.values())))
    record_property("failures", len(different))
    assert different == []


# ---- other processors ------------------------------------------------------------------------------------------------

# Older code paths of every library that chooses by processor: last bits may differ.
OLD_PROCESSOR = {
    "OPENBLAS_CORETYPE": "Prescott",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX AVX2 FMA3",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "FAISS_OPT_LEVEL": "generic",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
    "PYTHONWARNINGS": "ignore",
}
# By how much values may differ there, as a share of the largest of their array: docs/qualification.md says why.
CLASSES = {"rounding": 1e-6, "trained": float("inf")}
SMALLEST = 1e-6  # values that are all smaller are what rounding left (residuals)


def class_of(stage: str) -> str:
    text = (ROOT / "scripts" / f"{stage}.py").read_text()
    return "trained" if "checkpoint" in text else "rounding"


def largest_difference(one: store.Result, other: store.Result) -> dict[str, float]:
    """Of every array of numbers, the largest difference as a share of its largest value."""
    found = {}
    for name in one:
        first, second = one[name], other[name]
        if not hasattr(first, "dtype") or first.dtype.kind not in "fiub" or first.shape != second.shape:
            found[name] = 0.0 if not hasattr(first, "dtype") or first.shape == second.shape else float("inf")
            continue
        a, b = np.asarray(first[...], float), np.asarray(second[...], float)
        assert (np.isnan(a) == np.isnan(b)).all(), name
        known = ~np.isnan(a)
        scale = max(np.abs(a[known]).max(initial=0), SMALLEST)
        found[name] = float(np.abs(a - b)[known].max(initial=0) / scale)
    return found


@pytest.mark.qualification("older processor")
@pytest.mark.parametrize("stage", qualified.stages())
def test_an_older_processor_changes_no_more_than_its_class_allows(whole, tmp_path, stage):
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    before = store.read(qualified.own(folder, job))
    folder = whole.copy(tmp_path / "older")
    done = qualified.run(job, folder, **OLD_PROCESSOR)
    assert done.returncode == 0, done.stderr
    differences = largest_difference(before, store.read(folder / "results" / job.name))
    worst = max(differences, key=differences.get, default="")
    print(f"{stage}: {differences.get(worst, 0):.1e} ({worst}), class {class_of(stage)}")
    assert differences.get(worst, 0) <= CLASSES[class_of(stage)], differences


# ---- what runs again -------------------------------------------------------------------------------------------------


@functools.cache
def another(stage: str) -> dict:
    """The options of a stage with one of them changed, as the plan allows it."""
    shipped, chosen = config.load(ROOT / "config" / "config.yaml")[stage], qualified.options()
    for name, value in shipped.items():
        value = chosen.get(stage, {}).get(name, value)
        tries = [not value] if isinstance(value, bool) else [["type"], ["time"]] if isinstance(value, list) else []
        tries += [value + 1, value / 2] if isinstance(value, int | float) and not isinstance(value, bool) else []
        for changed in tries:
            options = {**chosen, stage: {**chosen.get(stage, {}), name: changed}}
            if changed != value and is_allowed(options):
                return options
    raise LookupError(f"{stage} has no option that this test can change")


def is_allowed(options: dict) -> bool:
    complete = config.complete(options, config.load(ROOT / "config" / "config.yaml"))
    try:
        return not config.check(complete, ROOT / "workflow" / "schemas")
    except BadInput:
        return False


def planned(folder: Path) -> set[str]:
    """What a dry run would run."""
    done = dry_run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = re.findall(r"^    output: (results/\S+)/manifest\.json", done.stdout, re.MULTILINE)
    return {output.removeprefix("results/") for output in outputs}


def after(whole, names: set[str]) -> set[str]:
    """Jobs and all that is made from them."""
    while (more := names | {job.name for job in whole.jobs.values() if {*job.inputs} & names}) != names:
        names = more
    return names


@pytest.mark.qualification("staleness")
@pytest.mark.parametrize("stage", qualified.stages())
def test_a_changed_option_reruns_its_stage_and_what_follows(whole, tmp_path, stage):
    folder = whole.copy(tmp_path / "run")
    (folder / "config" / "config.yaml").write_text(json.dumps(another(stage)))
    assert planned(folder) == after(whole, {job.name for job in whole.jobs.values() if job.stage == stage})


@pytest.mark.qualification("staleness")
@pytest.mark.parametrize("stage", qualified.stages())
def test_a_deleted_result_and_an_edited_manifest_are_noticed(whole, tmp_path, stage):
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    assert planned(folder) == set()
    manifest = folder / "results" / job.name / "manifest.json"
    content = manifest.read_text()
    os.unlink(manifest)  # its file is shared with the uninterrupted run
    manifest.write_text(content.replace('"format":1', '"format": 1'))
    assert store.verify(manifest.parent)
    assert job.name in planned(folder) or after(whole, {job.name}) - {job.name} <= planned(folder)
    qualified.without(folder, job)
    assert job.name in planned(folder)


@pytest.mark.qualification("staleness")
def test_a_source_is_known_by_its_content_and_not_by_its_time(whole, tmp_path):
    folder = whole.copy(tmp_path / "run")
    source = folder / "config" / "new.h5ad"
    for seconds in (-10 * 86400, 86400):  # long ago, and a clock that goes wrong
        moment = time.time() + seconds
        os.utime(source, (moment, moment))
        assert planned(folder) == set()
    content = bytearray(source.read_bytes())
    content[-1] ^= 1
    source.write_bytes(content)
    moment = time.time() - 10 * 86400
    os.utime(source, (moment, moment))
    reading = {job.name for job in whole.jobs.values() if job.stage == "cells" and "new.h5ad" in job.command}
    assert planned(folder) == after(whole, reading)


# ---- network, threads, files -----------------------------------------------------------------------------------------


BETWEEN = 1  # a thread that hands work on wants to run while those that it is for do
LOOPBACK_6 = ("00000000000000000000000001000000", "0000000000000000FFFF00000100007F")  # ::1, ::ffff:127.0.0.1


class Sampler:
    """Looks at every process of a run: sockets that are not of this machine alone, and threads that want to run."""

    def __init__(self, process: psutil.Process):
        self.process, self.foreign, self.looks = process, set(), 0
        self.moments, self.running = [], []
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def sustained(self) -> float:
        """The most threads that wanted to run for a second: most of a whole run is spent on loading programs."""
        moments, running = np.array(self.moments), np.array(self.running)
        whole = moments <= moments[-1] - 1
        means = [running[(moments >= one) & (moments <= one + 1)].mean() for one in moments[whole]]
        return max(means, default=0.0)

    def _look(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            running = 0
            for each in self._processes():
                try:
                    self.foreign |= foreign_sockets(each.pid)
                    running += sum(_state(path) == "R" for path in Path(f"/proc/{each.pid}/task").iterdir())
                except (psutil.Error, OSError):
                    continue
            self.moments.append(time.monotonic())
            self.running.append(running)
            self.looks += 1
            time.sleep(0.05)

    def _processes(self) -> list[psutil.Process]:
        try:
            return self.process.children(recursive=True)
        except psutil.Error:
            return []


def foreign_sockets(pid: int) -> set[str]:
    """Local addresses of all sockets in the network namespace of a process that are not of the loopback.

    psutil would list those of the namespace of this process, in which the run has none.
    """
    found = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            address, _, port = line.split()[1].partition(":")
            # Groups of four bytes, each from the last: 127.0.0.1 is 0100007F.
            loopback = address.endswith("7F") if len(address) == 8 else address in LOOPBACK_6
            found |= set() if loopback else {f"{kind} {address}:{int(port, 16)}"}
    return found


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def test_a_socket_for_everybody_would_be_seen():
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        before = foreign_sockets(os.getpid())
        with socket.create_server((address, 0), family=family) as open_to_all:
            port = open_to_all.getsockname()[1]
            assert {one.rpartition(":")[2] for one in foreign_sockets(os.getpid()) - before} >= {f"{port}"}
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as private:
            assert f":{private.getsockname()[1]}" not in " ".join(foreign_sockets(os.getpid()))


@pytest.mark.parametrize(("threads", "too_many"), [(2, False), (5, True)])
def test_more_threads_than_cores_would_be_seen(threads, too_many):
    """In a process that has nothing to do before and after."""
    lines = f"""
import hashlib, threading, time
def work():
    while time.monotonic() < end:
        hashlib.sha256(content)
content = bytes(10**7)
time.sleep(1)
end = time.monotonic() + 5
threads = [threading.Thread(target=work) for _ in range({threads})]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
time.sleep(1)
"""
    with psutil.Popen(["sh", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(lines)}; true"]) as run:
        sampler = Sampler(psutil.Process(run.pid))
        run.wait()
        sampler.join()
    assert (sampler.sustained() > 2 + BETWEEN) == too_many, sampler.running


@pytest.mark.qualification("no network")
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_whole_run_needs_no_network_and_leaves_no_file(whole, tmp_path, scheduler):
    if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode:
        pytest.skip("there are no network namespaces here")
    folder, temporary = qualified.prepare(tmp_path / "run"), tmp_path / "temporary"
    temporary.mkdir()
    (folder / "config" / "config.yaml").write_text(
        json.dumps({**qualified.options(), "compute": {"scheduler": scheduler}})
    )
    loopback = "ip link set lo up && " if scheduler == "processes" else ""
    if loopback and not shutil.which("ip"):
        pytest.skip("there is no ip to switch the loopback on with")
    python = shlex.quote(sys.executable)  # another one is first in PATH where make runs this
    run = psutil.Popen(
        ["unshare", "-rn", "sh", "-c", f"{loopback}exec {python} -m heatwalk.cli run --cores 2"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sampler = Sampler(psutil.Process(run.pid))
    said, _ = run.communicate(timeout=1800)
    sampler.join()
    assert run.returncode == 0, said
    assert qualified.roots(folder) == qualified.roots(whole.folder)
    assert sampler.foreign == set()
    assert sampler.looks > 20
    mean, most = np.mean(sampler.running), sampler.sustained()
    print(f"{scheduler}: {mean:.2f} threads wanted to run, of 2 cores, {most:.2f} for a second")
    assert mean <= 2 * 1.1
    if scheduler == "threads":  # worker processes are loaded while the program that starts them runs
        assert most <= 2 + BETWEEN
    assert [path.name for path in temporary.rglob("*") if path.is_file()] == []
    assert {path.name for path in folder.iterdir()} == {"config", "results", "logs", ".snakemake"}
    work = {path.name for path in (folder / "results" / ".work").rglob("*") if not path.name.endswith(".lock")}
    assert work == {job.dataset for job in whole.jobs.values()}
