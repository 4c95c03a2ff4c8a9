"""One tool, once, in a process of its own: what scale.py starts, in its own environment or in that of the peers.

    python benchmarks/tools.py TOOL POINTS CELLS RESULT [--keep]

Writes RESULT.json (seconds, memory, version) and with --keep RESULT.npz (what the tool found). Imports and compilation
are not timed: the tool first does 2,000 cells. It may use all cores, and is asked for 30 neighbours and 15 pairs beside
the trivial one; all but heatwalk count a cell as a neighbour of itself.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

WARM = 2000  # cells of the call before the one that is timed
SAMPLE = 500  # cells that the recall is measured on
CHECKED_UP_TO = 2_000_000  # cells whose graph and pairs are kept to be checked


class Clock:
    """Seconds of each stage, and the most memory of the process between `start` and the last `lap`."""

    def __init__(self, warming: bool = False):
        self.warming = warming
        self.seconds: dict[str, float] = {}
        self.peak_mib = 0.0

    def start(self) -> None:
        with contextlib.suppress(OSError):  # where that is forbidden, what came before counts too
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        self.last = time.perf_counter()

    def lap(self, stage: str) -> None:
        self.seconds[stage] = time.perf_counter() - self.last
        # Not ru_maxrss, which a process inherits from the one that started it.
        lines = Path("/proc/self/status").read_text().splitlines()
        self.peak_mib = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
        self.last = time.perf_counter()


class Found(NamedTuple):
    """What a tool gives, as what it claims: matrix @ vectors = vectors * values."""

    neighbors: np.ndarray  # (cell or sampled cell, neighbor); the cell itself may be among them
    matrix: object = None  # CSR
    values: object = ()
    vectors: object = ()
    symmetric: bool = True
    products: int | None = None


def load(path: Path, n_cells: int) -> np.ndarray:
    return np.array(np.load(path, mmap_mode="r")[:n_cells])


def conjugate(weights):
    """D^-1/2 W D^-1/2, whose eigenvectors are those of the walk times D^1/2; and D^1/2."""
    import scipy.sparse

    root = np.sqrt(np.asarray(weights.sum(axis=1), np.float64).ravel())
    scale = scipy.sparse.diags(1 / root)
    return (scale @ weights.astype(np.float64) @ scale).tocsr(), root


def heatwalk(path: Path, n_cells: int, clock: Clock) -> Found:
    import heatwalk as hw

    points = load(path, n_cells)
    clock.start()
    neighbors = hw.neighbors(points)
    clock.lap("neighbors")
    affinity = hw.affinity(points, neighbors)
    clock.lap("affinity")
    pairs = hw.diffusion_map(affinity)
    clock.lap("map")
    return _of_heatwalk(neighbors, affinity, pairs)


def heatwalk_on_disk(path: Path, n_cells: int, clock: Clock) -> Found:
    """As the workflow does it: every stage read from disk, verified, and published."""
    from heatwalk import store
    from heatwalk.affinity import Affinity, affinity
    from heatwalk.diffusion_map import DiffusionMap, diffusion_map
    from heatwalk.neighbors import Neighbors, neighbors

    with tempfile.TemporaryDirectory() as results:
        folder = Path(results) / "results" / "cells"

        def publish(draft) -> None:
            store.publish(draft, parameters={}, code="", inputs={})

        draft = store.create(folder / "pca", "pca")
        given = np.load(path, mmap_mode="r")[:n_cells]
        coordinates = draft.make("coordinates", given.shape, given.dtype)
        for start in range(0, n_cells, draft.block_cells):
            coordinates[start : start + draft.block_cells] = given[start : start + draft.block_cells]
        publish(draft)
        del given
        clock.start()
        points, draft = store.read(folder / "pca")["coordinates"], store.create(folder / "neighbors", "neighbors")
        neighbors(points, scratch=draft.scratch, out=draft)
        publish(draft)
        clock.lap("neighbors")
        near, draft = Neighbors(**store.read(folder / "neighbors")), store.create(folder / "affinity", "affinity")
        affinity(points, near, scratch=draft.scratch, out=draft)
        publish(draft)
        clock.lap("affinity")
        graph = Affinity(**store.read(folder / "affinity"))
        draft = store.create(folder / "diffusion_map", "diffusion_map")
        diffusion_map(graph, scratch=draft.scratch, out=draft)
        publish(draft)
        clock.lap("map")
        return _of_heatwalk(near, graph, DiffusionMap(**store.read(folder / "diffusion_map")))


def _of_heatwalk(neighbors, affinity, pairs) -> Found:
    n_cells, products = neighbors.indices.shape[0], int(np.sum(pairs.products[:]))
    near = neighbors.indices[:][sample(n_cells)]
    if n_cells > CHECKED_UP_TO:
        return Found(near, products=products)
    import scipy.sparse

    arrays = affinity.weights[:], affinity.indices[:], affinity.indptr[:]
    matrix, root = conjugate(scipy.sparse.csr_array(arrays, shape=(n_cells, n_cells)))
    return Found(near, matrix, pairs.eigenvalues[:], pairs.eigenvectors[:] * root[:, None], products=products)


def scanpy(path: Path, n_cells: int, clock: Clock) -> Found:
    """pp.neighbors and tl.diffmap; the pairs are those of the matrix that it solves, in single precision."""
    import anndata
    import scanpy as sc

    sc.settings.n_jobs = -1
    cells = anndata.AnnData(load(path, n_cells))
    # Few cells would be searched without what has to be compiled.
    warm = {"transformer": "pynndescent"} if clock.warming else {}
    clock.start()
    sc.pp.neighbors(cells, n_neighbors=30, use_rep="X", **warm)
    clock.lap("graph")
    sc.tl.diffmap(cells, n_comps=16)
    clock.lap("map")
    graph = sc.Neighbors(cells)
    graph.compute_transitions()
    matrix, near = graph.transitions_sym.tocsr().astype(np.float64), rows_of(cells.obsp["distances"])
    return Found(near, matrix, cells.uns["diffmap_evals"], cells.obsm["X_diffmap"])


def pydiffmap(path: Path, n_cells: int, clock: Clock) -> Found:
    """`DiffusionMap.fit` in its two parts; its epsilon chosen by itself."""
    from pydiffmap.diffusion_map import DiffusionMap
    from scipy.sparse import diags

    points = load(path, n_cells)
    clock.start()
    model = DiffusionMap.from_sklearn(alpha=1.0, k=30, n_evecs=15, neighbor_params={"n_jobs": -1})
    model.construct_Lmat(points)
    clock.lap("graph")
    _, vectors, values = model._make_diffusion_coords(model.L)
    clock.lap("map")
    scale = diags(model.right_norm_vec)
    matrix, root = conjugate(scale @ model.kernel_matrix @ scale)
    near = rows_of(model.local_kernel.scaled_dists)
    return Found(near, matrix, 1 + model.epsilon_fitted * values, vectors * root[:, None])


def datafold(path: Path, n_cells: int, clock: Clock) -> Found:
    """A Gaussian kernel on 30 neighbours, epsilon by its own estimate; its radius graphs are far denser and slower."""
    from datafold.dynfold import DiffusionMaps, dmap
    from datafold.pcfold import GaussianKernel
    from datafold.pcfold.distance import SklearnKNN
    from datafold.pcfold.estimators import estimate_scale

    points = load(path, n_cells).astype(np.float64)
    solve = dmap._DmapKernelAlgorithms.solve_eigenproblem

    def timed(**arguments):
        clock.lap("graph")
        return solve(**arguments)

    dmap._DmapKernelAlgorithms.solve_eigenproblem = staticmethod(timed)
    clock.start()
    epsilon = estimate_scale(points, k=30, random_state=0)
    kernel = GaussianKernel(epsilon, distance=SklearnKNN(metric="sqeuclidean", k=30, n_jobs=-1))
    model = DiffusionMaps(kernel, n_eigenpairs=16, alpha=1.0).fit(points, store_kernel_matrix=True)
    clock.lap("map")
    dmap._DmapKernelAlgorithms.solve_eigenproblem = staticmethod(solve)
    near = rows_of(model.kernel_matrix_)
    return Found(near, model.kernel_matrix_, model.eigenvalues_, model.eigenvectors_, symmetric=False)


def sklearn(path: Path, n_cells: int, clock: Clock) -> Found:
    """What SpectralEmbedding(affinity="nearest_neighbors").fit does, in its two parts. It gives no eigenvalues: those
    reported are the Rayleigh quotients of its vectors."""
    import scipy.sparse.csgraph
    from sklearn.manifold import spectral_embedding
    from sklearn.neighbors import kneighbors_graph

    points = load(path, n_cells)
    clock.start()
    graph = kneighbors_graph(points, 30, include_self=True, n_jobs=-1)
    weights = 0.5 * (graph + graph.T)
    clock.lap("graph")
    embedding = spectral_embedding(weights, n_components=15, random_state=0)
    clock.lap("map")
    laplacian, root = scipy.sparse.csgraph.laplacian(weights, normed=True, return_diag=True)
    matrix, vectors = scipy.sparse.identity(n_cells) - laplacian, embedding * root[:, None]
    values = np.einsum("ij,ij->j", vectors, matrix @ vectors) / (vectors**2).sum(axis=0)
    return Found(rows_of(graph), matrix.tocsr(), values, vectors)


class Tool(NamedTuple):
    title: str
    package: str
    run: Callable[[Path, int, Clock], Found]
    apart: bool = False  # in the peers' environment


TOOLS = {
    "heatwalk": Tool("heatwalk", "heatwalk", heatwalk),
    "heatwalk_on_disk": Tool("heatwalk on disk", "heatwalk", heatwalk_on_disk),
    "scanpy": Tool("scanpy", "scanpy", scanpy),
    "pydiffmap": Tool("pyDiffMap", "pydiffmap", pydiffmap, apart=True),
    "datafold": Tool("datafold", "datafold", datafold, apart=True),
    "sklearn": Tool("scikit-learn", "scikit-learn", sklearn),
}


# ---- the process ---------------------------------------------------------------------------------------------------


def sample(n_cells: int) -> np.ndarray:
    """The cells that the recall is measured on."""
    return np.sort(np.random.default_rng(0).choice(n_cells, min(SAMPLE, n_cells), replace=False))


def rows_of(graph) -> np.ndarray:
    """Columns of the sampled rows of a CSR matrix, (row, neighbor), filled up with -1."""
    rows = [graph.indices[graph.indptr[row] : graph.indptr[row + 1]] for row in sample(graph.shape[0])]
    return np.array([np.pad(row, (0, max(map(len, rows)) - len(row)), constant_values=-1) for row in rows])


def count_products() -> list[int]:
    """Products with the matrix that ARPACK asks for from now on, counted in the only item; not where it inverts."""
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg._eigen.arpack import arpack

    count, plain = [0], arpack.aslinearoperator

    def counting(matrix) -> LinearOperator:
        operator = plain(matrix)

        def product(vector):
            count[0] += 1
            return operator.matvec(vector)

        return LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)

    arpack.aslinearoperator = counting
    return count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("points", type=Path)
    parser.add_argument("cells", type=int)
    parser.add_argument("result", type=Path)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    tool, clock = TOOLS[given.tool], Clock()
    tool.run(given.points, min(WARM, given.cells), Clock(warming=True))
    count = count_products()
    found = tool.run(given.points, given.cells, clock)
    record = {"seconds": clock.seconds, "peak_mib": clock.peak_mib, "products": found.products or count[0] or None}
    record |= {"version": metadata.version(tool.package), "threads": len(os.sched_getaffinity(0))}
    if given.keep:
        arrays = {"neighbors": found.neighbors}
        if found.matrix is not None:
            arrays |= {name: getattr(found.matrix, name) for name in ("indptr", "indices", "data")}
            arrays |= {"values": found.values, "vectors": found.vectors, "symmetric": found.symmetric}
        np.savez(given.result.with_suffix(".npz"), **arrays)
    given.result.with_suffix(".json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
