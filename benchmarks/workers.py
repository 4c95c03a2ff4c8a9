"""Does a stage on workers in jobs of Slurm's give the hash of threads, and what does it cost?

    python benchmarks/workers.py [--cells 1000000] [--scheduler "slurm://main?jobs=2&threads=1&interface=lo"] ...

Cells are those of points.py. The programs of neighbors, affinity and diffusion_map run as their rules call them, on
threads, and neighbors and diffusion_map on the scheduler's workers as well. Prints one table, and the jobs of workers
that were left. Without a cluster, this starts one on this machine for the time of a command:

    python tests/local_slurm.py python benchmarks/workers.py --cells 1000000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import points

from heatwalk import store

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
STAGES = {"neighbors": ["pca"], "affinity": ["pca", "neighbors"], "diffusion_map": ["affinity"]}
SENT = ("neighbors", "diffusion_map")
BLOCK_CELLS = 8192


def coordinates(folder: Path, n_cells: int) -> None:
    """A result of pca with nothing but coordinates."""
    draft = store.create(folder / "results" / "cells" / "pca", "pca", block_cells=BLOCK_CELLS)
    draft["coordinates"] = points.points(n_cells)
    store.publish(draft, parameters={}, code="", inputs={})


def run(stage: str, folder: Path, scheduler: str, options) -> dict:
    """One stage: its seconds, its peak memory here, its root hash."""
    own = {
        "neighbors": {"n_neighbors": options.neighbors},
        "diffusion_map": {"n_components": options.components, "tolerance": options.tolerance},
    }
    given = [f"results/cells/{name}/manifest.json" for name in STAGES[stage]]
    command = [sys.executable, SCRIPTS / f"{stage}.py", "--result", f"results/cells/{stage}", "--inputs", *given]
    command += [
        "--options",
        json.dumps(own.get(stage, {})),
        "--block-cells",
        f"{BLOCK_CELLS}",
        "--scheduler",
        scheduler,
    ]
    command += ["--threads", f"{options.threads}", "--memory", f"{options.memory * 10**9}", "--log", "log"]
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS.parent / 'src'}"}
    started = time.monotonic()
    subprocess.run(list(map(str, command)), cwd=folder, env=environment, check=True)
    result = folder / "results" / "cells" / stage
    found = {"seconds": time.monotonic() - started, "root": store.read_json(result / "manifest.json")["root"]}
    return found | {"peak": store.read_json(result / "run.json")["peak_memory_bytes"]}


def left() -> int:
    """Jobs of workers that are still there."""
    asked = ["squeue", "-h", "--me", "-n", "heatwalk-workers", "-o", "%i"]
    return len(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split())


def main() -> None:
    parser = argparse.ArgumentParser(description="Stages on threads, and on workers in jobs of Slurm's.")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--scheduler", default="slurm://main?jobs=2&threads=1&memory=4GB&minutes=60&interface=lo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, default=8, help="GB that a stage may use")
    parser.add_argument("--neighbors", type=int, default=30)
    parser.add_argument("--components", type=int, default=15)
    parser.add_argument("--tolerance", type=float, default=1e-10)
    options = parser.parse_args()
    print("| stage | computed by | seconds | peak here, MB | root hash |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        coordinates(Path(name), options.cells)
        for stage in STAGES:
            for scheduler in ("threads", options.scheduler) if stage in SENT else ("threads",):
                found = run(stage, Path(name), scheduler, options)
                cost = f"{found['seconds']:.1f} | {found['peak'] / 1e6:.0f}"
                print(f"| {stage} | {scheduler.partition(':')[0]} | {cost} | {found['root'][:16]} |", flush=True)
    print(f"{options.cells:,} cells; jobs of workers left: {left()}")


if __name__ == "__main__":
    main()
