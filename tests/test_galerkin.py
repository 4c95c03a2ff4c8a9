"""galerkin: dense eigenpairs and the dense loss are the truth."""

import numpy as np
import pytest
from test_exact import cloud

import heatwalk as hw
from heatwalk import compute, galerkin
from heatwalk.conjugate import conjugate


def graph(n_cells=80, pieces=1, n_neighbors=12):
    points = np.concatenate([cloud(n_cells // pieces, 3, seed=piece) + 50 * piece for piece in range(pieces)])
    nn = hw.neighbors(points, n_neighbors=n_neighbors)
    return points, hw.affinity(points, nn)


def dense(aff, t):
    """T = A^2t without the trivial vector of every component, and sqrt(pi), by cell."""
    n_cells = len(aff.degrees)
    matrix = np.zeros((n_cells, n_cells))
    matrix[np.repeat(np.arange(n_cells), np.diff(aff.indptr)), aff.indices] = aff.weights
    matrix /= np.sqrt(np.outer(aff.degrees, aff.degrees))
    for label in np.unique(aff.components):
        trivial = np.where(aff.components == label, np.sqrt(aff.degrees), 0)
        trivial /= np.linalg.norm(trivial)
        matrix -= np.outer(trivial, trivial)
    return np.linalg.matrix_power(matrix, 2 * t), np.sqrt(aff.stationary)


def ritz(aff, features, n_components, t, threads=2):
    with compute.workers("threads", threads) as pool:
        matrix = conjugate(aff, held=True, band_edges=1, workers=pool)
        found = galerkin.ritz(features[matrix.order], galerkin.walk(matrix, pool), n_components, t)
    return found, matrix.place


@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.parametrize("pieces", [1, 2])
def test_features_that_span_everything_give_the_eigenpairs(t, pieces):
    _, aff = graph(pieces=pieces)
    target, root = dense(aff, t)
    features = np.random.default_rng(0).standard_normal((80, 80))
    found, place = ritz(aff, features, 4, t)
    values = np.linalg.eigvalsh(target)[::-1][:4]
    np.testing.assert_allclose(found.values, values, rtol=1e-9)
    coordinates = features @ found.coefficients
    np.testing.assert_allclose(root[:, None] * coordinates, found.vectors[place], atol=1e-8)
    np.testing.assert_allclose(target @ found.vectors[place], found.vectors[place] * values, atol=1e-8)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.diag(values), atol=1e-9)


@pytest.mark.parametrize("t", [1, 2])
def test_few_features_give_the_least_loss_that_is_linear_in_them(t):
    points, aff = graph(pieces=2)
    target, root = dense(aff, t)
    features = np.column_stack([np.tanh(points / 10), np.sin(points), np.ones(len(points))])
    found, place = ritz(aff, features, 2, t)
    np.testing.assert_allclose(found.mapped[place], target @ found.vectors[place], atol=1e-12)
    assert (found.values <= np.linalg.eigvalsh(target)[::-1][:2] + 1e-12).all()

    def loss(coefficients):
        vectors = root[:, None] * (features @ coefficients)
        return ((vectors @ vectors.T - target) ** 2).sum()

    # The first step keeps Ritz vectors of A, not of T: within their span, which here is everything, nothing is better.
    least, rng = loss(found.coefficients), np.random.default_rng(1)
    assert least == pytest.approx((target**2).sum() - (found.values**2).sum())
    for size in (1e-4, 1e-2, 1):
        for _ in range(20):
            step = size * rng.standard_normal(found.coefficients.shape) * np.abs(found.coefficients).mean()
            assert loss(found.coefficients + step) >= least


def test_every_bit_is_the_same_on_any_number_of_threads_and_in_any_blocks_of_the_caller(monkeypatch):
    points, aff = graph(400)
    features = np.column_stack([np.sin(points), np.cos(points), np.ones(len(points))]).astype(np.float32)
    monkeypatch.setattr(galerkin, "_ROWS", 64)
    one, other = (ritz(aff, features, 3, 2, threads)[0] for threads in (1, 3))
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_features_that_are_alike_are_no_trouble():
    points, aff = graph()
    features = np.column_stack([np.sin(points), np.sin(points) + 1e-9, np.ones(len(points)), np.ones(len(points))])
    found, _ = ritz(aff, features, 2, 1)
    assert np.abs(found.coefficients).max() < 1e3
    assert (found.values > 0).all()


def test_single_precision_chooses_the_same_space():
    points, aff = graph()
    rng = np.random.default_rng(3)
    features = np.tanh(0.02 * points @ rng.standard_normal((3, 40)) + rng.standard_normal(40))  # nearly linear: alike
    (double, _), (single, place) = (ritz(aff, values, 3, 2) for values in (features, features.astype(np.float32)))
    np.testing.assert_allclose(single.values, double.values, rtol=1e-3)
    target, _ = dense(aff, 2)
    np.testing.assert_allclose(single.mapped[place], target @ single.vectors[place], atol=1e-12)
