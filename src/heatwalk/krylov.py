"""Largest eigenpairs of a symmetric matrix that may be too large for memory: block Krylov-Schur with thick restarts.

    space   [ Ritz vectors kept | block | block | ... ]      orthonormal; each block is A times the last one, made so
    full?   Ritz pairs of the space; the first half of them is kept, and the last block goes on

A is read once for every block of four vectors, so a space of m vectors costs m / 4 readings. Reorthogonalisation is
full and done twice. A block also finds as many copies of a repeated eigenvalue as it has columns.
Sources: Stewart, A Krylov-Schur algorithm for large eigenproblems (2001); Zhou and Saad, Block Krylov-Schur method for
large symmetric eigenvalue problems (2008).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg

from heatwalk import compute
from heatwalk.progress import log

BLOCK = 4  # columns of a block
_CHECK_STEPS = 60  # of Lanczos, that look for a missed copy of a repeated eigenvalue
_PRODUCTS = 1000  # the most, for every pair wanted
_LITTLE = 1e-3  # square of a norm that has cost digits of a column
_NOTHING = 1e-13  # norm that is all rounding
_PASSES = 6
_ROWS = 2**12  # entries of vectors combined at a time: they stay in the cache

_PARTS = 8  # of these a task


class Pairs(NamedTuple):
    values: np.ndarray  # (mode,) descending
    vectors: np.ndarray  # (row, mode)
    residuals: np.ndarray  # (mode,) |A v - lambda v|
    products: int  # of A with one vector


class Operator(NamedTuple):
    """A symmetric matrix by its products with blocks of vectors, (row, column)."""

    product: Callable
    size: int
    workers: compute.Workers  # threads that combine vectors


class _State(NamedTuple):
    space: np.ndarray  # (vector, row), each vector in one piece; the first is the trivial one
    reduced: np.ndarray  # A between the vectors multiplied so far; the block stands after them in the space
    block: np.ndarray  # (row, BLOCK) what goes on
    coupling: np.ndarray  # (BLOCK, BLOCK) A times the last vectors, along the block


def width(n_modes: int) -> int:
    """Vectors that are held at once, for `n_modes` pairs."""
    return _columns(n_modes) + 3 * BLOCK


def largest(operator: Operator, trivial: np.ndarray, n_modes: int, tolerance: float, generator) -> Pairs:
    """The `n_modes` largest eigenpairs of A beside its unit eigenvector `trivial`, of eigenvalue 1.

    Iterates until |A v - lambda v| <= tolerance for every pair, or 1000 products with a vector were made for each.
    """
    columns, products = _columns(n_modes), 0
    space = np.empty((columns + BLOCK, operator.size))
    space[0] = trivial
    state = _State(space, np.ones((1, 1)), _started(operator, space, 1, generator), np.zeros((BLOCK, BLOCK)))
    while True:
        while len(state.reduced) + BLOCK <= columns:
            state, products = _expanded(operator, state, generator), products + BLOCK
        values, rotation = _ritz(state.reduced)
        residuals = np.linalg.norm(state.coupling @ rotation[-BLOCK:, 1 : n_modes + 1], axis=0)
        done = int((residuals <= tolerance).sum())
        log.info("diffusion_map: %d products, %d of %d pairs, residual %.1e", products, done, n_modes, residuals.max())
        kept = n_modes + 1 if done == n_modes else (columns + n_modes) // 2
        _rotate(operator, space, rotation[:, :kept])
        space[kept : kept + BLOCK] = space[len(rotation) : len(rotation) + BLOCK]
        state = state._replace(reduced=np.diag(values[:kept]))
        if done == n_modes or products > _PRODUCTS * n_modes:
            missed = _missed(operator, space[:kept], values[n_modes], generator)
            products += _CHECK_STEPS
            if not missed or products > _PRODUCTS * n_modes:
                break
            log.info("diffusion_map: a copy of a repeated eigenvalue is looked for")
            state = state._replace(block=_started(operator, space, kept, generator))
    del state  # its block would be held beside those of the residuals
    values, vectors = values[1 : n_modes + 1], space[1 : n_modes + 1]
    return Pairs(values, vectors.T, _residuals(operator, vectors, values), products + n_modes)


def _columns(n_modes: int) -> int:
    return 1 + BLOCK * (-(-(2 * n_modes + 32) // BLOCK))


def _expanded(operator: Operator, state: _State, generator) -> _State:
    """A times the block, made orthonormal to it and to the space: the next block."""
    known = len(state.reduced)
    joined = state.space[: known + BLOCK]
    image = operator.product(state.block)
    inner = _gram(operator, joined, image)
    again = _project(operator, joined, image, inner, joined)
    squares = _project(operator, joined, image, again, image.T)
    inner += again
    reduced = np.zeros((known + BLOCK,) * 2)
    reduced[:known, :known], reduced[:, known:], reduced[known:, :] = state.reduced, inner, inner.T
    reduced[known:, known:] = (inner[known:] + inner[known:].T) / 2
    coupling = _normalised(operator, state.space, known + BLOCK, image, squares, generator)
    return _State(state.space, reduced, image, coupling)


def _normalised(operator: Operator, space: np.ndarray, known: int, image: np.ndarray, squares: np.ndarray, generator):
    """Make the image orthonormal, in place and after the known vectors of a space; the factor that turns it back.

    Columns of which little is left hold more rounding than others, and are projected again after they were scaled up.
    Where nothing is left the space is invariant, and a random column goes on.
    """
    coupling = np.eye(BLOCK)
    for _ in range(_PASSES):
        values, rotation = np.linalg.eigh(squares)
        scale = np.sqrt(np.maximum(values, 1e-14 * max(values[-1], np.finfo(float).tiny)))
        _turn(operator, image, rotation / scale, space, known)
        coupling = scale[:, None] * rotation.T @ coupling
        if values[0] > _LITTLE:
            break
        nothing = np.linalg.norm(coupling, axis=1) < _NOTHING
        coupling[nothing] = 0
        for column in np.flatnonzero(nothing):
            image[:, column] = generator.standard_normal(operator.size)
            image[:, column] /= np.sqrt(operator.size)
        inner = _gram(operator, space[:known], image)
        squares = _project(operator, space[:known], image, inner, image.T)
    return coupling


def _ritz(reduced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values and rotation, the trivial pair first and then descending."""
    values, rotation = np.linalg.eigh(reduced[1:, 1:])
    whole = np.eye(len(reduced))
    whole[1:, 1:] = rotation[:, ::-1]
    return np.concatenate([[1.0], values[::-1]]), whole


