"""A mixture of round normal laws, stopped by likelihood: where a score network begins."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from heatwalk import compute
from heatwalk.progress import log

_WIDTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6)  # times how far apart places are, of which the best is taken
_ROUNDS = 20
_MOST, _TESTED = 20_000, 1000  # samples that it is fitted to, and left out that say when it is best
_ROWS = 1024  # at a time


class Mixture(NamedTuple):
    places: np.ndarray  # (component, value)
    variances: np.ndarray  # (component,), in every direction
    shares: np.ndarray  # (component,), of sum 1


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


def _logs(of: Mixture, points: np.ndarray, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """(point, component) logarithms of share times density, and squared distances."""
    square = cdist(points, of.places, "sqeuclidean")
    constant = np.log(of.shares + 1e-300) - dimension / 2 * np.log(2 * np.pi * of.variances)
    return constant - square / (2 * of.variances), square


def _likely(of: Mixture, points: np.ndarray, dimension: int) -> float:
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
