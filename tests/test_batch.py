"""Batches: taken once, mapped once or quarantined, whatever is delivered, started twice or killed."""

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from workflow_runs import OPTIONS, ROOT, heatwalk, prepare, write_counts

from heatwalk import batch, cli, config, inbox, table
from heatwalk.config import Plan
from heatwalk.errors import BadInput

BATCH = ("batch", "--inbox", "inbox", "--stages", "extension", "--settle", "0", "--cores", "2")
ROWS = "# a comment\nname\tsource\tkind\tstages\ntoy\ttoy.h5ad\tcounts\tdiffusion_map\n"


# ---- the table -------------------------------------------------------------------------------------------------------


def test_a_row_is_added_and_removed_and_the_rest_stays_as_it_was(tmp_path):
    path = tmp_path / "datasets.tsv"
    text = "# mine\r\n\r\nname\tsource\tkind\r\ntoy\ttoy.h5ad\tcounts"
    path.write_bytes(text.encode())
    path.chmod(0o664)
    table.with_row(path, {"name": "new", "source": "a.h5ad", "kind": "counts", "layer": "", "reference": "toy"})
    expected = text.replace("kind", "kind\treference") + "\r\nnew\ta.h5ad\tcounts\ttoy\r\n"
    assert path.read_bytes().decode() == expected
    table.without_row(path, "new")
    assert path.read_bytes().decode() == text.replace("kind", "kind\treference") + "\r\n"
    assert path.stat().st_mode & 0o777 == 0o664


# ---- the inbox -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder whose inbox lies beside its table; nothing of the reference is made."""
    (tmp_path / "work" / "inbox").mkdir(parents=True)
    (tmp_path / "work" / "datasets.tsv").write_text(ROWS)
    (tmp_path / "work" / "toy.h5ad").write_bytes(b"cells")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def plan(options=None) -> Plan:
    return Plan({"datasets": "datasets.tsv", **(options or {})}, ROOT)


def opened(settle: float = 0.0, **options) -> inbox.Inbox:
    return batch.opened(plan(), Path("inbox"), options.pop("reference", ""), options.pop("stages", ""), settle)


def test_a_file_that_changes_that_is_open_or_that_is_called_part_is_left(folder):
    for name in ("done.csv", "still.csv.part", ".rsync.Xa1", "open.csv", "young.csv"):
        (folder / "inbox" / name).write_text("x")
    for name in ("done.csv", "open.csv"):
        os.utime(folder / "inbox" / name, (1, 1))
    with open(folder / "inbox" / "open.csv", "a"):
        settled, writing = opened().arrivals()
        assert [path.name for path in settled] == ["done.csv", "young.csv"]
        assert [path.name for path in writing] == ["open.csv", "still.csv.part"]
        # A copy that keeps times looks old; the time of change of its entry does not.
        assert opened(settle=60).arrivals()[0] == []
    assert [path.name for path in opened().arrivals()[0]] == ["done.csv", "open.csv", "young.csv"]


def test_a_folder_arrives_when_its_last_file_has(folder):
    (folder / "inbox" / "sample").mkdir()
    with open(folder / "inbox" / "sample" / "matrix.mtx", "w"):
        assert opened().arrivals()[0] == []
    assert [path.name for path in opened().arrivals()[0]] == ["sample"]


def test_names_of_files_become_names_of_datasets(folder):
    names = {"Patient 7;x=1.h5ad": "Patient_7_x_1", "\t{b}.csv.gz": "b_", "-.npz": "npz", "toy.h5ad": "toy-2"}
    (folder / "inbox" / "Patient 7;x=1.h5ad").write_text("0")
    for number, name in enumerate(list(names)[1:], start=1):
        (folder / "inbox" / name).write_text(str(number))
    found = {path.name: opened().take(path, plan().datasets) for path in opened().arrivals()[0]}
    assert found == names
    rows = plan().datasets
    assert rows["toy-2"].source == "inbox/taken/toy-2/toy.h5ad"
    assert rows["Patient_7_x_1"].reference == "toy"
    assert all((folder / rows[name].source).is_file() for name in names.values())


