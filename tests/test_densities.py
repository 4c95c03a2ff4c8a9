"""Baselines of diffusion models: densities have mass one, EM finds components, the lattice's force is its gradient."""

import numpy as np
import pytest

from heatwalk.baselines import densities, lattice
from heatwalk.mixture import mixture
from heatwalk.spaces import SU, Sphere, Torus


def test_kernel_densities_have_mass_one_and_agree_where_narrow():
    rng, space = np.random.default_rng(0), Sphere(2)
    train, grid = space.random_point(rng, 20), space.random_point(rng, 20_000)
    fisher = np.exp(densities.von_mises_fisher(train, grid, 20.0))
    assert fisher.mean() * 4 * np.pi == pytest.approx(1, abs=0.05)
    heat = np.exp(densities.heat_kernels(space, train, grid, 0.05))
    assert heat.mean() * 4 * np.pi == pytest.approx(1, abs=0.05)
    narrow = densities.von_mises_fisher(train, train, 1e4), densities.heat_kernels(space, train, train, 1e-4)
    np.testing.assert_allclose(*narrow, atol=1e-3)


def test_the_best_width_is_that_of_fresh_points():
    rng, space = np.random.default_rng(1), Torus(1)
    train, fresh = (space.sample_heat_kernel(np.zeros(1), 0.2, rng=rng, size=200) for _ in range(2))
    found = densities.best(lambda at, t: densities.heat_kernels(space, train, at, t), [1e-4, 0.02, 5.0], fresh)
    assert found == 0.02


def test_wrapped_mixtures_are_found_across_the_seam():
    rng = np.random.default_rng(2)
    centres, spread = np.array([[3.1, 0.0], [0.0, -2.0]]), np.array([[0.3, 0.1], [0.2, 0.4]])
    which = rng.integers(2, size=3000)
    points = (centres[which] + spread[which] * rng.normal(size=(3000, 2)) + np.pi) % (2 * np.pi) - np.pi
    made = densities.WrappedMixture(points, 2, rounds=60)
    order = np.argsort(made.means[:, 1])[::-1]
    across = made.means[order] - centres
    assert np.abs((across + np.pi) % (2 * np.pi) - np.pi).max() < 0.05
    np.testing.assert_allclose(made.deviations[order], spread, rtol=0.1)
    np.testing.assert_allclose(made.shares, 0.5, atol=0.05)
    grid = rng.uniform(-np.pi, np.pi, (40_000, 2))
    assert np.exp(made.log_density(grid)).mean() * 4 * np.pi**2 == pytest.approx(1, abs=0.06)


def test_the_force_of_a_lattice_is_the_gradient_of_its_action():
    rng, space, step = np.random.default_rng(3), SU(3), 1e-5
    links = space.random_point(rng, (2, 3, 4, 2))
    w = space.project(np.eye(3) + 0j, rng.normal(size=links.shape) + 1j * rng.normal(size=links.shape))
    ends = [lattice.action(space.exp(links, links @ (way * step * w)), 3.0) for way in (1, -1)]
    slope = -np.einsum("sxydij,sxydij->s", np.conj(w), lattice.force(links, 3.0)).real
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-6)


def test_gauge_fields_have_the_action_that_one_plaquette_has():
    """At beta = 0 links are uniform: E Re tr U = 0; and the mean falls as beta grows, by the variance at first."""
    links, taken = lattice.gauge_samples((2, 2), 0.5, 300, np.random.default_rng(4), steps=4, between=2)
    assert taken > 0.7
    plaquettes = -lattice.action(links, 3.0) / 4  # mean Re tr of the four
    # d E / d beta at 0 is the variance of Re tr / 3: E |tr U|^2 = 1, so E (Re tr)^2 = 1/2
    expected = 0.5 / 3 * 0.5
    assert plaquettes.mean() == pytest.approx(expected, abs=4 * plaquettes.std() / 300**0.5 + 0.02)


def test_a_mixture_is_found_and_stopped_before_it_learns_by_heart():
    rng, centres = np.random.default_rng(5), np.array([[-2.0, 0.0], [2.0, 1.0]])
    samples, left = (centres[rng.integers(2, size=n)] + 0.3 * rng.normal(size=(n, 2)) for n in (1500, 300))
    made = mixture(samples, left, centres + 0.5, np.ones(2), dimension=2, least=1e-4)
    np.testing.assert_allclose(made.places, centres, atol=0.06)
    np.testing.assert_allclose(np.sqrt(made.variances), 0.3, rtol=0.1)
    many = mixture(samples, left, samples[:400], np.full(400, 0.01), dimension=2, least=1e-6)
    fresh = centres[rng.integers(2, size=2000)] + 0.3 * rng.normal(size=(2000, 2))
    true = -np.log(2 * np.pi * 0.09) - 1 - np.log(2)
    assert true - 0.2 < likelihood(many, fresh) < true
    assert many.shares.sum() == pytest.approx(1)


def likelihood(of, points):
    square = ((points[:, None] - of.places) ** 2).sum(2)
    return np.log((of.shares / (2 * np.pi * of.variances) * np.exp(-square / (2 * of.variances))).sum(1)).mean()
