"""What is asked of a cluster and what is made of its answers, without one; tests/test_on_slurm.py has a real one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workflow_runs import ROOT, heatwalk, prepare

from heatwalk import config, jobs, profiles, slurm, worker_jobs
from heatwalk.config import STAGES
from heatwalk.errors import BadInput, OutOfResources
from heatwalk.forecast import Need

PROFILE = ROOT / "workflow" / "profiles" / "slurm"
LOGS = {
    "OUT_OF_MEMORY": "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=5.batch cgroup\n",
    "TIMEOUT": "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n",
    "NODE_FAIL": "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO NODE FAILURE ***\n",
    "PREEMPTED": "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***\n",
    "CANCELLED": "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\n",
}


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize("state", LOGS)
def test_what_slurm_ended_is_told_apart_by_its_log(tmp_path, state):
    write(tmp_path, "rule_neighbors/blood/5.log", "Building DAG of jobs...\n" + LOGS[state])
    write(tmp_path, "rule_neighbors/blood/6.log", "HW-NB-003 n_neighbors: too many; fewer\n")
    (ended,) = slurm.ended(0, logs=tmp_path)
    assert ended == ("5", "neighbors of blood", state)
    assert "Slurm ended job 5" in f"{ended.problem}"
    assert slurm.ended(time.time_ns() + 10**9, logs=tmp_path) == []


def test_memory_is_the_reason_where_slurm_cancels_for_it(tmp_path):
    text = "error: StepId=5.batch exceeded memory limit (2 > 1), being killed\n" + LOGS["CANCELLED"]
    write(tmp_path, "group_small_blood_2_affinity_atlas_cells_.../5.log", text)
    write(tmp_path, "group_small_cells_blood_cells_pca/6.log", text)
    names = [("5", "small stages of blood_2", "OUT_OF_MEMORY"), ("6", "small stages of blood", "OUT_OF_MEMORY")]
    assert slurm.ended(0, logs=tmp_path) == names


def test_a_node_that_wrote_nothing_is_known_by_what_snakemake_was_told(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "SLURM-job '7' failed due to a node failure, SLURM status is: 'NODE_FAIL'. Failed nodes ...\n"
        "SLURM-job '8' failed, SLURM status is: 'FAILED'. Detailed failure reason unavailable\n"
    )
    write(tmp_path / "logs", "rule_pca/blood/7.log", "")
    assert slurm.ended(0, log, tmp_path / "logs") == [("7", "pca of blood", "NODE_FAIL")]


def test_jobs_ask_for_what_is_foreseen_and_for_more_each_time():
    need = Need(900, 2 * 10**9, 0, 0)
    asked = [(jobs.megabytes(need, attempt), jobs.minutes(need, attempt)) for attempt in (1, 2, 3)]
    assert asked[0][0] > need.memory / 1e6 + 400
    assert asked[0][1] > need.seconds / 60
    assert asked == [(asked[0][0] * times, asked[0][1] * times) for times in (1, 2, 3)]


def test_small_stages_share_a_job_unless_a_large_one_stands_between_them():
    small, large = Need(20, 10**8, 0, 0), Need(2000, 10**9, 0, 0)
    stages = ("cells", "pca", "neighbors", "affinity", "diffusion_map", "curvature", "atlas", "report")
    assert set(jobs.together("a", dict.fromkeys(stages, small)).values()) == {"small_a"}
    for which in stages:
        needs = {stage: large if stage == which else small for stage in stages}
        shared = jobs.together("a", needs)
        assert which not in shared
        for name in set(shared.values()):
            check_nothing_is_between([stage for stage in shared if shared[stage] == name])


def check_nothing_is_between(members: list[str]) -> None:
    """No stage outside of a group needs one of it and is needed by another of it."""
    row = config.Dataset("a", "a.h5ad", "counts", stages=("curvature", "atlas", "report"))
    outside = [stage for stage in STAGES if stage not in members and stage in config.needed(row)]
    after = {stage for stage in outside if set(config.depends(stage, row)) & set(members)}
    for _ in outside:
        after |= {stage for stage in outside if set(config.depends(stage, row)) & after}
    assert not {stage for member in members for stage in config.depends(member, row)} & after


def test_profile_of_the_repository_asks_for_nothing_that_a_cluster_may_lack():
    cluster = profiles.of_arguments(("--workflow-profile", f"{PROFILE}"))
    assert cluster == profiles.Cluster("", "", "squeue", 10.0, 2)
    assert config.load(PROFILE / "config.yaml")["slurm-requeue"] is True


def test_command_line_goes_before_the_profile(tmp_path):
    (tmp_path / "config.yaml").write_text("executor: slurm\ndefault-resources: {slurm_partition: main}\n")
    own = ("--workflow-profile", f"{tmp_path}")
    assert profiles.of_arguments(own)[:3] == ("main", "", "sacct")
    given = (*own, "--default-resources", "slurm_account=me", "--slurm-status-command=squeue")
    assert profiles.of_arguments(given)[:3] == ("", "me", "squeue")  # Snakemake takes the whole list, or the other
    assert profiles.of_arguments(("--workflow-profile", f"{tmp_path}", "--executor", "local")) is None
    assert profiles.of_arguments(("-n",)) is None


def test_section_of_the_config_is_one_word_that_says_the_same():
    given = {
        "partition": "main",
        "jobs": 3,
        "threads": 2,
        "memory": "2 GiB",
        "minutes": 5,
        "interface": "ib0",
        "wait": 9,
    }
    found = worker_jobs.allowed(worker_jobs.written({**given, "account": ""}))
    assert found._asdict() == {**given, "account": ""}
    defaults = config.load(ROOT / "config" / "config.yaml")["compute"]["slurm"]
    assert worker_jobs.Allowed()._asdict() == defaults


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("slurm://main?job=3", "job of .* is unknown"),
        ("slurm://main?jobs=0", "jobs=0 of .* is no number from 1 on"),
        ("slurm://main", "interface is empty"),
        ("slurm://main?interface=nope0", "no network interface 'nope0'"),
    ],
)
def test_a_word_that_allows_nothing_is_refused(tmp_path, word, said):
    with pytest.raises(BadInput, match=f"HW-CP-004.*{said}"), worker_jobs.hired(word, tmp_path):
        pass


def test_no_worker_job_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}")
    with pytest.raises(OutOfResources, match="HW-SL-001.*sbatch"), worker_jobs.hired("slurm?interface=lo", tmp_path):
        pass


def test_config_without_an_interface_is_refused(tmp_path):
    folder = prepare(tmp_path / "run", "compute: {scheduler: slurm}\n")
    done = heatwalk(folder, "run", "--cores", "1")
    assert done.returncode == 2
    assert "HW-CF-002 config: compute: slurm: interface" in done.stderr
    assert done.stderr.count("\n") == 1


def test_doctor_is_of_use_without_a_cluster(tmp_path):
    folder = prepare(tmp_path / "run")
    done = heatwalk(folder, "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split()[1].rstrip(":") for line in done.stdout.splitlines()]
    assert names == ["workflow", "python", "folder", "room", "device", "scheduler"]
    assert list((folder / "results").rglob("*")) == [folder / "results" / ".work"]


@pytest.mark.parametrize(
    ("compute", "code", "exit_code"),
    [
        ("{scheduler: slurm, slurm: {interface: nope0}}", "HW-CP-004", 2),
        ("{scheduler: 'tcp://node7:8786'}", "HW-CP-003", 2),
        ("{scheduler: 'tcp://127.0.0.1:1'}", "HW-RS-005", 4),
    ],
)
def test_doctor_looks_at_who_will_compute(tmp_path, compute, code, exit_code):
    done = heatwalk(prepare(tmp_path / "run", f"compute: {compute}\n"), "doctor")
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert done.stderr.startswith(code)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", ["doctor", "run"])
def test_a_machine_without_slurm_is_said_at_once(tmp_path, verb):
    folder = prepare(tmp_path / "run")
    started = time.monotonic()
    done = heatwalk(folder, verb, "--workflow-profile", f"{PROFILE}", PATH=f"{tmp_path}")
    assert time.monotonic() - started < 60
    assert done.returncode == 4
    assert done.stderr.startswith("HW-SL-001 Slurm: there is no sbatch")
    assert done.stderr.count("\n") == 1
    assert not (folder / "results" / "toy").exists()


def pretend(folder: Path, **programs: str) -> str:
    """A path on which commands of Slurm's are these shell scripts, and the others say nothing."""
    folder.mkdir()
    for name in ("sacct", *slurm.COMMANDS):
        (folder / name).write_text(f"#!/bin/sh\n{programs.get(name, 'true')}\n")
        (folder / name).chmod(0o755)
    return os.pathsep.join([f"{folder}", os.environ["PATH"]])


