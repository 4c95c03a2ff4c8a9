"""affinity: the symmetric kernel on the neighbour graph, and the random walk it defines."""

from collections.abc import MutableMapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from heatwalk import arrays, compute
from heatwalk.errors import BadInput, Problem


class Affinity(NamedTuple):
    indptr: Any  # (cell + 1,) int64
    indices: Any  # (edge,) int32, ascending within a row
    weights: Any  # (edge,) float64
    degrees: Any  # (cell,) float64
    density: Any  # (cell,) float64
    bandwidths: Any  # (cell,) float64
    stationary: Any  # (cell,) float64
    components: Any  # (cell,) int32


def affinity(
    points,
    neighbors,
    *,
    bandwidth: str | float = "adaptive",
    bandwidth_neighbor: int = 30,
    alpha: float = 1.0,
    block_cells: int = compute.BLOCK_CELLS,
    out: MutableMapping | None = None,
) -> Affinity:
    """Gaussian kernel on the union of both directions of a neighbour graph, normalised by density.

        k(x, y) = exp(-|x - y|^2 / (2 sigma_x sigma_y)),  k(x, x) = 1
        weights = k(x, y) / (d_x d_y)^alpha,  d the row sums of k (`density`)
        P = weights / degrees,  stationary = degrees / sum(degrees)

    bandwidth: a number is sigma of every cell, in the units of the distances; "adaptive" takes half the distance to the
    `bandwidth_neighbor`-th neighbour (the last one where there are fewer).
    alpha in [0, 1]: 0 keeps the density in the limit operator, 1/2 gives the Fokker-Planck operator, 1 the
    Laplace-Beltrami operator. components: connected components over positive weights, 0 the largest.
    Raises BadInput for an alpha or bandwidth out of bounds, or when no cell has a neighbour at a positive distance.
    Source: Coifman and Lafon, Diffusion maps (2006).
    """
    out = {} if out is None else out
    indices, distances = np.asarray(neighbors.indices[:]), np.asarray(neighbors.distances[:], np.float64)
    n_cells = len(indices)
    _check(points, n_cells, bandwidth, bandwidth_neighbor, alpha)
    sigma = _bandwidths(distances, bandwidth, bandwidth_neighbor)
    indptr, columns, kernel = _kernel(indices, distances, sigma, block_cells)
    density = np.add.reduceat(kernel, indptr[:-1])
    scale = density**-alpha
    arrays.make(out, "indptr", indptr.shape, np.int64)[:] = indptr
    columns_out, weights_out = arrays.Appender(out, "indices", np.int32), arrays.Appender(out, "weights", np.float64)
    components = _components(indptr, columns, kernel)
    degrees = np.empty(n_cells)
    for rows in compute.blocks(n_cells, block_cells):
        edges = slice(indptr[rows.start], indptr[rows.stop])
        # In place: the kernel is not needed again. scale_x scale_y first, so that the matrix stays exactly symmetric.
        kernel[edges] *= np.repeat(scale[rows], np.diff(indptr[rows.start : rows.stop + 1])) * scale[columns[edges]]
        degrees[rows] = np.add.reduceat(kernel[edges], indptr[rows] - indptr[rows.start])
        columns_out.append(columns[edges])
        weights_out.append(kernel[edges])
    columns, weights = columns_out.close(), weights_out.close()
    vectors = {
        "degrees": degrees,
        "density": density,
        "bandwidths": sigma,
        "stationary": degrees / degrees.sum(),
        "components": components,
    }
    for name, values in vectors.items():
        arrays.make(out, name, values.shape, values.dtype)[:] = values
    return Affinity(out["indptr"], columns, weights, *(out[name] for name in vectors))


