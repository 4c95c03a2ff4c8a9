"""Heat kernels in arbitrary precision, by two formulas of each space that share nothing: what the tests compare with.

Digits: 50 + theta^2 / (2 t ln 10), doubled until the value stands.
"""

import itertools

import mpmath as mp


def stable(formula, exponent) -> tuple:
    """log of a positive value and its derivatives over it, computed with more digits until 20 of them stand."""
    digits = int(50 + exponent / mp.log(10))
    previous = None
    while True:
        with mp.workdps(digits):
            value, *slopes = formula()
            found = (mp.log(value), *(slope / value for slope in slopes)) if value > 0 else None
        if found and previous and all(mp.almosteq(a, b, 1e-20, 1e-20) for a, b in zip(found, previous, strict=True)):
            return found
        digits, previous = 2 * digits, found


# ---- spheres -------------------------------------------------------------------------------------------------------


def sphere(d: int, theta: float, t: float) -> tuple:
    """log p and d log p / d cos theta on S^d, by ultraspherical polynomials."""
    return stable(lambda: _sphere_sum(d, mp.mpf(theta), mp.mpf(t)), theta**2 / (2 * t))


def _sphere_sum(d, theta, t) -> tuple:
    u = mp.cos(theta)
    volume = 2 * mp.pi ** (mp.mpf(d + 1) / 2) / mp.gamma(mp.mpf(d + 1) / 2)
    now, before, slope, slope_before = u, mp.mpf(1), mp.mpf(1), mp.mpf(0)
    dimension, total, raised, largest, degree = mp.mpf(d + 1), mp.mpf(1), mp.mpf(0), mp.mpf(0), 1
    while True:
        weight = dimension * mp.exp(-degree * (degree + d - 1) * t / 2)
        total, raised, largest = total + weight * now, raised + weight * slope, max(largest, weight)
        if weight < largest * mp.eps / 1000 and (2 * degree + d) * t > 2 * (d + 1) / mp.mpf(degree):
            return total / volume, raised / volume
        slope_before, slope = (
            slope,
            ((2 * degree + d - 1) * (now + u * slope) - degree * slope_before) / (degree + d - 1),
        )
        before, now = now, ((2 * degree + d - 1) * u * now - degree * before) / (degree + d - 1)
        dimension *= mp.mpf((2 * degree + d + 1) * (degree + d - 1)) / ((2 * degree + d - 1) * (degree + 1))
        degree += 1


def sphere_by_images(d: int, theta: float, t: float) -> mp.mpf:
    """log p for odd d by derivatives of the wrapped normal, whose Taylor series in u comes from an equation in u.

    f = e^{-(theta + 2 pi n)^2 / 2t} as a function of u has f' = f g / t, g = (theta + 2 pi n) / sin theta, and
    (1 - u^2) g' = u g - 1. Not at theta = 0 or pi.
    """
    with mp.workdps(60 + 8 * d):
        theta, t, order = mp.mpf(theta), mp.mpf(t), (d - 1) // 2
        u, total = mp.cos(theta), mp.mpf(0)
        for n in range(-8, 9):
            g = [(theta + 2 * mp.pi * n) / mp.sin(theta)]
            for k in range(order):  # coefficients of powers of (u' - u)
                rest = u * g[k] + (g[k - 1] if k else 0) - (1 if k == 0 else 0)
                rest += 2 * u * k * g[k] + ((k - 1) * g[k - 1] if k else 0)
                g.append(rest / ((k + 1) * (1 - u * u)))
            f = [mp.exp(-((theta + 2 * mp.pi * n) ** 2) / (2 * t))]
            for k in range(order):
                f.append(sum(f[j] * g[k - j] for j in range(k + 1)) / (t * (k + 1)))
            total += f[order]
        scale = mp.factorial(order) / mp.sqrt(2 * mp.pi * t)
        return mp.log(total * scale * (2 * mp.pi) ** -order * mp.exp(mp.mpf(order**2) * t / 2))


