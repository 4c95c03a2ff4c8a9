"""The stages as verbs on an AnnData object, in place, as scanpy users expect.

hw.scverse.neighbors(adata, use_rep="X_pca")
hw.scverse.diffusion_map(adata)             # obsm["X_diffusion_map"], uns["heatwalk"]["diffusion_map"]
hw.scverse.pseudotime(adata, roots=["day=0"])    # obs["heatwalk_pseudotime"], obs["heatwalk_branch"]
hw.scverse.curvature(adata)                 # obs["heatwalk_curvature"], obs["heatwalk_curvature_uncertainty"]
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from heatwalk.affinity import Affinity
from heatwalk.affinity import affinity as _affinity
from heatwalk.cells import Cells
from heatwalk.curvature import REASONS
from heatwalk.curvature import curvature as _curvature
from heatwalk.diffusion_map import DiffusionMap, coordinates
from heatwalk.diffusion_map import diffusion_map as _diffusion_map
from heatwalk.errors import BadInput, Problem, first_few
from heatwalk.genes import Genes
from heatwalk.neighbors import neighbors as _neighbors
from heatwalk.pseudotime import pseudotime as _pseudotime

_VECTORS = ("degrees", "density", "bandwidths", "stationary", "components", "order")


def neighbors(
    adata,
    *,
    use_rep: str = "X_pca",
    key_added: str = "heatwalk",
    bandwidth: str | float = "adaptive",
    bandwidth_neighbor: int = 30,
    alpha: float = 1.0,
    **options,
) -> None:
    """Neighbours and affinity of the cells in obsm[use_rep]; options as in `heatwalk.neighbors`.

    Writes obsp["{key_added}_distances"], obsp["{key_added}_affinity"] (the kernel divided by density^alpha),
    obs["{key_added}_component"], and uns[key_added] with everything that explains them.
    """
    points = _representation(adata, use_rep)
    found = _neighbors(points, **options)
    graph = _affinity(
        points, found, bandwidth=bandwidth, bandwidth_neighbor=bandwidth_neighbor, alpha=alpha
    )  # fmt: skip
    n_cells, n_neighbors = found.indices.shape
    pointers = np.arange(0, n_cells * n_neighbors + 1, n_neighbors)
    parts = found.distances.ravel(), found.indices.ravel(), pointers
    distances = scipy.sparse.csr_matrix(parts, shape=(n_cells, n_cells))
    weights = scipy.sparse.csr_matrix((graph.weights, graph.indices, graph.indptr), shape=(n_cells, n_cells))
    adata.obsp[f"{key_added}_distances"], adata.obsp[f"{key_added}_affinity"] = distances, weights
    adata.obs[f"{key_added}_component"] = graph.components
    adata.uns[key_added] = {
        "connectivities_key": f"{key_added}_affinity",
        "distances_key": f"{key_added}_distances",
        "n_cells": n_cells,
        "recall": found.recall,
        "params": {"use_rep": use_rep, "alpha": alpha, "bandwidth": bandwidth, "n_neighbors": n_neighbors},
        "affinity": {name: getattr(graph, name) for name in _VECTORS},
    }


def diffusion_map(
    adata, *, neighbors_key: str = "heatwalk", key_added: str = "X_diffusion_map", t: float = 1.0, **options
) -> None:
    """Diffusion map of a graph made by `neighbors`; options as in `heatwalk.diffusion_map`.

    Writes obsm[key_added] = lambda^t psi without the trivial component, and
    uns[neighbors_key]["diffusion_map"] with eigenvalues, residuals and what was asked.
    """
    graph = _graph(adata, neighbors_key)
    result = _diffusion_map(graph, **options)
    adata.obsm[key_added] = coordinates(result.eigenvalues, result.eigenvectors, graph.components, t=t)
    adata.uns[neighbors_key]["diffusion_map"] = {
        "eigenvalues": result.eigenvalues,
        "residuals": result.residuals,
        "converged": result.converged,
        "obsm_key": key_added,
        "t": t,
    }


def pseudotime(adata, *, roots: Sequence[str], neighbors_key: str = "heatwalk", key_added: str = "heatwalk") -> None:
    """Diffusion pseudotime on the map that `diffusion_map` left; roots as in `heatwalk.pseudotime`.

    Writes obs["{key_added}_pseudotime"] and ["{key_added}_branch"], the names of the roots to
    uns[neighbors_key]["pseudotime"], and correlation, p_value, false_discovery_rate and relevance of the genes, with
    pseudotime and each mode, to varm["{key_added}_correlation"] and so on. X is taken for normalised.
    """
    graph = _graph(adata, neighbors_key)
    found = _pseudotime(_map(adata, graph, neighbors_key), graph, _cells(adata), roots=roots)
    adata.obs[f"{key_added}_pseudotime"], adata.obs[f"{key_added}_branch"] = found.pseudotime, found.branch
    for name in Genes._fields:
        adata.varm[f"{key_added}_{name}"] = getattr(found, name)
    adata.uns[neighbors_key]["pseudotime"] = {"roots": found.roots.index.to_numpy(str), "tips": found.tips}


def curvature(adata, *, neighbors_key: str = "heatwalk", key_added: str = "heatwalk", **options) -> None:
    """Curvature of every cell's surroundings, in the representation of `neighbors`; options as in `heatwalk.curvature`.

    Writes obs["{key_added}_curvature"], ["{key_added}_curvature_uncertainty"], ["{key_added}_curvature_reason"],
    ["{key_added}_dimension"] and ["{key_added}_boundary"], and uns[neighbors_key]["curvature"] with the scales that
    were tried, how far halves of the cells agree at each, what was chosen, and the flat sample.
    """
    import pandas

    graph = _graph(adata, neighbors_key)
    points = _representation(adata, adata.uns[neighbors_key]["params"]["use_rep"])
    found = _curvature(points, graph, _map(adata, graph, neighbors_key), **options)
    adata.obs[f"{key_added}_curvature"] = found.curvature
    adata.obs[f"{key_added}_curvature_uncertainty"] = found.uncertainty
    adata.obs[f"{key_added}_curvature_reason"] = pandas.Categorical.from_codes(found.reason, REASONS)
    adata.obs[f"{key_added}_dimension"], adata.obs[f"{key_added}_boundary"] = found.dimension, found.boundary
    of_all = ("scales", "agreement", "chosen", "null")
    adata.uns[neighbors_key]["curvature"] = {name: getattr(found, name) for name in of_all}


def _map(adata, graph: Affinity, neighbors_key: str) -> DiffusionMap:
    """The map that `diffusion_map` left."""
    made = adata.uns[neighbors_key].get("diffusion_map")
    if made is None or made["obsm_key"] not in adata.obsm:
        remedy = "run heatwalk.scverse.diffusion_map(adata) first"
        raise BadInput(Problem("HW-SC-004", f"adata.uns[{neighbors_key!r}]", "there is no map of this graph", remedy))
    ones = np.ones_like(adata.obsm[made["obsm_key"]])
    scale = coordinates(made["eigenvalues"], ones, graph.components, t=made["t"])
    vectors = adata.obsm[made["obsm_key"]] / scale
    pairs = {name: made[name] for name in ("eigenvalues", "residuals", "converged")}
    return DiffusionMap(**pairs, eigenvectors=vectors, spectrum=None, solver=None, products=None, landmark_error=None)


def _cells(adata) -> Cells:
    """The values of X as they are."""
    n_cells, n_genes = adata.shape
    known = {"obs": adata.obs, "var": adata.var, "removed": None, "split": None, "item_shape": None}
    plain = {"size_factors": np.ones(n_cells), "selected": np.ones(n_genes, bool), "logarithm": np.bool_(False)}
    if not scipy.sparse.issparse(adata.X):
        return Cells(**known, **plain, values=np.asarray(adata.X))
    matrix = scipy.sparse.csr_array(adata.X)
    return Cells(**known, **plain, indptr=matrix.indptr, indices=matrix.indices, data=matrix.data)


def _representation(adata, use_rep: str) -> np.ndarray:
    if use_rep == "X":
        return np.asarray(adata.X.toarray() if scipy.sparse.issparse(adata.X) else adata.X)
    if use_rep not in adata.obsm:
        cause = f"there is no embedding {use_rep!r}, only {first_few(adata.obsm.keys()) or 'none'}"
        raise BadInput(Problem("HW-SC-001", "adata.obsm", cause, "name one of those, or run scanpy.pp.pca first"))
    return np.asarray(adata.obsm[use_rep])


def _graph(adata, key: str) -> Affinity:
    """The affinity that `neighbors` left; refused when the object was subset or reordered since."""
    if "affinity" not in adata.uns.get(key, {}) or f"{key}_affinity" not in adata.obsp:
        remedy = "run heatwalk.scverse.neighbors(adata) first"
        raise BadInput(Problem("HW-SC-002", f"adata.uns[{key!r}]", "there is no heatwalk graph", remedy))
    weights = scipy.sparse.csr_array(adata.obsp[f"{key}_affinity"])
    vectors = {name: np.asarray(adata.uns[key]["affinity"][name]) for name in _VECTORS}
    degrees = np.asarray(weights.sum(axis=1)).ravel()
    # Weights are lost with the cells that leave, and a new order puts other sums in a cell's place.
    same = len(degrees) == len(vectors["degrees"]) and np.allclose(degrees, vectors["degrees"], rtol=1e-9, atol=0)
    if not same:
        made_for = adata.uns[key]["n_cells"]
        cause = f"the graph was made for {made_for} cells in another order or number than these {adata.n_obs}"
        remedy = "run heatwalk.scverse.neighbors(adata) again"
        raise BadInput(Problem("HW-SC-003", f"adata.obsp['{key}_affinity']", cause, remedy))
    return Affinity(weights.indptr, weights.indices, weights.data, **vectors)
