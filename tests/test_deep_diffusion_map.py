"""deep_diffusion_map: the exact map is the truth; no N x N array, no eigenvector, and the same bits every time."""

import importlib
import json
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

import heatwalk as hw
from heatwalk import networks, training

stage = importlib.import_module("heatwalk.deep_diffusion_map")  # the name in the package is the function


def circle(n_cells, seed=0):
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, n_cells)
    return np.column_stack([np.cos(angle), np.sin(angle), 0.5 * np.sin(2 * angle)])


def kernel(points, bandwidth=0.3):
    flat = points.reshape(len(points), -1)
    nn = hw.neighbors(flat, n_neighbors=len(points) - 1, method="exact")
    return hw.affinity(flat, nn, bandwidth=bandwidth)


def expected(aff, n_components, t):
    found = hw.diffusion_map(aff, n_components=n_components)
    return np.asarray(found.eigenvectors) * np.asarray(found.eigenvalues) ** t


@pytest.fixture(scope="module")
def trained():
    points = circle(400)
    aff = kernel(points)
    return points, aff, hw.deep_diffusion_map(points, aff, n_components=4, t=5, rounds=4, seed=3)


def test_distances_are_those_of_the_exact_map(trained):
    _, aff, found = trained
    error, median, deciles = hw.distance_error(np.asarray(found.coordinates, float), expected(aff, 4, 5))
    assert error < 0.01
    assert median < 0.002
    assert (found.error, found.error_median, found.error_cells) == (error, median, 400)
    np.testing.assert_array_equal(found.error_deciles, deciles)
    assert 0 <= found.excess < 1e-5
    assert (np.diff(found.energy) >= 0).all()
    assert found.residuals.max() < 0.01


def test_coordinates_are_ordered_and_oriented_as_the_map_s(trained):
    _, aff, found = trained
    coordinates = np.asarray(found.coordinates)
    largest = np.abs(coordinates).argmax(axis=0)
    assert (coordinates[largest, np.arange(4)] > 0).all()
    values = hw.diffusion_map(aff, n_components=4).eigenvalues
    np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-4)
    assert (np.asarray(found.eigenvalues) <= np.asarray(values) + 1e-9).all()


def test_the_network_stands_alone(trained):
    points, _, found = trained
    np.testing.assert_allclose(networks.applied(found.network, points), found.coordinates, atol=2e-6)
    description = json.loads(np.asarray(found.description).tobytes())
    assert (description["n_components"], description["t"], description["kind"]) == (4, 5, "table")
    # A prototype is a mean of cells at the start: none is a cell.
    places = (found.network.places * found.network.scale + found.network.centre).detach().numpy()
    nearest = np.sqrt(((places[:, None] - points[None]) ** 2).sum(axis=2)).min(axis=1)
    assert nearest.min() > 1e-5


def test_new_points_land_where_the_joint_map_has_them(trained):
    points, _, found = trained
    new = circle(200, seed=9)
    joint = expected(kernel(np.concatenate([points, new])), 4, 5)[400:]
    reference = hw.Reference(points, hw.neighbors(points, n_neighbors=30), kernel(points), found)
    placed = hw.extension(reference, new, method="network")
    assert hw.distance_error(placed.coordinates.astype(float), joint)[1] < 0.03
    np.testing.assert_array_equal(placed.coordinates, networks.applied(found.network, new))
    with pytest.raises(hw.BadInput, match="HW-EX-002 method: 'nystrom' cannot use a DeepDiffusionMap"):
        hw.extension(reference, new, method="nystrom")


@pytest.mark.parametrize("together", [True, False])
def test_same_seed_same_bits_on_any_threads_and_after_a_stop(tmp_path, monkeypatch, together):
    points = circle(150)
    aff = kernel(points)
    monkeypatch.setattr(stage, "_TOGETHER_UP_TO", 1000 if together else 10)
    monkeypatch.setattr(training, "_FEWEST_STEPS", 30)
    options = {"n_components": 3, "t": 4, "rounds": 3, "prototypes": 20, "measure": False}
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = hw.deep_diffusion_map(points, aff, **options, threads=1)
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])
    # Stopped in the middle of the second round; then for another seed, which must not take that state; then resumed.
    fit, calls = training._fit, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        fit(*arguments)

    monkeypatch.setattr(training, "_fit", stopped)
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        hw.deep_diffusion_map(points, aff, **options, threads=3, checkpoint=path)
    kept = path.read_bytes()
    monkeypatch.setattr(training, "_fit", fit)
    other = hw.deep_diffusion_map(points, aff, **options, seed=1, checkpoint=path)
    assert not np.array_equal(other.coordinates, one.coordinates)
    path.write_bytes(kept)
    monkeypatch.setattr(training, "_started", None)  # nothing begins again
    resumed = hw.deep_diffusion_map(points, aff, **options, threads=3, checkpoint=path)
    for name in ("coordinates", "weights", "energy", "residuals"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(one, name))
    assert not path.exists()


@pytest.mark.parametrize("shape", [(40, 2), (8, 6, 1)])
def test_sequences_and_images(shape):
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 2 * np.pi, 120)
    grid = np.arange(np.prod(shape)).reshape(shape) * 2 * np.pi / np.prod(shape)
    points = np.sin(grid + phase.reshape(-1, *[1] * len(shape))).astype(np.float32)
    aff = kernel(points, bandwidth=2.0)
    found = hw.deep_diffusion_map(points, aff, n_components=2, t=2, rounds=2)
    assert found.error < 0.05
    assert found.network.description.kind == ("sequence" if len(shape) == 2 else "image")
    assert networks.applied(found.network, points).shape == (120, 2)
    table = hw.deep_diffusion_map(points, aff, n_components=2, t=2, rounds=1, network="table", measure=False)
    assert table.network.description.item_shape == (int(np.prod(shape)),)


