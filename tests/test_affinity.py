"""affinity: the formula in dense matrices is the truth; symmetry is exact; duplicates, underflow and islands."""

import numpy as np
import pytest
import scipy.sparse
from scipy.spatial.distance import cdist

import heatwalk as hw
from heatwalk import store


def cloud(n_points=200, dimension=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n_points, dimension))


def made(points, n_neighbors=12, **options):
    return hw.affinity(points, hw.neighbors(points, n_neighbors=n_neighbors), **options)


def matrix(graph):
    n_cells = len(graph.indptr) - 1
    return scipy.sparse.csr_array((graph.weights, graph.indices, graph.indptr), shape=(n_cells, n_cells))


def stored(graph):
    """Mask of the entries that are stored, zeros among them."""
    mask = matrix(graph)
    mask.data = np.ones(len(mask.data))
    return mask.toarray() > 0


def dense_twin(points, n_neighbors, bandwidth, bandwidth_neighbor, alpha):
    """weights, density and sigma from the full distance matrix."""
    distances = cdist(points, points)
    others = np.sort(distances, axis=1)[:, 1:]
    order = np.argsort(distances + np.where(np.eye(len(points)), np.inf, 0), axis=1, kind="stable")[:, :n_neighbors]
    directed = np.zeros(distances.shape, bool)
    np.put_along_axis(directed, order, True, axis=1)
    graph = directed | directed.T | np.eye(len(points), dtype=bool)
    if bandwidth == "adaptive":
        sigma = others[:, min(bandwidth_neighbor, n_neighbors) - 1] / 2
    else:
        sigma = np.full(len(points), bandwidth)
    kernel = np.where(graph, np.exp(-(distances**2) / (2 * np.outer(sigma, sigma))), 0)
    density = kernel.sum(axis=1)
    return kernel / np.outer(density, density) ** alpha, density, sigma, graph


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("bandwidth", "bandwidth_neighbor"), [("adaptive", 5), ("adaptive", 30), (0.7, 30), (1, 30)])
def test_equals_the_dense_twin(alpha, bandwidth, bandwidth_neighbor):
    points = cloud()
    graph = made(points, bandwidth=bandwidth, bandwidth_neighbor=bandwidth_neighbor, alpha=alpha)
    weights, density, sigma, edges = dense_twin(points, 12, bandwidth, bandwidth_neighbor, alpha)
    np.testing.assert_array_equal(stored(graph), edges)
    np.testing.assert_allclose(matrix(graph).toarray(), weights, rtol=1e-12)
    np.testing.assert_allclose(graph.degrees, weights.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(graph.density, density, rtol=1e-12)
    np.testing.assert_allclose(graph.bandwidths, sigma, rtol=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bandwidth", ["adaptive", 0.4])
def test_weights_are_symmetric_to_the_last_bit(alpha, bandwidth):
    points = np.concatenate([cloud(400, 5), cloud(20, 5), cloud(20, 5)]).astype(np.float32)
    weights = matrix(made(points, bandwidth=bandwidth, alpha=alpha))
    assert abs(weights - weights.T).max() == 0


def test_rows_are_sorted_and_hold_their_diagonal_once():
    graph = made(np.concatenate([cloud(50), cloud(50)]))
    for row, (start, stop) in enumerate(zip(graph.indptr[:-1], graph.indptr[1:], strict=True)):
        columns = graph.indices[start:stop]
        assert (np.diff(columns) > 0).all()
        assert row in columns


def test_the_diagonal_of_the_kernel_is_one():
    np.testing.assert_array_equal(matrix(made(cloud(), alpha=0.0)).diagonal(), 1)


def test_edges_of_either_direction_are_in_the_graph():
    # 2 is the nearest of 3, but 3 is not the nearest of 2.
    graph = made(np.array([[0.0], [1.0], [2.2], [4.0]]), n_neighbors=1, bandwidth=1.0)
    expected = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]], bool)
    np.testing.assert_array_equal(stored(graph), expected)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_stationary_distribution_sums_to_one_and_stays(alpha):
    graph = made(cloud(), alpha=alpha)
    walk = scipy.sparse.diags_array(1 / graph.degrees) @ matrix(graph)
    np.testing.assert_allclose(graph.stationary.sum(), 1, rtol=1e-14)
    np.testing.assert_allclose(graph.stationary @ walk, graph.stationary, rtol=1e-12)


def test_types_are_those_of_the_schema():
    graph = made(cloud().astype(np.float32))
    types = {name: str(getattr(graph, name).dtype) for name in graph._fields}
    floats = dict.fromkeys(("weights", "degrees", "density", "bandwidths", "stationary"), "float64")
    assert types == {"indptr": "int64", "indices": "int32", "components": "int32", "order": "int64", **floats}


def test_the_order_of_the_cells_is_that_of_the_neighbors():
    points = cloud(300)
    found = hw.neighbors(points, n_neighbors=12, method="inverted_lists")
    np.testing.assert_array_equal(hw.affinity(points, found).order, found.order)
    np.testing.assert_array_equal(made(points).order, np.arange(300))


def test_adaptive_weights_do_not_depend_on_units():
    one, other = (made(scale * cloud(), alpha=0.5) for scale in (1.0, 1e-6))
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-10)
    np.testing.assert_allclose(one.bandwidths * 1e-6, other.bandwidths, rtol=1e-12)


# ---- duplicates ------------------------------------------------------------------------------------------------------


