"""A map of many cells from few landmarks: the walk between patches of cells is solved and carried over to all cells.

    patches   every (size / landmarks)-th cell by locality is a landmark; a cell joins the one that reaches it first
    lumped    V(cell, patch) = root(cell) / root(patch) within a patch, 0 elsewhere, has orthonormal columns;
              V^T A V is the conjugate of the walk between patches, a sparse graph again
    levels    cells that hold much of the slow modes, those of small populations, get patches of their own: once more
    refined   V times the leading eigenvectors, smoothed by a Chebyshev polynomial of A that damps whatever patches are
              too coarse for; then the Ritz pairs of A in what these vectors span

A is read some forty times, where an exact solve reads it hundreds of times; nothing (cell, landmark) is held. Ritz
values are never larger than the eigenvalues they stand for.
Sources: Lafon and Lee, Diffusion maps and coarse-graining (2006); Zhou, Saad, Tiago and Chelikowsky, Self-consistent-
field calculations using Chebyshev-filtered subspace iteration (2006).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph

from heatwalk import compute, krylov
from heatwalk.chebyshev import damped, damping
from heatwalk.conjugate import Component
from heatwalk.krylov import Operator, Pairs
from heatwalk.progress import log, track

EXTRA = 16  # modes beside those wanted: they take the errors that are damped least
_TESTS = 8  # random vectors that look for what patches lose
_BULK = 4.0  # times the mean that a cell may hold of the slow modes without being set apart
_LEVEL = 8.0  # factor from level to level
_AMPLIFIED = 100.0  # at eigenvalue 1, what is damped being at most 1
_ROWS = 2**13  # rows of vectors combined at a time
_SAMPLE_CELLS = 20_000  # cells that the exact map is computed of, to measure the error
_SAMPLE_PAIRS = 20_000  # pairs of them whose distances are compared
_SAME = 1e-9  # of the largest distance: less is no distance
_BETWEEN = 256  # entries of the walk between patches for every landmark: about twice what was measured
_ENTRY = 36  # bytes of an entry while they are summed


class Walk(NamedTuple):
    component: Component  # of the conjugate
    root: np.ndarray  # (patch,) sqrt of the degrees


def bytes_lumped(n_landmarks: int, n_modes: int) -> int:
    """Bytes of the walk between patches and of its solve."""
    return n_landmarks * (_ENTRY * _BETWEEN + 8 * krylov.width(n_modes + EXTRA))


def patches(component: Component, n_landmarks: int, level: np.ndarray, workers: compute.Workers) -> np.ndarray:
    """The patch of every cell, (cell,) int32.

    All cells that an edge leads to from a patch join it at once, each by its largest entry of A (ties: the smallest
    patch), until none is left. level: (cell,) small integers; cells of different levels share no patch, and
    each level has so many landmarks, or as many as cells. What no edge leads to begins patches of its own.
    """
    patch, n_patches = np.full(component.size, -1, np.int32), 0
    for each in np.unique(level):
        cells = np.flatnonzero(level == each)
        n_begun = min(n_landmarks, len(cells))
        patch[cells[np.arange(n_begun) * len(cells) // n_begun]] = n_patches + np.arange(n_begun)
        n_patches += n_begun
    ranges = component.blocks()
    while (patch < 0).any():
        known = patch

        def reached(rows: slice, patch=known) -> np.ndarray:
            return _reached(component, level, patch, rows) if (patch[rows] < 0).any() else patch[rows]

        patch = np.concatenate(list(workers.in_order(reached, ranges)))
        left = patch < 0
        if np.array_equal(left, known < 0):
            begins = np.flatnonzero(left & ~np.concatenate([[False], left[:-1]]))
            patch[begins] = n_patches + np.arange(len(begins))
            n_patches += len(begins)
    return patch


def _reached(component: Component, level: np.ndarray, patch: np.ndarray, rows: slice) -> np.ndarray:
    """The patches of some rows after one step more."""
    matrix, found = component.rows(rows), patch[rows].copy()
    lengths, first = np.diff(matrix.indptr), matrix.indptr[:-1]
    beside = np.take(patch, matrix.indices)
    usable = (beside >= 0) & (np.take(level, matrix.indices) == np.repeat(level[rows], lengths))
    weight = np.where(usable, matrix.data, 0)
    heaviest = np.maximum.reduceat(weight, first)
    joined = np.where(weight == np.repeat(heaviest, lengths), beside, np.iinfo(np.int32).max)
    joined = np.minimum.reduceat(joined, first)
    return np.where((found < 0) & (heaviest > 0), joined, found)


def levels(operator: Operator, cut: float, generator) -> tuple[np.ndarray, int]:
    """How much of the modes above the cut each cell holds, (cell,) int8: 0 for up to four times the mean, one more for
    every factor of eight. And the products that it took.

    A mode that lives on fewer cells than a patch has is lost in patches, unless these cells have their own. With the
    polynomial p of `refined` and Gaussian vectors g, the mean of (p(A) g)(i)^2 is the sum of p(lambda)^2 phi(i)^2 over
    all modes: about 1 / n for each mode of n cells. Source: the test vectors of Brezina et al., Adaptive smoothed
    aggregation (2005).
    """
    by = damping(cut, _AMPLIFIED)
    log.info("diffusion_map: smoothing in %d steps", by.degree)
    vectors, _ = damped(operator.product, generator.standard_normal((operator.size, _TESTS)), by)
    share = np.einsum("ij,ij->i", vectors, vectors)
    times = np.maximum(share / (_BULK * share.mean()), 1)
    level = np.ceil(np.log(times) / np.log(_LEVEL)).astype(np.int8)
    log.info("diffusion_map: %d cells hold much of the slow modes", np.count_nonzero(level))
    return level, by.degree * _TESTS


def lumped(component: Component, root: np.ndarray, patch: np.ndarray, workers: compute.Workers) -> Walk:
    """The walk between patches: sums of W and of the degrees."""
    n_patches, ranges = int(patch.max()) + 1, component.blocks()
    shape = (n_patches, n_patches)

    def summed(rows: slice) -> scipy.sparse.csr_array:
        matrix = component.rows(rows)
        lengths = np.diff(matrix.indptr)
        weight = matrix.data * np.take(root, matrix.indices) * np.repeat(root[rows], lengths)
        places = np.repeat(patch[rows], lengths), np.take(patch, matrix.indices)
        return scipy.sparse.coo_array((weight, places), shape=shape).tocsr()

    total, waiting = scipy.sparse.csr_array(shape), []
    for part in track(workers.in_order(summed, ranges), "diffusion_map: landmarks", len(ranges)):
        waiting.append(part)
        # Added when they are as much as the sum, so that it is not copied for every part.
        if sum(each.nnz for each in waiting) >= total.nnz:
            total, waiting = sum(waiting, start=total), []
    total = sum(waiting, start=total)
    return _walk(scipy.sparse.csr_array(total + total.T) / 2)  # which rounding had made a little asymmetric


def carried(phi: np.ndarray, coarse: np.ndarray, patch: np.ndarray, root: np.ndarray) -> np.ndarray:
    """V times eigenvectors of the walk between patches, (cell, mode)."""
    return np.take(phi / coarse[:, None], patch, axis=0) * root[:, None]


def refined(operator: Operator, start: np.ndarray, trivial: np.ndarray, n_modes: int, cut: float) -> Pairs:
    """The `n_modes` largest Ritz pairs of A in p(A) times `start`, which is overwritten; the trivial pair left out.

    p is the Chebyshev polynomial that is at most 1 on [-1, cut] and 100 at 1. Every combination of the columns of the
    start has a Rayleigh quotient of `cut` or more, so none is damped to nothing.
    """
    by = damping(cut, _AMPLIFIED)
    log.info("diffusion_map: smoothing in %d steps", by.degree)
    block, image = damped(operator.product, start, by)
    inner = _summed(operator, lambda rows: trivial[None, rows] @ block[rows])

    def project(rows: slice) -> np.ndarray:
        block[rows] -= trivial[rows, None] * inner  # rounding brings it back
        return block[rows].T @ block[rows]

    gram = _summed(operator, project)
    operator.product(block, image.__setitem__)
    between = _summed(operator, lambda rows: block[rows].T @ image[rows])
    scale = 1 / np.sqrt(np.diag(gram))
    both = np.outer(scale, scale)
    values, rotation = scipy.linalg.eigh((between + between.T) / 2 * both, gram * both)
    values, rotation = values[::-1][:n_modes], scale[:, None] * rotation[:, ::-1][:, :n_modes]

    def turn(rows: slice) -> np.ndarray:
        block[rows, :n_modes] = block[rows] @ rotation
        error = image[rows] @ rotation - block[rows, :n_modes] * values
        return np.einsum("ij,ij->j", error, error)

    residuals = np.sqrt(_summed(operator, turn))
    log.info("diffusion_map: smoothed, residual %.1e", residuals.max())
    return Pairs(values, block[:, :n_modes], residuals, (by.degree + 1) * start.shape[1])


def sample(component: Component, root: np.ndarray, generator) -> Walk:
    """The walk on up to 20,000 cells that follow each other by locality: on the largest part that is connected."""
    size = min(_SAMPLE_CELLS, component.size)
    first = int(generator.integers(component.size - size + 1))
    cells = slice(first, first + size)
    weights = component.rows(cells)[:, cells].tocsr()
    weights.data *= np.repeat(root[cells], np.diff(weights.indptr)) * np.take(root[cells], weights.indices)
    weights.eliminate_zeros()
    _, labels = scipy.sparse.csgraph.connected_components(weights, directed=False)
    largest = np.flatnonzero(labels == np.bincount(labels).argmax())
    return _walk(weights[largest][:, largest])


def difference(exact: Pairs, close: Pairs, root: np.ndarray, n_modes: int, generator) -> float:
    """Mean relative error of the diffusion distances (t = 1, first modes) of random pairs of cells."""
    ends = generator.integers(len(root), size=(2, _SAMPLE_PAIRS))
    distances = []
    for pairs in (exact, close):
        points = pairs.vectors[:, :n_modes] * pairs.values[:n_modes] / root[:, None]
        distances.append(np.linalg.norm(points[ends[0]] - points[ends[1]], axis=1))
    apart = distances[0] > _SAME * distances[0].max()
    return float(np.mean(np.abs(distances[1] - distances[0])[apart] / distances[0][apart]))


def _walk(weights: scipy.sparse.csr_array) -> Walk:
    """The conjugate of a matrix of weights in memory, and the roots of its row sums."""
    root = np.sqrt(weights.sum(axis=1))
    values = weights.data / (np.repeat(root, np.diff(weights.indptr)) * np.take(root, weights.indices))
    return Walk(Component(weights.indptr.astype(np.int64), weights.indices.astype(np.int32), values), root)


def _summed(operator: Operator, function: Callable):
    return sum(operator.workers.in_order(function, compute.blocks(operator.size, _ROWS)))