def sphere_by_abel(theta: float, t: float) -> mp.mpf:
    """log p on S^2 by Mehler's integral over angles phi > theta, images with alternating signs."""
    with mp.workdps(40):
        theta, t = mp.mpf(theta), mp.mpf(t)
        scale = mp.exp(-(theta**2) / (2 * t))

        def inner(z):  # phi = theta + z^2, so that the square root at theta is smooth
            phi = theta + z * z
            total = mp.fsum(
                (-1) ** n * (phi + 2 * mp.pi * n) * mp.exp(-((phi + 2 * mp.pi * n) ** 2) / (2 * t))
                for n in range(-3, 4)
            )
            chord = mp.sin((phi + theta) / 2) * mp.sin(z * z / 2) / (z * z) * 2 if z else mp.sin(theta)
            return total / scale * 2 / mp.sqrt(chord)

        end = mp.sqrt(mp.pi - theta)
        places = [end * mp.mpf(k) / 24 for k in range(25)]
        whole = mp.quad(inner, places)
        return mp.log(whole * scale * mp.sqrt(2) * mp.exp(t / 8) / (2 * mp.pi * t) ** 1.5)


# ---- circles and rotations -----------------------------------------------------------------------------------------


def circle(theta: float, t: float) -> tuple:
    """log p and d log p / d theta by images."""
    with mp.workdps(60):
        theta, t = mp.mpf(theta), mp.mpf(t)
        near = range(-int(5 + 3 * t), int(6 + 3 * t))
        weights = [(theta + 2 * mp.pi * n, mp.exp(-((theta + 2 * mp.pi * n) ** 2) / (2 * t))) for n in near]
        total = mp.fsum(weight for _, weight in weights)
        slope = -mp.fsum(place * weight for place, weight in weights) / t
        return mp.log(total / mp.sqrt(2 * mp.pi * t)), slope / total


def circle_by_waves(theta: float, t: float) -> tuple:
    def formula():
        a, s = mp.mpf(theta), mp.mpf(t)
        highest = int(mp.sqrt(2 * mp.mp.dps * mp.log(10) / s)) + 2
        waves = [(k, mp.exp(-(k**2) * s / 2)) for k in range(1, highest)]
        total = 1 + 2 * mp.fsum(weight * mp.cos(k * a) for k, weight in waves)
        return total / (2 * mp.pi), -2 * mp.fsum(k * weight * mp.sin(k * a) for k, weight in waves) / (2 * mp.pi)

    return stable(formula, theta**2 / (2 * t))


def so3(theta: float, t: float) -> tuple:
    """log p and d log p / d theta by characters."""

    def formula():
        a, s = mp.mpf(theta), mp.mpf(t)
        highest = int(mp.sqrt(2 * mp.mp.dps * mp.log(10) / s)) + 4
        total, slope, character, derivative = mp.mpf(0), mp.mpf(0), mp.mpf(-1), mp.mpf(0)
        for degree in range(highest):
            weight = (2 * degree + 1) * mp.exp(-degree * (degree + 1) * s / 2)
            character += 2 * mp.cos(degree * a)
            derivative -= 2 * degree * mp.sin(degree * a)
            total += weight * character
            slope += weight * derivative
        return total / (8 * mp.pi**2), slope / (8 * mp.pi**2)

    return stable(formula, theta**2 / (2 * t))


def so3_by_paths(theta: float, t: float) -> mp.mpf:
    with mp.workdps(60):
        theta, t = mp.mpf(theta), mp.mpf(t)
        total = mp.fsum(
            (-1) ** n * (theta + 2 * mp.pi * n) * mp.exp(-((theta + 2 * mp.pi * n) ** 2) / (2 * t))
            for n in range(-20, 21)
        )
        return mp.log(total / (2 * mp.sin(theta / 2)) * mp.exp(t / 8) / (2 * mp.pi * t) ** 1.5)


# ---- SU(n) ---------------------------------------------------------------------------------------------------------


