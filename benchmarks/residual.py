"""Would trust see more with what the components leave of a cell? pbmc3k, every cell type left out in turn.

    python benchmarks/residual.py [TYPE ...]        data from HEATWALK_DATA

As trust.py, with one more score: the log norm of what 50 components leave of a cell's 2,000 variable genes, less a
parabola in the log of its depth that is fitted to the cells set aside, in units of their spread. Prints the AUROC of
novelty in the same units, of this residual, and of sums of both.
"""

import argparse

import numpy as np
import trust
from sklearn.metrics import roc_auc_score

import heatwalk as hw

N_COMPONENTS, N_GENES = 50, 2000
WEIGHTS = (0.5, 1.0)  # of the residual beside novelty


def loaded():
    """Cells, and their types."""
    import anndata

    cells = anndata.read_h5ad(trust.DATA / "pbmc3k_counts.h5ad")
    name = next(column for column in cells.obs if column.lower() in ("louvain", "cell_type", "celltype", "type"))
    return cells, cells.obs[name].astype(str).to_numpy()


def projected(cells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components of all cells by a PCA of some, log norm of what they leave, and log depth."""
    import scanpy as sc

    depth, cells = np.asarray(cells.X.sum(axis=1)).ravel(), cells.copy()
    sc.pp.normalize_total(cells, target_sum=float(np.median(depth[rows])))
    sc.pp.log1p(cells)
    own = cells[rows].copy()
    sc.pp.highly_variable_genes(own, n_top_genes=N_GENES)
    values = cells[:, own.var["highly_variable"].to_numpy()].X.toarray()
    values -= values[rows].mean(axis=0)
    loadings = np.linalg.eigh(values[rows].T @ values[rows])[1][:, ::-1][:, :N_COMPONENTS]
    points = np.ascontiguousarray(values @ loadings, np.float32)
    left = (values**2).sum(axis=1) - (points.astype(np.float64) ** 2).sum(axis=1)
    return points, np.log(np.maximum(left, np.finfo(float).tiny)) / 2, np.log(depth)


def scores(cells, types: np.ndarray, name: str) -> list[float]:
    """AUROC of novelty, of the residual, and of their sums."""
    held, new = np.random.default_rng(0).random(len(types)) < 0.1, types == name
    kept, query = np.flatnonzero(~new & ~held), np.flatnonzero(new | held)
    aside = np.random.default_rng([0, 2]).random(len(kept)) < 0.1
    points, left, depth = projected(cells, kept[~aside])
    base = trust.reference(points[kept], aside, types[kept])
    novelty, calibration = (hw.extension(base, points[some]).novelty.astype(float) for some in (query, kept[aside]))
    powers = np.column_stack([np.ones(len(depth)), depth, depth**2])
    left = left - powers @ np.linalg.lstsq(powers[kept[aside]], left[kept[aside]], rcond=None)[0]
    known = left[kept[aside]]
    novelty = (novelty - calibration.mean()) / calibration.std()
    residual = (left[query] - known.mean()) / known.std()
    each = (novelty, residual, *(novelty + weight * residual for weight in WEIGHTS))
    return [float(roc_auc_score(new[query], score)) for score in each]


def main() -> None:
    parser = argparse.ArgumentParser(description="Novelty and the residual of the projection.")
    parser.add_argument("types", nargs="*")
    (cells, types), chosen = loaded(), parser.parse_args().types
    sums = " | ".join(f"novelty + {weight:g} residual" for weight in WEIGHTS)
    print(f"| type | cells | novelty | residual | {sums} |\n" + "|---" * (4 + len(WEIGHTS)) + "|", flush=True)
    for name in chosen or np.unique(types):
        size = int((types == name).sum())
        if size >= trust.FEWEST:
            figures = " | ".join(f"{score:.3f}" for score in scores(cells, types, name))
            print(f"| {name} | {size:,} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
