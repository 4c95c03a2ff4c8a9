"""The best low-rank map that is linear in given features, without an eigenvector of the graph.

    Q = sqrt(pi) * features                                    (cell, feature)
    1. Ritz vectors of A in the span of Q, the leading few     one product with A for every feature
    2. Ritz pairs of T = A^2t - trivial in their span          2t products for each of the few
    G = sqrt(pi) * coordinates,  G'G = diag(mu),  mu close to the leading lambda^2t from below (Cauchy interlacing)

A trivial vector sqrt(pi) of every component is projected out. Sums go over row blocks of a fixed size, in their order.
"""

from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.conjugate import COLUMNS, Component, Conjugate

_ROWS = 2**14  # of a block of features
_GROUP = 8 * COLUMNS  # columns multiplied before the next ones are made
_SPARE = 8  # Ritz vectors of the first step more than twice as many as asked for
_NOISE = 1e-7  # of squared singular values: directions below are rounding


class Walk(NamedTuple):
    """A, and the vectors that it leaves alone."""

    matrix: Conjugate
    trivial: np.ndarray  # (position,) float64, of unit length within every component
    workers: compute.Workers

    @property
    def root(self) -> np.ndarray:
        """(position,) sqrt(pi), of unit length over all components."""
        return self.matrix.root / np.linalg.norm(self.matrix.root)

    def parts(self) -> list[tuple[slice, Component]]:
        """Positions and matrix of every component."""
        start = self.matrix.start
        return [
            (slice(start[label], start[label + 1]), self.matrix.component(label)) for label in range(len(start) - 1)
        ]

    def times(self, vectors: np.ndarray) -> np.ndarray:
        """A vectors - trivial (trivial' vectors), (position, column)."""
        result = np.empty_like(vectors)
        for rows, component in self.parts():
            trivial = self.trivial[rows]
            for first in range(0, vectors.shape[1], COLUMNS):
                columns = slice(first, min(first + COLUMNS, vectors.shape[1]))
                block = vectors[rows, columns] - np.outer(trivial, trivial @ vectors[rows, columns])
                result[rows, columns] = _product(component, np.ascontiguousarray(block), self.workers)
        return result


class Ritz(NamedTuple):
    basis: np.ndarray  # (feature, rank) B, the columns of Q B orthonormal
    coefficients: np.ndarray  # (feature, mode), of the features: the coordinates
    values: np.ndarray  # (mode,) mu, descending
    mapped: np.ndarray  # (position, mode) T G
    vectors: np.ndarray  # (position, mode) G


def walk(matrix: Conjugate, workers: compute.Workers) -> Walk:
    trivial = matrix.root.copy()
    for first, stop in zip(matrix.start[:-1], matrix.start[1:], strict=True):
        trivial[first:stop] /= np.linalg.norm(trivial[first:stop])
    return Walk(matrix, trivial, workers)


def ritz(features: np.ndarray, operator: Walk, n_components: int, t: int, cut: float = _NOISE) -> Ritz:
    """The leading pairs of T = A^2t - trivial in the span of the features; features: (position, feature).

    cut: directions of the features are left out whose squared singular value is below this share of the largest.
    """
    basis = whitened(features, operator, cut)
    few = basis @ _first(features, basis, operator)[:, : 2 * n_components + _SPARE]
    vectors = combined(features, few, operator)
    mapped = vectors
    for _ in range(2 * t):
        mapped = operator.times(mapped)
    inner, cross = _inner(vectors, vectors, operator.workers), _inner(vectors, mapped, operator.workers)
    # G = vectors chosen with G'G = diag(mu): an orthonormal basis of the span, its leading vectors, times sqrt(mu).
    sizes, turned = np.linalg.eigh(inner)
    kept = sizes > sizes[-1] * _NOISE
    orthonormal = turned[:, kept] / np.sqrt(sizes[kept])
    cross = orthonormal.T @ cross @ orthonormal
    values, turned = np.linalg.eigh((cross + cross.T) / 2)
    values, turned = values[::-1][:n_components], turned[:, ::-1][:, :n_components]
    chosen = orthonormal @ turned * np.sqrt(np.maximum(values, 0))
    return Ritz(basis, few @ chosen, values, mapped @ chosen, vectors @ chosen)


def whitened(features: np.ndarray, operator: Walk, cut: float) -> np.ndarray:
    """(feature, rank) B such that the columns of Q B are orthonormal, without directions that are noise."""
    root = operator.root

    def products(rows: slice) -> np.ndarray:
        block = features[rows].astype(np.float64) * root[rows, None]
        return block.T @ block

    gram = sum(operator.workers.in_order(products, compute.blocks(len(features), _ROWS)))
    sizes, vectors = np.linalg.eigh(gram)
    kept = sizes > sizes[-1] * cut
    return vectors[:, kept] / np.sqrt(sizes[kept])


def combined(features: np.ndarray, coefficients: np.ndarray, operator: Walk, kind=np.float64) -> np.ndarray:
    """sqrt(pi) * features coefficients, (position, column) float64; kind: the precision of the sums."""
    root, result, coefficients = (
        operator.root,
        np.empty((len(features), coefficients.shape[1])),
        coefficients.astype(kind),
    )

    def made(rows: slice) -> None:
        result[rows] = (features[rows].astype(kind, copy=False) @ coefficients) * root[rows, None]

    for _ in operator.workers.in_order(made, compute.blocks(len(features), _ROWS)):
        pass
    return result


def _first(features: np.ndarray, basis: np.ndarray, operator: Walk) -> np.ndarray:
    """Eigenvectors of B'Q'A Q B, largest magnitude first, in the precision of the features.

    It is where most time goes, and chooses a space only: what is kept of it is multiplied again, in double precision.
    """
    root, parts, kind = operator.root, [], features.dtype
    for columns in compute.blocks(basis.shape[1], _GROUP):
        mapped = operator.times(combined(features, basis[:, columns], operator, kind))

        def products(rows: slice, mapped=mapped) -> np.ndarray:
            product = features[rows].T @ (mapped[rows] * root[rows, None]).astype(kind)
            return product.astype(np.float64)

        parts.append(basis.T @ sum(operator.workers.in_order(products, compute.blocks(len(features), _ROWS))))
    cross = np.concatenate(parts, axis=1)
    values, vectors = np.linalg.eigh((cross + cross.T) / 2)
    return vectors[:, np.argsort(-np.abs(values), kind="stable")]


def _inner(left: np.ndarray, right: np.ndarray, workers: compute.Workers) -> np.ndarray:
    return sum(workers.in_order(lambda rows: left[rows].T @ right[rows], compute.blocks(len(left), _ROWS)))


def _product(component: Component, block: np.ndarray, workers: compute.Workers) -> np.ndarray:
    result = np.empty_like(block)

    def multiplied(rows: slice) -> None:
        result[rows] = component.times(rows, block)

    for _ in workers.in_order(multiplied, component.blocks()):
        pass
    return result