def test_a_controller_that_hangs_is_said_in_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", scontrol="sleep 60"))
    monkeypatch.setattr(slurm, "SECONDS", 1)
    with pytest.raises(OutOfResources, match="HW-SL-002.*scontrol has said nothing for 1 seconds"):
        slurm.ask("scontrol", "ping", seconds=1)


@pytest.mark.parametrize(
    ("command", "programs", "said"),
    [
        ("sacct", {"sacct": "echo accounting storage is disabled >&2; exit 1"}, "set slurm-status-command: squeue"),
        ("squeue", {"scontrol": "echo MinJobAge = 20 sec"}, "forgets jobs after 20 seconds.*: sacct$"),
        ("squeue", {"scontrol": "echo MinJobAge = 20 sec", "sacct": "exit 1"}, "does not answer either"),
    ],
)
def test_a_status_command_that_would_leave_snakemake_waiting_is_refused(tmp_path, monkeypatch, command, programs, said):
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", **programs))
    with pytest.raises(OutOfResources, match=f"HW-SL-003.*{said}"):
        slurm.check_status(command, 180)


@pytest.mark.parametrize(
    ("command", "programs"),
    [
        ("squeue", {"scontrol": "echo 'MinJobAge               = 300 sec'", "sacct": "exit 1"}),
        ("sacct", {"scontrol": "echo MinJobAge = 2 sec"}),
    ],
)
def test_accounting_may_be_on_or_off(tmp_path, monkeypatch, command, programs):
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", **programs))
    assert slurm.check_status(command, 180).startswith(command)