def _check(points, n_cells: int, bandwidth, bandwidth_neighbor: int, alpha: float) -> None:
    if points.shape[0] != n_cells:
        cause = f"there are {points.shape[0]} points and neighbours of {n_cells}"
        raise BadInput(Problem("HW-AF-001", "neighbors", cause, "compute the neighbours of these points again"))
    if not 0 <= alpha <= 1:
        raise BadInput(Problem("HW-AF-002", "alpha", f"{alpha} is outside [0, 1]", "set alpha between 0 and 1"))
    if bandwidth != "adaptive" and not (isinstance(bandwidth, Real) and 0 < bandwidth < np.inf):
        remedy = "set bandwidth to adaptive, or to a positive number in the units of the distances"
        raise BadInput(Problem("HW-AF-003", "bandwidth", f"{bandwidth!r} is no bandwidth", remedy))
    if bandwidth_neighbor < 1:
        cause = f"{bandwidth_neighbor} is below 1"
        raise BadInput(Problem("HW-AF-004", "bandwidth_neighbor", cause, "set bandwidth_neighbor to 1 or more"))


def _bandwidths(distances: np.ndarray, bandwidth: str | float, bandwidth_neighbor: int) -> np.ndarray:
    """sigma of every cell; among duplicates the nearest positive distance stands in for a distance of 0."""
    if bandwidth != "adaptive":
        return np.full(len(distances), float(bandwidth))
    sigma = distances[:, min(bandwidth_neighbor, distances.shape[1]) - 1] / 2
    if (sigma > 0).all():
        return sigma
    nearest_positive = np.where(distances > 0, distances, np.inf).min(axis=1) / 2
    sigma = np.where(sigma > 0, sigma, nearest_positive)
    if not np.isfinite(sigma).any():
        cause = f"each of the {len(sigma)} cells coincides with all its {distances.shape[1]} neighbours"
        raise BadInput(Problem("HW-AF-005", "neighbors", cause, "remove duplicated cells or raise n_neighbors"))
    return np.where(np.isfinite(sigma), sigma, sigma[np.isfinite(sigma)].min())


def _kernel(indices, distances, sigma, block_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR of k(x, y) on the union of x -> y, y -> x and the diagonal.

    Every entry carries the number of a directed edge, the larger of x -> y and y -> x: the distance is looked up from
    one place for both triangles, so the matrix is symmetric to the last bit, and distances of 0 survive as entries.
    """
    n_cells, n_neighbors = indices.shape
    number = np.arange(1, indices.size + 1, dtype=np.int64)
    pointers = np.arange(0, indices.size + 1, n_neighbors, dtype=np.int64)
    directed = scipy.sparse.csr_array((number, indices.ravel(), pointers), shape=(n_cells, n_cells))
    directed.sort_indices()
    union = directed.maximum(directed.T.tocsr())
    # A number past all edges marks the diagonal.
    marks = (np.full(n_cells, indices.size + 1), np.arange(n_cells), np.arange(n_cells + 1))
    union = union.maximum(scipy.sparse.csr_array(marks, shape=(n_cells, n_cells)))
    union.sort_indices()
    indptr, columns = union.indptr.astype(np.int64), union.indices.astype(np.int32)
    lookup = distances.ravel()
    kernel = np.empty(len(columns))
    for rows in compute.blocks(n_cells, block_cells):
        edges = slice(indptr[rows.start], indptr[rows.stop])
        edge = union.data[edges] - 1
        diagonal = edge == indices.size
        squared = np.where(diagonal, 0.0, lookup[np.where(diagonal, 0, edge)]) ** 2
        row_sigma = np.repeat(sigma[rows], np.diff(indptr[rows.start : rows.stop + 1]))
        kernel[edges] = np.exp(-squared / (2 * (row_sigma * sigma[columns[edges]])))
    return indptr, columns, kernel


def _components(indptr: np.ndarray, columns: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Component of every cell over positive entries, numbered by size (ties by first cell)."""
    n_cells = len(indptr) - 1
    graph = scipy.sparse.csr_array((kernel, columns, indptr), shape=(n_cells, n_cells))
    if not kernel.all():
        graph = graph.copy()
        graph.eliminate_zeros()
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    return rank[labels]
