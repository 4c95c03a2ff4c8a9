r"""The heat kernel of SU(n), Frobenius metric, as a function of the angles a of the eigenvalues of x^{-1} y, sum a = 0.

Sum over paths (Poisson's sum of the characters), b = a + 2 pi k over whole k with sum 0:

    p = (2 pi t)^{-(n^2 - 1) / 2} e^{n (n^2 - 1) t / 24}
        sum_k prod_{i<j} (b_i - b_j) / (2 sin((a_i - a_j) / 2)) e^{-|b|^2 / 2t}

Angles are those of the shortest path: in descending order within one turn. Where no other path comes near, its term
stands alone. Elsewhere terms cancel as a_i - a_j comes to 0 or 2 pi, and p, an entire function of a, is its own mean
over a circle in the complex plane, a + r e^{i alpha} (n - 1, ..., 1 - n) / 2, on which nothing cancels. From t = 1.5
on, characters. Derived in docs/heat_kernels.md.
"""

import itertools
import math
from functools import lru_cache, partial

import numpy as np

from heatwalk.spaces import points

_LATE = 1.5  # times from which characters take over
_NODES = 28  # of the circle
_RADIUS = 1.0  # in units of t / 2 pi
_LOST = 42.0  # natural logarithm of terms left out


def log_kernel(a, t, xp) -> tuple:
    """(pair, n) angles and (pair,) times -> log p and its gradient in the angles, (pair, n), with sum 0."""
    n = a.shape[1]

    def early(a, t):
        alone = 2 * math.pi - (a[:, 0] - a[:, -1]) > _LOST / (2 * math.pi) * t
        return points.by_condition(xp, alone, partial(_one_path, xp=xp), partial(_many_paths, xp=xp), a, t)

    def by_block(a, t):
        log_p, gradient = points.by_condition(xp, t < _LATE, early, partial(by_characters, xp=xp), a, t)
        return log_p, gradient - xp.sum(gradient, axis=1, keepdims=True) / n

    return points.in_blocks(by_block, xp, a, t)


def log_volume(n: int) -> float:
    """log of sqrt(n) (2 pi)^{(n-1)(n+2)/2} / prod_{k<n} k!."""
    return (
        math.log(n) / 2 + (n - 1) * (n + 2) / 2 * math.log(2 * math.pi) - sum(math.lgamma(k + 1) for k in range(1, n))
    )


def _scale(n: int, t, xp):
    return n * (n * n - 1) * t / 24 - (n * n - 1) / 2 * xp.log(2 * math.pi * t)


def _one_path(a, t, xp) -> tuple:
    """log of prod x / sin x, x = (a_i - a_j) / 2, beside the Gaussian."""
    half = (a[:, :, None] - a[:, None, :]) / 2
    small = xp.abs(half) < 0.1
    safe = xp.where(small, xp.ones_like(half), half)
    square = xp.where(small, half, xp.zeros_like(half)) ** 2
    series = half * (1 / 3 + square * (1 / 45 + square * (2 / 945 + square * (1 / 4725 + square * 2 / 93555))))
    slope = xp.where(small, series, 1 / safe - xp.cos(safe) / xp.sin(safe))
    ratio = xp.where(small, points.sinc(half, xp), xp.sin(safe) / safe)
    log_p = _scale(a.shape[1], t, xp) - xp.sum(a * a, axis=1) / (2 * t) - xp.sum(xp.log(ratio), axis=(1, 2)) / 2
    return log_p, xp.sum(slope, axis=2) / 2 - a / t[:, None]


