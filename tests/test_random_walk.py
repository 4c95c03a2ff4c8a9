"""random_walk: the evidence by its formulas, the walk on a sphere, bursts by Theorem 2, resumption, bad input."""

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import heatwalk as hw

torch = pytest.importorskip("torch")

from heatwalk import encoders, law, leftover, local_evidence, mixing, walker  # noqa: E402 - torch may be absent

SMALL = {"epochs": 3, "n_components": 3, "latent": 3, "neighbors": 24, "batch": 96, "n_points": 200}
KEPT = {**SMALL, "lengths": 10.0}
FULL = law._UPDATES, law._STEPS


def sphere(count, seed=0, noise=0.04):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True) + noise * rng.normal(size=(count, 3))


POINTS = sphere(600)


@pytest.fixture(scope="module", autouse=True)
def short_law():
    """The law of the data is the subject of one test, which trains its potential in full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(law, "_UPDATES", 100)
        patch.setattr(law, "_STEPS", 4)
        yield


@pytest.fixture(scope="module")
def walked():
    return hw.random_walk(POINTS, seeds=[3], kept="all", steps=20, noise=False, **KEPT)


def off(points):
    return np.abs(np.linalg.norm(points, axis=1) - 1)


def factors(count, dimension, seed):
    made = torch.randn((count, dimension, dimension), generator=torch.Generator().manual_seed(seed)).double()
    return torch.linalg.cholesky(made @ made.transpose(1, 2) + 0.1 * torch.eye(dimension))


def test_divergence_is_that_of_two_gaussians():
    own, target = factors(7, 4, 0), factors(7, 4, 1)
    zero = torch.zeros(7, 4, dtype=torch.float64)
    pair = (torch.distributions.MultivariateNormal(zero, scale_tril=part) for part in (own, target))
    expected = torch.distributions.kl_divergence(*pair)
    torch.testing.assert_close(local_evidence.divergence(own, target), expected)
    assert local_evidence.divergence(own, own).abs().max() < 1e-12


def test_noise_has_its_density_where_single_precision_cannot_factorise_it():
    """Narrow noise beside shared noise that is nearly alike in two directions."""
    rng = np.random.default_rng(0)
    shared = torch.from_numpy(np.repeat(rng.normal(size=(40, 9, 4)), 2, axis=2).astype(np.float32))
    own, residual = torch.full((40, 9), 1e-3), torch.from_numpy(rng.normal(size=(40, 9)).astype(np.float32))
    zero = torch.zeros(40, 9)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.distributions.LowRankMultivariateNormal(zero, shared, own**2, validate_args=False)
    found = leftover.log_density(SimpleNamespace(spread=lambda latent: (own, shared)), zero, residual)
    full = shared.double() @ shared.double().transpose(1, 2) + torch.diag_embed(own.double() ** 2)
    expected = torch.distributions.MultivariateNormal(zero.double(), full).log_prob(residual.double())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_local_covariance_is_centred_and_leaves_the_point_out():
    latent = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 3)))
    found, rank, near = local_evidence.local_covariance(latent, 12)
    for row in range(50):
        order = (latent - latent[row]).norm(dim=1).argsort()[1:13]
        assert set(near[row].tolist()) == set(order.tolist())
        plain = np.cov(latent[order].numpy().T)
        m = np.trace(plain) ** 2 / np.trace(plain @ plain)
        assert float(rank[row]) == pytest.approx(m)
        np.testing.assert_allclose(found[row].numpy(), plain * max(1, 11 / max(1, 10 - m)), rtol=1e-6)


def test_the_covariance_of_least_divergence_is_the_true_one():
    rng, true = np.random.default_rng(0), np.array([[2.0, 0.5], [0.5, 1.0]])
    latent = torch.from_numpy(rng.multivariate_normal([0, 0], true, size=(3000, 17)))
    inverses = [np.linalg.inv(local_evidence.local_covariance(part, 16)[0][0].numpy()) for part in latent]
    np.testing.assert_allclose(np.linalg.inv(np.mean(inverses, axis=0)), true, rtol=0.12, atol=0.05)


def test_covariance_is_full_and_positive_definite_by_construction(walked):
    made = walked.walker
    for scale in (0.1, 1, 100):  # also far from all that it has seen
        places = scale * np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
        with torch.inference_mode():
            factor = made.factor(torch.from_numpy(places))
        assert (torch.diagonal(factor, dim1=1, dim2=2) > 0).all()
        assert (factor.triu(1) == 0).all()
        assert (factor.tril(-1) != 0).any()
    near = walker.covariances(made, walker.places(made, POINTS[:100]))
    assert np.linalg.eigvalsh(near).min() > 0


def test_the_stretch_is_none_of_an_isometry_and_the_square_of_the_logarithm_of_a_factor():
    rng = np.random.default_rng(0)
    latent = torch.from_numpy(rng.normal(size=(40, 3)))
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(12, 3)))[0].T)
    near = torch.from_numpy(np.array([np.delete(np.arange(40), row)[:7] for row in range(40)]))
    made = 2 * latent @ turn + 5  # twelve values for three coordinates: of equal variance when twice as long
    assert local_evidence.stretch(latent, made, near) < 1e-12
    assert local_evidence.stretch(latent, 3 * made, near) == pytest.approx(np.log(3) ** 2, rel=1e-5)


def test_the_decoder_keeps_lengths_but_for_the_unit(walked):
    made = walked.walker
    places = walker.places(made, POINTS)
    found = hw.bilipschitz(made.unit * places, walker.points_at(made, places), k=10)
    assert found.scale == pytest.approx(1, abs=0.2)
    assert found.constants.mean() < 1.25


def test_walk_from_one_point_stays_on_the_sphere_and_reaches_all_of_it(walked):
    assert walked.points.shape == (20 * 200, 3)
    np.testing.assert_array_equal(np.unique(walked.step), np.arange(1, 21))
    np.testing.assert_array_equal(walked.burst[:200], walked.burst[200:400])
    assert set(walked.seeds) == {3}
    for step in (1, 6, 20):
        assert np.quantile(off(walked.points[walked.step == step]), 0.95) < np.quantile(off(POINTS), 0.95)
    first, last = (walked.points[walked.step == step] for step in (1, 20))
    assert (first @ POINTS[3]).mean() > 0.3
    assert abs((last @ POINTS[3]).mean()) < 0.25
    assert np.isnan(walked.mixing[0]).all()
    assert walked.mixing[1, 0] > walked.mixing[-1, 0] > 1
    assert walked.losses.shape == (3, 3)
    assert walked.losses[-1, 0] < walked.losses[0, 0]
    assert walked.flagged.mean() < 0.1


def test_bursts_have_no_more_directions_than_the_surface_and_the_covariance_of_the_linear_map(walked):
    """Theorem 2: to first order the covariance of a decoded burst is J C J', of rank at most that of the surface."""
    made, rng = walked.walker, np.random.default_rng(2)
    places = torch.from_numpy(walker.places(made, POINTS[:12]))
    noise = ((POINTS - walker.points_at(made, walker.places(made, POINTS))) ** 2).mean()  # what the decoder leaves
    for place in places:
        jacobian = torch.autograd.functional.jacobian(lambda z: made.decoded(z[None])[0], place).double().numpy()
        with torch.no_grad():
            factor = made.factor(place[None])[0]
            drawn = (factor @ torch.from_numpy(rng.standard_normal((3, 4000), dtype=np.float32))).T
            small, local = (made.decoded(place + step * drawn).double().numpy() for step in (0.05, 0.3))
        linear = jacobian @ (factor @ factor.T).double().numpy() @ jacobian.T
        assert np.linalg.norm(np.cov(small.T) / 0.05**2 - linear) < 0.1 * np.linalg.norm(linear)
        values = np.linalg.eigvalsh(np.cov(local.T))
        assert (values > noise).sum() == 2


