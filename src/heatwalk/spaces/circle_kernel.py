r"""The heat kernel of the circle of radius 1: a wrapped normal by its images, or by Fourier's series from t = 2 pi on.

    p(theta, t) = (2 pi t)^{-1/2} sum_n e^{-(theta + 2 pi n)^2 / 2t} = (1 + 2 sum_k e^{-k^2 t / 2} cos k theta) / 2 pi

At t = 2 pi both fall as e^{-pi n^2}: four terms of either are enough for every time. Source: Jacobi's identity.
"""

import math
from functools import partial

from heatwalk.spaces.points import by_condition, in_blocks

_IMAGES, _WAVES = (-4, -3, -2, -1, 1, 2, 3, 4), (1, 2, 3, 4)


def log_kernel(theta, t, xp) -> tuple:
    """(pair,) angles in [-pi, pi] and times -> log p and its derivative in theta."""
    images, waves = partial(_images, xp=xp), partial(_waves, xp=xp)
    return in_blocks(lambda theta, t: by_condition(xp, t < 2 * math.pi, images, waves, theta, t), xp, theta, t)


def _images(theta, t, xp) -> tuple:
    total, moved = xp.ones_like(theta), xp.zeros_like(theta)
    for n in _IMAGES:  # beside the nearest
        weight = xp.exp(-2 * math.pi * n * (theta + math.pi * n) / t)
        total, moved = total + weight, moved + 2 * math.pi * n * weight
    return xp.log(total) - theta**2 / (2 * t) - xp.log(2 * math.pi * t) / 2, -(theta + moved / total) / t


def _waves(theta, t, xp) -> tuple:
    total, slope = xp.zeros_like(theta), xp.zeros_like(theta)
    for k in _WAVES:
        weight = 2 * xp.exp(-k * k * t / 2)
        total, slope = total + weight * xp.cos(k * theta), slope - k * weight * xp.sin(k * theta)
    return xp.log1p(total) - math.log(2 * math.pi), slope / (1 + total)
