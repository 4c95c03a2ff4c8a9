"""Chebyshev polynomials of a symmetric matrix with eigenvalues up to 1: what lies below a cut is damped.

    p(x) = T_degree(l(x)) / T_degree(l(1)),   l(x) = 1 + 2 (x - cut) / (cut + 1)     takes [-1, cut] to [-1, 1]

Within [-1, cut] |p| is at most 1 / T_degree(l(1)); above, p rises to 1, and no polynomial of its degree rises faster.
Source: Zhou, Saad, Tiago and Chelikowsky, Self-consistent-field calculations using Chebyshev-filtered subspace
iteration (2006), with the scaling of its appendix.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_MOST = 200  # degrees


class Damping(NamedTuple):
    cut: float
    degree: int

    @property
    def grown(self) -> float:
        """T_degree(l(1)): times what is damped, eigenvalue 1."""
        return float(np.cosh(self.degree * _distance(self.cut)))

    def values(self, eigenvalues: np.ndarray) -> np.ndarray:
        """p of eigenvalues; of those below the cut, that at the cut."""
        above = np.maximum(1 + 2 * (eigenvalues - self.cut) / (self.cut + 1), 1)
        return np.cosh(self.degree * np.arccosh(above)) / self.grown

    def eigenvalues(self, values: np.ndarray) -> np.ndarray:
        """The eigenvalues of A above the cut, or the cut, that become eigenvalues of p(A).

        >>> by = Damping(0.5, 3)
        >>> np.round(by.eigenvalues(by.values(np.array([1, 0.7, 0.2]))), 12)
        array([1. , 0.7, 0.5])
        """
        larger = np.arccosh(np.maximum(values * self.grown, 1)) / self.degree
        return self.cut + (np.cosh(larger) - 1) * (self.cut + 1) / 2

    def residuals(self, residuals: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Bounds on |A v - lambda v| from |p(A) v - p v|, both being sums over the other eigenvectors.

        What is damped is at most 2 away from lambda and at least p - 1 / T_degree(l(1)) from p; what is not has a
        larger share of the second than of the first, as p is convex there. Infinite below the cut.
        """
        above = values - 1 / self.grown
        return np.where(above > 0, 2 * residuals / np.where(above > 0, above, 1), np.inf)


def damping(cut: float, grown: float) -> Damping:
    """The least degree at which eigenvalue 1 becomes `grown` times what any below the cut can.

    The cut is no nearer to 1 than 200 degrees allow.
    """
    nearest = np.cosh(np.arccosh(grown) / _MOST)  # l(1) there
    cut = float(min(cut, (3 - nearest) / (1 + nearest)))
    return Damping(cut, min(int(np.ceil(np.arccosh(grown) / _distance(cut))), _MOST))


def damped(product: Callable, start: np.ndarray, by: Damping) -> tuple[np.ndarray, np.ndarray]:
    """p(A) start, and a second array of its shape whose content is left over; `start` is overwritten.

    T_1 = x T_0 and T_s+1 = 2 x T_s - T_s-1; the quotient of T_s and T_s+1 at eigenvalue 1 is what scales: nothing
    overflows. product(block, take) calls take(rows, rows of A block) for every range of rows.
    """
    centre, half = (by.cut - 1) / 2, (by.cut + 1) / 2
    first = half / (1 - centre)
    ratio, scale, less = first, first / half, 0.0
    block, before = start, np.zeros_like(start)
    for _ in range(by.degree):

        def take(rows: slice, made: np.ndarray, block=block, before=before, scale=scale, less=less) -> None:
            made -= centre * block[rows]
            made *= scale
            before[rows] *= -less
            before[rows] += made

        product(block, take)
        block, before = before, block
        following = 1 / (2 / first - ratio)
        scale, less, ratio = 2 * following / half, ratio * following, following
    return block, before


def _distance(cut: float) -> float:
    """arccosh(l(1)): T_s at eigenvalue 1 is cosh(s times it)."""
    return float(np.arccosh((3 - cut) / (1 + cut)))
