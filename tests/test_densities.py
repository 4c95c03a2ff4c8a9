"""Baselines of diffusion models: densities have mass one, EM finds components, the lattice's force is its gradient."""

import numpy as np
import pytest

from heatwalk.baselines import densities, lattice
from heatwalk.baselines.other_kernels import Straight, Walked
from heatwalk.mixture import Mixture, kernels, mixture
from heatwalk.spaces import SO3, SU, Sphere, Torus


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


def test_kernels_take_the_tails_and_widths_of_samples_left_out():
    """Of clusters with spreads a hundredfold apart one width is bad, widths by neighbours are not; and heavy tails."""
    rng = np.random.default_rng(6)

    def draw(n):
        spread = np.where(rng.random((n, 1)) < 0.5, 1.0, 0.01)
        return np.where(spread == 1, 0.0, 5.0) + spread * rng.normal(size=(n, 2))

    samples, fresh = draw(800), draw(1000)
    made = Mixture(samples, kernels(samples, dimension=2, least=1e-8).variances, np.full(800, 1 / 800))
    for width in (0.03, 0.1, 0.3):
        one = made._replace(variances=np.full(800, width**2))
        assert likelihood(made, fresh) > likelihood(one, fresh) + 0.5
    assert made.variances[samples[:, 0] > 4].max() < made.variances[samples[:, 0] < 3].min()
    assert kernels(rng.standard_cauchy((800, 2)), dimension=2, least=1e-8).freedom <= 4
    assert kernels(samples, dimension=2, least=0.5).variances.min() == 0.5


def likelihood(of, points):
    square = ((points[:, None] - of.places) ** 2).sum(2)
    return np.log(
        (of.shares / (2 * np.pi * of.variances) * np.exp(-square / (2 * of.variances))).sum(1) + 1e-300
    ).mean()


@pytest.mark.parametrize("space", [Torus(2), SO3(), SU(3)], ids=repr)
def test_other_kernels_are_what_they_say(space):
    """A walk has the law and score of the heat kernel at small times; straight paths lead from points to uniform."""
    rng, t = np.random.default_rng(7), np.full(3000, 0.01)
    x = np.repeat(space.random_point(rng, 1), 3000, axis=0)
    walked, exact = Walked(space).sample_heat_kernel(x, t, rng=rng), space.sample_heat_kernel(x, t, rng=rng)
    squares = [space.distance(x, y) ** 2 for y in (walked, exact)]
    error = np.hypot(*(part.std() / 3000**0.5 for part in squares))
    assert abs(squares[0].mean() - squares[1].mean()) < 4 * error + 0.01 * 0.01 * space.dimension
    scores = Walked(space).score(x, exact, t), space.score(x, exact, t)
    assert np.abs(scores[0] - scores[1]).max() < 0.05 * np.abs(scores[1]).max()
    ends = Straight(space).sample_heat_kernel(x, np.full(3000, np.e**2), rng=rng)
    half = Straight(space).sample_heat_kernel(x, np.full(3000, np.e), rng=np.random.default_rng(8))
    again = Straight(space).sample_heat_kernel(x, np.full(3000, np.e**2), rng=np.random.default_rng(8))
    np.testing.assert_allclose(2 * space.distance(x, half), space.distance(x, again), atol=1e-6)
    uniform = space.distance(x, space.random_point(rng, 3000))
    assert space.distance(x, ends).mean() == pytest.approx(uniform.mean(), abs=0.1)
    speed = -np.e * Straight(space).score(x, half, np.full(3000, np.e))  # the velocity is -sigma^2 times the "score"
    size = (space.slope * (np.abs(speed) ** 2).reshape(3000, -1).sum(1)) ** 0.5
    np.testing.assert_allclose(size, space.distance(x, again), atol=1e-6)
