"""Where new points stand in a reference: rows of its kernel, and three ways from a row to coordinates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute, exact
from heatwalk.diffusion_map import DiffusionMap
from heatwalk.search import frame

_SAMPLE = 1000  # cells of the reference that its options are read from, and shrinkage is measured on
_LANDMARK_NEIGHBORS = 15
_QUERIES = 512  # points compared with the landmarks at a time


class Graph(NamedTuple):
    """How a kernel was made, and what a row of it needs."""

    sigma: np.ndarray  # (cell,)
    scale: np.ndarray  # (cell,) density^-alpha
    components: np.ndarray  # (cell,)
    neighbor: int  # whose half distance is the bandwidth; 0: all bandwidths are sigma[0]
    width: int  # neighbours of a row


def graph_of(reference) -> Graph:
    affinity, distances = reference.affinity, reference.neighbors.distances
    sigma, density = np.asarray(affinity.bandwidths[:]), np.asarray(affinity.density[:])
    some = slice(0, min(_SAMPLE, len(sigma)))
    halves = np.asarray(distances[some], np.float64) / 2
    neighbor = 1 + int(np.abs(halves - sigma[some, None]).sum(axis=0).argmin())
    neighbor = 0 if (sigma == sigma[0]).all() else neighbor
    scale, width = density ** -_alpha(affinity, density), distances.shape[1]
    width += width == len(sigma) - 1  # a dense kernel: a new point has one neighbour more than a cell
    return Graph(sigma, scale, np.asarray(affinity.components[:]), neighbor, width)


def _alpha(affinity, density: np.ndarray) -> float:
    """The power that the diagonal of the weights, density^(-2 alpha), was made with."""
    stop = min(_SAMPLE, len(density))
    indptr = np.asarray(affinity.indptr[: stop + 1])
    column, weight = (np.asarray(array[: int(indptr[-1])]) for array in (affinity.indices, affinity.weights))
    diagonal = column == np.repeat(np.arange(stop), np.diff(indptr))
    logs = np.log(density[:stop])
    clearest = np.abs(logs).argmax()
    return float(np.round(np.log(weight[diagonal])[clearest] / (-2 * logs[clearest]), 9))


def weights(found: exact.Found, graph: Graph) -> np.ndarray:
    """(point, neighbor) k(x, y) / d_y^alpha, rows of sum 1, within the component that has most of the row.

    From logarithms: of a point so far out that every kernel value underflows, the nearest cells still have the weight.
    """
    distances = found.distances.astype(np.float64)
    if graph.neighbor:
        positive = np.where(distances > 0, distances, np.inf)
        local = distances[:, graph.neighbor - 1]
        local = np.where(local > 0, local, positive.min(axis=1)) / 2
    else:
        local = np.full(len(distances), graph.sigma[0])
    with np.errstate(invalid="ignore"):
        exponent = (distances / local[:, None]) * (distances / graph.sigma[found.names]) / 2
    logits = np.log(graph.scale[found.names]) - np.where(distances > 0, exponent, 0)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    component = graph.components[found.names]
    if (component != component[:, :1]).any():
        same = component[:, :, None] == component[:, None, :]
        heaviest = np.einsum("ijk,ik->ij", same, shares).argmax(axis=1)
        shares[component != np.take_along_axis(component, heaviest[:, None], 1)] = 0
    return shares / shares.sum(axis=1, keepdims=True)


def component_of(found: exact.Found, shares: np.ndarray, graph: Graph) -> np.ndarray:
    """(point,) the component that the rows' weights are in."""
    return graph.components[np.take_along_axis(found.names, shares.argmax(axis=1)[:, None], 1)[:, 0]]


def n_modes(map_: Any) -> int:
    return (map_.eigenvectors if isinstance(map_, DiffusionMap) else map_.coordinates).shape[1]


def _nystrom(reference, graph: Graph, t: int, landmarks: int, seed: int, pool: compute.Workers) -> Callable:
    vectors, powers = _vectors(reference.map), _powers(reference.map, t - 1)

    def place(block: np.ndarray, found: exact.Found, shares: np.ndarray, workers: compute.Workers) -> np.ndarray:
        own = component_of(found, shares, graph)
        return _mixed(shares, found.names, vectors, workers) * powers[own if len(powers) > 1 else 0]

    return place


