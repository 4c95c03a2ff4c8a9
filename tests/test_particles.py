"""particles: the operator, the flow beside its literal formula and exact eigenfunctions, and what inputs may do."""

import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.special import eval_hermitenorm, factorial
from scipy.stats import norm

import heatwalk as hw
from heatwalk import likeness
from heatwalk.decoding import decoded
from heatwalk.inverse_generator import averages, force, generator, weights
from heatwalk.likeness import concerns
from heatwalk.particles import flow
from heatwalk.rounded import rounded
from heatwalk.surroundings import even, settled, surroundings


def moons(n_points, seed):
    rng = np.random.default_rng(seed)
    angle, which = rng.uniform(0, np.pi, n_points), rng.integers(2, size=n_points)
    sign = 1 - 2 * which
    points = np.column_stack([np.cos(angle) * sign + which, np.sin(angle) * sign + which / 2])
    return points + 0.05 * rng.normal(size=points.shape)


def circle(n_points, seed, noise=0.02):
    rng = np.random.default_rng(seed)
    angle, points = rng.uniform(0, 2 * np.pi, n_points), noise * rng.normal(size=(n_points, 20))
    points[:, :2] += np.column_stack([np.cos(angle), np.sin(angle)])
    return points


def off_circle(points):
    return np.sqrt(((np.linalg.norm(points[:, :2], axis=1) - 1) ** 2 + (points[:, 2:] ** 2).sum(axis=1)).mean())


def literal(made, particles):
    """-1/m sum_i grad_1 K(x, y_i) + sum_k w_k target_k grad psi_k(x), pair by pair."""
    eps, samples = made.bandwidth**2, made.samples + made.centre
    density = np.exp(made.log_density)

    def modes(x):
        kernel = np.exp(-((x - samples) ** 2).sum(axis=1) / (2 * eps)) / np.sqrt(density)
        slope = -(x - samples) / eps * kernel[:, None]
        total = kernel.sum()
        gradient = (slope * total - kernel[:, None] * slope.sum(axis=0)) / total**2
        return (kernel / total) @ made.vectors, made.vectors.T @ gradient

    velocity = np.zeros(particles.shape)
    for row, x in enumerate(particles):
        gradient = modes(x)[1]
        for y in particles:
            velocity[row] -= (made.weights * modes(y)[0]) @ gradient / len(particles)
        velocity[row] += (made.weights * made.target) @ gradient
    return velocity


def test_fused_step_is_the_literal_formula():
    samples, rng = moons(120, 0), np.random.default_rng(1)
    made = generator(samples)
    particles = samples[:15] + 0.1 * rng.normal(size=(15, 2))
    velocity, _ = force(made, particles)
    wanted = literal(made, particles)
    assert np.abs(velocity - wanted).max() < 1e-10 * max(1, np.abs(wanted).max())


def test_velocity_descends_the_energy():
    made = generator(moons(200, 0))
    particles = moons(20, 3)
    velocity, _ = force(made, particles)
    step = np.zeros(particles.shape)
    step[4, 1] = 1e-6
    slope = (force(made, particles + step)[1] - force(made, particles - step)[1]) / 2e-6
    # The energy is a mean over particles.
    assert -velocity[4, 1] / len(particles) == pytest.approx(slope, rel=1e-4)


def test_modes_solve_the_markov_operator():
    samples = moons(150, 2)
    made = generator(samples)
    eps = made.bandwidth**2
    kernel = np.exp(-cdist(samples, samples, "sqeuclidean") / (2 * eps))
    density = kernel.sum(axis=1)
    kernel /= np.sqrt(np.outer(density, density))
    step = kernel / kernel.sum(axis=1, keepdims=True)
    assert np.abs(step @ made.vectors - made.vectors * made.eigenvalues).max() < 1e-10
    assert np.abs(averages(made, samples) - step).max() < 1e-12
    stationary = kernel.sum(axis=1) / kernel.sum()
    assert np.allclose(stationary @ made.vectors**2, 1)
    assert np.abs(stationary @ made.vectors).max() < 1e-10