def test_a_graph_in_pieces_is_trained_on_as_one(caplog):
    points = np.concatenate([circle(150), circle(100, seed=1) + 30])
    nn = hw.neighbors(points, n_neighbors=10)
    aff = hw.affinity(points, nn)
    found = hw.deep_diffusion_map(points, aff, n_components=6, rounds=2)
    assert len(np.unique(aff.components)) == 2
    assert np.isnan(found.error)
    assert "in several pieces" in caplog.text
    means = [
        np.average(found.coordinates[part], axis=0, weights=aff.stationary[part])
        for part in (slice(150), slice(150, 250))
    ]
    np.testing.assert_allclose(means, 0, atol=0.05)  # both trivial vectors are out


def test_of_many_cells_the_error_is_that_of_a_subsample(monkeypatch):
    points = circle(600)
    nn = hw.neighbors(points, n_neighbors=20)
    aff = hw.affinity(points, nn)
    monkeypatch.setattr(stage, "_EXACT_UP_TO", 500)
    monkeypatch.setattr(stage, "_SUBSAMPLE", 300)
    found = hw.deep_diffusion_map(points, aff, n_components=3, rounds=2, prototypes=60)
    assert found.error_cells == 300
    assert 0 < found.error < 0.1


def test_distance_error_by_hand():
    true = np.array([[0.0], [1.0], [3.0]])  # distances 1, 3, 2
    error, median, deciles = hw.distance_error(np.array([[0.0], [1.1], [3.0]]), true)  # 1.1, 3, 1.9
    assert error == pytest.approx((0.1 + 0 + 0.05) / 3)
    assert median == pytest.approx(0.05)
    cloud = np.random.default_rng(0).standard_normal((50, 3))
    _, _, deciles = hw.distance_error(cloud + 0.01, 2 * cloud)
    np.testing.assert_allclose(deciles, 0.5)
    count = len(pdist(cloud))
    noisy = hw.distance_error(cloud + 0.1 * np.random.default_rng(1).standard_normal(cloud.shape), cloud)
    assert np.average(noisy[2]) == pytest.approx(noisy[0], rel=30 / count)


def points_and_affinity(n_cells=30):
    points = circle(n_cells)
    return points, kernel(points, 0.8)


ERRORS = {
    "HW-NN-003 points: there are 20 points and an affinity of 30": lambda p, a: ((p[:20], a), {}),
    "HW-NN-004 n_components: 30 is not between 1 and 29": lambda p, a: ((p, a), {"n_components": 30}),
    "HW-NN-004 n_components: 0 is not between": lambda p, a: ((p, a), {"n_components": 0}),
    "HW-NN-005 t: 0.5 is no whole number": lambda p, a: ((p, a), {"t": 0.5}),
    "HW-NN-005 rounds: 0 is no whole number": lambda p, a: ((p, a), {"rounds": 0}),
    "HW-NN-006 t: at t 500 only [0-9] of 9 components": lambda p, a: ((p, a), {"t": 500, "n_components": 9}),
    "HW-NN-007 points: 1 of 30 points are not finite": lambda p, a: ((np.where(p == p.max(), np.nan, p), a), {}),
    "HW-NN-008 network: 'graph' is no network": lambda p, a: ((p, a), {"network": "graph"}),
    "HW-NN-008 network: a network for a image and points of shape": lambda p, a: ((p, a), {"network": "image"}),
    "HW-RS-004 deep_diffusion_map: features and vectors of 30": lambda p, a: ((p, a), {"memory": 10**8}),
}


@pytest.mark.parametrize("message", ERRORS)
def test_bad_input_is_one_clear_line(message):
    arguments, options = ERRORS[message](*points_and_affinity())
    with pytest.raises(hw.HeatwalkError, match=message):
        hw.deep_diffusion_map(*arguments, **{"n_components": 3, "rounds": 1, **options})


def test_streamed_from_files_the_result_is_the_same(tmp_path, monkeypatch):
    points, aff = points_and_affinity(200)
    options = {"n_components": 3, "rounds": 1, "measure": False}
    expected_ = hw.deep_diffusion_map(points, aff, **options)
    room = namedtuple("Room", "held band")(False, 300)
    monkeypatch.setattr(stage, "_room", lambda *_: room)
    found = hw.deep_diffusion_map(points, aff, **options, scratch=tmp_path)
    np.testing.assert_array_equal(found.coordinates, expected_.coordinates)
    assert not list(tmp_path.iterdir())


PEAK = """
import resource
import numpy as np
import heatwalk as hw

def trained(n_cells):
    points = np.random.default_rng(0).uniform(-1, 1, (n_cells, 2)).astype(np.float32)
    affinity = hw.affinity(points, hw.neighbors(points, n_neighbors=10))
    options = {"n_components": 3, "rounds": 1, "prototypes": 40, "measure": False, "threads": 2}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hw.deep_diffusion_map(points, affinity, **options)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

trained(300)  # libraries are loaded
print(trained(12_000))
"""


def test_no_array_of_all_pairs_is_ever_held():
    """In batches, with all that torch takes: 12,000 cells squared would be 576 MB in single precision."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 576e6 / 3
