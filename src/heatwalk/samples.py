"""The cells that a generator learns from or begins at, and how far they lie apart."""

import numpy as np

from heatwalk import compute
from heatwalk.condition import matching
from heatwalk.errors import BadInput, Problem
from heatwalk.neighbors import neighbors
from heatwalk.surroundings import nearest

FEWEST = 8  # samples
_FRESH = 0.99  # of samples that lie as near to another one: a point farther off has left the data


def train_rows(points, cells, condition: str, code: str) -> np.ndarray:
    """Numbers of the cells that are not held out, and of which a condition holds; of all points without cells."""
    if cells is None:
        if condition:
            cause = f"{condition!r} is a condition on cells, and none are given"
            raise BadInput(Problem(code, "condition", cause, "give `cells` with their obs, or points alone"))
        return np.arange(points.shape[0])
    if not condition:
        return np.flatnonzero(np.asarray(cells.split[:]) == 0)
    return population(cells, condition, code, "condition")


def population(cells, asked: str, code: str, where: str) -> np.ndarray:
    """Numbers of the cells with `column=value` that are not held out; BadInput for fewer than 8."""
    own = matching(cells.obs, asked, code, where)
    train = own[np.asarray(cells.split[:])[own] == 0]
    if len(train) < FEWEST:
        cause = f"{len(own)} cells have {asked!r}, of which {len(train)} are not held out; the fewest are {FEWEST}"
        raise BadInput(Problem(code, where, cause, "use a value that more cells have, or lower cells: holdout"))
    return train


def read(points, rows: np.ndarray) -> np.ndarray:
    """Some rows in double precision, read in order block by block."""
    parts = []
    for block in compute.blocks(points.shape[0], compute.BLOCK_CELLS):
        own = rows[np.searchsorted(rows, block.start) : np.searchsorted(rows, block.stop)]
        parts.append(np.asarray(points[block])[own - block.start].astype(np.float64))
    return np.concatenate(parts)


def beside(samples: np.ndarray, points: np.ndarray, spacing: np.ndarray, seed: int, threads: int | None) -> tuple:
    """Of every point: the distance to the nearest sample, whether it left the data, and the row of that sample.

    spacing: distance of every sample to the nearest other one.
    """
    found = nearest(samples, points, 1, threads)
    distances = found.distances[:, 0].astype(np.float64)
    left = distances > np.quantile(_apart(samples, spacing, seed, threads), _FRESH)
    return distances, left, found.names[:, 0]


def _apart(samples: np.ndarray, known: np.ndarray, seed: int, threads: int | None) -> np.ndarray:
    """Distance of every distinct sample to the nearest other one: copies of a sample would leave no room around it.

    known: the same of all samples, taken where none is 0.
    """
    if known.all():
        return known
    distinct = np.unique(samples, axis=0)
    found = neighbors(distinct, n_neighbors=1, seed=seed, threads=threads)
    return np.asarray(found.distances[:, 0], np.float64)
