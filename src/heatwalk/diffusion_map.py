"""diffusion_map: eigenvalues and right eigenvectors of the random walk on the affinity graph."""

from collections.abc import MutableMapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from heatwalk import arrays, compute
from heatwalk.errors import BadInput, Problem
from heatwalk.progress import log

_DENSE_UP_TO = 500  # cells of a component; a dense solve of that size is exact and immediate
_TRIVIAL_SHIFT = 3.0  # takes the trivial eigenvalue from 1 to -2, below all others: it cannot mix with a null space
_CHECK_STEPS = 60  # Lanczos steps that look for a missed copy of a repeated eigenvalue
_AUTO_COMPUTED = 50  # eigenvalues that `n_components: auto` looks at
NONE, DENSE, LANCZOS, LOBPCG = range(4)


class DiffusionMap(NamedTuple):
    eigenvalues: Any  # (mode,) or (component, mode)
    eigenvectors: Any  # (cell, mode)
    residuals: Any  # as the eigenvalues
    converged: Any  # as the eigenvalues, bool
    spectrum: Any  # (computed,) or (component, computed)
    solver: Any  # (component,) uint8


def diffusion_map(
    affinity,
    *,
    n_components: int | str = 15,
    tolerance: float = 1e-10,
    seed: int = 0,
    out: MutableMapping | None = None,
) -> DiffusionMap:
    """Leading non-trivial eigenpairs P psi = lambda psi of the Markov matrix P = weights / degrees.

    The symmetric conjugate A = D^-1/2 W D^-1/2 is solved for its largest eigenvalues with the trivial pair
    (1, sqrt(pi)) projected out; psi = phi / sqrt(pi), so that sum_i pi_i psi_k(i)^2 = 1 and the trivial psi is 1.
    The entry of largest magnitude of every psi is positive. residuals: |A phi - lambda phi|, which is the norm of
    P psi - lambda psi weighted by pi; a pair has converged when that is at most `tolerance`.
    n_components: a number, or "auto": the split of the first 50 eigenvalues with the largest profile likelihood
    (Zhu and Ghodsi 2006), at least 1. Every connected component is mapped on its own, with pi normalised within it:
    then eigenvalues are (component, mode), and modes that a component is too small for are NaN.
    Raises BadInput when n_components is not between 1 and the number of cells less one.
    Source: Coifman and Lafon, Diffusion maps (2006).
    """
    out = {} if out is None else out
    components = np.asarray(affinity.components[:])
    n_cells, sizes = len(components), np.bincount(components)
    _check(n_components, n_cells)
    # One more than asked for, so that the gap after the last is known.
    n_computed = min(_AUTO_COMPUTED if n_components == "auto" else n_components + 1, n_cells - 1)
    order = np.argsort(components, kind="stable")  # cells of a component stand together
    matrix, root = _conjugate(affinity, order)
    shape = (len(sizes), n_computed)
    values, residuals, converged = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
    vectors, solver = np.full((n_cells, n_computed), np.nan), np.zeros(len(sizes), np.uint8)
    start = 0
    with compute.one_blas_thread():
        for label, size in enumerate(sizes):
            rows, start = slice(start, start + size), start + size
            n_modes = min(n_computed, size - 1)
            if n_modes < 1:
                continue
            block, trivial = _diagonal_block(matrix, rows), root[rows] / np.linalg.norm(root[rows])
            pairs = _solve(block, trivial, n_modes, tolerance, np.random.default_rng([seed, label]))
            values[label, :n_modes], phi, solver[label] = pairs
            residual = np.linalg.norm(block @ phi - phi * pairs[0], axis=0)
            residuals[label, :n_modes], converged[label, :n_modes] = residual, residual <= tolerance
            vectors[order[rows], :n_modes] = _oriented(phi / trivial[:, None])
    n_modes = max(1, profile_likelihood(values[0])[0]) if n_components == "auto" else n_components
    _report(values, converged, n_modes)
    squeeze = 0 if len(sizes) == 1 else slice(None)
    results = {
        "eigenvalues": values[squeeze, ..., :n_modes],
        "eigenvectors": vectors[:, :n_modes],
        "residuals": residuals[squeeze, ..., :n_modes],
        "converged": converged[squeeze, ..., :n_modes],
        "spectrum": values[squeeze],
        "solver": solver,
    }
    for name, result in results.items():
        arrays.make(out, name, result.shape, result.dtype)[:] = result
    return DiffusionMap(*(out[name] for name in results))


