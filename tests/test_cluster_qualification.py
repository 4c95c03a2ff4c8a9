"""The long suite for worker processes and schedulers (make qualify): whole workflows, random kills, every accident."""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_cluster import SCHEDULED, dask, kill_tree, nobody, root, silent, wait_until
from workflow_runs import ROOT, heatwalk

from heatwalk import cluster, compute, store
from heatwalk.errors import BadInput, OutOfResources

pytestmark = pytest.mark.qualification("worker processes")

MANY_CELLS = 120_000  # from 100,000 on diffusion_map sends its products
QUIET_SECONDS = 35  # that they take on two cores with nothing beside
A_MINUTE = 60


def configure(folder: Path, scheduler: str, threads: int = 2, block_cells: int = 1024) -> None:
    options = f"compute: {{scheduler: '{scheduler}'}}\nthreads: {threads}\nblock_cells: {block_cells}\n"
    (folder / "config" / "config.yaml").write_text(options + "neighbors: {method: inverted_lists}\n")


def prepare(folder: Path, n_cells: int) -> Path:
    """A working folder with simulated cells, of which the stages up to diffusion_map are wanted."""
    (folder / "config").mkdir(parents=True)
    cells = folder / "config" / "cells.npy"
    subprocess.run([sys.executable, ROOT / "benchmarks" / "points.py", cells, f"{n_cells}"], check=True)
    (folder / "config" / "datasets.tsv").write_text(
        "name\tsource\tkind\tstages\ntoy\tcells.npy\tpoints\tdiffusion_map\n"
    )
    return folder


def roots(folder: Path) -> dict[str, str]:
    return {stage: root(folder, stage) for stage in SCHEDULED}


def unscheduled(finished: Path, folder: Path) -> Path:
    """A copy of a finished run in which the scheduled stages are still to be made."""
    shutil.copytree(finished, folder, symlinks=True)
    for stage in SCHEDULED:
        shutil.rmtree(folder / "results" / "toy" / stage)
    return folder


def run_whole(folder: Path, n_cells: int) -> tuple[Path, float]:
    prepare(folder, n_cells)
    configure(folder, "threads")
    started = time.monotonic()
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, time.monotonic() - started


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    return run_whole(tmp_path_factory.mktemp("some") / "run", 6_000)[0]


@pytest.fixture(scope="module")
def many_and_seconds(tmp_path_factory):
    folder, seconds = run_whole(tmp_path_factory.mktemp("many") / "run", MANY_CELLS)
    print(f"{MANY_CELLS} cells on 2 threads: {seconds:.0f} seconds")
    return folder, seconds


@pytest.fixture
def many(many_and_seconds):
    return many_and_seconds[0]


@pytest.fixture
def times_slower(many_and_seconds):
    """How much slower than a quiet machine this one is: what a block takes has to be done between two deaths."""
    return max(1, many_and_seconds[1] / QUIET_SECONDS)


