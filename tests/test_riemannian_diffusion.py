"""riemannian_diffusion: known laws on circles, spheres and rotations, scores, mass, samplers, resumption, bad input."""

import copy
import itertools
import logging
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

import heatwalk as hw
from heatwalk.mixture import kernels
from heatwalk.spaces import SO3, SU, Euclidean, Grassmannian, Power, Product, Sphere, Torus, sphere, torus

torch = pytest.importorskip("torch")

from heatwalk import score_flow, score_matching, score_network, tangents  # noqa: E402 - torch may be absent

SMALL = {"prototypes": 48, "width": 32, "batch": 64, "epochs": 3, "n_points": 100}
SPACES = [Sphere(2), Sphere(5), Torus(2), SO3(), SU(2), SU(3), Grassmannian(2, 4), Power(SO3(), (2,))]


class Mixture:
    """Heat kernels of one time around three points: its law after any further time is known."""

    def __init__(self, space, t, seed=0):
        self.space, self.t = space, t
        self.centres, self.shares = space.random_point(np.random.default_rng(seed), 3), np.array([0.5, 0.3, 0.2])

    def draw(self, count, seed):
        rng = np.random.default_rng(seed)
        return self.space.sample_heat_kernel(self.centres[rng.choice(3, count, p=self.shares)], self.t, rng=rng)

    def logs(self, y, later):
        parts = [self.space.log_heat_kernel(centre, y, self.t + later) for centre in self.centres]
        return np.array(parts) + np.log(self.shares)[:, None]

    def log_density(self, y, later=0.0):
        return logsumexp(self.logs(y, later), axis=0)

    def score(self, y, later):
        weights = np.exp(self.logs(y, later) - self.log_density(y, later))
        parts = [self.space.score(centre, y, self.t + later) for centre in self.centres]
        return sum(w.reshape(-1, *[1] * len(self.space.shape)) * part for w, part in zip(weights, parts, strict=True))


class Exact(torch.nn.Module):
    """The true score of a mixture, in the place of a network: flow and walk without errors of training."""

    def __init__(self, mixture, sigma_min=0.05):
        super().__init__()
        self.mixture, self.space = mixture, mixture.space
        most = score_flow.uniform_from(self.space)
        self.description = score_network.Description(repr(self.space), 1, 1, sigma_min, most)

    def forward(self, x, log_sigma):
        sigma = float(log_sigma.exp())
        points = score_network.as_points(self.space, x)
        points = points if isinstance(self.space, Torus) else _projected(self.space, points)
        return sigma * score_network.as_real(self._score(points, sigma**2))

    def _score(self, points, t):
        mixture = self.mixture
        centres = torch.from_numpy(mixture.centres)
        logs = [self.space.log_heat_kernel(c.expand_as(points).detach(), points, mixture.t + t) for c in centres]
        weights = torch.softmax(torch.stack(logs) + torch.from_numpy(np.log(mixture.shares))[:, None], 0)
        parts = [self.space.score(c, points, mixture.t + t) for c in centres]
        return sum(w.reshape(-1, *[1] * len(self.space.shape)) * p for w, p in zip(weights, parts, strict=True))