def test_eigenvalues_of_a_gaussian_are_those_of_its_generator():
    """mu_k = k for a standard normal: 2 (1 - lambda_k) / eps, and not half of it."""
    samples = norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    made = generator(samples, bandwidth=0.15)
    assert np.allclose(2 * (1 - made.eigenvalues[:4]) / 0.15**2, [1, 2, 3, 4], rtol=0.08)


def test_velocity_on_a_gaussian_is_that_of_hermite_functions():
    samples = norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    made = generator(samples, bandwidth=0.15, modes=4)
    particles = 0.4 + 0.8 * norm.ppf((np.arange(300) + 0.5) / 300)[:, None]
    wanted = np.zeros(len(particles))
    for k in range(1, 5):
        # phi_k = He_k / sqrt(k!), phi_k' = k He_{k-1} / sqrt(k!), eigenvalue k.
        mean = eval_hermitenorm(k, particles[:, 0]).mean()
        wanted -= mean * eval_hermitenorm(k - 1, particles[:, 0]) / factorial(k)
    inside = np.abs(particles[:, 0]) < 2
    found = force(made, particles)[0][:, 0]
    assert np.abs(found - wanted)[inside].max() < 0.08 * np.abs(wanted[inside]).max()


def test_velocity_on_a_mixture_is_that_of_finite_differences():
    """pi h' = F_pi - F_mu solves L h = mu / pi - 1, and the velocity of all modes is -h'; here in the lowest three."""
    grid = np.linspace(-5, 5, 1501)
    density = (norm.pdf(grid, -1.2, 0.7) + norm.pdf(grid, 1.2, 0.7)) / 2
    spacing = grid[1] - grid[0]
    between = np.sqrt(density[1:] * density[:-1]) / spacing**2
    diagonal = np.zeros(len(grid))
    diagonal[:-1] += between
    diagonal[1:] += between
    from scipy.linalg import eigh_tridiagonal

    off = -between / np.sqrt(density[1:] * density[:-1])
    values, vectors = eigh_tridiagonal(diagonal / density, off, select="i", select_range=(0, 3))
    functions = vectors / np.sqrt(density * spacing)[:, None]
    cumulative = np.cumsum(density) * spacing
    samples = np.interp((np.arange(2000) + 0.5) / 2000, cumulative / cumulative[-1], grid)[:, None]
    particles = norm.ppf((np.arange(300) + 0.5) / 300, -0.5, 0.9)[:, None]
    made = generator(samples, bandwidth=0.16, modes=3)
    assert np.allclose(2 * (1 - made.eigenvalues) / 0.16**2, values[1:], rtol=0.06)
    wanted = np.zeros(len(particles))
    for k in range(1, 4):
        mean = np.interp(particles[:, 0], grid, functions[:, k]).mean()
        slope = np.interp(particles[:, 0], grid, np.gradient(functions[:, k], spacing))
        wanted -= mean * slope / values[k]
    inside = np.abs(particles[:, 0]) < 2
    found = force(made, particles)[0][:, 0]
    assert np.abs(found - wanted)[inside].max() < 0.1 * np.abs(wanted[inside]).max()


def test_divergence_falls_along_the_flow():
    """KL to the standard normal, from the spacings of sorted particles: both distributions are close to Gaussian."""
    samples = norm.ppf((np.arange(1000) + 0.5) / 1000)[:, None]
    init, step = flow(generator(samples, bandwidth=0.2, modes=6))
    state = init(0.7 + 0.6 * norm.ppf((np.arange(200) + 0.5) / 200)[:, None])
    state = state._replace(time_step=0.2)
    divergences = []
    for _ in range(8):
        x = state.points[:, 0]
        divergences.append((x.var() + x.mean() ** 2 - 1 - np.log(x.var())) / 2)
        state = step(state)._replace(time_step=0.2)
    assert (np.diff(divergences) < 0).all()
    # d/dt KL = -chi^2: a time of 1.4 takes the mean down to e^-1.4 of itself.
    assert divergences[-1] < 0.1 * divergences[0]


