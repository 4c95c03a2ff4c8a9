"""Loss landscapes: products and Lanczos against the dense Hessian, exact fits, shells, seeds, and a trained network."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from heatwalk import loss_landscape, quadrics  # noqa: E402
from heatwalk.errors import BadInput  # noqa: E402

RADII = (0.5, 1.0)


def generator(seed: int = 0) -> "torch.Generator":
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> "torch.Tensor":
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def tiny():
    """A network of 26 parameters, its loss on 40 items, and where it stands."""
    network = torch.nn.Sequential(
        torch.nn.utils.skip_init(torch.nn.Linear, 3, 4),
        torch.nn.Tanh(),
        torch.nn.utils.skip_init(torch.nn.Linear, 4, 2),
    ).double()
    with torch.no_grad():
        for number, value in enumerate(network.parameters()):
            value.copy_(normal(*value.shape, seed=number))
    inputs, targets = normal(40, 3, seed=10), (normal(40, seed=11) > 0).long()
    cost = torch.nn.functional.cross_entropy
    return network, loss_landscape.loss_function(network, cost, inputs, targets), loss_landscape.parameters(network)


def quadric(dimension: int, seed: int = 0):
    """A symmetric Hessian, a gradient, offsets on shells of radius about .01, and heights of about 1e-4."""
    half, slope = normal(dimension, dimension, seed=seed), normal(dimension, seed=seed + 1) / 100
    hessian = half + half.T
    x = 0.01 * quadrics.shells(dimension, RADII, 60, generator(seed))
    return hessian.numpy(), slope.numpy(), x.numpy(), (3 + x @ slope + ((x @ hessian) * x).sum(1) / 2).numpy()


# ---- the Hessian ---------------------------------------------------------------------------------------------------


def test_lanczos_finds_the_eigenvalues_of_the_dense_hessian(tiny):
    _, loss, centre = tiny
    dense = torch.autograd.functional.hessian(loss, centre).numpy()
    values = np.linalg.eigvalsh(dense)
    expected = np.sort(values[np.argsort(-np.abs(values))[:6]])[::-1]
    found = loss_landscape.lanczos(loss, centre, modes=6, tolerance=1e-12)
    assert np.allclose(found.values, expected, rtol=1e-9)
    assert np.abs(dense @ found.vectors - found.vectors * found.values).max() < 1e-9
    assert found.residuals.max() < 1e-9


def test_restricted_hessian_is_the_dense_one_between_directions(tiny):
    _, loss, centre = tiny
    dense = torch.autograd.functional.hessian(loss, centre).numpy()
    basis = loss_landscape.random_directions(len(centre), 3, seed=4)
    assert np.allclose(loss_landscape.restricted(loss, centre, basis), basis.T @ dense @ basis, atol=1e-12)


def test_product_with_a_flat_loss_is_zero():
    product = loss_landscape.hessian_product(lambda flat: 2 * flat.sum(), torch.ones(3, dtype=torch.float64))
    assert np.array_equal(product(np.ones(3)), np.zeros(3))


def test_slopes_are_gradients(tiny):
    _, loss, centre = tiny
    step = 1e-6 * torch.eye(len(centre), dtype=torch.float64)
    expected = [(loss(centre + each) - loss(centre - each)).item() / 2e-6 for each in step]
    found = loss_landscape.slopes([loss, lambda flat: 2 * loss(flat)], centre)
    assert np.allclose(found, np.outer(expected, [1, 2]), atol=1e-8)


# ---- samples -------------------------------------------------------------------------------------------------------


def test_loss_is_the_network_s_own_and_the_network_stays_as_it_was(tiny):
    network, loss, centre = tiny
    before = [value.clone() for value in network.parameters()]
    found = loss_landscape.sample(loss, centre, RADII, points=5, seed=1)
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    moved = torch.nn.utils.parameters_to_vector(network.parameters()) + torch.from_numpy(found.offsets[3])
    try:
        torch.nn.utils.vector_to_parameters(moved, network.parameters())
        assert loss(loss_landscape.parameters(network)).item() == pytest.approx(found.losses[3], rel=1e-12)
    finally:
        torch.nn.utils.vector_to_parameters(torch.cat([value.reshape(-1) for value in before]), network.parameters())
    assert found.losses[0] == loss(centre).item()


def test_shells_have_the_stated_radii_around_the_centre(tiny):
    _, loss, centre = tiny
    found = loss_landscape.sample(loss, centre, RADII, points=7)
    lengths = np.linalg.norm(found.offsets, axis=1)
    assert found.offsets.shape == (15, len(centre))
    assert np.allclose(lengths, np.repeat([0.0, *RADII], [1, 7, 7]), rtol=1e-14)


def test_directions_of_shells_are_uniform():
    x = quadrics.shells(3, (2.0,), 4000, generator())[1:].numpy()
    assert np.abs(x.mean(axis=0)).max() < 5 * 2 / np.sqrt(3 * 4000)
    assert np.allclose(x.T @ x / 4000, 4 / 3 * np.eye(3), atol=0.1)


def test_samples_in_a_subspace_are_those_of_its_quadric():
    """Of a quadric loss, the direct fit on samples along B gives B'HB and B'g."""
    half, slope, centre = normal(9, 9), normal(9, seed=1), normal(9, seed=2)
    hessian, basis = half @ half.T, loss_landscape.random_directions(9, 3)

    def loss(flat):
        return slope @ (flat - centre) + (flat - centre) @ hessian @ (flat - centre) / 2

    found = loss_landscape.sample(loss, centre, RADII, points=20, directions=basis)
    fit = quadrics.direct(*found)
    assert np.allclose(fit.hessian, basis.T @ hessian.numpy() @ basis, atol=1e-10)
    assert np.allclose(fit.gradient, basis.T @ slope.numpy(), atol=1e-10)


def test_same_seed_same_bits_and_no_global_state(tiny):
    _, loss, centre = tiny
    state, plain = torch.get_rng_state(), np.random.get_state()[1].copy()

    def made(seed: int) -> list[np.ndarray]:
        network = quadrics.trained(2, radii=RADII, points=20, quadrics=8, epochs=2, seed=seed)
        weights = [value.numpy() for value in network.state_dict().values()]
        spectrum = loss_landscape.lanczos(loss, centre, modes=2, seed=seed)
        return [*loss_landscape.sample(loss, centre, RADII, points=3, seed=seed), *spectrum, *weights]

    first, again, other = made(0), made(0), made(1)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(plain, np.random.get_state()[1])


# ---- quadrics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 2, 6])
def test_direct_fit_is_exact_on_a_quadric(dimension):
    hessian, slope, x, z = quadric(dimension)
    found = quadrics.direct(x, z)
    assert np.allclose(found.hessian, hessian, rtol=0, atol=1e-7)  # heights of 1e-4 on 3 keep 12 digits
    assert np.allclose(found.gradient, slope, rtol=0, atol=1e-9)
    assert found.residual < 1e-10


def test_quadric_of_q_has_twice_its_hessian():
    x = quadrics.shells(2, RADII, 20, generator()).numpy()
    q = np.array([[1.0, 0.5], [0.5, -2.0]])
    assert np.allclose(quadrics.direct(x, np.einsum("ni,ij,nj->n", x, q, x)).hessian, 2 * q, atol=1e-12)


def test_rows_of_the_walk_are_those_of_dense_powers():
    from heatwalk import affinity, neighbors

    _, _, x, z = quadric(3)
    made, _ = quadrics.cloud(x, z)
    scaled = made.offsets.numpy()
    points = np.column_stack([scaled, made.heights.numpy() * np.sqrt((scaled**2).mean())])
    graph = affinity(points, neighbors(points, n_neighbors=30))
    dense = np.zeros((len(x), len(x)))
    for row in range(len(x)):
        entries = slice(graph.indptr[row], graph.indptr[row + 1])
        dense[row, graph.indices[entries]] = graph.weights[entries] / graph.degrees[row]
    for row, t in zip(made.rows, quadrics.TIMES, strict=True):
        assert np.allclose(row, np.linalg.matrix_power(dense, t)[0], atol=1e-14)


def test_moments_of_normal_points_are_the_hessian():
    """Stein's identity: under a normal distribution A = E[Hess z], and a linear part leaves no trace."""
    hessian = torch.tensor([[2.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    x = normal(200_000, 2) @ torch.tensor([[1.0, 0.4], [0.0, 0.7]], dtype=torch.float64) + 0.3
    z = ((x @ hessian) * x).sum(1) / 2
    given = quadrics.Cloud(x, z, torch.full((1, len(x)), 1 / len(x), dtype=torch.float64))
    found = quadrics.moments(given, z)
    assert torch.allclose(found[0], hessian, atol=0.03)
    assert torch.allclose(quadrics.moments(given, z + x[:, 0] - 5), found, atol=1e-6)


@pytest.fixture(scope="module")
def network():
    return quadrics.trained(2, radii=RADII, points=40, quadrics=64, epochs=30)


def test_network_beats_the_mean_on_quadrics_it_has_not_seen_and_passes_help(network):
    def error(hessians) -> float:
        return float((torch.linalg.matrix_norm(hessians - targets) / torch.linalg.matrix_norm(targets)).mean())

    draws = generator(5)
    given, targets = quadrics.sampled(quadrics.random_hessians(2, 40, draws), RADII, 40, draws)
    one = quadrics.trained(2, radii=RADII, points=40, quadrics=64, epochs=30, passes=1)
    with torch.no_grad():
        several, single = error(network(given)), error(one(given))
    assert several < single < 0.3 * error(targets.mean(0))
    assert several < 0.05


def test_network_turns_and_scales_with_the_quadric(network):
    _, _, x, z = quadric(2)
    turn = loss_landscape.random_directions(2, 2)
    expected = turn.T @ quadrics.estimate(network, x, z) @ turn
    assert np.allclose(quadrics.estimate(network, x @ turn, z), expected, rtol=1e-6, atol=1e-9)
    assert np.allclose(quadrics.estimate(network, 5 * (x @ turn), 1 - 50 * z), -2 * expected, rtol=0.1)


# ---- errors --------------------------------------------------------------------------------------------------------


def test_errors_name_the_number_and_the_bound(tiny, network):
    _, loss, centre = tiny
    _, _, x, z = quadric(3)
    cases = {
        "HW-LL-001 radii: \\[1.0, 0.0\\] are not all positive": lambda: quadrics.shells(2, [1.0, 0.0], 3, generator()),
        "HW-LL-001 radii: \\[\\]": lambda: loss_landscape.sample(loss, centre, []),
        "HW-LL-002 points: 0 points in 2": lambda: quadrics.shells(2, [1.0], 0, generator()),
        "HW-LL-003 offsets: offsets of shape \\(120, 3\\)": lambda: quadrics.direct(x[1:], z[1:]),
        "HW-LL-004 offsets: 9 points in 3 dimensions, a quadric has 10": lambda: quadrics.direct(x[:9], z[:9]),
        "HW-LL-005 heights: 121 of 121 heights are finite, of 1 values": lambda: quadrics.cloud(x, 0 * z),
        "HW-LL-005 heights: 0 of 121": lambda: quadrics.direct(x, z + np.nan),
        "HW-LL-006 offsets: the network is for 2": lambda: quadrics.estimate(network, x, z),
        "HW-LL-007 centre: \\(3,\\) is no vector of the network's 26": lambda: loss(centre[:3]),
        "HW-LL-008 directions: directions of shape \\(3, 2\\)": lambda: loss_landscape.sample(
            loss, centre, RADII, directions=np.eye(3)[:, :2]
        ),
        "HW-LL-008 directions: inner products are off .* by 1.0e\\+00": lambda: loss_landscape.sample(
            loss, centre, RADII, directions=np.ones((len(centre), 1)) * np.sqrt(2 / len(centre))
        ),
        "HW-LL-009 modes: 0 of a network of": lambda: loss_landscape.lanczos(loss, centre, modes=0),
    }
    for message, call in cases.items():
        with pytest.raises(BadInput, match=message):
            call()
