"""How unusual points are for samples, by kernels at samples under two noises; a number for each, without a scale.

    L_s(x) = log mean_j k_j(x),   k_j  Student's law around sample j, of variance v_j + s^2 in every direction
    E_s(x) = sum_j k_j(x) L_s(x_j without its own kernel) / sum_j k_j(x),   what samples at that place have
    u(x)   = max_s (a_s - L_s(x) + E_s(x) / 2) / b_s,   a_s, b_s: mean and deviation over samples left out

A point is unusual where few samples are, and where fewer are than at its neighbours; half of either. The first alone
takes all of a sparse group for unusual (Bishop 1994), the second alone, as the local outlier factor of Breunig et al.
(2000), nothing that is far from everything. Little noise tells what lies beside a group, more what lies apart, and the
noise that says most counts. Directions in which near samples differ much count less: axes are those of
C = mean of (x_i - x_l)(x_i - x_l)', l near to i, scaled to equal spread and to the same volume.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, logsumexp

from heatwalk import compute
from heatwalk.errors import BadInput, Problem
from heatwalk.mixture import kernels
from heatwalk.neighbors import neighbors

_NOISES = (2.0, 3.0)  # times the median width of kernels
_SHARE = 0.5  # of what is expected of a place
_NEAR = 10  # samples whose differences say how directions are spread
_LEAST_SPREAD = 1e-4  # of the variance of a direction, over the largest
_MOST_FREEDOM = 1e8  # beyond, a Student's law is a normal one and logarithms of gamma functions lose their digits
_PAIRS = 2**20  # of points and kernels at a time


class Outlying(NamedTuple):
    axes: np.ndarray  # (value, value), from coordinates to those of equal spread
    places: np.ndarray  # (kernel, value), in these
    variances: np.ndarray  # (kernel,), in every direction
    freedom: np.ndarray  # (), of the tails, without noise
    dimension: np.ndarray  # (), of the space
    noises: np.ndarray  # (noise,) standard deviations
    own: np.ndarray  # (noise, kernel) logarithm of the density of a sample by the other kernels
    centre: np.ndarray  # (noise,) over samples left out
    spread: np.ndarray  # (noise,)


def outlying(
    samples: np.ndarray,
    left: np.ndarray,
    *,
    dimension: int,
    least: float,
    most: int,
    seed: int = 0,
    threads: int | None = None,
) -> Outlying:
    """Kernels at (sample, value) samples, at `most` of them, and their scale by (sample, value) samples left out.

    dimension: of the space that they lie on. least: of the variance of a kernel.
    """
    rows = np.sort(np.random.default_rng([seed, 39]).permutation(len(samples))[:most])
    samples = samples[rows]
    axes = _axes(samples, seed, threads)
    places = samples @ axes
    found = kernels(places, dimension=dimension, least=least, seed=seed, threads=threads)
    noises = np.array(_NOISES) * np.sqrt(np.median(found.variances))
    arrays = (np.asarray(found.freedom, np.float64), np.asarray(dimension, np.float64), noises)
    blank = np.zeros((len(noises), len(places)))
    made = Outlying(axes, places, found.variances, *arrays, blank, np.zeros(len(noises)), np.ones(len(noises)))

    def own(rows: slice) -> np.ndarray:
        return np.stack([_logs(made, places[rows], noise, rows)[1] for noise in noises])

    made = made._replace(own=np.concatenate(list(_by_blocks(own, made, len(places), threads)), axis=1))
    levels = _levels(made, left @ axes, threads)
    return made._replace(centre=levels.mean(1), spread=np.maximum(levels.std(1), 1e-12))


def unusual(of: Outlying, points: np.ndarray, threads: int | None = None) -> np.ndarray:
    """(point,) u of (point, value) points: above 0 for those more unusual than samples left out on average."""
    levels = _levels(of, points @ of.axes, threads)
    # Last bits depend on the block that a point is in, and a sample left out must not rank beside itself by them.
    return np.round(((levels - of.centre[:, None]) / of.spread[:, None]).max(0), 9)


def packed(of: Outlying) -> np.ndarray:
    """(byte,) uint8, safetensors."""
    from safetensors.numpy import save

    return np.frombuffer(save({name: np.array(a, order="C") for name, a in of._asdict().items()}), np.uint8)


def unpacked(given: np.ndarray) -> Outlying:
    """Of the bytes of `packed`; BadInput for any others. No code is run."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = Outlying(**load(np.asarray(given).tobytes()))
        values, kernels = found.axes.shape[0], len(found.places)
        shapes = ((values, values), (kernels, values), (kernels,), (), (), *_shapes(len(found.noises), kernels))
        if tuple(part.shape for part in found) != shapes:
            raise ValueError("its arrays do not fit each other")
    except (SafetensorError, TypeError, ValueError, IndexError) as error:
        cause = f"cannot be used ({error})"
        raise BadInput(Problem("HW-RD-010", "outlying", cause, "use the result as it was written")) from None
    return found


