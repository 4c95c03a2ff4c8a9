"""Does pseudotime order cells as their true time does, beside scanpy's dpt and Palantir, and which genes go with it?

    python3.11 -m venv benchmarks/.palantir && benchmarks/.palantir/bin/python -m pip install palantir
    python benchmarks/pseudotime.py [--peers benchmarks/.palantir/bin/python]

All tools get the same 50 principal components (or arcsinh channels) and the same root: the youngest cell of the worm
embryo, the middle cell of day 0 of the stem cells. Data from HEATWALK_DATA (default ../shared/data). Prints the
Spearman correlation with the true time and seconds from the components on; and the first genes along pseudotime.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("HEATWALK_DATA", HERE.parents[1] / "shared" / "data")).resolve()
MARKERS = ["CD43", "CD34", "CD90", "CD45RA", "CD31", "CD49f", "CD73", "CD45", "FLK1", "CD38"]
SHOWN = 10  # genes
PATIENCE = 1800  # seconds for a peer


def worm():
    """Cells as their stage makes them, components, true time and what the root is."""
    import heatwalk as hw

    row = {"layer": "", "columns": (), "base": DATA, "roots": [DATA], "memory": 4 * 10**9}
    with hw.open_input("worm_embryo_packer2019_subset.h5ad", kind="counts", **row) as source:
        cells = hw.cells(source, "counts")
    return cells, hw.pca(cells, "counts").coordinates, cells.obs["embryo.time"].to_numpy(float), "embryo.time=min"


def hues9():
    import heatwalk as hw

    row = {"layer": "X", "columns": tuple(MARKERS), "base": DATA, "roots": [DATA], "memory": 4 * 10**9}
    with hw.open_input("hues9_timecourse.npz", kind="intensities", **row) as source:
        cells = hw.cells(source, "intensities")
    return cells, np.asarray(cells.values), cells.obs["day"].to_numpy(float), "day=0"


def heatwalk(cells, points, root):
    """Pseudotime with the genes, and without their seconds."""
    import heatwalk as hw

    begun = time.perf_counter()
    graph = hw.affinity(points, hw.neighbors(points))
    map_ = hw.diffusion_map(graph)
    without = hw.pseudotime(map_, graph, roots=[0])
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    found = hw.pseudotime(map_, graph, cells, roots=[root])
    assert len(without.pseudotime) == len(found.pseudotime)
    return found, seconds, time.perf_counter() - begun


def scanpy(points, number: int) -> tuple[np.ndarray, float]:
    import anndata
    import scanpy

    adata = anndata.AnnData(np.zeros((len(points), 1), np.float32), obsm={"X_pca": np.asarray(points)})
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.neighbors(adata, n_neighbors=31, use_rep="X_pca", method="gauss")
        scanpy.tl.diffmap(adata, n_comps=16)
        adata.uns["iroot"] = number
        scanpy.tl.dpt(adata, n_dcs=16)
    values = adata.obs["dpt_pseudotime"].to_numpy(float)
    return np.where(np.isfinite(values), values, np.nan), time.perf_counter() - begun


def palantir(points_file: Path, number: int, result: Path) -> None:
    """In the environment of the peer: its defaults, 15 components."""
    import palantir
    import pandas

    points = np.load(points_file)
    frame = pandas.DataFrame(points, index=[f"c{place}" for place in range(len(points))])
    begun = time.perf_counter()
    maps = palantir.utils.run_diffusion_maps(frame, n_components=16, knn=30, seed=0)
    space = palantir.utils.determine_multiscale_space(maps)
    found = palantir.core.run_palantir(space, f"c{number}", num_waypoints=500, seed=0, n_jobs=2)
    seconds = time.perf_counter() - begun
    np.savez(result, values=found.pseudotime.loc[frame.index].to_numpy(float), seconds=seconds)


def beside(python: Path, points, number: int) -> tuple[np.ndarray, float] | str:
    """Palantir in its own environment, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "points.npy"), Path(folder, "found.npz")
        np.save(given, np.asarray(points, np.float64))
        if not python.exists():
            return f"{python} is not there"
        command = [str(python), __file__, "--palantir", str(given), str(number), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return f"not done after {PATIENCE} s"
        if not result.exists():
            return (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1][:120]
        found = np.load(result)
        return found["values"], float(found["seconds"])


def compare(name: str, made, python: Path) -> None:
    from scipy.stats import spearmanr

    cells, points, truth, root = made()
    found, seconds, more = heatwalk(cells, points, root)
    number = int(found.roots["cell"].iloc[0])

    def row(tool: str, values: np.ndarray, taken: float) -> None:
        order = spearmanr(values, truth, nan_policy="omit").statistic
        print(f"| {name} | {len(truth):,} | {tool} | {order:.3f} | {taken:.1f} |", flush=True)

    row("heatwalk", found.pseudotime, seconds)
    row("scanpy dpt", *scanpy(points, number))
    peer = beside(python, points, number)
    if not isinstance(peer, str):
        row("palantir", *peer)
    else:
        print(f"| {name} | {len(truth):,} | palantir | did not run: {peer} | |")
    print(f"\nroot {found.roots.index[0]}; cells without pseudotime {int((found.reason > 0).sum())}; branches of "
          f"{np.bincount(found.branch[found.branch >= 0]).tolist()} cells; genes of {len(cells.var):,} x 16 variables "
          f"and pseudotime in {more:.1f} s\n")  # fmt: skip
    names = np.asarray(cells.var.get("gene_short_name", cells.var.index.to_series()), str)
    for kind in ("correlation", "relevance"):
        values = np.nan_to_num(getattr(found, kind)[:, 0])
        first = np.argsort(-np.abs(values))[:SHOWN]
        print(f"{kind}: " + ", ".join(f"{names[gene]} {values[gene]:.2f}" for gene in first))
    rate = found.false_discovery_rate[:, 0]
    print(f"rate below 5%: {int((rate < 0.05).sum()):,} of {int(np.isfinite(rate).sum()):,}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=HERE / ".palantir" / "bin" / "python")
    parser.add_argument("--palantir", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.palantir:
        points, number, result = options.palantir
        palantir(Path(points), int(number), Path(result))
        return
    print("| data | cells | tool | Spearman with time | s |\n|---|---|---|---|---|")
    for name, made in (("worm_embryo", worm), ("hues9", hues9)):
        compare(name, made, options.peers)


if __name__ == "__main__":
    # `import scanpy` and `import palantir` must not find a file of this folder.
    sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]
    main()