def test_averaged_operator_is_refused_where_it_is_no_contraction():
    samples = moons(400, 0)
    eps = 0.1 * np.median(cdist(samples, samples, "sqeuclidean")) / np.log(401) / 2
    kernel = np.exp(-cdist(samples, samples, "sqeuclidean") / (2 * eps))
    density = kernel.sum(axis=1)
    kernel /= np.sqrt(np.outer(density, density))
    degrees = kernel.sum(axis=1)
    averaged = np.linalg.eigvalsh((kernel / degrees + kernel / degrees[:, None]) / 2)
    conjugate = np.linalg.eigvalsh(kernel / np.sqrt(np.outer(degrees, degrees)))
    assert averaged.max() > 1 + 1e-6
    assert conjugate.max() < 1 + 1e-12
    with pytest.raises(hw.BadInput, match="HW-PA-006.*no contraction"):
        weights(averaged, eps)
    with pytest.raises(hw.BadInput, match="HW-PA-006"):
        weights(np.array([0.5, np.nan]), eps)


def test_particles_on_a_noisy_circle_keep_its_thickness():
    samples = circle(600, 0)
    found = hw.particles(samples, n_particles=300)
    assert 0.8 < off_circle(found.points) / off_circle(circle(5000, 1)) < 1.2
    angles = np.sort(np.arctan2(found.points[:, 1], found.points[:, 0]))
    assert np.diff(angles).max() < 0.15
    assert found.flagged.mean() < 0.03
    assert (np.diff(found.energy) <= 0).all()
    assert found.energy[-1] < 0.05 * found.energy[0]


def test_particles_from_elsewhere_land_on_the_circle():
    samples = circle(600, 0)
    start = np.zeros((100, 20))
    start[:, 0] = 1.5
    start[:, 1] = np.linspace(-0.3, 0.3, 100)
    found = hw.particles(samples, n_particles=100, start=start)
    assert off_circle(found.points) < 1.3 * off_circle(circle(5000, 1))
    # They began within a tenth of the circle and end all around it.
    assert np.abs(found.points[:, :2].mean(axis=0)).max() < 0.35
    gaussian = hw.particles(samples, n_particles=100, start="gaussian")
    assert off_circle(gaussian.points) < 1.3 * off_circle(circle(5000, 1))


def test_particles_of_few_samples_in_many_dimensions_spread_as_they_do_and_are_no_copies():
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=(300, 40)) * rng.uniform(0.5, 1.5, size=(300, 1))  # some cells noisier than others
    found = hw.particles(noisy[:100], n_particles=500)
    bound = np.quantile(cdist(noisy[100:], noisy[:100]).min(axis=1), 0.05)
    assert (found.distances < bound).mean() < 0.1
    assert 0.8 < found.points.var(axis=0).sum() / noisy[:100].var(axis=0).sum() < 1.2


def test_particles_are_no_copies():
    copies = []
    for seed in range(3):
        samples, held = moons(800, 2 * seed), moons(800, 2 * seed + 1)
        found = hw.particles(samples, n_particles=400, seed=seed)
        copies.append((found.distances < np.quantile(cdist(held, samples).min(axis=1), 0.05)).mean())
    assert np.mean(copies) < 0.1
    assert np.allclose(found.distances, cdist(found.points, samples).min(axis=1))
    assert np.array_equal(found.nearest, cdist(found.points, samples).argmin(axis=1))


def test_landmarks_are_close_to_all_samples():
    samples = moons(900, 0)
    few = hw.particles(samples, n_particles=300, landmarks=400)
    fresh = moons(3000, 1)
    spread = [cdist(fresh, points).min(axis=1).mean() for points in (few.points, samples[:300])]
    assert spread[0] < spread[1]
    assert len(few.eigenvalues) < 400