def test_same_seed_same_bits_on_any_number_of_threads_and_no_global_state(walked):
    state, threads, numpy_state = torch.get_rng_state(), torch.get_num_threads(), np.random.get_state()[1].copy()
    again = hw.random_walk(POINTS, seeds=[3], kept="all", steps=20, noise=False, threads=1, **KEPT)
    np.testing.assert_array_equal(again.points, walked.points)
    np.testing.assert_array_equal(again.weights, walked.weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("at", [0, 2])
def test_a_killed_training_goes_on_to_the_same_bits(walked, tmp_path, monkeypatch, at):
    checkpoint, epoch = tmp_path / "walk.checkpoint", local_evidence._epoch

    def killed(*given):
        if given[-1] == at:
            raise KeyboardInterrupt
        return epoch(*given)

    monkeypatch.setattr(local_evidence, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        hw.random_walk(POINTS, checkpoint=checkpoint, **KEPT)
    assert checkpoint.exists()
    monkeypatch.setattr(local_evidence, "_epoch", epoch)
    monkeypatch.setattr(encoders, "encoder", None)  # it is in the checkpoint
    options = {"seeds": [3], "kept": "all", "steps": 20, "noise": False}
    found = hw.random_walk(POINTS, checkpoint=checkpoint, **options, **KEPT)
    np.testing.assert_array_equal(found.points, walked.points)
    np.testing.assert_array_equal(found.losses, walked.losses)
    assert not checkpoint.exists()


def test_a_loss_that_is_not_finite_stops_with_epoch_and_option_and_the_checkpoint_stays(tmp_path):
    checkpoint = tmp_path / "walk.checkpoint"
    message = r"HW-RW-007 rate: the loss is not finite in epoch 1 of 3 \(.*\) at rate 1e\+30; set rate to 1e\+29"
    with pytest.raises(hw.BadInput, match=message):
        hw.random_walk(POINTS, checkpoint=checkpoint, rate=1e30, **SMALL)
    assert checkpoint.exists()


def test_steps_from_the_law_of_the_data_lead_to_it(monkeypatch):
    """Three times as many points on one half of a ring as on the other."""
    monkeypatch.setattr(law, "_UPDATES", FULL[0])
    monkeypatch.setattr(law, "_STEPS", FULL[1])
    rng = np.random.default_rng(0)
    angle = np.concatenate([rng.uniform(0, np.pi, 300), rng.uniform(np.pi, 2 * np.pi, 900)])
    ring = np.column_stack([np.cos(angle), np.sin(angle)]) + 0.02 * rng.normal(size=(1200, 2))
    options = {**SMALL, "n_components": 2, "latent": 2, "epochs": 4, "neighbors": 30, "n_points": 1200}
    found = hw.random_walk(ring, steps=6, kept="all", **options)
    made = found.walker
    shares = [(found.points[found.step == step, 1] > 0).mean() for step in (1, 6)]
    made.potential_share.zero_()
    at = walker.places(made, ring)
    for _ in range(6):
        at = walker.burst(made, at, rng)
    free = (walker.points_at(made, at)[:, 1] > 0).mean()
    assert shares[0] == pytest.approx(0.25, abs=0.05)
    assert abs(shares[1] - 0.25) <= max(0.05, abs(free - 0.25))


def test_noise_has_the_size_of_what_the_decoder_leaves(walked):
    made, rng = walked.walker, np.random.default_rng(0)
    places = walker.places(made, POINTS)
    left = POINTS - walker.points_at(made, places)
    drawn = walker.points_at(made, places, rng) - walker.points_at(made, places)
    assert 0.7 < np.sqrt((drawn**2).mean() / (left**2).mean()) < 1.6


def test_spectralnet_finds_the_coordinates_of_a_sphere(monkeypatch):
    from heatwalk import networks, spectralnet

    monkeypatch.setattr(spectralnet, "_UPDATES", 120)

    network, values = encoders.encoder(
        sphere(900, noise=0), "spectralnet", 3, 1, seed=0, threads=2, device="cpu", checkpoint=None
    )
    fresh = sphere(300, seed=5, noise=0)
    found = networks.applied(network, fresh).astype(float)
    solved = np.linalg.lstsq(np.c_[found, np.ones(300)], fresh, rcond=None)[0]
    assert np.abs(np.c_[found, np.ones(300)] @ solved - fresh).mean() < 0.1  # the first three are x, y, z, turned
    assert values[0] < 1
    assert values[2] > 0.9 * values[0]


def test_groups_far_apart_are_told_apart_and_shares_and_widths_kept():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 2)) + np.repeat([[0, 0], [40, 0]], [300, 100], axis=0)
    found = hw.random_walk(points, n_components=12, latent=6, epochs=10, neighbors=12, batch=96, n_points=400)
    right = found.points[:, 0] > 20
    assert right.mean() == pytest.approx(0.25, abs=0.02)
    from_centre = found.points - np.outer(right, [40, 0])
    assert np.linalg.norm(from_centre, axis=1).max() < 5
    for group in (right, ~right):
        np.testing.assert_allclose(from_centre[group].std(axis=0), 1, atol=0.25)


