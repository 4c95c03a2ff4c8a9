"""Inputs whose bytes were changed: never a crash, a hang or a result that is none; and a rule for every bad one."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import inputs_fixtures as make
import mutations
import pytest
from qualified import TRIALS

from heatwalk.inputs import CODES

SOURCES = {
    "h5ad": lambda path: make.write_h5ad(path / "a.h5ad"),
    "h5ad gzip, dense": lambda path: make.write_h5ad(
        path / "a.h5ad", make.annotated(make.counts().toarray()), compression="gzip"
    ),
    "zarr 2": lambda path: make.write_zarr(path / "a.zarr", version=2),
    "zarr 3": lambda path: make.write_zarr(path / "a.zarr", version=3),
}
EACH = 50 * TRIALS  # mutations of every source: 2,000 in all with TRIALS=10
SOMETHING = re.compile(r"(HW-(?:IN|CE|PC)-\d{3}) ")


@pytest.mark.qualification("mutated input")
@pytest.mark.parametrize("part", range(max(1, EACH // 50)))
@pytest.mark.parametrize("name", SOURCES)
def test_changed_bytes_are_refused_or_read(name, part, tmp_path, record_property):
    check_mutations(name, 50 * part, 50, tmp_path, record_property)


def check_mutations(name, first, number, tmp_path, record_property) -> None:
    (tmp_path / "original").mkdir(), (tmp_path / "work").mkdir()
    original = SOURCES[name](tmp_path / "original")
    command = [sys.executable, mutations.__file__, tmp_path / "work", original, f"{first}", f"{first + number}"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == number
    wrong = [(why, line) for line in lines if (why := what_is_wrong(line))]
    record_property("trials", {"cells": number})
    record_property("failures", len(wrong))
    print(name, Counter(leading_code(line["said"]) if line["code"] else "read" for line in lines))
    assert wrong == []


def leading_code(said: str) -> str:
    return (SOMETHING.findall(said) or ["no code"])[0]


def what_is_wrong(line: dict) -> str:
    """Why a mutation was not dealt with as it should be; "" if it was."""
    if line["code"] < 0:
        return f"ended by signal {-line['code']}"
    if line["cpu"] > mutations.CPU_SECONDS:
        return "hangs"
    if line["code"] == 0:
        return "" if line["stands"] else "published nothing and said nothing"
    if line["code"] != 2:
        return f"exit code {line['code']}"
    if line["stands"]:
        return "published what it refused"
    said = line["said"].strip().splitlines()
    if not said or not all(SOMETHING.match(text) or "Warning" in text for text in said):
        return "not said in lines with a code"
    return "" if all(code in CODES or not code.startswith("HW-IN") for code in SOMETHING.findall(line["said"])) else "?"


@pytest.mark.parametrize("name", ["h5ad", "zarr 3"])
def test_some_changed_bytes_are_refused_or_read(name, tmp_path, record_property):
    """The slice of it that `make test` runs."""
    check_mutations(name, 0, 25, tmp_path, record_property)


def test_a_hang_and_a_crash_would_be_seen():
    good = {"code": 2, "cpu": 0.1, "stands": False, "said": "HW-IN-006 a.h5ad: cannot be read; copy it again\n"}
    assert what_is_wrong(good) == ""
    for change in ({"code": -11}, {"cpu": 31}, {"code": 1}, {"stands": True}, {"said": "Traceback"}, {"code": 0}):
        assert what_is_wrong({**good, **change}), change
    assert Path(mutations.__file__).exists()
