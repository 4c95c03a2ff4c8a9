"""What every space has: points are checked, leading axes broadcast, precision and library are the caller's."""

from abc import ABC, abstractmethod

from heatwalk.errors import BadInput, Problem
from heatwalk.spaces import points, sampling


class Space(ABC):
    """A Riemannian space with the kernel of exp(t/2 Laplacian), a density for the Riemannian volume.

    t is the variance of Brownian motion. NumPy arrays in give NumPy arrays, torch tensors give tensors on the same
    device, of the same precision; the arithmetic is in double precision. Leading axes broadcast; one pair gives a
    scalar.
    Points that are off the space by more than 1e-6 (1e-4 in single precision) raise BadInput; none is mended silently.
    """

    shape: tuple[int, ...]  # of one point
    dimension: int
    complex_ = False  # whether points are complex
    slope = 1.0  # the ambient gradient of a function, in units of its Riemannian gradient

    # ---- what each space has of its own: arrays in double precision, leading axes alike

    @abstractmethod
    def _check(self, name: str, x, single: bool, xp) -> None:
        """Raise BadInput for points off the space."""

    @abstractmethod
    def _pair(self, x, y, t, xp) -> tuple:
        """log p of (pair, ...) points and (pair,) times, and a function that gives its Riemannian gradient in y."""

    @abstractmethod
    def _drawn(self, x, t, rng):
        """A point of the law p_t(x, .) for each of (draw, ...) NumPy points and (draw,) times."""

    def _tangent(self, x, v, xp):
        """The part of v that is tangent at x, unchecked: x may be off by what an integrator leaves."""
        return v

    # ---- what all have

    def sample_heat_kernel(self, x, t, *, rng, size=()):
        """(size, ...) points of the law p_t(x, .), drawn exactly with a numpy.random.Generator."""
        return sampling.sampled(self, x, t, rng, size)

    def log_heat_kernel(self, x, y, t):
        """log p_t(x, y); gradients of torch tensors flow to x and y, and are finite at the cut locus and at x = y."""
        if any(getattr(point, "requires_grad", False) for point in (x, y)):
            from heatwalk.spaces.gradients import LogHeatKernel

            return LogHeatKernel.apply(self, x, y, t)
        return self._kernel(x, y, t, False)

    def score(self, x, y, t):
        """The Riemannian gradient of log p_t(x, y) in y, as an ambient tangent of the shape of y.

        It is zero at a cut point where symmetry leaves no direction, such as the antipode. Of torch tensors it is
        detached: it has no gradient of its own.
        """
        x, y = (point.detach() if hasattr(point, "detach") else point for point in (x, y))
        return self._kernel(x, y, t, True)

    def _kernel(self, x, y, t, gradient: bool):
        taken = self._given(x=x, y=y)
        xp, (x, y) = taken.xp, taken.arrays
        axes = len(self.shape)
        shape, x, y, t = points.broadcast(xp, (x, axes), (y, axes), (points.time(t, x, xp), 0))
        flat = (-1, *self.shape)
        log_p, slopes = self._pair(xp.reshape(x, flat), xp.reshape(y, flat), xp.reshape(t, (-1,)), xp)
        return taken.back(xp.reshape(slopes(), shape + self.shape) if gradient else xp.reshape(log_p, shape))

    def _given(self, **named) -> points.Given:
        """Points of the space, checked."""
        taken = points.given(self.complex_, **named)
        for name, point in zip(named, taken.arrays, strict=True):
            points.check_shape(name, point, self.shape)
            points.check_finite(name, point, taken.xp)
            self._check(name, point, taken.single, taken.xp)
        return taken

    def _ambient(self, x, **named) -> points.Given:
        """A point of the space, and arrays of the same shape that need not lie on it."""
        taken = self._given(x=x)
        both = points.given(self.complex_, x=x, **named)
        for name, array in zip(named, both.arrays[1:], strict=True):
            points.check_shape(name, array, self.shape)
            points.check_finite(name, array, both.xp)
        return points.Given(taken.arrays + both.arrays[1:], both.xp, both.single)

    def _refuse_cut(self, gap, xp) -> None:
        """`log` of a pair whose distance from the cut locus is a rounding error."""
        count = int(xp.sum(xp.astype(gap <= 1e-14, xp.int64)))
        if count:
            cause = f"{count} of the pairs are antipodal: many shortest paths join them"
            raise BadInput(Problem("HW-SP-009", "log", cause, "move one point; heat kernel and score are finite there"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
