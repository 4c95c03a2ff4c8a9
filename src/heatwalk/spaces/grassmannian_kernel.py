r"""The heat kernel of the complex Grassmannian of planes in C^4, as a function of two principal angles theta.

In x = cos 2 theta the radial Laplacian is that of two spheres S^2 of radius 1/2, conjugated by x_1 - x_2, so that the
kernel is a determinant of the kernel g of S^2 and of its derivative in time (Berezin and Karpelevich's spherical
functions, summed). With tau = 4 t, phi = 2 theta and h = e^tau d log g / d tau:

    p = (64 / pi^2) g(phi_1, tau) g(phi_2, tau) (h(phi_1) - h(phi_2)) / (x_2 - x_1)

Where angles are close, the quotient is the mean of -dh/dx between them. Derived in docs/heat_kernels.md.
"""

import itertools
import math
from functools import partial
from typing import NamedTuple

import numpy as np

from heatwalk.spaces import points, sphere_kernel

_BETWEEN = np.polynomial.legendre.leggauss(8)
_DEGREES = 8  # of Legendre polynomials, where 3 e^{-4t} is at most a half
_CONSTANT = math.log(64 / math.pi**2)


class Planes(NamedTuple):
    """Of S^2, at angles phi and time tau: derivatives in u = cos phi, and in tau, the latter times e^tau."""

    log_g: object
    slope: object  # d log g / du
    rate: object  # h = e^tau d log g / d tau
    rate_slope: object  # dh / du
    rate_bend: object  # d^2 h / du^2


def log_kernel(phi, t, xp) -> tuple:
    """(pair, 2) angles phi and (pair,) times -> log p, and its derivatives in x = cos phi, (pair, 2)."""

    def late(phi, t):
        return _late(xp.cos(phi), t, xp)

    def by_block(phi, t):
        return points.by_condition(xp, 3 * xp.exp(-4 * t) > 0.5, partial(_early, xp=xp), late, phi, t)

    return points.in_blocks(by_block, xp, phi, t)


def _early(phi, t, xp) -> tuple:
    tau = 4 * t
    apart = xp.abs(phi[:, 0] - phi[:, 1]) > xp.minimum(tau, xp.full_like(tau, 0.2))
    first, second = (planes(phi[:, i], tau, xp) for i in (0, 1))

    def far(phi, tau, *parts):
        return _apart(phi, *parts, xp)

    def near(phi, tau, *parts):
        return _close(phi, tau, xp)

    parts = (first.rate, second.rate, first.rate_slope, second.rate_slope)
    quotient, left, right = points.by_condition(xp, apart, far, near, phi, tau, *parts)
    gradient = xp.stack([first.slope + left / quotient, second.slope + right / quotient], axis=1)
    return _CONSTANT + first.log_g + second.log_g + xp.log(quotient), gradient


def _late(x, t, xp) -> tuple:
    """The sum over n > m of (P_n(x_1) P_m(x_2) - P_m(x_1) P_n(x_2)) / (x_1 - x_2), by divided differences D_n."""
    one, other = x[:, 0], x[:, 1]
    unit, zero = xp.ones_like(one), xp.zeros_like(one)
    # of every degree: P_n and its derivative at x_2, D_n and its derivatives in x_1 and x_2
    rows = [(unit, zero, zero, zero, zero), (other, unit, unit, zero, zero)]
    for n in range(1, _DEGREES):
        p, dp, d, left, right = rows[-1]
        moved = (other * p, p + other * dp, one * d + p, d + one * left, one * right + dp)
        rows.append(tuple(((2 * n + 1) * new - n * old) / (n + 1) for new, old in zip(moved, rows[-2], strict=True)))
    total, slopes = zero, [zero, zero]
    for n, m in itertools.combinations(range(_DEGREES, -1, -1), 2):
        (p, dp, d, left, right), (q, dq, e, up, down) = rows[n], rows[m]
        order = n * (n + 1) + m * (m + 1) - 2
        weight = (2 * n + 1) * (2 * m + 1) * (n * (n + 1) - m * (m + 1)) / 6 * xp.exp(-2 * order * t)
        total = total + weight * (d * q - e * p)
        slopes[0] = slopes[0] + weight * (left * q - up * p)
        slopes[1] = slopes[1] + weight * (right * q + d * dq - down * p - e * dp)
    return math.log(12 / math.pi**4) + xp.log(total), xp.stack(slopes, axis=1) / total[:, None]