def test_content_taken_before_is_set_aside_and_other_content_of_the_name_gets_another(folder):
    for text, expected in (("1", "a"), ("1", ""), ("2", "a-2")):
        (folder / "inbox" / "a.csv").write_text(text)
        assert opened().take(folder / "inbox" / "a.csv", plan().datasets) == expected
    assert [path.read_text() for path in (folder / "inbox" / "duplicates").iterdir()] == ["1"]


def test_names_that_are_ours_or_no_text_do_no_harm(folder):
    names = [b"delivery.json", b"report.txt", b"caf\xe9.csv"]
    for name in names:
        (folder / "inbox" / os.fsdecode(name)).write_bytes(name)
    for path in opened().arrivals()[0]:
        opened().take(path, plan().datasets)
    rows = [row for name, row in plan().datasets.items() if name != "toy"]
    assert sorted((folder / row.source).read_bytes() for row in rows) == sorted(names)
    for row in rows:
        place = opened().quarantine(row.name, ["a line"])
        assert "a line" in (place / "report.txt").read_text()
    (folder / "inbox" / "report.txt").symlink_to("/etc/hostname")
    place = opened().refuse(folder / "inbox" / "report.txt", [])
    assert (place / "report.txt").read_text().startswith("report.txt, seen")


def test_content_is_the_sha256_that_everybody_computes(folder):
    (folder / "inbox" / "a.csv").write_text("abc")
    assert inbox.content(folder / "inbox" / "a.csv") == hashlib.sha256(b"abc").hexdigest()
    found = []
    for name, text in (("one", "1"), ("two", "1"), ("three", "2")):
        (folder / "inbox" / name).mkdir()
        (folder / "inbox" / name / "matrix.mtx").write_text(text)
        found.append(inbox.content(folder / "inbox" / name))
    assert found[0] == found[1] != found[2]


def test_a_file_that_cannot_be_read_is_refused_and_the_others_are_taken(simple, monkeypatch):
    deliver(simple, "a", "b")
    real = inbox.hash_file

    def failing(path):
        if path.name == "a.csv":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(inbox, "hash_file", failing)
    said: list[str] = []
    counts, code = run(said)
    assert (code, counts.mapped, counts.quarantined) == (2, ["b"], ["a.csv"])
    assert said[0].startswith("HW-BA-002 inbox/a.csv: cannot be read ([Errno 13] Permission denied)")
    assert (simple / "inbox" / "quarantine" / "a" / "a.csv").exists()


def test_links_and_special_files_are_refused_unread(folder):
    (folder / "inbox" / "link.csv").symlink_to("/etc/hostname")
    os.mkfifo(folder / "inbox" / "pipe.csv")
    for name in ("link.csv", "pipe.csv"):
        with pytest.raises(BadInput, match="HW-IN-004 .* is a link or a special file"):
            opened().take(folder / "inbox" / name, ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inbox": "nowhere"}, "HW-BA-001 inbox nowhere: there is no such folder"),
        ({"inbox": "/"}, "HW-BA-001 inbox /: lies outside the folders that may be read"),
        ({"inbox": "a=b"}, "HW-BA-001 inbox a=b: its path has a character"),
        (
            {"reference": "other"},
            "HW-BA-001 --reference: 'other' is no dataset that others can be mapped onto; use .*toy",
        ),
        ({"stages": "extension,map"}, "HW-BA-001 --stages: a query has no stage 'map'; use some of: cells, pca, riem"),
    ],
)
def test_what_cannot_be_an_inbox_is_said_before_anything_moves(folder, change, said):
    (folder / "a=b").mkdir()
    asked = {"inbox": "inbox", "reference": "", "stages": "", **change}
    (folder / "inbox" / "new.csv").write_text("1")
    options = [word for name, value in asked.items() for word in (f"--{name}", value)]
    (folder / "mine.yaml").write_text("datasets: datasets.tsv\n")
    done = CliRunner().invoke(cli.main, ["batch", "--configfile", "mine.yaml", "--settle", "0", *options])
    assert done.exit_code == 2
    assert re.search(said, done.output)
    assert (folder / "datasets.tsv").read_text() == ROWS
    assert (folder / "inbox" / "new.csv").exists()


# ---- a whole run, by a Snakemake that only pretends ------------------------------------------------------------------


class Killed(BaseException):
    """What a kill at one step looks like to the test: nothing of the run goes on."""


