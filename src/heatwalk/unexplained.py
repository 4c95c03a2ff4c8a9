"""What components do not show of a cell: a marker that no cell of a reference has is not among its components."""

from typing import Any, NamedTuple

import numpy as np

from heatwalk import placing

_SAMPLE = 1000  # cells of the reference whose neighbours say how much of a component is shared
_FITTED = 20_000  # cells set aside that the parabola is fitted to, at most


class Unexplained(NamedTuple):
    """Of cells with expression and a known depth."""

    squared: Any  # (cell,) squared length of a cell less that of its coordinates, in the units of these
    depth: Any  # (cell,) above 0, e.g. size factors

    @classmethod
    def of(cls, pca, cells) -> "Unexplained | None":
        """From published results of `pca` and `cells`; None where nothing is left or no depth is known."""
        depth = np.asarray(cells["size_factors"][:])
        if "unexplained" not in pca or not np.ptp(depth):
            return None
        return cls(pca["unexplained"], depth)


class Yardstick(NamedTuple):
    """How much is left of cells like the reference's own."""

    shares: np.ndarray  # (component,) s, of its variance that cells have in common with their neighbours
    powers: np.ndarray  # (3,) of log depth
    spread: float


def yardstick(points, names: np.ndarray, rows: np.ndarray, known: Unexplained, aside: np.ndarray) -> Yardstick:
    """Made on the cells set aside: components follow the noise of those that they were fitted to.

        length(x) = log( squared(x) + sum_c (1 - s_c^2) x_c^2 ) / 2,   s_c = 1 - variance between neighbours / variance

    and what is left is length less a parabola in log depth, over its spread. s_c x_c is the best guess of what a cell
    shares with its like along a component (Wiener), the rest of it is as much left as what no component shows.
    points: (cell, component) of the reference; rows: some of its cells, names their neighbours, (row, neighbor);
    aside: (cell,) bool.
    """
    shares = _shared(points, rows, names)
    some = np.flatnonzero(aside)
    some = some[:: -(-len(some) // _FITTED)]
    length = _length(placing.rows_of(points, some), np.asarray(known.squared[:])[some], shares)
    powers = _powers(np.asarray(known.depth)[some])
    found = np.linalg.lstsq(powers, length, rcond=None)[0]
    return Yardstick(shares, found, max(float((length - powers @ found).std()), np.finfo(np.float32).eps))


def left(block: np.ndarray, squared: np.ndarray, depth: np.ndarray, by: Yardstick) -> np.ndarray:
    """(cell,) how many spreads more is left of cells than of the reference's at their depth."""
    return (_length(block, squared, by.shares) - _powers(depth) @ by.powers) / by.spread


def sample(fitted: np.ndarray) -> np.ndarray:
    """Cells for `yardstick`, ascending, evenly over those fitted to."""
    there = np.flatnonzero(fitted)
    return there[:: -(-len(there) // _SAMPLE)]


def _shared(points, rows: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(component,) share of the variance that cells have in common with their neighbours, in [0, 1]."""
    every, place = np.unique(np.concatenate([names.ravel(), rows]), return_inverse=True)
    values = placing.rows_of(points, every).astype(np.float64)
    near = values[place[: names.size].reshape(names.shape)]
    apart = values[place[names.size :]] - near.mean(axis=1)
    count = names.shape[1]
    between = (apart**2).mean(axis=0) * count / (count + 1)  # the mean of so many neighbours is noisy itself
    return np.clip(1 - between / np.maximum(values.var(axis=0), np.finfo(float).tiny), 0, 1)


def _length(block: np.ndarray, squared: np.ndarray, shares: np.ndarray) -> np.ndarray:
    total = np.maximum(squared, 0).astype(np.float64) + np.asarray(block, np.float64) ** 2 @ (1 - shares**2)
    return np.log(np.maximum(total, np.finfo(np.float32).tiny)) / 2


def _powers(depth: np.ndarray) -> np.ndarray:
    logs = np.log(np.asarray(depth, np.float64))
    return np.column_stack([np.ones(len(logs)), logs, logs**2])
