"""Does trust tell a cell type that the reference lacks from new cells of types that it has?

    python benchmarks/trust.py [--seed 0]        data from HEATWALK_DATA

Every cell type in turn is left out of the reference, which is made from nine tenths of the other cells (for counts with
normalisation, variable genes and components of its own), and comes back as new points beside the tenth held out. Prints
the AUROC of trust, of trust by place alone (without what the components leave of a cell; the same where only components
are given), of the distance to the 15th neighbour, and of that over the mean of the same of the neighbours; and of a
linear classifier that is told which cells are new: what cannot be separated at all cannot be found. Then: how
many cells held out fall below thresholds of trust, and label transfer beside a nearest-neighbour classifier.
"""

import argparse
import itertools
import os
from pathlib import Path

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

import heatwalk as hw

DATA = Path(os.environ.get("HEATWALK_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
FEWEST = 20  # cells of a type
NEIGHBOR = 15
SEPARABLE = 0.99
SIBLINGS = {"CD4", "CD8", "Treg", "MAIT", "gdT", "CD4 T cells", "CD8 T cells"}  # T cells: listed, not averaged


def covid():
    data = np.load(DATA / "covid_pbmc_stephenson2021_10k_pcs.npz")
    return data["cluster_id"].astype(str), lambda rows: (np.asarray(data["pca"], np.float32), None)


def pbmc3k():
    """Types; and components of all cells by a PCA of some of them, with what these leave."""
    import anndata
    import scanpy as sc

    atlas = anndata.read_h5ad(DATA / "pbmc3k_counts.h5ad")
    name = next(column for column in atlas.obs if column.lower() in ("louvain", "cell_type", "celltype", "type"))

    def components(rows: np.ndarray):
        cells, depth = atlas.copy(), np.asarray(atlas.X.sum(axis=1)).ravel()
        sc.pp.normalize_total(cells, target_sum=float(np.median(depth[rows])))
        sc.pp.log1p(cells)
        own = cells[rows].copy()
        sc.pp.highly_variable_genes(own, n_top_genes=2000)
        values = cells[:, own.var["highly_variable"].to_numpy()].X.toarray()
        values -= values[rows].mean(axis=0)
        loadings = np.linalg.svd(values[rows], full_matrices=False)[2][:50].T
        points = values @ loadings
        left = (values**2).sum(axis=1) - (points**2).sum(axis=1)
        return np.ascontiguousarray(points, np.float32), hw.Unexplained(left, depth)

    return atlas.obs[name].astype(str).to_numpy(), components


def of(rest: hw.Unexplained | None, rows: np.ndarray) -> hw.Unexplained | None:
    return None if rest is None else hw.Unexplained(rest.squared[rows], rest.depth[rows])


def reference(points: np.ndarray, aside: np.ndarray, types: np.ndarray, rest) -> hw.Reference:
    found = hw.neighbors(points)
    affinity = hw.affinity(points, found)
    map_ = hw.diffusion_map(affinity, n_components=10)
    return hw.Reference(points, found, affinity, map_, aside.astype(np.uint8), {"type": types}, rest)


def landed(types: np.ndarray, components, kept: np.ndarray, seed: int):
    """All cells in components of nine tenths of the kept ones, what these leave, and the reference of the kept ones: as
    the workflow does it, the other tenth calibrates trust.
    """
    aside = np.random.default_rng([seed, 2]).random(len(kept)) < 0.1
    points, rest = components(kept[~aside])
    return points, rest, reference(points[kept], aside, types[kept], of(rest, kept))


def distances(base: hw.Reference, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """To the 15th neighbour; and that over the mean of the same of the neighbours."""
    near = hw.neighbors(base.points, n_neighbors=NEIGHBOR, method="exact").distances[:, -1]
    model = KNeighborsClassifier(NEIGHBOR).fit(base.points, np.zeros(len(base.points)))
    away, names = model.kneighbors(points)
    return away[:, -1], away[:, -1] / near[names].mean(axis=1)


def left_out(types: np.ndarray, components, seed: int) -> list[tuple]:
    held, rows = np.random.default_rng(seed).random(len(types)) < 0.1, []
    for name in np.unique(types):
        new = types == name
        if new.sum() < FEWEST:
            continue
        kept = np.flatnonzero(~new & ~held)
        (points, rest, base), query = landed(types, components, kept, seed), np.flatnonzero(new | held)
        found, by_place = (hw.extension(base, points[query], left) for left in (of(rest, query), None))
        plain, scaled = distances(base, points[query])
        told = cross_val_predict(LinearDiscriminantAnalysis(), points, new, cv=5, method="decision_function")
        scores = [roc_auc_score(new[query], score) for score in (-found.trust, -by_place.trust, plain, scaled)]
        rows.append((str(name), int(new.sum()), roc_auc_score(new, told), *scores))
    return rows


def line(name: str, values) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def table(rows: list[tuple]) -> list[str]:
    lines = ["| type | cells | classifier | trust | by place alone | distance | scaled | within .01 of the better |"]
    lines.append("|---" * 8 + "|")
    for name, size, *scores in rows:
        within = "yes" if scores[1] >= max(scores[3:]) - 0.01 else "no"
        sibling = " (T)" if name in SIBLINGS else ""
        lines.append(f"| {name}{sibling} | {size:,} | " + " | ".join(f"{s:.3f}" for s in scores) + f" | {within} |")
    counted = [row[2:] for row in rows if row[2] >= SEPARABLE and row[0] not in SIBLINGS]
    lines.append(
        f"| mean of {len(counted)} separable | | " + " | ".join(f"{s:.3f}" for s in np.mean(counted, 0)) + " | |"
    )
    return lines


def transferred(types: np.ndarray, components, seed: int) -> list[str]:
    """Calibration of trust and labels on a tenth of the cells that the reference has not seen."""
    held = np.random.default_rng([seed, 1]).random(len(types)) < 0.1
    kept, rest = np.flatnonzero(~held), np.flatnonzero(held)
    points, left, base = landed(types, components, kept, seed)
    found = hw.extension(base, points[rest], of(left, rest), transfer=["type"], min_trust=0.0)
    model = KNeighborsClassifier(NEIGHBOR).fit(points[kept], types[kept])
    right, sure = found.labels["type"].to_numpy() == types[rest], found.probability["type"].to_numpy()
    theirs, surer = model.predict(points[rest]) == types[rest], model.predict_proba(points[rest]).max(axis=1)
    bins = np.linspace(0, 1, 11)
    off = [
        sum(abs(hit[part].mean() - share[part].mean()) * part.mean() for part in parts if part.any())
        for hit, share in ((right, sure), (theirs, surer))
        for parts in [[(share > low) & (share <= high) for low, high in itertools.pairwise(bins)]]
    ]
    below = ", ".join(f"{(found.trust <= level).mean():.1%} at {level:.0%}" for level in (0.01, 0.05, 0.1, 0.5))
    return [
        f"{len(rest):,} cells held out; below a trust: {below}.",
        f"Label transfer: accuracy {right.mean():.3f}, calibration error {off[0]:.3f}; "
        f"{NEIGHBOR} nearest neighbours: {theirs.mean():.3f}, {off[1]:.3f}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Leave one cell type out of the reference, and find it again.")
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    for name, load in (("pbmc3k", pbmc3k), ("covid_pbmc", covid)):
        types, components = load()
        print(f"\n{name}\n", *table(left_out(types, components, seed)), "", sep="\n")
        print(*transferred(types, components, seed), sep="\n", flush=True)


if __name__ == "__main__":
    main()
