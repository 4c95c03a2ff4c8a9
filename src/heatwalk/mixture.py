"""Where a score network begins: a mixture of round normal laws, or kernels at all samples, by likelihood."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import gammaln, logsumexp

from heatwalk import compute
from heatwalk.neighbors import neighbors
from heatwalk.progress import log

_WIDTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6)  # times how far apart places are, of which the best is taken
_ROUNDS = 20
_MOST, _TESTED = 20_000, 1000  # samples that it is fitted to, and left out that say when it is best
_ROWS = 256  # at a time
_PAIRS = 2**24  # of samples left out and kernels
_NEAREST = (1, 2, 3, 5, 10)  # neighbours whose distance is the width of a kernel, but for a factor
_FACTORS = (0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
_TURNS = 2
_FREEDOMS = (1.0, 2.0, 4.0, 8.0, 1e4)


class Mixture(NamedTuple):
    places: np.ndarray  # (component, value)
    variances: np.ndarray  # (component,), in every direction
    shares: np.ndarray  # (component,), of sum 1


class Kernels(NamedTuple):
    """A round Student's law around every sample."""

    variances: np.ndarray  # (sample,), in every direction
    freedom: float
    near: np.ndarray  # (sample, most) the kernels whose widths a sample has made, then its own
    without: np.ndarray  # (sample,) variances of kernels without one of the samples that made them


def mixture(
    samples: np.ndarray, left: np.ndarray, places: np.ndarray, variances: np.ndarray, *, dimension: int, least: float
) -> Mixture:
    """Components at places, by rounds of expectation and maximisation as long as samples left out become more likely.

        log p(x) = log sum_j a_j (2 pi v_j)^{-d/2} exp(-|x - c_j|^2 / (2 v_j))

    samples, left: (sample, value); d: `dimension` of what they lie on; v_j is `least` or more. The factor of the
    variances given is chosen first.
    """
    samples, left = samples[:_MOST], left[:_TESTED]
    given = Mixture(places, variances, np.full(len(places), 1 / len(places)))
    begun = [given._replace(variances=np.maximum(width**2 * variances, least)) for width in _WIDTHS]
    levels = [_likely(one, left, dimension) for one in begun]
    best, level = begun[int(np.argmax(levels))], max(levels)
    for _ in range(_ROUNDS):
        after = _round(best, samples, dimension, least)
        found = _likely(after, left, dimension)
        if found <= level:
            break
        best, level = after, found
    log.info("mixture of %d: %.3f a sample left out, %.3f at first", len(places), level, max(levels))
    return best


