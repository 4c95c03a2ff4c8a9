"""device: search by torch finds the same neighbours to the last bit, on the CPU under another name, and on a GPU."""

import numpy as np
import pytest
from test_exact import POINTS, cloud

import heatwalk as hw
from heatwalk import compute, exact
from heatwalk.errors import BadInput, OutOfResources

torch = pytest.importorskip("torch")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


def found_on(device, points, width):
    centre = points.mean(axis=0, dtype=np.float64)
    unit = float(2.0 ** np.ceil(np.log2(np.abs(points - centre).max())))
    names = np.arange(len(points))
    return exact.nearest(points, None, points, names, width, centre, unit, device)


# torch has the CPU under this name; to heatwalk it is none of its own.
@pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
@pytest.mark.parametrize("base_rows", [64, 4096])
@pytest.mark.parametrize("name", POINTS)
def test_neighbours_and_distances_are_the_same_to_the_last_bit(monkeypatch, name, base_rows, device):
    monkeypatch.setattr(exact, "_BASE_ROWS", base_rows)
    points = POINTS[name]()
    expected, found = (found_on(where, points, 9) for where in ("cpu", device))
    assert found.names.tobytes() == expected.names.tobytes()
    assert found.distances.tobytes() == expected.distances.tobytes()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_search_on_the_gpu_is_the_exact_search(dtype):
    points = cloud(30_000, 50).astype(dtype)
    expected, found = (hw.neighbors(points, method="exact", device=device) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert hw.neighbors(points, device="cuda").probes == 0


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_there_is_no_silent_cpu(device):
    if device == "cuda" and torch.cuda.is_available():
        compute.check_device(device)
        return
    with pytest.raises(OutOfResources, match=f"HW-CP-002 .*sees no '{device}' device") as caught:
        hw.neighbors(cloud(100, 3), device=device)
    assert "set compute: device: cpu" in str(caught.value)


@pytest.mark.gpu
@needs_gpu
def test_lists_are_not_searched_on_the_gpu_and_that_is_said():
    with pytest.raises(BadInput, match="HW-NB-007 method: inverted_lists are searched on the CPU, device is 'cuda'"):
        hw.neighbors(cloud(100, 3), method="inverted_lists", device="cuda")


@pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
@pytest.mark.parametrize("together", [True, False])
def test_a_network_trained_elsewhere_is_as_good(device, together):
    from heatwalk import training
    from heatwalk.conjugate import conjugate

    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 150)
    points = np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle)]).astype(np.float32)
    affinity = hw.affinity(points, hw.neighbors(points, n_neighbors=20))
    described = training.description(points.shape, "auto", 4, 30, 1)
    found = []
    for where in ("cpu", device):
        with compute.workers("threads", 2) as workers:
            matrix = conjugate(affinity, held=True, band_edges=len(affinity.indices), workers=workers)
            options = {"rounds": 1, "seed": 0, "together": together, "checkpoint": None, "workers": workers}
            trained = training.trained(points[matrix.order], matrix, described, **options, device=where)
        assert trained.network.linear.weight.device.type == "cpu"
        found.append(trained.energy)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.gpu
@needs_gpu
def test_the_stage_trains_on_the_gpu():
    points = cloud(3000, 5)
    affinity = hw.affinity(points, hw.neighbors(points))
    there, here = (hw.deep_diffusion_map(points, affinity, n_components=3, rounds=2, device=d) for d in ("cuda", "cpu"))
    np.testing.assert_allclose(there.eigenvalues, here.eigenvalues, rtol=1e-3)
    assert abs(there.error - here.error) < 0.01
