"""Other runs in the working folder: who is at work, and what a new one may not disturb."""

import os
import tempfile
import time
from pathlib import Path

from heatwalk import slurm
from heatwalk.errors import Locked, Problem, first_few
from heatwalk.program import explain

_GRACE_SECONDS = 60  # that a program without its Snakemake may take to be loaded and to end


def others(*, programs: bool = True) -> list[int]:
    """Processes of another Snakemake run in the working folder, with the stage programs or without."""
    import psutil

    mine, found = {process.pid for process in [psutil.Process(), *psutil.Process().parents()]}, []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        line = process.info["cmdline"] or []
        runs = any(Path(part).name == "snakemake" for part in line[:3]) or (programs and "--block-cells" in line)
        if runs and process.info["cwd"] == os.getcwd() and process.pid not in mine:
            found.append(process.pid)
    return found


def refuse_folder() -> None:
    """Say that nothing can be written here, before Snakemake fails over it."""
    try:
        Path("results", ".work").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path("results", ".work")):
            pass
    except OSError as error:
        raise explain(error, Path("results")) from None


def refuse_lock() -> None:
    """Say who holds the workflow's lock, or that its holder is dead."""
    if not any(Path(".snakemake/locks").glob("*")):
        return
    found = others()
    if found:
        cause, remedy = f"process {found[0]} is running the workflow in this folder", "wait until it ends"
    else:
        cause, remedy = "a run that was killed left its lock", "type: heatwalk resume"
    raise Locked(Problem("HW-LK-002", ".snakemake/locks", cause, remedy))


def refuse_jobs() -> None:
    """Say that jobs of another run are at work here: unlike programs, they do not end with it."""
    numbers = slurm.at_work(Path.cwd())
    if numbers:
        cause = f"jobs {first_few(numbers)} of Slurm, of another run, are at work in this folder"
        remedy = f"wait until they end, or type: scancel {' '.join(numbers)}"
        raise Locked(Problem("HW-LK-002", f"{Path.cwd()}", cause, remedy))


def wait_for_orphans() -> None:
    """Stage programs end with the Snakemake that started them; give them a moment, and refuse a run that lives."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while others():
        if others(programs=False) or time.monotonic() > deadline:
            refuse_lock()
            return
        time.sleep(0.2)
