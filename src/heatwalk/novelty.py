"""How new a point is to a reference, and how many of the cells set aside are as new."""

from typing import NamedTuple

import numpy as np

from heatwalk import compute, exact, placing
from heatwalk import unexplained as rest
from heatwalk.errors import BadInput, Problem
from heatwalk.progress import log

_NEIGHBOR = 15
_LOCAL = 2 / 3  # power of the local scale: 0 is a distance, 1 a ratio of distances
_CALIBRATION = 0.1  # share of the reference set aside where it has no split of its own
_FEWEST = 50  # cells set aside that say how much is left of cells
_AT_ONCE = 2**12  # points whose neighbours' places are held


class Calibrated(NamedTuple):
    """What the cells of a reference say of novelty."""

    aside: np.ndarray  # (cell,) bool, those that trust is calibrated on
    yardstick: rest.Yardstick | None
    places: np.ndarray | None  # (cell, component) float32, what cells share with their like
    radius: np.ndarray  # (cell,) log distance to the 15th neighbour
    spread: float  # of the novelty by distance, over the cells set aside
    novelties: np.ndarray  # of these, ascending


def calibrated(reference, min_trust: float, seed: int, unexplained: bool) -> Calibrated:
    """unexplained: whether what is left of new points is known; `extension` says what novelty is then."""
    aside = _aside(reference, seed)
    _check_bound(min_trust, int(aside.sum()))
    by = _yardstick(reference, aside) if unexplained and reference.unexplained is not None else None
    places = None if by is None else (np.asarray(reference.points[:]) * by.shares).astype(np.float32)
    made = Calibrated(aside, by, places, np.empty(len(aside)), 0.0, np.empty(0))
    neighbors, ranges = reference.neighbors, compute.blocks(len(aside), compute.BLOCK_CELLS)

    def known(rows: slice) -> exact.Found:
        found = exact.Found(np.asarray(neighbors.indices[rows]), np.asarray(neighbors.distances[rows]))
        return found if by is None else _ranked(found, places[rows], places)

    for rows in ranges:
        made.radius[rows] = _log_radius(known(rows), aside)
    # Read a second time: all neighbours of a large reference are more than fits.
    novel = np.concatenate([_by_distance(known(rows), made)[aside[rows]] for rows in ranges])
    if by is not None:
        made = made._replace(spread=float(novel.std()))
        left = [_left(reference.points[rows], reference.unexplained, rows, made)[aside[rows]] for rows in ranges]
        novel += np.concatenate(left)
    return made._replace(novelties=np.sort(novel))


def judged(found: exact.Found, block: np.ndarray, unexplained, rows: slice, known: Calibrated):
    """(point,) novelty and trust of a block of points, rows of all, with their nearest cells.

    trust = (1 + how many of the cells set aside are at least as novel) / (1 + how many there are)
    """
    if known.yardstick is None:
        novel = _by_distance(found, known)
    else:
        found = _ranked(found, (block * known.yardstick.shares).astype(np.float32), known.places)
        novel = _by_distance(found, known) + _left(block, unexplained, rows, known)
    count = len(known.novelties)
    return novel, (1 + count - np.searchsorted(known.novelties, novel, side="left")) / (1 + count)


def _yardstick(reference, aside: np.ndarray) -> rest.Yardstick | None:
    if aside.sum() < _FEWEST or aside.all():
        log.info("extension: what is left of cells does not count, only %d cells are set aside", aside.sum())
        return None
    rows = rest.sample(~aside)
    names = placing.rows_of(reference.neighbors.indices, rows)[:, :_NEIGHBOR].astype(np.int64)
    return rest.yardstick(reference.points, names, rows, reference.unexplained, aside)


def _ranked(found: exact.Found, block: np.ndarray, places: np.ndarray) -> exact.Found:
    """The same neighbours by the distance between what they and the points share with their like, nearest first."""
    distances = np.empty(found.names.shape, np.float32)
    for rows in compute.blocks(len(block), _AT_ONCE):
        distances[rows] = np.linalg.norm(places[found.names[rows]] - block[rows, None], axis=2)
    order = np.argsort(distances, axis=1, kind="stable")
    return exact.Found(*(np.take_along_axis(values, order, 1) for values in (found.names, distances)))


def _left(block, unexplained, rows: slice, known: Calibrated) -> np.ndarray:
    squared, depth = (np.asarray(values[rows]) for values in unexplained)
    return known.spread * rest.left(np.asarray(block), squared, depth, known.yardstick)


def _aside(reference, seed: int) -> np.ndarray:
    """(cell,) bool, those that trust is calibrated on."""
    if reference.split is not None and np.any(np.asarray(reference.split[:]) == 1):
        return np.asarray(reference.split[:]) == 1
    if reference.split is not None:
        log.warning("extension: the reference holds no cells out: trust is calibrated on cells it was fitted to")
    n_cells = reference.points.shape[0]
    aside = np.zeros(n_cells, bool)
    chosen = np.random.default_rng([seed, 4]).choice(n_cells, max(1, int(_CALIBRATION * n_cells)), replace=False)
    aside[chosen] = True
    return aside


def _check_bound(min_trust: float, n_calibration: int) -> None:
    """Trust is at least 1 / (1 + number of calibration cells): a bound below that would trust everything."""
    least = 1 / (1 + n_calibration)
    if 0 < min_trust <= least:
        cause = f"min_trust is {min_trust:g}, and no trust by {n_calibration} cells set aside is below {least:.3g}"
        remedy = f"set extension: min_trust above {least:.3g}, or to 0; or cells: holdout to more for the reference"
        raise BadInput(Problem("HW-EX-009", "min_trust", cause, remedy))


def _kept(found: exact.Found, aside: np.ndarray) -> np.ndarray:
    """(query, neighbor) bool: the first 15 neighbours that are not set aside; the nearest where all are."""
    there = ~aside[found.names]
    kept = there & (np.cumsum(there, axis=1) <= _NEIGHBOR)
    kept[:, 0] |= ~there.any(axis=1)
    return kept


def _log_radius(found: exact.Found, aside: np.ndarray) -> np.ndarray:
    kept = _kept(found, aside)
    last = np.where(kept, found.distances, -np.inf).max(axis=1).astype(np.float64)
    return np.log(np.maximum(last, np.finfo(np.float32).tiny))


def _by_distance(found: exact.Found, known: Calibrated) -> np.ndarray:
    kept = _kept(found, known.aside)
    local = np.where(kept, known.radius[found.names], 0).sum(axis=1) / kept.sum(axis=1)
    return _log_radius(found, known.aside) - _LOCAL * local
