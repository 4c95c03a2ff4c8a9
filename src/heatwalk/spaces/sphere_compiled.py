"""The contour integral of sphere_kernel pair by pair, compiled: the same sum without temporary arrays."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

LOST = 32.0  # natural logarithm of what the contour leaves out
NEWTON = 4  # steps to the saddle; the contour need not pass it exactly
FEWEST = 4000  # pairs that are worth compiling for


def by_contour(d: int, half: int, theta: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(pair,) angles and times -> log p without its constant, and the derivative of log p in cos theta."""
    log_p, slope = np.empty(len(theta)), np.empty(len(theta))
    _compiled()((d - 1) / 2, half, theta, t, log_p, slope)
    return log_p, slope


@lru_cache(maxsize=1)
def _parts() -> tuple[Callable, ...]:
    import numba

    compiled = numba.njit(nogil=True, error_model="numpy")

    @compiled
    def saddle(nu, theta, t):
        u, wanted = math.cos(theta), (nu + 1) * t
        rho = wanted
        for _ in range(NEWTON):
            square = theta * theta - 2 * rho
            root = math.sqrt(abs(square)) + 1e-150
            if square > 0:
                sine, cosine = math.sin(root) / root, math.cos(root)
            else:
                sine, cosine = math.sinh(root) / root, math.cosh(root)
            slope = 1 / 3 - square / 30 if root < 1e-2 else (sine - cosine) / square
            above = cosine - u
            moved = rho - (above / sine - wanted) / (1 - above * slope / sine**2)
            rho = max(moved, rho / 4)
        return rho

    @compiled
    def half_sine(real, imaginary):
        """sin(z / 2), real and imaginary part."""
        real, imaginary = real / 2, imaginary / 2
        if abs(real) + abs(imaginary) < 0.1:
            z = complex(real, imaginary)
            square = z * z
            found = z * (1 - square / 6 * (1 - square / 20 * (1 - square / 42)))
            return found.real, found.imag
        grow = math.exp(imaginary)
        return math.sin(real) * (grow + 1 / grow) / 2, math.cos(real) * (grow - 1 / grow) / 2

    @compiled
    def root(x, y):
        """Of x + i y, with the imaginary part that is not positive."""
        size = math.sqrt(x * x + y * y)
        if x > 0:
            real = math.sqrt((size + x) / 2)
            imaginary = y / (2 * real)
            return (-real, -imaginary) if imaginary > 0 else (real, imaginary)
        imaginary = -math.sqrt((size - x) / 2)
        return y / (2 * imaginary - 1e-300), imaginary

    return saddle, half_sine, root


@lru_cache(maxsize=1)
def _compiled() -> Callable:
    import numba

    saddle, half_sine, root = _parts()

    @numba.njit(nogil=True, error_model="numpy")
    def contour(nu, half, theta, t, log_p, slopes):
        for pair in range(len(theta)):
            angle, time = theta[pair], t[pair]
            rho = saddle(nu, angle, time)
            steep = rho / time
            step = math.sqrt(LOST / steep) / half
            sine, cosine = math.sin(angle / 2), math.cos(angle / 2)
            highest, total, raised = 0.0, 0.0, 0.0
            for node in range(half + 1):
                s = step * node
                square = 1 - s * s  # (1 + i s)^2 = square + 2 i s
                a, b = root(angle * angle - 2 * rho * square, -4 * rho * s)
                a += 1e-150
                # sin and cos of phi / 2, phi = a + i b
                grow = math.exp(b / 2)
                mean, difference = (1 / grow + grow) / 2, (grow - 1 / grow) / 2
                real, imaginary = math.cos(a / 2), math.sin(a / 2)
                half_cosine = complex(real * mean, -imaginary * difference)
                half_phi = complex(imaginary * mean, real * difference)
                if abs(a) + abs(b) < 0.2:
                    half_phi = complex(*half_sine(a, b))
                # theta - phi = gap / (theta + phi), to full relative precision
                below = 1 / ((angle + a) ** 2 + b * b)
                less = complex(2 * rho * square, 4 * rho * s) * complex((angle + a) * below, -b * below)
                above = 2 * complex(*half_sine(less.real, less.imag)) * (sine * half_cosine + cosine * half_phi)
                # cos phi - u = e^{i phi} (1 - ...)(1 - ...) / 2: in this form the logarithm is continuous
                turn = grow * complex(real, -imaginary)
                bent = 2 * above * turn * turn
                modulus = bent.real * bent.real + bent.imag * bent.imag
                size = steep * square - (nu + 1) * (math.log(modulus) / 2 - b - math.log(2.0))
                phase = 2 * steep * s - (nu + 1) * (math.atan2(bent.imag, bent.real) + a)
                if node == 0:
                    highest = size
                size = math.exp(size - highest)
                below = 2 * size / (a * a + b * b)
                value = half_phi * half_cosine * complex(a * below, -b * below) * complex(1.0, s)
                value *= complex(math.cos(phase), math.sin(phase))
                share = 1.0 if node else 0.5
                total += share * value.real
                below = 1 / (above.real * above.real + above.imag * above.imag)
                raised += share * (value.real * above.real + value.imag * above.imag) * below
                if size < 1e-14:
                    break
            log_p[pair] = highest - angle**2 / (2 * time) + math.log(total * step * rho)
            slopes[pair] = (nu + 1) * raised / total

    return contour
