"""The workflow and Dask on a real Slurm on this machine: make cluster-test."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import local_slurm
import psutil
import pytest
import yaml
from local_slurm import Node
from test_cluster import kill_tree, wait_until
from workflow_runs import OPTIONS, ROOT, STAGES, heatwalk, prepare, roots, write_counts

from heatwalk import store

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(local_slurm.missing()), reason=local_slurm.missing())]
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="nodes with mounts of their own need root")
PROFILE = ("--workflow-profile", str(ROOT / "workflow" / "profiles" / "slurm"))
QUICK = ("--slurm-init-seconds-before-status-checks", "3")
RUN = (*PROFILE, *QUICK)
PATIENCE = 400  # seconds
TOYS = "toy\ttoy.h5ad\tcounts\nother\tother.h5ad\tcounts\n"


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A folder that the node of the partition `apart` does not see."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, hidden):
    nodes = [Node("n1", "main"), Node("n2", "main", gpu=True)]
    if os.getuid() == 0:
        nodes += [Node("n3", "bare", hidden=(Path(sys.prefix),)), Node("n4", "apart", hidden=(hidden,))]
    short = "PartitionName=short Nodes=n1 MaxTime=1 State=UP"
    with local_slurm.slurm(tmp_path_factory.mktemp("slurm"), nodes, short) as running:
        yield running


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Two datasets, made on this machine."""
    folder = prepared(tmp_path_factory.mktemp("local") / "run")
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stderr
    return {name: roots(folder, name) for name in ("toy", "other")}


def prepared(folder: Path, rows: str = TOYS, options: str = OPTIONS + "threads: 1\n") -> Path:
    prepare(folder, options, rows)
    write_counts(folder / "config" / "other.h5ad", n_cells=200, seed=1)
    return folder


def start(folder: Path, cluster, *arguments: str, **environment: str) -> subprocess.Popen:
    """`heatwalk` in the background; what it says goes to files beside its folder."""
    command = [sys.executable, "-m", "heatwalk.cli", *arguments]
    with open(f"{folder}.out", "w") as out, open(f"{folder}.err", "w") as errors:
        surroundings = {**os.environ, **cluster.environment, **environment}
        return subprocess.Popen(command, cwd=folder, env=surroundings, stdout=out, stderr=errors)


def jobs_in(cluster, folder: Path, *states: str) -> list[list[str]]:
    return [job for job in cluster.jobs(*states) if job[4] == str(folder)]


def one_line(done, code: str, exit_code: int) -> None:
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert done.stderr.startswith(code), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


# ---- what is said before anything is submitted -----------------------------------------------------------------------