def test_split_rhat_known_answers():
    rng = np.random.default_rng(0)
    first, other = rng.normal(size=(2, 20_000, 2))
    seed, law = mixing.split_rhat(first, other)
    assert seed == pytest.approx(1, abs=0.02)
    assert law == pytest.approx(1, abs=1e-3)
    seed, _ = mixing.split_rhat(first, 0.5 * first + np.sqrt(0.75) * other)
    assert seed == pytest.approx(np.sqrt(2), abs=0.03)
    _, law = mixing.split_rhat(first, other + 2)
    assert law == pytest.approx(np.sqrt(2), abs=0.03)


def test_steps_go_on_until_mixed_or_say_so(walked, caplog, monkeypatch):
    import importlib

    module = importlib.import_module("heatwalk.random_walk")
    made, start = walked.walker, np.repeat(POINTS[3:4], 200, axis=0)
    trail, told = module._walked(made, start, "auto", False, np.random.default_rng(0))
    assert 2 <= len(trail) == len(told) < 100
    assert max(told[-1]) <= mixing.bound(200)
    trail, _ = module._walked(made, POINTS[:400], "auto", True, np.random.default_rng(0))
    assert len(trail) == 2
    monkeypatch.setattr(module, "_MOST_STEPS", 2)
    with caplog.at_level(logging.WARNING, "heatwalk"):
        module._walked(made, start, "auto", False, np.random.default_rng(0))
    assert "not mixed after 2 steps: R of the seed" in caplog.text


