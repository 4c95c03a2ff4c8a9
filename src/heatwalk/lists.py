"""Cells divided into lists around k-means centroids: a search reads the lists near a cell, not all cells.

    points, in the order of their lists     |  list 0   |list 1|   list 2    | ...
    cells of list 1 are compared with                    ^^^^^^  and the `probes` lists nearest to it, in one product

No step holds all points: they are read in blocks, and kept by list in a scratch file. Lists are numbered so that near
ones have near numbers: the order of their cells is an order by locality.
"""

from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute, scratch
from heatwalk.progress import log, track

_TRAINING = 64  # points a list that k-means sees
_ROUNDS = 10  # of k-means


class Lists(NamedTuple):
    centroids: np.ndarray  # (list, dimension) float32, as `scaled` gives them
    start: np.ndarray  # (list + 1,) int64, where a list begins
    order: np.ndarray  # (cell,) int64, the cell at every position
    place: np.ndarray  # (cell,) int64, the position of every cell
    points: Any  # (cell, dimension), the points by position
    centre: np.ndarray  # (dimension,) float64
    unit: float  # largest coordinate about the centre

    def near(self, number: int, probes: int, n_points: int = 0) -> np.ndarray:
        """The lists nearest to one, itself first: as many as asked for, and more until they hold so many points."""
        import faiss

        with compute.faiss_threads(1):
            found = faiss.knn(self.centroids[number : number + 1], self.centroids, probes)[1][0]
        few = np.diff(self.start)[found].sum() < n_points and probes < len(self.centroids)
        return self.near(number, min(2 * probes, len(self.centroids)), n_points) if few else found


def scaled(points: np.ndarray, centre: np.ndarray, unit: float) -> np.ndarray:
    """Points about the centre in single precision, coordinates up to 1: faiss neither overflows nor rounds them off."""
    shifted = points - centre.astype(points.dtype)
    shifted *= 1 / unit
    return np.ascontiguousarray(shifted, dtype=np.float32)


def divide(
    points,
    centre: np.ndarray,
    unit: float,
    *,
    seed: int,
    workers: compute.Workers,
    block_cells: int,
) -> Lists:
    """Divide points into about 2 sqrt(n) lists."""
    import faiss

    n_cells, dimension = points.shape
    n_lists = min(int(2 ** np.clip(np.round(np.log2(2.3 * np.sqrt(n_cells))), 2, 16)), n_cells)
    ranges = compute.blocks(n_cells, block_cells)
    log.info("neighbors: dividing %d cells into %d lists", n_cells, n_lists)
    training = np.zeros(n_cells, bool)
    training[np.random.default_rng(seed).choice(n_cells, min(n_cells, _TRAINING * n_lists), replace=False)] = True
    seen = workers.in_order(
        lambda rows: scaled(np.asarray(points[rows])[training[rows]], centre, unit),
        [rows for rows in ranges if training[rows].any()],
    )
    with compute.faiss_threads(1):  # its products differ in the last bits with the number of threads
        options = {"niter": _ROUNDS, "seed": 1 + seed % 2**30, "max_points_per_centroid": _TRAINING}
        kmeans = faiss.Kmeans(dimension, n_lists, min_points_per_centroid=1, **options)
        kmeans.train(np.concatenate(list(seen)))
    centroids = np.ascontiguousarray(kmeans.centroids[_by_locality(kmeans.centroids)])

    def label(rows: slice) -> np.ndarray:
        with compute.faiss_threads(1):
            return faiss.knn(scaled(np.asarray(points[rows]), centre, unit), centroids, 1)[1][:, 0].astype(np.int32)

    labels = np.empty(n_cells, np.int32)
    found = track(workers.in_order(label, ranges), "neighbors: dividing", len(ranges))
    for rows, here in zip(ranges, found, strict=True):
        labels[rows] = here
    order = np.argsort(labels, kind="stable")
    place = np.empty(n_cells, np.int64)
    place[order] = np.arange(n_cells)
    by_list = scratch.array(workers.folder, "points", points.shape, points.dtype)
    for rows, here in scratch.rearranged(workers, points, place, 1):
        by_list[rows] = here
    start = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=n_lists))])
    return Lists(centroids, start, order, place, by_list, centre, unit)


def _by_locality(points: np.ndarray) -> np.ndarray:
    """An order in which near points stand near: halves along the widest direction, and halves of these."""
    ordered, left = [], [np.arange(len(points))]
    while left:
        part = left.pop()
        if len(part) <= 2:
            ordered.append(part)
            continue
        shifted = points[part] - points[part].mean(axis=0)
        widest = np.linalg.svd(shifted, full_matrices=False)[2][0]
        by_width = part[np.argsort(shifted @ widest, kind="stable")]
        left += [by_width[len(part) // 2 :], by_width[: len(part) // 2]]
    return np.concatenate(ordered)


def by_halves(points: np.ndarray, group: int = 1) -> np.ndarray:
    """The same along the widest coordinate, which costs less, in groups of so many points; the last may be smaller.

    >>> by_halves(np.array([[3.0], [1.0], [2.0], [0.0]])).tolist()
    [3, 1, 2, 0]
    """
    ordered, left = [], [np.arange(len(points))]
    while left:
        part = left.pop()
        if len(part) <= group:
            ordered.append(part)
            continue
        there = points[part]
        by_width = part[np.argsort(there[:, there.var(axis=0).argmax()], kind="stable")]
        middle = group * ((-(-len(part) // group) + 1) // 2)
        left += [by_width[middle:], by_width[:middle]]
    return np.concatenate(ordered)
