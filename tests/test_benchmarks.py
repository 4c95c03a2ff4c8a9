"""The benchmarks: simulated cells are the same whatever their number, and the table says what was measured."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import open_points  # noqa: E402
import points  # noqa: E402
import scale  # noqa: E402
import tools  # noqa: E402

import workflow  # noqa: E402


def record(tool: str, cells: int, repeat: int = 0, **found) -> dict:
    return {"tool": tool, "cells": cells, "repeat": repeat, **found}


def measured(tool: str, cells: int, seconds: float, repeat: int = 0, **found) -> dict:
    found = {"seconds": {"graph": seconds / 2, "map": seconds / 2}, "peak_mib": 10.0, "products": None, **found}
    return record(tool, cells, repeat, version="1", threads=2, **found)


def columns(line: str) -> list[str]:
    return [part.strip() for part in line.split("|")[1:-1]]


# ---- points --------------------------------------------------------------------------------------------------------


def test_first_cells_do_not_depend_on_the_total():
    few, many = points.points(points.BLOCK + 10), points.points(2 * points.BLOCK + 1)
    assert few.dtype == many.dtype == np.float32
    assert few.shape == (points.BLOCK + 10, 50)
    assert np.array_equal(few, many[: len(few)])


def test_file_holds_the_same_cells(tmp_path):
    path = tmp_path / "points.npy"
    points.write(path, points.BLOCK + 3, dimension=7, seed=4)
    held = np.load(path, mmap_mode="r")
    assert held.dtype == np.float32
    assert np.array_equal(held, points.points(points.BLOCK + 3, dimension=7, seed=4))


def test_density_does_not_depend_on_the_number_of_cells_or_the_seed():
    one, other = points.points(2 * points.BLOCK), points.points(2 * points.BLOCK, seed=1)
    assert not np.array_equal(one, other)
    for cells in (one[: points.BLOCK], one[points.BLOCK :], other):
        assert np.allclose(cells.mean(axis=0), one.mean(axis=0), atol=0.1)
        assert np.allclose(cells.std(axis=0), one.std(axis=0), rtol=0.1)


# ---- checks --------------------------------------------------------------------------------------------------------


def test_recall_counts_true_neighbours_and_not_the_cell_itself():
    cells = np.random.default_rng(0).random((600, 1))
    rows = tools.sample(600)
    exact = np.array([np.argsort(np.abs(cells[:, 0] - cells[row, 0]))[:5] for row in rows])  # itself, and four
    assert scale.recall(cells, exact) == 1
    wrong = exact.copy()
    wrong[:, 4] = np.argmax(np.abs(cells - cells[rows, 0]), axis=0)  # the farthest
    assert scale.recall(cells, wrong) == 0.75
    wrong[:, 4] = -1  # three were given: those are right
    assert scale.recall(cells, wrong) == 1


def test_check_finds_wrong_pairs(tmp_path):
    cells, path = points.points(300), tmp_path / "points.npy"
    np.save(path, cells)
    weights = np.exp(-((cells[:, None] - cells) ** 2).sum(axis=2))
    matrix, _ = tools.conjugate(csr_array(weights))
    values, vectors = np.linalg.eigh(matrix.toarray())
    near = np.argsort(-weights, axis=1)[tools.sample(300), :11]
    kept = {"neighbors": near, "indptr": matrix.indptr, "indices": matrix.indices, "data": matrix.data}
    for shift in (0, 1e-3):
        pairs = {"values": values[-16:] + shift, "vectors": vectors[:, -16:], "symmetric": True}
        np.savez(tmp_path / "kept.npz", **kept, **pairs)
        found = scale.check(tmp_path / "kept.npz", path, 300)
        assert found["recall"] == 1
        assert found["residual"] == pytest.approx(shift, abs=1e-12)
        assert found["error"] == pytest.approx(shift, abs=1e-12)


def test_a_command_that_fails_says_why(tmp_path):
    assert scale.watch([sys.executable, "-c", "pass"], tmp_path, 60, 1) == ""
    failing = [sys.executable, "-c", "raise ValueError('too many cells')"]
    assert scale.watch(failing, tmp_path, 60, 1) == "failed: ValueError: too many cells"
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert scale.watch(waiting, tmp_path, 0.2, 1) == "over 0 s"
    assert scale.watch(waiting, tmp_path, 60, 1e-6) == "out of memory at 1e-06 GB"


# ---- the tables ----------------------------------------------------------------------------------------------------


def test_exponent_of_a_known_power():
    assert scale.exponent([10, 100, 1000], [3 * 10**1.25, 3 * 100**1.25, 3 * 1000**1.25]) == pytest.approx(1.25)
    records = [measured("heatwalk", cells, cells**1.5) for cells in (100, 1000)]
    rows = [columns(row) for row in scale.exponents(records)[1:]]
    assert rows == [["heatwalk", stage, "1.50", "100", "1,000"] for stage in ("graph", "map", "all")]


def test_one_size_gives_no_exponent():
    assert len(scale.exponents([measured("heatwalk", 100, 1.0), record("scanpy", 100, failure="over 1 s")])) == 1


def test_ratio_is_the_median_of_the_ratios_of_the_repeats():
    records = []
    for repeat, (ours, theirs) in enumerate([(1, 2), (10, 40), (4, 12)]):
        records += [measured("heatwalk", 1000, ours, repeat), measured("scanpy", 1000, theirs, repeat)]
    records[1] |= {"recall": 0.5, "residual": 1e-8, "error": 2e-8, "products": 1234}
    ours, theirs = (columns(line) for line in scale.table(records)[1:])
    assert len(ours) == len(theirs) == len(columns(scale.HEADER.splitlines()[0]))
    assert ours[:6] == ["1,000", "heatwalk", "2.00", "2.00", "4.00", "1.00"]
    assert theirs == [
        *("1,000", "scanpy", "6.00", "6.00", "12.00", "3.00", "10"),
        *("0.5000", "1.0e-08", "2.0e-08", "1,234"),
    ]
    assert ours[7:] == ["-"] * 4


def test_a_failure_is_a_row():
    failures = ["not installed", "out of memory at 16 GB", "failed: a | b"]
    records = [record(tool, 50_000, failure=why) for tool, why in zip(list(tools.TOOLS)[3:], failures, strict=True)]
    rows = [columns(line) for line in scale.table(records)[1:]]
    assert [row[:3] for row in rows] == [
        ["50,000", "pyDiffMap", "not installed"],
        ["50,000", "datafold", "out of memory at 16 GB"],
        ["50,000", "scikit-learn", "failed: a / b"],
    ]
    assert {len(row) for row in rows} == {11}


def test_larger_sizes_are_skipped_and_say_so(monkeypatch, tmp_path):
    def measure(tool, n_cells, *_):
        slow = tool == "sklearn" and n_cells > 100
        return {"failure": "over 9 s"} if slow else {"seconds": {"map": 1.0}, "peak_mib": 1.0}

    monkeypatch.setattr(scale, "measure", measure)
    words = ["--cells", "400", "100", "200", "--repeats", "2", "--tools", "heatwalk", "sklearn"]
    records = scale.run(scale.arguments([*words, "--json", str(tmp_path / "all.jsonl")]))
    assert [record["cells"] for record in records if record["tool"] == "heatwalk"] == [100, 100, 200, 200, 400, 400]
    failures = {record["cells"]: record.get("failure") for record in records if record["tool"] == "sklearn"}
    assert failures == {100: None, 200: "over 9 s", 400: "skipped: ran out at 200"}
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == len(records)


def test_peers_that_are_not_installed_say_so(tmp_path):
    options = scale.arguments(["--peers", str(tmp_path / "python")])
    assert scale.measure("datafold", 100, tmp_path, tmp_path, False, options) == {"failure": "not installed"}
    assert scale.skipped(100, "not installed") == "not installed"
    assert scale.skipped(50_000, "failed: x") == "skipped: failed at 50,000"


def test_a_check_that_did_not_end_is_told():
    records = [measured("heatwalk", 1000, 1.0), measured("scanpy", 1000, 1.0, check="over 9 s")]
    assert scale.unchecked(records) == ["scanpy, 1,000 cells, not checked: over 9 s"]


def test_stages_of_the_workflow_stand_beside_what_was_foreseen_with_their_exponents():
    def found(seconds):
        foreseen = {"seconds": 2 * seconds, "memory": 3e8}
        return {"seconds": seconds, "peak_memory_bytes": 2e8, "predicted": foreseen}

    sizes = {1000: dict.fromkeys(workflow.STAGES, found(1.0)), 100_000: dict.fromkeys(workflow.STAGES, found(1000.0))}
    head, _, first, *_, last = workflow.table(sizes)
    assert columns(head) == ["stage", "1,000", "100,000", "exponent"]
    assert columns(first) == ["cells", "1.0 (2.0) s, 200 (300)", "1,000.0 (2,000.0) s, 200 (300)", "1.50"]
    assert columns(last) == ["all", f"{len(workflow.STAGES)} s", f"{1000 * len(workflow.STAGES):,} s", "1.50"]
    assert workflow.table({1000: sizes[1000]})[-1].endswith("| - |")


# ---- open_points -----------------------------------------------------------------------------------------------------


def test_points_are_moved_off_the_swiss_roll_at_right_angles():
    angle, height = np.linspace(5, 14, 50), np.linspace(0, 21, 50)

    def roll(t):
        return np.column_stack([t * np.cos(t), height, t * np.sin(t)])

    normals = open_points.normals(roll(angle))
    along = (roll(angle + 1e-6) - roll(angle - 1e-6)) / 2e-6
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    np.testing.assert_allclose((normals * along).sum(axis=1), 0, atol=1e-6)
    assert (normals[:, 1] == 0).all()
