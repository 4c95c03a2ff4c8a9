"""Largest eigenpairs of a symmetric matrix that may be too large for memory: block Krylov-Schur with thick restarts.

    space   [ Ritz vectors kept | block | block | ... ]      orthonormal; each block is p(A) times the last, made so
    full?   Ritz pairs of the space; the first half of them is kept, and the last block goes on

p(A) is A in the first space; what that shows of the spectrum then gives a Chebyshev polynomial (`heatwalk.chebyshev`)
that damps all but the eigenvalues looked for, and a space of the same vectors reaches as many times farther as p has
degrees. The eigenvectors are those of A, and so are the eigenvalues and residuals at the end.

A is read once for every degree and block of four vectors. Reorthogonalisation is full and done twice. A block also
finds as many copies of a repeated eigenvalue as it has columns.
Sources: Stewart, A Krylov-Schur algorithm for large eigenproblems (2001); Zhou and Saad, Block Krylov-Schur method for
large symmetric eigenvalue problems (2008); Li, Xi, Vecharynski, Yang and Saad, A thick-restart Lanczos algorithm with
polynomial filtering (2016).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.chebyshev import Damping, damped, damping
from heatwalk.conjugate import COLUMNS as BLOCK
from heatwalk.progress import log, track

_LOOK_STEPS = 6  # of a new block, that looks for what was missed
_NEW = 1e-8  # more than the eigenvalue that was known
_PRODUCTS = 1000  # the most, for every pair wanted
_LITTLE = 1e-3  # square of a norm that has cost digits of a column
_NOTHING = 1e-13  # norm that is all rounding
_PASSES = 6
_ROWS = 2**11  # entries of vectors combined at a time: they stay in the cache
_PARTS = 8  # of these a task
_WIDER = 2.0  # times the gap between 1 and the last eigenvalue wanted: where damping begins
_FARTHER = 8.0  # times nearer to 1 than what the space cannot hold, it need not begin
_WIDE = 14.0  # times where it would begin is too far away: new spaces cost more than wide damping
_GROWN = 10.0  # times what is damped, eigenvalue 1


class Pairs(NamedTuple):
    values: np.ndarray  # (mode,) descending
    vectors: np.ndarray  # (row, mode)
    residuals: np.ndarray  # (mode,) |A v - lambda v|
    products: int  # of A with one vector


class Operator(NamedTuple):
    """A symmetric matrix by its products with blocks of vectors, (row, column)."""

    product: Callable  # of a block; with a function `take`, that is called with a range of rows and what they are
    size: int
    workers: compute.Workers  # threads that combine vectors


class _State(NamedTuple):
    space: np.ndarray  # (vector, row), each vector in one piece; the first is the trivial one
    reduced: np.ndarray  # p(A) between the vectors multiplied so far; the block stands after them in the space
    block: np.ndarray  # (row, BLOCK) what goes on
    coupling: np.ndarray  # (BLOCK, BLOCK) p(A) times the last vectors, along the block


def width(n_modes: int) -> int:
    """Vectors that are held at once, for `n_modes` pairs."""
    return _columns(n_modes) + 3 * BLOCK


def largest(operator: Operator, trivial: np.ndarray, n_modes: int, tolerance: float, generator) -> Pairs:
    """The `n_modes` largest eigenpairs of A beside its unit eigenvector `trivial`, of eigenvalue 1.

    All eigenvalues lie between -1 and 1. Iterates until |A v - lambda v| <= tolerance for every pair, or 1000 products
    with a vector were made for each. Then a random block without any part in what was found is taken a few steps
    further: a Krylov space need not hold every copy of a repeated eigenvalue, and what was missed shows in the new one.
    """
    columns, most, products, by, known = _columns(n_modes), _PRODUCTS * n_modes, 0, None, None
    space = np.empty((columns + BLOCK, operator.size))
    space[0] = trivial
    state = _State(space, np.ones((1, 1)), _started(operator, space, 1, generator), np.zeros((BLOCK, BLOCK)))
    while True:
        looking = known is not None
        last = min(columns, len(state.reduced) + _LOOK_STEPS * BLOCK) if looking else columns
        steps = (last - len(state.reduced)) // BLOCK
        for _ in track(range(steps), "diffusion_map: products", steps):
            state, products = _expanded(operator, state, by, generator), products + BLOCK * (by.degree if by else 1)
            if by and not looking and _ends(state, by, n_modes, tolerance if products <= most else np.inf):
                break  # before the space is full, as a step costs many products
        values, rotation, residuals = _ritz(state, by, n_modes)
        done = int((residuals <= tolerance).sum())
        log.info("diffusion_map: %d products, %d of %d pairs, residual %.1e", products, done, n_modes, residuals.max())
        found = _eigenvalues(by, values)
        if looking and (found[1 : n_modes + 1] <= known + _NEW).all():
            break  # nothing new: what was found before stands where it stood
        kept = n_modes + 1 if done == n_modes else min(len(rotation), (columns + n_modes) // 2)
        _rotate(operator, space, rotation[:, :kept])
        if products > most:
            if done == n_modes:
                log.warning("diffusion_map: converged in the last of %d products, none left to look further", products)
            break
        better = _better(by, found, residuals.max() if done < n_modes else np.inf, n_modes)
        known = found[1 : n_modes + 1] if done == n_modes else None
        if done == n_modes:
            kept_values = better.values(found[:kept]) if better else found[:kept]
            state = state._replace(reduced=np.diag(kept_values), block=_started(operator, space, kept, generator))
        elif better != by:
            state = state._replace(reduced=np.ones((1, 1)), block=_mixed(operator, space, kept, generator))
        else:
            space[kept : kept + BLOCK] = space[len(rotation) : len(rotation) + BLOCK]
            state = state._replace(reduced=np.diag(values[:kept]))
        by = better
    del state  # its block would be held beside those of the residuals
    vectors = space[1 : n_modes + 1]
    values, residuals = _of_vectors(operator, vectors)
    order = np.argsort(-values, kind="stable")
    if (order != np.arange(n_modes)).any():  # equal but for rounding, or far from converged
        _rotate(operator, vectors, np.eye(n_modes)[:, order])
    return Pairs(values[order], vectors.T, residuals[order], products + n_modes)


def _columns(n_modes: int) -> int:
    return 1 + BLOCK * (-(-(2 * n_modes + 32) // BLOCK))


def _eigenvalues(by: Damping | None, values: np.ndarray) -> np.ndarray:
    """Eigenvalues of A from those of p(A): lower bounds where they are Ritz values."""
    return by.eigenvalues(values) if by else values


def _ends(state: _State, by: Damping, n_modes: int, tolerance: float) -> bool:
    """Whether all pairs have converged, or show that another polynomial would be better."""
    if len(state.reduced) <= n_modes:
        return False
    values, _, residuals = _ritz(state, by, n_modes)
    return bool((residuals <= tolerance).all()) or _better(by, by.eigenvalues(values), np.inf, n_modes) != by


def _better(by: Damping | None, found: np.ndarray, residual: float, n_modes: int) -> Damping | None:
    """What damps better for pairs down to the last one wanted, or the same where that would be little better.

    found: eigenvalues, descending from the trivial one. Damping begins farther from 1 than the last one wanted,
    and not much nearer than what the space cannot hold: where that is far away, nothing else has to be damped.
    """
    gap = 1 - found[n_modes]
    held = 1 - found[min(len(found), _columns(n_modes) // 2 + n_modes // 2) - 1]
    begins = max(_WIDER * gap, held / _FARTHER)
    stays = 1 - by.cut < _WIDE * begins if by else residual < gap / 10  # all but found
    return by if stays or begins > 1 else damping(1 - begins, _GROWN)


def _mixed(operator: Operator, space: np.ndarray, known: int, generator) -> np.ndarray:
    """A block of random combinations of the known vectors of a space, to begin again; it is put after the first."""
    block, weights = np.empty((operator.size, BLOCK)), generator.standard_normal((known - 1, BLOCK))

    def mix(rows: slice) -> int:
        block[rows] = space[1:known, rows].T @ weights
        return 0

    sum(_by_parts(operator, mix))
    _orthonormal(operator, space, 1, block)
    return block


def _expanded(operator: Operator, state: _State, by: Damping | None, generator) -> _State:
    """p(A) times the block, made orthonormal to it and to the space: the next block."""
    known = len(state.reduced)
    joined = state.space[: known + BLOCK]
    image = damped(operator.product, state.block, by)[0] if by else operator.product(state.block)
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


def _ritz(state: _State, by: Damping | None, n_modes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ritz values and rotation, the trivial pair first and then descending; residuals of the first, it left out."""
    values, rotation = np.linalg.eigh(state.reduced[1:, 1:])
    whole = np.eye(len(state.reduced))
    whole[1:, 1:] = rotation[:, ::-1]
    residuals = np.linalg.norm(state.coupling @ whole[-BLOCK:, 1 : n_modes + 1], axis=0)
    values = np.concatenate([[1.0], values[::-1]])
    return values, whole, by.residuals(residuals, values[1 : n_modes + 1]) if by else residuals


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


def _of_vectors(operator: Operator, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rayleigh quotients of unit vectors, and residuals."""
    values, squares = [], []
    for part in compute.blocks(len(vectors), BLOCK):
        block = np.array(vectors[part].T, order="C")
        error = operator.product(block)
        values.append(np.einsum("ij,ij->j", block, error))
        block *= values[-1]
        error -= block
        squares.append(np.einsum("ij,ij->j", error, error))
        del block, error  # the next ones would be made beside them
    return np.concatenate(values), np.sqrt(np.concatenate(squares))


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