def test_a_partition_that_cancels_what_it_preempts_is_refused(tmp_path, monkeypatch):
    scontrol = 'case "$2" in config) echo "PreemptType = preempt/partition_prio";; *) echo PreemptMode=CANCEL;; esac'
    programs = {"sinfo": "echo 'spare*|up|2|idle'", "scontrol": scontrol}
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", **programs))
    with pytest.raises(BadInput, match="HW-SL-014.*'spare' are cancelled"):
        slurm.check_partition("")


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("infinite", 0), ("30:00", 30), ("2:00:00", 120), ("1-00:00:00", 1440), ("7-12:30:00", 10830)],
)
def test_time_limits_are_read(tmp_path, monkeypatch, limit, minutes):
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", sinfo=f"echo 'main*|{limit}'"))
    assert slurm.time_limit("main") == slurm.time_limit("") == minutes


def test_a_job_that_can_never_begin_is_cancelled_and_one_that_waits_is_said_once(tmp_path, monkeypatch):
    jobs = (
        "5|PartitionTimeLimit|rule_pca_wildcards_blood",
        "6|Resources|rule_pca",
        "7|Priority|mine",
        "8|BeginTime|rule_pca",
    )
    programs = {
        "squeue": "\n".join(f"echo '{job}|{tmp_path}'" for job in jobs),
        "scancel": f"echo $1 >> {tmp_path}/cancelled",
    }
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", **programs))
    monkeypatch.setattr(slurm, "_PATIENCE", -1)
    watch = slurm.Watch(tmp_path)
    assert [problem.code for problem in watch.look()] == ["HW-SL-010", "HW-SL-006"]
    assert watch.look() == []
    assert (tmp_path / "cancelled").read_text() == "5\n"


def test_every_rule_asks_for_memory_time_and_where_it_may_a_gpu(tmp_path):
    folder = prepare(tmp_path / "run", "compute: {device: cuda}\nthreads: 2\n")
    command = [sys.executable, "-m", "snakemake", "--snakefile", f"{ROOT / 'Snakefile'}", "-n", "--cores", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    asked = [line for line in done.stdout.splitlines() if "resources:" in line and "home=" in line]
    assert len(asked) == 7
    assert all("mem_mb=" in line and "runtime=" in line for line in asked)
    assert sum("gpu=1" in line for line in asked) == 1
    assert json.dumps(asked).count("mem_mb=4000,") == 0
