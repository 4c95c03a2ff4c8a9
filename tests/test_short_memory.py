"""Address space that is short: refused beforehand; and where it runs out after all, cleaned up without any."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_runs import ROOT, write_counts

from heatwalk import forecast
from heatwalk.errors import OutOfResources

# Takes all that can be taken, in ever smaller pieces, and keeps it until the program ends.
TO_THE_BRIM = """
import mmap, sys
from heatwalk import program
{change}
kept = []

def main(job):
    job.create().scratch.joinpath("unfinished").write_bytes(b"half")
    for size in (2**26, 2**22, 2**18, 2**14, 4096):
        try:
            while True:
                kept.append(mmap.mmap(-1, size))
        except OSError:
            pass
    while True:
        kept.append(bytes(500))

program.run(main)
"""


def limited(command: list[str], folder: Path, n_bytes: float) -> subprocess.CompletedProcess:
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (int(n_bytes), int(n_bytes)))

    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 600, "preexec_fn": limit}
    return subprocess.run(command, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, **options)


def to_the_brim(folder: Path, change: str = "") -> subprocess.CompletedProcess:
    arguments = ["--result", "results/toy/pca/manifest.json", "--block-cells", "16"]
    return limited([sys.executable, "-c", TO_THE_BRIM.format(change=change), *arguments], folder, 2.8e9)


def test_unfinished_work_goes_though_no_memory_is_left(tmp_path):
    done = to_the_brim(tmp_path)
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("HW-RS-001 results/toy/pca: memory ran out")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "results" / ".work" / "toy").iterdir() if path.is_dir()] == []
    failure = json.loads((tmp_path / "results" / ".work" / "toy" / "pca.failure.json").read_text())
    assert failure["exit_code"] == 4


def test_without_its_reserve_it_could_not(tmp_path):
    to_the_brim(tmp_path, "program._RESERVE = 4096")
    assert list((tmp_path / "results" / ".work" / "toy" / "pca").rglob("unfinished"))


def test_cells_says_what_it_needs_before_it_opens_its_input(tmp_path):
    write_counts(tmp_path / "toy.h5ad", n_cells=60)
    source = {"source": "toy.h5ad", "kind": "counts", "layer": "", "columns": [], "space": "euclidean", "reference": ""}
    command = [sys.executable, str(ROOT / "scripts" / "cells.py"), "--result", "results/toy/cells/manifest.json"]
    command += ["--source", json.dumps(source), "--root", ".", "--block-cells", "16"]
    command += ["--options", '{"n_top_genes": 10, "min_cells": 1}']
    done = limited(command, tmp_path, 4e8)
    assert done.returncode == 4, done.stderr
    said = "HW-RS-008 results/toy/cells: cells needs at least 2,665 MB of address space, 400 MB are available"
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results" / "toy").exists()
    assert limited(command, tmp_path, 2.8e9).returncode == 0


def test_the_bound_is_what_is_foreseen_and_the_number_to_type_suffices(monkeypatch):
    available = [2.6e9]
    monkeypatch.setattr(resource, "getrlimit", lambda which: (available[0], available[0]))
    with pytest.raises(OutOfResources, match="HW-RS-008 here: pca needs at least 2,665 MB .* 2,600 MB are") as caught:
        forecast.refuse_limit("pca", "here")
    available[0] = 1024 * int(str(caught.value).partition("ulimit -v ")[2].split()[0])
    forecast.refuse_limit("pca", "here")
    with pytest.raises(OutOfResources, match="at least 5,500 MB"):
        forecast.refuse_limit("pca", "here", 3e9)
    available[0] = resource.RLIM_INFINITY
    forecast.refuse_limit("pca", "here", 3e12)