def test_more_duplicates_than_neighbors_take_the_smallest_bandwidth_of_the_others():
    points = np.concatenate([np.zeros((30, 2)), cloud(40, 2) + 5])
    graph = made(points, n_neighbors=10)
    alone = made(points[30:], n_neighbors=10)
    np.testing.assert_allclose(graph.bandwidths[30:], alone.bandwidths, rtol=1e-12)
    np.testing.assert_array_equal(graph.bandwidths[:30], alone.bandwidths.min())
    assert np.isfinite(graph.weights).all()
    assert (graph.degrees > 0).all()


def test_fewer_duplicates_than_neighbors_take_half_the_nearest_positive_distance():
    points = np.concatenate([np.zeros((4, 1)), [[3.0], [10.0], [12.0], [15.0], [19.0]]])
    graph = made(points, n_neighbors=4, bandwidth_neighbor=3)
    np.testing.assert_array_equal(graph.bandwidths[:4], 1.5)


def test_duplicates_have_a_kernel_of_one_between_them():
    graph = made(np.repeat(cloud(20), 2, axis=0), n_neighbors=6, alpha=0.0)
    kernel = matrix(graph).toarray()
    np.testing.assert_array_equal(kernel[np.arange(0, 40, 2), np.arange(1, 40, 2)], 1)


def test_cells_that_all_coincide_with_their_neighbors_are_refused():
    points = np.repeat(cloud(3), 20, axis=0)
    with pytest.raises(hw.BadInput, match=r"HW-AF-005 neighbors: each of the 60 cells coincides with all its 5 neigh"):
        made(points, n_neighbors=5)


def test_a_fixed_bandwidth_takes_coinciding_cells():
    graph = made(np.repeat(cloud(3), 20, axis=0), n_neighbors=5, bandwidth=1.0)
    np.testing.assert_array_equal(np.bincount(graph.components), [20, 20, 20])


# ---- components ------------------------------------------------------------------------------------------------------


def test_components_are_numbered_by_size_and_ties_by_first_cell():
    label = np.repeat([0, 1, 2, 3], [15, 40, 15, 25])
    points = cloud(95, 2) * 0.1 + label[:, None] * 100
    np.testing.assert_array_equal(made(points, n_neighbors=5).components, np.array([2, 0, 3, 1])[label])


def test_an_underflow_to_zero_is_no_edge():
    # exp(-(100 / 0.1)^2 / 2) is 0 in double precision: the four cells are neighbours, but not connected.
    graph = made(100.0 * np.arange(4)[:, None], n_neighbors=2, bandwidth=0.1)
    np.testing.assert_array_equal(np.sort(graph.components), [0, 1, 2, 3])
    np.testing.assert_array_equal(matrix(graph).toarray(), np.eye(4))
    np.testing.assert_array_equal(graph.stationary, 0.25)


def test_a_component_ends_where_all_its_edges_underflow():
    points = np.concatenate([cloud(30, 2), cloud(8, 2) + 1000])
    graph = made(points, n_neighbors=10, bandwidth=1.0)  # 8 cells need neighbours of the other group
    np.testing.assert_array_equal(graph.components, np.repeat([0, 1], [30, 8]))


# ---- blocks, where it is written -------------------------------------------------------------------------------------


def test_block_size_changes_no_value():
    one, other = (made(cloud(), block_cells=size) for size in (7, 10_000))
    for name in one._fields:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-14, atol=0)


@pytest.mark.parametrize("block_cells", [64, 1000])
def test_a_store_draft_holds_what_memory_holds(tmp_path, block_cells):
    expected = made(cloud(), block_cells=block_cells)
    draft = store.create(tmp_path / "data" / "affinity", "affinity", block_cells=block_cells)
    made(cloud(), block_cells=block_cells, out=draft)
    store.publish(draft, parameters={}, code="", inputs={})
    result = store.read(tmp_path / "data" / "affinity")
    for name in expected._fields:
        np.testing.assert_array_equal(result[name][:], getattr(expected, name))


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": -0.1}, r"HW-AF-002 alpha: -0.1 is outside \[0, 1\]"),
        ({"alpha": 1.5}, r"HW-AF-002 alpha: 1.5 is outside \[0, 1\]"),
        ({"alpha": np.nan}, r"HW-AF-002 alpha: nan is outside \[0, 1\]"),
        ({"bandwidth": 0}, "HW-AF-003 bandwidth: 0 is no bandwidth"),
        ({"bandwidth": -1.0}, "HW-AF-003 bandwidth: -1.0 is no bandwidth"),
        ({"bandwidth": np.inf}, "HW-AF-003 bandwidth: inf is no bandwidth"),
        ({"bandwidth": "wide"}, "HW-AF-003 bandwidth: 'wide' is no bandwidth"),
        ({"bandwidth_neighbor": 0}, "HW-AF-004 bandwidth_neighbor: 0 is below 1"),
    ],
)
def test_options_out_of_bounds_are_refused(options, match):
    with pytest.raises(hw.BadInput, match=match):
        made(cloud(), **options)


def test_neighbors_of_other_points_are_refused():
    with pytest.raises(hw.BadInput, match="HW-AF-001 neighbors: there are 50 points and neighbours of 200"):
        hw.affinity(cloud(50), hw.neighbors(cloud(), n_neighbors=5))


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.int64(1)])
def test_a_bandwidth_may_be_a_numpy_number(number):
    np.testing.assert_array_equal(made(cloud(), bandwidth=number).bandwidths, float(number))
