"""Densities that a diffusion model is held beside: kernels of one width, and mixtures of wrapped normals by EM."""

import numpy as np
from scipy.special import logsumexp

_QUERIES = 256  # at a time
_IMAGES = (-1, 0, 1)  # turns of a wrapped normal
_LEAST = 1e-3  # radians, standard deviation of a component


def von_mises_fisher(train: np.ndarray, points: np.ndarray, kappa: float) -> np.ndarray:
    """(point,) log-density on S^2 of the mean of kappa e^{kappa (x.y - 1)} / (2 pi (1 - e^{-2 kappa}))."""
    constant = np.log(kappa / (2 * np.pi * -np.expm1(-2 * kappa))) - np.log(len(train))
    blocks = (points[start : start + _QUERIES] for start in range(0, len(points), _QUERIES))
    return np.concatenate([logsumexp(kappa * (block @ train.T - 1), axis=1) for block in blocks]) + constant


def heat_kernels(space, train: np.ndarray, points: np.ndarray, t: float) -> np.ndarray:
    """(point,) log-density of the mean of heat kernels around all training points: a kernel density estimate."""
    blocks = (points[start : start + _QUERIES] for start in range(0, len(points), _QUERIES))
    found = [logsumexp(space.log_heat_kernel(train, block[:, None], t), axis=1) for block in blocks]
    return np.concatenate(found) - np.log(len(train))


def best(density, widths, validation) -> float:
    """The width whose density(points, width) of validation points is highest."""
    return max(widths, key=lambda width: float(density(validation, width).mean()))


class WrappedMixture:
    """A mixture of wrapped normals with diagonal covariances on the torus, by EM over components and turns."""

    def __init__(self, train: np.ndarray, components: int, *, rounds: int = 100, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.means = train[rng.choice(len(train), components, replace=False)]
        self.deviations = np.full(self.means.shape, 0.5)
        self.shares = np.full(components, 1 / components)
        for _ in range(rounds):
            self._step(train)

    def log_density(self, points: np.ndarray) -> np.ndarray:
        return logsumexp(self._logs(points)[0], axis=1)

    def _logs(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(point, component) logarithms, and (turn, point, component, angle) those of single images."""
        across = points[:, None] - self.means
        images = [-(((across + 2 * np.pi * turn) / self.deviations) ** 2) / 2 for turn in _IMAGES]
        images = np.stack(images) - np.log(self.deviations) - np.log(2 * np.pi) / 2
        return logsumexp(images, axis=0).sum(2) + np.log(self.shares), images

    def _step(self, train: np.ndarray) -> None:
        logs, images = self._logs(train)
        weights = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        turns = np.exp(images - logsumexp(images, axis=0)) * weights[:, :, None]
        total = weights.sum(0)[:, None] + 1e-9
        places = [train[:, None] + 2 * np.pi * turn - self.means for turn in _IMAGES]
        moved = sum((part * place).sum(0) for part, place in zip(turns, places, strict=True)) / total
        spread = sum((part * (place - moved) ** 2).sum(0) for part, place in zip(turns, places, strict=True)) / total
        self.means = (self.means + moved + np.pi) % (2 * np.pi) - np.pi
        self.deviations, self.shares = np.sqrt(spread + _LEAST**2), total[:, 0] / total.sum()