def test_same_seed_same_bytes_on_any_number_of_threads():
    samples = moons(300, 0)
    first = hw.particles(samples, n_particles=2000, seed=3, threads=1, max_steps=3)
    second = hw.particles(samples, n_particles=2000, seed=3, threads=3, max_steps=3)
    assert first.points.tobytes() == second.points.tobytes()
    assert not np.array_equal(first.points, hw.particles(samples, n_particles=2000, seed=4, max_steps=3).points)


def test_particles_that_leave_all_samples_behind_are_flagged_and_finite():
    samples = moons(200, 0)
    made = generator(samples)
    far = np.array([[1e6, 1e6], [-1e150, 0.0], [0.5, 0.2]])
    velocity, energy = force(made, far)
    assert np.isfinite(velocity).all()
    assert np.isfinite(energy)
    found = hw.particles(samples, start=far, max_steps=5)
    assert np.isfinite(found.points).all()
    assert found.flagged.tolist() == (found.distances > np.quantile(surroundings(samples).spacing, 0.99)).tolist()


def test_a_mode_of_one_outlying_sample_is_left_out_and_that_of_a_group_is_not():
    samples = np.random.default_rng(0).normal(size=(300, 2))
    far = generator(np.concatenate([samples, [[9.0, 9.0]]]))
    assert far.eigenvalues[0] > 0.9999
    found = hw.particles(np.concatenate([samples, [[9.0, 9.0]]]), n_particles=300, start="gaussian")
    assert found.eigenvalues[0] < 0.99
    assert found.energy[-1] < 0.1 * found.energy[0]
    groups = hw.particles(np.concatenate([samples, samples[:50] + 9]), n_particles=90)
    assert groups.eigenvalues[0] > 0.9999
    # Thirty particles cannot stand for five of 305 samples.
    few = hw.particles(np.concatenate([samples, samples[:5] + 9]), n_particles=30)
    assert few.eigenvalues[0] < 0.99


def test_particles_that_are_given_count_for_the_modes():
    samples = np.random.default_rng(0).normal(size=(300, 2))
    samples = np.concatenate([samples, samples[:5] + 9])
    given = hw.particles(samples, start=samples[:30] + 0.1)
    assert given.eigenvalues[0] < 0.99
    assert len(given.eigenvalues) == len(hw.particles(samples, n_particles=30).eigenvalues)


def test_a_gaussian_start_has_mean_and_covariance_and_no_array_of_particles_by_samples():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 3)) @ np.array([[3.0, 1, 0], [0, 1, 0], [0, 0, 0]]) + 7
    around = surroundings(samples)
    made = generator(samples, landmarks=np.arange(0, 4000, 20))
    kept = np.random.default_rng(1)
    tracemalloc.start()
    module = sys.modules["heatwalk.particles"]
    started = module._started("gaussian", 4000, around, made, (samples, None), kept, 0, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(started.mean(axis=0), samples.mean(axis=0), atol=0.2)
    np.testing.assert_allclose(np.cov(started.T), np.cov(samples.T), atol=0.6)
    assert peak < 8 * 4000 * 4000 / 2


def test_copies_of_samples_leave_no_particle_out_of_the_data():
    samples = moons(150, 0)
    twice = np.concatenate([samples, samples, samples[:1] + 0.01])
    found = hw.particles(twice, n_particles=200)
    once = np.quantile(surroundings(samples).spacing, 0.99)
    assert found.flagged.mean() < 0.2
    assert found.flagged[found.distances > 1.01 * once].all()
    assert not found.flagged[found.distances < 0.95 * once].any()


def test_settling_takes_particles_to_a_curved_surface():
    samples, rng = circle(1000, 0, noise=0), np.random.default_rng(0)
    made = settled(surroundings(samples), 1.1 * samples[:200], rng)
    assert off_circle(1.1 * samples[:200]) > 0.09
    assert off_circle(made) < 0.015


def sphere(n_points, dimension, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_points, dimension))
    return points * ((1 + 0.003 * rng.normal(size=(n_points, 1))) / np.linalg.norm(points, axis=1, keepdims=True))