def su(angles, t: float) -> tuple:
    """log p and its derivatives in the angles (sum 0, all different) by the sum over images."""
    n = len(angles)

    def formula():
        a, s = [mp.mpf(angle) for angle in angles], mp.mpf(t)
        a[-1] = -sum(a[:-1])
        total, slopes = mp.mpf(0), [mp.mpf(0)] * n
        reach = int(3 + mp.sqrt(t))
        for k in itertools.product(range(-reach, reach + 1), repeat=n - 1):
            b = [x + 2 * mp.pi * m for x, m in zip(a, (*k, -sum(k)), strict=True)]
            value = mp.exp(-sum(x * x for x in b) / (2 * s))
            for i, j in itertools.combinations(range(n), 2):
                value *= b[i] - b[j]
            total += value
            for i in range(n):
                slopes[i] += value * (sum(1 / (b[i] - b[j]) for j in range(n) if j != i) - b[i] / s)
        below = mp.mpf(1)
        for i, j in itertools.combinations(range(n), 2):
            below *= 2 * mp.sin((a[i] - a[j]) / 2)
        p = total / below
        half = [sum(mp.cot((a[i] - a[j]) / 2) for j in range(n) if j != i) / 2 for i in range(n)]
        slopes = [slope / below - p * cot for slope, cot in zip(slopes, half, strict=True)]
        mean = sum(slopes) / n
        scale = (2 * mp.pi * s) ** (mp.mpf(1 - n * n) / 2) * mp.exp(mp.mpf(n * (n * n - 1)) * s / 24)
        return scale * p, *(scale * (slope - mean) for slope in slopes)

    return stable(formula, 30 + sum(angle**2 for angle in angles) / (2 * t))


def su_by_characters(angles, t: float, cut: int) -> mp.mpf:
    """log p by Schur polynomials of all partitions with first part at most `cut`, as quotients of determinants."""
    n = len(angles)
    with mp.workdps(80):
        a, t = [mp.mpf(angle) for angle in angles], mp.mpf(t)
        a[-1] = -sum(a[:-1])
        z = [mp.expjpi(x / mp.pi) for x in a]
        powers = {(i, k): z[i] ** k for i in range(n) for k in range(cut + n)}
        vandermonde = mp.det(mp.matrix([[powers[i, n - 1 - j] for j in range(n)] for i in range(n)]))
        total = mp.mpf(0)
        for parts in itertools.combinations_with_replacement(range(cut, -1, -1), n - 1):
            shifted = [part + n - 1 - j for j, part in enumerate((*parts, 0))]
            centre = mp.mpf(sum(shifted)) / n
            casimir = sum((m - centre) ** 2 for m in shifted) - mp.mpf(n * (n * n - 1)) / 12
            if casimir * t / 2 > 150:
                continue
            dimension = mp.mpf(1)
            for i, j in itertools.combinations(range(n), 2):
                dimension *= mp.mpf(shifted[i] - shifted[j]) / (j - i)
            schur = mp.det(mp.matrix([[powers[i, m] for m in shifted] for i in range(n)])) / vandermonde
            total += dimension * mp.exp(-casimir * t / 2) * schur.real
        volume = mp.sqrt(n) * (2 * mp.pi) ** (mp.mpf((n - 1) * (n + 2)) / 2)
        for k in range(1, n):
            volume /= mp.factorial(k)
        return mp.log(total / volume)


# ---- planes in C^4 -------------------------------------------------------------------------------------------------


def planes(phi, t: float) -> tuple:
    """log p and its derivatives in x = cos phi, by the determinant of two sums of Legendre polynomials."""

    def formula():
        (one, other), s = (mp.cos(mp.mpf(float(angle))) for angle in phi), mp.mpf(t)
        (a, b, da, db), (c, d, dc, dd) = (_legendre(part, s) for part in (one, other))
        value, gap = c * b - a * d, one - other
        p = value / gap
        return p * 2 * mp.exp(4 * s) / mp.pi**4, *(
            part * 2 * mp.exp(4 * s) / mp.pi**4
            for part in ((c * db - da * d) / gap - p / gap, (dc * b - a * dd) / gap + p / gap)
        )

    return stable(formula, 60 + sum(float(angle) ** 2 for angle in phi) / (8 * t))


def _legendre(x, t) -> list:
    """sum (2 l + 1) e^{-2 l (l + 1) t} P_l and the same with l (l + 1) in each term, then their derivatives."""
    sums, before, now = [mp.mpf(1), mp.mpf(0), mp.mpf(0), mp.mpf(0)], (mp.mpf(1), mp.mpf(0)), (x, mp.mpf(1))
    for degree in range(1, int(mp.sqrt(mp.mp.dps * 2.4 / (2 * t))) + 4):
        weight = (2 * degree + 1) * mp.exp(-2 * degree * (degree + 1) * t)
        for place in range(4):
            sums[place] += weight * now[place // 2] * (degree * (degree + 1)) ** (place % 2)
        following = ((2 * degree + 1) * x * now[0] - degree * before[0]) / (degree + 1)
        slope = ((2 * degree + 1) * (now[0] + x * now[1]) - degree * before[1]) / (degree + 1)
        before, now = now, (following, slope)
    return sums
