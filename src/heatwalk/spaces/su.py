"""The special unitary groups SU(n) with the Frobenius metric: |x w| = |w|_F for w anti-Hermitian without trace."""

import math

from heatwalk.errors import BadInput, Problem
from heatwalk.spaces import points, su_kernel, su_law
from heatwalk.spaces.space import Space


class SU(Space):
    """Complex matrices (n, n), unitary with determinant 1; tangents at x are x w."""

    complex_ = True

    def __init__(self, n: int):
        self.n = points.whole("n", n, 2)
        self.shape, self.dimension = (self.n, self.n), self.n**2 - 1

    def exp(self, x, v):
        """x e^w for v = x w, by the eigenvectors of -i w."""
        taken = self._ambient(x, v=v)
        xp, (x, v) = taken.xp, taken.arrays
        w = _tangent(_adjoint(x, xp) @ v, xp)
        points.tangent(v, x @ w, taken)
        angles, u = xp.linalg.eigh(-1j * w)
        return taken.back(x @ _conjugated(u, xp.exp(1j * angles), xp))

    def log(self, x, y):
        """The tangent at x of the length of the distance that leads to y; BadInput where there are several."""
        taken = self._given(x=x, y=y)
        xp, (x, y) = taken.xp, taken.arrays
        angles, u = spectrum(_adjoint(x, xp) @ y, xp)
        self._refuse_cut(2 * math.pi - (angles[..., 0] - angles[..., -1]), xp)
        return taken.back(x @ _conjugated(u, 1j * angles, xp))

    def distance(self, x, y):
        """|a| of the angles a of the eigenvalues of x^{-1} y, those of sum 0 within one turn."""
        taken = self._given(x=x, y=y)
        xp, (x, y) = taken.xp, taken.arrays
        found = points.length(spectrum(_adjoint(x, xp) @ y, xp)[0], xp)
        return points.Given((), xp, taken.single).back(found)

    def project(self, x, v=None):
        """The unitary factor of x, its determinant divided out; with v, the part of v that is tangent at x."""
        if v is not None:
            taken = self._ambient(x, v=v)
            return taken.back(self._tangent(*taken.arrays, taken.xp))
        taken = points.given(True, x=x)
        xp, (x,) = taken.xp, taken.arrays
        points.check_shape("x", x, self.shape)
        points.check_finite("x", x, xp)
        u, sizes, vh = xp.linalg.svd(x)
        if bool(xp.any(sizes[..., -1] < 1e-12 * sizes[..., 0] + 1e-100)):
            cause = "a matrix is singular: it has no nearest unitary one"
            raise BadInput(Problem("HW-SP-010", "project", cause, "remove it"))
        return taken.back(_special(u @ vh, xp))

    def random_point(self, rng, size=()):
        """Points of the Haar law, (size, n, n)."""
        points.check_rng(rng)
        return su_law.haar(self.n, points.sizes(size), rng)

    def _drawn(self, x, t, rng):
        """By rejection from wrapped normal or from uniform matrices."""
        return x @ su_law.steps(self.n, t, rng)

    def _tangent(self, x, v, xp):
        return x @ _tangent(_adjoint(x, xp) @ v, xp)

    def _check(self, name, x, single, xp):
        one = xp.eye(self.n, dtype=x.dtype, device=x.device)
        off = xp.max(xp.abs(_adjoint(x, xp) @ x - one), axis=(-2, -1))
        points.check_on(name, off, single, "x^* x differs from 1", "give unitary matrices, or project(x)", xp)
        off = xp.abs(xp.linalg.det(x) - 1)
        points.check_on(name, off, single, "the determinant differs from 1", "divide it out, or project(x)", xp)

    def _pair(self, x, y, t, xp):
        angles, u = spectrum(_adjoint(x, xp) @ y, xp)
        log_p, gradient = su_kernel.log_kernel(angles, t, xp)
        return log_p, lambda: y @ _conjugated(u, 1j * gradient, xp)

    def __repr__(self) -> str:
        return f"SU({self.n})"


def spectrum(w, xp) -> tuple:
    """Angles of the eigenvalues of unitary matrices, descending within one turn and of sum 0, and their eigenvectors.

    Cayley's transform i (1 - cw) / (1 + cw) is Hermitian with eigenvalues tan of half the angles; c turns w so that no
    eigenvalue is near -1. Eigenvectors are orthonormal where eigenvalues coincide, too.
    """
    n = w.shape[-1]
    one = xp.eye(n, dtype=w.dtype, device=w.device)
    best = xp.zeros(w.shape[:-2], dtype=xp.float64, device=w.device)
    start = xp.zeros_like(best)
    for place in range(2 * n):
        angle = math.pi * (place / n - 1)
        size = xp.abs(xp.linalg.det(one + complex(math.cos(angle), -math.sin(angle)) * w))
        start, best = xp.where(size > best, angle, start), xp.where(size > best, size, best)
    turned = xp.exp(-1j * start)[..., None, None] * w
    transform = 1j * xp.linalg.solve(one + turned, one - turned)
    tangents, u = xp.linalg.eigh((transform + _adjoint(transform, xp)) / 2)
    angles = xp.flip(2 * xp.atan(tangents), axis=-1) + start[..., None]
    turns = xp.round(xp.sum(angles, axis=-1, keepdims=True) / (2 * math.pi))
    place = xp.arange(n, dtype=xp.float64, device=w.device) + turns
    wraps = xp.floor(place / n)
    place = xp.astype(place - n * wraps, xp.int64)
    angles = xp.take_along_axis(angles, place, axis=-1) - 2 * math.pi * wraps
    columns = xp.broadcast_to((n - 1 - place)[..., None, :], u.shape)
    return angles - xp.sum(angles, axis=-1, keepdims=True) / n, xp.take_along_axis(u, columns, axis=-1)


def _adjoint(x, xp):
    return xp.conj(x).mT


def _conjugated(u, values, xp):
    """u diag(values) u^*."""
    return (u * values[..., None, :]) @ _adjoint(u, xp)


def _tangent(w, xp):
    """The anti-Hermitian part without trace."""
    w = (w - _adjoint(w, xp)) / 2
    n = w.shape[-1]
    one = xp.eye(n, dtype=w.dtype, device=w.device)
    return w - xp.sum(w * one, axis=(-2, -1), keepdims=True) / n * one


def _special(x, xp):
    """Unitary matrices with their determinant divided out."""
    phase = xp.linalg.det(x)
    angle = xp.atan2(xp.imag(phase), xp.real(phase)) / x.shape[-1]
    return x * xp.exp(-1j * angle)[..., None, None]
