"""Kills at random moments, of every stage: what is published stays whole, and a resumed run ends in the same hashes."""

import atexit
import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import qualified
from qualified import TRIALS, Job
from workflow_runs import ROOT, heatwalk

from heatwalk import store

VICTIMS = ("job", "snakemake", "both")
IN_A_ROW = 2  # kills of every victim that share a run: what is killed next is the run that goes on after the last kill
PATIENCE = 1200  # seconds, on a machine that has other things to do


@pytest.fixture(scope="session")
def whole():
    return qualified.whole()


class Watch(contextlib.AbstractContextManager):
    """Verifies one result every 20 ms: what its manifest names must be there, whole, at every moment."""

    def __init__(self, folder):
        self.folder, self.torn, self.looks = folder, [], 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            with contextlib.suppress(FileNotFoundError):  # published again, or swept, while it was being read
                before = (self.folder / "manifest.json").read_bytes()
                problems = [str(problem) for problem in store.verify(self.folder)]
                self.looks += 1
                # A manifest or a link that was replaced while it was read is no torn result.
                if (self.folder / "manifest.json").read_bytes() == before:
                    self.torn += [text for text in problems if "points elsewhere" not in text]


def begun(job: Job, run: subprocess.Popen):
    """The stage program of a job, as soon as the Snakemake of a run has started it; None when it has come and gone."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.Error):
            for each in psutil.Process(run.pid).children(recursive=True):
                if f"scripts/{job.stage}.py" in " ".join(cmdline(each)):
                    return each
        if run.poll() is not None:
            return None
        time.sleep(0.05)
    raise TimeoutError(f"{job.name} was not started in {PATIENCE} s")


def cmdline(process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kill(process) -> None:
    with contextlib.suppress(Exception):  # it may have ended a moment ago
        process.kill()


def kill_somewhere(job: Job, folder, log, victim: str, moment: float) -> bool:
    """Go on by `heatwalk resume` and kill at a moment; whether that was in the job."""
    command = [sys.executable, "-m", "heatwalk.cli", "resume", "--cores", "2", job.target]
    run = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    program = begun(job, run)
    assert program, f"resume ended with {run.returncode} and never began {job.name}: {Path(log.name).read_text()}"
    starter = next(each for each in program.parents() if "snakemake" in cmdline(each))
    time.sleep(moment)
    alive = program.is_running()
    if victim in ("snakemake", "both"):
        kill(starter)
    if victim in ("job", "both"):
        kill(program)
    run.wait(PATIENCE)
    return alive


def check_resumed(whole, job: Job, folder) -> None:
    done = heatwalk(folder, "resume", "--cores", "2", job.target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert qualified.programs(folder) == []
    assert qualified.root(folder, job.name) == whole.root(job.name)
    assert store.verify(folder / "results" / job.name) == []
    litter = [path.name for path in (folder / "results" / ".work" / job.dataset).glob(f"{job.stage}*")]
    assert litter in ([], [f"{job.stage}.lock"]), litter


class Older(NamedTuple):
    """A result of the same job with other parameters, and the seconds that its program took here and now."""

    result: Path
    seconds: float


@functools.cache
def older(whole: qualified.Whole, job: Job) -> Older:
    folder = whole.copy(Path(tempfile.mkdtemp(prefix="older")) / "run")
    started = time.monotonic()
    done = qualified.run(job._replace(command=job.command.replace("--block-cells 64", "--block-cells 32")), folder)
    assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - started
    result = shutil.move(folder / "results" / job.name, folder.parent / "result")
    shutil.rmtree(folder)
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return Older(result, seconds)


@pytest.mark.qualification("kill")
@pytest.mark.parametrize("stage", qualified.stages())
@pytest.mark.parametrize("first", range(0, TRIALS, IN_A_ROW))
def test_kills_at_random_moments_change_nothing(whole, tmp_path, stage, first, record_property):
    check_kills(whole, tmp_path, stage, VICTIMS * min(IN_A_ROW, TRIALS - first), first, record_property)


def check_kills(whole, tmp_path, stage, victims, seed, record_property) -> None:
    """Every run but the last is killed; each begins as the one before was left, or anew where that had published."""
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    generator, inside = random.Random(f"{stage} {seed}"), Counter()
    with Watch(folder / "results" / job.name) as watch, open(tmp_path / "log", "w") as log:
        for number, victim in enumerate(generator.sample(victims, len(victims))):
            if number == 0 or published(whole, job, folder):  # at once, for the one who watches
                (folder / "results" / job.name).rename(tmp_path / f"made {number}")
                if (seed // IN_A_ROW + number) % 2:  # a result of other options stands
                    shutil.copytree(older(whole, job).result, tmp_path / "older", symlinks=True)
                    (tmp_path / "older").rename(folder / "results" / job.name)
            # Programs are slow to begin where their Snakemake may end before they know: the first kill is there.
            moment = generator.uniform(0, older(whole, job).seconds if number else 0.3)
            inside[victim] += kill_somewhere(job, folder, log, victim, moment)
        check_resumed(whole, job, folder)
    record_property("trials", {stage: inside.total()})
    record_property("said", dict(inside))
    assert watch.torn == []
    assert watch.looks > 0
    assert qualified.roots(folder) == qualified.roots(whole.folder)


def published(whole, job: Job, folder) -> bool:
    try:
        return qualified.root(folder, job.name) == whole.root(job.name)
    except FileNotFoundError:
        return False


@pytest.mark.qualification("two at once")
@pytest.mark.parametrize("stage", qualified.stages())
def test_of_two_writers_one_wins_and_the_other_names_it(whole, tmp_path, stage):
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    first = qualified.start(job, folder)
    lock = folder / "results" / ".work" / job.dataset / f"{job.stage}.lock"
    deadline = time.monotonic() + PATIENCE
    while not (lock.exists() and held(lock)) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if first.poll() is None:
        os.kill(pid_of(job, folder), signal.SIGSTOP)  # it holds the lock for as long as this takes
        second = qualified.run(job, folder)
        holder = pid_of(job, folder)
        os.kill(holder, signal.SIGCONT)
        assert second.returncode == 3, second.stderr
        assert f"{holder}" in second.stderr
        assert second.stderr.count("\n") == 1
    said, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, said + errors
    assert qualified.root(folder, job.name) == whole.root(job.name)


def pid_of(job: Job, folder) -> int:
    return next(each.pid for each in qualified.programs(folder) if f"{job.stage}.py" in " ".join(cmdline(each)))


def held(lock) -> bool:
    import fcntl

    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def stages_with_checkpoints() -> list[str]:
    return [stage for stage in qualified.stages() if "checkpoint" in (ROOT / "scripts" / f"{stage}.py").read_text()]


@pytest.mark.qualification("training resumed")
@pytest.mark.parametrize("trial", range(TRIALS))
@pytest.mark.parametrize("stage", stages_with_checkpoints())
def test_training_goes_on_from_its_checkpoint_to_the_same_weights(whole, tmp_path, stage, trial):
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    qualified.without(folder, job)
    checkpoint = folder / "results" / ".work" / job.dataset / f"{job.stage}.checkpoint"
    program = qualified.start(job, folder)
    deadline, generator = time.monotonic() + PATIENCE, random.Random(f"{stage} {trial}")
    while not checkpoint.exists():
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(generator.uniform(0, 0.3))
    kill(program)
    program.communicate()
    if not (folder / "results" / job.name / "manifest.json").exists():
        kept = checkpoint.read_bytes()
        assert kept
    done = qualified.run(job, folder)
    assert done.returncode == 0, done.stderr
    assert qualified.root(folder, job.name) == whole.root(job.name)
    assert not checkpoint.exists()