def pretend(arguments: list[str], log: Path) -> int:
    """Snakemake, as far as a batch sees it."""
    log.parent.mkdir(exist_ok=True)
    log.write_text("")
    for target in arguments if "-n" not in arguments else ():
        if target.startswith("results/"):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            with open(target, "a") as file:
                file.write("made")
    return 0


@pytest.fixture
def simple(folder, monkeypatch):
    """The working folder with a finished reference, where a batch is bad when its name says so."""
    monkeypatch.setattr(config, "load", functools.cache(config.load))  # the schemas, hundreds of times
    pretend(
        [str(path) for stage in plan().wanted("toy") for path in [Path("results/toy", stage, "manifest.json")]],
        batch.LOG,
    )

    def judged(found, names):
        return [(name, ["HW-IN-042 counts are negative"] if "bad" in name else [], 2) for name in names]

    monkeypatch.setattr(batch, "judged", judged)
    return folder


def run(said: list[str] | None = None, with_inbox: bool = True) -> tuple[batch.Counts, int]:
    given = opened(stages="pca") if with_inbox else None
    return batch.batch(batch.Run(plan, pretend), given, (said if said is not None else []).append)


def deliver(folder, *names: str) -> None:
    for name in names:
        (folder / "inbox" / f"{name}.csv").write_text(name.partition("_")[0])


def manifests(folder) -> dict[str, str]:
    return {path.parts[-3]: path.read_text() for path in (folder / "results").glob("*/pca/manifest.json")}


def test_good_ones_are_mapped_once_and_bad_ones_quarantined(simple):
    deliver(simple, "a", "b", "bad", "b_again")
    said: list[str] = []
    counts, code = run(said)
    assert (code, str(counts)) == (2, "2 mapped, 1 quarantined, 1 delivered twice")
    assert said[-1].splitlines()[-1] == "quarantined: bad, see inbox/quarantine/bad/report.txt"
    report = (simple / "inbox" / "quarantine" / "bad" / "report.txt").read_text()
    assert report.startswith("bad.csv, received 20")
    assert report.endswith("\nHW-IN-042 counts are negative\n")
    assert (simple / "inbox" / "quarantine" / "bad" / "bad.csv").read_text() == "bad"
    assert list(plan().datasets) == ["toy", "a", "b"]
    before = manifests(simple)
    assert run() == (batch.Counts([], [], [], [], [], []), 0)
    assert manifests(simple) == before
    deliver(simple, "bad")  # corrected, or not: it is judged again
    assert run()[1] == 2
    assert (simple / "inbox" / "quarantine" / "bad-2").is_dir()


