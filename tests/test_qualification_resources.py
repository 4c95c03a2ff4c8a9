"""Disks that fill, memory that runs out, folders that cannot be written: exit code 4, the old result, and a resume."""

import functools
import os
import re
import resource
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import qualified
from qualified import TRIALS, Job
from workflow_runs import heatwalk

from heatwalk import store

SHARES = np.linspace(0.1, 0.9, max(3, TRIALS))  # of what a stage writes, or of the memory that it takes
PAGE = resource.getpagesize()


@pytest.fixture(scope="session")
def whole():
    return qualified.whole()


def other(job: Job) -> Job:
    """The same job with another result: nothing that stands can be kept."""
    return job._replace(command=job.command.replace("--block-cells 64", "--block-cells 32"))


def check_failure(done, job: Job, folder, whole, codes: str) -> None:
    """One line with the code, what is needed and what there is, and everything that stood stands."""
    assert done.returncode == 4, f"{done.returncode}: {done.stdout}{done.stderr}"
    assert re.match(rf"({codes}) ", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stdout
    check_standing(folder, whole)
    work = folder / "results" / ".work" / job.dataset / job.stage
    assert not work.exists(), list(work.rglob("*"))


def check_standing(folder, whole) -> None:
    assert qualified.roots(folder) == qualified.roots(whole.folder)
    assert [problem for name in whole.jobs for problem in store.verify(folder / "results" / name)] == []


def check_resumed(folder, job: Job, whole) -> None:
    """After the accident, another run makes the result that was asked for; the wanted one comes back after it."""
    done = qualified.run(other(job), folder)
    assert done.returncode == 0, done.stderr
    done = heatwalk(folder, "resume", "--cores", "2", job.target)
    assert done.returncode == 0, done.stderr
    assert qualified.root(folder, job.name) == whole.root(job.name)
    assert not list((folder / "results" / ".work" / job.dataset).glob(f"{job.stage}.failure.json"))


# ---- disk ------------------------------------------------------------------------------------------------------------


def largest_file(folder, job: Job) -> int:
    return max(path.stat().st_size for path in (folder / "results" / job.name).rglob("*") if path.is_file())


@pytest.mark.qualification("full disk")
@pytest.mark.parametrize("stage", qualified.stages())
def test_a_file_that_cannot_grow_ends_with_4_and_the_old_result_stands(whole, tmp_path, stage, record_property):
    """RLIMIT_FSIZE: writes fail at some bytes of a file, as on a disk that fills in the middle of it."""
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    largest, ended = largest_file(folder, job), []
    for share in SHARES:
        most = max(int(share * largest), 1)

        def limit(most=most):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        done = qualified.run(other(job), folder, limit=limit)
        ended.append(done.returncode)
        check_failure(done, job, folder, whole, "HW-RS-002")
        assert re.search(r"about [\d,]+ MB are needed, [\d,]+ MB are free", done.stderr), done.stderr
    record_property("trials", {stage: len(ended)})
    check_resumed(folder, job, whole)


ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size={size} none {work}
cd {folder}
exec {command}
"""


@pytest.mark.qualification("full disk")
@pytest.mark.parametrize("stage", qualified.stages())
def test_a_disk_that_fills_ends_with_4_and_the_old_result_stands(whole, tmp_path, stage, record_property):
    """A real disk of 10% to 90% of what the unfinished result takes, mounted where it is made."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    files = [path for path in (folder / "results" / job.name).rglob("*") if path.is_file() and not path.is_symlink()]
    made_there = [path for path in files if not path.name.endswith(("manifest.json", "objects.json", "run.json"))]
    need = sum(-(-path.stat().st_size // PAGE) * PAGE for path in made_there)
    work, failed = folder / "results" / ".work" / job.dataset, 0
    work.mkdir(parents=True, exist_ok=True)
    for share in SHARES:
        size = max(int(share * need) // PAGE, 1) * PAGE
        script = ON_A_SMALL_DISK.format(
            size=size, work=work, folder=folder, command=other(job).command.split("exec ")[1]
        )
        done = subprocess.run(
            ["unshare", "-rm", "bash", "-c", script],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        check_failure(done, job, folder, whole, "HW-RS-002")
        failed += 1
    record_property("trials", {stage: failed})
    check_resumed(folder, job, whole)


@pytest.mark.qualification("read-only")
@pytest.mark.parametrize("stage", qualified.stages())
def test_results_that_cannot_be_written_end_with_4(whole, tmp_path, stage):
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no folder can be made read-only for root here")
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    command = other(job).command.split("exec ")[1]
    lines = f"set -e; mount --bind {folder}/results {folder}/results; mount -o remount,ro,bind {folder}/results"
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", f"{lines}; cd {folder}; exec {command}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    check_failure(done, job, folder, whole, "HW-RS-003")
    check_resumed(folder, job, whole)


# ---- memory ----------------------------------------------------------------------------------------------------------


def peak_of(job: Job, folder) -> int:
    """Bytes of address space that the program of a job takes at most."""
    program, most = qualified.start(job, folder), 0
    while program.poll() is None:
        try:
            most = max(most, psutil.Process(program.pid).memory_info().vms)
        except psutil.Error:
            break
        try:
            program.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
    said, errors = program.communicate()
    assert program.returncode == 0, said + errors
    return most


@pytest.mark.qualification("memory")
@pytest.mark.parametrize("stage", qualified.stages())
def test_an_address_space_that_is_too_small_ends_with_4(whole, tmp_path, stage, record_property):
    """RLIMIT_AS: 10 to 90% of the way from a program that has been loaded to what the stage takes at most."""
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    most, ended = peak_of(job, folder), {}
    least = loaded(folder)
    for share in SHARES:
        size = int(least + share * (most - least))

        def limit(size=size):
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        done = qualified.run(other(job), folder, limit=limit, OPENBLAS_NUM_THREADS="1")
        if done.returncode != 0:
            check_failure(done, job, folder, whole, "HW-RS-001|HW-RS-004|HW-RS-008")
            assert re.search(r"[\d,]+ MB (of address space, |are needed, )[\d,]+ MB are available", done.stderr)
        ended[f"{share:.0%}"] = done.returncode
        if done.returncode == 0:
            break
    print(f"{stage}: {least / 1e6:.0f} to {most / 1e6:.0f} MB, {ended}")
    assert 4 in ended.values()
    for _ in range(2):  # what the line says to type, before and after the inputs are known, suffices in the end
        foreseen = re.search(r"ulimit -v (\d+)", done.stderr)
        if foreseen:
            size = 1024 * int(foreseen.group(1))
            done = qualified.run(job, folder, limit=functools.partial(limit, size), OPENBLAS_NUM_THREADS="1")
            ended["as it says"] = done.returncode
    assert done.returncode == 0, done.stderr
    record_property("trials", {stage: len(ended)})
    check_resumed(folder, job, whole)


def loaded(folder) -> int:
    """Bytes of address space of a program that has been loaded and has done nothing."""
    line = "from heatwalk import program, store; import zarr; print(open('/proc/self/statm').read().split()[0])"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    return int(done.stdout) * PAGE
