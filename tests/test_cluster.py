"""Worker processes and Dask schedulers: the same bits whoever computes and whoever dies, and clear failures."""

import contextlib
import errno
import importlib
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from distributed import LocalCluster
from workflow_runs import ROOT

import heatwalk
from heatwalk import cluster, compute, store
from heatwalk.errors import BadInput, OutOfResources, Problem

SCHEDULED = ("neighbors", "affinity", "diffusion_map")
INPUTS = {"neighbors": ["pca"], "affinity": ["pca", "neighbors"], "diffusion_map": ["affinity"]}
OPTIONS = {
    "neighbors": {"n_neighbors": 12, "method": "inverted_lists"},
    "affinity": {},
    "diffusion_map": {"n_components": 2, "tolerance": 1e-6},
}
BLOCK_CELLS = 64
LONG = pytest.mark.qualification("worker processes")


class Dask(NamedTuple):
    """A scheduler and its workers, in processes of their own."""

    address: str
    scheduler: psutil.Process
    nanny: psutil.Process | None

    def workers(self) -> list[psutil.Process]:
        """Processes that compute; a killed one is started again by the nanny."""
        children = self.nanny.children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@contextlib.contextmanager
def dask(folder: Path, n_workers: int, *certificates: str, **environment: str):
    """`dask scheduler` and `dask worker` as people type them, on this machine alone."""
    folder.mkdir()
    options = {
        "cwd": folder,  # not where the results are
        "env": {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    started = []

    def start(*arguments: str) -> psutil.Process:
        started.append(subprocess.Popen([sys.executable, "-m", "dask", *arguments], **options))
        return psutil.Process(started[-1].pid)

    try:
        known = folder / "scheduler.json"
        here = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        here += certificates
        scheduler = start("scheduler", *here, "--port", "0", f"--scheduler-file={known}")
        wait_until(lambda: known.exists() and known.read_text().endswith("}"))
        address = json.loads(known.read_text())["address"]
        how = ["--nworkers", f"{n_workers}", "--nthreads", "1", "--memory-limit", "0", "--local-directory", f"{folder}"]
        yield Dask(address, scheduler, start("worker", address, *here, *how) if n_workers else None)
    finally:
        for process in started:
            kill_tree(process.pid)
            process.wait(10)


def kill_tree(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def wait_until(true, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def make(stage: str, points, made: dict, **who):
    """The result of a stage in memory, from those of the stages before it."""
    given = [points if name == "pca" else made[name] for name in INPUTS[stage]]
    return getattr(heatwalk, stage)(*given, **OPTIONS[stage], block_cells=BLOCK_CELLS, **who)


def same(first, second) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.asarray(one).tobytes() == np.asarray(other).tobytes() for one, other in pairs)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with dask(tmp_path_factory.mktemp("dask") / "elsewhere", 2) as found:
        yield found


@pytest.fixture(scope="module")
def points():
    generator = np.random.default_rng(0)
    turn = generator.random(1000) * 6
    return np.stack([np.cos(turn), np.sin(turn), turn, *generator.normal(0, 0.1, (5, 1000))], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def on_threads(points):
    made = {}
    for stage in SCHEDULED:
        made[stage] = make(stage, points, made, threads=1)
    return made


@pytest.fixture(scope="module")
def folder(points, tmp_path_factory):
    """Results of a run up to diffusion_map."""
    folder, made, roots = tmp_path_factory.mktemp("finished"), {}, {}
    for stage in ("pca", *SCHEDULED):
        draft = store.create(folder / "results" / "toy" / stage, stage, block_cells=BLOCK_CELLS)
        if stage == "pca":
            draft["coordinates"] = points
        else:
            kind = type(make(stage, points, made, out=draft))
        inputs = {name: roots[name] for name in INPUTS.get(stage, ())}
        roots[stage] = store.publish(draft, parameters=OPTIONS.get(stage, {}), code="", inputs=inputs)["root"]
        if stage != "pca":
            made[stage] = kind(**store.read(folder / "results" / "toy" / stage))
    return folder


@pytest.fixture
def many_tasks(monkeypatch):
    """Blocks so small that every stage has hundreds of tasks, and products that are sent from the first cell on."""
    for module, name, value in [
        ("neighbors", "_LISTS_A_TASK", 1),
        ("affinity", "_BAND_EDGES", 300),
        ("diffusion_map", "_SENT_FROM", 0),
        ("conjugate", "_BLOCK_EDGES", 2**13),
    ]:
        monkeypatch.setattr(importlib.import_module(f"heatwalk.{module}"), name, value)


@pytest.fixture
def quiet(capfd):
    """Nothing is printed by a test that asks for this."""
    yield
    assert capfd.readouterr() == ("", "")


def program(folder: Path, stage: str, *arguments: str, options: dict | None = None, **limits):
    """A stage program as its rule calls it."""
    given = ["--inputs", *(f"results/toy/{name}/manifest.json" for name in INPUTS[stage])]
    command = [sys.executable, str(ROOT / "scripts" / f"{stage}.py"), "--result", f"results/toy/{stage}", *given]
    command += ["--block-cells", f"{BLOCK_CELLS}", "--options", json.dumps({**OPTIONS[stage], **(options or {})})]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    whole = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 120, **limits}
    return subprocess.run([*command, *arguments], **whole)


def check_failure(folder: Path, stage: str, before: dict, done, exit_code: int, *texts: str) -> None:
    """One line, the old result as it was, nothing left behind."""
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for text in texts:
        assert text in done.stderr
    assert root(folder, stage) == before
    assert store.verify(folder / "results" / "toy" / stage) == []
    assert not (folder / "results" / ".work" / "toy" / stage).exists()


def root(folder: Path, stage: str) -> str:
    return store.read_json(folder / "results" / "toy" / stage / "manifest.json")["root"]


# ---- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_tasks", "quiet")
@pytest.mark.parametrize("stage", SCHEDULED)
def test_workers_that_are_killed_change_no_bit(running, points, on_threads, monkeypatch, stage):
    expected, result, calls, killed = make(stage, points, on_threads, threads=2), cluster._Task.result, [0], []

    def result_and_death(task):
        calls[0] += 1
        if calls[0] in (8, 24):
            for worker in running.workers()[:1]:
                worker.kill()
                killed.append(worker.pid)
        return result(task)

    monkeypatch.setattr(cluster._Task, "result", result_and_death)
    assert same(make(stage, points, on_threads, scheduler=running.address), expected)
    assert killed


@pytest.mark.usefixtures("many_tasks", "quiet")
def test_processes_give_the_same_bits_listen_to_this_machine_alone_and_leave_nothing(points, monkeypatch, tmp_path):
    expected = make("neighbors", points, {}, threads=1)
    environment, filters, before = dict(os.environ), log_filters(), psutil.Process().children(recursive=True)
    result, started, listening = cluster._Task.result, set(), set()

    def result_and_look(task):
        if not started:
            started.update(each for each in psutil.Process().children(recursive=True) if each not in before)
            sockets = [each for process in (psutil.Process(), *started) for each in process.net_connections("inet")]
            listening.update(each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN)
        return result(task)

    monkeypatch.setattr(cluster._Task, "result", result_and_look)
    found = make("neighbors", points, {}, scheduler="processes", threads=2, scratch=tmp_path)
    assert same(found, expected)
    assert len(started) >= 2
    assert listening == {"127.0.0.1"}
    assert dict(os.environ) == environment
    assert log_filters() == filters
    assert list(tmp_path.iterdir()) == []
    psutil.wait_procs(started, timeout=10)
    assert [each for each in started if each.is_running() and "spawn_main" in " ".join(each.cmdline())] == []


@pytest.mark.usefixtures("quiet")
def test_workers_killed_before_they_have_begun_are_started_again(tmp_path, caplog):
    wait_until(lambda: spawned() == [])  # those of the tests before this one
    killed, clumsy = [], threading.Thread(target=lambda: kill_newcomers(killed, 2))
    clumsy.start()
    with caplog.at_level(logging.INFO, "heatwalk"), compute.workers("processes", 2, tmp_path) as workers:
        assert list(workers.in_order(abs, [-1, -2])) == [1, 2]
    clumsy.join()
    assert caplog.text.count("a worker process died at its start") == 2
    wait_until(lambda: spawned() == [])
    assert list(tmp_path.iterdir()) == []
    assert [thread.name for thread in threading.enumerate() if "IO loop" in thread.name] == []


@pytest.mark.usefixtures("quiet")
def test_processes_leave_nothing_in_the_temporary_folder(monkeypatch, tmp_path):
    elsewhere, scratch = tmp_path / "temporary", tmp_path / "scratch"
    elsewhere.mkdir(), scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with compute.workers("processes", 1, scratch) as workers:
        assert list(workers.in_order(abs, [-1])) == [1]
    assert list(elsewhere.iterdir()) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.usefixtures("quiet")
def test_processes_that_never_begin_are_said_and_leave_nothing(monkeypatch, tmp_path):
    wait_until(lambda: spawned() == [])
    monkeypatch.setattr(cluster, "_STARTS", 2)
    stopped, killed = threading.Event(), []
    clumsy = threading.Thread(target=lambda: kill_newcomers(killed, 100, stopped))
    clumsy.start()
    said = r"HW-RS-005.*1 worker processes could not be started, 2 times in a row \(Nanny failed to start.\)"
    with pytest.raises(OutOfResources, match=said), compute.workers("processes", 1, tmp_path):
        pass
    stopped.set()
    clumsy.join()
    assert len(killed) >= 2
    wait_until(lambda: spawned() == [])
    assert list(tmp_path.iterdir()) == []


def test_processes_that_do_not_end_by_themselves_are_ended(monkeypatch, quiet):
    def fail(itself, timeout):
        failed.append(itself)
        raise AssertionError("Status.starting")

    failed, close = [], LocalCluster.close
    monkeypatch.setattr(LocalCluster, "close", fail)
    with compute.workers("processes", 2) as workers:
        assert list(workers.in_order(abs, [-1, -2])) == [1, 2]
        started = spawned()
    assert len(started) >= 2
    assert psutil.wait_procs(started, timeout=15)[1] == []
    close(failed[0], 15)


def kill_newcomers(killed: list, most: int, stopped=None) -> None:
    """Kill worker processes of this one as soon as they are seen."""
    deadline = time.monotonic() + 60
    while len(killed) < most and time.monotonic() < deadline and not (stopped and stopped.is_set()):
        for newcomer in spawned()[: most - len(killed)]:
            if newcomer not in killed:
                newcomer.kill()
                killed.append(newcomer)
        time.sleep(0.01)


def spawned() -> list[psutil.Process]:
    """Worker processes that this one started."""
    found = []
    for child in psutil.Process().children():  # not those of a scheduler that a fixture started
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def log_filters() -> dict:
    loggers = {name: logging.getLogger(name) for name in list(logging.root.manager.loggerDict)}
    return {name: list(logger.filters) for name, logger in loggers.items() if logger.filters}


@pytest.mark.parametrize(
    "end", [signal.SIGKILL, *(pytest.param(end, marks=LONG) for end in (signal.SIGTERM, signal.SIGINT))]
)
def test_processes_end_with_the_one_that_started_them(tmp_path, end):
    (tmp_path / "long.py").write_text(
        "import signal, time\nfrom heatwalk import compute\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's job in the background ignores it
        "if __name__ == '__main__':\n"
        "    with compute.workers('processes', 2) as workers:\n"
        "        for done in workers.in_order(time.sleep, [0.01, 0.01, 600, 600]):\n"
        "            print('computing', flush=True)\n"
    )
    with open(tmp_path / "errors", "w") as errors:
        options = {"stdout": subprocess.PIPE, "stderr": errors, "cwd": tmp_path, "start_new_session": True}
        run = subprocess.Popen([sys.executable, "long.py"], **options)
        with run:
            assert run.stdout.readline() == b"computing\n"
            started = psutil.Process(run.pid).children(recursive=True)
            assert len(started) >= 2
            os.killpg(run.pid, end) if end == signal.SIGINT else run.send_signal(end)
            run.wait(30)
    alive = psutil.wait_procs(started, timeout=15)[1]
    assert alive == []
    said = (tmp_path / "errors").read_text()
    assert said.count("Traceback") == (1 if end == signal.SIGINT else 0), said


# ---- errors of tasks -------------------------------------------------------------------------------------------------


_PROBLEM = Problem("HW-AF-006", "distances", "row 3 is bad", "mend it")
_ERRORS = [
    BadInput(_PROBLEM, _PROBLEM),
    OSError(errno.ENOSPC, "No space left on device", "there"),
    TimeoutError("of the task"),
    ZeroDivisionError("of the task"),
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_the_error_of_a_task_arrives_as_it_is(running, error):
    def fail(item):
        raise error

    with compute.workers(running.address) as workers, pytest.raises(type(error)) as raised:
        list(workers.in_order(fail, [1]))
    assert raised.value.args == error.args
    assert f"{raised.value}" == f"{error}"
    assert getattr(raised.value, "problems", ()) == getattr(error, "problems", ())
    assert getattr(raised.value, "errno", 0) == getattr(error, "errno", 0)


@pytest.mark.usefixtures("quiet")
def test_a_worker_with_another_heatwalk_is_refused(running, monkeypatch):
    monkeypatch.setattr(cluster, "code_in_use", lambda: "another")
    with compute.workers(running.address) as workers, pytest.raises(BadInput, match="HW-CP-001.*the worker at tcp://"):
        list(workers.in_order(abs, [1]))


# ---- schedulers that are gone ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def silent():
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"


def nobody() -> str:
    with silent() as address:
        return address


def test_an_address_without_a_scheduler_is_said_in_time(monkeypatch, quiet):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    with silent() as mute:
        for address in (mute, nobody(), "tcp://127.0.0.1"):
            started = time.monotonic()
            with pytest.raises(OutOfResources, match=f"HW-RS-005 .*{address}"), compute.workers(address):
                pass
            assert time.monotonic() - started < 5
    assert [thread.name for thread in threading.enumerate() if "IO loop" in thread.name] == []


def test_a_worker_is_no_scheduler(running, quiet):
    def where(item):
        from distributed import get_worker

        return get_worker().address

    with compute.workers(running.address) as workers:
        address = next(workers.in_order(where, [1]))
    with pytest.raises(OutOfResources, match=f"HW-RS-005.*{address}.*Worker"), compute.workers(address):
        pass


@pytest.mark.usefixtures("many_tasks", "quiet")
def test_a_scheduler_without_workers_and_one_that_dies_are_said_in_time(tmp_path, points, monkeypatch):
    monkeypatch.setattr(cluster, "_NO_WORKER_SECONDS", 1)
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 1)
    with dask(tmp_path / "elsewhere", 0) as lonely:
        with pytest.raises(OutOfResources, match="HW-RS-005.*no worker"), compute.workers(lonely.address):
            pass
        threading.Timer(1, lonely.scheduler.kill).start()
        monkeypatch.setattr(cluster, "_NO_WORKER_SECONDS", 20)
        with pytest.raises(OutOfResources, match="HW-RS-005.*lost"), compute.workers(lonely.address):
            pass


@pytest.mark.usefixtures("many_tasks", "quiet")
def test_a_scheduler_that_dies_in_the_middle_is_said_at_once(tmp_path, points, monkeypatch):
    result, calls = cluster._Task.result, [0]

    def result_and_death(task):
        calls[0] += 1
        if calls[0] == 10:
            dying.scheduler.kill()
        return result(task)

    monkeypatch.setattr(cluster._Task, "result", result_and_death)
    with dask(tmp_path / "elsewhere", 1) as dying, pytest.raises(OutOfResources, match="HW-RS-005.*lost"):
        make("neighbors", points, {}, scheduler=dying.address)
    assert calls[0] < 30


# ---- schedulers of other machines ------------------------------------------------------------------------------------


def test_a_scheduler_of_another_machine_is_refused_without_tls(quiet):
    for address in ("tcp://node7:8786", "tcp://192.0.2.7:8786", "tcp://[2001:db8::7]:8786"):
        with pytest.raises(BadInput, match="HW-CP-003.*tls://"), compute.workers(address):
            pass


def test_a_scheduler_with_tls_needs_certificates_of_dask_s_configuration(tmp_path, quiet):
    with pytest.raises(BadInput, match="HW-CP-003.*names no certificates.*CA_FILE"), compute.workers("tls://node7:1"):
        pass
    with certificates(ca=tmp_path / "nowhere", cert=tmp_path / "nowhere", key=tmp_path / "nowhere"):
        said = "HW-CP-003.*nowhere cannot be used .*No such file"
        with pytest.raises(BadInput, match=said), compute.workers("tls://node7:1"):
            pass


@pytest.mark.usefixtures("quiet")
def test_a_scheduler_with_tls_takes_those_with_a_certificate_alone(tmp_path, monkeypatch):
    ours, strangers = written_certificates(tmp_path / "ours"), written_certificates(tmp_path / "strangers")
    given = ["--protocol", "tls", "--tls-ca-file", ours["ca"], "--tls-cert", ours["cert"], "--tls-key", ours["key"]]
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 5)
    with dask(tmp_path / "elsewhere", 1, *map(str, given)) as running:
        assert running.address.startswith("tls://")
        with certificates(**ours), compute.workers(running.address) as workers:
            assert list(workers.in_order(abs, [-1, -2])) == [1, 2]
        refused = pytest.raises(OutOfResources, match="HW-RS-005")
        with certificates(**strangers), refused, compute.workers(running.address):
            pass
        with refused, compute.workers(running.address.replace("tls://", "tcp://")):
            pass


def written_certificates(folder: Path) -> dict[str, Path]:
    from distributed.security import Security

    folder.mkdir()
    made, names = Security.temporary(), {"ca": "tls_ca_file", "cert": "tls_client_cert", "key": "tls_client_key"}
    for name, attribute in names.items():
        (folder / name).write_text(getattr(made, attribute))
    return {name: folder / name for name in names}


def certificates(ca: Path, cert: Path, key: Path):
    import dask

    names = {"ca-file": ca, "client.cert": cert, "client.key": key}
    return dask.config.set({f"distributed.comm.tls.{name}": str(path) for name, path in names.items()})


# ---- stage programs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "scheduler"),
    [
        *((stage, "threads") for stage in SCHEDULED),
        ("neighbors", "processes"),
        *(pytest.param(stage, "processes", marks=LONG) for stage in SCHEDULED[1:]),
    ],
)
def test_a_full_disk_ends_with_4_and_the_old_result_stands(folder, stage, scheduler):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    before = root(folder, stage)
    larger = {"n_components": 40} if stage == "diffusion_map" else {}
    done = program(folder, stage, "--scheduler", scheduler, "--threads", "2", options=larger, preexec_fn=limit)
    check_failure(folder, stage, before, done, 4, "HW-RS-002", "MB are free")


@pytest.mark.parametrize("stage", ["diffusion_map", *(pytest.param(stage, marks=LONG) for stage in SCHEDULED[:2])])
def test_too_little_memory_ends_with_4_and_both_numbers(folder, stage):
    before = root(folder, stage)
    done = program(folder, stage, "--memory", "1000000")
    check_failure(folder, stage, before, done, 4, "HW-RS-004", "set memory")


def test_a_program_without_its_scheduler_ends_with_4(folder):
    before = root(folder, "affinity")
    done = program(folder, "affinity", "--scheduler", "tcp://127.0.0.1")
    check_failure(folder, "affinity", before, done, 4, "HW-RS-005", "type: heatwalk resume")


def test_a_program_publishes_the_same_hash_by_a_scheduler(folder, running):
    before = root(folder, "neighbors")
    done = program(folder, "neighbors", "--scheduler", running.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert root(folder, "neighbors") == before