def test_every_kill_at_every_step_ends_in_the_same(simple, tmp_path, monkeypatch):
    """Every change on the disk is a step; the run is killed before and after each of them, then started again."""
    deliver(simple, "a", "b_1", "bad", "b_2")
    kept = shutil.copytree(simple, tmp_path / "kept")
    steps = {(Path, "rename"), (Path, "mkdir"), (inbox, "replace_file"), (table, "replace_file"), (shutil, "rmtree")}
    real = {step: getattr(*step) for step in steps}
    left = [0]

    def counted(function):
        def step(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            function(*arguments, **options)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        return step

    killed = 0
    while True:
        shutil.rmtree(simple)
        shutil.copytree(kept, simple)
        os.chdir(simple)
        for step, function in real.items():
            monkeypatch.setattr(*step, counted(function))
        left[0] = killed + 1
        try:
            run()
            ended = True
        except Killed:
            ended = False
        for step, function in real.items():
            monkeypatch.setattr(*step, function)
        run()
        check_the_four(simple, killed)
        if ended:
            break
        killed += 1
    assert killed > 40


def check_the_four(folder, moment: int) -> None:
    rows = {name for name in plan().datasets if name != "toy"}
    contents = sorted((folder / plan().datasets[name].source).read_text() for name in rows)
    assert contents == ["a", "b"], moment
    assert set(manifests(folder)) == {"toy", *rows}, moment
    assert manifests(folder)["toy"] == "made", moment
    assert sorted(path.read_text() for path in folder.glob("inbox/**/*.csv")) == ["a", "b", "b", "bad"], moment
    (report,) = folder.glob("inbox/quarantine/*/report.txt")
    assert (report.parent / "bad.csv").exists(), moment
    assert list(folder.glob("inbox/*.csv")) == [], moment


def test_a_row_that_got_lost_comes_back_and_one_without_its_reference_is_said(simple):
    deliver(simple, "a")
    run()
    (simple / "datasets.tsv").write_text(ROWS)  # saved by an editor that had it open
    assert run()[1] == 0
    assert "a" in plan().datasets
    (simple / "datasets.tsv").write_text(ROWS.replace("toy\t", "other\t"))
    said: list[str] = []
    run(said)
    assert "HW-BA-004 inbox/taken/a: has no row in datasets.tsv, and its reference 'toy' is not there" in said[0]


def test_a_bad_row_is_kept_out_until_it_its_source_or_its_options_change(simple):
    source = simple / "new.csv"
    source.write_text("1")
    row = "bad\tnew.csv\tcounts\tpca\ttoy\n"
    (simple / "datasets.tsv").write_text(ROWS.replace("stages\n", "stages\treference\n") + row)
    counts, code = run(with_inbox=False)
    assert (code, str(counts)) == (2, "0 mapped, 1 quarantined")
    report = simple / "quarantine" / "bad" / "report.txt"
    assert "HW-IN-042 counts are negative" in report.read_text()
    assert source.exists()
    assert "bad" in plan().datasets
    counts, code = run(with_inbox=False)
    assert (code, str(counts)) == (0, "0 mapped, 0 quarantined, 1 quarantined before")
    source.write_text("2")
    assert run(with_inbox=False)[1] == 2
    again = batch.Run(lambda: plan({"cells": {"min_shared": 0.5}}), pretend)
    assert batch.batch(again, None, print)[1] == 2


def test_a_reference_that_is_not_there_or_would_be_made_again_is_said(simple):
    deliver(simple, "a")
    (simple / "results" / "toy" / "affinity" / "manifest.json").unlink()
    said: list[str] = []
    counts, code = run(said)
    assert (code, str(counts)) == (2, "0 mapped, 0 quarantined, 1 failed")
    assert said == [
        "HW-BA-005 reference toy: 1 of its results are not there (results/toy/affinity/manifest.json); a batch makes "
        "none of them; type: heatwalk run results/toy/affinity/manifest.json"
    ]
    pretend(["results/toy/affinity/manifest.json"], batch.LOG)

    def stale(arguments, log):
        log.write_text("rule affinity:\n    output: results/toy/affinity/manifest.json (update)\n")
        assert "-n" in arguments  # nothing is run
        return 0

    counts, code = batch.batch(batch.Run(plan, stale), None, said.append)
    assert (code, counts.waiting) == (2, ["a"])
    assert "HW-BA-005 reference toy: affinity would be made again" in said[-1]


def test_what_failed_for_another_reason_waits_and_what_is_bad_only_to_a_stage_is_quarantined(simple):
    deliver(simple, "a", "b")

    def failing(code):
        def snakemake(arguments, log):
            for name in ("a", "b") if "-n" not in arguments else ():
                place = Path("results", ".work", name)
                place.mkdir(parents=True, exist_ok=True)
                failure = {"exit_code": code, "time_ns": time.time_ns(), "lines": [f"HW-XX {name}: why"]}
                (place / "cells.failure.json").write_text(json.dumps(failure))
            return pretend(arguments if "-n" in arguments else [], log) or int("-n" not in arguments)

        return snakemake

    said: list[str] = []
    counts, code = batch.batch(batch.Run(plan, failing(4)), opened(), said.append)
    assert (code, sorted(counts.waiting), said) == (4, ["a", "b"], ["HW-XX a: why", "HW-XX b: why"])
    counts, code = batch.batch(
        batch.Run(plan, lambda arguments, log: pretend(arguments[:1], log)), opened(), said.append
    )
    assert (code, sorted(counts.waiting)) == (1, ["a", "b"])
    assert "HW-BA-006 b: Snakemake ended with 0 before it was mapped" in said[-1]
    counts, code = batch.batch(batch.Run(plan, failing(2)), opened(), said.append)
    assert (code, sorted(counts.quarantined)) == (2, ["a", "b"])
    assert set(plan().datasets) == {"toy"}


def test_a_source_that_makes_its_reader_crash_is_quarantined_and_the_others_are_judged(folder, monkeypatch):
    (folder / "inbox" / "a.csv").write_text("x,y\n1,2\n")
    (folder / "inbox" / "b.csv").write_text("x,y\n1,2\n3,-4\n")
    for path in opened().arrivals()[0]:
        opened().take(path, plan().datasets)
    poison = "import os, signal; from heatwalk import asked\nknown = asked.everything\n"
    poison += "def everything(plan, name, results):\n    if name == 'a': os.kill(os.getpid(), signal.SIGSEGV)\n"
    poison += "    return known(plan, name, results)\nasked.everything = everything\n"
    (folder / "sitecustomize.py").write_text(poison)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT / 'src'}")
    found = {name: (lines, code) for name, lines, code in batch.judged(plan(), ["a", "b"])}
    assert found["a"][1] == found["b"][1] == 2
    assert "HW-BA-003 inbox/taken/a/a.csv: the process that read it ended with SIGSEGV" in found["a"][0][0]
    assert "HW-IN-042" in found["b"][0][0]


