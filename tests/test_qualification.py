"""The long suite (make qualify): kills at random moments, rot in every stage, and all real data in one run."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time

import pytest
from workflow_runs import OPTIONS, ROOT, heatwalk, prepare, roots

from heatwalk import store

pytestmark = pytest.mark.qualification


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, and how long it took."""
    folder = prepare(tmp_path_factory.mktemp("whole") / "run")
    started = time.monotonic()
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, time.monotonic() - started


def watch(folder, stop, torn: list) -> None:
    """Note every result that its manifest says is there and that is not whole, as long as the run lasts."""
    while not stop.is_set():
        for manifest in (folder / "results").glob("*/*/manifest.json"):
            with contextlib.suppress(FileNotFoundError):  # published again while it was being read
                before = manifest.read_bytes()
                problems = [str(problem) for problem in store.verify(manifest.parent)]
                # A manifest or a link that was replaced while it was read is no torn result.
                same = manifest.read_bytes() == before
                torn += [text for text in problems if same and "points elsewhere" not in text]
        time.sleep(0.02)


def programs(folder) -> list:
    """Stage programs that run in a folder."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and "--block-cells" in process.cmdline():
                found.append(process)
    return found


@pytest.mark.parametrize("victim", ["job", "snakemake", "both"])
@pytest.mark.parametrize("trial", range(10))
def test_a_kill_at_a_random_moment_changes_nothing(whole, tmp_path, victim, trial):
    finished, seconds = whole
    folder = prepare(tmp_path / "killed")
    if trial % 2:  # a rerun over results that stand, in every stage
        (folder / "config" / "config.yaml").write_text(OPTIONS + "seed: 3\n")
        assert heatwalk(folder, "run", "--cores", "2").returncode == 0
        (folder / "config" / "config.yaml").write_text(OPTIONS)
    moment = random.Random(f"{victim} {trial}").uniform(0.1, 0.95) * seconds
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    stop, torn = threading.Event(), []
    watcher = threading.Thread(target=watch, args=(folder, stop, torn))
    watcher.start()
    try:
        with open(tmp_path / "log", "w") as log:
            run = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
            time.sleep(moment)
            running = programs(folder)
            if victim in ("snakemake", "both"):
                run.kill()
            for process in running if victim in ("job", "both") else ():
                with contextlib.suppress(Exception):
                    process.kill()
            run.wait(120)
        done = heatwalk(folder, "resume", "--cores", "2")
    finally:
        stop.set()
        watcher.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert programs(folder) == []
    assert torn == []
    assert roots(folder) == roots(finished)
    assert heatwalk(folder, "verify").returncode == 0


def test_every_one_of_500_flips_deletions_and_swaps_is_noticed(whole, tmp_path):
    folder = shutil.copytree(whole[0] / "results", tmp_path / "results", symlinks=True)
    census = damage_and_verify(folder, 500, seed=1)
    print(census)
    assert census["missed"] == []


def damage_and_verify(results, n_trials: int, seed: int) -> dict:
    """Damage one object at a time; what was tried, and what `verify` did not notice."""
    generator = random.Random(seed)
    census = {"flip": 0, "delete": 0, "swap": 0, "missed": []}
    objects = [path for path in results.rglob("*") if path.is_file() and not path.is_symlink()]
    objects = [path for path in objects if path.name not in ("run.json", "README.md") and ".work" not in path.parts]
    for trial in range(n_trials):
        path, kind = generator.choice(objects), ("flip", "flip", "flip", "delete", "swap")[trial % 5]
        folder = results / path.relative_to(results).parts[0] / path.relative_to(results).parts[1]
        content = path.read_bytes()
        same_size = [other for other in objects if other.parent.parent == path.parent.parent and other != path]
        other = generator.choice(same_size) if same_size and kind == "swap" else None
        replaced = other.read_bytes() if other else b""
        if kind == "delete":
            path.unlink()
        elif other and replaced != content:
            path.write_bytes(replaced), other.write_bytes(content)
        else:
            kind, flipped, bit = "flip", bytearray(content), generator.randrange(8 * len(content))
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
        census[kind] += 1
        if folder in store.results_under(results) and not store.verify(folder):
            census["missed"].append((kind, str(path)))
        elif folder not in store.results_under(results):
            census["missed"].append((kind, str(path), "not found"))
        path.write_bytes(content)
        if other:
            other.write_bytes(replaced)
    return census


@pytest.mark.skipif(not os.environ.get("HEATWALK_DATA"), reason="HEATWALK_DATA names no folder")
def test_all_real_data_in_one_run(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "real_data.py"), str(tmp_path / "real")],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 8
    assert all(float(row[5]) < 1e-6 for row in rows)
    ours, theirs = (float(text.split()[-1].rstrip(",")) for text in done.stdout.splitlines()[-1].split(", ")[-2:])
    assert ours >= theirs - 0.02
