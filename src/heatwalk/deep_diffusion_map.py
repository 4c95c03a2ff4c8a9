"""deep_diffusion_map: a network whose coordinates keep diffusion distances, trained without eigenvectors."""

from collections.abc import MutableMapping
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute
from heatwalk.conjugate import Conjugate, conjugate, filling_bytes
from heatwalk.diffusion_map import band_bytes, diffusion_map
from heatwalk.errors import BadInput, OutOfResources, Problem
from heatwalk.progress import log, track
from heatwalk.scratch import remove

_EXACT_UP_TO = 4000  # cells of a map that the coordinates are compared with as they are
_SUBSAMPLE = 2000  # cells of a map for the error, where there are more
_PAIRS_OF = 1500  # cells all of whose distances are compared
_TOGETHER_UP_TO = 10_000  # cells: more are trained on in batches
_LEAST_POWER = 1e-5  # lambda^t of the last component over that of the first: single precision holds no less


class DeepDiffusionMap(NamedTuple):
    coordinates: Any  # (cell, mode) float32
    eigenvalues: Any  # (mode,) estimates, from below
    residuals: Any  # (mode,)
    energy: Any  # (round,)
    error: Any  # scalar, NaN where it is not measured
    error_median: Any  # scalar
    error_deciles: Any  # (decile,)
    error_cells: Any  # scalar, cells of the map compared with
    excess: Any  # scalar, NaN where it is not measured
    weights: Any  # (byte,) uint8, safetensors
    description: Any  # (byte,) uint8, JSON

    @property
    def network(self):
        """The trained network: `networks.applied(network, points)` gives the coordinates of any points."""
        from heatwalk import networks

        weights, description = (np.asarray(array[:]).tobytes() for array in (self.weights, self.description))
        return networks.loaded(weights, description.decode())


def deep_diffusion_map(
    points,
    affinity,
    *,
    n_components: int = 15,
    t: int = 1,
    network: str = "auto",
    prototypes: int = 384,
    rounds: int = 10,
    measure: bool = True,
    seed: int = 0,
    memory: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    block_cells: int = compute.BLOCK_CELLS,
    scratch: Path | None = None,
    checkpoint: Path | None = None,
    out: MutableMapping | None = None,
) -> DeepDiffusionMap:
    """A network f with f(x_i).f(x_j) close to the inner products of diffusion coordinates at time t, for all pairs.

        minimise |G G' - T|_F^2,  G = sqrt(pi) f(X),  T = A^2t - sqrt(pi) sqrt(pi)'
                 = |G'G|_F^2 - 2 tr(G' T G) + |T|_F^2

    T is never made: T G is 2t sparse products. A round (1) sets the linear layer to the best one for the present
    features (`galerkin`), (2) refreshes T G, (3) trains all other weights against it: for fixed S = G'G and T G the
    gradient is that of a regression on the rows of T G S^-1. The least possible loss leaves out lambda^4t of all modes
    after n_components; `excess` is what the loss is above it.

    points: (cell, dimension), or (cell, length, channel), or (cell, height, width, channel); network: "table" (residual
    perceptron), "sequence", "image" (convolutions), or "auto", by the number of axes. prototypes: learned places that
    a softmax compares points with, at most a third of the cells, and as many as a file of 2 MB holds; of one width, and
    all that the perceptron sees (`networks`), where the affinity has one bandwidth.
    coordinates: lambda^t psi up to the error of the network, in the order of the eigenvalues, the entry of largest
    magnitude positive. Of a graph in pieces, modes are those of all components together.
    error: mean relative error of the distances of all pairs of up to 1,500 cells beside the exact map (also its median,
    and mean by decile of the distance), for up to 4,000 cells; for more, that of a subsample of 2,000 with a graph and
    network of its own. energy: |G G'|_F^2, which rounds increase. residuals: |T g - mu g| / (mu |g|) of every column.
    checkpoint: a file with the state after every round, from which a run goes on. device: "cpu" or "cuda".
    Raises BadInput for options out of bounds, or a t at which the last component has all but died away.
    Source: Garcia-Heredia, Fernandez, Alaiz, Deep diffusion maps, arXiv 2505.06087.
    """
    from heatwalk import training

    out = {} if out is None else out
    compute.check_device(device)
    _check(points, affinity.components.shape[0], n_components, t, prototypes, rounds)
    described = training.description(points.shape, network, n_components, prototypes, t, _one_bandwidth(affinity))
    limits = {"threads": threads, "memory": memory, "scratch": scratch}
    fit = {"rounds": rounds, "seed": seed, "checkpoint": checkpoint, "device": device}
    trained, coordinates = _trained(points, affinity, described, fit, limits)
    made = arrays.make(out, "coordinates", coordinates.shape, np.float32)
    for rows in compute.blocks(len(coordinates), block_cells):
        made[rows] = coordinates[rows]
    found, mu = _evidence(trained, t) | _saved(trained.network), trained.ritz.values
    same = {"n_components": n_components, "t": t, "network": network, "prototypes": prototypes, "rounds": rounds}
    found |= _measured(points, affinity, coordinates, mu, seed, threads, same) if measure else _unmeasured()
    for name, value in found.items():
        arrays.make(out, name, value.shape, value.dtype)[...] = value
    return DeepDiffusionMap(*(out[name] for name in DeepDiffusionMap._fields))


