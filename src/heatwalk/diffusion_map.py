"""diffusion_map: eigenvalues and right eigenvectors of the random walk on the affinity graph."""

from collections.abc import Callable, MutableMapping
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute, krylov
from heatwalk.conjugate import COMPILED_FROM, Component, Conjugate, conjugate, filling_bytes
from heatwalk.errors import BadInput, OutOfResources, Problem
from heatwalk.krylov import Operator
from heatwalk.landmarks import EXTRA, bytes_lumped, carried, difference, levels, lumped, patches, refined, sample
from heatwalk.progress import log
from heatwalk.scratch import remove

_DENSE_UP_TO = 500  # cells of a component; a dense solve of that size is exact and immediate
_DENSE_INSTEAD_UP_TO = 4000  # where the solver ends before it has converged: walks all but stuck in small places
_DENSE_ROWS = 256  # of the dense array changed at a time
_TRIVIAL_SHIFT = 3.0  # takes the trivial eigenvalue from 1 to -2, below all others: it cannot mix with a null space
_AUTO_COMPUTED = 50  # eigenvalues that `n_components: auto` looks at
_SMALLEST_RESIDUAL = 1e-14  # what rounding leaves
_ROOM = 2 * 10**8  # bytes of a process that has read nothing, and of the blocks on their way
_COMPILER = 8 * 10**7  # bytes of what compiles the product
_SENT_FROM = 100_000  # cells of a component whose products are computed by other processes, if there are any
_FEWEST_EDGES = 2**22  # entries of the matrix gathered at a time, at the least
_BETWEEN_TOLERANCE = 1e-4  # of the walk between patches, which is an approximation anyway
_SAMPLE_PATCH = 4  # cells for every landmark at the least, where the error is measured
NONE, DENSE, KRYLOV, LANDMARKS = range(4)


class DiffusionMap(NamedTuple):
    eigenvalues: Any  # (mode,) or (component, mode)
    eigenvectors: Any  # (cell, mode)
    residuals: Any  # as the eigenvalues
    converged: Any  # as the eigenvalues, bool
    spectrum: Any  # (computed,) or (component, computed)
    solver: Any  # (component,) uint8
    products: Any  # (component,) int64
    landmark_error: Any  # scalar


def diffusion_map(
    affinity,
    *,
    n_components: int | str = 15,
    tolerance: float = 1e-10,
    landmarks: int = 0,
    seed: int = 0,
    memory: int | None = None,
    threads: int | None = None,
    scheduler: str = "threads",
    block_cells: int = compute.BLOCK_CELLS,
    scratch: Path | None = None,
    out: MutableMapping | None = None,
) -> DiffusionMap:
    """Leading non-trivial eigenpairs P psi = lambda psi of the Markov matrix P = weights / degrees.

    The symmetric conjugate A = D^-1/2 W D^-1/2 is solved for its largest eigenvalues with the trivial pair
    (1, sqrt(pi)) projected out; psi = phi / sqrt(pi), so that sum_i pi_i psi_k(i)^2 = 1 and the trivial psi is 1.
    The entry of largest magnitude of every psi is positive. residuals: |A phi - lambda phi|, which is the norm of
    P psi - lambda psi weighted by pi; a pair has converged when that is at most `tolerance` (the solver goes on to a
    hundredth of it). products: how often A was multiplied with a vector.
    n_components: a number, or "auto": the split of the first 50 eigenvalues with the largest profile likelihood
    (Zhu and Ghodsi 2006), at least 1. Every connected component is mapped on its own, with pi normalised within it:
    then eigenvalues are (component, mode), and modes that a component is too small for are NaN.
    landmarks: 0 for the exact map; otherwise every component of more cells is mapped by so many landmarks
    (`heatwalk.landmarks`), and landmark_error is the mean relative error of diffusion distances (t = 1) measured on up
    to 20,000 cells; NaN where none were used.
    memory: bytes; where the matrix does not fit beside the vectors, it is kept in files of the folder `scratch` and
    read in row blocks, with the same result to the last bit. Without it, everything is held.
    Raises BadInput when n_components is not between 1 and the number of cells less one, or landmarks are too few for
    them; OutOfResources when the vectors alone do not fit.
    Source: Coifman and Lafon, Diffusion maps (2006).
    """
    out = {} if out is None else out
    n_cells = affinity.components.shape[0]
    _check(n_components, landmarks, tolerance, n_cells)
    # One more than asked for, so that the gap after the last is known.
    n_computed = min(_AUTO_COMPUTED if n_components == "auto" else n_components + 1, n_cells - 1)
    limits = {"threads": threads or compute.available_threads(), "landmarks": landmarks}
    held, band_edges = _room(n_cells, affinity.indices.shape[0], n_computed, memory, scheduler, **limits)
    with compute.workers(scheduler, threads, scratch, files=not held) as workers:
        matrix = conjugate(affinity, held=held, band_edges=band_edges, workers=workers)
        options = {"landmarks": landmarks, "tolerance": tolerance, "workers": workers}
        found = _solved(matrix, n_computed, seed, **options)
        n_modes = max(1, profile_likelihood(found.values[0])[0]) if n_components == "auto" else n_components
        error = _landmark_error(matrix, n_computed, n_modes, seed, **options) if LANDMARKS in found.solver else np.nan
    remove(matrix.columns, matrix.values)
    return _written(out, found, matrix.place, n_modes, tolerance, error, block_cells)