@pytest.mark.parametrize("dimension", [3, 10])
def test_particles_on_a_thin_sphere_keep_its_thickness(dimension):
    found = hw.particles(sphere(600, dimension, 0), n_particles=200)
    off = np.linalg.norm(found.points, axis=1) - 1
    assert 0.7 < np.sqrt((off**2).mean()) / 0.003 < 1.5
    held = cdist(sphere(1000, dimension, 1), sphere(600, dimension, 0)).min(axis=1)
    assert (found.distances < np.quantile(held, 0.05)).mean() < 0.12


def test_points_move_onto_the_sphere_through_their_samples_and_nowhere_else():
    rng, shares = np.random.default_rng(0), np.full((1, 60), 1 / 60)
    pole = np.array([0, 0, 0, 5])
    cap = sphere(60, 4, 2)
    cap[:, 3] = np.abs(cap[:, 3])
    cap += pole
    middle = cap.mean(axis=0, keepdims=True)
    away = np.array([0.1, -0.2, 0.3, 0.6])
    point = away[None] + pole
    made = rounded(point, middle, (cap - middle)[None], shares, rng) - pole
    assert np.linalg.norm(made) == pytest.approx(1, abs=0.02)
    # Along its own radius.
    np.testing.assert_allclose(made[0] / np.linalg.norm(made), away / np.linalg.norm(away), atol=0.02)
    for samples in (rng.normal(size=(60, 4)), np.column_stack([rng.normal(size=(60, 3)), 0.001 * rng.normal(size=60)])):
        middle = samples.mean(axis=0, keepdims=True)
        spread = (samples - middle)[None]
        assert np.array_equal(rounded(point, middle, spread, shares, rng), point)