def _one_bandwidth(affinity) -> bool:
    return bool(np.ptp(np.asarray(affinity.bandwidths[:])) == 0)


def _trained(points, affinity, described, fit: dict, limits: dict):
    """The trained network and its coordinates, by cell."""
    from heatwalk import training

    n_cells = points.shape[0]
    threads = limits["threads"] or compute.available_threads()
    held, band_edges = _room(described, n_cells, affinity.indices.shape[0], limits["memory"], threads)
    with compute.workers("threads", limits["threads"], limits["scratch"], files=not held) as workers:
        matrix = conjugate(affinity, held=held, band_edges=band_edges, workers=workers)
        values = _by_position(points, matrix, workers)
        options = {**fit, "together": n_cells <= _TOGETHER_UP_TO, "workers": workers}
        trained = training.trained(values, matrix, described, **options)
        _check_spectrum(trained.ritz.values, described.t)
        coordinates = training.outputs(trained.network, values, workers)
    remove(matrix.columns, matrix.values)
    signs = _signs(coordinates)
    training.flip(trained.network, signs)
    return trained, np.take(coordinates, matrix.place, axis=0) * signs


def _check(points, n_cells: int, n_components: int, t: int, prototypes: int, rounds: int) -> None:
    if points.shape[0] != n_cells:
        cause = f"there are {points.shape[0]} points and an affinity of {n_cells}"
        raise BadInput(Problem("HW-NN-003", "points", cause, "compute the affinity of these points again"))
    if not (isinstance(n_components, Integral) and 1 <= n_components < n_cells):
        cause = f"{n_components!r} is not between 1 and {n_cells - 1}, the most that {n_cells} cells have"
        raise BadInput(Problem("HW-NN-004", "n_components", cause, f"set it between 1 and {n_cells - 1}"))
    for name, value in (("t", t), ("prototypes", prototypes), ("rounds", rounds)):
        if not (isinstance(value, Integral) and value >= 1):
            raise BadInput(Problem("HW-NN-005", name, f"{value!r} is no whole number above 0", f"set {name} to one"))


def _check_spectrum(values: np.ndarray, t: int) -> None:
    """values: mu = lambda^2t, descending."""
    there = int((values > _LEAST_POWER**2 * values[0]).sum()) if values[0] > 0 else 0
    if there < len(values):
        cause = f"at t {t} only {there} of {len(values)} components have lambda^t above {_LEAST_POWER:g} of the first"
        remedy = f"set t to less, or n_components to {there}" if there else "set t to less"
        raise BadInput(Problem("HW-NN-006", "t", cause, remedy))


def bytes_held(
    n_cells: int, n_values: int, n_features: int, n_components: int, n_edges: int = 0, threads: int = 1
) -> int:
    """Bytes of points, features and vectors, or of what gathers the matrix before them; the matrix left out."""
    vectors = 8 * (2 * (2 * n_components + 8) + 64 + 2 * n_components)
    libraries = 5 * 10**8 + 7000 * min(n_cells, 50_000)  # and what blocks of features take, measured
    trained = n_cells * (4 * n_values + 4 * (n_features + 1) + vectors + 8 * n_components + 100)
    return max(trained, filling_bytes(n_cells, n_edges, threads)) + libraries