# ---- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A working folder with a finished reference and an empty inbox. Copy it before changing it."""
    folder = prepare(tmp_path_factory.mktemp("batches") / "first", options=OPTIONS + "roots: [., ../inbox]\n")
    (folder / "config" / "datasets.tsv").write_text(ROWS)
    (folder / "inbox").mkdir()
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def of_the_reference(folder) -> dict[str, tuple]:
    """Root hash, bytes and time of change of every manifest of the reference."""
    paths = sorted((folder / "results" / "toy").glob("*/manifest.json"))
    return {path.parent.name: (json.loads(path.read_text())["root"], path.read_bytes()) for path in paths}


def start(folder, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "heatwalk.cli", *(arguments or BATCH)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, **streams)


def test_ten_batches_by_two_overlapping_timers(mapped, tmp_path):
    folder = shutil.copytree(mapped, tmp_path / "ten", symlinks=True)
    before = of_the_reference(folder)
    for number in range(8):
        write_counts(folder / "inbox" / f"patient{number}.h5ad", n_cells=30, seed=number + 1)
    shutil.copy(folder / "inbox" / "patient3.h5ad", folder / "inbox" / "patient3_again.h5ad")
    write_counts(folder / "inbox" / "few.h5ad", n_cells=30, n_genes=20)
    (folder / "inbox" / "torn.h5ad").write_bytes((folder / "inbox" / "patient0.h5ad").read_bytes()[:2000])
    timers = [start(folder), start(folder)]
    said = [timer.communicate(timeout=600) for timer in timers]
    codes = [timer.returncode for timer in timers]
    assert sorted(codes) == [2, 3], said
    worked, refused = (said[codes.index(code)] for code in (2, 3))
    assert worked[0] == "heatwalk batch: 8 mapped, 2 quarantined, 1 delivered twice\n"
    assert re.search(r"HW-LK-003 heatwalk batch: process \d+ on .* is mapping batches in this folder", refused[1])
    assert "HW-CE-006" in (folder / "inbox" / "quarantine" / "few" / "report.txt").read_text()
    assert "HW-IN-006" in (folder / "inbox" / "quarantine" / "torn" / "report.txt").read_text()
    assert sorted(path.parts[-3] for path in (folder / "results").glob("*/extension/manifest.json")) == [
        f"patient{number}" for number in range(8)
    ]
    assert of_the_reference(folder) == before
    assert heatwalk(folder, "verify").returncode == 0
    times = {path: path.stat().st_mtime_ns for path in (folder / "results").glob("*/*/manifest.json")}
    done = heatwalk(folder, *BATCH)
    assert (done.returncode, done.stdout) == (0, "heatwalk batch: 0 mapped, 0 quarantined\n")
    assert times == {path: path.stat().st_mtime_ns for path in times}
    lines = (folder / "logs" / "batch.log").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [worked[0].strip(), done.stdout.strip()]


