"""Laplacian adjusted Wasserstein gradient descent: exact eigenfunctions of a known density in 1 or 2 dimensions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline, RectBivariateSpline
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import eigsh

_LEVEL = 1e-12  # of the highest density: below it a point of the grid is left out
_SMALLEST_STEP = 1e-4


class Spectrum(NamedTuple):
    """Eigenpairs of the generator -L = -laplacian - grad log pi . grad, without the constant."""

    eigenvalues: np.ndarray  # (mode,) ascending
    axes: tuple[np.ndarray, ...]  # of the grid
    functions: list  # splines of phi_k, sum pi phi_k^2 = 1


def spectrum(log_density: Callable, axes: Sequence[np.ndarray], modes: int) -> Spectrum:
    """The lowest modes by finite volumes on a grid: (L f)_i = sum_j (pi_i pi_j)^1/2 (f_j - f_i) / (h^2 pi_i).

    log_density: of (point, dimension), up to a constant. axes: one or two evenly spaced ascending axes.
    Source: Chewi, Le Gouic, Lu, Maunu, Rigollet, SVGD as a kernelized Wasserstein gradient flow (2020).
    """
    axes = tuple(axes)
    shape = tuple(len(axis) for axis in axes)
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    height = log_density(nodes)
    density = np.maximum(np.exp(height - height.max()), _LEVEL)
    density /= density.sum()
    root, number = np.sqrt(density), np.arange(len(nodes)).reshape(shape)
    first = [np.take(number, range(shape[way] - 1), axis=way).ravel() for way in range(len(axes))]
    then = [np.take(number, range(1, shape[way]), axis=way).ravel() for way in range(len(axes))]
    # Conjugated by pi^1/2 the entries between neighbours are 1 / h^2, whatever the density.
    steps = np.concatenate(
        [np.full(len(rows), (axis[1] - axis[0]) ** -2.0) for rows, axis in zip(first, axes, strict=True)]
    )
    here, there = np.concatenate(first), np.concatenate(then)
    links = csr_array((steps, (here, there)), shape=(len(nodes),) * 2)
    links = links + links.T
    conjugate = diags_array((links @ root) / root) - links
    values, vectors = eigsh(conjugate.tocsc(), k=modes + 1, sigma=-1e-3, which="LM", v0=root)
    order = np.argsort(values)[1:]
    functions = [(vectors[:, k] / root).reshape(shape) for k in order]
    splines = [CubicSpline(axes[0], f) if len(axes) == 1 else RectBivariateSpline(*axes, f) for f in functions]
    return Spectrum(values[order], axes, splines)


def modes_at(made: Spectrum, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(point, mode) eigenfunctions, and (point, mode, dimension) their gradients."""
    inside = np.column_stack([np.clip(points[:, way], axis[0], axis[-1]) for way, axis in enumerate(made.axes)])
    if len(made.axes) == 1:
        at = [(f(inside[:, 0]), f(inside[:, 0], 1)[:, None]) for f in made.functions]
    else:
        at = [
            (f.ev(*inside.T), np.column_stack([f.ev(*inside.T, dx=1), f.ev(*inside.T, dy=1)])) for f in made.functions
        ]
    return np.column_stack([value for value, _ in at]), np.stack([slope for _, slope in at], axis=1)


def lawgd(made: Spectrum, points: np.ndarray, *, steps: int = 300) -> np.ndarray:
    """Points that flow by v(x) = -sum_k mu_k^-1 mean_j phi_k(y_j) grad phi_k(x): KL falls as -chi^2 along it.

    A step of 1 is halved until E = 1/2 sum_k mu_k^-1 (mean_j phi_k(y_j))^2 falls.
    """

    def moving(at: np.ndarray) -> tuple[np.ndarray, float]:
        values, slopes = modes_at(made, at)
        off = values.mean(axis=0)
        return -np.einsum("k,ikd->id", off / made.eigenvalues, slopes), float(0.5 * off**2 @ (1 / made.eigenvalues))

    velocity, energy = moving(points)
    time_step = 1.0
    for _ in range(steps):
        while time_step >= _SMALLEST_STEP:
            tried = points + time_step * velocity
            moved, lower = moving(tried)
            if lower < energy:
                break
            time_step /= 2
        else:
            return points
        points, velocity, energy, time_step = tried, moved, lower, min(1.0, 1.5 * time_step)
    return points