def _room(description, n_cells: int, n_edges: int, memory: int | None, threads: int) -> tuple[bool, int]:
    """Whether the matrix is held in memory; and how many of its entries are gathered at a time."""
    if memory is None:
        return True, n_edges
    sizes = description.n_values, description.n_features, description.n_components
    vectors = bytes_held(n_cells, *sizes, n_edges, threads)
    fewest = vectors + band_bytes(n_edges)
    if fewest > memory:
        cause = f"features and vectors of {n_cells} cells need {fewest / 1e9:.2f} GB, memory is {memory / 1e9:.2f} GB"
        remedy = f"set memory to {np.ceil(1.05 * fewest / 1e8) / 10 + 0.1:.1f}GB or more, or prototypes to less"
        raise OutOfResources(Problem("HW-RS-004", "deep_diffusion_map", cause, remedy))
    left = memory - vectors
    return 12 * n_edges <= left, max(band_bytes(n_edges) // 12, left // 24)


def _by_position(points, matrix: Conjugate, workers: compute.Workers) -> np.ndarray:
    """Points in the order of the matrix, flat, in single precision; BadInput where they are not finite."""
    n_cells, shape = points.shape[0], (-1, int(np.prod(points.shape[1:])))
    values = np.empty((n_cells, shape[1]), np.float32)
    ranges = compute.blocks(n_cells, compute.BLOCK_CELLS)

    def put(rows: slice) -> int:
        block = np.asarray(points[rows], np.float32).reshape(shape)
        values[matrix.place[rows]] = block
        return int((~np.isfinite(block).all(axis=1)).sum())

    bad = sum(track(workers.here.in_order(put, ranges), "deep_diffusion_map: reading", len(ranges)))
    if bad:
        cause = f"{bad} of {n_cells} points are not finite in single precision"
        raise BadInput(Problem("HW-NN-007", "points", cause, "remove those cells, or mend the representation"))
    return values


def _signs(coordinates: np.ndarray) -> np.ndarray:
    largest = np.abs(coordinates).argmax(axis=0)
    return np.where(coordinates[largest, np.arange(coordinates.shape[1])] < 0, np.float32(-1), np.float32(1))


def _evidence(trained, t: int) -> dict[str, np.ndarray]:
    ritz = trained.ritz
    values = np.maximum(ritz.values, np.finfo(float).tiny)
    residuals = np.linalg.norm(ritz.mapped - ritz.vectors * ritz.values, axis=0) / (values * np.sqrt(values))
    return {
        "eigenvalues": values ** (1 / (2 * t)),
        "residuals": residuals,
        "energy": np.array(trained.energy, np.float64),
    }


def _saved(network) -> dict[str, np.ndarray]:
    from heatwalk import networks

    weights, description = networks.saved(network)
    return {
        "weights": np.frombuffer(weights, np.uint8),
        "description": np.frombuffer(description.encode(), np.uint8),
    }


def _unmeasured() -> dict[str, np.ndarray]:
    names = ("error", "error_median", "excess")
    return {"error_deciles": np.full(10, np.nan), "error_cells": np.int64(0)} | {n: np.float64(np.nan) for n in names}


def _measured(
    points, affinity, coordinates: np.ndarray, values: np.ndarray, seed: int, threads: int | None, same: dict
) -> dict[str, np.ndarray]:
    """The error beside an exact map, of these cells or of a subsample with a graph and a network of its own."""
    from heatwalk.affinity import affinity as kernel
    from heatwalk.neighbors import neighbors

    n_cells, n_components, t = points.shape[0], same["n_components"], same["t"]
    generator = np.random.default_rng([seed, 1])
    compared = values
    if n_cells > _EXACT_UP_TO:
        rows = np.sort(generator.choice(n_cells, _SUBSAMPLE, replace=False))
        some, affinity = np.concatenate([np.asarray(points[row : row + 1]) for row in rows]), None
        for _ in range(3):  # until its graph is connected, or nearly
            flat = some.reshape(len(some), -1)
            found = neighbors(flat, seed=seed, threads=threads)
            affinity = kernel(flat, found, threads=threads)
            if not np.any(affinity.components):
                break
            some = some[affinity.components == 0]
        log.info("deep_diffusion_map: error on %d cells, with a network of their own", len(some))
        own = deep_diffusion_map(some, affinity, **same, measure=False, seed=seed, threads=threads)
        coordinates, compared = own.coordinates, np.asarray(own.eigenvalues) ** (2 * t)
    if np.any(np.asarray(affinity.components[:])):
        log.warning("deep_diffusion_map: the error is not measured, the graph compared with is in several pieces")
        return _unmeasured()
    exact = diffusion_map(affinity, n_components=n_components, threads=threads, seed=seed)
    best = np.asarray(exact.eigenvalues) ** (2 * t)
    expected = np.asarray(exact.eigenvectors) * np.asarray(exact.eigenvalues) ** t
    cells = np.sort(generator.choice(len(expected), min(_PAIRS_OF, len(expected)), replace=False))
    error, median, deciles = distance_error(np.asarray(coordinates[:])[cells], expected[cells])
    return {
        "error": np.float64(error),
        "error_median": np.float64(median),
        "error_deciles": deciles,
        "error_cells": np.int64(len(expected)),
        "excess": np.float64((best**2).sum() - (compared**2).sum()),
    }


def distance_error(coordinates: np.ndarray, expected: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Relative error of the distances of all pairs, | |y_i - y_j| - d_ij | / d_ij: mean, median, and mean by decile.

    Deciles are those of the expected distance d, [low, high), the last one closed; pairs at d = 0 are left out.
    """
    from scipy.spatial.distance import pdist

    distances, true = pdist(coordinates), pdist(expected)
    distances, true = distances[true > 0], true[true > 0]
    errors = np.abs(distances - true) / true
    decile = np.searchsorted(np.percentile(true, np.arange(10, 100, 10)), true, side="right")
    sums, count = np.bincount(decile, errors, 10), np.bincount(decile, minlength=10)
    return float(errors.mean()), float(np.median(errors)), sums / np.maximum(count, 1)