def coordinates(eigenvalues, eigenvectors, components, *, t: float = 1.0) -> np.ndarray:
    """Diffusion coordinates lambda^t psi, (cell, mode): Euclidean distances are diffusion distances at time t.

    A negative eigenvalue has no real power at a t that is no whole number: BadInput.
    """
    eigenvalues = np.asarray(eigenvalues[:])
    if t != int(t) and (eigenvalues < 0).any():
        cause = f"t is {t} and the smallest eigenvalue is {np.nanmin(eigenvalues):.3g}, which has no such power"
        raise BadInput(Problem("HW-DM-002", "t", cause, "set t to a whole number, or ask for fewer components"))
    powers = eigenvalues**t
    scale = powers if eigenvalues.ndim == 1 else powers[np.asarray(components[:])]
    return np.asarray(eigenvectors[:]) * scale


def profile_likelihood(eigenvalues: np.ndarray) -> tuple[int, np.ndarray]:
    """Where a descending spectrum splits into large and small: the number of large ones, and the evidence.

    evidence[q - 1] is the log likelihood of two Gaussians with one pooled variance, for the first q eigenvalues and the
    rest; its maximum is the split. Source: Zhu and Ghodsi, Comput. Stat. Data Anal. 51 (2006).
    """
    eigenvalues = eigenvalues[np.isfinite(eigenvalues)]
    n_values = len(eigenvalues)
    if n_values < 3:
        return n_values, np.zeros(n_values)
    evidence = np.empty(n_values - 1)
    for split in range(1, n_values):
        parts = eigenvalues[:split], eigenvalues[split:]
        squares = sum(((part - part.mean()) ** 2).sum() for part in parts)
        variance = max(squares / (n_values - 2), np.finfo(float).tiny)
        evidence[split - 1] = -n_values / 2 * np.log(2 * np.pi * variance) - squares / (2 * variance)
    return int(np.argmax(evidence)) + 1, evidence


def _check(n_components: int | str, n_cells: int) -> None:
    if n_components != "auto" and not (isinstance(n_components, Integral) and 1 <= n_components < n_cells):
        cause = f"{n_components!r} is not between 1 and {n_cells - 1}, the most that {n_cells} cells have"
        raise BadInput(
            Problem("HW-DM-001", "n_components", cause, f"set n_components to auto or at most {n_cells - 1}")
        )


def _conjugate(affinity, order: np.ndarray) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """A = D^-1/2 W D^-1/2 with cells in the given order, and sqrt(degrees) in that order."""
    indptr, indices = np.asarray(affinity.indptr[:]), np.asarray(affinity.indices[:])
    weights, root = np.array(affinity.weights[:], np.float64), np.sqrt(np.asarray(affinity.degrees[:]))
    weights /= np.repeat(root, np.diff(indptr)) * root[indices]
    matrix = scipy.sparse.csr_array((weights, indices, indptr), shape=(len(root), len(root)))
    if not (order[:-1] <= order[1:]).all():
        matrix = matrix[order][:, order]
    return matrix, root[order]


def _diagonal_block(matrix: scipy.sparse.csr_array, rows: slice) -> scipy.sparse.csr_array:
    """The square block of consecutive rows that have no entry outside of it."""
    if rows == slice(0, matrix.shape[0]):
        return matrix
    size, edges = rows.stop - rows.start, slice(matrix.indptr[rows.start], matrix.indptr[rows.stop])
    pointers = matrix.indptr[rows.start : rows.stop + 1] - matrix.indptr[rows.start]
    inside = (matrix.indices[edges] >= rows.start) & (matrix.indices[edges] < rows.stop)
    if not inside.all():  # entries of weight 0, which underflowed, lead out of a component
        return matrix[rows][:, rows]
    return scipy.sparse.csr_array(
        (matrix.data[edges], matrix.indices[edges] - rows.start, pointers), shape=(size, size)
    )


