r"""The heat kernel of S^d as a function of the angle, by one contour integral for every d, and by eigenfunctions.

With u = cos theta and nu = (d - 1) / 2, kernels of dimensions d and d + 2 differ by a derivative,
p_{d+2} = e^{dt/2} / (2 pi) dp_d / du, so that p_d is the derivative of order nu of the wrapped normal p_1 (of its
alternating twin, for even d, where nu is half a whole number). By Cauchy's formula, all images of the wrapped normal on
one contour in q = phi^2 / 2:

    p_d(theta, t) = (2 pi)^{-nu} e^{nu^2 t / 2} Gamma(nu + 1) (2 pi t)^{-1/2}
                    1 / (2 pi i) int e^{-q / t} (sin phi / phi) (cos phi - u)^{-nu - 1} dq

around [theta^2 / 2, infinity). On the parabola q = theta^2 / 2 - rho (1 + i s)^2 through the saddle rho the integrand
falls as a Gaussian in s, and the trapezoid rule converges exponentially. Derived in docs/heat_kernels.md.
"""

import math
from functools import partial

import numpy as np
from array_api_compat import device

from heatwalk.spaces import sphere_compiled
from heatwalk.spaces.points import by_condition, in_blocks
from heatwalk.spaces.sphere_compiled import LOST, NEWTON


def log_kernel(d: int, theta, t, xp) -> tuple:
    """(pair,) angles in [0, pi] and times -> log p, and the derivative of log p in u = cos theta.

    The gradient of log p in y is that derivative times the gradient of x . y: no singularity at 0 nor at pi.
    """

    def by_block(theta, t):
        many = (d + 1) * xp.exp(-d * t / 2) > 0.5  # the first eigenfunction is no small correction
        return by_condition(xp, many, partial(by_contour, d, xp=xp), partial(by_eigenfunctions, d, xp=xp), theta, t)

    return in_blocks(by_block, xp, theta, t)


def log_volume(d: int) -> float:
    """log of 2 pi^{(d+1)/2} / Gamma((d+1)/2)."""
    return math.log(2) + (d + 1) / 2 * math.log(math.pi) - math.lgamma((d + 1) / 2)


def nodes(d: int) -> int:
    """Of the trapezoid rule on half the contour, beside its middle: errors of 1e-12 or less."""
    return 36 if d < 3 else 30 if d < 5 else 26 if d < 10 else 20 if d < 32 else 16


def saddle(nu: float, theta, t, xp):
    """rho with (cos phi - cos theta) phi / sin phi = (nu + 1) t at phi^2 = theta^2 - 2 rho, by Newton's method."""
    wanted = (nu + 1) * t
    rho = wanted
    for _ in range(NEWTON):
        square = theta * theta - 2 * rho
        root = xp.sqrt(xp.abs(square)) + 1e-150
        real = square > 0
        sine = xp.where(real, xp.sin(root), xp.sinh(root)) / root
        cosine = xp.where(real, xp.cos(root), xp.cosh(root))
        above = cosine - xp.cos(theta)
        slope = xp.where(root < 1e-2, 1 / 3 - square / 30, (sine - cosine) / xp.where(real, root, -root) / root)
        moved = rho - (above / sine - wanted) / (1 - above * slope / sine**2)
        rho = xp.where(moved > rho / 4, moved, rho / 4)
    return rho


def by_contour(d: int, theta, t, xp) -> tuple:
    """The contour integral; on a CPU many pairs are taken by a compiled twin."""
    nu = (d - 1) / 2
    if theta.shape[0] >= sphere_compiled.FEWEST and "cpu" in str(device(theta)):
        found = sphere_compiled.by_contour(d, nodes(d), np.asarray(theta), np.asarray(t))
        log_p, slope = (xp.asarray(part) for part in found)
    else:
        log_p, slope = _contour(d, theta, t, xp)
    constant = math.lgamma(nu + 1) - (nu + 0.5) * math.log(2 * math.pi) + math.log(2 / math.pi)
    return log_p + constant + nu * nu * t / 2 - xp.log(t) / 2, slope


def _contour(d: int, theta, t, xp) -> tuple:
    """log p without its constant, and the derivative of log p in u."""
    highest, _, above, values = contour_values(d, theta, t, xp)
    sums = [mean(part, xp) for part in (values, values / above)]
    log_p = highest - theta**2 / (2 * t) + xp.log(sums[0])
    return log_p, (d + 1) / 2 * sums[1] / sums[0]


def mean(values, xp):
    """The trapezoid rule over both halves of the contour, which are conjugate."""
    return xp.sum(xp.real(values), axis=1) - xp.real(values[:, 0]) / 2


def contour_values(d: int, theta, t, xp) -> tuple:
    """Along half the contour, (pair, node): log of the scale, theta^2 / 2 - q, cos phi - u, the scaled integrand."""
    half, power = nodes(d), (d + 1) / 2
    rho = saddle(power - 1, theta, t, xp)
    steep = rho / t
    step = xp.sqrt(LOST / steep) / half
    turned = 1 + 1j * step[:, None] * xp.arange(half + 1, dtype=xp.float64, device=theta.device)
    rise = rho[:, None] * turned * turned
    phi = xp.sqrt(theta[:, None] ** 2 - 2 * rise)
    phi = xp.where(xp.imag(phi) > 0, -phi, phi) + 1e-150
    total = theta[:, None] + phi
    above = 2 * xp.sin(rise / total) * xp.sin(total / 2)  # theta - phi = 2 rise / total: full relative precision
    # e^{i phi} (1 - e^{i (theta - phi)}) (1 - e^{-i (theta + phi)}) / 2: in this form the logarithm is continuous
    logarithm = 1j * phi + xp.log(2 * above * xp.exp(-1j * phi)) - math.log(2)
    exponent = steep[:, None] * turned * turned - power * logarithm
    highest = xp.real(exponent[:, 0])
    values = xp.exp(exponent - highest[:, None]) * xp.sin(phi) / phi * turned
    return highest, rise, above, values * (step * rho)[:, None]


def by_eigenfunctions(d: int, theta, t, xp, terms: int | None = None) -> tuple:
    """p = sum_l dim_l e^{-l(l+d-1)t/2} P_l(u) / volume, P_l the ultraspherical polynomials with P_l(1) = 1.

    Without `terms`, as many as matter where the first is less than a half. dP_l / du is that of P_{l-1} of S^{d+2}.
    """
    u = xp.cos(theta)
    shortest = float(xp.min(t)) if t.shape[0] else 1.0
    before, now, slope_before, slope = xp.ones_like(u), u, xp.zeros_like(u), xp.ones_like(u)
    total, raised = xp.zeros_like(u), xp.zeros_like(u)
    log_dimension, degree = math.log(d + 1), 1
    least = log_dimension - d * shortest / 2 - 40  # beside the first: it alone makes the gradient at large times
    while degree <= terms if terms else log_dimension - degree * (degree + d - 1) * shortest / 2 > least:
        weight = xp.exp(log_dimension - degree * (degree + d - 1) * t / 2)
        total, raised = total + weight * now, raised + weight * slope
        down, up, scale = degree, 2 * degree + d - 1, degree + d - 1
        slope_before, slope = slope, (up * (now + u * slope) - down * slope_before) / scale
        before, now = now, (up * u * now - down * before) / scale
        log_dimension += math.log((2 * degree + d + 1) * scale / (up * (degree + 1)))
        degree += 1
    return xp.log1p(total) - log_volume(d), raised / (1 + total)
