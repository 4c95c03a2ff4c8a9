"""Unadjusted Langevin and Stein variational gradient descent, with the score of a kernel density of the samples."""

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist, pdist


def density_score(samples: np.ndarray) -> tuple[Callable, float]:
    """Score of the Gaussian kernel density, and its bandwidth: the one at which left-out samples are likeliest."""
    squares = cdist(samples, samples, "sqeuclidean")
    np.fill_diagonal(squares, np.inf)
    dimension = samples.shape[1]

    def likelihood(variance: float) -> float:
        rows = squares / (-2 * variance)
        top = rows.max(axis=1)
        return float((top + np.log(np.exp(rows - top[:, None]).sum(axis=1))).mean() - dimension / 2 * np.log(variance))

    offered = np.median(squares) * np.geomspace(1e-5, 1, 31)
    variance = max(offered, key=likelihood)

    def score(points: np.ndarray) -> np.ndarray:
        rows = cdist(points, samples, "sqeuclidean") / (-2 * variance)
        rows = np.exp(rows - rows.max(axis=1, keepdims=True))
        rows /= rows.sum(axis=1, keepdims=True)
        return (rows @ samples - points) / variance

    return score, float(np.sqrt(variance))


def _start(samples: np.ndarray, n_particles: int, rng: np.random.Generator) -> np.ndarray:
    spread = (samples - samples.mean(axis=0)) / np.sqrt(len(samples))
    return samples.mean(axis=0) + rng.normal(size=(n_particles, len(samples))) @ spread


def ula(samples: np.ndarray, n_particles: int, *, steps: int = 1000, seed: int = 0) -> np.ndarray:
    """x <- x + h score(x) + (2 h)^(1/2) noise, h a quarter of the squared bandwidth, from a Gaussian start."""
    rng = np.random.default_rng(seed)
    score, bandwidth = density_score(samples)
    points, time_step = _start(samples, n_particles, rng), bandwidth**2 / 4
    for _ in range(steps):
        points = points + time_step * score(points) + np.sqrt(2 * time_step) * rng.normal(size=points.shape)
    return points


def svgd(samples: np.ndarray, n_particles: int, *, steps: int = 500, seed: int = 0) -> np.ndarray:
    """x_i <- x_i + a mean_j (k(x_j, x_i) score(x_j) + grad_j k(x_j, x_i)), median kernel, AdaGrad.

    Source: Liu and Wang, Stein variational gradient descent (2016).
    """
    rng = np.random.default_rng(seed)
    score, bandwidth = density_score(samples)
    points = _start(samples, n_particles, rng)
    history = np.zeros(points.shape)
    for step in range(steps):
        variance = np.median(pdist(points, "sqeuclidean")) / (2 * np.log(n_particles + 1))
        kernel = np.exp(-cdist(points, points, "sqeuclidean") / (2 * variance))
        repelled = (points * kernel.sum(axis=1, keepdims=True) - kernel @ points) / variance
        direction = (kernel @ score(points) + repelled) / n_particles
        history = direction**2 if step == 0 else 0.9 * history + 0.1 * direction**2
        points = points + 0.2 * bandwidth * direction / np.sqrt(history + 1e-12)
    return points
