"""Surfaces through points: quadrics fitted by moving least squares, and the curvature that they have.

Around a cell the data is written as a graph over its tangent space, y = c + G u + B(u, u) / 2 with values in the normal
space. The cell is moved onto its own surface along the normals and the fit repeated, so that its own noise neither
tilts nor shifts what is fitted.
"""

from math import gamma, pi, sqrt
from typing import NamedTuple

import numpy as np

_ROUNDS = 3
_EDGE = 150  # points by which an edge is seen
_TINY = 1e-9  # of the trace of the normal equations: keeps them solvable
MOST_DIMENSIONS = 10  # of a tangent space: its quadric has 66 coefficients


class Surface(NamedTuple):
    curvature: np.ndarray  # (cell,) mean sectional curvature, 1 / length^2; NaN where no fit is
    variance: np.ndarray  # (cell,) of the curvature, from the residuals
    noise: np.ndarray  # (cell,) standard deviation of the residuals in one normal direction, length
    lopsided: np.ndarray  # (cell,) distance of the centroid from the cell beside that at a straight edge
    eigenvalues: np.ndarray  # (cell, eigenvalue) of the local covariance, descending


def n_coefficients(dimension: int) -> int:
    return 1 + dimension + dimension * (dimension + 1) // 2


def surface(cells: np.ndarray, around: np.ndarray, known: np.ndarray, width: int, dimension: int) -> Surface:
    """Quadrics through the `width` points nearest to each cell, of those offered.

        S = sum_ij <B_ii, B_jj> - <B_ij, B_ij>,  curvature = S / (d (d - 1))

    the Gauss equation; on a surface this is the Gaussian curvature. Of products of fitted coefficients the part that
    noise alone would give, trace(Q C) times the residual variance, is subtracted (C their covariance, Q the form S).
    cells: (cell, ambient). around: (cell, offered, ambient). known: (cell, offered) bool, the points that may be used.
    Weights (1 - r^2 / h^2)^2, h the distance to the last point used.
    Source: Levin, Mesh-independent surface interpolation (2004); do Carmo, Riemannian Geometry, chapter 6.
    """
    place, frame = cells.astype(np.float64), None
    enough = known.sum(axis=1) > width
    for last in (False,) * (_ROUNDS - 1) + (True,):
        away = around - place[:, None]
        distance = np.where(known, np.sqrt(np.einsum("nkj,nkj->nk", away, away)), np.inf)
        reach = np.partition(distance, width, axis=1)[:, width]
        reach = np.where(enough & np.isfinite(reach) & (reach > 0), reach, 1.0)
        weight = np.maximum(1 - (distance / reach[:, None]) ** 2, 0) ** 2
        if frame is None:
            eigenvalues, frame = _frame(away, weight, dimension)
        tangent = away @ frame / reach[:, None, None]
        normal = away / reach[:, None, None] - tangent @ frame.transpose(0, 2, 1)
        design = _design(tangent)
        weighted = (design * weight[..., None]).transpose(0, 2, 1)
        equations = weighted @ design
        # A little of the identity too: cells that all coincide leave no equations.
        ridge = _TINY * (1 + np.trace(equations, axis1=1, axis2=2))[:, None, None] * np.eye(design.shape[2])
        inverse = np.linalg.inv(equations + ridge)
        fitted = inverse @ (weighted @ normal)  # (cell, coefficient, ambient)
        if not last:
            place += reach[:, None] * fitted[:, 0]
            frame = np.linalg.qr(frame + fitted[:, 1 : dimension + 1].transpose(0, 2, 1))[0]
    residual = normal - design @ fitted
    codimension = place.shape[1] - dimension
    # Weights take the place of counts: so many points does the fit rest on.
    noise = np.einsum("nk,nkj,nkj->n", weight, residual, residual) / np.maximum(weight.sum(axis=1), 1e-300)
    count = weight.sum(axis=1) ** 2 / np.maximum((weight**2).sum(axis=1), 1e-300)
    noise *= count / np.maximum(count - design.shape[2], 1)
    covariance = inverse @ ((weighted * weight[:, None]) @ design) @ inverse
    value, variance = _sectional(fitted, covariance, noise, codimension, dimension)
    value[~enough], variance[~enough] = np.nan, np.nan
    scale = reach**-2.0
    deviation = np.sqrt(noise / codimension) * reach
    return Surface(
        value * scale,
        variance * scale**2,
        deviation,
        _lopsided(away[:, :_EDGE] @ frame, distance[:, :_EDGE]),
        eigenvalues,
    )