def test_doctor_finds_all_well(cluster, tmp_path):
    done = heatwalk(prepared(tmp_path / "run"), "doctor", *RUN, **cluster.environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok   node:" in done.stdout
    assert "ok   status: squeue (accounting off" in done.stdout


@pytest.mark.parametrize(
    ("code", "exit_code", "arguments"),
    [
        ("HW-SL-004", 2, ("--default-resources", "slurm_partition=nowhere")),
        ("HW-SL-005", 2, ("--default-resources", "slurm_account=me")),
        ("HW-SL-003", 4, ("--slurm-status-command", "sacct")),
        ("HW-SL-010", 2, ("--default-resources", "slurm_partition=short")),
        pytest.param("HW-SL-008", 4, ("--default-resources", "slurm_partition=bare"), marks=AS_ROOT),
        pytest.param("HW-SL-007", 4, ("--default-resources", "slurm_partition=apart"), marks=AS_ROOT),
    ],
)
@pytest.mark.parametrize("verb", ["doctor", "run"])
def test_what_would_hang_is_one_line_within_a_minute(cluster, hidden, code, exit_code, arguments, verb):
    folder = hidden / f"{code}-{verb}"
    prepared(folder)
    started = time.monotonic()
    done = heatwalk(folder, verb, *RUN, *arguments, **cluster.environment)
    assert time.monotonic() - started < 60
    one_line(done, code, exit_code)
    assert not (folder / "results" / "toy").exists()
    assert jobs_in(cluster, folder, "PENDING", "RUNNING") == []


def test_more_cores_than_a_node_has(cluster, tmp_path):
    folder = prepared(tmp_path / "run", options=OPTIONS + "threads: 3\n")
    done = heatwalk(folder, "run", *RUN, **cluster.environment)
    one_line(done, "HW-SL-010", 2)
    assert "3 cores" in done.stderr


def test_a_full_queue_is_said(cluster, tmp_path):
    sleepers = [
        cluster.ask("sbatch", "--parsable", "-w", node, "-c", "2", "-o", "/dev/null", "--wrap", "sleep 300").strip()
        for node in ("n1", "n2")
    ]
    try:
        started = time.monotonic()
        done = heatwalk(prepared(tmp_path / "run"), "doctor", *RUN, **cluster.environment)
        assert time.monotonic() - started < 60
        one_line(done, "HW-SL-006", 4)
    finally:
        cluster.ask("scancel", *sleepers)


def test_a_controller_that_is_gone(tmp_path):
    folder = prepared(tmp_path / "run")
    with local_slurm.slurm(tmp_path / "slurm", [Node("n1", "main")]) as alone:
        alone.stop("slurmctld")
        started = time.monotonic()
        done = heatwalk(folder, "run", *RUN, **alone.environment)
        assert time.monotonic() - started < 60
    one_line(done, "HW-SL-002", 4)


NO_ACCOUNTS = local_slurm.missing(local_slurm.ACCOUNTING, local_slurm.INSTALL_ACCOUNTING)


@pytest.mark.skipif(bool(NO_ACCOUNTS), reason=NO_ACCOUNTS)
@pytest.mark.parametrize("status", ["sacct", "squeue"])
def test_accounting_may_be_on(local, tmp_path, status):
    folder = prepared(tmp_path / "run", rows="toy\ttoy.h5ad\tcounts\n")
    of = ("--slurm-status-command", status, "--default-resources")
    with local_slurm.slurm(tmp_path / "slurm", [Node("n1", "main")], account="lab") as keeping:
        done = heatwalk(folder, "doctor", *RUN, *of, "slurm_account=nobody", **keeping.environment)
        one_line(done, "HW-SL-005", 2)
        assert "use one of: lab" in done.stderr
        done = heatwalk(folder, "run", *RUN, *of, "slurm_account=lab", "--until", "pca", **keeping.environment)
        assert done.returncode == 0, done.stderr
    root = store.read_json(folder / "results" / "toy" / "pca" / "manifest.json")["root"]
    assert root == local["toy"]["pca"]


# ---- the workflow ----------------------------------------------------------------------------------------------------


def test_two_datasets_at_once_have_the_hashes_of_a_local_run(cluster, local, tmp_path):
    folder, together = prepared(tmp_path / "run"), 0
    run = start(folder, cluster, "run", *RUN)
    while run.poll() is None:
        running = {job[0] for job in jobs_in(cluster, folder, "RUNNING") if job[3].startswith("rule_")}
        together = max(together, len(running))
        time.sleep(0.5)
    assert run.returncode == 0, Path(f"{folder}.err").read_text()
    assert {name: roots(folder, name) for name in ("toy", "other")} == local
    assert together == 2
    submitted = [job for job in jobs_in(cluster, folder) if job[3].startswith("rule_")]
    assert len(submitted) == 2, "small stages of a dataset share one job"
    assert "HW-SL" not in Path(f"{folder}.err").read_text()


def test_a_job_that_slurm_kills_for_memory_is_sent_again_with_more(cluster, local, tmp_path):
    folder = prepared(tmp_path / "run", rows=TOYS.splitlines(keepends=True)[0])
    greedy = tmp_path / "greedy"  # as a stage whose memory was foreseen badly
    greedy.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        "held = bytearray(b'.') * (700 * 2**20 * sys.argv[1].endswith('neighbors.py'))\n"
        f"sys.exit(subprocess.call([{sys.executable!r}, *sys.argv[1:]]))\n"
    )
    greedy.chmod(0o755)
    python = [f"{stage}:python={greedy}" for stage in STAGES]  # of all, as they share a job
    done = heatwalk(folder, "run", *RUN, "--set-resources", *python, **cluster.environment)
    assert done.returncode == 0, done.stderr
    assert roots(folder) == local["toy"]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("HW-SL")]
    assert line.startswith("HW-SL-011 small stages of toy"), line
    memory = [job.split("|") for job in cluster.ask("squeue", "-h", "-t", "all", "-o", "%Z|%m|%k").splitlines()]
    asked = [int(each[1].rstrip("M")) for each in memory if each[0] == str(folder) and each[2].startswith("rule_")]
    assert sorted(asked)[1] == 2 * sorted(asked)[0]