def _apart(phi, one, other, one_slope, other_slope, xp) -> tuple:
    """(h_1 - h_2) / (x_2 - x_1) and its derivatives in x_1 and x_2."""
    gap = 2 * xp.sin((phi[:, 0] - phi[:, 1]) / 2) * xp.sin((phi[:, 0] + phi[:, 1]) / 2)  # x_2 - x_1
    quotient = (one - other) / gap
    return quotient, (one_slope + quotient) / gap, -(other_slope + quotient) / gap


def _close(phi, tau, xp) -> tuple:
    """The same as means of derivatives of h between x_1 and x_2."""
    square = xp.sin(phi / 2) ** 2  # (1 - x) / 2
    quotient, left, right = 0.0, 0.0, 0.0
    for place, weight in zip((_BETWEEN[0] + 1) / 2, _BETWEEN[1] / 2, strict=True):
        between = square[:, 0] + place * (square[:, 1] - square[:, 0])
        found = planes(2 * xp.asin(xp.sqrt(between)), tau, xp)
        quotient = quotient - weight * found.rate_slope
        left, right = left - weight * (1 - place) * found.rate_bend, right - weight * place * found.rate_bend
    return quotient, left, right


def planes(phi, tau, xp) -> Planes:
    """By the contour integral of sphere_kernel, or by Legendre polynomials where they are few."""
    contour, waves = (lambda phi, tau: _contour(phi, tau, xp)), (lambda phi, tau: _waves(phi, tau, xp))
    return Planes(*points.by_condition(xp, 3 * xp.exp(-tau) > 0.5, contour, waves, phi, tau))


def _contour(phi, tau, xp) -> tuple:
    # The integrand is e^{-q / tau} (cos - u)^{-3/2}: derivatives bring down powers of q / tau^2 and of 1 / (cos - u).
    highest, rise, above, values = sphere_kernel.contour_values(2, phi, tau, xp)
    mass = sphere_kernel.mean(values, xp)
    once, twice = (sphere_kernel.mean(values / above**k, xp) / mass for k in (1, 2))
    moments = [sphere_kernel.mean(-rise * values / above**k, xp) / mass for k in (0, 1, 2)]
    rate = 1 / 8 - 1 / (2 * tau) + (phi**2 / 2 + moments[0]) / tau**2
    grow = xp.exp(tau)
    covariance, other = (grow * (moments[k] - moments[0] * part) / tau**2 for k, part in ((1, once), (2, twice)))
    constant = math.lgamma(1.5) - math.log(2 * math.pi) + math.log(2 / math.pi)
    log_g = constant + tau / 8 - xp.log(tau) / 2 + highest - phi**2 / (2 * tau) + xp.log(mass)
    return log_g, 1.5 * once, grow * rate, 1.5 * covariance, 3.75 * other - 4.5 * once * covariance


def _waves(phi, tau, xp) -> tuple:
    u, one = xp.cos(phi), xp.ones_like(phi)
    zero = xp.zeros_like(phi)
    before, now = (one, zero, zero), (u, one, zero)  # P_l and its derivatives
    sums, rates = [one, zero, zero], [zero, zero, zero]
    for degree in range(1, 12):  # from tau = 1.8 on the rest is below 1e-60
        weight = (2 * degree + 1) * xp.exp(-degree * (degree + 1) * tau / 2)
        fall = (2 * degree + 1) * degree * (degree + 1) / 2 * xp.exp(-(degree * (degree + 1) / 2 - 1) * tau)
        for k in range(3):
            sums[k] = sums[k] + weight * now[k]
            rates[k] = rates[k] - fall * now[k]
        raised = (u * now[0], now[0] + u * now[1], 2 * now[1] + u * now[2])
        following = [
            ((2 * degree + 1) * new - degree * old) / (degree + 1) for new, old in zip(raised, before, strict=True)
        ]
        before, now = now, tuple(following)
    total, slope, bend = sums[0], sums[1] / sums[0], sums[2] / sums[0]
    rate, rate_slope, rate_bend = (part / total for part in rates)
    first = rate_slope - slope * rate
    second = rate_bend - bend * rate - 2 * slope * first
    return xp.log(total) - math.log(4 * math.pi), slope, rate, first, second
