"""Diffusion map particle systems as first described: averaged operator, median bandwidth, a fixed step."""

import numpy as np
from scipy.spatial.distance import cdist

_RIDGE, _TOLERANCE = 1e-3, 1e-6  # of an eigenvalue that is divided by


def averaged_particles(
    samples: np.ndarray, n_particles: int, *, steps: int = 1000, step: float = 5.0, seed: int = 0
) -> np.ndarray:
    """x <- x - (h / m) sum_j grad_1 K(x, x_j), K from the mean of the forward and the backward operator.

    eps = median(|x_i - x_j|^2) / (2 log(n + 1)), M = k / (q_i q_j)^1/2, P = (M / D_i + M / D_j) / 2, whose eigenvalues
    may exceed 1. w = (eps / (lambda + .001))^2 eps / (1 - lambda), 0 below 1e-6. Nothing acts normal to a surface.
    Source: Li, Liu, Liu, Lu, Wang, Diffusion map particle systems for generative modeling (2023).
    """
    rng = np.random.default_rng(seed)
    centre = samples.mean(axis=0)
    own = samples - centre
    points = rng.normal(size=(n_particles, len(own))) @ own / np.sqrt(len(own))
    squares = cdist(own, own, "sqeuclidean")
    eps = 0.5 * np.median(squares) / np.log(len(own) + 1)
    kernel = np.exp(squares / (-2 * eps))
    root = np.sqrt(kernel.sum(axis=1))
    kernel /= np.outer(root, root)
    degrees = kernel.sum(axis=1)
    values, vectors = np.linalg.eigh((kernel / degrees + kernel / degrees[:, None]) / 2)
    values, vectors = values[:-1], vectors[:, :-1]  # without the trivial one
    kept = values >= _TOLERANCE
    weights = np.where(kept, (eps / (values + _RIDGE)) ** 2 * eps / (1 - values), 0)
    for _ in range(steps):
        rows = cdist(points, own, "sqeuclidean") / (-2 * eps)
        top = rows.max(axis=1, keepdims=True)
        near = np.exp(rows - top)  # k(x, x_j), up to a factor of each particle's that the forward part drops
        total = near.sum(axis=1, keepdims=True)
        backward = near / np.sqrt(total) * np.exp(top / 2) / root / degrees
        forward = near / root
        forward /= forward.sum(axis=1, keepdims=True)
        u = vectors @ (weights * (vectors.T @ (forward + backward).sum(axis=0))) / (2 * n_particles)
        backward *= u
        forward *= u - (forward @ u)[:, None]
        middle = near @ own / total
        moved = (forward + backward) @ own - backward.sum(axis=1, keepdims=True) * (points + middle) / 2
        points = points - step * moved / (2 * eps**2)
    return points + centre
