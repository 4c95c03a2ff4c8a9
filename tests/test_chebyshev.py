"""chebyshev: numpy's polynomials, and matrices whose eigenvalues are known."""

import numpy as np
import pytest

from heatwalk import chebyshev
from heatwalk.chebyshev import Damping


def product_of(eigenvalues):
    """The product of a diagonal matrix with a block, a few rows at a time."""

    def product(block, take):
        for rows in (slice(0, 7), slice(7, len(block))):
            take(rows, eigenvalues[rows, None] * block[rows])

    return product


@pytest.mark.parametrize("cut", [-0.3, 0.5, 0.9, 0.99])
def test_the_filter_is_the_chebyshev_polynomial_that_is_one_at_one(cut):
    eigenvalues = np.linspace(-1, 1, 41)
    by = chebyshev.damping(cut, 100.0)
    found, _ = chebyshev.damped(product_of(eigenvalues), np.eye(41), by)
    polynomial, steps = np.polynomial.chebyshev.Chebyshev.basis(by.degree, domain=[-1, cut]), by.degree
    assert polynomial(1) >= 100 > np.polynomial.chebyshev.Chebyshev.basis(steps - 1, [-1, cut])(1)
    np.testing.assert_allclose(found, np.diag(polynomial(eigenvalues) / polynomial(1)), atol=1e-12)


@pytest.mark.parametrize("grown", [10.0, 100.0])
@pytest.mark.parametrize("cut", [1 - 1e-5, 1.0])
def test_a_cut_at_one_is_moved_to_where_two_hundred_degrees_suffice(cut, grown):
    by = chebyshev.damping(cut, grown)
    assert by.degree == 200
    assert by.grown == pytest.approx(grown, rel=1e-6)
    assert 1 - 1e-3 < by.cut < cut


@pytest.mark.parametrize("by", [Damping(0.5, 3), Damping(0.98, 20), Damping(-0.5, 2)])
def test_an_eigenvalue_above_the_cut_comes_back_from_that_of_the_polynomial(by):
    above, below = np.linspace(by.cut + 1e-3, 1, 9), np.linspace(-1, by.cut, 9)
    polynomial = np.polynomial.chebyshev.Chebyshev.basis(by.degree, domain=[-1, by.cut])
    assert by.grown == pytest.approx(polynomial(1), rel=1e-12)
    np.testing.assert_allclose(by.values(above), polynomial(above) / polynomial(1), atol=1e-12)
    np.testing.assert_allclose(by.values(below), 1 / by.grown, atol=1e-12)
    np.testing.assert_allclose(by.eigenvalues(polynomial(above) / polynomial(1)), above, atol=1e-12)
    np.testing.assert_allclose(by.eigenvalues(polynomial(below) / polynomial(1)), by.cut, atol=1e-12)


@pytest.mark.parametrize("by", [Damping(0.5, 3), Damping(0.98, 20), Damping(0.9, 7)])
def test_residuals_of_the_matrix_are_within_their_bound(by):
    rng = np.random.default_rng(0)
    eigenvalues = np.concatenate([rng.uniform(-1, by.cut, 300), rng.uniform(by.cut, 1, 12)])
    polynomial = np.polynomial.chebyshev.Chebyshev.basis(by.degree, domain=[-1, by.cut])
    values = polynomial(eigenvalues) / by.grown
    for place in np.argsort(eigenvalues)[-12:]:
        for other in range(len(eigenvalues)):
            vector = np.zeros(len(eigenvalues))
            vector[[place, other]] = [1, 1e-6] if place != other else 1
            far = np.linalg.norm((values - values[place]) * vector)
            bound = by.residuals(np.array([far]), values[[place]])[0]
            assert np.linalg.norm((eigenvalues - eigenvalues[place]) * vector) <= bound * (1 + 1e-9)


def test_below_the_cut_no_residual_is_small():
    by = Damping(0.5, 3)
    assert by.residuals(np.array([1e-12]), np.array([0.5 / by.grown]))[0] == np.inf
