"""Exact search: every query is compared with all points, which are read in blocks; nothing near can be left out.

Candidates come from one product a block, |x|^2 + |y|^2 - 2xy in single precision. Where its error could have hidden a
neighbour (ties, duplicates, tight groups far apart), the distances of that query are computed from differences instead.
"""

from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.lists import scaled

_BASE_ROWS = 4096
_QUERY_ROWS = 256
_PRODUCT = 2**20  # products held at a time: they stay in the cache
_GROUP = 32  # values of which the least is taken
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
    queries: (query, dimension) and their names, of points of the base. device: where candidates are looked for, "cpu"
    or a name of torch's; distances are computed on the CPU either way, and so the neighbours are the same.
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

    Bounds: a rounded coordinate of magnitude up to 1 is off by 2^-24; a sum of d products by d 2^-24 of their size, and
    of those one is itself a sum.
    """
    dimension, width = queries.shape[1], 2 * width + 1
    if width >= len(block):
        every = np.broadcast_to(np.arange(len(block)), (len(queries), len(block)))
        return every, np.full(len(queries), np.inf)
    squares, found = candidates(queries, block, width, device)
    sizes = np.linalg.norm(queries, axis=1) + np.linalg.norm(block, axis=1).max()
    error = (2 * dimension + 8) * 2.0**-24 * sizes.astype(np.float64) ** 2
    farther = np.sqrt(np.maximum(squares.max(axis=1) - error, 0)) - 4 * 2.0**-24 * np.sqrt(dimension)
    return found, unit * np.maximum(farther, 0)


def candidates(
    queries: np.ndarray, block: np.ndarray, width: int, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The `width` smallest |x|^2 + |y|^2 - 2xy of every query, in single precision and no order, and their rows."""
    if device == "cpu":
        # |y|^2 - 2xy as one product: (-2x, 1) with (y, |y|^2).
        left, right = (np.empty((len(points), points.shape[1] + 1), np.float32) for points in (queries, block))
        left[:, :-1], left[:, -1] = -2 * queries, 1
        right[:, :-1], right[:, -1] = block, np.einsum("ij,ij->i", block, block)
        values, found = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
        step = max(1, _PRODUCT // len(block))
        product = np.empty((min(step, len(queries)), len(block)), np.float32)
        for part in compute.blocks(len(queries), step):
            here = np.matmul(left[part], right.T, out=product[: part.stop - part.start])
            values[part], found[part] = smallest(here, width)
        return values + np.einsum("ij,ij->i", queries, queries)[:, None], found
    import torch

    x, y = (torch.from_numpy(points).to(device) for points in (queries, block))
    squares = torch.addmm((y * y).sum(1), x, y.T, alpha=-2) + (x * x).sum(1, keepdim=True)
    nearest = torch.topk(squares, width, largest=False, sorted=False)
    return nearest.values.cpu().numpy(), nearest.indices.cpu().numpy()


def smallest(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The `width` smallest values of every row, in no order, and their columns.

    columns 0 1 2 | 3 4 5 | 6 7 8      groups: every third column, {0 3 6} {1 4 7} {2 5 8}

    The least values of `width` groups are as many values: none of the smallest is above the largest of them, and few
    others are below. Finding that bound reads every value once in the order of memory; a heap compares one by one.
    """
    n_rows, n_columns = values.shape
    n_groups = max(2 * width, n_columns // _GROUP)
    depth = n_columns // n_groups
    if depth < 2:
        found = np.argpartition(values, width - 1, axis=1)[:, :width]
        return np.take_along_axis(values, found, 1), found
    least = values[:, : depth * n_groups].reshape(n_rows, depth, n_groups).min(axis=1)
    bound = np.partition(least, width - 1, axis=1)[:, width - 1 : width]
    row, column = np.divmod(np.flatnonzero(values <= bound), n_columns)
    count = np.bincount(row, minlength=n_rows)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    few = np.full((n_rows, count.max()), np.inf, values.dtype)
    columns = np.zeros(few.shape, np.int64)
    few[row, place], columns[row, place] = values[row, column], column
    found = np.argpartition(few, width - 1, axis=1)[:, :width]
    return np.take_along_axis(few, found, 1), np.take_along_axis(columns, found, 1)


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
