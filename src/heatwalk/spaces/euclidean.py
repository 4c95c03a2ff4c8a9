"""Flat space: coordinates stand for themselves."""

import math

import numpy as np

from heatwalk.spaces import points
from heatwalk.spaces.space import Space


def embed(values: np.ndarray, units: str = "degrees") -> np.ndarray:
    """(point, dimension) -> (point, dimension), unchanged; units do not matter."""
    return values


def names(columns: list[str]) -> list[str]:
    return columns


class Euclidean(Space):
    """R^n; points are (n,)."""

    def __init__(self, n: int):
        self.n = points.whole("n", n, 1)
        self.shape, self.dimension = (self.n,), self.n

    def exp(self, x, v):
        """x + v."""
        taken = self._ambient(x, v=v)
        return taken.back(taken.arrays[0] + taken.arrays[1])

    def log(self, x, y):
        """y - x."""
        taken = self._given(x=x, y=y)
        return taken.back(taken.arrays[1] - taken.arrays[0])

    def distance(self, x, y):
        """|y - x|."""
        taken = self._given(x=x, y=y)
        return taken.back(points.length(taken.arrays[1] - taken.arrays[0], taken.xp))

    def project(self, x, v=None):
        """x itself; with v, v itself: every vector is tangent."""
        taken = self._given(x=x) if v is None else self._ambient(x, v=v)
        return taken.back(taken.arrays[-1])

    def random_point(self, rng, size=()):
        """Standard normal points, (size, n): flat space has no uniform law."""
        points.check_rng(rng)
        return rng.normal(size=(*points.sizes(size), self.n))

    def _drawn(self, x, t, rng):
        """Normal steps with variance t in every coordinate."""
        return x + np.sqrt(t)[..., None] * rng.normal(size=x.shape)

    def _check(self, name, x, single, xp):
        """Every vector is a point."""

    def _pair(self, x, y, t, xp):
        square = xp.sum((x - y) ** 2, axis=-1)
        return -square / (2 * t) - self.n / 2 * (xp.log(t) + math.log(2 * math.pi)), lambda: (x - y) / t[:, None]

    def __repr__(self) -> str:
        return f"Euclidean({self.n})"
