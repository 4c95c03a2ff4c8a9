"""What walks are compared with: von Mises-Fisher by its known mean and divergence, and that each learns at all."""

import numpy as np
import pytest
from scipy.special import ive

torch = pytest.importorskip("torch")

from heatwalk.baselines import adversarial, variational  # noqa: E402 - torch may be absent


def ratio(kappa, d):
    return ive(d / 2, kappa) / ive(d / 2 - 1, kappa)


@pytest.mark.parametrize(("kappa", "d"), [(2.0, 3), (20.0, 10)])
def test_draws_have_the_mean_of_von_mises_fisher(kappa, d):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        w = variational._along(torch.full((20_000,), kappa), d).numpy()
    assert w.mean() == pytest.approx(ratio(kappa, d), abs=0.01)


def test_divergence_is_the_integral_and_its_slope_the_derivative():
    kappa, d = torch.tensor([0.5, 3.0, 20.0], dtype=torch.float64, requires_grad=True), 3
    found = variational._divergence(kappa, d)
    k = kappa.detach().numpy()
    expected = k * (1 / np.tanh(k) - 1 / k) + np.log(k / np.sinh(k))  # on the sphere in three dimensions
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6)
    found.sum().backward()
    step = 1e-5
    slopes = [(variational._divergence(kappa.detach() + s * step, d)).numpy() for s in (-1, 1)]
    np.testing.assert_allclose(kappa.grad.numpy(), (slopes[1] - slopes[0]) / (2 * step), rtol=1e-4)


def ring(count, seed=0):
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    return np.column_stack([np.cos(angle), np.sin(angle)])


@pytest.mark.parametrize("method", [variational.vae, variational.hyperspherical_vae])
def test_autoencoders_give_back_what_they_are_given(method):
    samples = ring(600)
    made = method(samples, 3, epochs=25, seed=0)
    again = made.decode(made.encode(samples))
    assert np.sqrt(((again - samples) ** 2).sum(axis=1).mean()) < 0.35
    assert made.decode(made.draw(5)).shape == (5, 2)
    np.testing.assert_array_equal(
        method(samples, 3, epochs=1).encode(samples[:9]), method(samples, 3, epochs=1).encode(samples[:9])
    )


def test_adversarial_generators_learn_a_mean_and_keep_global_state():
    samples = ring(500) * 0.1 + [2.0, 0.0]
    state = torch.get_rng_state()
    first, last = (adversarial.wgan(samples, 2, steps=steps, width=64) for steps in (1, 300))
    off = [abs(made.decode(made.draw(500)).mean(axis=0) - [2, 0]).max() for made in (first, last)]
    assert off[1] < off[0]
    points = adversarial.rejection_sampler(samples, 2, steps=150, width=64)(300)
    assert points.shape == (300, 2)
    assert np.isfinite(points).all()
    assert torch.equal(torch.get_rng_state(), state)
