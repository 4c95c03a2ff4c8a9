"""What particles are compared with: eigenfunctions and flows of known laws, and scores by their derivatives."""

import numpy as np
import pytest
from scipy.special import eval_hermitenorm, factorial

from heatwalk.baselines.averaged_particles import averaged_particles
from heatwalk.baselines.jitter import jitter
from heatwalk.baselines.langevin import density_score, svgd, ula
from heatwalk.baselines.lawgd import lawgd, modes_at, spectrum


def normal(points):
    return -(points**2).sum(axis=1) / 2


@pytest.fixture(scope="module")
def line():
    return spectrum(normal, [np.linspace(-6, 6, 401)], 5)


def test_eigenfunctions_of_a_gaussian_are_hermite_functions(line):
    np.testing.assert_allclose(line.eigenvalues, [1, 2, 3, 4, 5], rtol=1e-3)
    points = np.linspace(-2, 2, 9)[:, None]
    values, slopes = modes_at(line, points)
    for k in range(1, 6):
        wanted = eval_hermitenorm(k, points[:, 0]) / np.sqrt(factorial(k))
        sign = np.sign(values[:, k - 1] @ wanted)
        np.testing.assert_allclose(sign * values[:, k - 1], wanted, atol=0.01)
        wanted = k * eval_hermitenorm(k - 1, points[:, 0]) / np.sqrt(factorial(k))
        np.testing.assert_allclose(sign * slopes[:, k - 1, 0], wanted, atol=0.02)


def test_eigenvalues_in_two_dimensions_are_sums():
    made = spectrum(normal, [np.linspace(-5, 5, 61), np.linspace(-5, 5, 81)], 5)
    np.testing.assert_allclose(made.eigenvalues, [1, 1, 2, 2, 2], rtol=0.01)
    _, slopes = modes_at(made, np.array([[0.3, -0.2]]))
    assert slopes.shape == (1, 5, 2)


def test_lawgd_ends_with_the_moments_of_its_modes(line):
    found = lawgd(line, 1 + 0.5 * np.random.default_rng(0).normal(size=(200, 1)))
    moments = [(found**power).mean() for power in range(1, 5)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.01)


def test_the_score_of_a_kernel_density_is_its_slope():
    samples = np.random.default_rng(1).normal(size=(80, 2))
    score, bandwidth = density_score(samples)

    def log_density(at):
        return np.log(np.exp(-((samples - at) ** 2).sum(axis=1) / (2 * bandwidth**2)).sum())

    at, step = np.array([0.2, -0.4]), 1e-5
    slope = [(log_density(at + step * way) - log_density(at - step * way)) / (2 * step) for way in np.eye(2)]
    np.testing.assert_allclose(score(at[None])[0], slope, rtol=1e-5)


@pytest.mark.parametrize("method", [averaged_particles, ula, svgd, jitter])
def test_every_method_draws_a_gaussian(method):
    samples = np.random.default_rng(2).normal(size=(300, 2)) @ np.array([[1, 0.5], [0, 0.8]])
    found = method(samples, 200, seed=0)
    np.testing.assert_allclose(found.mean(axis=0), samples.mean(axis=0), atol=0.25)
    np.testing.assert_allclose(np.cov(found.T), np.cov(samples.T), atol=0.45)
    np.testing.assert_array_equal(found, method(samples, 200, seed=0))