def kill_and_go_on(mapped, folder, milestone: str, with_programs: bool = False) -> None:
    """kill -9 of a batch when a file appears; the next start ends as if nothing had been."""
    shutil.copytree(mapped, folder, symlinks=True)
    before = of_the_reference(folder)
    write_counts(folder / "inbox" / "new.h5ad", n_cells=30, seed=1)
    write_counts(folder / "inbox" / "few.h5ad", n_cells=30, n_genes=20)
    killed = start(folder)
    while not (folder / milestone).exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.005)
    programs = psutil.Process(killed.pid).children(recursive=True) if with_programs else []
    for process in (killed, *programs):
        process.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (folder / milestone).exists() or not with_programs
    done = heatwalk(folder, *BATCH)
    assert done.returncode in (0, 2), done.stderr
    assert sorted(path.parts[-3] for path in (folder / "results").glob("*/extension/manifest.json")) == ["new"]
    assert [path.parent.name for path in (folder / "inbox").glob("quarantine/*/few.h5ad")] == ["few"]
    assert of_the_reference(folder) == before
    assert heatwalk(folder, "verify").returncode == 0
    assert litter(folder) == []
    done = heatwalk(folder, *BATCH)
    assert (done.returncode, done.stdout) == (0, "heatwalk batch: 0 mapped, 0 quarantined\n")


def litter(folder) -> list[str]:
    """What stands among unfinished work and is no lock, nor the folder of a dataset."""
    work = folder / "results" / ".work"
    found = (path.relative_to(work) for path in work.rglob("*"))
    return sorted(f"{path}" for path in found if path.suffix != ".lock" and f"{path}" not in ("toy", "new"))


def test_a_batch_that_is_killed_is_gone_on_with(mapped, tmp_path):
    kill_and_go_on(mapped, tmp_path / "killed", "results/new/cells/manifest.json")


@pytest.mark.qualification("kill, batch")
@pytest.mark.parametrize(
    "milestone",
    [
        "inbox/.batch.lock",
        "inbox/taken/few",
        "inbox/taken/few/few.h5ad",
        "inbox/taken/new/delivery.json",
        "inbox/taken/new/new.h5ad",
        "inbox/quarantine/few/report.txt",
        "logs/batch.plan.log",
        "logs/batch.snakemake.log",
        ".snakemake/locks/0.output.lock",
        "results/.work/new/cells.lock",
        "results/.work/new/cells",
        "results/new/pca/manifest.json",
        "results/.work/new/extension",
        "results/new/extension/manifest.json",
    ],
)
def test_a_batch_killed_at_any_stage_is_gone_on_with(mapped, tmp_path, milestone):
    kill_and_go_on(mapped, tmp_path / "killed", milestone)


@pytest.mark.qualification("kill, batch")
@pytest.mark.parametrize("stage", ["cells", "pca", "extension"])
def test_a_batch_killed_with_all_its_programs_leaves_no_litter(mapped, tmp_path, stage):
    kill_and_go_on(mapped, tmp_path / "killed", f"results/.work/new/{stage}", with_programs=True)


def test_a_batch_while_the_workflow_runs_ends_with_3_and_moves_nothing(mapped, tmp_path):
    folder = shutil.copytree(mapped, tmp_path / "busy", symlinks=True)
    write_counts(folder / "inbox" / "new.h5ad", n_cells=30, seed=1)
    locks = folder / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.input.lock").write_text("x")
    (folder / "snakemake").write_text("import time\ntime.sleep(100)\n")
    with subprocess.Popen([sys.executable, "snakemake"], cwd=folder) as other:
        done = heatwalk(folder, *BATCH)
        other.kill()
    assert done.returncode == 3
    assert f"HW-LK-002 .snakemake/locks: process {other.pid} is running the workflow in this folder" in done.stderr
    assert (folder / "inbox" / "new.h5ad").exists()


# ---- timers ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
def test_the_units_are_valid_for_systemd(tmp_path):
    for name in ("heatwalk-batch.service", "heatwalk-batch.timer"):
        text = (ROOT / "deploy" / name).read_text()
        (tmp_path / name).write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    units = [str(tmp_path / f"heatwalk-batch.{kind}") for kind in ("service", "timer")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_timers_call_the_command_as_it_is():
    for name in ("heatwalk-batch.service", "heatwalk-batch.cron"):
        text = (ROOT / "deploy" / name).read_text()
        arguments = re.search(r"/bin/heatwalk (batch [^\n>]*)", text)[1].split()
        parsed = cli.main.commands["batch"].make_context("batch", [*arguments[1:], "--help"], resilient_parsing=True)
        assert parsed.params["inbox"] == Path("inbox")
        assert not [word for word in parsed.params["snakemake_arguments"] or () if word != "--help"]