def test_cancelled_and_killed_in_the_middle_and_resumed(cluster, local, tmp_path):
    folder = prepared(tmp_path / "run")
    run = start(folder, cluster, "run", *RUN, "--retries", "0")
    wait_until(lambda: (folder / "results" / "toy" / "pca" / "manifest.json").exists(), PATIENCE)
    cluster.ask("scancel", *(job[0] for job in jobs_in(cluster, folder, "RUNNING")))
    assert run.wait(PATIENCE) == 4
    said = [line for line in Path(f"{folder}.err").read_text().splitlines() if line.startswith("HW-SL")]
    assert {line.split()[0] for line in said} == {"HW-SL-015"}

    again = start(folder, cluster, "resume", *RUN, "--retries", "0")
    wait_until(lambda: [job for job in jobs_in(cluster, folder, "RUNNING") if job[3].startswith("rule_")], PATIENCE)
    kill_tree(again.pid)
    again.wait(10)
    left = [job[0] for job in jobs_in(cluster, folder, "RUNNING", "PENDING")]
    done = heatwalk(folder, "resume", *RUN, **cluster.environment)
    one_line(done, "HW-LK-002", 3)
    assert set(re.search("scancel (.*)", done.stderr)[1].split()) == set(left)
    cluster.ask("scancel", *left)
    wait_until(lambda: not jobs_in(cluster, folder, "RUNNING", "COMPLETING", "PENDING"), 60)
    wait_until(lambda: not at_work(folder), PATIENCE)  # on this one machine they would be taken for a run

    done = heatwalk(folder, "resume", *RUN, **cluster.environment)
    assert done.returncode == 0, done.stderr
    assert {name: roots(folder, name) for name in ("toy", "other")} == local
    assert heatwalk(folder, "verify").returncode == 0


