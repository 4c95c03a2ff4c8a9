"""Rows of P^t as sparse vectors: where the walk from one cell is after t steps, and what that says about the cell.

A row is pushed step by step through the graph; entries too small to matter are dropped, and their mass is added up. No
more than one row a thread is ever held.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.progress import track

_TASK = 1024  # rows a task
_TRIED = (1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5, 5e-6, 2e-6, 1e-6)  # entries below one of them are dropped
_SAMPLE, _RUN = 512, 32  # rows that it is chosen by, in runs of neighbouring ones


class Walk(NamedTuple):
    entropy: np.ndarray  # (cell,) -sum_y p log(p / volume), nats
    mixing: np.ndarray  # (cell,) sum_y p log(p / pi), nats: 0 for a stationary walk
    laziness: np.ndarray  # (cell,) mean of p over the diffusion ball
    returns: np.ndarray  # (cell,) P^2t(x, x)
    lost: np.ndarray  # (cell,) mass dropped
    reached: np.ndarray  # (cell,) int32, cells in the row


def walk(
    affinity, volume: np.ndarray, coordinates, t: int, ball: int, most_lost: float, workers: compute.Workers
) -> Walk:
    """What rows p of P^t say about their cells.

        entropy(x) = -sum_y p(y) log(p(y) / volume(y)), volume(y) what the cell y stands for
        mixing(x) = sum_y p(y) log(p(y) / pi(y)), pi the stationary distribution
        laziness(x) = mean of p over the `ball` cells nearest to x in the map among those reached; NaN if fewer are
        returns(x) = P^2t(x, x) = sum_y p(y)^2 pi(x) / pi(y), as the walk is reversible

    most_lost: mass that a row may lose, on a sample of rows; what is dropped after every step is the most that does so.
    affinity: as `affinity` gives it. coordinates: (cell, mode) in whose Euclidean distance the ball is.
    Memory: the graph, and 17 bytes a cell for every thread.
    """
    order = np.asarray(affinity.order[:])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    graph = _by_locality(affinity, order, place)
    pi = np.asarray(affinity.stationary[:], np.float64)[order]
    near = np.ascontiguousarray(np.asarray(coordinates[:], np.float64)[order])
    logs = np.log(pi), np.log(np.asarray(volume, np.float64)[order])
    push, n_cells = _push(), len(order)
    made = [*(np.empty(n_cells) for _ in range(5)), np.empty(n_cells, np.int32)]

    def rows(part: slice, smallest: float) -> None:
        push(*graph, pi, *logs, near, t, ball, smallest, part.start, part.stop, *made)

    smallest = _smallest(rows, made[4], most_lost)
    ranges = compute.blocks(n_cells, _TASK)
    for _ in track(workers.here.in_order(partial(rows, smallest=smallest), ranges), "curvature: walking", len(ranges)):
        pass
    return Walk(*(values[place] for values in made))


def _smallest(rows: Callable, lost: np.ndarray, most_lost: float) -> float:
    """The first of those tried that keeps what sampled rows lose within `most_lost`; 0 where none does."""
    n_cells = len(lost)
    runs = max(1, min(_SAMPLE, n_cells) // _RUN)
    starts = np.unique(np.linspace(0, max(n_cells - _RUN, 0), runs).astype(int))
    parts = [slice(int(start), int(min(start + _RUN, n_cells))) for start in starts]
    for smallest in _TRIED if most_lost > 0 else ():
        for part in parts:
            rows(part, smallest)
            if lost[part].max() > most_lost:
                break
        else:
            return smallest
    return 0.0


def _by_locality(affinity, order: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """indptr, columns and probabilities of P with cells in the order given, in which a walk stays in the caches."""
    start = np.asarray(affinity.indptr[:])
    lengths = np.diff(start)
    indptr = np.concatenate([[0], np.cumsum(lengths[order])])
    columns, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1])
    for rows in compute.blocks(len(order), compute.BLOCK_CELLS):
        edges = slice(start[rows.start], start[rows.stop])
        to = np.repeat(indptr[place[rows]] - start[rows], lengths[rows]) + np.arange(edges.start, edges.stop)
        columns[to] = place[np.asarray(affinity.indices[edges])]
        degrees = np.repeat(np.asarray(affinity.degrees[rows]), lengths[rows])
        values[to] = np.asarray(affinity.weights[edges]) / degrees
    return indptr, columns, values


@lru_cache(maxsize=1)
def _stepped() -> Callable:
    import numba

    @numba.njit(nogil=True)
    def stepped(indptr, columns, values, here, weight, size, smallest, mass, touched):
        """The row one step on, in `here` and `weight`; its size, and the mass dropped."""
        met, dropped, kept = 0, 0.0, 0
        for place in range(size):
            at, share = here[place], weight[place]
            for edge in range(indptr[at], indptr[at + 1]):
                more = share * values[edge]
                if more > 0:
                    if mass[columns[edge]] == 0:
                        touched[met] = columns[edge]
                        met += 1
                    mass[columns[edge]] += more
        for place in range(met):
            at = touched[place]
            if mass[at] >= smallest:
                here[kept], weight[kept] = at, mass[at]
                kept += 1
            else:
                dropped += mass[at]
            mass[at] = 0
        return kept, dropped

    return stepped


@lru_cache(maxsize=1)
def _within() -> Callable:
    import numba

    @numba.njit(nogil=True)
    def within(here, weight, size, near, row, ball):
        if size < ball:
            return np.nan
        squares, nearest = np.empty(size), np.full(ball, np.inf)
        for place in range(size):
            square = 0.0
            for mode in range(near.shape[1]):
                square += (near[here[place], mode] - near[row, mode]) ** 2
            squares[place] = square
            # Kept in order: few come so near that the rest has to move.
            at = ball - 1
            if square < nearest[at]:
                while at > 0 and nearest[at - 1] > square:
                    nearest[at] = nearest[at - 1]
                    at -= 1
                nearest[at] = square
        radius, total, count = nearest[ball - 1], 0.0, 0
        for place in range(size):
            if squares[place] <= radius:
                total += weight[place]
                count += 1
        return total / count

    return within


@lru_cache(maxsize=1)
def _push() -> Callable:
    import numba

    stepped, within = _stepped(), _within()

    @numba.njit(nogil=True)
    def push(
        indptr, columns, values, pi, log_pi, log_volume, near, t, ball, smallest, first, last,
        entropy, mixing, laziness, returns, lost, reached,
    ):  # fmt: skip
        n_cells = len(pi)
        mass, touched = np.zeros(n_cells), np.empty(n_cells, np.int32)
        here, weight = np.empty(n_cells, np.int32), np.empty(n_cells)
        for row in range(first, last):
            here[0], weight[0], size, lost[row] = row, 1.0, 1, 0.0
            for _ in range(t):
                size, dropped = stepped(indptr, columns, values, here, weight, size, smallest, mass, touched)
                lost[row] += dropped
            reached[row] = size
            if not size:  # of the values tried for what is dropped, one that drops all
                continue
            total, spread, twice, by_pi, by_volume = 0.0, 0.0, 0.0, 0.0, 0.0
            for place in range(size):
                at, share = here[place], weight[place]
                total += share
                spread -= share * np.log(share)
                twice += share * share / pi[at]
                by_pi += share * log_pi[at]
                by_volume += share * log_volume[at]
            # Of what is left, as a distribution of its own.
            entropy[row] = (spread + by_volume) / total + np.log(total)
            mixing[row] = -(spread + by_pi) / total - np.log(total)
            returns[row] = twice * pi[row]
            laziness[row] = within(here, weight, size, near, row, ball)

    return push
