"""Rows of P^t as sparse vectors: where the walk from one cell is after t steps, and what that says about the cell.

Rows of 64 cells that lie close together are pushed step by step through the graph side by side: they meet much the same
cells, so an edge is read once for all of them. Cells that matter to none of the 64 are dropped, and their mass is added
up. No more than 64 rows a thread are ever held.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.lists import by_halves
from heatwalk.progress import track

_ROWS = 64  # pushed side by side
_TASK = 64 * _ROWS  # rows a task
_TRIED = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7)  # cells with less in every row are dropped
_LOOK = 32  # steps after which it is seen whether rows are at rest
_AT_REST = 1e-4  # of a cell's stationary share
_SAMPLED = 16  # groups of rows that it is chosen by


class Walk(NamedTuple):
    entropy: np.ndarray  # (cell,) -sum_y p log(p / volume), nats
    mixing: np.ndarray  # (cell,) sum_y p log(p / pi), nats: 0 for a stationary walk
    laziness: np.ndarray  # (cell,) mean of p over the diffusion ball
    lost: np.ndarray  # (cell,) mass dropped
    reached: np.ndarray  # (cell,) int32, nodes in the row


class Entry(NamedTuple):
    """The first step of cells that are not all nodes of the graph."""

    names: np.ndarray  # (cell, neighbor) nodes
    shares: np.ndarray  # (cell, neighbor) probabilities
    coordinates: np.ndarray  # (cell, mode), as those of the nodes


def walk(
    affinity,
    volume: np.ndarray,
    coordinates,
    t: int,
    ball: int,
    most_lost: float,
    workers: compute.Workers,
    entry: Entry | None = None,
) -> Walk:
    """What rows p of P^t say about their cells.

        entropy(x) = -sum_y p(y) log(p(y) / volume(y)), volume(y) what the node y stands for
        mixing(x) = sum_y p(y) log(p(y) / pi(y)), pi the stationary distribution
        laziness(x) = mean of p over the `ball` nodes nearest to x in the map among those reached; NaN if fewer are

    most_lost: mass that a row may lose, on a sample of rows; what is dropped after every step is the most that does so.
    affinity: as `affinity` gives it. coordinates: (node, mode) in whose Euclidean distance the ball is. entry: how
    cells step onto the nodes; without it cells are the nodes. Probabilities are float32, sums of them float64.
    Memory: the graph, the entry, and for every thread 12 bytes a node and 520 bytes a node met by 64 rows.
    """
    near = np.asarray(coordinates[:], np.float64)
    order, place = _ordered(near)
    nodes = _in_order(affinity, order, place)
    logs = (np.log(np.asarray(values[:], np.float64)[order]) for values in (affinity.stationary, volume))
    given, first, from_ = (*nodes, *logs, near[order]), nodes, near[order]
    if entry is not None:
        order, back = _ordered(entry.coordinates)
        first, from_ = _entered(entry, order, place), entry.coordinates[order]
        place = back
    push, n_cells = _push(), len(order)
    made = [*(np.full(n_cells, np.nan) for _ in range(4)), np.empty(n_cells, np.int32)]

    def rows(part: slice, smallest: float) -> None:
        push(*given, *first, from_, t, ball, smallest, part.start, part.stop, *made)

    smallest = _smallest(rows, made[3], most_lost)
    ranges = compute.blocks(n_cells, _TASK)
    for _ in track(workers.here.in_order(partial(rows, smallest=smallest), ranges), "curvature: walking", len(ranges)):
        pass
    return Walk(*(values[place] for values in made))


def _ordered(near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows by locality, and the place of each."""
    order = by_halves(near, _ROWS)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return order, place


