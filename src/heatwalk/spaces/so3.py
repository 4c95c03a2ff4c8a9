"""The rotation group SO(3) as matrices in R^9; the Frobenius norm of a difference is 2 sqrt 2 sin(theta / 2)."""

import math

import numpy as np

from heatwalk.errors import BadInput, Problem
from heatwalk.spaces import points, radial_law, sphere_kernel
from heatwalk.spaces.angles import radians
from heatwalk.spaces.space import Space


def embed(values: np.ndarray, units: str = "degrees") -> np.ndarray:
    """(point, 3) Euler angles (phi1, Phi, phi2) in Bunge's z-x-z convention -> (point, 9) rotation matrices by rows.

    R = Z(phi2) X(Phi) Z(phi1), the passive rotation from sample to crystal axes. Source: Bunge, Texture Analysis in
    Materials Science (1982), equation 2.34.

    >>> embed(np.array([[90.0, 0.0, 0.0]])).round(3).reshape(3, 3).tolist()
    [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if values.shape[1] != 3:
        raise ValueError(f"so3 takes 3 columns, the Euler angles phi1, Phi, phi2; there are {values.shape[1]}")
    first, tilt, second = radians(values, units).T
    (c1, c, c2), (s1, s, s2) = np.cos([first, tilt, second]), np.sin([first, tilt, second])
    rows = [
        [c1 * c2 - s1 * s2 * c, s1 * c2 + c1 * s2 * c, s2 * s],
        [-c1 * s2 - s1 * c2 * c, -s1 * s2 + c1 * c2 * c, c2 * s],
        [s1 * s, -c1 * s, c],
    ]
    return np.moveaxis(np.array(rows), -1, 0).reshape(len(values), 9) + 0.0  # no negative zeros


def names(columns: list[str]) -> list[str]:
    return [f"r{row}{column}" for row in "123" for column in "123"]


class SO3(Space):
    """Rotation matrices (3, 3); distances are angles theta of x^T y, lengths of tangents x hat(omega) are |omega|.

    SO(3) is the sphere of radius 2 in R^4 with opposite points alike, so that
    p_t(theta) = (p(theta / 2) + p(pi - theta / 2)) / 8, p the kernel of S^3 at the time t / 4. Its volume is 8 pi^2.
    """

    shape, dimension = (3, 3), 3
    slope = 0.5  # |x hat(omega)| in R^9 is sqrt 2 |omega|

    def exp(self, x, v):
        """x (1 + sin a / a W + (1 - cos a) / a^2 W^2) for v = x W, W = hat(omega), a = |omega|: Rodrigues' formula."""
        taken = self._ambient(x, v=v)
        xp, (x, v) = taken.xp, taken.arrays
        turn = _skew(x.mT @ v)
        points.tangent(v, x @ turn, taken)
        a = points.length(_axial(turn), xp)[..., None, None]
        once = points.sinc(a, xp) * turn
        return taken.back(x + x @ (once + points.sinc(a / 2, xp) ** 2 / 2 * turn @ turn))

    def log(self, x, y):
        """The tangent x hat(omega) that leads to y, |omega| = distance; BadInput for a half turn."""
        taken = self._given(x=x, y=y)
        xp, (x, y) = taken.xp, taken.arrays
        theta, axis = _turn(x, y, xp)
        self._refuse_cut(math.pi - theta, xp)
        return taken.back(x @ _hat(theta[..., None] * axis, xp))

    def distance(self, x, y):
        """The angle of the rotation x^T y, from 0 to pi."""
        taken = self._given(x=x, y=y)
        return taken.back(_turn(*taken.arrays, taken.xp)[0])

    def project(self, x, v=None):
        """The nearest rotation, by a singular value decomposition; with v, the part of v that is tangent at x."""
        if v is not None:
            taken = self._ambient(x, v=v)
            return taken.back(self._tangent(*taken.arrays, taken.xp))
        taken = points.given(x=x)
        xp, (x,) = taken.xp, taken.arrays
        points.check_shape("x", x, self.shape)
        points.check_finite("x", x, xp)
        u, sizes, vh = xp.linalg.svd(x)
        sign = xp.sign(xp.linalg.det(u @ vh))
        if bool(xp.any(sizes[..., 1] + sign * sizes[..., 2] < 1e-12 * sizes[..., 0] + 1e-100)):
            cause = "a matrix has no nearest rotation: two singular values cancel or are 0"
            raise BadInput(Problem("HW-SP-010", "project", cause, "remove it"))
        signs = xp.stack([xp.ones_like(sign), xp.ones_like(sign), sign], axis=-1)
        return taken.back((u * signs[..., None, :]) @ vh)

    def random_point(self, rng, size=()):
        """Points of the Haar law, (size, 3, 3): uniform unit quaternions."""
        points.check_rng(rng)
        quaternions = rng.normal(size=(*points.sizes(size), 4))
        return _rotation(quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True))

    def _drawn(self, x, t, rng):
        """Half the angle is an angle of Brownian motion on S^3, the axis is uniform."""
        half = radial_law.angles(3, t / 4, rng)[..., None]
        axis = rng.normal(size=(*x.shape[:-2], 3))
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        return x @ _rotation(np.concatenate([np.cos(half), np.sin(half) * axis], axis=-1))

    def _tangent(self, x, v, xp):
        return x @ _skew(x.mT @ v)

    def _check(self, name, x, single, xp):
        off = xp.max(xp.abs(x.mT @ x - xp.eye(3, dtype=x.dtype, device=x.device)), axis=(-2, -1))
        points.check_on(name, off, single, "x^T x differs from 1", "give rotation matrices, or project(x)", xp)
        if bool(xp.any(xp.linalg.det(x) < 0)):
            cause = "a determinant is -1: a reflection, no rotation"
            raise BadInput(Problem("HW-SP-005", name, cause, "give rotation matrices, or project(x)"))

    def _pair(self, x, y, t, xp):
        theta, axis = _turn(x, y, xp)
        near, near_slope = sphere_kernel.log_kernel(3, theta / 2, t / 4, xp)
        far, far_slope = sphere_kernel.log_kernel(3, math.pi - theta / 2, t / 4, xp)
        share = xp.exp(far - near)  # at most 1
        slope = -xp.sin(theta / 2) / 2 * (near_slope - share * far_slope) / (1 + share)
        return near + xp.log1p(share) - math.log(8), lambda: y @ _hat(slope[:, None] * axis, xp)


def _turn(x, y, xp) -> tuple:
    """Angle and unit axis of x^T y; no axis, 0, where there is none."""
    across = x.mT @ y
    sine = _axial(_skew(across))
    length = points.length(sine, xp)
    trace = across[..., 0, 0] + across[..., 1, 1] + across[..., 2, 2]
    return xp.atan2(length, (trace - 1) / 2), sine / (length + 1e-300)[..., None]


def _skew(x):
    return (x - x.mT) / 2


def _axial(x):
    """omega of hat(omega)."""
    return x[..., [2, 0, 1], [1, 2, 0]]


def _hat(omega, xp):
    a, b, c = omega[..., 0], omega[..., 1], omega[..., 2]
    zero = xp.zeros_like(a)
    rows = [[zero, -c, b], [c, zero, -a], [-b, a, zero]]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def _rotation(q: np.ndarray) -> np.ndarray:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, v = q[..., 0, None, None], q[..., 1:]
    turn = _hat(v, np)
    return np.eye(3) + 2 * w * turn + 2 * turn @ turn
