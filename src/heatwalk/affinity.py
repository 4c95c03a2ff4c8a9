"""affinity: the symmetric kernel on the neighbour graph, and the random walk it defines."""

from collections.abc import MutableMapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute
from heatwalk.conjugate import cuts
from heatwalk.errors import BadInput, Problem
from heatwalk.exchange import Reversed, in_degrees, reverse
from heatwalk.progress import track
from heatwalk.scratch import array as scratch_array
from heatwalk.scratch import remove

_BAND_EDGES = 2**21  # edges that lead out of a band of rows or into it


class Affinity(NamedTuple):
    indptr: Any  # (cell + 1,) int64
    indices: Any  # (edge,) int32, ascending within a row
    weights: Any  # (edge,) float64
    degrees: Any  # (cell,) float64
    density: Any  # (cell,) float64
    bandwidths: Any  # (cell,) float64
    stationary: Any  # (cell,) float64
    components: Any  # (cell,) int32
    order: Any  # (cell,) int64, cells by locality, as the neighbours have it


def affinity(
    points,
    neighbors,
    *,
    bandwidth: str | float = "adaptive",
    bandwidth_neighbor: int = 30,
    alpha: float = 1.0,
    threads: int | None = None,
    scheduler: str = "threads",
    block_cells: int = compute.BLOCK_CELLS,
    scratch: Path | None = None,
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
    The graph is made band by band of rows: each band takes its own edges and, from a regrouped copy in the folder
    `scratch` (or memory), those that lead into it.
    Raises BadInput for an alpha or bandwidth out of bounds, or when no cell has a neighbour at a positive distance.
    Source: Coifman and Lafon, Diffusion maps (2006).
    """
    out = {} if out is None else out
    n_cells = neighbors.indices.shape[0]
    _check(points, n_cells, bandwidth, bandwidth_neighbor, alpha)
    ranges = compute.blocks(n_cells, block_cells)
    sigma = _bandwidths(neighbors.distances, ranges, bandwidth, bandwidth_neighbor)
    with compute.workers(scheduler, threads, scratch) as workers:
        indptr, columns, kernel, density = _kernel(neighbors, sigma, block_cells, workers)
        arrays.make(out, "indptr", indptr.shape, np.int64)[:] = indptr
        components = _components(indptr, columns, kernel, ranges)
        degrees = _weights(indptr, columns, kernel, density**-alpha, ranges, workers, out)
    remove(columns, kernel)
    vectors = {
        "degrees": degrees,
        "density": density,
        "bandwidths": sigma,
        "stationary": degrees / degrees.sum(),
        "components": components,
        "order": np.asarray(neighbors.order[:], np.int64),
    }
    for name, values in vectors.items():
        arrays.make(out, name, values.shape, values.dtype)[:] = values
    return Affinity(*(out[name] for name in ("indptr", "indices", "weights", *vectors)))


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


def _bandwidths(distances, ranges: list[slice], bandwidth: str | float, bandwidth_neighbor: int) -> np.ndarray:
    """sigma of every cell; among duplicates the nearest positive distance stands in for a distance of 0."""
    n_cells, n_neighbors = distances.shape
    if bandwidth != "adaptive":
        return np.full(n_cells, float(bandwidth))
    sigma = np.empty(n_cells)
    for rows in ranges:
        block = np.asarray(distances[rows], np.float64)
        local = block[:, min(bandwidth_neighbor, n_neighbors) - 1] / 2
        nearest_positive = np.where(block > 0, block, np.inf).min(axis=1) / 2
        sigma[rows] = np.where(local > 0, local, nearest_positive)
    if not np.isfinite(sigma).any():
        cause = f"each of the {n_cells} cells coincides with all its {n_neighbors} neighbours"
        raise BadInput(Problem("HW-AF-005", "neighbors", cause, "remove duplicated cells or raise n_neighbors"))
    return np.where(np.isfinite(sigma), sigma, sigma[np.isfinite(sigma)].min())


def _kernel(neighbors, sigma: np.ndarray, block_cells: int, workers):
    """CSR of k(x, y) on the union of x -> y, y -> x and the diagonal; and its row sums."""
    n_cells, n_neighbors = neighbors.indices.shape
    # Cells that are near to very many others have bands to themselves.
    edges = np.concatenate([[0], np.cumsum(in_degrees(neighbors, block_cells, workers) + n_neighbors)])
    bands = cuts(edges, slice(0, n_cells), _BAND_EDGES)
    incoming = reverse(neighbors, bands, block_cells, workers)
    most = n_cells + 2 * n_cells * n_neighbors  # were no edge known from both ends
    columns = scratch_array(workers.folder, "columns", (most,), np.int32)
    kernel = scratch_array(workers.folder, "kernel", (most,), np.float64)
    indptr, density = np.zeros(n_cells + 1, np.int64), np.empty(n_cells)

    def union(band: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _union(neighbors, incoming, bands[band], slice(*incoming.start[band : band + 2]), sigma)

    made = workers.in_order(union, range(len(bands)))
    for rows, (lengths, column, values) in zip(bands, track(made, "affinity: kernel", len(bands)), strict=True):
        indptr[rows.start + 1 : rows.stop + 1] = indptr[rows.start] + np.cumsum(lengths)
        edges = slice(indptr[rows.start], indptr[rows.stop])
        columns[edges], kernel[edges] = column, values
        density[rows] = np.add.reduceat(values, indptr[rows] - indptr[rows.start])
    remove(incoming.target, incoming.source, incoming.distance)
    return indptr, columns, kernel, density


def _weights(indptr: np.ndarray, columns, kernel, scale: np.ndarray, ranges: list[slice], workers, out) -> np.ndarray:
    """Write indices and weights = scale_x scale_y k(x, y), row range by row range; the row sums."""
    columns_out, weights_out = arrays.Appender(out, "indices", np.int32), arrays.Appender(out, "weights", np.float64)

    def weigh(rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        edges, start = slice(indptr[rows.start], indptr[rows.stop]), indptr[rows.start : rows.stop + 1]
        column = np.array(columns[edges])
        # scale_x scale_y first, so that the matrix stays exactly symmetric.
        weights = kernel[edges] * (np.repeat(scale[rows], np.diff(start)) * np.take(scale, column))
        return column, weights, np.add.reduceat(weights, start[:-1] - start[0])

    degrees = np.empty(len(scale))
    made = track(workers.in_order(weigh, ranges), "affinity: weights", len(ranges))
    for rows, (column, weights, sums) in zip(ranges, made, strict=True):
        degrees[rows] = sums
        columns_out.append(column)
        weights_out.append(weights)
    columns_out.close(), weights_out.close()
    return degrees


def _union(neighbors, incoming: Reversed, rows: slice, part: slice, sigma: np.ndarray):
    """Row lengths, columns and kernel of a band of rows.

    An edge known from both ends is kept once, with the smaller distance if they differ: both triangles see the same two
    numbers, so the matrix is symmetric to the last bit.
    """
    own, n_cells = np.arange(rows.start, rows.stop), len(sigma)
    n_neighbors = neighbors.indices.shape[1]
    row = np.concatenate([np.repeat(own, n_neighbors), incoming.target[part], own])
    column = np.concatenate([np.asarray(neighbors.indices[rows]).ravel(), incoming.source[part], own])
    known = np.asarray(neighbors.distances[rows]).ravel(), incoming.distance[part], np.zeros(len(own))
    distance = np.concatenate(known).astype(np.float64)
    key = (row - rows.start).astype(np.int64) * n_cells + column
    order = np.argsort(key)
    key = key[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    distance = np.minimum.reduceat(distance[order], first)
    local, column = np.divmod(key[first], n_cells)
    # Each factor by itself: a product of two sigmas may underflow.
    kernel = np.exp((distance / sigma[rows][local]) * (distance / np.take(sigma, column)) / -2)
    if not np.isfinite(kernel).all():
        cause = f"{int((~np.isfinite(kernel)).sum())} kernel values of rows {rows.start} to {rows.stop} are not finite"
        raise BadInput(Problem("HW-AF-006", "distances", cause, "rescale the representation, or compute it again"))
    return np.bincount(local, minlength=len(own)), column.astype(np.int32), kernel


def _components(indptr: np.ndarray, columns: np.ndarray, kernel: np.ndarray, ranges: list[slice]) -> np.ndarray:
    """Component of every cell over positive entries, numbered by size (ties by first cell).

    Every cell points to a smaller one of its component; cells take over what their neighbours point to, and pointers
    are shortened, until none changes: the graph is read a few times, in row blocks. Source: Zhang, Azad and Hu, FastSV
    (2020).
    """
    n_cells = len(indptr) - 1
    points_to = np.arange(n_cells, dtype=np.int32)
    while True:
        before, grand = points_to.copy(), points_to[points_to]
        for rows in ranges:
            edges = slice(indptr[rows.start], indptr[rows.stop])
            seen = np.where(kernel[edges] > 0, np.take(grand, columns[edges]), n_cells)
            least = np.minimum.reduceat(seen, indptr[rows] - indptr[rows.start]).astype(np.int32)
            np.minimum.at(points_to, before[rows], least)
            points_to[rows] = np.minimum(points_to[rows], least)
        points_to = np.minimum(points_to, grand)
        points_to = np.minimum(points_to, points_to[points_to])
        if np.array_equal(points_to, before):
            break
    _, labels, sizes = np.unique(points_to, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    return rank[labels]
