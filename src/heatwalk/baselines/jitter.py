"""Gaussian-jitter resampler: training samples with a little noise, a memoriser."""

import numpy as np
from scipy.spatial.distance import cdist


def jitter(samples: np.ndarray, n_particles: int, *, share: float = 0.1, seed: int = 0) -> np.ndarray:
    """Random samples plus noise whose length is a share of the median distance to the nearest other sample."""
    rng = np.random.default_rng(seed)
    squares = cdist(samples, samples, "sqeuclidean")
    np.fill_diagonal(squares, np.inf)
    scale = share * np.sqrt(np.median(squares.min(axis=1)) / samples.shape[1])
    rows = rng.integers(len(samples), size=n_particles)
    return samples[rows] + scale * rng.normal(size=(n_particles, samples.shape[1]))
