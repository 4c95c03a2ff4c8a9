"""Of the long suite (make qualify): all real data in one run. Faults are in test_qualification_*.py."""

import os
import subprocess
import sys

import pytest
from workflow_runs import ROOT

pytestmark = pytest.mark.qualification("real data")


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
