"""bilipschitz: how much an embedding stretches and shrinks distances around every point."""

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.errors import BadInput, Problem
from heatwalk.neighbors import neighbors

_PART_BYTES = 2**25  # of differences held at a time


class Bilipschitz(NamedTuple):
    constants: Any  # (point,) float64, at least 1
    rescaled: Any  # (point,) float64, after the one factor on the latent distances that suits all points together best
    scale: float  # that factor


def bilipschitz(latent, data, *, k: int = 10, seed: int = 0, threads: int | None = None) -> Bilipschitz:
    """The local bi-Lipschitz constant of every point: K_i >= 1, the least with 1/K <= |x_i - x_j| / |z_i - z_j| <= K.

        K_i = max( M_i, 1 / m_i ),  M_i and m_i the largest and the least ratio over the k nearest latent neighbours j

    1 for an isometry. latent: (point, dimension) z; data: (point, value) x, e.g. what is decoded from z. The constant
    depends on the unit of the latent: `rescaled` is max(M_i / s, s / m_i) for the s > 0 with the least mean over all
    points. In log s that mean is convex: with the points in the order of s_i = sqrt(M_i m_i) it is A / s + B s between
    two neighbours of that order, A the sum of M_i with s_i above s and B that of 1 / m_i of all others, least at
    sqrt(A / B) or at an end. So s is exact; for one point, or if all are alike, K = sqrt(M / m). A pair that coincides
    in both spaces says nothing; in one of them alone it makes the constant infinite. No array is points x points.
    Raises BadInput for tables of other lengths, values that are not finite, or a k that is not below the points.
    Source: Li, Lindenbaum, Cheng, Cloninger, Variational diffusion autoencoders with random walk sampling (2020).
    """
    latent, data = _checked(latent, data, k)
    found = neighbors(latent, n_neighbors=k, seed=seed, threads=threads)
    names = np.asarray(found.indices[:])
    rows = max(1, _PART_BYTES // (8 * k * max(latent.shape[1], data.shape[1])))

    def ratios(part: slice) -> tuple[np.ndarray, np.ndarray]:
        across, along = (np.linalg.norm(points[names[part]] - points[part, None], axis=2) for points in (data, latent))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = across / along
        told = ~np.isnan(ratio)
        largest = np.max(ratio, axis=1, where=told, initial=0.0)
        least = np.min(ratio, axis=1, where=told, initial=np.inf)
        return np.where(told.any(axis=1), largest, np.nan), np.where(told.any(axis=1), least, np.nan)

    parts = list(compute.in_order(ratios, compute.blocks(len(names), rows), threads))
    largest, least = (np.concatenate(values) for values in zip(*parts, strict=True))
    scale = _best_scale(largest, least)
    with np.errstate(divide="ignore"):
        return Bilipschitz(np.maximum(largest, 1 / least), np.maximum(largest / scale, scale / least), scale)


def _best_scale(largest: np.ndarray, least: np.ndarray) -> float:
    """The s with the least sum of max(M / s, s / m); of points where both are finite and above 0."""
    known = np.isfinite(largest) & (least > 0)
    if not known.any():
        return 1.0
    largest, least = largest[known], least[known]
    own = np.sqrt(largest * least)
    order = np.argsort(own, kind="stable")
    own = own[order]
    below = np.cumsum(1 / least[order])  # B, with 1, 2, ... points at or below s; before the first the mean falls
    above = np.concatenate([np.cumsum(largest[order][::-1])[-2::-1], [0.0]])  # A
    scales = np.clip(np.sqrt(above / below), own, np.append(own[1:], own[-1]))
    return float(scales[np.argmin(above / scales + below * scales)])


def _checked(latent, data, k: int) -> list[np.ndarray]:
    tables = [np.asarray(values[:], np.float64) for values in (latent, data)]
    tables = [values.reshape(len(values), -1) for values in tables]
    if len(tables[0]) != len(tables[1]):
        cause = f"there are {len(tables[0])} latent points and {len(tables[1])} of data"
        raise BadInput(Problem("HW-BL-001", "latent", cause, "give one row of each for every point"))
    for name, values in zip(("latent", "data"), tables, strict=True):
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        if bad:
            cause = f"{bad} of {len(values)} points are not finite"
            raise BadInput(Problem("HW-BL-002", name, cause, "remove those points"))
    if not (isinstance(k, Integral) and 1 <= k < len(tables[0])):
        cause = f"{k!r} is no whole number from 1 to {len(tables[0]) - 1}, the most that {len(tables[0])} points have"
        raise BadInput(Problem("HW-BL-003", "k", cause, "set k to 10"))
    return tables
