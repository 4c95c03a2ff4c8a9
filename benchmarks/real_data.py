"""Does the whole workflow run on real atlases of every kind, in one run of one config, and are its pairs eigenpairs?

    python benchmarks/real_data.py [FOLDER]        data from HEATWALK_DATA (default ../shared/data)

Prints one table: cells, components, recall, worst |P psi - lambda psi| over entries and over the stationary norm,
seconds and peak memory; and how well pseudotime on the export orders the worm embryo, beside scanpy's own map.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HEATWALK_DATA", ROOT.parent / "shared" / "data")).resolve()
MARKERS = "CD43,CD34,CD90,CD45RA,CD31,CD49f,CD73,CD45,FLK1,CD38"
ROWS = [
    ("paul15", "paul15_counts.h5ad", "counts", "", ""),
    ("pbmc3k", "pbmc3k_counts.h5ad", "counts", "", ""),
    ("worm_embryo", "worm_embryo_packer2019_subset.h5ad", "counts", "", ""),
    ("pbmc_ifnb", "pbmc_ifnb_kang2018_2000_counts.h5ad", "counts", "", ""),
    ("brain_10k", "10x-10k-subset.zarr", "counts", "", ""),
    ("covid_pbmc", "covid_pbmc_stephenson2021_10k_pcs.npz", "points", "pca", ""),
    ("hues9", "hues9_timecourse.npz", "intensities", "", MARKERS),
]
OPTIONS = """
roots: [{data}, .]
overrides:
  worm_embryo: {{atlas: {{scanpy_export: true}}, report: {{color_by: [embryo.time, cell.type, batch]}}}}
  worm_by_time: {{report: {{color_by: [sample, total_counts]}}}}
  hues9: {{report: {{color_by: [day]}}}}
"""


def write_time_points(folder: Path) -> str:
    """The worm embryo as one 10x .mtx folder per time point; the source that names them."""
    import anndata
    import scipy.io

    cells = anndata.read_h5ad(DATA / "worm_embryo_packer2019_subset.h5ad")
    labels = []
    for label, rows in cells.obs.groupby("time.point", observed=True).indices.items():
        part = folder / "time_points" / label
        part.mkdir(parents=True)
        with gzip.open(part / "matrix.mtx.gz", "wb") as file:
            scipy.io.mmwrite(file, cells.X[rows].T.astype(int).tocoo())
        with gzip.open(part / "barcodes.tsv.gz", "wt") as file:
            file.writelines(f"{name}\n" for name in cells.obs_names[rows])
        with gzip.open(part / "features.tsv.gz", "wt") as file:
            names = zip(cells.var_names, cells.var["gene_short_name"], strict=True)
            file.writelines(f"{name}\t{symbol}\tGene Expression\n" for name, symbol in names)
        labels.append(f"{label}=time_points/{label}")
    return ";".join(labels)


def prepare(folder: Path) -> None:
    """A working folder with one config for all data sets."""
    (folder / "config").mkdir(parents=True)
    rows = [(name, str(DATA / source), *rest) for name, source, *rest in ROWS]
    rows.append(("worm_by_time", write_time_points(folder / "config"), "counts", "", ""))
    lines = ["\t".join(("name", "source", "kind", "layer", "columns")), *("\t".join(row) for row in rows)]
    (folder / "config" / "datasets.tsv").write_text("\n".join(lines) + "\n")
    (folder / "config" / "config.yaml").write_text(OPTIONS.format(data=DATA))


def row(folder: Path, name: str) -> str:
    """One line of the table, from what is published."""
    from scipy.sparse import csr_array

    from heatwalk import store

    results = folder / "results" / name
    graph, pairs = store.read(results / "affinity"), store.read(results / "diffusion_map")
    walk = csr_array((graph["weights"][:], graph["indices"][:], graph["indptr"][:]))
    psi, values = pairs["eigenvectors"][:], pairs["eigenvalues"][:]
    values = values if values.ndim == 1 else values[graph["components"][:]]
    error = np.nanmax(np.abs((walk @ np.nan_to_num(psi)) / graph["degrees"][:][:, None] - psi * values))
    residuals = pairs["residuals"][...]
    converged = bool(np.all(pairs["converged"][...] | np.isnan(residuals)))
    runs = [json.loads(path.read_text()) for path in results.glob("*/run.json")]
    recall = float(store.read(results / "neighbors")["recall"][...])
    return (
        f"| {name} | {len(psi):,} | {int(graph['components'][:].max()) + 1} | {recall:.4f} | {error:.1e} | "
        f"{np.nanmax(residuals):.1e} | {converged} | "
        f"{sum(run['seconds'] for run in runs):.1f} | {max(run['peak_memory_bytes'] for run in runs) / 2**20:.0f} |"
    )


def pseudotime(folder: Path) -> tuple[float, float]:
    """Spearman correlation with embryo.time of scanpy.tl.dpt: on the export, and on scanpy's own diffmap."""
    import anndata
    import scanpy
    from scipy.stats import spearmanr

    warnings.simplefilter("ignore")
    atlas = anndata.read_zarr(folder / "results" / "worm_embryo" / "atlas" / "atlas.zarr")
    truth = atlas.obs["embryo.time"].to_numpy()
    found = []
    for own in (False, True):
        if own:  # the standard chain on the same counts
            atlas = anndata.AnnData(atlas.layers["counts"].copy(), obs=atlas.obs)
            scanpy.pp.normalize_total(atlas)
            scanpy.pp.log1p(atlas)
            scanpy.pp.highly_variable_genes(atlas, n_top_genes=2000)
            scanpy.pp.pca(atlas, n_comps=50)
            scanpy.pp.neighbors(atlas, n_neighbors=30, n_pcs=50)
            scanpy.tl.diffmap(atlas, n_comps=16)
        atlas.uns["iroot"] = int(np.argmin(truth))
        scanpy.tl.dpt(atlas, n_dcs=10)
        found.append(float(spearmanr(atlas.obs["dpt_pseudotime"], truth).statistic))
    return found[0], found[1]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="heatwalk-"))
    if not (folder / "config").exists():
        prepare(folder)
    started = time.time()
    command = [sys.executable, "-m", "heatwalk.cli", "run", "--cores", "2"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"all data sets: {time.time() - started:.0f} s in {folder}\n")
    print("| data set | cells | components | recall | worst entry | worst residual | converged | seconds | peak MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in sorted((folder / "results").iterdir()):
        if path.is_dir() and path.name != ".work":
            print(row(folder, path.name))
    ours, theirs = pseudotime(folder)
    print(
        f"\nworm embryo, Spearman of scanpy.tl.dpt with embryo.time: heatwalk {ours:.3f}, scanpy diffmap {theirs:.3f}"
    )


if __name__ == "__main__":
    main()
