"""Principal angles of Brownian motion on planes in C^4, drawn exactly by rejection.

With y = 1 - cos 2 theta and h as in grassmannian_kernel less its value at 0, their density is proportional to
(h_1 - h_2) (y_1 - y_2) times that of two angles of S^2: at most h_1 y_1 + h_2 y_2 times it. So one angle is proposed
by the law of S^2 and the other by that times h y; a quarter to a half is accepted.
"""

import numpy as np

from heatwalk.spaces import grassmannian_kernel, radial_law


def angles(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(draw,) times -> (draw, 2) principal angles, in either order."""
    found = np.empty((len(t), 2))
    times, which = np.unique(t, return_inverse=True)
    for place, time in enumerate(times):
        waiting = np.flatnonzero(which == place)
        theta, density, slope = (part[0] for part in radial_law.table(2, 4 * times[place : place + 1]))
        tau = np.full(len(theta) + 1, 4 * time)
        planes = grassmannian_kernel.planes(np.append(theta, 0.0), tau, np)
        rate, rate_slope = planes.rate[:-1] - planes.rate[-1], planes.rate_slope[:-1]
        up = 2 * np.sin(theta / 2) ** 2
        raised = density * rate * up
        raised_slope = slope * rate * up + density * np.sin(theta) * (rate - rate_slope * up)
        while len(waiting):
            u = rng.random((3, len(waiting)))
            one = radial_law.inverted(theta, density, slope, u[0])
            other = radial_law.inverted(theta, raised, raised_slope, u[1])
            here = [np.interp(phi, theta, rate) for phi in (one, other)]
            above = [2 * np.sin(phi / 2) ** 2 for phi in (one, other)]
            most = here[0] * above[0] + here[1] * above[1]
            taken = u[2] * most < (here[0] - here[1]) * (above[0] - above[1])
            found[waiting[taken]] = np.stack([one, other], axis=1)[taken] / 2
            waiting = waiting[~taken]
    return found
