"""Exact search: every query is compared with all points, which are read in blocks; nothing near can be left out.

Candidates come from one product a block, |x|^2 + |y|^2 - 2xy in single precision. Where its error could have hidden a
neighbour (ties, duplicates, tight groups far apart), the distances of that query are computed from differences instead.
"""

from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.lists import scaled

_BASE_ROWS = 8192
_QUERY_ROWS = 256
_GATHER_BYTES = 2**19  # candidate vectors held at a time: they stay in the cache


class Found(NamedTuple):
    names: np.ndarray  # (query, neighbor) int64
    distances: np.ndarray  # (query, neighbor), floating type of the points


def nearest(
    base,
    labels,
    queries: np.ndarray,
    names: np.ndarray,
    width: int,
    centre: np.ndarray,
    unit: float,
    device: str = "cpu",
) -> Found:
    """The `width` points nearest to each query, itself left out, by distance and then name.

    base: (point, dimension), read in blocks; labels: the name of every point, or None for its row.
    queries: (query, dimension) and their names, of points of the base. device: "cpu" takes the candidates from faiss,
    any other name is one of torch's; distances are computed on the CPU either way, and so are the neighbours the same.
    """
    nearest_yet, lower = _empty(len(queries), width, queries.dtype), np.full(len(queries), np.inf)
    scaled_queries = scaled(queries, centre, unit)
    for rows in compute.blocks(base.shape[0], _BASE_ROWS):
        block, here = np.asarray(base[rows]), _names(labels, rows)
        found, bound = _candidates(scaled_queries, scaled(block, centre, unit), width, unit, device)
        lower = np.minimum(lower, bound)
        nearest_yet = merged(nearest_yet, ranked(block, here, queries, names, found, unit), width)
    relative = 1 + 4 * np.finfo(queries.dtype).eps * queries.shape[1]
    unsure = np.flatnonzero(nearest_yet.distances[:, -1] * relative >= lower)
    for part in compute.blocks(len(unsure), _QUERY_ROWS):
        some = unsure[part]
        careful = _by_differences(base, labels, queries[some], names[some], width, unit)
        nearest_yet.names[some], nearest_yet.distances[some] = careful
    return nearest_yet


def ranked(block: np.ndarray, labels, queries: np.ndarray, names: np.ndarray, found: np.ndarray, unit: float) -> Found:
    """Names and distances of rows of a block, from differences; infinite for a query itself and for a row of -1.

    found: (query, candidate) rows of the block.
    """
    distances = np.empty(found.shape, block.dtype)
    step = max(1, _GATHER_BYTES // (found.shape[1] * block.shape[1] * block.dtype.itemsize))
    scale = block.dtype.type(1 / unit)  # squares neither overflow nor underflow; a power of two rounds nothing
    for part in compute.blocks(len(queries), step):
        # `take` lets other threads run, indexing does not.
        difference = np.take(block, found[part], axis=0, mode="wrap")
        difference -= queries[part, None]
        difference *= scale
        distances[part] = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
    distances *= block.dtype.type(unit)
    near = np.take(labels, found, mode="wrap")
    distances[(near == names[:, None]) | (found < 0)] = np.inf
    return Found(near, distances)


def best(found: Found, width: int) -> Found:
    """The nearest, nearest first, ties by name."""
    order = np.lexsort((found.names, found.distances), axis=-1)[:, :width]
    return Found(np.take_along_axis(found.names, order, 1), np.take_along_axis(found.distances, order, 1))


def merged(first: Found, second: Found, width: int) -> Found:
    """The best of both."""
    return best(Found(*(np.concatenate(both, axis=1) for both in zip(first, second, strict=True))), width)


def _candidates(
    queries: np.ndarray, block: np.ndarray, width: int, unit: float, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the block that may be among the nearest of every query, and a lower bound on the distance of all others.

    Bounds: a rounded coordinate of magnitude up to 1 is off by 2^-24; a sum of d products by d 2^-24 of their size.
    """
    dimension, width = queries.shape[1], 2 * width + 1
    squares, found = _products(queries, block, min(width, len(block)), device)
    if width >= len(block):
        return found, np.full(len(queries), np.inf)
    sizes = np.linalg.norm(queries, axis=1) + np.linalg.norm(block, axis=1).max()
    error = (dimension + 8) * 2.0**-24 * sizes.astype(np.float64) ** 2
    farther = np.sqrt(np.maximum(squares[:, -1] - error, 0)) - 4 * 2.0**-24 * np.sqrt(dimension)
    return found, unit * np.maximum(farther, 0)


def _products(queries: np.ndarray, block: np.ndarray, width: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    """The smallest |x|^2 + |y|^2 - 2xy of every query, ascending, and their rows."""
    if device == "cpu":
        import faiss

        with compute.faiss_threads(1):
            return faiss.knn(queries, block, width)
    import torch

    x, y = (torch.from_numpy(points).to(device) for points in (queries, block))
    squares = torch.addmm((y * y).sum(1), x, y.T, alpha=-2) + (x * x).sum(1, keepdim=True)
    nearest = torch.topk(squares, width, largest=False, sorted=True)
    return nearest.values.cpu().numpy(), nearest.indices.cpu().numpy()


def _by_differences(base, labels, queries: np.ndarray, names: np.ndarray, width: int, unit: float) -> Found:
    from scipy.spatial.distance import cdist

    nearest_yet, scale = _empty(len(queries), width, queries.dtype), queries.dtype.type(1 / unit)
    for rows in compute.blocks(base.shape[0], _BASE_ROWS):
        block, here = np.asarray(base[rows]), _names(labels, rows)
        distances = cdist(queries * scale, block * scale)
        distances[here == names[:, None]] = np.inf
        found = _first(distances, here, width, queries.dtype)
        nearest_yet = merged(nearest_yet, ranked(block, here, queries, names, found, unit), width)
    return nearest_yet


def _first(distances: np.ndarray, names: np.ndarray, width: int, dtype=np.float32) -> np.ndarray:
    """Columns of the smallest distances of every row; of equal ones at the edge, those of the smallest names."""
    if width >= distances.shape[1]:
        return np.broadcast_to(np.arange(distances.shape[1]), distances.shape)
    found = np.argpartition(distances, width - 1, axis=1)[:, :width]
    last = np.take_along_axis(distances, found, 1).max(axis=1)
    # Within rounding of the last one, which of them are nearest is decided by distances in the type of the points.
    tied = (distances <= last[:, None] * (1 + 8 * np.finfo(dtype).eps)).sum(axis=1) > width
    rounded = distances[tied].astype(dtype)
    found[tied] = np.lexsort((np.broadcast_to(names, rounded.shape), rounded), axis=-1)[:, :width]
    return found


def _names(labels, rows: slice) -> np.ndarray:
    return np.arange(rows.start, rows.stop) if labels is None else labels[rows]


def _empty(n_queries: int, width: int, dtype) -> Found:
    return Found(np.full((n_queries, width), -1, np.int64), np.full((n_queries, width), np.inf, dtype))
