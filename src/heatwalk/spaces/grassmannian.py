"""The complex Grassmannian of planes in C^4: a symmetric space of rank 2 that is no group."""

import math

import numpy as np

from heatwalk.errors import BadInput, Problem
from heatwalk.spaces import grassmannian_kernel, grassmannian_law, points
from heatwalk.spaces.space import Space
from heatwalk.spaces.su_law import haar


class Grassmannian(Space):
    """k-dimensional subspaces of C^n, as Hermitian projections (n, n) of trace k; heat kernels of k = 2, n = 4.

    The distance is the root of the sum of squares of the principal angles: |v|^2 is half the Frobenius norm's. Of eight
    dimensions; its volume is pi^4 / 12.
    """

    complex_ = True
    slope = 0.5

    def __init__(self, k: int, n: int):
        self.k, self.n = points.whole("k", k, 1), points.whole("n", n, 2)
        if (self.k, self.n) != (2, 4):
            cause = f"no heat kernel of Grassmannian({k}, {n}) is known here"
            raise BadInput(Problem("HW-SP-008", "k, n", cause, "give Grassmannian(2, 4)"))
        self.shape, self.dimension = (self.n, self.n), 2 * self.k * (self.n - self.k)

    def exp(self, x, v):
        """e^A x e^{-A} for A = [v, x]."""
        taken = self._ambient(x, v=v)
        xp, (x, v) = taken.xp, taken.arrays
        v = points.tangent(v, _tangent(x, v, xp), taken)
        angles, u = xp.linalg.eigh(-1j * (v @ x - x @ v))
        turn = (u * xp.exp(1j * angles)[..., None, :]) @ _adjoint(u, xp)
        return taken.back(turn @ x @ _adjoint(turn, xp))

    def log(self, x, y):
        """(1 - x) y x f + its adjoint, f = theta / (sin theta cos theta) of the angles; BadInput for right angles."""
        taken = self._given(x=x, y=y)
        xp, (x, y) = taken.xp, taken.arrays
        theta, frame = _angles(x, y, xp)
        self._refuse_cut(math.pi / 2 - xp.max(theta, axis=-1), xp)
        factor = 2 * theta / (xp.sin(2 * theta) + 1e-300)
        factor = xp.where(theta > 1e-100, factor, xp.ones_like(factor))
        half = y @ (frame * factor[..., None, :]) @ _adjoint(frame, xp)
        half = half - x @ half
        return taken.back(half + _adjoint(half, xp))

    def distance(self, x, y):
        """The root of the sum of squares of the principal angles."""
        taken = self._given(x=x, y=y)
        xp = taken.xp
        return points.Given((), xp, taken.single).back(points.length(_angles(*taken.arrays, xp)[0], xp))

    def project(self, x, v=None):
        """The projection on the k largest eigenvectors of the Hermitian part; with v, its part that is tangent at x."""
        if v is not None:
            taken = self._ambient(x, v=v)
            return taken.back(self._tangent(*taken.arrays, taken.xp))
        taken = points.given(True, x=x)
        xp, (x,) = taken.xp, taken.arrays
        points.check_shape("x", x, self.shape)
        points.check_finite("x", x, xp)
        values, u = xp.linalg.eigh((x + _adjoint(x, xp)) / 2)
        if bool(xp.any(values[..., -self.k] - values[..., -self.k - 1] < 1e-12)):
            cause = "a matrix has no nearest subspace: eigenvalues are alike"
            raise BadInput(Problem("HW-SP-010", "project", cause, "remove it"))
        frame = u[..., -self.k :]
        return taken.back(frame @ _adjoint(frame, xp))

    def random_point(self, rng, size=()):
        """Points of the uniform law, (size, n, n)."""
        points.check_rng(rng)
        frame = haar(self.n, points.sizes(size), rng)[..., : self.k]
        return frame @ _adjoint(frame, np)

    def _drawn(self, x, t, rng):
        """Two angles by rejection, uniform directions."""
        theta = grassmannian_law.angles(t, rng)
        u = np.linalg.eigh(x)[1]
        into, beside = haar(2, x.shape[:-2], rng), haar(2, x.shape[:-2], rng)
        frame = (u[..., 2:] @ into) * np.cos(theta)[..., None, :] + (u[..., :2] @ beside) * np.sin(theta)[..., None, :]
        return frame @ _adjoint(frame, np)

    def _tangent(self, x, v, xp):
        return _tangent(x, v, xp)

    def _check(self, name, x, single, xp):
        remedy = "give Hermitian projections, or project(x)"
        off = xp.max(xp.abs(x @ x - x), axis=(-2, -1))
        points.check_on(name, off, single, "x^2 differs from x", remedy, xp)
        off = xp.max(xp.abs(x - _adjoint(x, xp)), axis=(-2, -1))
        points.check_on(name, off, single, "x differs from x^*", remedy, xp)
        one = xp.eye(self.n, dtype=x.dtype, device=x.device)
        off = xp.abs(xp.sum(x * one, axis=(-2, -1)) - self.k)
        points.check_on(name, off, single, f"the trace differs from {self.k}", remedy, xp)

    def _pair(self, x, y, t, xp):
        theta, frame = _angles(x, y, xp)
        log_p, slope = grassmannian_kernel.log_kernel(2 * theta, t, xp)
        # d cos 2 theta_i = 2 f_i^* dy f_i; a Riemannian gradient is twice the Frobenius one
        return log_p, lambda: _tangent(y, (frame * (4 * slope)[..., None, :]) @ _adjoint(frame, xp), xp)

    def __repr__(self) -> str:
        return f"Grassmannian({self.k}, {self.n})"


def _adjoint(x, xp):
    return xp.conj(x).mT


def _tangent(x, v, xp):
    """x v (1 - x) + (1 - x) v x of the Hermitian part of v."""
    v = (v + _adjoint(v, xp)) / 2
    into = x @ v
    return into + v @ x - 2 * into @ x


def _angles(x, y, xp) -> tuple:
    """Principal angles, and the orthonormal vectors of x (columns) that enclose them with y."""
    frame = xp.linalg.eigh(x)[1][..., -2:]
    away = frame - y @ frame
    u = xp.linalg.eigh(_adjoint(away, xp) @ away)[1]  # squares of sines: small ones to full precision
    frame, away = frame @ u, away @ u
    return xp.atan2(points.length(xp.abs(away).mT, xp), points.length(xp.abs(y @ frame).mT, xp)), frame