def kernels(samples: np.ndarray, *, dimension: int, least: float, seed: int = 0, threads: int | None = None) -> Kernels:
    """A round Student's law around every sample, and their degrees of freedom n: a kernel density estimate.

        log k = log Gamma((n+d)/2) - log Gamma(n/2) - d/2 log(pi n v_j) - (n+d)/2 log(1 + |x - c_j|^2 / (n v_j))

    v_j is `factor` times the distance to the `k`-th other sample, squared and over d, or `least`. k, factor and n are
    what makes samples most likely, each by an estimate that never saw it: its own kernel is left out, and kernels that
    have it among their k are as wide as the next sample is far. One is varied after the other.
    """
    most = max(1, min(_NEAREST[-1], len(samples) - 2))
    found = neighbors(samples, n_neighbors=min(most + 1, len(samples) - 1), seed=seed, threads=threads)
    indices, apart = (np.asarray(part[:]) for part in (found.indices, found.distances.astype(np.float64)))
    fewer = min(len(samples), _TESTED, max(100, _PAIRS // len(samples)))
    rows = np.sort(np.random.default_rng([seed, 38]).permutation(len(samples))[:fewer])
    square = cdist(samples[rows], samples, "sqeuclidean")
    square[np.arange(len(rows)), rows] = np.inf

    def at(k: int, factor: float, freedom: float) -> Kernels:
        k = min(k, most)
        wide, without = ((factor * apart[:, min(at, apart.shape[1]) - 1]) ** 2 / dimension for at in (k, k + 1))
        return Kernels(np.maximum(wide, least), freedom, _reversed(indices[:, :k]), np.maximum(without, least))

    chosen, level = [3, 0.7, 2.0], -np.inf
    for _ in range(_TURNS):
        for place, values in enumerate((_NEAREST, _FACTORS, _FREEDOMS)):
            tried = [(*chosen[:place], value, *chosen[place + 1 :]) for value in values]
            levels = [_left_out(at(*one), square, rows, dimension) for one in tried]
            chosen, level = list(tried[int(np.argmax(levels))]), max(levels)
    text = "%d kernels: %.3f a sample left out; %.2g of the distance to neighbour %d, %g degrees of freedom"
    log.info(text, len(samples), level, chosen[1], chosen[0], chosen[2])
    return at(*chosen)


def _reversed(indices: np.ndarray) -> np.ndarray:
    """(sample, most) those that have a sample among their (sample, k) nearest; itself where there are no more.

    >>> _reversed(np.array([[1], [2], [1]])).tolist()
    [[0, 0], [0, 2], [1, 2]]
    """
    count, k = indices.shape
    order = np.argsort(indices.ravel(), kind="stable")
    whose, of = order // k, indices.ravel()[order]
    place = np.arange(len(of)) - np.searchsorted(of, np.arange(count))[of]
    made = np.repeat(np.arange(count)[:, None], place.max() + 1, axis=1)
    made[of, place] = whose
    return made


def _left_out(of: Kernels, square: np.ndarray, rows: np.ndarray, dimension: int) -> float:
    """Mean log-density of samples, each without what it gave; square: (row, sample), infinite at themselves."""

    def logs(block: slice) -> np.ndarray:
        near = of.near[rows[block]]
        variances = np.repeat(of.variances[None], len(near), axis=0)
        np.put_along_axis(variances, near, of.without[near], axis=1)
        power, scale = (of.freedom + dimension) / 2, of.freedom * variances
        constant = gammaln(power) - gammaln(of.freedom / 2) - dimension / 2 * np.log(np.pi * scale)
        return constant - power * np.log1p(square[block] / scale)

    blocks = compute.blocks(len(rows), _ROWS)
    return float(np.concatenate([logsumexp(logs(block), axis=1) for block in blocks]).mean() - np.log(len(of.near) - 1))


def _logs(of: Mixture, points: np.ndarray, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """(point, component) logarithms of share times density, and squared distances."""
    square = cdist(points, of.places, "sqeuclidean")
    constant = np.log(of.shares + 1e-300) - dimension / 2 * np.log(2 * np.pi * of.variances)
    return constant - square / (2 * of.variances), square


def _likely(of: Mixture, points: np.ndarray, dimension: int) -> float:
    """Mean logarithm of the density."""
    blocks = compute.blocks(len(points), _ROWS)
    return float(np.concatenate([logsumexp(_logs(of, points[rows], dimension)[0], axis=1) for rows in blocks]).mean())


def _round(of: Mixture, samples: np.ndarray, dimension: int, least: float) -> Mixture:
    count, moment, spread = np.full(len(of.places), 1e-9), np.zeros_like(of.places), np.zeros(len(of.places))
    for rows in compute.blocks(len(samples), _ROWS):
        logs, square = _logs(of, samples[rows], dimension)
        weights = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        count += weights.sum(0)
        moment += weights.T @ samples[rows]
        spread += (weights * square).sum(0)
    places = np.where(count[:, None] > 1e-6, moment / count[:, None], of.places)
    # |x - c|^2 about the mean is that about the old place less the square of the move
    variances = (spread - count * ((places - of.places) ** 2).sum(1)) / (dimension * count)
    return Mixture(places, np.maximum(variances, least), count / count.sum())