def _started(operator: Operator, space: np.ndarray, known: int, generator) -> np.ndarray:
    """A random block orthonormal to the known vectors of a space; it is also put after them."""
    block = generator.standard_normal((operator.size, BLOCK))
    _orthonormal(operator, space, known, block)
    return block


def _orthonormal(operator: Operator, space: np.ndarray, known: int, block: np.ndarray) -> None:
    """Make a block orthonormal to the known vectors and in itself, its columns turned as little as can be."""
    for _ in range(3):
        inner = _gram(operator, space[:known], block)
        values, rotation = np.linalg.eigh(_project(operator, space[:known], block, inner, block.T))
        _turn(operator, block, rotation / np.sqrt(values) @ rotation.T, space, known)


def _residuals(operator: Operator, vectors: np.ndarray, values: np.ndarray) -> np.ndarray:
    squares = []
    for part in compute.blocks(len(values), BLOCK):
        block = np.array(vectors[part].T, order="C")
        error = operator.product(block)
        block *= values[part]
        error -= block
        squares.append(np.einsum("ij,ij->j", error, error))
        del block, error  # the next ones would be made beside them
    return np.sqrt(np.concatenate(squares))


def _missed(operator: Operator, found: np.ndarray, smallest: float, generator) -> bool:
    """Whether a larger eigenvalue is left beside those found: a block need not hold all copies of one.

    With what was found projected out, the largest Ritz value of a few Lanczos steps is a lower bound of the largest
    eigenvalue that is left.
    """
    vector = generator.standard_normal((operator.size, 1))
    before, off, diagonal, beside = np.zeros_like(vector), 0.0, [], []
    for _ in range(min(_CHECK_STEPS, operator.size - len(found) - 1)):
        # What was found comes back from rounding, and grows with every step as far as its eigenvalue is from the rest.
        _project(operator, found, vector, _gram(operator, found, vector), found[:1])
        vector /= np.sqrt(_gram(operator, vector.T, vector))
        image = operator.product(vector) - off * before
        diagonal.append(_gram(operator, vector.T, image)[0, 0])
        image -= diagonal[-1] * vector
        off = float(np.sqrt(_gram(operator, image.T, image)[0, 0]))
        if off < 1e-6:  # all that the vector reaches is known; beyond is rounding
            break
        beside.append(off)
        before, vector = vector, image / off
    largest = scipy.linalg.eigvalsh_tridiagonal(np.array(diagonal), np.array(beside[: len(diagonal) - 1]))[-1]
    return bool(largest > smallest + 1e-8)


def _gram(operator: Operator, vectors: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Inner products of vectors with the columns of a block, summed in block order."""

    def product(rows: slice) -> np.ndarray:
        return vectors[:, rows] @ block[rows]

    return sum(_by_parts(operator, product))


def _project(
    operator: Operator, vectors: np.ndarray, block: np.ndarray, inner: np.ndarray, against: np.ndarray
) -> np.ndarray:
    """Take vectors times inner from a block, in place; what is left, against some vectors."""

    def project(rows: slice) -> np.ndarray:
        block[rows] -= (inner.T @ vectors[:, rows]).T
        return against[:, rows] @ block[rows]

    return sum(_by_parts(operator, project))


def _turn(operator: Operator, block: np.ndarray, rotation: np.ndarray, space: np.ndarray, known: int) -> None:
    """Combinations of the columns of a block, in place, and put after the known vectors of a space."""

    def turn(rows: slice) -> int:
        block[rows] = block[rows] @ rotation
        space[known : known + BLOCK, rows] = block[rows].T
        return 0

    sum(_by_parts(operator, turn))


def _rotate(operator: Operator, vectors: np.ndarray, rotation: np.ndarray) -> None:
    """Combinations of the first vectors, in place of as many."""

    def rotate(rows: slice) -> int:
        vectors[: rotation.shape[1], rows] = rotation.T @ vectors[: len(rotation), rows]
        return 0

    sum(_by_parts(operator, rotate))


def _by_parts(operator: Operator, function: Callable) -> Iterator:
    """Sums of a function over row ranges, a few ranges to a task."""

    def several(group: slice):
        return sum(function(rows) for rows in ranges[group])

    ranges = compute.blocks(operator.size, _ROWS)
    return operator.workers.in_order(several, compute.blocks(len(ranges), _PARTS))