def program(folder: Path) -> psutil.Process | None:
    """The scheduled stage program that runs in a folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.cwd() == str(folder) and "--block-cells" in line and any(f"{s}.py" in line for s in SCHEDULED):
                return process
    return None


def stage_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next(stage for stage in SCHEDULED if f"/{stage}.py" in line)


def worker_processes(of: psutil.Process) -> list[psutil.Process]:
    children = of.children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


# ---- the same hashes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_workers", [2, 4])
@pytest.mark.parametrize("where", ["processes", "address"])
def test_the_same_hashes_on_threads_processes_and_a_scheduler(some, tmp_path, where, n_workers):
    folder = unscheduled(some, tmp_path / "run")
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(dask(tmp_path / "elsewhere", n_workers)) if where == "address" else None
        configure(folder, running.address if running else where, threads=n_workers)
        started = time.monotonic()
        done = heatwalk(folder, "run", "--cores", f"{n_workers}")
        print(f"{where}, {n_workers} workers: {time.monotonic() - started:.0f} seconds")
    assert done.returncode == 0, done.stdout + done.stderr
    assert roots(folder) == roots(some)
    assert program(folder) is None


# ---- random deaths ---------------------------------------------------------------------------------------------------


def kill_workers(folder: Path, nanny, stop: threading.Event, killed: dict, seed: int, slower: float) -> None:
    """Kill a worker at a random moment, again and again while scheduled stages run."""
    generator = random.Random(seed)
    while not stop.wait(slower * generator.uniform(1, 4)):
        with contextlib.suppress(psutil.Error, StopIteration):
            running = program(folder)
            workers = worker_processes(nanny or running) if running else []
            if len(workers) > 1:
                generator.choice(workers).kill()
                killed[stage_of(running)] += 1


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("where", ["processes", "address"])
def test_workers_killed_at_random_moments_change_nothing(many, times_slower, tmp_path, where, seed):
    folder = unscheduled(many, tmp_path / "run")
    stop, killed = threading.Event(), dict.fromkeys(SCHEDULED, 0)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(dask(tmp_path / "elsewhere", 3)) if where == "address" else None
        configure(folder, running.address if running else where, threads=3)
        arguments = (folder, running.nanny if running else None, stop, killed, seed, times_slower)
        killer = threading.Thread(target=kill_workers, args=arguments)
        killer.start()
        started = time.monotonic()
        try:
            done = heatwalk(folder, "run", "--cores", "3")
        finally:
            stop.set()
            killer.join()
    print(f"{where}: killed {killed} in {time.monotonic() - started:.0f} seconds")
    assert done.returncode == 0, done.stdout + done.stderr
    assert min(killed.values()) >= 2
    assert roots(folder) == roots(many)


# ---- schedulers that are gone ----------------------------------------------------------------------------------------


def check_resumed(folder: Path, finished: Path, scheduler: str = "threads") -> None:
    configure(folder, scheduler)
    done = heatwalk(folder, "resume", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert roots(folder) == roots(finished)
    assert heatwalk(folder, "verify").returncode == 0


def check_refused(folder: Path, stages_left: dict) -> float:
    """`heatwalk run` ends with 4 and one line, and what was published stands; the seconds it took."""
    started = time.monotonic()
    done = heatwalk(folder, "run", "--cores", "2")
    seconds = time.monotonic() - started
    assert done.returncode == 4, done.stdout + done.stderr
    assert sum(line.startswith("HW-RS-005") for line in done.stderr.splitlines()) >= 1
    assert "type: heatwalk resume" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert {stage: root(folder, stage) for stage in stages_left} == stages_left
    assert program(folder) is None
    return seconds


@pytest.mark.parametrize("accident", ["nobody listens", "silence", "no workers"])
def test_a_scheduler_that_is_not_there_is_said_within_a_minute(some, tmp_path, accident):
    folder = unscheduled(some, tmp_path / "run")
    with contextlib.ExitStack() as stack:
        if accident == "nobody listens":
            address = nobody()
        elif accident == "silence":
            address = stack.enter_context(silent())
        else:
            address = stack.enter_context(dask(tmp_path / "elsewhere", 0)).address
        configure(folder, address)
        seconds = check_refused(folder, {})
    print(f"{accident}: {seconds:.0f} seconds")
    assert seconds < A_MINUTE
    check_resumed(folder, some)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("stage", SCHEDULED)
def test_a_scheduler_that_dies_or_hangs_in_the_middle_is_said_within_a_minute(many, tmp_path, stage, end):
    folder, left = unscheduled(many, tmp_path / "run"), dict(list(roots(many).items())[: SCHEDULED.index(stage)])
    for name in SCHEDULED[: SCHEDULED.index(stage)]:
        shutil.copytree(many / "results" / "toy" / name, folder / "results" / "toy" / name, symlinks=True)
    with dask(tmp_path / "elsewhere", 2) as running:
        configure(folder, running.address)
        moments = []

        def accident():
            wait_until(lambda: (found := program(folder)) and stage_of(found) == stage, 120)
            time.sleep(5)
            running.scheduler.send_signal(end)
            moments.append(time.monotonic())

        clumsy = threading.Thread(target=accident)
        clumsy.start()
        check_refused(folder, left)
        seconds = time.monotonic() - moments[0]
        clumsy.join()
    print(f"{stage}, signal {end}: said {seconds:.0f} seconds later")
    assert seconds < A_MINUTE
    with dask(tmp_path / "again", 2) as running:
        check_resumed(folder, many, running.address)


# ---- programs that are killed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", SCHEDULED)
def test_a_killed_program_leaves_no_process_and_is_resumed(many, tmp_path, stage):
    folder = unscheduled(many, tmp_path / "run")
    for name in SCHEDULED[: SCHEDULED.index(stage)]:
        shutil.copytree(many / "results" / "toy" / name, folder / "results" / "toy" / name, symlinks=True)
    configure(folder, "processes")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        wait_until(lambda: (found := program(folder)) and stage_of(found) == stage, 120)
        found = program(folder)
        wait_until(lambda: len(worker_processes(found)) == 2)
        time.sleep(5)
        workers = worker_processes(found)
        found.kill()
        assert run.wait(60) == 1
    assert psutil.wait_procs(workers, timeout=15)[1] == []
    check_resumed(folder, many)


def test_a_worker_that_dies_of_its_block_every_time_is_said(tmp_path):
    def die(item):
        os.kill(os.getpid(), signal.SIGKILL)

    started = time.monotonic()
    with pytest.raises(OutOfResources, match="HW-RS-005.*4 workers died"), compute.workers("processes", 2) as workers:
        list(workers.in_order(die, [1]))
    assert time.monotonic() - started < A_MINUTE


# ---- another heatwalk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["changed", "none"])
def test_workers_with_another_heatwalk_end_a_run_with_2(some, tmp_path, kind):
    folder, library = unscheduled(some, tmp_path / "run"), tmp_path / "library"
    if kind == "changed":
        shutil.copytree(ROOT / "src", library, ignore=shutil.ignore_patterns("__pycache__"))
        with open(library / "heatwalk" / "lists.py", "a") as module:
            module.write("# another\n")
    else:
        (library / "heatwalk").mkdir(parents=True)
        (library / "heatwalk" / "__init__.py").touch()
    with dask(tmp_path / "elsewhere", 2, PYTHONPATH=str(library)) as running:
        configure(folder, running.address)
        done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "HW-CP-001" in done.stderr.splitlines()[-1]
    check_resumed(folder, some)


def test_a_worker_that_joins_with_another_heatwalk_is_refused(tmp_path, monkeypatch):
    with dask(tmp_path / "elsewhere", 1) as running, compute.workers(running.address) as workers:
        assert list(workers.in_order(abs, [-1])) == [1]
        monkeypatch.setattr(cluster, "code_in_use", lambda: "another")
        with pytest.raises(BadInput, match="HW-CP-001"):
            list(workers.in_order(abs, [-1]))


# ---- full disks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
@pytest.mark.parametrize("stage", SCHEDULED)
def test_a_disk_that_fills_at_any_moment_ends_with_4_and_the_old_result_stands(some, tmp_path, stage, scheduler):
    folder = shutil.copytree(some, tmp_path / "run", symlinks=True)
    before, ended = roots(folder), {}
    # The same stage with other options, so that all of it has to be written.
    option = {"neighbors": {"n_neighbors": 25}, "affinity": {"alpha": 0.5}, "diffusion_map": {"n_components": 9}}[stage]
    for most in np.geomspace(3e3, 3e6, 10).astype(int):

        def limit(most=most):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        done = stage_program(folder, stage, option, scheduler, limit)
        ended[int(most)] = done.returncode
        assert done.returncode in (0, 4), done.stderr
        if done.returncode == 4:
            assert done.stderr.count("\n") == 1, done.stderr
            assert "HW-RS-002" in done.stderr
            assert roots(folder) == before
            assert not (folder / "results" / ".work" / "toy" / stage).exists()
        assert store.verify(folder / "results" / "toy" / stage) == []
        if done.returncode == 0:
            break
    print(f"{stage} on {scheduler}: {ended}")
    assert 4 in ended.values()


def stage_program(folder: Path, stage: str, option: dict, scheduler: str, limit) -> subprocess.CompletedProcess:
    import json

    inputs = {"neighbors": ["pca"], "affinity": ["pca", "neighbors"], "diffusion_map": ["affinity"]}[stage]
    given = ["--inputs", *(f"results/toy/{name}/manifest.json" for name in inputs)]
    command = [sys.executable, str(ROOT / "scripts" / f"{stage}.py"), "--result", f"results/toy/{stage}", *given]
    fixed = {"method": "inverted_lists"} if stage == "neighbors" else {}
    command += ["--block-cells", "256", "--options", json.dumps({**fixed, **option}), "--threads", "2"]
    run = subprocess.Popen(
        [*command, "--scheduler", scheduler],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )
    try:
        said, errors = run.communicate(timeout=120)
    finally:
        kill_tree(run.pid)
    return subprocess.CompletedProcess(command, run.returncode, said, errors)