def test_even_rows_take_every_region_by_its_share():
    samples = np.concatenate([np.zeros((30, 2)), np.ones((70, 2))]) + np.arange(100)[:, None] * 1e-6
    rows = even(samples, 50, np.random.default_rng(0))
    assert abs((rows < 30).sum() - 15) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 500}, "HW-PA-004 modes: 500 modes are asked for, 100 samples have at most 99"),
        ({"bandwidth": 1e-6}, "HW-PA-005 bandwidth:.*the identity"),
        ({"bandwidth": 1e4}, "HW-PA-005 bandwidth:.*constant"),
        ({"bandwidth": -1}, "HW-PA-007 bandwidth"),
        ({"bandwidth": "x"}, "HW-PA-007 bandwidth: 'x' is no length; set it above 0, or to auto"),
        ({"effective_samples": 99}, "HW-PA-007 effective_samples: 99 is not between 1.5 and 90.0.*set it to 20"),
        ({"effective_samples": "x"}, "HW-PA-007 effective_samples"),
        ({"modes": 2.5}, "HW-PA-004 modes: 2.5 is no whole number"),
        ({"modes": "all"}, "HW-PA-004 modes: 'all' is no whole number"),
        ({"decode": "yes"}, "HW-PA-010 decode: 'yes' is none of true, false and auto"),
        ({"start": np.empty((0, 2))}, "HW-PA-003 start:.*\\(0, 2\\)"),
        ({"start": np.full((3, 2), np.nan)}, "HW-PA-003 start"),
        ({"start": "nowhere"}, "HW-PA-003 start"),
        ({"n_particles": 0}, "HW-PA-002 n_particles"),
        ({"landmarks": 3}, "HW-PA-002 landmarks"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(hw.BadInput, match=message):
        hw.particles(moons(100, 0), **options)


def test_few_samples_are_seen_in_part(caplog):
    samples = np.random.default_rng(0).normal(size=(22, 2))
    caplog.set_level("INFO", "heatwalk")
    for few in (samples, samples[:8]):
        found = hw.particles(few, n_particles=30)
        assert np.isfinite(found.points).all()
        assert f"effective_samples is {0.9 * len(few):.1f}, as only {len(few)} samples" in caplog.text
    with pytest.raises(hw.BadInput, match="HW-PA-007 effective_samples: 20.0 is not .* 19.8, .*; set it to 19,"):
        hw.particles(samples, effective_samples=20.0)
    caplog.clear()
    # Where a bandwidth is given they mean nothing.
    assert hw.particles(samples, n_particles=30, effective_samples=20.0, bandwidth=0.5).bandwidth == 0.5
    hw.particles(moons(100, 0), n_particles=30)
    assert "effective_samples" not in caplog.text


def test_bad_samples():
    for samples in (np.full((20, 2), np.nan), np.zeros((3, 2)), np.zeros(20)):
        with pytest.raises(hw.BadInput, match="HW-PA-001"):
            hw.particles(samples)
    with pytest.raises(hw.BadInput, match="HW-PA-005 points: more than half of the distances"):
        hw.particles(np.eye(60)[:, :2] * 3 + 0.0)


# ---- of cells ----


@pytest.fixture(scope="module")
def two_groups():
    """Points of two groups, 60 apart, one in ten of each held out and shifted where no other is."""
    rng = np.random.default_rng(0)
    group, split = np.arange(400) % 2, (np.arange(400) // 2 % 10 == 0).astype(np.uint8)
    points = rng.normal(size=(400, 3)) + np.array([60, 0, 0]) * group[:, None] + 200 * split[:, None]
    obs = pd.DataFrame({"kind": np.array(["near", "far"])[group], "rare": [*"ab" * 5, *"c" * 390]})
    cells = SimpleNamespace(split=split, obs=obs, indptr=None)
    return points.astype(np.float32), cells


def test_held_out_cells_are_no_samples(two_groups):
    points, cells = two_groups
    found = hw.particles(points, cells, n_particles=60)
    assert found.points.max() < 100
    assert (cells.split[found.nearest] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(points[found.nearest] - found.points, axis=1), found.distances, rtol=1e-5)
    alone = hw.particles(points[cells.split == 0], n_particles=60)
    np.testing.assert_array_equal(found.points, alone.points)


def test_a_condition_chooses_the_samples_and_a_start_the_place(two_groups):
    points, cells = two_groups
    found = hw.particles(points, cells, n_particles=50, condition="kind=far")
    assert (np.abs(found.points[:, 0] - 60) < 10).all()
    assert set(cells.obs["kind"].iloc[found.nearest]) == {"far"}
    start = np.random.default_rng(1).normal(size=(50, 3))
    # What starts elsewhere is drawn to the samples, whatever the way that it is named.
    for other in ("kind=near", start):
        moved = hw.particles(points, cells, n_particles=50, condition="kind=far", start=other)
        assert (np.abs(moved.points[:, 0] - 60) < 10).all()
        assert not np.array_equal(moved.points, found.points)
    stay = hw.particles(points, cells, n_particles=50, start="kind=near")
    assert (stay.points[:, 0] < 10).all()


def test_conditions_that_no_cell_or_too_few_meet(two_groups):
    points, cells = two_groups
    for options, message in (
        ({"condition": "kind=here"}, "HW-PA-008 condition: no cell has 'kind=here'; use one of its values: far, near"),
        ({"condition": "sort=far"}, "HW-PA-008 condition: there is no column 'sort' in obs; use a column of obs: kind"),
        (
            {"condition": "rare=a"},
            "HW-PA-008 condition: 5 cells have 'rare=a', of which 4 are not held out; the fewest",
        ),
        ({"start": "rare=z"}, "HW-PA-009 start: no cell has 'rare=z'"),
        ({"decode": True}, "HW-PA-010 decode: the representation has no loadings"),
    ):
        with pytest.raises(hw.BadInput, match=message):
            hw.particles(points, cells, **options)
    with pytest.raises(hw.BadInput, match="HW-PA-008 condition: .* none are given"):
        hw.particles(points, condition="kind=far")
    all_held_out = SimpleNamespace(split=np.ones(400), obs=cells.obs, indptr=None)
    with pytest.raises(hw.BadInput, match="HW-PA-001"):
        hw.particles(points, all_held_out)


def test_decoding_leads_back_and_is_not_negative(two_groups):
    points, cells = two_groups
    rng = np.random.default_rng(0)
    loadings = np.linalg.qr(rng.normal(size=(7, 3)))[0]
    pca = SimpleNamespace(
        loadings=loadings, means=rng.normal(size=7), scales=rng.uniform(1, 2, 7), variances=np.ones(3)
    )
    pca.total_variance, pca.unseen = np.float64(4), None
    back = (decoded(points, pca) - pca.means) / pca.scales @ loadings
    np.testing.assert_allclose(back, points, atol=1e-3)
    for indptr, least in ((None, -np.inf), (np.zeros(1), 0)):
        cells = SimpleNamespace(**{**vars(cells), "indptr": indptr})
        found = hw.particles(points, cells, pca, n_particles=30)
        wanted = np.maximum(found.points @ (loadings * pca.scales[:, None]).T + pca.means, least)
        np.testing.assert_allclose(found.expression, wanted, rtol=1e-5, atol=1e-5)
    seen = hw.particles(points, cells, pca, n_particles=30, decode=False)
    assert seen.expression is None
    pca.unseen = np.array([1, 0.25, 0.04])
    unseen = hw.particles(points, cells, pca, n_particles=30)
    np.testing.assert_allclose(unseen.points, seen.points * [1, 0.5, 0.2])
    np.testing.assert_allclose(unseen.distances, cdist(unseen.points, points).min(axis=1), rtol=1e-6)
    assert hw.particles(points, cells, n_particles=30).expression is None


def test_the_report_names_the_column_whose_labels_were_matched():
    obs = pd.DataFrame({"kind": ["a"], "day": [1]})

    def named(condition, label):
        measured = SimpleNamespace(manifest={"parameters": {"label": label}})
        return likeness._label({"generation_metrics": measured}, obs, condition)

    assert [named("day=1", "kind"), named("day=1", ""), named("", "kind"), named("", "")] == ["kind", "day", "kind", ""]
    assert likeness._label({}, obs, "day=1") == "day"


def test_the_report_warns_of_copies_and_of_what_left_the_data():
    rows = [("coverage", 0.95, 0.96, 0, ""), ("memorisation", 0.08, 0.05, 0, ""), ("label_match", 0.9, 0.94, 0, "")]
    shown = {"rows": rows, "flagged": 0.01, "label": "kind", "problems": [], "start": "samples"}
    assert concerns(shown) == concerns(None) == concerns({**shown, "rows": []}) == []
    for place, changed, said in (
        (0, ("coverage", 0.7, 0.96, 0, ""), "Generated cells cover 70% of the held-out cells, real ones 96%."),
        (1, ("memorisation", 0.3, 0.05, 0, ""), "30% of the generated cells are as near to a sample as the nearest 5%"),
        (
            2,
            ("label_match", 0.5, 0.94, 0, ""),
            "50% of the generated cells are taken for the kind of held-out ones, of those 94%",
        ),
    ):
        (concern,) = concerns({**shown, "rows": [*rows[:place], changed, *rows[place + 1 :]]})
        assert concern.text.startswith(said)
    # Where a third of real cells repeat, as many generated ones do.
    assert concerns({**shown, "rows": [rows[0], ("memorisation", 0.33, 0.3, 0, ""), rows[2]]}) == []
    (concern,) = concerns({**shown, "flagged": 0.2})
    assert concern == ("20% of the generated cells left the data.", "Leave them out (heatwalk_flagged).")
    (concern,) = concerns({**shown, "flagged": 0.2, "start": "day=0"})
    assert concern.remedy == "Leave them out (heatwalk_flagged), or start from samples."