class _Solved(NamedTuple):
    values: np.ndarray  # (component, computed)
    residuals: np.ndarray  # (component, computed)
    solver: np.ndarray  # (component,)
    products: np.ndarray  # (component,)
    vectors: np.ndarray  # (position, computed)


def _solved(matrix: Conjugate, n_computed: int, seed: int, **options) -> _Solved:
    """All pairs of every component."""
    n_labels = len(matrix.start) - 1
    values, vectors = np.full((n_labels, n_computed), np.nan), np.full((len(matrix.order), n_computed), np.nan)
    found = _Solved(values, values.copy(), np.zeros(n_labels, np.uint8), np.zeros(n_labels, np.int64), vectors)
    for label in range(n_labels):
        rows = slice(matrix.start[label], matrix.start[label + 1])
        n_modes = min(n_computed, rows.stop - rows.start - 1)
        if n_modes < 1:
            continue
        generator = np.random.default_rng([seed, label])
        pairs, solver = _solve(matrix.component(label), matrix.root[rows], n_modes, generator=generator, **options)
        found.values[label, :n_modes], found.residuals[label, :n_modes] = pairs.values, pairs.residuals
        found.solver[label], found.products[label] = solver, pairs.products
        _orient(pairs.vectors, matrix.root[rows], matrix.order[rows], found.vectors[rows])
        del pairs
    return found


def _written(out, found: _Solved, place: np.ndarray, n_modes: int, tolerance: float, error: float, block_cells: int):
    """The result, `n_modes` of the pairs computed."""
    converged = found.residuals <= tolerance
    _report(found, converged, n_modes, error)
    squeeze = 0 if len(found.values) == 1 else slice(None)
    results = {
        "eigenvalues": found.values[squeeze, ..., :n_modes],
        "residuals": found.residuals[squeeze, ..., :n_modes],
        "converged": converged[squeeze, ..., :n_modes],
        "spectrum": found.values[squeeze],
        "solver": found.solver,
        "products": found.products,
        "landmark_error": np.array(error),
    }
    for name, result in results.items():
        arrays.make(out, name, result.shape, result.dtype)[...] = result
    eigenvectors = arrays.make(out, "eigenvectors", (len(place), n_modes), np.float64)
    for rows in compute.blocks(len(place), block_cells):
        eigenvectors[rows] = np.take(found.vectors, place[rows], axis=0)[:, :n_modes]
    return DiffusionMap(*(out[name] for name in DiffusionMap._fields))


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


def _check(n_components: int | str, landmarks: int, tolerance: float, n_cells: int) -> None:
    if n_components != "auto" and not (isinstance(n_components, Integral) and 1 <= n_components < n_cells):
        cause = f"{n_components!r} is not between 1 and {n_cells - 1}, the most that {n_cells} cells have"
        remedy = f"set n_components to auto, or between 1 and {n_cells - 1}"
        raise BadInput(Problem("HW-DM-001", "n_components", cause, remedy))
    if not 0 < tolerance < 1:
        raise BadInput(Problem("HW-DM-004", "tolerance", f"{tolerance} is no bound", "set tolerance to about 1e-10"))
    fewest = (_AUTO_COMPUTED if n_components == "auto" else n_components + 1) + 1
    if not (isinstance(landmarks, Integral) and (landmarks == 0 or landmarks >= fewest)):
        cause = f"{landmarks!r} is neither 0 nor at least {fewest}, the fewest that n_components {n_components} needs"
        raise BadInput(Problem("HW-DM-003", "landmarks", cause, f"set landmarks to 0 or to {fewest} or more"))