def _solve(
    matrix, trivial: np.ndarray, n_modes: int, tolerance: float, generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Largest eigenpairs of A without the trivial one, descending, and what solved them."""
    size = matrix.shape[0]
    if size <= max(_DENSE_UP_TO, 2 * n_modes + 2):
        dense = matrix.toarray() - _TRIVIAL_SHIFT * np.outer(trivial, trivial)
        values, vectors = np.linalg.eigh((dense + dense.T) / 2)
        return values[::-1][:n_modes], vectors[:, ::-1][:, :n_modes], DENSE

    def deflated(vectors: np.ndarray) -> np.ndarray:
        vectors = vectors.reshape(size, -1)
        return matrix @ vectors - _TRIVIAL_SHIFT * np.outer(trivial, trivial @ vectors)

    operator = scipy.sparse.linalg.LinearOperator(matrix.shape, matvec=deflated, matmat=deflated, dtype=np.float64)
    start = generator.standard_normal(size)
    try:
        options = {"k": n_modes, "which": "LA", "v0": start, "ncv": min(size - 1, max(2 * n_modes + 10, 40))}
        values, vectors = scipy.sparse.linalg.eigsh(
            operator, tol=tolerance * 1e-3, maxiter=100 * n_modes + 1000, **options
        )
        failure = "it missed a copy of a repeated eigenvalue" if _missed(operator, values, vectors, generator) else ""
    except scipy.sparse.linalg.ArpackError as error:
        failure = str(error)
    solver = LOBPCG if failure else LANCZOS
    if failure:
        log.warning("diffusion_map: Lanczos failed (%s), trying LOBPCG", failure)
        values, vectors = _lobpcg(operator, trivial, n_modes, tolerance, generator)
    best = np.argsort(-values, kind="stable")
    return values[best], vectors[:, best], solver


def _missed(operator, values: np.ndarray, vectors: np.ndarray, generator) -> bool:
    """Whether a larger eigenvalue is left beside those found: one Krylov space need not hold all copies of one.

    With what was found moved down to -1, the largest Ritz value of a few Lanczos steps is a lower bound of the largest
    eigenvalue that is left.
    """
    vector, before, off = generator.standard_normal(len(vectors)), 0.0, 0.0
    vector /= np.linalg.norm(vector)
    diagonal, beside = [], []
    for _ in range(min(_CHECK_STEPS, len(vectors))):
        image = operator.matvec(vector) - vectors @ ((values + 1) * (vectors.T @ vector)) - off * before
        diagonal.append(vector @ image)
        image -= diagonal[-1] * vector
        off = np.linalg.norm(image)
        if off < 1e-12:
            break
        beside.append(off)
        before, vector = vector, image / off
    ritz = scipy.linalg.eigvalsh_tridiagonal(np.array(diagonal), np.array(beside[: len(diagonal) - 1]))
    return bool(ritz[-1] > values.min() + 1e-8)


def _lobpcg(operator, trivial: np.ndarray, n_modes: int, tolerance: float, generator) -> tuple[np.ndarray, np.ndarray]:
    """The second solver, on a few guard vectors more than asked for."""
    import warnings

    start = generator.standard_normal((len(trivial), n_modes + 5))
    with warnings.catch_warnings():
        # It warns when it stops early; the residuals that are computed afterwards say the same, pair by pair.
        warnings.simplefilter("ignore", UserWarning)
        values, vectors = scipy.sparse.linalg.lobpcg(
            operator, start, Y=trivial[:, None], largest=True, tol=tolerance / 10, maxiter=2000
        )
    best = np.argsort(-values, kind="stable")[:n_modes]
    return values[best], vectors[:, best]


def _oriented(vectors: np.ndarray) -> np.ndarray:
    """Signs such that the entry of largest magnitude is positive; among equals the first."""
    magnitude = np.abs(vectors)
    first = np.argmax(magnitude >= magnitude.max(axis=0) * (1 - 1e-6), axis=0)
    signs = np.sign(vectors[first, np.arange(vectors.shape[1])])
    return vectors * np.where(signs == 0, 1, signs)


def _report(values: np.ndarray, converged: np.ndarray, n_modes: int) -> None:
    kept = np.isfinite(values[:, :n_modes])
    missed = int((kept & ~converged[:, :n_modes]).sum())
    if missed:
        log.warning("diffusion_map: %d of %d pairs have not converged; see the residuals", missed, int(kept.sum()))
    if len(values) > 1:
        log.warning("diffusion_map: the graph has %d components, each is mapped on its own", len(values))
