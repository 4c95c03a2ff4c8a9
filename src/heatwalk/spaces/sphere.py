"""The unit sphere S^d in R^{d+1}, and latitude and longitude as points of S^2."""

import numpy as np

from heatwalk.errors import BadInput, Problem
from heatwalk.spaces import points, radial_law, sphere_kernel
from heatwalk.spaces.angles import radians
from heatwalk.spaces.space import Space


def embed(values: np.ndarray, units: str = "degrees") -> np.ndarray:
    """(point, 2) latitude and longitude -> (point, 3) unit vectors.

    x = (cos lat cos lon, cos lat sin lon, sin lat). Raises ValueError for a latitude beyond a quarter turn, and for
    a longitude that is neither within half a turn of 0 nor between 0 and a turn.

    >>> embed(np.array([[0.0, 90.0]])).round(3).tolist()
    [[0.0, 1.0, 0.0]]
    """
    if values.shape[1] != 2:
        raise ValueError(f"a sphere takes 2 columns, latitude and longitude; there are {values.shape[1]}")
    latitude, longitude = radians(values, units).T
    _check_degrees(values, units)
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], 1)


def _check_degrees(values: np.ndarray, units: str) -> None:
    quarter, slack = (90.0 if units == "degrees" else np.pi / 2), 1 + 1e-6
    latitude, longitude = np.abs(values).max(axis=0, initial=0)
    if latitude > quarter * slack:
        swapped = ": longitudes fit, the columns may be swapped" if longitude <= quarter * slack else ""
        raise ValueError(f"latitudes reach {latitude:g} {units}, the bound is {quarter:g}{swapped}")
    least, most = values[:, 1].min(initial=0), values[:, 1].max(initial=0)
    if least < -2 * quarter * slack or most > 4 * quarter * slack:
        bounds = f"the bounds are {-2 * quarter:g} and {4 * quarter:g}"
        raise ValueError(f"longitudes go from {least:g} to {most:g} {units}, {bounds}")


def names(columns: list[str]) -> list[str]:
    return ["x", "y", "z"]


class Sphere(Space):
    """The unit sphere S^d in R^{d+1}; points are unit vectors (d + 1,), distances are angles."""

    def __init__(self, d: int):
        self.d = points.whole("d", d, 1)
        self.shape, self.dimension = (self.d + 1,), self.d

    def exp(self, x, v):
        """cos|v| x + sin|v| v / |v|, for a tangent v at x."""
        taken = self._ambient(x, v=v)
        xp, (x, v) = taken.xp, taken.arrays
        v = points.tangent(v, v - _dot(x, v, xp) * x, taken)
        length = _norm(v, xp)
        return taken.back(xp.cos(length) * x + xp.sin(length) / length * v)

    def log(self, x, y):
        """The tangent at x of length distance(x, y) that leads to y; BadInput for antipodal points."""
        taken = self._given(x=x, y=y)
        xp, (x, y) = taken.xp, taken.arrays
        x, y = x / _norm(x, xp), y / _norm(y, xp)
        self._refuse_cut(_norm(x + y, xp), xp)
        across = y - x
        across = across - _dot(x, across, xp) * x
        return taken.back(_angle(x, y, xp)[..., None] / _norm(across, xp) * across)

    def distance(self, x, y):
        """The angle, 2 atan2(|x - y|, |x + y|): to full precision from 0 to pi."""
        taken = self._given(x=x, y=y)
        xp, (x, y) = taken.xp, taken.arrays
        return taken.back(_angle(x / _norm(x, xp), y / _norm(y, xp), xp))

    def project(self, x, v=None):
        """x / |x|; with v, the part of v that is tangent at x."""
        if v is None:
            taken = points.given(x=x)
            points.check_shape("x", taken.arrays[0], self.shape)
            points.check_finite("x", taken.arrays[0], taken.xp)
            length = _norm(taken.arrays[0], taken.xp)
            self._refuse_centre(length, taken.xp)
            return taken.back(taken.arrays[0] / length)
        taken = self._ambient(x, v=v)
        x, v = taken.arrays
        return taken.back(self._tangent(x, v, taken.xp))

    def random_point(self, rng, size=()):
        """Points of the uniform law, (size, d + 1)."""
        points.check_rng(rng)
        x = rng.normal(size=(*points.sizes(size), *self.shape))
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def _drawn(self, x, t, rng):
        """The angle by the inverse of its distribution function, a uniform direction."""
        theta = radial_law.angles(self.d, t, rng)
        v = rng.normal(size=x.shape)
        v -= (v * x).sum(-1, keepdims=True) * x
        y = np.cos(theta)[..., None] * x + np.sin(theta)[..., None] * v / np.linalg.norm(v, axis=-1, keepdims=True)
        return y / np.linalg.norm(y, axis=-1, keepdims=True)

    def _tangent(self, x, v, xp):
        return v - _dot(x, v, xp) * x

    def _check(self, name, x, single, xp):
        off = xp.abs(_norm(x, xp)[..., 0] - 1)
        points.check_on(name, off, single, "the length differs from 1", "divide by the length, or project(x)", xp)

    def _pair(self, x, y, t, xp):
        (theta,) = points.in_blocks(lambda x, y: (_angle(x / _norm(x, xp), y / _norm(y, xp), xp),), xp, x, y)
        log_p, slope = sphere_kernel.log_kernel(self.d, theta, t, xp)

        def across(x, y, slope):
            # x - (x . y) y without cancellation, exactly 0 for equal and for opposite points
            x, y = x / _norm(x, xp), y / _norm(y, xp)
            less, more = x - y, x + y
            near = _dot(x, y, xp) > 0
            found = xp.where(near, less + _dot(less, less, xp) / 2 * y, more - _dot(more, more, xp) / 2 * y)
            return (slope[:, None] * found,)

        return log_p, lambda: points.in_blocks(across, xp, x, y, slope)[0]

    def _refuse_centre(self, length, xp) -> None:
        if bool(xp.any(length < 1e-100)):
            cause = "the centre has no nearest point on the sphere"
            raise BadInput(Problem("HW-SP-010", "project", cause, "remove points that are 0"))

    def __repr__(self) -> str:
        return f"Sphere({self.d})"


def _dot(x, y, xp):
    return xp.einsum("...i,...i->...", x, y)[..., None]


def _norm(x, xp):
    """Lengths, never 0: gradients stay finite, and 0 divided by them is 0."""
    return xp.sqrt(_dot(x, x, xp) + 1e-300)


def _angle(x, y, xp):
    angle = 2 * xp.atan2(_norm(x - y, xp), _norm(x + y, xp))[..., 0]
    return xp.where(angle > 1e-140, angle, xp.zeros_like(angle))
