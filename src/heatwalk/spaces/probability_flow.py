"""Brownian motion by its probability flow on the maximal torus: a second way to its law, slower than the samplers.

Angles of the uniform law at a late time follow d theta / dt = -grad log p_t(theta) / 2 back to t; points at those
angles in uniform directions have the law of the heat kernel. Source: arXiv 2310.20030.
"""

import itertools

import numpy as np

from heatwalk.errors import BadInput, Problem
from heatwalk.spaces import points, sphere_kernel, su_kernel
from heatwalk.spaces.sphere import Sphere
from heatwalk.spaces.su import SU, spectrum
from heatwalk.spaces.su_law import haar


def angles(space, t: float, *, rng: np.random.Generator, size: int, steps: int = 200) -> np.ndarray:
    """(size,) angles of Brownian motion on a sphere, or (size, n) on SU(n), by the classical Runge-Kutta method.

    Steps are even in log t. They start where the slowest mode is e^{-20}: the law differs from the uniform one by 1e-8.
    """
    points.check_rng(rng)
    if isinstance(space, Sphere):
        start, late = space.distance(space.random_point(rng, size), space.random_point(rng)), 40 / space.d

        def slope(a, s):
            return -np.sin(a) * sphere_kernel.log_kernel(space.d, a, s, np)[1]

    elif isinstance(space, SU):
        start, late = spectrum(haar(space.n, (size,), rng), np)[0], 40 * space.n / (space.n**2 - 1)

        def slope(a, s):
            return su_kernel.log_kernel(a, s, np)[1]

    else:
        raise BadInput(Problem("HW-SP-008", "space", f"no flow on {space!r}", "give a Sphere or SU(n)"))
    if t >= late:
        return start
    times = np.geomspace(late, t, steps + 1)
    width = np.log(times[1] / times[0])

    def velocity(a, time):  # in log t
        return -time / 2 * slope(a, np.full(len(a), time))

    for now, after in itertools.pairwise(times):
        middle = np.sqrt(now * after)
        one = velocity(start, now)
        two = velocity(start + width / 2 * one, middle)
        three = velocity(start + width / 2 * two, middle)
        four = velocity(start + width * three, after)
        start = start + width / 6 * (one + 2 * two + 2 * three + four)
    return start