def cells_of(points):
    kind = np.where(points[:, 0] > 0, "right", "left")
    obs = pd.DataFrame({"kind": kind}, index=[f"cell{number}" for number in range(len(points))])
    split = np.zeros(len(points), np.uint8)
    split[::10] = 1
    return SimpleNamespace(obs=obs, split=split, indptr=None)


def test_seeds_by_label_and_by_name_and_a_condition():
    cells = cells_of(POINTS)
    quick = {**SMALL, "steps": 1}
    found = hw.random_walk(POINTS, cells, seeds="kind=left", **quick)
    assert set(cells.obs["kind"].iloc[found.seeds]) == {"left"}
    assert (cells.split[found.seeds] == 0).all()
    assert (cells.split[found.nearest] == 0).all()
    assert (found.points[:, 0] < 0.2).mean() > 0.7
    found = hw.random_walk(POINTS, cells, condition="kind=right", seeds=["cell7", "cell10"], **quick)
    assert list(np.unique(found.seeds, return_counts=True)[1]) == [100, 100]
    assert set(cells.obs["kind"].iloc[found.nearest]) == {"right"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 200}, "HW-RW-002 n_components: 200 .*from 1 to 33, of 100 samples; set n_components to 33"),
        (
            {"latent": 4},
            "HW-RW-002 latent: 4 .*from 1 to the 3 diffusion coordinates .*; set latent to 3 or less",
        ),
        ({"batch": 80}, "HW-RW-002 batch: 80 is no whole number from 4 to 75"),
        (
            {"batch": 16, "neighbors": 16},
            "HW-RW-003 batch: a batch of 16 has no 16 neighbors .*set batch to 32 or more",
        ),
        ({"seeds": ["cell1", "nobody"]}, "HW-RW-009 seeds: 1 of 2 seeds are no cell of the data: nobody; name cells"),
        ({"seeds": [7, 200]}, "HW-RW-009 seeds: 1 of 2 seeds are no cell of the data: 200"),
        ({"seeds": []}, "HW-RW-009 seeds: no seed"),
        ({"seeds": "anywhere"}, "HW-RW-009 seeds: 'anywhere' is unknown; use samples, column=value"),
        ({"seeds": "kind=up"}, "HW-RW-009 seeds: no cell has 'kind=up'; use one of its values: left, right"),
        ({"condition": "day=2"}, "HW-RW-008 condition: there is no column 'day'"),
        ({"encoder": "isomap"}, "HW-RW-002 encoder: 'isomap' is unknown; use one of: deep_diffusion_map, spectralnet"),
        ({"kept": "some"}, "HW-RW-002 kept"),
        ({"steps": 0}, "HW-RW-002 steps: 0 is no whole number from 1; set it to auto"),
        ({"decode": True}, "HW-RW-002 decode: the representation has no loadings"),
        ({"decode": 3}, "HW-RW-002 decode: 3 is none of"),
        ({"noise": "some"}, "HW-RW-002 noise"),
        ({"reach": 0.0}, "HW-RW-002 reach: 0.0 is no number above 0"),
        ({"rate": -1.0}, "HW-RW-002 rate"),
        ({"lengths": -1.0}, "HW-RW-002 lengths: -1.0 is no number from 0 on; set lengths to 0"),
    ],
)
def test_options_out_of_bounds(options, message):
    points = POINTS[:112]
    cells = cells_of(points)
    cells.split[:] = np.arange(112) < 12
    with pytest.raises(hw.BadInput, match=message):
        hw.random_walk(
            points, cells, **{"batch": 40, "neighbors": 8, "n_points": 10, "n_components": 3, "latent": 3, **options}
        )


