"""fitting: the gradient of a fit to T G S^-1 is that of the loss on all pairs; L-BFGS and Adam bring it down."""

import numpy as np
import pytest
import torch
from test_exact import cloud

from heatwalk import compute, fitting
from heatwalk.networks import Description, Network


def setting(n_items=60, seed=0, dtype=torch.float64):
    """A head, its points, and T, sqrt(pi), G, S of some matrix."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(Description("table", (3,), 2, 6, 8, 1)).to(dtype)
        torch.nn.init.normal_(network.places)
    points = torch.tensor(cloud(n_items, 3, seed=seed), dtype=dtype)
    target = rng.standard_normal((n_items, n_items))
    target = target @ target.T / n_items
    weights = rng.uniform(0.5, 1.5, n_items)
    weights /= weights.sum()
    basis = np.linalg.qr(rng.standard_normal((15, 15)))[0]
    head = fitting.Head(network, basis, rng.standard_normal((15, 2)))
    return head, points, target, weights


def test_gradient_of_a_round_is_half_that_of_the_loss_on_all_pairs():
    head, points, target, weights = setting()
    root = torch.tensor(np.sqrt(weights))
    vectors = root[:, None] * head(points)
    loss = ((vectors @ vectors.T - torch.tensor(target)) ** 2).sum()
    expected = torch.autograd.grad(loss, head.parameters)
    with torch.no_grad():
        inner = vectors.T @ vectors
        values, turn = torch.linalg.eigh(inner)  # the metric of a round is diagonal
        head.values.copy_(head.values @ turn)
        vectors = root[:, None] * head(points)
        mapped = torch.tensor(target) @ vectors
        targets = mapped / values / root[:, None]
    given = fitting.Regression(points, targets, root**2, values)
    with compute.workers("threads", 2) as pool:
        fitting.gradient(head, given, torch.arange(60), pool)
    for parameter, other in zip(head.parameters[1:], expected[1:], strict=True):
        np.testing.assert_allclose(2 * parameter.grad.numpy(), other.numpy(), rtol=1e-8, atol=1e-12)


def regression(head, points, weights):
    targets = torch.sin(points[:, :2])
    return fitting.Regression(
        points, targets, torch.tensor(weights, dtype=points.dtype), torch.ones(2, dtype=points.dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_bit_is_the_same_on_any_number_of_threads(monkeypatch, dtype):
    monkeypatch.setattr(fitting, "_SHARD", 16)
    monkeypatch.setattr(fitting, "BATCH", 32)
    found = []
    for threads in (1, 3):
        head, points, _, weights = setting(200, dtype=dtype)
        given = regression(head, points, weights)
        with compute.workers("threads", threads) as pool, fitting.one_torch_thread():
            fitting.by_newton(head, given, 5, pool)
            list(fitting.by_batches(head, given, 20, np.random.default_rng(0), pool))
        found.append([parameter.detach().numpy().copy() for parameter in head.parameters])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_both_ways_bring_the_loss_down(monkeypatch):
    monkeypatch.setattr(fitting, "BATCH", 64)
    for way in ("newton", "batches"):
        head, points, _, weights = setting(200)
        given = regression(head, points, weights)
        with compute.workers("threads", 1) as pool:
            before = fitting.gradient(head, given, torch.arange(200), pool)
            if way == "newton":
                fitting.by_newton(head, given, 60, pool)
            else:
                list(fitting.by_batches(head, given, 400, np.random.default_rng(0), pool))
            after = fitting.gradient(head, given, torch.arange(200), pool)
        assert after < before / 20


def test_torch_has_its_threads_back():
    before = torch.get_num_threads()
    with fitting.one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