def test_a_job_at_its_time_limit_is_sent_again_with_more(cluster, local, tmp_path):
    folder = prepared(tmp_path / "run", rows="toy\ttoy.h5ad\tcounts\n")
    slow, once = tmp_path / "slow", tmp_path / "once"
    slow.write_text(f'#!/bin/sh\n[ -e {once} ] || {{ touch {once}; sleep 300; }}\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    apart = ("--groups", "cells=a", "pca=b", "--set-resources", f"pca:python={slow}", "pca:runtime=attempt")
    done = heatwalk(folder, "run", *RUN, *apart, "--until", "pca", **cluster.environment)
    assert done.returncode == 0, done.stderr
    assert "HW-SL-012" in done.stderr
    assert store.read_json(folder / "results" / "toy" / "pca" / "manifest.json")["root"] == local["toy"]["pca"]


def busy(cluster, folder: Path) -> list[str]:
    return [job[0] for job in jobs_in(cluster, folder, "RUNNING") if job[3].startswith("rule_")]


def test_a_job_whose_node_fails_goes_to_another(cluster, local, tmp_path):
    folder = prepared(tmp_path / "run", rows="toy\ttoy.h5ad\tcounts\n")
    run = start(folder, cluster, "run", *RUN)
    wait_until(lambda: (folder / "results" / "toy" / "pca" / "manifest.json").exists(), PATIENCE)
    (number,) = busy(cluster, folder)
    node = cluster.ask("squeue", "-h", "-j", number, "-o", "%N").strip()
    for process in psutil.process_iter(["cmdline"]):  # all of the job on that node
        if (process.info["cmdline"] or [""])[0].startswith(f"slurmstepd: [{number}."):
            kill_tree(process.pid)
    cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        assert run.wait(PATIENCE) == 0, Path(f"{folder}.err").read_text()
    finally:
        wait_until(lambda: "down" not in cluster.ask("sinfo", "-h", "-n", node, "-o", "%T"), PATIENCE)  # it comes back
    assert roots(folder) == local["toy"]


def test_a_job_that_is_preempted_comes_back(local, tmp_path):
    first = "PartitionName=first Nodes=n1 PriorityTier=10 PreemptMode=off MaxTime=60 State=UP"
    preempts = ("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE")
    folder = prepared(tmp_path / "run", rows="toy\ttoy.h5ad\tcounts\n")
    with local_slurm.slurm(tmp_path / "slurm", [Node("n1", "main")], *preempts, first) as shared:
        run = start(folder, shared, "run", *RUN)
        wait_until(lambda: (folder / "results" / "toy" / "pca" / "manifest.json").exists(), PATIENCE)
        number = busy(shared, folder)
        shared.ask("sbatch", "-p", "first", "-c", "2", "-o", "/dev/null", "--wrap", "sleep 2")
        wait_until(lambda: not busy(shared, folder), 60)
        assert run.wait(PATIENCE) == 0, Path(f"{folder}.err").read_text()
        assert [job[0] for job in jobs_in(shared, folder) if job[3].startswith("rule_")] == number
    assert roots(folder) == local["toy"]


def test_a_gpu_is_asked_for_where_a_stage_uses_one(cluster, tmp_path):
    folder = prepared(tmp_path / "run", "toy\ttoy.h5ad\tcounts\n", OPTIONS + "threads: 1\ncompute: {device: cuda}\n")
    run = start(folder, cluster, "run", *RUN, "--retries", "0")
    wait_until(lambda: [job for job in jobs_in(cluster, folder) if job[3].startswith("rule_")], PATIENCE)
    (number,) = [job[0] for job in jobs_in(cluster, folder) if job[3].startswith("rule_")]
    assert "TresPerJob=gres:gpu:1" in cluster.ask("scontrol", "show", "job", number)
    kill_tree(run.pid)
    run.wait(10)
    cluster.ask("scancel", number)


def at_work(folder: Path) -> list[int]:
    """Processes in a folder, those of jobs on this one machine included."""
    return [each.pid for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(folder)]


# ---- Dask ------------------------------------------------------------------------------------------------------------


def with_workers(folder: Path, **given) -> Path:
    """A folder whose stages hire workers on the loopback interface."""
    workers = {"interface": "lo", "jobs": 2, "threads": 1, "memory": "1500MB", "minutes": 10, **given}
    options = yaml.safe_load(OPTIONS) | {"threads": 1, "compute": {"scheduler": "slurm", "slurm": workers}}
    return prepared(folder, "toy\ttoy.h5ad\tcounts\n", json.dumps(options))


def hired(cluster) -> list[list[str]]:
    return [job for job in cluster.jobs("PENDING", "RUNNING", "COMPLETING") if job[2] == "heatwalk-workers"]


def test_workers_in_jobs_give_the_same_hashes_and_are_gone_afterwards(cluster, local, tmp_path):
    folder, seen, listening = with_workers(tmp_path / "run"), set(), set()
    run = start(folder, cluster, "run", "--cores", "1")
    while run.poll() is None:
        seen |= {job[0] for job in hired(cluster)}
        listening |= {each.laddr.ip for each in of_workers() if each.status == psutil.CONN_LISTEN}
        time.sleep(0.3)
    assert run.returncode == 0, Path(f"{folder}.err").read_text()
    assert roots(folder) == local["toy"]
    assert len(seen) == 2 * 3, "two jobs each for neighbors, affinity and diffusion_map"
    assert hired(cluster) == []
    assert listening == {"127.0.0.1"}
    assert not list((folder / "results" / ".work").rglob("heatwalk-*"))


def of_workers():
    """Sockets of all worker processes on this machine."""
    for process in psutil.process_iter(["cmdline"]):
        if "distributed.cli.dask_worker" in (process.info["cmdline"] or []):
            try:
                yield from [each for one in (process, *process.children()) for each in one.net_connections("inet")]
            except psutil.NoSuchProcess:
                continue


def test_workers_end_when_the_stage_is_killed(cluster, tmp_path):
    (tmp_path / "long.py").write_text(
        "import sys, time\nfrom pathlib import Path\nfrom heatwalk import compute\n"
        "if __name__ == '__main__':\n"
        "    word = 'slurm://main?jobs=3&threads=2&memory=1GB&interface=lo'\n"  # one more than there is room for
        "    with compute.workers(word, 1, Path(sys.argv[1])) as workers:\n"
        "        for done in workers.in_order(time.sleep, [0.01, *[600] * 20]):\n"
        "            print('computing', flush=True)\n"
    )
    environment = {**os.environ, **cluster.environment, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, tmp_path / "long.py", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=tmp_path) as run:
        assert run.stdout.readline() == b"computing\n"
        assert len(hired(cluster)) == 3
        run.kill()
    wait_until(lambda: hired(cluster) == [], 120)
    assert list(of_workers()) == []


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ({"partition": "nowhere"}, "HW-SL-004", "there is no partition 'nowhere'"),
        ({"threads": 3}, "HW-CP-004", "no node takes a job of 3 cores"),
        ({"interface": "nope0"}, "HW-CP-004", "no network interface 'nope0'"),
        pytest.param({"partition": "bare", "wait": 15}, "HW-RS-007", "No such file", marks=AS_ROOT),
    ],
)
def test_workers_that_cannot_come_are_one_line(cluster, tmp_path, given, code, said):
    folder = with_workers(tmp_path / "run", **given)
    started = time.monotonic()
    done = heatwalk(folder, "run", "--cores", "1", "--until", "neighbors", "--quiet", **cluster.environment)
    assert time.monotonic() - started < 90  # two stages before it
    assert done.returncode in (2, 4)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(code), done.stderr
    assert said in last
    assert hired(cluster) == []


def test_a_stage_that_is_a_job_hires_workers_too(cluster, local, tmp_path):
    folder = with_workers(tmp_path / "run", jobs=1, threads=1)
    done = heatwalk(folder, "run", *RUN, **cluster.environment)
    assert done.returncode == 0, done.stderr
    assert roots(folder) == local["toy"]
    assert hired(cluster) == []