def _projected(space, points):
    return torch.from_numpy(space.project(points.detach().numpy()))


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_tangents_and_frames_are_those_of_the_space(space):
    """The frame's sum of e e' is the projection, and the network's output is tangent."""
    x = space.random_point(np.random.default_rng(0), 4)
    flat = score_network.as_real(torch.from_numpy(x))
    frame = torch.stack(tangents.frame(space, flat))
    described = score_network.Description(repr(space), 5, 8, 0.01, 2.0)
    network = score_network.ScoreNetwork(described).double()
    v = torch.randn(4, flat.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = space.project(x, score_network.as_points(space, v).numpy())
    projected = torch.einsum("kpi,kpj,pj->pi", frame, frame, v)
    assert torch.allclose(projected, score_network.as_real(torch.from_numpy(expected)), atol=1e-12)
    torch.nn.init.normal_(network.exit.weight)
    made = network(flat, torch.zeros(4, dtype=torch.float64))
    tangent = space.project(x, score_network.as_points(space, made.detach()).numpy())
    assert torch.allclose(made, score_network.as_real(torch.from_numpy(tangent)), atol=1e-10)
    rank = torch.linalg.matrix_rank(torch.einsum("kpi,kpj->pij", frame, frame), atol=1e-9)
    assert (rank == space.dimension).all()


@pytest.mark.parametrize("space", [Sphere(2), Torus(2), SO3(), SU(2)], ids=repr)
def test_divergence_of_a_kernel_s_score_is_its_laplacian(space):
    """By the heat equation: d/dt log p = (div s + |s|^2) / 2."""
    rng, t = np.random.default_rng(1), 0.7
    x = space.random_point(rng)
    y = space.sample_heat_kernel(x, t, rng=rng, size=5)
    slope = (space.log_heat_kernel(x, y, t + 1e-4) - space.log_heat_kernel(x, y, t - 1e-4)) / 2e-4
    spread = np.zeros(5)
    flat = score_network.as_real(torch.from_numpy(y))
    for e in tangents.frame(space, flat):  # by differences along geodesics, whose velocity is parallel at first
        step = score_network.as_points(space, e).numpy()
        ends = [space.score(x, space.exp(y, way * 1e-4 * step), t) for way in (1, -1)]
        rise = score_network.as_real(torch.from_numpy((ends[0] - ends[1]) / 2e-4))
        spread += (rise * e).sum(1).numpy()
    square = space.slope * (np.abs(space.score(x, y, t)) ** 2).reshape(5, -1).sum(1)
    np.testing.assert_allclose((spread + square) / 2, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [Sphere(2), SO3()], ids=repr)
def test_exact_and_sliced_divergence_agree_with_differences(space):
    described = score_network.Description(repr(space), 6, 16, 0.01, 2.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = score_network.ScoreNetwork(described).double()
        torch.nn.init.normal_(network.exit.weight)
    y = space.random_point(np.random.default_rng(2), 3)
    x = score_network.as_real(torch.from_numpy(y)).requires_grad_()
    u = torch.zeros(3, dtype=torch.float64)
    made = network(x, u)
    found = tangents.divergence(space, x, made)
    expected = torch.zeros(3, dtype=torch.float64)
    for e in tangents.frame(space, x.detach()):
        step = score_network.as_points(space, e).numpy() * 1e-4
        ends = [score_network.as_real(torch.from_numpy(space.exp(y, way * step))) for way in (1, -1)]
        expected += ((network(ends[0], u) - network(ends[1], u)) / 2e-4 * e).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    probes = [network.tangent(x, torch.randn(x.shape, generator=generator).double()).detach() for _ in range(1000)]
    sliced = torch.stack([tangents.sliced_divergence(x, made, e) for e in probes])
    assert ((sliced.mean(0) - found).abs() < 5 * sliced.std(0) / 1000**0.5).all()


@pytest.mark.parametrize("space", [Torus(1), SO3()], ids=repr)
def test_flow_and_walk_with_the_true_score_draw_the_known_law(space):
    mixture = Mixture(space, 0.15)
    network, rng = Exact(mixture), np.random.default_rng(3)
    true = mixture.log_density(mixture.draw(4000, 4), 0.05**2)
    for points in (score_flow.flowed(network, 300, rng, 12), score_flow.walked(network, 300, rng, 40)):
        found = mixture.log_density(points, 0.05**2)
        error = np.hypot(true.std() / 4000**0.5, found.std() / 300**0.5)
        assert abs(found.mean() - true.mean()) < 4.5 * error


def kernel_network(space, count, seed=0):
    """A network that is kernels alone, of many widths and tails."""
    described, rng = score_network.Description(repr(space), count, 8, 0.05, 2.0), np.random.default_rng(seed)
    network = score_network.ScoreNetwork(described).double()
    points = space.random_point(rng, count)
    with torch.no_grad():
        network.origins.copy_(network.embedded(score_network.as_real(torch.from_numpy(points))))
        network.log_widths.copy_(torch.from_numpy(rng.normal(size=count) - 1))
        network.biases.copy_(torch.from_numpy(rng.normal(size=count)))
        network.log_tail.fill_(-np.log(3.0))
    return network


@pytest.mark.parametrize("space", [Sphere(2), Torus(3), SO3()], ids=repr)
def test_kernels_are_the_score_of_the_students_mixture_that_they_say(space):
    network, sigma = kernel_network(space, 6), 0.3
    y = score_network.as_real(torch.from_numpy(space.random_point(np.random.default_rng(1), 5)))
    at, u = network.embedded(y).requires_grad_(), torch.tensor([np.log(sigma)])
    w, d = network.log_widths.exp() ** 2, space.dimension
    v = sigma**2 + w
    n = 3 / (w / v) ** 2
    square = ((at[:, None] - network.places) ** 2).sum(2) * space.slope
    gammas = torch.lgamma((n + d) / 2) - torch.lgamma(n / 2) - d / 2 * torch.log(n * v / 2)
    logs = network.biases + gammas - (n + d) / 2 * torch.log1p(square / (n * v))
    (slope,) = torch.autograd.grad(torch.logsumexp(logs, 1).sum(), at)
    expected = sigma * network.tangent(y, slope) / space.slope
    torch.testing.assert_close(network(y, u), expected, rtol=5e-3, atol=5e-3)  # Stirling's formula
    own = torch.tensor([0, 1, 2, 3, 5])
    without = network(y, u, own)
    for row, number in enumerate(own):
        others = copy.deepcopy(network)
        with torch.no_grad():
            others.biases[number] = -1e3
        torch.testing.assert_close(without[row], others(y[row : row + 1], u)[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("space", [Sphere(2), Torus(3), SO3(), Power(SU(2), (2,))], ids=repr)
def test_kernels_that_are_not_learnt_have_the_derivatives_of_those_that_are(space):
    network, found = kernel_network(space, 6), []
    y = score_network.as_real(torch.from_numpy(space.random_point(np.random.default_rng(1), 5)))
    for learnt in (True, False):
        network.requires_grad_(learnt)
        x = y.clone().requires_grad_()
        made = network(x, torch.tensor([np.log(0.3)]))
        found.append((made.detach(), tangents.divergence(space, x, made).detach()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_what_is_learnt_from_a_sample_has_kernels_as_if_it_had_never_been():
    samples = Sphere(2).random_point(np.random.default_rng(0), 60)
    found = kernels(samples, dimension=2, least=1e-8)
    apart = cdist(samples, samples)
    network = kernel_network(Sphere(2), 60)
    with torch.no_grad():
        network.origins.copy_(torch.from_numpy(samples))
        network.log_widths.copy_(torch.from_numpy(np.log(found.variances) / 2))
    network.near, network.log_widths_without = (torch.from_numpy(a) for a in (found.near, np.log(found.without) / 2))
    y, u = torch.from_numpy(samples[:5]), torch.tensor([np.log(0.1)])
    without = network(y, u, torch.arange(5))
    for own in range(5):
        others = np.sort(np.delete(apart, own, axis=1), axis=1)  # from each to others, itself first
        variances = found.variances.copy()
        variances[found.near[own]] = found.without[found.near[own]]
        ratios = [np.delete(variances / others[:, k] ** 2, own) for k in (1, 2, 3, 5, 10)]
        assert min(np.ptp(ratio) / ratio.mean() for ratio in ratios) < 1e-4
        alone = copy.deepcopy(network)
        with torch.no_grad():
            alone.biases[own] = -1e3
            alone.log_widths.copy_(torch.from_numpy(np.log(variances) / 2))
        torch.testing.assert_close(without[own], alone(y[own : own + 1], u)[0], rtol=1e-6, atol=1e-8)


def test_kernels_are_chosen_by_samples_that_they_do_not_know(caplog):
    samples = Mixture(Sphere(2), 0.1).draw(120, 1)
    with caplog.at_level(logging.INFO, "heatwalk"):
        kernels(samples, dimension=2, least=1e-8)
    level, factor, k, n = map(float, re.findall(r"kernels: (\S+) .*; (\S+) .*neighbour (\d+), (\d+)", caplog.text)[0])
    levels = []
    for own, sample in enumerate(samples):
        known = np.delete(samples, own, axis=0)
        scale = n * factor**2 * np.sort(cdist(known, known), axis=1)[:, int(k)] ** 2 / 2
        logs = -np.log(np.pi * scale) + np.log(n / 2) - (n / 2 + 1) * np.log1p(((known - sample) ** 2).sum(1) / scale)
        levels.append(logsumexp(logs) - np.log(119))
    assert abs(np.mean(levels) - level) < 1e-3


def test_small_distances_count_in_single_precision():
    network = kernel_network(Sphere(2), 1)
    with torch.no_grad():
        network.log_widths.fill_(np.log(1e-4))
    shifted = network.places + torch.tensor([[1e-4, 2e-4, -3e-4]])
    shifted = shifted / shifted.norm()
    u = torch.tensor([np.log(1e-4)])
    single = copy.deepcopy(network).float()
    found, expected = single(shifted.float(), u.float()).double(), network(shifted.float().double(), u)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)


def test_training_betters_kernels_at_all_samples():
    mixture = Mixture(Sphere(2), 0.1)
    samples, fresh = mixture.draw(700, 1), mixture.draw(500, 2)
    described = score_network.Description("Sphere(2)", 630, 32, 0.03, score_flow.uniform_from(Sphere(2)))
    assert score_matching.prototypes(1024, 700, 0.1) == 630
    assert score_matching.prototypes(600, 700, 0.1) == 315
    levels = {}
    for epochs in (0, 6):
        options = score_matching.Options("denoising", 128, epochs, 1e-3, 0.1)
        made = score_matching.trained(Sphere(2), samples, described, options, seed=0)
        levels[epochs] = score_flow.log_density(made.network, fresh).mean()
        assert (made.best > 0) == (epochs > 0)
    true = mixture.log_density(fresh, 0.03**2).mean()
    assert levels[0] < levels[6] < true


class Zonal(torch.nn.Module):
    """The score of heat kernels around two points of S^2 or SO(3), from sums over eigenfunctions that torch derives."""

    def __init__(self, space, centres, t, sigma_min=0.05):
        super().__init__()
        self.space, self.centres, self.t = space, torch.from_numpy(centres).flatten(1), t
        self.n_embedded = self.centres.shape[1]
        self.description = score_network.Description(repr(space), 1, 1, sigma_min, score_flow.uniform_from(space))

    def log_density(self, x, t):
        rotations = int(isinstance(self.space, SO3))
        c = (x @ self.centres.T - rotations) / (1 + rotations)  # cosine of the angle
        before, now, character, total = torch.ones_like(c), c, torch.ones_like(c), torch.ones_like(c)
        for order in range(1, 30):
            character = character + 2 * now
            total = total + (2 * order + 1) * np.exp(-order * (order + 1) * t / 2) * (character if rotations else now)
            rise = 1 if rotations else order / (order + 1)  # of Chebyshev, and of Legendre polynomials
            before, now = now, (1 + rise) * c * now - rise * before
        return total.mean(1).log() - score_flow.log_volume(self.space)

    def tangent(self, x, v):
        points = [score_network.as_points(self.space, part) for part in (x, v)]
        return score_network.as_real(self.space._tangent(*points, score_network.namespace))

    def forward(self, x, log_sigma):
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            level = self.log_density(at, self.t + float(log_sigma.exp()) ** 2).sum()
            (slope,) = torch.autograd.grad(level, at, create_graph=True)
        return log_sigma.exp() * self.tangent(at, slope) / self.space.slope


@pytest.mark.parametrize("space", [Sphere(2), SO3()], ids=repr)
def test_the_log_likelihood_of_a_known_law_is_exact(space):
    rng = np.random.default_rng(8)
    centres = space.random_point(rng, 2)
    points = space.sample_heat_kernel(centres[rng.integers(2, size=12)], 0.15, rng=rng)
    network = Zonal(space, centres, 0.15)
    expected = logsumexp([space.log_heat_kernel(one, points, 0.15 + 0.05**2) for one in centres], axis=0) - np.log(2)
    flat = torch.from_numpy(points).flatten(1)
    np.testing.assert_allclose(network.log_density(flat, 0.15 + 0.05**2), expected, atol=1e-9)
    np.testing.assert_allclose(score_flow.log_density(network, points), expected, atol=2e-3)
    sliced = [score_flow.log_density(network, points, exact=False, seed=seed) for seed in range(4)]
    assert abs(np.mean(sliced - expected)) < 5 * np.std(np.mean(sliced, axis=0) - expected) / 12**0.5 + 2e-3


@pytest.fixture(scope="module")
def learnt():
    mixture = Mixture(Sphere(2), 0.1)
    options = {"prototypes": 64, "width": 48, "epochs": 8, "batch": 192, "sigma_min": 0.05, "n_points": 1000}
    return mixture, hw.riemannian_diffusion(mixture.draw(2500, 1), space=Sphere(2), **options)


def test_a_mixture_on_a_sphere_is_learnt_density_score_and_points(learnt):
    mixture, made = learnt
    fresh = mixture.draw(600, 2)
    found = score_flow.log_density(made.network, fresh)
    true = mixture.log_density(fresh, 0.05**2)
    assert 0 < true.mean() - found.mean() < 0.05
    assert np.corrcoef(found, true)[0, 1] > 0.9
    sigma = 0.3
    noisy = mixture.space.sample_heat_kernel(fresh, sigma**2, rng=np.random.default_rng(5))
    with torch.no_grad():
        u = torch.tensor([np.log(sigma)], dtype=torch.float32)
        score = made.network(torch.from_numpy(noisy.astype(np.float32)), u).numpy() / sigma
    exact = mixture.score(noisy, sigma**2)
    assert ((score - exact) ** 2).sum() < 0.05 * (exact**2).sum()
    own = mixture.log_density(made.points)
    assert abs(own.mean() - mixture.log_density(mixture.draw(4000, 6)).mean()) < 0.12
    np.testing.assert_allclose(np.linalg.norm(made.points, axis=1), 1, rtol=1e-12)
    assert made.flagged.mean() < 0.05
    assert made.losses.shape == (8, 2)


def test_density_has_mass_one_and_unusual_points_score_high(learnt):
    mixture, made = learnt
    rng = np.random.default_rng(7)
    grid = mixture.space.random_point(rng, 3000)
    density = np.exp(score_flow.log_density(made.network, grid)) * np.exp(score_flow.log_volume(mixture.space))
    assert abs(density.mean() - 1) < 4 * density.std() / 3000**0.5
    far = grid[np.argmin(mixture.log_density(grid))]
    both = hw.riemannian_diffusion(np.stack([far, mixture.centres[0]]), reference=made, space=Sphere(2))
    assert both.points is None
    assert both.out_of_distribution[0] == 1
    assert both.out_of_distribution[1] < 0.5
    assert len(made.left_out) == 250
    own = made.out_of_distribution
    assert 0.4 < own.mean() < 0.6
    again = hw.riemannian_diffusion(mixture.centres, reference=made)  # by its name
    assert again.log_density[0] == pytest.approx(both.log_density[1], abs=1e-3)


@pytest.mark.parametrize("objective", ["implicit", "sliced"])
def test_other_objectives_come_to_the_same_score(objective):
    mixture = Mixture(Torus(1), 0.3)
    options = {"prototypes": 32, "width": 32, "epochs": 8, "batch": 128, "sigma_min": 0.1, "n_points": 10}
    made = hw.riemannian_diffusion(mixture.draw(1500, 1), space=Torus(1), objective=objective, **options)
    angles = np.linspace(-3, 3, 200)[:, None]
    with torch.no_grad():
        u = torch.tensor([np.log(0.5)], dtype=torch.float32)
        score = made.network(torch.from_numpy(angles.astype(np.float32)), u).numpy() / 0.5
    exact = mixture.score(angles, 0.25)
    assert ((score - exact) ** 2).mean() < 0.15 * (exact**2).mean()


def test_the_losses_have_the_same_gradient_in_expectation():
    """Of a score that is a constant field on the circle, c / sigma: all objectives are c^2 and a constant."""
    space, rng = Torus(1), np.random.default_rng(0)
    x = np.zeros((200_000, 1))
    given = score_matching.noised(space, x, np.full(len(x), 0.4), rng)
    targets = torch.from_numpy(given.targets).double()
    for c in (0.0, 0.7):
        assert float(((c - targets) ** 2).mean() - (targets**2).mean()) == pytest.approx(c**2, abs=0.01)
    assert float((targets**2).mean()) == pytest.approx(1, abs=0.02)  # sigma score of a normal law
    assert given.points.dtype == np.float32


@pytest.mark.parametrize("prototypes", [48, 1024])
def test_same_seed_same_bytes_on_any_number_of_threads_and_after_a_stop(prototypes, tmp_path, monkeypatch):
    small = {**SMALL, "prototypes": prototypes}
    points, state = Mixture(Sphere(3), 0.2).draw(300, 0), torch.get_rng_state()
    first = hw.riemannian_diffusion(points, space=Sphere(3), threads=1, **small)
    second = hw.riemannian_diffusion(points, space=Sphere(3), threads=3, **small)
    assert torch.equal(state, torch.get_rng_state())
    file, kept = tmp_path / "a.checkpoint", score_matching.checkpoints.keep
    calls = itertools.count()

    def stopping(*arguments, **about):
        kept(*arguments, **about)
        if next(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(score_matching.checkpoints, "keep", stopping)
    with pytest.raises(KeyboardInterrupt):
        hw.riemannian_diffusion(points, space=Sphere(3), checkpoint=file, **small)
    monkeypatch.undo()
    assert file.exists()
    third = hw.riemannian_diffusion(points, space=Sphere(3), checkpoint=file, **small)
    assert not file.exists()
    for other in (second, third):
        for name in first._fields:
            np.testing.assert_array_equal(getattr(first, name), getattr(other, name), err_msg=name)


def test_a_representation_lies_on_its_space_by_its_columns(caplog):
    rng, small = np.random.default_rng(0), {**SMALL, "epochs": 1, "n_points": 20}
    embedding = rng.normal(size=(120, 4)) + 1
    with caplog.at_level(logging.INFO, logger="heatwalk"):
        on_sphere = hw.riemannian_diffusion(embedding, space="sphere", **small)
    assert "Sphere(3)" in caplog.text
    np.testing.assert_allclose(np.linalg.norm(on_sphere.points, axis=1), 1)
    scaled = hw.riemannian_diffusion(3 * embedding, space="sphere", **small)
    np.testing.assert_allclose(scaled.points, on_sphere.points, atol=1e-4)
    angles = rng.normal(size=(120, 2))
    as_angles = hw.riemannian_diffusion(angles, space="torus", **small)
    as_pairs = hw.riemannian_diffusion(torus.embed(angles, "radians"), space="torus", sampler="flow", **small)
    assert as_angles.points.shape == (20, 2)
    assert as_pairs.points.shape == (20, 4)
    np.testing.assert_allclose(as_pairs.log_density, as_angles.log_density, atol=1e-3)
    matrices = SO3().random_point(rng, 120).reshape(120, 9)
    rotations = hw.riemannian_diffusion(matrices, space="so3", sigma_min=0.2, **small)
    SO3().distance(rotations.points.reshape(-1, 3, 3), np.eye(3))  # which refuses what is no rotation
    unitary = hw.riemannian_diffusion(SU(2).random_point(rng, 120), space=SU(2), sigma_min=0.2, **small)
    assert unitary.points.shape == (20, 2, 2)


def test_cells_that_are_held_out_are_not_learnt_from():
    rng = np.random.default_rng(0)
    split = np.zeros(200, np.uint8)
    split[:50] = 1
    obs = pd.DataFrame({"kind": ["a"] * 100 + ["b"] * 100})
    cells = SimpleNamespace(split=split, obs=obs)
    points = Mixture(Sphere(2), 0.1).draw(200, 0)
    points[:50] = points[rng.integers(50, 200, 50)]
    made = hw.riemannian_diffusion(points, cells, condition="kind=b", **SMALL)
    assert made.nearest.min() >= 100
    assert made.log_density.shape == (200,)


def test_high_dimensions_take_random_tangents_and_all_spaces_train():
    space = Sphere(40)
    made = hw.riemannian_diffusion(Mixture(space, 0.002).draw(200, 0), space=space, sigma_min=0.02, **SMALL)
    assert np.isfinite(made.log_density).all()
    lattice = Power(SU(3), (2,))
    one = np.tile(np.eye(3, dtype=complex), (100, 2, 1, 1))
    points = lattice.sample_heat_kernel(one, 0.1, rng=np.random.default_rng(0))
    small = {**SMALL, "epochs": 1, "batch": 16, "n_points": 4}
    found = hw.riemannian_diffusion(points, space=lattice, sigma_min=0.2, **small)
    assert found.points.shape == (4, 2, 3, 3)
    lattice.distance(found.points, one[:4])  # which refuses what is off


def test_models_are_read_back_and_damaged_ones_refused(learnt):
    _, made = learnt
    weights, description = (np.asarray(part).tobytes() for part in (made.weights, made.description))
    network = score_network.loaded(weights, description.decode())
    assert repr(network.space) == "Sphere(2)"
    for bad in (
        description.decode().replace("Sphere(2)", "__import__('os').getcwd()"),
        description.decode().replace("Sphere(2)", "Sphere(3)"),
        description.decode().replace('"width": 48', '"width": -1'),
        "{}",
    ):
        with pytest.raises(hw.BadInput, match="HW-RD-010"):
            score_network.loaded(weights, bad)
    with pytest.raises(hw.BadInput, match="HW-RD-010"):
        score_network.loaded(weights[:-4], description.decode())


POINTS = Mixture(Sphere(2), 0.1).draw(100, 0)
NOT_FINITE, AT_CENTRE = POINTS.copy(), POINTS.copy()
NOT_FINITE[3, 1] = np.nan
AT_CENTRE[[5, 7]] = 0


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (NOT_FINITE, {}, "HW-RD-001 points: 1 of 100 are not finite: rows 3"),
        (POINTS, {"space": "hyperbolic"}, "HW-RD-002 space: 'hyperbolic' is unknown; use one of: sphere, torus, so3"),
        (POINTS, {"space": Euclidean(3)}, "HW-RD-002 space: .*no uniform law"),
        (POINTS, {"space": Product(Sphere(2), Torus(1))}, "HW-RD-002 space: .*"),
        (POINTS, {"space": Sphere(3)}, r"HW-RD-003 points: their shape is \(100, 3\)"),
        (POINTS, {"space": "so3"}, "HW-RD-003 points: a rotation has 9 entries, points have 3 columns"),
        (POINTS[:, :1], {"space": "sphere"}, "HW-RD-003 points: points of 1 column lie on no sphere"),
        (AT_CENTRE, {}, "HW-RD-004 points: 2 of 100 have no direction, .*: rows 5, 7"),
        (90 * POINTS, {"space": "torus"}, "HW-RD-005 points: angles reach .*; give radians: numpy.deg2rad"),
        (900 * POINTS, {"space": "torus"}, "HW-RD-005 points: angles reach .*; give angles"),
        (1.01 * POINTS, {"space": Sphere(2)}, "HW-SP-005 .*100 of 100 points are off: the length differs from 1 by"),
        (2 * np.eye(3).ravel()[None].repeat(100, 0), {"space": "so3"}, "HW-SP-005 .*x\\^T x differs from 1 by up to 3"),
        (np.tile(2 * np.eye(3, dtype=complex), (100, 1, 1)), {"space": SU(3)}, "HW-SP-005"),
        (POINTS[:20], {}, "HW-RD-007 points: 20 samples are fewer than 32"),
        (POINTS, {"objective": "guess"}, "HW-RD-002 objective"),
        (POINTS, {"sampler": "guess"}, "HW-RD-002 sampler"),
        (POINTS, {"steps": 0}, "HW-RD-002 steps"),
        (POINTS, {"epochs": 0}, "HW-RD-002 epochs: 0 is no whole number from 1; set epochs to 1 or more"),
        (POINTS, {"batch": 1}, "HW-RD-002 batch"),
        (POINTS, {"n_points": 0}, "HW-RD-002 n_points"),
        (POINTS, {"prototypes": 0}, "HW-RD-002 prototypes"),
        (POINTS, {"width": 0}, "HW-RD-002 width"),
        (POINTS, {"rate": -1.0}, "HW-RD-002 rate"),
        (POINTS, {"validation": 0.9}, "HW-RD-002 validation"),
        (POINTS, {"sigma_min": 0.0}, "HW-RD-002 sigma_min"),
        (POINTS, {"sigma_min": 2.5}, "HW-RD-002 sigma_min: 2.5 leaves nothing of Sphere.*uniform from 2.8"),
        (POINTS, {"condition": "kind=b"}, "HW-RD-008 condition"),
        (POINTS, {"device": "cuda"}, "HW-CP-002"),
    ],
)
def test_bad_input_is_said(points, options, message):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(hw.HeatwalkError, match=message):
        hw.riemannian_diffusion(points, **{**SMALL, "epochs": 1, **options})


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(hw.BadInput, match=r"HW-RD-006 rate: .* epoch 1 of 2 .*; set rate to"):
        hw.riemannian_diffusion(POINTS, **{**SMALL, "epochs": 2, "rate": 1e30})


def test_a_reference_of_another_space_is_refused(learnt):
    with pytest.raises(hw.BadInput, match=r"HW-RD-009 reference: points lie on Sphere\(3\), .* Sphere\(2\)"):
        hw.riemannian_diffusion(np.ones((5, 4)), reference=learnt[1])


def test_a_reference_of_an_earlier_version_is_refused(learnt):
    with pytest.raises(hw.BadInput, match="HW-RD-010 reference: was made by an earlier version .*; make it again"):
        hw.riemannian_diffusion(POINTS[:5], reference=learnt[1]._replace(outlying=None))


def test_columns_that_change_their_mind_are_refused():
    angles = np.random.default_rng(0).normal(size=(9000, 1))
    rows = torus.embed(angles, "radians")
    rows[8500] *= 1.5
    with pytest.raises(hw.BadInput, match="HW-SP-005 .*differs from 1"):
        hw.riemannian_diffusion(rows, space="torus", **SMALL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[10.0, 400.0]], "longitudes go from 0 to 400 degrees"),
        ([[100.0, 20.0]], "latitudes reach 100 degrees, the bound is 90: longitudes fit, the columns may be swapped"),
    ],
)
def test_latitude_and_longitude_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        sphere.embed(np.array(values))