def _many_paths(a, t, xp) -> tuple:
    """The mean over the circle; conjugate halves of it are alike."""
    n = a.shape[1]
    longest = float(xp.max(t)) if t.shape[0] else 1.0
    corner = math.pi**2 * (n - n % 2 / n)  # |a|^2 of the farthest place
    shifts = xp.asarray(paths(n, farthest(corner, longest, _LOST)), device=a.device)  # (path, n)
    across = xp.arange((n - 1) / 2, -n / 2, -1.0, dtype=xp.float64, device=a.device)
    gaps = 2 * math.pi / t[:, None] * (a @ shifts.T + math.pi * xp.sum(shifts**2, axis=1))  # real exponents of paths
    p, slopes = 0.0, 0.0
    for node in range(_NODES // 2):
        turn = _RADIUS / (2 * math.pi) * np.exp(1j * math.pi * (2 * node + 1) / _NODES)
        moved = a + turn * t[:, None] * across
        value, slope = _paths(moved, t, shifts, gaps + 2 * math.pi * turn * (shifts @ across), xp)
        # |a|^2 of the node beside that of a, over 2 t
        weight = xp.exp(-turn * (a @ across) - turn**2 * t * float(across @ across) / 2)
        p, slopes = p + xp.real(weight * value), slopes + xp.real(weight[:, None] * slope)
    p, slopes = p * (2 / _NODES), slopes * (2 / _NODES)
    smallest = xp.full_like(p, 1e-300)
    p = xp.where(p > smallest, p, smallest)
    return _scale(n, t, xp) - xp.sum(a * a, axis=1) / (2 * t) + xp.log(p), slopes / p[:, None]


def _paths(a, t, shifts, gaps, xp) -> tuple:
    """Sum over paths of prod (b_i - b_j) / 2 sin((a_i - a_j) / 2) e^{-gaps}, and its derivatives."""
    n = a.shape[1]
    total, slopes = 0.0, [0.0] * n
    for place in range(shifts.shape[0]):
        b = a + 2 * math.pi * shifts[place]
        value = xp.exp(-gaps[:, place])
        rises = [-b[:, i] / t for i in range(n)]
        for i, j in itertools.combinations(range(n), 2):
            gap = b[:, i] - b[:, j]
            value = value * gap
            rises[i], rises[j] = rises[i] + 1 / gap, rises[j] - 1 / gap
        total = total + value
        slopes = [slope + value * rise for slope, rise in zip(slopes, rises, strict=True)]
    below, falls = 1.0, [0.0] * n
    for i, j in itertools.combinations(range(n), 2):
        half = (a[:, i] - a[:, j]) / 2
        sine, cosine = xp.sin(half), xp.cos(half)
        below = below * 2 * sine
        falls[i], falls[j] = falls[i] + cosine / (2 * sine), falls[j] - cosine / (2 * sine)
    found = [slope / below - total / below * fall for slope, fall in zip(slopes, falls, strict=True)]
    return total / below, xp.stack(found, axis=1)


def farthest(square: float, t: float, lost: float) -> float:
    """|k|^2 of the paths that count: |b|^2 exceeds |a|^2, at most `square`, by at most 2 t lost."""
    return (math.sqrt(square + 2 * t * lost) + math.sqrt(square)) ** 2 / (2 * math.pi) ** 2


@lru_cache(maxsize=64)
def paths(n: int, farthest: float) -> np.ndarray:
    """(path, n) whole numbers with sum 0 and sum of squares at most `farthest`."""
    reach = range(-int(math.sqrt(farthest)), int(math.sqrt(farthest)) + 1)
    found = [(*k, -sum(k)) for k in itertools.product(reach, repeat=n - 1)]
    return np.array([k for k in found if sum(part * part for part in k) <= farthest], dtype=np.float64)


# ---- characters ----------------------------------------------------------------------------------------------------


def by_characters(a, t, xp, parts: int | None = None) -> tuple:
    """p = sum over partitions of dim e^{-C t / 2} times the Schur polynomial of the eigenvalues, over the volume.

    Schur polynomials by Jacobi and Trudi's determinant of complete symmetric polynomials: nothing is divided where
    eigenvalues coincide. C = |m|^2 - n (n^2 - 1) / 12, m = lambda + (n - 1, ..., 0) less its mean. `parts`: partitions
    with first part at most this, in place of those that count.
    """
    n = a.shape[1]
    shortest = float(xp.min(t)) if t.shape[0] else 1.0
    chosen = _partitions(n, 2 * _LOST / shortest if parts is None else math.inf, parts)
    highest = max(parts[0] for parts, _, _ in chosen) + n
    z = xp.exp(1j * a)
    complete, raised = _complete(z, highest, xp)
    total, slopes = xp.zeros_like(t), xp.zeros_like(a)
    for parts_, dimension, casimir in chosen:
        weight = dimension * xp.exp(-casimir * t / 2)
        schur, derivative = _schur(parts_, complete, raised, xp)
        total = total + weight * xp.real(schur)
        slopes = slopes - weight[:, None] * xp.imag(z * derivative)
    total = 1 + total
    smallest = xp.full_like(total, 1e-300)
    total = xp.where(total > smallest, total, smallest)
    return xp.log(total) - log_volume(n), slopes / total[:, None]


@lru_cache(maxsize=64)
def _partitions(n: int, most: float, first: int | None) -> list:
    """Partitions into n - 1 parts, not all 0, with dimension and Casimir: Casimirs at most `most`, beside the least."""
    least = (n * n - 1) / n + 1e-9
    first = int(math.sqrt(2 * (most + least)) + 2) if first is None else first
    found = []
    for parts in itertools.combinations_with_replacement(range(first, -1, -1), n - 1):
        shifted = np.array([*parts, 0]) + np.arange(n - 1, -1, -1)
        casimir = ((shifted - shifted.mean()) ** 2).sum() - n * (n * n - 1) / 12
        if any(parts) and casimir <= most + least:
            pairs = itertools.combinations(range(n), 2)
            dimension = math.prod((shifted[i] - shifted[j]) / (j - i) for i, j in pairs)
            found.append((parts, float(dimension), float(casimir)))
    return found


def _complete(z, highest: int, xp) -> tuple:
    """h_k of z for k up to `highest`, each (pair,), and dh_k / dz_i = h_{k-1} of z with z_i twice, each (pair, n)."""
    n = z.shape[1]
    rows = [xp.ones_like(z)]
    for _ in range(highest):
        rows.append(rows[-1] * z)
    complete = [row[:, 0] for row in rows]
    for i in range(1, n):
        for k in range(1, highest + 1):
            complete[k] = complete[k] + z[:, i] * complete[k - 1]
    raised, last = [xp.zeros_like(z)], xp.zeros_like(z)
    for k in range(highest):
        last = complete[k][:, None] + z * last
        raised.append(last)
    return complete, raised


def _schur(parts: tuple, complete: list, raised: list, xp) -> tuple:
    """det h_{lambda_i - i + j}, and its gradient: the sum over rows of determinants with that row's derivative."""
    size = len(parts)
    places = [[part - i + j for j in range(size)] for i, part in enumerate(parts)]
    value, slope = 0.0, 0.0
    for columns in itertools.permutations(range(size)):
        chosen = [places[i][column] for i, column in enumerate(columns)]
        if min(chosen) < 0:
            continue
        sign = _sign(columns)
        value = value + sign * _product([complete[k] for k in chosen])
        for i, k in enumerate(chosen):
            others = [complete[m][:, None] for j, m in enumerate(chosen) if j != i]
            slope = slope + sign * _product([raised[k], *others])
    return value, slope


def _product(factors: list):
    found = factors[0]
    for factor in factors[1:]:
        found = found * factor
    return found


def _sign(permutation: tuple) -> int:
    return (-1) ** sum(i > j for i, j in itertools.combinations(permutation, 2))
