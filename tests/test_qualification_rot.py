"""Damage to what is stored, one object at a time, in every stage: `verify` says so, and the next stage refuses it."""

import contextlib
import os
import random
import re
import shutil
from pathlib import Path

import pytest
import qualified
from qualified import TRIALS
from workflow_runs import heatwalk

from heatwalk import store
from heatwalk.errors import BadInput

FLIPS = max(500, 100 * TRIALS)  # over all stages together
OTHERS = 4 * TRIALS  # of every other kind, for each stage


@pytest.fixture(scope="session")
def whole():
    return qualified.whole()


def objects(result: Path) -> list[Path]:
    """Every file of a result that its hashes answer for."""
    found = [path for path in result.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path for path in found if path.name != "run.json")


def flip(path: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    bit = generator.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def delete(path: Path, generator: random.Random) -> None:
    path.unlink()


def truncate(path: Path, generator: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: generator.randrange(path.stat().st_size)])


def truncate_manifest(path: Path, generator: random.Random) -> None:
    truncate(result_of(path) / "manifest.json", generator)


def stray(path: Path, generator: random.Random) -> None:
    (path.parent / generator.choice(["c9", "zarr.json.old", ".DS_Store", "notes.txt"])).write_bytes(b"stray")


def swap(path: Path, generator: random.Random) -> None:
    """Exchange a file with another of the same result, of the same size if there is one."""
    content = path.read_bytes()
    others = [other for other in objects(result_of(path)) if other.read_bytes() != content]
    same = [other for other in others if other.stat().st_size == len(content)]
    other = generator.choice(same or others)
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def become_a_link(path: Path, generator: random.Random) -> None:
    """The right bytes, elsewhere: nobody knows who changes them."""
    elsewhere = result_of(path).parent.parent / "elsewhere"
    shutil.copyfile(path, elsewhere)
    path.unlink()
    path.symlink_to(os.path.relpath(elsewhere, path.parent))


DAMAGES = (flip, delete, truncate, truncate_manifest, stray, swap, become_a_link)


def result_of(path: Path) -> Path:
    return next(parent for parent in path.parents if (parent.parent.parent / ".work").exists())


@contextlib.contextmanager
def restored(result: Path):
    """A result that is as it was afterwards."""
    kept = shutil.copytree(result, result.parent.parent.parent / "kept", symlinks=True)
    try:
        yield
    finally:
        shutil.rmtree(result)
        shutil.move(kept, result)


def unnoticed(result: Path, damage, generator: random.Random) -> str:
    """Damage a result once; "" where both `verify` and reading noticed it, and otherwise what they did not notice."""
    path = generator.choice(objects(result))
    with restored(result):
        damage(path, generator)
        name = f"{damage.__name__} of {path.relative_to(result.parent.parent)}"
        if result not in store.results_under(result.parent.parent):
            return f"{name}: no longer found"
        if not store.verify(result):
            return f"{name}: not noticed by verify"
        with contextlib.suppress(BadInput):
            store.read(result)
            return f"{name}: read"
    return ""


@pytest.mark.qualification("rot")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("stage", qualified.stages())
def test_every_damage_is_noticed(whole, tmp_path, stage, damage, record_property):
    each = -(-FLIPS // len(qualified.stages())) if damage is flip else OTHERS
    check_damages(whole, tmp_path, stage, damage, each, record_property)


def check_damages(whole, tmp_path, stage, damage, each, record_property) -> None:
    results, generator = tmp_path / "results", random.Random(f"{stage} {damage.__name__}")
    job = whole.of_stage(stage)
    shutil.copytree(whole.folder / "results" / job.name, results / job.name, symlinks=True)
    (results / ".work").mkdir()
    missed = [said for _ in range(each) if (said := unnoticed(results / job.name, damage, generator))]
    record_property("trials", {stage: each})
    record_property("failures", len(missed))
    assert missed == []
    assert store.verify(results / job.name) == []


@pytest.mark.qualification("rot, next stage")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("stage", qualified.stages())
def test_the_next_stage_refuses_it_and_resume_says_what_to_delete(whole, tmp_path, stage, damage):
    check_the_next_stage(whole, tmp_path, stage, damage)


def check_the_next_stage(whole, tmp_path, stage, damage) -> None:
    job, folder = whole.of_stage(stage), whole.copy(tmp_path / "run")
    generator = random.Random(f"{stage} {damage.__name__} next")
    if not whole.readers(job):
        pytest.skip("no stage reads it")
    reader = generator.choice(whole.readers(job))
    before, result = qualified.root(folder, reader.name), qualified.own(folder, job)
    damage(generator.choice(objects(result)), generator)
    done = qualified.run(reader, folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.match(rf"HW-ST-00\d results/{job.name}: ", done.stderr), done.stderr
    assert qualified.root(folder, reader.name) == before
    assert heatwalk(folder, "verify").returncode == 2
    # What the line says to type, and what comes of it.
    assert "delete this folder and run the workflow again" in done.stderr
    shutil.rmtree(result)
    again = qualified.run(job, folder)
    assert again.returncode == 0, again.stderr
    assert qualified.root(folder, job.name) == whole.root(job.name)
    assert store.verify(result) == []
