"""Programs whose workflow is gone: they end, whatever they were doing then, and `resume` waits for that."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from heatwalk import other_runs
from heatwalk.errors import Locked
from heatwalk.program import process_names

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs learn of a death by Linux's signal")

PROGRAM = "from heatwalk import program; program.die_with_parent(); print('goes on')"


def dead() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("starter", "goes_on"),
    [
        (lambda: f"{os.getpid()} {process_names()}", True),
        (lambda: f"{dead()} {process_names()}", False),
        (lambda: f"{dead()} pid:[1]", True),  # a container's number says nothing here
        (lambda: "", True),
    ],
)
def test_a_program_that_begins_after_its_workflow_was_killed_ends_at_once(starter, goes_on):
    environment = {**os.environ, "HEATWALK_STARTER": starter()}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (("goes on\n", 0) if goes_on else ("", 1)), done.stderr
    assert goes_on or "which started this program, is gone" in done.stderr


@pytest.fixture
def locked(tmp_path, monkeypatch):
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_resume_waits_for_programs_that_are_about_to_end(locked):
    program = psutil.Popen([sys.executable, "-c", "import time; time.sleep(1.5)", "--block-cells", "1"], cwd=locked)
    other_runs.wait_for_orphans()
    assert program.wait(0) == 0


def test_resume_refuses_a_run_that_lives_at_once(locked):
    (locked / "snakemake").write_text("import time; time.sleep(99)")
    run = psutil.Popen([sys.executable, "snakemake"], cwd=locked)
    while not run.cmdline():  # for a moment a process that was just started has none
        time.sleep(0.01)
    started = time.monotonic()
    try:
        with pytest.raises(Locked, match=f"process {run.pid} is running the workflow"):
            other_runs.wait_for_orphans()
    finally:
        run.kill()
        run.wait()
    assert time.monotonic() - started < other_runs._GRACE_SECONDS / 2