def test_points_that_cannot_be_walked_on():
    with pytest.raises(hw.BadInput, match=r"HW-RW-001 points: samples of shape \(20, 3\) are fewer than 32"):
        hw.random_walk(POINTS[:20], batch=8, neighbors=4, n_components=2, latent=2)
    with pytest.raises(hw.BadInput, match="HW-RW-001 points: .* not finite"):
        hw.random_walk(np.where(POINTS > 1, np.nan, POINTS), **SMALL)


@pytest.mark.parametrize("encoder", encoders.ENCODERS)
def test_more_components_than_the_spectrum_has(encoder):
    line = np.linspace(0, 1, 90)[:, None]
    with pytest.raises(hw.BadInput, match=r"HW-(NN-006|RW-004) .* only \d+ of 30 components .*n_components to \d+"):
        hw.random_walk(line, n_components=30, t=400, encoder=encoder, batch=40, neighbors=8, epochs=1)


def test_a_covariance_that_degenerates():
    latent = torch.zeros(100, 2)
    options = local_evidence.Options(8, 40, 1.0, 1, 1e-3, 5.0)
    with pytest.raises(
        hw.BadInput, match="HW-RW-006 points: 100% of local covariances degenerate: 8 latent neighbours"
    ):
        local_evidence._spread(latent, np.arange(100), options, 0)


def test_more_pieces_than_components():
    rng = np.random.default_rng(0)
    places = np.repeat(1000.0 * np.arange(8)[:, None] ** 2, 40, axis=0)
    points = np.c_[places, 0 * places] + rng.normal(size=(320, 2))
    with pytest.raises(hw.BadInput, match="HW-RW-005 n_components: the graph is in . pieces, more than 2 .* to 1[0-3]"):
        hw.random_walk(points, n_components=2, latent=2, batch=40, neighbors=8)


def test_a_walker_stands_alone_and_unfit_files_are_refused(walked):
    weights, description = np.asarray(walked.weights).tobytes(), np.asarray(walked.description).tobytes().decode()
    made = walker.loaded(weights, description)
    assert walker.saved(made) == (weights, description)
    for bad in (
        (weights[:-4], description),
        (weights, "{}"),
        (weights, description.replace('"width": 128', '"width": 64')),
    ):
        with pytest.raises(hw.BadInput, match="HW-RW-010 walker: has a description or weights that cannot be used"):
            walker.loaded(*bad)
    with pytest.raises(hw.BadInput, match="HW-RW-010"):
        walker.loaded(weights, description.replace('"n_values": 3', '"n_values": 30000000'))