def _entered(entry: Entry, order: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first step as rows of P are: indptr, columns and probabilities, cells and nodes in their orders."""
    columns, values = place.astype(np.int32)[entry.names[order]], entry.shares[order].astype(np.float32)
    return np.arange(len(order) + 1) * columns.shape[1], columns.ravel(), values.ravel()


def _smallest(rows: Callable, lost: np.ndarray, most_lost: float) -> float:
    """The first of those tried that keeps what sampled rows lose within `most_lost`; 0 where none does."""
    last = (len(lost) - 1) // _ROWS
    starts = _ROWS * np.unique(np.linspace(0, last, _SAMPLED).astype(int))
    parts = [slice(int(start), int(min(start + _ROWS, len(lost)))) for start in starts]
    for smallest in _TRIED if most_lost > 0 else ():
        for part in parts:
            rows(part, smallest)
            if lost[part].max() > most_lost:
                break
        else:
            return smallest
    return 0.0


def _in_order(affinity, order: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """indptr, columns and probabilities of P with cells in the order given, in which a walk stays in the caches."""
    start = np.asarray(affinity.indptr[:])
    lengths = np.diff(start)
    indptr = np.concatenate([[0], np.cumsum(lengths[order])])
    columns, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
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
    def met(indptr, columns, here, size, slot, there):
        """How many cells are one step away; they are in `there`, and `slot` has their places."""
        count = 0
        for place in range(size):
            for edge in range(indptr[here[place]], indptr[here[place] + 1]):
                if slot[columns[edge]] < 0:
                    slot[columns[edge]], there[count] = count, columns[edge]
                    count += 1
        return count

    @numba.njit(nogil=True)
    def stepped(indptr, columns, values, here, size, slot, mass, onto):
        for place in range(size):
            for edge in range(indptr[here[place]], indptr[here[place] + 1]):
                to, share = slot[columns[edge]], values[edge]
                for row in range(_ROWS):
                    onto[to, row] += share * mass[place, row]

    @numba.njit(nogil=True)
    def kept(there, count, smallest, slot, onto, here, lost):
        """Of the cells met those that matter, in `here`, their rows of `onto` drawn together; how many."""
        size = 0
        for place in range(count):
            most = np.float32(0)
            for row in range(_ROWS):
                most = max(most, onto[place, row])
            slot[there[place]] = -1
            if most >= smallest:
                here[size] = there[place]
                onto[size] = onto[place]
                size += 1
            else:
                for row in range(_ROWS):
                    lost[row] += onto[place, row]
        return size

    return met, stepped, kept


@lru_cache(maxsize=1)
def _within() -> Callable:
    import numba

    @numba.njit(nogil=True)
    def within(here, weight, size, near, from_, ball):
        if size < ball:
            return np.nan
        squares, nearest = np.empty(size), np.full(ball, np.inf)
        for place in range(size):
            square = 0.0
            for mode in range(near.shape[1]):
                square += (near[here[place], mode] - from_[mode]) ** 2
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
        # No place is near to a cell whose own is unknown.
        return total / count if count else np.nan

    return within


@lru_cache(maxsize=1)
def _told() -> Callable:
    import numba

    within = _within()

    @numba.njit(nogil=True)
    def told(here, size, mass, first, rows, log_pi, log_volume, near, from_, ball, entropy, mixing, laziness):
        sums, cells, weight = np.zeros((4, rows)), np.empty(size, np.int32), np.empty(size)
        for place in range(size):
            at = here[place]
            for row in range(rows):
                share = np.float64(mass[place, row])
                if share > 0:
                    sums[0, row] += share
                    sums[1, row] -= share * np.log(share)
                    sums[2, row] += share * log_pi[at]
                    sums[3, row] += share * log_volume[at]
        for row in range(rows):
            total = sums[0, row]
            if total == 0:
                continue
            # Of what is left, as a distribution of its own.
            entropy[first + row] = (sums[1, row] + sums[3, row]) / total + np.log(total)
            mixing[first + row] = -(sums[1, row] + sums[2, row]) / total - np.log(total)
            count = 0
            for place in range(size):
                if mass[place, row] > 0:
                    cells[count], weight[count] = here[place], mass[place, row]
                    count += 1
            laziness[first + row] = within(cells, weight, count, near, from_[first + row], ball)

    return told


@lru_cache(maxsize=1)
def _at_rest() -> Callable:
    import numba

    @numba.njit(nogil=True)
    def at_rest(here, size, mass, rows, log_pi):
        """Whether further steps change nothing: a t of a million shall not take a million steps."""
        total = 0.0
        for place in range(size):
            total += np.exp(log_pi[here[place]])
        for place in range(size):
            pi = np.exp(log_pi[here[place]])
            for row in range(rows):
                if abs(mass[place, row] * total - pi) > _AT_REST * pi:
                    return False
        return True

    return at_rest


@lru_cache(maxsize=1)
def _push() -> Callable:
    import numba

    (met, stepped, kept), told, at_rest = _stepped(), _told(), _at_rest()

    @numba.njit(nogil=True)
    def push(
        indptr, columns, values, log_pi, log_volume, near, first_indptr, first_columns, first_values, from_,
        t, ball, smallest, first, last, entropy, mixing, laziness, lost, reached,
    ):  # fmt: skip
        slot, there = np.full(len(log_pi), -1, np.int32), np.empty(len(log_pi), np.int32)
        here = np.empty(max(len(log_pi), _ROWS), np.int32)
        mass, onto = np.zeros((_ROWS, _ROWS), np.float32), np.zeros((_ROWS, _ROWS), np.float32)
        for start in range(first, last, _ROWS):
            rows, gone = min(_ROWS, last - start), np.zeros(_ROWS)
            mass[:_ROWS] = 0
            for row in range(rows):
                here[row], mass[row, row] = start + row, 1
            size, step_from = rows, (first_indptr, first_columns, first_values)
            for step in range(t):
                if step % _LOOK == _LOOK - 1 and at_rest(here, size, mass, rows, log_pi):
                    break
                count = met(step_from[0], step_from[1], here, size, slot, there)
                if count > len(onto):
                    onto = np.empty((count + count // 2, _ROWS), np.float32)
                onto[:count] = 0
                stepped(*step_from, here, size, slot, mass, onto)
                size = kept(there, count, smallest, slot, onto, here, gone)
                mass, onto, step_from = onto, mass, (indptr, columns, values)
            lost[start : start + rows] = gone[:rows]
            for row in range(rows):
                reached[start + row] = (mass[:size, row] > 0).sum()
            told(here, size, mass, start, rows, log_pi, log_volume, near, from_, ball, entropy, mixing, laziness)

    return push