def _lopsided(tangent: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Centroid of the first points offered, along the surface, beside where it lies for a cell on a straight edge."""
    reach = np.where(np.isfinite(distance), distance, 0).max(axis=1, keepdims=True)
    weight = np.maximum(1 - (distance / np.maximum(reach, 1e-300)) ** 2, 0) ** 2
    centre = np.einsum("nk,nki->ni", weight, tangent) / np.maximum(weight.sum(axis=1), 1e-300)[:, None]
    return np.linalg.norm(centre, axis=1) / np.maximum(reach[:, 0], 1e-300) / _edge_centre(tangent.shape[2])


def _frame(away: np.ndarray, weight: np.ndarray, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the weighted local covariance, and the leading directions."""
    total = np.maximum(weight.sum(axis=1), 1e-300)
    centred = away - (np.einsum("nk,nkj->nj", weight, away) / total[:, None])[:, None]
    covariance = (centred * weight[..., None]).transpose(0, 2, 1) @ centred / total[:, None, None]
    values, vectors = np.linalg.eigh(covariance)
    return values[:, ::-1], vectors[:, :, ::-1][:, :, :dimension].copy()


def _pairs(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """i <= j of the second-order coefficients, the squares first."""
    upper = np.triu_indices(dimension, 1)
    return tuple(np.concatenate([np.arange(dimension), some]) for some in upper)


def _design(tangent: np.ndarray) -> np.ndarray:
    """1, u_i, u_i^2 / 2, u_i u_j: the coefficients of the last two are B_ii and B_ij."""
    first, second = _pairs(tangent.shape[2])
    products = tangent[..., first] * tangent[..., second]
    products[..., : tangent.shape[2]] /= 2
    return np.concatenate([np.ones((*tangent.shape[:2], 1)), tangent, products], axis=2)


def _sectional(fitted: np.ndarray, covariance: np.ndarray, noise: np.ndarray, codimension: int, dimension: int):
    """Mean sectional curvature S / (d (d - 1)) without what noise adds to it, and its variance.

    S = sum_n b_n' Q b_n over normal directions n. Noise of variance s in each adds s trace(Q C), has the linear part
    4 s b' Q C Q b and the quadratic part 2 s^2 trace(Q C Q C).
    """
    planes = dimension * (dimension - 1)
    if not planes:
        return np.full(len(noise), np.nan), np.full(len(noise), np.nan)
    second = fitted[:, dimension + 1 :]
    spread = covariance[:, dimension + 1 :, dimension + 1 :]
    form = np.zeros((second.shape[1],) * 2)
    form[:dimension, :dimension] = 1 - np.eye(dimension)
    form[dimension:, dimension:] = -2 * np.eye(len(form) - dimension)
    pulled = np.einsum("pq,nqj->npj", form, second)
    one = noise / codimension
    value = np.einsum("npj,npj->n", second, pulled) - noise * np.einsum("pq,nqp->n", form, spread)
    product = form @ spread
    square = codimension * one**2 * np.einsum("npq,nqp->n", product, product)
    linear = 4 * one * np.einsum("npj,npq,nqj->n", pulled, spread, pulled, optimize=True)
    # The fitted b is noisy itself, which adds 4 `square` to the linear part in the mean.
    return value / planes, (np.maximum(linear - 4 * square, 0) + 2 * square) / planes**2


def _edge_centre(dimension: int) -> float:
    """How far the weighted centroid of a half ball of radius 1 is from its flat side's centre."""

    def moment(power: float) -> float:  # of r^(power - 1) (1 - r^2)^2
        return gamma(power / 2) / gamma(power / 2 + 3)

    mean_cosine = gamma(dimension / 2) / (sqrt(pi) * gamma((dimension + 1) / 2))
    return moment(dimension + 1) / moment(dimension) * mean_cosine


def counting(dimension: int) -> float:
    """Share of the cells of a surface that its weights let count: E[w]^2 / E[w^2], w = (1 - r^2)^2 over a unit ball.

    >>> round(counting(2), 3)
    0.556
    """
    half = dimension / 2
    return (half + 3) * (half + 4) / (6 * (half + 1) * (half + 2))


def widest_gap(eigenvalues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The dimension after which eigenvalues fall most, as a ratio, and the logarithm of that ratio; last axis."""
    floor = 1e-12 * np.maximum(eigenvalues[..., :1], np.finfo(float).tiny)
    logs = np.log(np.maximum(eigenvalues, floor))
    gaps = (logs[..., :-1] - logs[..., 1:])[..., :MOST_DIMENSIONS]
    return gaps.argmax(axis=-1) + 1, gaps.max(axis=-1)
