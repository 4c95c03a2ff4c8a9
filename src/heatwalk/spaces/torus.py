"""The flat torus T^n: n angles, or R^2n."""

import math

import numpy as np

from heatwalk.spaces import circle_kernel, points
from heatwalk.spaces.angles import radians
from heatwalk.spaces.space import Space


def embed(values: np.ndarray, units: str = "degrees") -> np.ndarray:
    """(point, n) angles -> (point, 2 n): all cosines, then all sines.

    >>> embed(np.array([[0.0, 180.0]])).round(3).tolist()
    [[1.0, -1.0, 0.0, 0.0]]
    """
    angles = radians(values, units)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def names(columns: list[str]) -> list[str]:
    return [f"cos {name}" for name in columns] + [f"sin {name}" for name in columns]


class Torus(Space):
    """n circles of radius 1; points are n angles in radians: any real number is taken, (-pi, pi] is given."""

    def __init__(self, n: int):
        self.n = points.whole("n", n, 1)
        self.shape, self.dimension = (self.n,), self.n

    def exp(self, x, v):
        """x + v, wrapped."""
        taken = self._ambient(x, v=v)
        return taken.back(wrapped(taken.arrays[0] + taken.arrays[1], taken.xp))

    def log(self, x, y):
        """y - x, wrapped; BadInput where an angle differs by half a turn."""
        taken = self._given(x=x, y=y)
        across = wrapped(taken.arrays[1] - taken.arrays[0], taken.xp)
        self._refuse_cut(taken.xp.min(math.pi - taken.xp.abs(across), axis=-1), taken.xp)
        return taken.back(across)

    def distance(self, x, y):
        """The length of y - x, wrapped."""
        taken = self._given(x=x, y=y)
        return taken.back(points.length(wrapped(taken.arrays[1] - taken.arrays[0], taken.xp), taken.xp))

    def project(self, x, v=None):
        """x wrapped; with v, v itself: every vector is tangent."""
        taken = self._given(x=x) if v is None else self._ambient(x, v=v)
        return taken.back(wrapped(taken.arrays[0], taken.xp) if v is None else taken.arrays[1])

    def random_point(self, rng, size=()):
        """Points of the uniform law, (size, n)."""
        points.check_rng(rng)
        return wrapped(rng.uniform(-np.pi, np.pi, (*points.sizes(size), self.n)), np)

    def _drawn(self, x, t, rng):
        """Normal steps, wrapped."""
        farthest = np.minimum(t, 1e4)  # the law is uniform long before, and wrapping stays exact
        return wrapped(x + np.sqrt(farthest)[..., None] * rng.normal(size=x.shape), np)

    def _check(self, name, x, single, xp):
        """Every real number is an angle."""

    def _pair(self, x, y, t, xp):
        across = xp.reshape(wrapped(y - x, xp), (-1,))
        times = xp.reshape(xp.broadcast_to(t[:, None], (t.shape[0], self.n)), (-1,))
        log_p, slope = circle_kernel.log_kernel(across, times, xp)
        return xp.sum(xp.reshape(log_p, (-1, self.n)), axis=1), lambda: xp.reshape(slope, (-1, self.n))

    def __repr__(self) -> str:
        return f"Torus({self.n})"


def wrapped(angles, xp):
    """The same angles in (-pi, pi]."""
    turns = xp.ceil((angles - math.pi) / (2 * math.pi))
    angles = angles - 2 * math.pi * turns
    return xp.where(angles <= -math.pi, angles + 2 * math.pi, angles)