def bytes_held(n_cells: int, n_edges: int, n_modes: int, landmarks: int = 0, threads: int = 1) -> int:
    """Bytes of a solve for `n_modes` pairs, or of what gathers the matrix before it, where that is more; A left out."""
    vectors = 8 * krylov.width(n_modes) * n_cells
    if 0 < landmarks < n_cells:
        vectors = max(16 * (n_modes + EXTRA) * n_cells, bytes_lumped(landmarks, n_modes))
    if n_cells <= _DENSE_INSTEAD_UP_TO:
        vectors += 8 * n_cells**2
    compiler = _COMPILER if n_edges >= COMPILED_FROM else 0
    solved = int(1.08 * (n_cells * (8 * (n_modes + 1) + 160) + vectors)) + compiler
    return max(solved, filling_bytes(n_cells, n_edges, threads)) + _ROOM


def band_bytes(n_edges: int) -> int:
    """Bytes of the part of the matrix that is held at a time, at the least."""
    return 12 * min(_FEWEST_EDGES, n_edges)


def _room(
    n_cells: int,
    n_edges: int,
    n_modes: int,
    memory: int | None,
    scheduler: str,
    *,
    landmarks: int = 0,
    threads: int = 1,
) -> tuple[bool, int]:
    """Whether the matrix is held in memory; and how many of its entries are gathered at a time."""
    vectors, entry = bytes_held(n_cells, n_edges, n_modes, landmarks, threads), 12
    if memory is None:
        return scheduler == "threads", n_edges
    fewest = vectors + band_bytes(n_edges)
    if fewest > memory:
        cause = f"vectors and a band of {n_cells} cells need {fewest / 1e9:.2f} GB, memory is {memory / 1e9:.2f} GB"
        remedy = f"set memory to {np.ceil(1.05 * fewest / 1e8) / 10 + 0.1:.1f}GB or more, or n_components to less"
        raise OutOfResources(Problem("HW-RS-004", "diffusion_map", cause, remedy))
    left = memory - vectors
    return scheduler == "threads" and entry * n_edges <= left, max(_FEWEST_EDGES, left // (2 * entry))


def _operator(component: Component, workers: compute.Workers) -> Operator:
    """A of one component as the solver takes it, row block by row block."""
    # A product of a few blocks takes less time than sending the vectors to somebody else.
    workers = workers if component.size > _SENT_FROM else workers.here
    ranges, local = component.blocks(), workers is workers.here

    def product(block: np.ndarray, take: Callable | None = None) -> np.ndarray | None:
        result = None if take else np.empty_like(block)
        take = take or result.__setitem__

        def multiplied(rows: slice) -> np.ndarray:
            return component.times(rows, block)

        def taken(rows: slice) -> None:
            take(rows, multiplied(rows))

        for rows, made in zip(ranges, workers.in_order(taken if local else multiplied, ranges), strict=True):
            if not local:
                take(rows, made)
        return result

    return Operator(product, component.size, workers.here)


def _solve(
    component: Component, root: np.ndarray, n_modes: int, *, landmarks: int = 0, tolerance: float, generator, workers
) -> tuple[krylov.Pairs, int]:
    """Largest eigenpairs of A without the trivial one, descending, and what solved them."""
    size, trivial = component.size, root / np.linalg.norm(root)
    if size <= max(_DENSE_UP_TO, 2 * krylov.width(n_modes)):
        return _dense(component, trivial, n_modes), DENSE
    if 0 < landmarks < size:
        return _by_landmarks(component, root, n_modes, landmarks, generator, workers), LANDMARKS
    accuracy = max(tolerance / 100, _SMALLEST_RESIDUAL)
    pairs = krylov.largest(_operator(component, workers), trivial, n_modes, accuracy, generator)
    if pairs.residuals.max() > tolerance and size <= _DENSE_INSTEAD_UP_TO:
        log.info("diffusion_map: %d products did not suffice, a dense solve takes seconds", pairs.products)
        return _dense(component, trivial, n_modes), DENSE
    return pairs, KRYLOV


def _dense(component: Component, trivial: np.ndarray, n_modes: int) -> krylov.Pairs:
    """Pairs by LAPACK, which works in the place of the one dense array: of 4,000 cells that is 128 MB."""
    import scipy.linalg

    matrix = component.rows(slice(0, component.size))
    dense = matrix.toarray()
    for rows in compute.blocks(component.size, _DENSE_ROWS):
        dense[rows] -= _TRIVIAL_SHIFT * np.outer(trivial[rows], trivial)
    last = component.size - 1
    # Symmetric to the last bit, so its transpose is the same in the order that LAPACK works in.
    how = {"subset_by_index": [last - n_modes + 1, last], "driver": "evr", "overwrite_a": True, "check_finite": False}
    values, vectors = scipy.linalg.eigh(dense.T, **how)
    values, vectors = values[::-1], vectors[:, ::-1]
    product = matrix @ vectors - _TRIVIAL_SHIFT * np.outer(trivial, trivial @ vectors)
    return krylov.Pairs(values, vectors, np.linalg.norm(product - vectors * values, axis=0), 0)


def _by_landmarks(
    component: Component, root: np.ndarray, n_modes: int, landmarks: int, generator, workers
) -> krylov.Pairs:
    """Ritz pairs of A from the walk between patches of cells."""
    operator, level = _operator(component, workers), np.zeros(component.size, np.int8)
    options = {"tolerance": _BETWEEN_TOLERANCE, "generator": generator, "workers": workers}
    for last in (False, True):
        patch = patches(component, landmarks, level, workers.here)
        between = lumped(component, root, patch, workers.here)
        few, _ = _solve(between.component, between.root, min(n_modes + EXTRA, len(between.root) - 1), **options)
        if not last:
            level, tested = levels(operator, few.values[-1], generator)
    log.info("diffusion_map: %d patches of %d cells", len(between.root), component.size)
    start = carried(few.vectors, between.root, patch, root)
    found = refined(operator, start, root / np.linalg.norm(root), n_modes, few.values[-1])
    return found._replace(products=found.products + tested)


def _landmark_error(
    matrix: Conjugate, n_computed: int, n_modes: int, seed: int, *, landmarks: int, tolerance: float, workers
) -> float:
    """How far the landmark map of a part of the largest component is from the exact map of that part."""
    generator, size = np.random.default_rng([seed, len(matrix.start)]), matrix.start[1]
    part = sample(matrix.component(0), matrix.root[:size], generator)
    n_cells = len(part.root)
    n_computed = min(n_computed, n_cells - 1)
    part_landmarks = landmarks if n_cells == size else max(min(landmarks, n_cells // _SAMPLE_PATCH), n_computed + 1)
    if part_landmarks >= n_cells:
        return np.nan
    first, second = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 0])  # as in the map itself
    exact, _ = _solve(*part, n_computed, tolerance=tolerance, generator=first, workers=workers)
    if exact.residuals.max() > tolerance:
        log.warning("diffusion_map: the error of landmarks is not known, the map of a part has not converged")
        return np.nan
    close = _by_landmarks(*part, n_computed, part_landmarks, second, workers)
    return difference(exact, close, part.root, min(n_modes, n_computed), generator)


def _orient(phi: np.ndarray, root: np.ndarray, cells: np.ndarray, into: np.ndarray) -> None:
    """Write psi from phi, the entry of largest magnitude positive, of equals that of the first cell."""
    scale = np.linalg.norm(root) / root
    for column in range(phi.shape[1]):
        psi = phi[:, column] * scale
        magnitude = np.abs(psi)
        largest = np.flatnonzero(magnitude >= magnitude.max() * (1 - 1e-6))
        first = largest[np.argmin(cells[largest])]
        into[:, column] = -psi if psi[first] < 0 else psi


def _report(found: _Solved, converged: np.ndarray, n_modes: int, error: float) -> None:
    kept, exact = np.isfinite(found.values[:, :n_modes]), (found.solver != LANDMARKS)[:, None]
    missed = int((kept & exact & ~converged[:, :n_modes]).sum())
    if missed:
        log.warning("diffusion_map: %d of %d pairs have not converged; see the residuals", missed, int(kept.sum()))
    if not exact.all():
        text = "diffusion_map: landmarks stand for %d of %d components: residuals up to %.1e, distances off by %.2g %%"
        worst = np.nanmax(np.where(exact, np.nan, found.residuals)[:, :n_modes])
        log.warning(text, int((~exact).sum()), len(exact), worst, 100 * error)
    if len(found.values) > 1:
        log.warning("diffusion_map: the graph has %d components, each is mapped on its own", len(found.values))
