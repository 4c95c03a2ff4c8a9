"""Draws from the samples around a point: a start for particles, and what moves them back onto the data's surface."""

from typing import NamedTuple

import numpy as np

from heatwalk import compute, exact
from heatwalk.lists import by_halves
from heatwalk.neighbors import neighbors
from heatwalk.rounded import rounded
from heatwalk.search import frame

_ALONG = 0.1  # of the largest variance around: directions of the surface; others are normal to it
_PART_BYTES = 2**25  # of neighbours gathered at a time
_QUERIES = 512  # searched at a time
_BALANCING, _SELDOM = 10, 0.05  # rounds of balancing; a sample that counts less often is not made up for


class Surroundings(NamedTuple):
    """Samples, the neighbours of each, and how far each is from the mean of its neighbours."""

    samples: np.ndarray  # (sample, dimension)
    names: np.ndarray  # (sample, neighbor)
    shares: np.ndarray  # (sample, neighbor) of the weight, falling to 0 at the next neighbour
    residuals: np.ndarray  # (sample, dimension)
    spacing: np.ndarray  # (sample,) distance to the nearest other sample


def width_of(n_samples: int, dimension: int) -> int:
    """How many samples a Gaussian in so many dimensions is fitted to."""
    return max(1, min(20 + 4 * dimension, n_samples // 2))


def surroundings(samples: np.ndarray, *, seed: int = 0, threads: int | None = None) -> Surroundings:
    """The neighbours of every sample, 20 and four for each dimension, at most half of all."""
    width = width_of(*samples.shape)
    found = neighbors(samples, n_neighbors=min(width + 1, len(samples) - 1), seed=seed, threads=threads)
    names, shares = _shares(np.asarray(found.indices[:]), np.asarray(found.distances[:], np.float64), width)
    shares = _balanced(names, shares)
    residuals = np.empty(samples.shape)
    for part in _parts(len(samples), width, samples.shape[1]):
        residuals[part] = samples[part] - np.einsum("ij,ijk->ik", shares[part], samples[names[part]])
    return Surroundings(samples, names, shares, residuals, np.asarray(found.distances[:, 0], np.float64))


def nearest(samples: np.ndarray, points: np.ndarray, width: int, threads: int | None = None) -> exact.Found:
    """The `width` samples nearest to each point."""
    centre, unit = frame(samples)
    unit = max(unit, frame(points, centre)[1])

    def search(part: slice) -> exact.Found:
        nobody = np.full(part.stop - part.start, -1)
        return exact.nearest(samples, None, points[part], nobody, width, centre, unit)

    parts = list(compute.in_order(search, compute.blocks(len(points), _QUERIES), threads))
    return exact.Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def drawn(around: Surroundings, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """New points in the place of some samples, which they are not made from: about the mean of their neighbours.

    A Gaussian with the neighbours' covariance gives the direction from the mean, a neighbour drawn by its share the
    length: in many dimensions a Gaussian lies all at one distance, where cells differ in how noisy they are.
    """
    made = np.empty((len(rows), around.samples.shape[1]))
    for part in _parts(len(rows), around.names.shape[1], made.shape[1]):
        names, shares = around.names[rows[part]], around.shares[rows[part]]
        middle, spread = _about(around.samples, names, shares)
        nowhere = np.zeros((len(names), made.shape[1], 0))
        made[part] = middle + _as_long(_noise(spread, shares, nowhere, rng), spread, shares, rng)
    return made


def settled(
    around: Surroundings, points: np.ndarray, rng: np.random.Generator, threads: int | None = None
) -> np.ndarray:
    """Particles moved onto the surface of the data along its normal, with the noise that samples have about it.

    y = x + (1 - V V') (m(x) - x + noise). V: directions in which the variance of the neighbours is above a tenth of
    the largest, or half of what chance leaves of a round cloud: those the flow acts along. m: mean of the neighbours
    x_j and of their residuals x_j - m_j, which takes the curvature of the surface out up to the next order. noise:
    Gaussian with the residuals' covariance. Where samples lie on a thin sphere, the point is then moved onto that:
    in many dimensions they lie so far apart that a sphere is no plane to them (`rounded`).
    """
    made = np.empty(points.shape)
    names, shares = _near(around, points, threads)
    for part in _parts(len(points), names.shape[1], points.shape[1]):
        middle, spread = _middle(around, names[part], shares[part])
        along = _along(spread, shares[part])
        step = middle - points[part]
        step -= _onto(along, step)
        made[part] = points[part] + step + _noise(around.residuals[names[part]], shares[part], along, rng)
    names, shares = _near(around, made, threads)
    for part in _parts(len(points), names.shape[1], points.shape[1]):
        middle, spread = _about(around.samples, names[part], shares[part])
        made[part] = rounded(made[part], middle, spread, shares[part], rng)
    return made


def _near(around: Surroundings, points: np.ndarray, threads: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(point, neighbor) samples nearest to points, as many as a Gaussian is fitted to, and their shares."""
    width = around.names.shape[1]
    found = nearest(around.samples, points, min(width + 1, len(around.samples)), threads)
    return _shares(found.names, found.distances.astype(np.float64), width)


def even(samples: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of the samples, as many of every region as its share: every so many along halves of halves of the data.

    >>> sorted(even(np.arange(4.0)[:, None], 4, np.random.default_rng(0)).tolist())
    [0, 1, 2, 3]
    """
    order = by_halves(samples)
    places = (np.arange(count) + rng.uniform(size=count)) * len(samples) / count
    return order[np.minimum(places.astype(np.int64), len(samples) - 1)]


def _shares(names: np.ndarray, distances: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours weighted by 1 - (r / the next one's r)^2: in many dimensions no single one outweighs the others."""
    edge = distances[:, -1:]
    ratio = distances[:, :width] / np.where(edge > 0, edge, 1)
    shares = np.maximum(1 - ratio**2, 1e-9)
    return names[:, :width], shares / shares.sum(axis=1, keepdims=True)


def _balanced(names: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Shares by which every sample counts about as often as any other: then all Gaussians together vary as the data do.

    In many dimensions samples near the middle are neighbours of most others, and those far out of none.
    """
    for _ in range(_BALANCING):
        counts = np.bincount(names.ravel(), shares.ravel(), len(names))
        shares = shares / np.maximum(counts, _SELDOM)[names]
        shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _parts(length: int, width: int, dimension: int) -> list[slice]:
    return compute.blocks(length, max(1, _PART_BYTES // (8 * dimension * (width + dimension))))


def _about(samples: np.ndarray, names: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(point, dimension) mean of neighbours by their shares; (point, neighbor, dimension) neighbours about it."""
    near = samples[names]
    mean = np.einsum("ij,ijk->ik", shares, near)
    near -= mean[:, None]
    return mean, near


def _middle(around: Surroundings, names: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(point, dimension) the surface at every point; (point, neighbor, dimension) neighbours about their mean."""
    mean, near = _about(around.samples, names, shares)
    return mean + np.einsum("ij,ijk->ik", shares, around.residuals[names]), near


def _shrinkage(covariance: np.ndarray, shares: np.ndarray, dimension: np.ndarray) -> np.ndarray:
    """(point,) weight of the isotropic covariance beside the one of few neighbours.

    Source: Chen, Wiesel, Eldar, Hero, Shrinkage algorithms for MMSE covariance estimation (2010), "OAS".
    """
    trace = np.trace(covariance, axis1=1, axis2=2)
    square = np.einsum("ijk,ijk->i", covariance, covariance)
    seen = 1 / np.einsum("ij,ij->i", shares, shares)
    above = (1 - 2 / dimension) * square + trace**2
    below = (seen + 1 - 2 / dimension) * (square - trace**2 / dimension)
    return np.where(below > above, above / np.maximum(below, 1e-300), 1.0)


def _covariance(spread: np.ndarray, shares: np.ndarray) -> np.ndarray:
    weighted = spread * np.sqrt(shares)[:, :, None]
    return weighted.transpose(0, 2, 1) @ weighted


def _along(spread: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(point, dimension, dimension) orthonormal columns along the surface, 0 for those normal to it."""
    values, vectors = np.linalg.eigh(_covariance(spread, shares))
    # Few neighbours of a round cloud have a covariance of unequal eigenvalues: this far apart, after Marchenko, Pastur.
    root = np.sqrt(np.minimum(spread.shape[2] * np.einsum("ij,ij->i", shares, shares), 1))[:, None]
    by_chance = ((1 - root) / (1 + root)) ** 2 / 2
    return vectors * (values > np.minimum(_ALONG, by_chance) * values[:, -1:])[:, None, :]


def _onto(along: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("ijk,ilk,il->ij", along, along, vectors, optimize=True)


def _as_long(noise: np.ndarray, spread: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise that is as long as the way to a neighbour that is drawn by its share."""
    below = rng.uniform(size=(len(shares), 1)) > np.cumsum(shares, axis=1)[:, :-1]
    length = np.linalg.norm(spread[np.arange(len(spread)), below.sum(axis=1)], axis=1)
    return noise * (length / np.maximum(np.linalg.norm(noise, axis=1), np.finfo(float).tiny))[:, None]


def _noise(spread: np.ndarray, shares: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian draws normal to `along` with the shrunk covariance of what is spread."""
    n_points, width, dimension = spread.shape
    weighted = spread * np.sqrt(shares)[:, :, None]
    weighted -= (weighted @ along) @ along.transpose(0, 2, 1)
    covariance = weighted.transpose(0, 2, 1) @ weighted
    left = dimension - np.einsum("ijk,ijk->i", along, along).round()
    weight = _shrinkage(covariance, shares, np.maximum(left, 2))
    weight = np.where(left > 1, weight, 0.0)
    drawn = np.einsum("ij,ijk->ik", rng.normal(size=(n_points, width)), weighted)
    round_ = rng.normal(size=(n_points, dimension))
    round_ -= _onto(along, round_)
    round_ *= np.sqrt(np.trace(covariance, axis1=1, axis2=2) / np.maximum(left, 1))[:, None]
    return np.sqrt(1 - weight)[:, None] * drawn + np.sqrt(weight)[:, None] * round_
