"""Runs of the workflow for tests: a small dataset in a folder of its own, and what came of it."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

ROOT = Path(__file__).parents[1]
STAGES = ("cells", "pca", "neighbors", "affinity", "diffusion_map", "atlas", "report")
OPTIONS = "cells: {n_top_genes: 60}\npca: {n_components: 10}\nneighbors: {n_neighbors: 12}\n"
OPTIONS += "diffusion_map: {n_components: 5}\nblock_cells: 64\n"


def write_counts(path: Path, n_cells: int = 240, n_genes: int = 90, seed: int = 0) -> None:
    """Counts of cells along a branch of three types, as .h5ad."""
    generator = np.random.default_rng(seed)
    time = np.sort(generator.random(n_cells))
    centres = generator.gamma(1.0, 2.0, (3, n_genes))
    weights = np.stack([1 - time, 2 * time * (1 - time), time], 1)
    counts = scipy.sparse.csr_matrix(generator.poisson(weights @ centres).astype(np.float32))
    obs = pd.DataFrame(
        {"type": pd.Categorical(np.digitize(time, [0.3, 0.6]).astype(str)), "time": time},
        index=[f"cell{number}" for number in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{number}" for number in range(n_genes)])
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(path)


def prepare(folder: Path, options: str = OPTIONS, rows: str = "toy\ttoy.h5ad\tcounts\n") -> Path:
    """A working folder with one dataset and its configuration."""
    (folder / "config").mkdir(parents=True)
    write_counts(folder / "config" / "toy.h5ad")
    (folder / "config" / "datasets.tsv").write_text("name\tsource\tkind\n" + rows)
    (folder / "config" / "config.yaml").write_text(options)
    return folder


def heatwalk(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return _run([sys.executable, "-m", "heatwalk.cli", *arguments], folder, environment)


def snakemake(folder: Path, *arguments: str, top: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(top / "Snakefile"), *arguments]
    return _run(command, folder, environment)


_SERVER = """
import json, os, sys
import heatwalk.rules, jsonschema, pandas, snakemake.cli, snakemake.report.html_reporter
for line in sys.stdin:
    folder, printed, arguments = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(printed, name), os.O_CREAT | os.O_WRONLY), number)
    sys.argv = ["snakemake", *arguments]
    sys.exit(snakemake.cli.main())
"""


@functools.lru_cache(maxsize=1)
def _server() -> subprocess.Popen:
    """A process that has imported Snakemake, which is most of the time of a dry run; it ends with this one."""
    return subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def dry_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`snakemake -n` in a copy of a process that has imported it already."""
    command = ["--snakefile", str(ROOT / "Snakefile"), "-n", "--cores", "1", *arguments]
    server = _server()
    with tempfile.TemporaryDirectory() as printed:
        print(json.dumps([str(folder), printed, command]), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        said, errors = ((Path(printed) / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(command, code, said, errors)


def _run(command: list[str], folder: Path, environment: dict) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def stages_to_run(folder: Path, *arguments: str, **environment: str) -> set[str]:
    """Stages that a dry run would run."""
    # Another heatwalk, or other surroundings, need a process of their own.
    with_own = functools.partial(snakemake, folder, "-n", "--cores", "1", **environment)
    done = with_own(*arguments) if environment else dry_run(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = (
        line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith(("rule ", "localrule "))
    )
    return set(rules) & set(STAGES)


def roots(folder: Path, dataset: str = "toy") -> dict[str, str]:
    """Root hash of every stage."""
    return {stage: manifest(folder, stage, dataset)["root"] for stage in STAGES}


def manifest(folder: Path, stage: str, dataset: str = "toy") -> dict:
    return json.loads((folder / "results" / dataset / stage / "manifest.json").read_text())
