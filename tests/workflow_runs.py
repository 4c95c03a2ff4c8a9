"""Runs of the workflow for tests: a small dataset in a folder of its own, and what came of it."""

import json
import os
import subprocess
import sys
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


def _run(command: list[str], folder: Path, environment: dict) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def stages_to_run(folder: Path, *arguments: str, **environment: str) -> set[str]:
    """Stages that a dry run would run."""
    done = snakemake(folder, "-n", "--cores", "1", *arguments, **environment)
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
