"""DiffusionLoss: the dense loss is the truth, and its least value is the diffusion map's."""

import numpy as np
import pytest
import torch
from test_exact import cloud
from test_galerkin import dense, graph

import heatwalk as hw
from heatwalk.diffusion_loss import DiffusionLoss


@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_target_of_a_batch_is_that_block_of_the_dense_one(t, pieces):
    _, aff = graph(pieces=pieces)
    rows = np.array([70, 3, 44, 12])
    np.testing.assert_allclose(DiffusionLoss(aff, t).target(rows), dense(aff, t)[0][np.ix_(rows, rows)], atol=1e-12)


def test_the_loss_is_that_of_all_pairs_times_the_square_of_the_cells():
    _, aff = graph()
    target, root = dense(aff, 2)
    outputs = torch.randn(80, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = root[:, None] * outputs.numpy()
    expected = ((scaled @ scaled.T - target) ** 2).sum()
    assert DiffusionLoss(aff, 2)(outputs, np.arange(80)).item() == pytest.approx(expected)


def test_the_mean_over_all_batches_is_the_loss_of_all_pairs():
    _, aff = graph(n_cells=80)
    outputs = torch.randn(80, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss, pairs = DiffusionLoss(aff, 2), [(i, j) for i in range(80) for j in range(i)]
    mean = np.mean([loss(outputs[list(rows)], list(rows)).item() for rows in pairs])
    assert mean == pytest.approx(loss(outputs, np.arange(80)).item())


def test_diffusion_coordinates_reach_the_least_loss():
    _, aff = graph()
    found = hw.diffusion_map(aff, n_components=3)
    outputs = torch.tensor(np.asarray(found.eigenvectors) * np.asarray(found.eigenvalues), requires_grad=True)
    loss = DiffusionLoss(aff)(outputs, np.arange(80))
    rest = np.sort(np.linalg.eigvalsh(dense(aff, 1)[0]))[:-3]
    assert loss.item() == pytest.approx((rest**2).sum(), rel=1e-6)
    loss.backward()
    assert outputs.grad.abs().max() < 1e-8


def test_a_network_learns_from_batches():
    points = np.linspace(0, 1, 200)[:, None] + 0.01 * cloud(200, 2)
    aff = hw.affinity(points, hw.neighbors(points, n_neighbors=20))
    loss, generator = DiffusionLoss(aff, t=20), np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
    data = torch.tensor(6 * points - 3, dtype=torch.float32)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-2)
    with torch.no_grad():
        before = loss(network(data), np.arange(200)).item()
    for _ in range(300):
        rows = generator.choice(200, 50, replace=False)
        optimiser.zero_grad()
        loss(network(data[rows]), rows).backward()
        optimiser.step()
    with torch.no_grad():
        after = loss(network(data), np.arange(200)).item()
    least = (np.sort(np.linalg.eigvalsh(dense(aff, 20)[0]))[:-2] ** 2).sum()
    assert after - least < (before - least) / 20


@pytest.mark.parametrize(("shape", "rows"), [((3, 2), [0, 1]), ((2,), [0, 1]), ((2, 2), [0, 80]), ((2, 2), [-1, 0])])
def test_outputs_of_other_cells_are_refused(shape, rows):
    with pytest.raises(hw.BadInput, match="HW-NN-009 DiffusionLoss: outputs of shape .* cells; give one row"):
        DiffusionLoss(graph()[1])(torch.zeros(shape), rows)


def test_a_time_that_is_no_whole_number_is_refused():
    with pytest.raises(hw.BadInput, match="HW-NN-005 t: 0.5 is no whole number"):
        DiffusionLoss(graph()[1], t=0.5)