def _landmark(reference, graph: Graph, t: int, landmarks: int, seed: int, pool: compute.Workers) -> Callable:
    n_cells, generator = len(graph.sigma), np.random.default_rng([seed, 6])
    chosen = np.sort(generator.choice(n_cells, min(landmarks, n_cells), replace=False))
    base = rows_of(reference.points, chosen)
    centre, unit = frame(base)
    vectors, powers = _vectors(reference.map)[chosen], _powers(reference.map, t)
    width = min(_LANDMARK_NEIGHBORS, len(base) - 1)

    def search(block: np.ndarray, names: np.ndarray, workers: compute.Workers) -> exact.Found:
        block = np.asarray(block, base.dtype)
        largest = max(unit, frame(block, centre)[1])  # a new point may lie far out
        parts = compute.blocks(len(block), _QUERIES)
        found = workers.in_order(
            lambda part: exact.nearest(base, None, block[part], names[part], width, centre, largest), parts
        )
        return exact.Found(*(np.concatenate(values) for values in zip(*found, strict=True)))

    own = search(base, np.arange(len(base)), pool)
    sigma = np.full(len(base), graph.sigma[0]) if not graph.neighbor else own.distances[:, -1].astype(float) / 2
    sigma = np.maximum(sigma, np.finfo(np.float32).tiny)
    few = Graph(sigma, graph.scale[chosen], graph.components[chosen], width if graph.neighbor else 0, width)
    tested = np.setdiff1d(generator.choice(n_cells, min(_SAMPLE, n_cells), replace=False), chosen)
    tested, names = (tested, np.full(len(tested), -1)) if len(tested) else (chosen, np.arange(len(chosen)))
    found = search(rows_of(reference.points, tested), names, pool)
    close, true = _mixed(weights(found, few), found.names, vectors, pool), _vectors(reference.map)[tested]
    shrunk = _shrunk(close, true, graph.components[tested], len(powers))

    def place(block: np.ndarray, found: exact.Found, shares: np.ndarray, workers: compute.Workers) -> np.ndarray:
        near = search(block, np.full(len(block), -1), workers)
        part = weights(near, few)
        own, wanted = component_of(near, part, few), component_of(found, shares, graph)
        made = _mixed(part, near.names, vectors, workers) / shrunk[own] * powers[own if len(powers) > 1 else 0]
        made[own != wanted] = np.nan  # no landmark near is in the component that the cell is in
        return made

    return place


def _shrunk(close: np.ndarray, true: np.ndarray, components: np.ndarray, n_components: int) -> np.ndarray:
    """(component, mode) by how much landmarks shrink a mode, measured; 1 where no cell of a component was looked at.

    A row of few cells far apart smooths a mode more than a row of all cells.
    """
    shrunk = np.ones((max(n_components, int(components.max()) + 1), true.shape[1]))
    for label in np.unique(components):
        some = components == label
        with np.errstate(invalid="ignore", divide="ignore"):
            factor = np.nansum(close[some] * true[some], axis=0) / np.nansum(true[some] ** 2, axis=0)
        shrunk[label] = np.where(np.isfinite(factor) & (factor > 0), factor, 1)
    return shrunk


def _network(reference, graph: Graph, t: int, landmarks: int, seed: int, pool: compute.Workers) -> Callable:
    from heatwalk.training import outputs

    network = reference.map.network
    return lambda block, found, shares, workers: outputs(network, block, workers)


METHODS = {"nystrom": _nystrom, "landmark": _landmark, "network": _network}


def _vectors(map_: DiffusionMap) -> np.ndarray:
    return np.asarray(map_.eigenvectors[:])


def _powers(map_: DiffusionMap, t: int) -> np.ndarray:
    """(component, mode) lambda^t, or (1, mode)."""
    return np.atleast_2d(np.asarray(map_.eigenvalues[:])) ** t


def _mixed(shares: np.ndarray, names: np.ndarray, vectors: np.ndarray, workers: compute.Workers) -> np.ndarray:
    """sum_y shares(x, y) vectors(y); cells without a share, whose modes may be missing, do not count."""
    result = np.empty((len(shares), vectors.shape[1]))

    def mix(rows: slice) -> None:
        part = shares[rows, :, None]
        values = np.take(vectors, names[rows], axis=0)
        result[rows] = np.where(part > 0, part * values, 0).sum(axis=1)

    for _ in workers.here.in_order(mix, compute.blocks(len(shares), _QUERIES)):
        pass
    return result


def rows_of(points, rows: np.ndarray) -> np.ndarray:
    """Some rows, ascending, of an array that may lie on disk; read in blocks."""
    found = []
    for part in compute.blocks(points.shape[0], compute.BLOCK_CELLS):
        here = rows[np.searchsorted(rows, part.start) : np.searchsorted(rows, part.stop)]
        if len(here):
            found.append(np.asarray(points[part])[here - part.start])
    block = np.concatenate(found)
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float64)
