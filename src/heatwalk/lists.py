"""Cells divided into lists around k-means centroids: a search reads the lists near a cell, not all cells.

    points, in the order of their lists     |  list 0   |list 1|   list 2    | ...
    cells of list 1 are compared with                    ^^^^^^  and the `probes` lists nearest to it, in one product

No step holds all points: they are read in blocks, and kept by list in a scratch file.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.progress import log

_TRAINING = 64  # points a list that k-means sees
_ROUNDS = 10  # of k-means


class Lists(NamedTuple):
    centroids: np.ndarray  # (list, dimension) float32, as `scaled` gives them
    near: np.ndarray  # (list, list) int32, all lists from the nearest, itself first
    start: np.ndarray  # (list + 1,) int64, where a list begins
    order: np.ndarray  # (cell,) int64, the cell at every position
    points: Any  # (cell, dimension), the points by position
    centre: np.ndarray  # (dimension,) float64
    unit: float  # largest coordinate about the centre


def scratch_array(scratch: Path | None, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array to fill: a file in the scratch folder, or memory where there is none.

    The file's space is taken at once: a disk that fills under a mapped file would kill the process without a word.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if scratch is None or n_bytes == 0:
        return np.empty(shape, dtype)
    path = Path(scratch) / f"{name}.scratch"
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.truncate(n_bytes)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


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
    threads: int | None,
    block_cells: int,
    scratch: Path | None,
) -> Lists:
    """Divide points into about 2 sqrt(n) lists."""
    import faiss

    n_cells, dimension = points.shape
    n_lists = min(int(2 ** np.clip(np.round(np.log2(2.3 * np.sqrt(n_cells))), 2, 16)), n_cells)
    ranges = compute.blocks(n_cells, block_cells)
    log.info("neighbors: dividing %d cells into %d lists", n_cells, n_lists)
    training = np.zeros(n_cells, bool)
    chosen = np.random.default_rng(seed).choice(n_cells, min(n_cells, _TRAINING * n_lists), replace=False)
    training[chosen] = True
    seen = np.concatenate([scaled(np.asarray(points[rows])[training[rows]], centre, unit) for rows in ranges])
    with compute.faiss_threads(threads), compute.one_blas_thread():
        options = {"niter": _ROUNDS, "seed": 1 + seed % 2**30, "max_points_per_centroid": _TRAINING}
        kmeans = faiss.Kmeans(dimension, n_lists, min_points_per_centroid=1, **options)
        kmeans.train(seen)
        centroids = kmeans.centroids
        labels = np.empty(n_cells, np.int32)
        for rows in ranges:
            labels[rows] = faiss.knn(scaled(np.asarray(points[rows]), centre, unit), centroids, 1)[1][:, 0]
        near = faiss.knn(centroids, centroids, n_lists)[1].astype(np.int32)
    order = np.argsort(labels, kind="stable")
    place = positions(order)
    by_list = scratch_array(scratch, "points", points.shape, points.dtype)
    for rows in ranges:
        by_list[place[rows]] = points[rows]
    start = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=n_lists))])
    return Lists(centroids, near, start, order, by_list, centre, unit)


def positions(order: np.ndarray) -> np.ndarray:
    """The position of every cell."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def candidates(lists: Lists, number: int, queries: np.ndarray, probes: int, width: int) -> np.ndarray:
    """Positions of the `width` points nearest to the given positions of a list, in the lists nearest to it.

    Differences are taken about the list's centroid before the product |x|^2 + |y|^2 - 2xy, which therefore loses digits
    of the list's own extent only. Where there are fewer points than `width`, -1.
    """
    import faiss

    parts = [slice(*lists.start[other : other + 2]) for other in lists.near[number, :probes]]
    here = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    centre = lists.centre + lists.centroids[number].astype(np.float64) * lists.unit
    base = scaled(np.concatenate([lists.points[part] for part in parts]), centre, lists.unit)
    with compute.faiss_threads(1):
        found = faiss.knn(scaled(lists.points[queries], centre, lists.unit), base, min(width, len(here)))[1]
    padded = np.full((len(queries), width), -1, np.int64)
    padded[:, : found.shape[1]] = np.where(found < 0, -1, here[found])
    return padded
