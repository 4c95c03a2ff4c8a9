"""Are batch effects hidden? Stimulated cells as a query of control cells, through the whole workflow.

    python benchmarks/queries.py [--folder FOLDER]        data from HEATWALK_DATA

pbmc_ifnb: four fifths of the control cells are the reference; the other fifth and all stimulated cells are queries.
Then the unstained tube of the cytometry data set as a query of one tube of 50,000 stained cells, beside another. Prints
what share of each query is trusted, and keeps reports and atlases in FOLDER.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np

DATA = Path(os.environ.get("HEATWALK_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
HEADER = "name\tsource\tkind\tcolumns\treference"
SCATTER = ("FSC-A", "SSC-A")


def interferon(config: Path) -> list[str]:
    """Rows of the table for control, the rest of control, and stimulated."""
    cells = anndata.read_h5ad(DATA / "pbmc_ifnb_kang2018_2000_counts.h5ad")
    control = cells.obs["condition"].astype(str).str.endswith("ctrl").to_numpy()
    rest = control & (np.random.default_rng(0).random(len(control)) < 0.2)
    parts = {"control": control & ~rest, "control_rest": rest, "stimulated": ~control}
    for name, rows in parts.items():
        cells[rows].copy().write_h5ad(config / f"{name}.h5ad")
    return [f"{name}\t{name}.h5ad\tcounts\t\t{'' if name == 'control' else 'control'}" for name in parts]


def cytometry(config: Path) -> list[str]:
    """Rows for one stained tube, another, and the unstained one."""
    data = np.load(DATA / "tcell_activation_cytometry.npz")
    columns = ",".join(name for name in data["channels"].astype(str) if name not in SCATTER)
    tubes = {"tube_1": 1, "tube_2": 2, "unstained": 33}
    for name, number in tubes.items():
        np.savez(config / f"{name}.npz", X=data["X"][data["sample"] == number], channels=data["channels"])
    return [f"{name}\t{name}.npz\tintensities\t{columns}\t{'' if name == 'tube_1' else 'tube_1'}" for name in tubes]


def told(folder: Path, name: str) -> str:
    """The line of the table for a query."""
    obs = anndata.read_zarr(folder / "results" / name / "atlas" / "atlas.zarr").obs
    trusted = obs["heatwalk_trust"] >= 0.05
    return f"| {name} | {len(obs):,} | {trusted.mean():.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="What share of a query is trusted.")
    parser.add_argument("--folder", type=Path, help="keeps reports and atlases")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        config = folder / "config"
        config.mkdir(parents=True, exist_ok=True)
        rows = [*interferon(config), *cytometry(config)]
        (config / "datasets.tsv").write_text("\n".join([HEADER, *rows]) + "\n")
        (config / "config.yaml").write_text("atlas: {h5ad: false}\n")
        subprocess.run(
            [sys.executable, "-m", "heatwalk.cli", "run", "--cores", "all", "--quiet", "all"], cwd=folder, check=True
        )
        print("| query | cells | trusted |\n" + "|---" * 3 + "|")
        for query in ("control_rest", "stimulated", "tube_2", "unstained"):
            print(told(folder, query))


if __name__ == "__main__":
    main()
