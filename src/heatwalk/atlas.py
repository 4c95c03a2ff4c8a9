"""atlas: everything in one AnnData for the user, as Zarr and as .h5ad."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.cells import Cells, normalised
from heatwalk.curvature import REASONS as WHY_NOT_BENT
from heatwalk.diffusion_map import coordinates
from heatwalk.draft import encoding, write_element
from heatwalk.errors import BadInput, Problem
from heatwalk.hdf5_file import hdf5_file
from heatwalk.progress import log, track
from heatwalk.pseudotime import REASONS

_EDGE_BLOCK = 2**20
_OF_GENES = ("correlation", "p_value", "false_discovery_rate", "relevance")  # of curvature and pseudotime
_CURVATURE = {  # names in the result and in obs
    "curvature": "curvature",
    "uncertainty": "curvature_uncertainty",
    "diffusion": "curvature_diffusion",
    "quadric": "curvature_quadric",
    "laziness": "laziness",
    "dimension": "dimension",
    "boundary": "boundary",
    "lost_mass": "lost_mass",
}


class Atlas(NamedTuple):
    group: Any  # the AnnData as a Zarr group
    h5ad: Path | None


def atlas(
    results: Mapping[str, Any],
    group,
    h5ad_path: Path,
    *,
    matrix: str = "normalised",
    t: float = 1.0,
    scanpy_export: bool = False,
    h5ad: bool = True,
    block_cells: int = compute.BLOCK_CELLS,
) -> Atlas:
    """Write one AnnData from the results of all stages into an empty Zarr group, and the same as .h5ad.

    X: normalised values of all genes ("normalised"), or nothing ("none"); layers["counts"] for counts.
    obsm["X_diffusion_map"] = lambda^t psi (see `diffusion_map.coordinates`), without the trivial component;
    obsm["X_deep_diffusion_map"] the network's coordinates, where there is one. Of a query they are those of
    `extension`, with obs["heatwalk_trust"], ["heatwalk_novelty"], ["NAME_transferred"] and ["NAME_probability"]; it has
    no graph. With curvature: obs["heatwalk_curvature"], ["heatwalk_curvature_uncertainty"], ["heatwalk_dimension"],
    ["heatwalk_boundary"] and more, var["heatwalk_curvature_correlation"] and more. With pseudotime:
    obs["heatwalk_pseudotime"], ["heatwalk_branch"], ["heatwalk_pseudotime_reason"]; varm["heatwalk_correlation"],
    ["heatwalk_p_value"], ["heatwalk_false_discovery_rate"], ["heatwalk_relevance"], (gene, variable) of pseudotime and
    then each mode; the first column of each also in var. With riemannian_diffusion, of a query too:
    obs["heatwalk_log_density"], ["heatwalk_out_of_distribution"].
    obsp["connectivities"] is the kernel before alpha without its diagonal, obsp["distances"] the neighbour distances,
    uns["neighbors"] says so as scanpy and CellRank expect; uns["heatwalk"][stage] holds what explains each array.
    scanpy_export adds obsm["X_diffmap"] and uns["diffmap_evals"] with the trivial pair first, for scanpy.tl.dpt.
    Everything large is copied block by block.
    """
    if matrix not in ("normalised", "none"):
        raise BadInput(Problem("HW-AT-001", "atlas: matrix", f"{matrix!r} is unknown", "use normalised or none"))
    cells = Cells(**results["cells"])
    kind = results["cells"].manifest["parameters"]["kind"]
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for name in ("layers", "obsm", "obsp", "varm", "varp"):
        _dictionary(group, name)
    write_element(group, "obs", _obs(cells, results))
    write_element(group, "var", _var(cells, results))
    _write_values(group, cells, kind, matrix, block_cells)
    _write_embeddings(group, results, cells, t, scanpy_export)
    if "neighbors" in results:
        _write_graph(group, results, block_cells)
    write_element(group, "uns", _explanations(results, scanpy_export))
    if not h5ad:
        return Atlas(group, None)
    _copy_to_hdf5(group, h5ad_path)
    return Atlas(group, h5ad_path)


def _dictionary(group, name: str) -> None:
    group.create_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})


def _obs(cells: Cells, results: Mapping[str, Any]):
    import pandas

    obs = cells.obs.copy()
    if cells.indptr is not None:
        obs["heatwalk_size_factor"] = np.asarray(cells.size_factors[:])
    if "extension" in results:
        placed = results["extension"]
        made = [f"{name}_{kind}" for name in placed["labels"] for kind in ("transferred", "probability")]
        for name in {*made, "heatwalk_trust", "heatwalk_novelty", "heatwalk_component"} & set(obs.columns):
            log.warning("atlas: the obs column %r of the input is replaced", name)
        for name in ("trust", "novelty", "component"):
            obs[f"heatwalk_{name}"] = np.asarray(placed[name][:])
        for name in placed["labels"]:
            obs[f"{name}_transferred"] = placed["labels"][name].array
            obs[f"{name}_probability"] = placed["probability"][name].to_numpy()
        return _with_densities(obs, results)
    obs["heatwalk_split"] = pandas.Categorical.from_codes(np.asarray(cells.split[:]), ["train", "held out"])
    graph = results["affinity"]
    obs["heatwalk_component"] = np.asarray(graph["components"][:])
    obs["heatwalk_degree"] = np.asarray(graph["degrees"][:])
    obs["heatwalk_density"] = np.asarray(graph["density"][:])
    obs["heatwalk_bandwidth"] = np.asarray(graph["bandwidths"][:])
    if "curvature" in results:
        found = results["curvature"]
        for name, key in _CURVATURE.items():
            obs[f"heatwalk_{key}"] = np.asarray(found[name][:])
        reasons = pandas.Categorical.from_codes(np.asarray(found["reason"][:]), WHY_NOT_BENT)
        obs["heatwalk_curvature_reason"] = reasons
    if "pseudotime" in results:
        found = results["pseudotime"]
        obs["heatwalk_pseudotime"], obs["heatwalk_branch"] = (found[name][:] for name in ("pseudotime", "branch"))
        obs["heatwalk_pseudotime_reason"] = pandas.Categorical.from_codes(np.asarray(found["reason"][:]), REASONS)
    return _with_densities(obs, results)


def _with_densities(obs, results: Mapping[str, Any]):
    for name in ("log_density", "out_of_distribution") if "riemannian_diffusion" in results else ():
        obs[f"heatwalk_{name}"] = np.asarray(results["riemannian_diffusion"][name][:])
    return obs


def _var(cells: Cells, results: Mapping[str, Any]):
    var = cells.var.copy()
    var["heatwalk_selected"] = np.asarray(cells.selected[:])
    for name in _OF_GENES if "curvature" in results else ():
        var[f"heatwalk_curvature_{name}"] = np.asarray(results["curvature"][name][:, 0])
    for name in _OF_GENES if "pseudotime" in results else ():
        var[f"heatwalk_pseudotime_{name}"] = np.asarray(results["pseudotime"][name][:, 0])
    return var


def _write_values(group, cells: Cells, kind: str, matrix: str, block_cells: int) -> None:
    n_cells, n_genes = cells.size_factors.shape[0], cells.selected.shape[0]
    ranges = compute.blocks(n_cells, block_cells)
    if cells.indptr is None:
        if matrix == "normalised":
            _dense(group, "X", cells.values)
        return
    if kind == "counts":
        _sparse(group["layers"], "counts", cells.data, cells.indices, cells.indptr, (n_cells, n_genes))
    if matrix == "none":
        return
    _sparse(group, "X", None, cells.indices, cells.indptr, (n_cells, n_genes))
    data = _array(group["X"], "data", cells.data.shape, np.float32, (_EDGE_BLOCK,))
    values = ((normalised(cells, rows).data,) for rows in track(ranges, "atlas: values", len(ranges)))
    _write_in_order((data,), values)


def _write_embeddings(group, results, cells: Cells, t: float, scanpy_export: bool) -> None:
    pca = results["pca"]
    for key, values in (cells.obsm or {}).items():
        _dense(group["obsm"], key, values)
    use_rep = pca.manifest["parameters"]["use_rep"]
    key = use_rep or "X_pca"
    _dense(group["obsm"], key, pca["coordinates"])
    if "loadings" in pca:
        loadings = np.zeros((cells.selected.shape[0], pca["loadings"].shape[1]))
        loadings[np.asarray(cells.selected[:])] = pca["loadings"][:]
        _dense(group["varm"], "PCs", loadings)
    if "diffusion_map" in results:
        diffusion, components = results["diffusion_map"], results["affinity"]["components"]
        embedding = coordinates(diffusion["eigenvalues"], diffusion["eigenvectors"], components, t=t)
        _dense(group["obsm"], "X_diffusion_map", embedding)
    if "deep_diffusion_map" in results:
        _dense(group["obsm"], "X_deep_diffusion_map", results["deep_diffusion_map"]["coordinates"])
    for name in _OF_GENES if "pseudotime" in results else ():
        _dense(group["varm"], f"heatwalk_{name}", results["pseudotime"][name])
    if "extension" in results:
        _dense(group["obsm"], f"X_{landed_in(results['extension'])}", results["extension"]["coordinates"])
    elif scanpy_export:
        _export_to_scanpy(group, results)


def landed_in(placed) -> str:
    """The stage whose map the cells of a query were placed in: diffusion_map or deep_diffusion_map."""
    used = {name.partition("/")[2] for name in placed.manifest["inputs"]}
    return "deep_diffusion_map" if "deep_diffusion_map" in used else "diffusion_map"


def _export_to_scanpy(group, results) -> None:
    """X_diffmap with the trivial column first, columns of unit length in the mean, as scanpy.tl.dpt reads it."""
    if "diffusion_map" not in results:
        cause, remedy = (
            "there are no eigenvectors where map is neural",
            "set map to both, or atlas: scanpy_export to false",
        )
        raise BadInput(Problem("HW-AT-003", "atlas: scanpy_export", cause, remedy))
    diffusion = results["diffusion_map"]
    if diffusion["eigenvalues"].ndim > 1:
        cause = f"the graph has {diffusion['eigenvalues'].shape[0]} components, scanpy's diffmap knows one"
        remedy = "raise neighbors: n_neighbors until the graph is connected, or set atlas: scanpy_export to false"
        raise BadInput(Problem("HW-AT-002", "atlas: scanpy_export", cause, remedy))
    vectors = np.asarray(diffusion["eigenvectors"][:])
    basis = np.column_stack([np.ones(len(vectors)), vectors]) / np.sqrt(len(vectors))
    _dense(group["obsm"], "X_diffmap", basis.astype(np.float32))


def _write_graph(group, results, block_cells: int) -> None:
    """The graph as scanpy keeps it: kernel without diagonal and alpha, and the distances of the search."""
    neighbors, affinity = results["neighbors"], results["affinity"]
    n_cells, n_neighbors = neighbors["indices"].shape
    alpha = affinity.manifest["parameters"]["alpha"]
    indptr, density = np.asarray(affinity["indptr"][:]), np.asarray(affinity["density"][:]) ** alpha
    shape = (n_cells, n_cells)
    # One diagonal entry a row is left out.
    _sparse(group["obsp"], "connectivities", None, None, indptr - np.arange(n_cells + 1), shape)
    n_edges = int(indptr[-1]) - n_cells
    target = group["obsp"]["connectivities"]
    data = _array(target, "data", (n_edges,), np.float64, (_EDGE_BLOCK,))
    indices = _array(target, "indices", (n_edges,), np.int32, (_EDGE_BLOCK,))

    def kernel(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        edges = slice(int(indptr[rows.start]), int(indptr[rows.stop]))
        columns = affinity["indices"][edges]
        row = np.repeat(np.arange(n_cells)[rows], np.diff(indptr[rows.start : rows.stop + 1]))
        off_diagonal = columns != row
        values = affinity["weights"][edges] * (density[row] * density[columns])
        return values[off_diagonal], columns[off_diagonal]

    ranges = compute.blocks(n_cells, block_cells)
    _write_in_order((data, indices), map(kernel, track(ranges, "atlas: graph", len(ranges))))
    pointers = np.arange(0, n_cells * n_neighbors + 1, n_neighbors, dtype=np.int64)
    _sparse(group["obsp"], "distances", None, None, pointers, shape)
    distances = group["obsp"]["distances"]
    for name, source, dtype in (("data", "distances", np.float32), ("indices", "indices", np.int32)):
        block = max(1, _EDGE_BLOCK // n_neighbors)
        array = _array(distances, name, (n_cells * n_neighbors,), dtype, (block * n_neighbors,))
        for rows in compute.blocks(n_cells, block):
            edges = slice(rows.start * n_neighbors, rows.stop * n_neighbors)
            array[edges] = np.asarray(neighbors[source][rows]).ravel()


def _explanations(results, scanpy_export: bool) -> dict:
    """uns: by stage, the root hash, the code hash, the parameters as JSON, and the small arrays that explain it."""
    explained = {}
    for stage, result in results.items():
        manifest = result.manifest
        parameters = json.dumps(manifest["parameters"], sort_keys=True)
        explained[stage] = {"root": manifest["root"], "code": manifest["code"], "parameters": parameters}
    small = {
        "pca": ("variances", "total_variance"),
        "neighbors": ("recall", "probes"),
        "diffusion_map": ("eigenvalues", "residuals", "converged", "spectrum"),
        "curvature": ("scales", "agreement", "chosen", "null"),
        "pseudotime": ("tips", "agreement"),
        "deep_diffusion_map": ("eigenvalues", "residuals", "energy", "error", "error_deciles", "error_cells"),
    }
    for stage, names in ((stage, names) for stage, names in small.items() if stage in results):
        explained[stage] |= {name: np.asarray(results[stage][name][...]) for name in names}
    if "pseudotime" in results:
        roots = results["pseudotime"]["roots"]
        explained["pseudotime"] |= {"roots": np.array(roots.index, str), "asked": np.array(roots["asked"], str)}
    if "neighbors" not in results:
        return {"heatwalk": explained}
    options = results["neighbors"].manifest["parameters"]
    use_rep = results["pca"].manifest["parameters"]["use_rep"] or "X_pca"
    parameters = {"n_neighbors": int(options["n_neighbors"]) + 1, "method": "gauss", "metric": "euclidean"}
    neighbors = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        # scanpy counts the cell itself among its neighbours.
        "params": {**parameters, "use_rep": use_rep, "random_state": int(options["seed"])},
    }
    uns = {"heatwalk": explained, "neighbors": neighbors}
    if scanpy_export:
        values = np.asarray(results["diffusion_map"]["eigenvalues"][:])
        uns["diffmap_evals"] = np.concatenate([[1.0], values]).astype(np.float32)
    return uns


def _dense(group, name: str, values) -> None:
    """Copy a sliceable array, chunk by chunk; one of that name that came with the input gives way."""
    if name in group:
        del group[name]
    chunk = getattr(values, "chunks", None) or (min(len(values), compute.BLOCK_CELLS) or 1, *values.shape[1:])
    array = _array(group, name, values.shape, values.dtype, tuple(max(length, 1) for length in chunk))
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for rows in compute.blocks(values.shape[0], chunk[0]):
        array[rows] = np.asarray(values[rows])


def _sparse(group, name: str, data, indices, indptr, shape: tuple[int, int]) -> None:
    """A CSR group; `data` and `indices` given as None are written by the caller."""
    matrix = group.create_group(name)
    attributes = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape)}
    matrix.attrs.update(attributes)
    indptr = np.asarray(indptr[:])
    # SciPy's graph routines, which scanpy calls, take 32-bit pointers only.
    dtype = np.int32 if indptr[-1] < 2**31 else np.int64
    _array(matrix, "indptr", indptr.shape, dtype, (_EDGE_BLOCK,))[:] = indptr.astype(dtype)
    for key, values in (("data", data), ("indices", indices)):
        if values is not None:
            target = _array(matrix, key, values.shape, values.dtype, (_EDGE_BLOCK,))
            for edges in compute.blocks(values.shape[0], _EDGE_BLOCK):
                target[edges] = values[edges]


def _write_in_order(targets: Sequence, pieces: Iterable[tuple[np.ndarray, ...]]) -> None:
    """Write pieces one after another into one-dimensional arrays of one length, a whole chunk at a time."""
    written, waiting = 0, [np.empty(0, target.dtype) for target in targets]
    length = targets[0].shape[0]
    for piece in pieces:
        waiting = [np.concatenate(pair) for pair in zip(waiting, piece, strict=True)]
        there = written + len(waiting[0])
        ready = len(waiting[0]) if there == length else len(waiting[0]) // _EDGE_BLOCK * _EDGE_BLOCK
        for target, values in zip(targets, waiting, strict=True):
            target[written : written + ready] = values[:ready].astype(target.dtype)
        written, waiting = written + ready, [values[ready:] for values in waiting]


def _array(group, name: str, shape, dtype, chunks):
    return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, **encoding(dtype))


def _copy_to_hdf5(group, path: Path) -> None:
    """The Zarr AnnData as .h5ad: both have the same elements and attributes; arrays are copied by blocks."""
    with hdf5_file(path) as file:
        _copy_group(group, file)


def _copy_group(group, target) -> None:
    import h5py

    for key, value in group.attrs.items():
        target.attrs[key] = np.array(value, h5py.string_dtype()) if value == [] else value
    for name, member in sorted(group.members()):
        if hasattr(member, "members"):
            _copy_group(member, target.create_group(name))
            continue
        text = member.dtype.kind not in "fiub"
        dtype = h5py.string_dtype() if text else member.dtype
        chunks = tuple(map(min, member.chunks, member.shape))
        options = {"chunks": chunks, "compression": "gzip", "compression_opts": 1} if member.size else {}
        array = target.create_dataset(name, member.shape, dtype, track_times=False, **(options if member.ndim else {}))
        for key, value in member.attrs.items():
            array.attrs[key] = value
        if not member.ndim:
            array[()] = member[()]
        for rows in compute.blocks(member.shape[0], max(member.chunks[0], 1)) if member.ndim else ():
            array[rows] = member[rows].astype(object) if text else member[rows]
