"""Points moved onto the sphere that samples around them lie on, where a sphere fits far better than a plane does."""

import numpy as np

_THIN = 0.1  # variance across the sphere beside that across the best plane, below which the samples lie on a sphere
_CENTRAL = 0.25  # of the radius: a point nearer to the centre has its samples around it on all sides


def rounded(points: np.ndarray, middle: np.ndarray, spread: np.ndarray, shares: np.ndarray, rng) -> np.ndarray:
    """Points as far from the centre of the sphere through the samples around as one of these is, drawn by its share.

    A mean of samples lies inside of a bent surface, by a share of their distance that does not fall as dimensions grow.
    Of z = x_j - m and f = (|z|^2 - E|z|^2) / (2 s), s^2 = E|z|^2, the combination u z + b f with u^2 + b^2 = 1 that
    varies least is 0 on the sphere of centre m - u s / b and squared radius |u s / b|^2 + s^2, for b = 0 on a plane. On
    a surface that bends by different amounts it takes out the mean of these. What the samples leave is widened by the
    D + 1 numbers that were fitted. Points are left as they are where the least variance is not below a tenth of that of
    a plane, or where they lie nearer to the centre than a quarter of the radius: samples all around a point in many
    dimensions are nearly equally far from it, and on no sphere.
    middle: (point, dimension) mean m of the samples around; spread: (point, neighbor, dimension) these about it.
    Source: Guennebaud and Gross, Algebraic point set surfaces (2007), whose sphere is fitted so, by other weights.
    """
    width, dimension = spread.shape[1:]
    root = np.sqrt(shares)[:, :, None]
    flat = spread * root
    plane = np.linalg.eigvalsh(flat.transpose(0, 2, 1) @ flat)[:, 0]
    squares = np.einsum("ijk,ijk->ij", spread, spread)
    scale = np.sqrt(np.einsum("ij,ij->i", shares, squares))[:, None]
    bend = (squares - scale**2) / (2 * np.maximum(scale, np.finfo(float).tiny))
    bent = np.concatenate([flat, bend[:, :, None] * root], axis=2)
    values, vectors = np.linalg.eigh(bent.transpose(0, 2, 1) @ bent)
    thin = (values[:, 0] < _THIN * plane) & (np.abs(vectors[:, -1, 0]) > np.finfo(float).eps)
    centre = -vectors[:, :-1, 0] * scale / np.where(thin, vectors[:, -1, 0], 1)[:, None]
    radius = np.sqrt(np.einsum("ij,ij->i", centre, centre) + scale[:, 0] ** 2)
    away = points - middle - centre
    distance = np.linalg.norm(away, axis=1)
    own = (np.arange(len(points)), (rng.uniform(size=(len(points), 1)) > np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1))
    left = np.linalg.norm(spread[own] - centre, axis=1) - radius
    freedom = 1 - (dimension + 1) * np.einsum("ij,ij->i", shares, shares)
    wanted = radius + left / np.sqrt(np.maximum(freedom, 1 / width))
    near = thin & (distance > _CENTRAL * radius)
    return np.where(near[:, None], middle + centre + away * (wanted / np.where(near, distance, 1))[:, None], points)
