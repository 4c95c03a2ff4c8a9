"""Products and powers of spaces: the kernel is the product of the kernels, Brownian motion is one on each factor."""

import math

import numpy as np

from heatwalk.errors import BadInput, Problem
from heatwalk.spaces import points
from heatwalk.spaces.space import Space


class Power(Space):
    """Copies of a space on a grid, such as links of a lattice; points are (*axes, *point), distances sum in squares.

    >>> from heatwalk.spaces import SU
    >>> Power(SU(3), (4, 4)).shape
    (4, 4, 3, 3)
    """

    def __init__(self, space: Space, axes):
        self.space = space
        self.axes = points.sizes(axes)
        if 0 in self.axes or not self.axes:
            raise BadInput(
                Problem("HW-SP-008", "axes", f"{axes!r} hold no copies", "give (4, 4), or a number of copies")
            )
        self.shape = (*self.axes, *space.shape)
        self.dimension = math.prod(self.axes) * space.dimension
        self.complex_, self.slope = space.complex_, space.slope

    def exp(self, x, v):
        """exp of every copy."""
        return self.space.exp(*self._shaped(x=x, v=v))

    def log(self, x, y):
        """log of every copy; BadInput where one pair is antipodal."""
        return self.space.log(*self._shaped(x=x, y=y))

    def distance(self, x, y):
        """The root of the sum of squares of the distances of the copies."""
        found = self.space.distance(*self._shaped(x=x, y=y))
        taken = points.given(found=found)
        flat = taken.xp.reshape(taken.arrays[0], (*found.shape[: found.ndim - len(self.axes)], -1))
        return taken.back(points.length(flat, taken.xp))

    def project(self, x, v=None):
        """Every copy's."""
        return self.space.project(*(self._shaped(x=x) if v is None else self._shaped(x=x, v=v)))

    def random_point(self, rng, size=()):
        """Independent copies, (size, *axes, *point)."""
        return self.space.random_point(rng, points.sizes(size) + self.axes)

    def _drawn(self, x, t, rng):
        times = np.repeat(t, math.prod(self.axes))
        return self.space._drawn(x.reshape(-1, *self.space.shape), times, rng).reshape(x.shape)

    def _tangent(self, x, v, xp):
        return self.space._tangent(x, v, xp)

    def _check(self, name, x, single, xp):
        self.space._check(name, x, single, xp)

    def _pair(self, x, y, t, xp):
        copies = math.prod(self.axes)
        flat = (-1, *self.space.shape)
        times = xp.reshape(xp.broadcast_to(t[:, None], (t.shape[0], copies)), (-1,))
        log_p, gradient = self.space._pair(xp.reshape(x, flat), xp.reshape(y, flat), times, xp)
        return xp.sum(xp.reshape(log_p, (-1, copies)), axis=1), lambda: xp.reshape(gradient(), y.shape)

    def _shaped(self, **named) -> tuple:
        for name, array in named.items():
            points.check_shape(name, array if hasattr(array, "ndim") else np.asarray(array), self.shape)
        return tuple(named.values())

    def __repr__(self) -> str:
        return f"Power({self.space!r}, {self.axes})"


class Product:
    """A space for each factor; a point is a tuple of points, and so are tangents and scores.

    Every method is that of a space, on tuples: Product(SU(3), Torus(2)).log_heat_kernel((u, a), (v, b), t).
    """

    def __init__(self, *spaces):
        if not spaces:
            raise BadInput(Problem("HW-SP-008", "spaces", "a product of none", "give Product(SU(3), Torus(2))"))
        self.spaces = spaces

    def exp(self, x, v):
        """exp of every factor."""
        return self._each("exp", x, v)

    def log(self, x, y):
        """log of every factor."""
        return self._each("log", x, y)

    def distance(self, x, y):
        """The root of the sum of squares of the distances of the factors."""
        taken = points.given(**{f"d{place}": part for place, part in enumerate(self._each("distance", x, y))})
        return taken.back(sum(part**2 for part in taken.arrays) ** 0.5)

    def project(self, x, v=None):
        """That of every factor."""
        return self._each("project", x) if v is None else self._each("project", x, v)

    def random_point(self, rng, size=()):
        """Independent points."""
        return tuple(space.random_point(rng, size) for space in self.spaces)

    def log_heat_kernel(self, x, y, t):
        """The sum over the factors."""
        return sum(space.log_heat_kernel(*pair, t) for space, *pair in self._factors(x, y))

    def score(self, x, y, t):
        """The score of every factor."""
        return tuple(space.score(*pair, t) for space, *pair in self._factors(x, y))

    def sample_heat_kernel(self, x, t, *, rng, size=()):
        """Independent Brownian motions."""
        return tuple(space.sample_heat_kernel(part, t, rng=rng, size=size) for space, part in self._factors(x))

    def _each(self, method: str, *arguments) -> tuple:
        return tuple(getattr(space, method)(*parts) for space, *parts in self._factors(*arguments))

    def _factors(self, *tuples) -> list:
        for part in tuples:
            if not isinstance(part, tuple | list) or len(part) != len(self.spaces):
                cause = f"a point is no tuple of {len(self.spaces)} points"
                raise BadInput(Problem("HW-SP-003", "points", cause, f"give a tuple of points of {self!r}"))
        return list(zip(self.spaces, *tuples, strict=True))

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self.spaces))})"