def _shapes(noises: int, kernels: int) -> tuple:
    return (noises,), (noises, kernels), (noises,), (noises,)


def _axes(samples: np.ndarray, seed: int, threads: int | None) -> np.ndarray:
    """Axes of the differences of near samples, each over its spread, of determinant 1 or -1."""
    found = neighbors(samples, n_neighbors=min(_NEAR, len(samples) - 1), seed=seed, threads=threads)
    moment, count = np.zeros((samples.shape[1],) * 2), 0
    apart = np.maximum((found.distances.astype(np.float64) ** 2).mean(1), 1e-300)
    for rows in compute.blocks(len(samples), compute.BLOCK_CELLS):
        across = (samples[rows, None] - samples[found.indices[rows]]) / np.sqrt(apart[rows])[:, None, None]
        flat = across.reshape(-1, samples.shape[1])
        moment, count = moment + flat.T @ flat, count + len(flat)
    values, vectors = np.linalg.eigh(moment / count)
    values = np.maximum(values, max(_LEAST_SPREAD * values[-1], 1e-300))
    return vectors / np.exp((np.log(values) - np.log(values).mean()) / 2)


def _levels(of: Outlying, points: np.ndarray, threads: int | None) -> np.ndarray:
    """(noise, point) E / 2 - L of points in the axes of equal spread."""

    def level(rows: slice) -> np.ndarray:
        made = []
        for noise, own in zip(of.noises, of.own, strict=True):
            logs, total = _logs(of, points[rows], noise)
            shares = np.exp(logs - total[:, None] - np.log(len(of.places)))
            made.append(_SHARE * (shares @ own) - total)
        return np.stack(made)

    found = list(_by_blocks(level, of, len(points), threads))
    return np.concatenate(found, axis=1) if found else np.zeros((len(of.noises), 0))


def _logs(of: Outlying, points: np.ndarray, noise: float, own: slice | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(point, kernel) logarithms of kernels, and (point,) of their mean; own: the points are these kernels."""
    square = (points**2).sum(1)[:, None] + (of.places**2).sum(1) - 2 * points @ of.places.T
    variances = of.variances + noise**2
    freedom = np.minimum(of.freedom * (variances / of.variances) ** 2, _MOST_FREEDOM)
    power, scale = (freedom + of.dimension) / 2, freedom * variances
    constant = gammaln(power) - gammaln(freedom / 2) - of.dimension / 2 * np.log(np.pi * scale)
    logs = constant - power * np.log1p(np.maximum(square, 0) / scale)
    if own is not None:
        logs[np.arange(len(points)), np.arange(own.start, own.stop)] = -np.inf
    return logs, logsumexp(logs, axis=1) - np.log(len(of.places) - (own is not None))


def _by_blocks(function, of: Outlying, count: int, threads: int | None):
    size = max(16, _PAIRS // len(of.places))
    return compute.in_order(function, compute.blocks(count, size), threads)
