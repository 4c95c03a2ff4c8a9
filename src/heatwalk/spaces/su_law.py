"""Brownian motion on SU(n) from 1, drawn exactly by rejection.

Early, from the exponential of a normal matrix of variance t. With V = prod (b_i - b_j), D = prod 2 sin((a_i - a_j) / 2)
and sums over all b = a + 2 pi k, densities of the law and of the proposal are e^{n (n^2 - 1) t / 24} sum V / D
e^{-|b|^2 / 2t} and sum (V / D)^2 e^{-|b|^2 / 2t}, both times (2 pi t)^{-(n^2 - 1) / 2}. Since |x| >= |sin x|, a term of
the first sum is at most that of the second: D sum V e / sum V^2 e is a probability of acceptance, on average
e^{-n (n^2 - 1) t / 24}. Late, from the uniform law, with p(a) / p(0), since no kernel exceeds its value at 0.
"""

import itertools
import math

import numpy as np

from heatwalk.spaces import su_kernel

_MOST = 100_000  # proposals at once
_LATE = 2.5  # times from which few characters are enough
_LOST = 30.0  # natural logarithm of the terms left out: a millionth of a millionth of a probability


def steps(n: int, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(draw,) times -> (draw, n, n) matrices."""
    found = np.empty((len(t), n, n), dtype=np.complex128)
    log_top = su_kernel.log_kernel(np.zeros((len(t), n)), t, np)[0]
    early = n * (n * n - 1) * t / 24 < log_top + su_kernel.log_volume(n)
    for chosen, propose in ((early, _wrapped), (~early, _uniform)):
        waiting = np.flatnonzero(chosen)
        while len(waiting):
            tried = waiting[:_MOST]
            proposed, share = propose(n, t[tried], log_top[tried], rng)
            taken = rng.random(len(tried)) < share
            found[tried[taken]] = proposed[taken]
            waiting = np.concatenate([tried[~taken], waiting[_MOST:]])
    return found


def haar(n: int, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    """Matrices of the Haar law: QR of normal ones, with the phases of R's diagonal, the determinant divided out."""
    normal = rng.normal(size=(*shape, n, n)) + 1j * rng.normal(size=(*shape, n, n))
    q, r = np.linalg.qr(normal)
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    q = q * (diagonal / np.abs(diagonal))[..., None, :]
    return q * np.exp(-1j * np.angle(np.linalg.det(q)) / n)[..., None, None]


def _wrapped(n: int, t: np.ndarray, log_top: np.ndarray, rng: np.random.Generator) -> tuple:
    normal = rng.normal(size=(len(t), n, n)) + 1j * rng.normal(size=(len(t), n, n))
    hermitian = (normal + normal.conj().swapaxes(1, 2)) / 2
    hermitian -= np.trace(hermitian, axis1=1, axis2=2)[:, None, None] / n * np.eye(n)
    b, u = np.linalg.eigh(hermitian * np.sqrt(t)[:, None, None])
    signed, squared, below = _sums(b, t)
    return (u * np.exp(1j * b)[:, None, :]) @ u.conj().swapaxes(1, 2), below * signed / (squared + 1e-300)


def _uniform(n: int, t: np.ndarray, log_top: np.ndarray, rng: np.random.Generator) -> tuple:
    proposed = haar(n, (len(t),), rng)
    a = np.angle(np.linalg.eigvals(proposed))
    a[:, 0] -= a.sum(axis=1)  # sum 0: a multiple of a turn
    log_p = np.empty(len(t))
    late = t >= _LATE
    if late.any():
        parts = int(math.sqrt(2 * _LOST / t[late].min() + n)) + 2
        log_p[late] = su_kernel.by_characters(a[late], t[late], np, min(parts, 8))[0]
    if not late.all():
        signed, _, below = _sums(a[~late], t[~late])
        own = t[~late]
        scale = n * (n * n - 1) * own / 24 - (n * n - 1) / 2 * np.log(2 * np.pi * own)
        log_p[~late] = scale + np.log(np.maximum(signed / below, 1e-300))
    return proposed, np.exp(log_p - log_top)


def _sums(a: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over b = a + 2 pi k of V e^{-|b|^2 / 2t} and V^2 e^{-|b|^2 / 2t}, and D; a are real, with sum 0."""
    n = a.shape[1]
    turns = np.round(a / (2 * np.pi))  # near the origin, so that few k count; the sum stays 0
    a = a - 2 * np.pi * turns
    a[:, 0] += 2 * np.pi * np.round(-a.sum(axis=1) / (2 * np.pi))
    below = np.ones(len(a))
    for i, j in itertools.combinations(range(n), 2):
        below *= 2 * np.sin((a[:, i] - a[:, j]) / 2)
    signed, squared = np.zeros(len(a)), np.zeros(len(a))
    for k in su_kernel.paths(n, su_kernel.farthest(n * (n - 1) * np.pi**2, float(t.max()), _LOST)):
        b = a + 2 * np.pi * k
        value = np.ones(len(a))
        for i, j in itertools.combinations(range(n), 2):
            value *= b[:, i] - b[:, j]
        weight = value * np.exp(-(b * b).sum(axis=1) / (2 * t))
        signed, squared = signed + weight, squared + value * weight
    return signed, squared, below
