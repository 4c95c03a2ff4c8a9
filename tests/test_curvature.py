"""curvature: rows of P^t, surfaces through points, and the two together."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import heatwalk as hw
from heatwalk import compute, spread
from heatwalk import nodes as nodes_module
from heatwalk.bend import concerns
from heatwalk.curvature import REASONS, _line
from heatwalk.halves import Halves
from heatwalk.surface import _edge_centre, surface, widest_gap
from heatwalk.walks import Entry, walk

QUICK = {"null_points": 0}


def made(points, **options):
    nn = hw.neighbors(points, n_neighbors=min(30, len(points) - 1))
    graph = hw.affinity(points, nn, **options)
    return graph, hw.diffusion_map(graph, n_components=5)


def torus(n_points, noise=0.0, seed=0):
    """Points of the torus R = 2, r = 1, uniform by area, and its Gaussian curvature cos / (2 + cos)."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 6 * n_points)
    angle = angle[rng.uniform(0, 3, len(angle)) < 2 + np.cos(angle)][:n_points]
    around = rng.uniform(0, 2 * np.pi, n_points)
    radius = 2 + np.cos(angle)
    points = np.column_stack([radius * np.cos(around), radius * np.sin(around), np.sin(angle)])
    return points + noise * rng.normal(size=points.shape), np.cos(angle) / radius


def ball(n_points, dimension, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_points, dimension))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points * rng.uniform(size=(n_points, 1)) ** (1 / dimension)


@pytest.fixture(scope="module")
def bent():
    points, truth = torus(900)
    graph, map_ = made(points)
    return points, truth, graph, map_, hw.curvature(points, graph, map_)


@pytest.fixture(scope="module")
def small():
    points, truth = torus(500)
    graph, map_ = made(points)
    return points, truth, graph, map_, hw.curvature(points, graph, map_, **QUICK)


# ---- the walk ----


def rows_of(graph, t):
    n_cells = len(graph.degrees)
    weights = scipy.sparse.csr_array((graph.weights, graph.indices, graph.indptr), shape=(n_cells, n_cells)).toarray()
    return np.linalg.matrix_power(weights / weights.sum(axis=1, keepdims=True), t)


def walked(graph, places, t=4, most_lost=0.0, volume=None, ball=10):
    volume = np.ones(len(places)) if volume is None else volume
    with compute.workers("threads", 2) as workers:
        return walk(graph, volume, places, t, ball, most_lost, workers)


def test_rows_of_the_walk_equal_dense_powers():
    points, _ = torus(300)
    graph, _ = made(points)
    volume, rows, pi = np.random.default_rng(0).uniform(1, 2, 300), rows_of(graph, 4), graph.stationary
    found = walked(graph, points, volume=volume)
    logs = np.log(np.where(rows > 0, rows, 1))
    np.testing.assert_allclose(found.entropy, -(rows * (logs - np.log(volume))).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.mixing, (rows * (logs - np.log(pi))).sum(axis=1), atol=1e-6)
    np.testing.assert_array_equal(found.reached, (rows > 0).sum(axis=1))
    assert np.abs(found.lost).max() == 0  # probabilities are float32
    for row in (0, 17, 299):
        near = np.argsort(((points - points[row]) ** 2).sum(axis=1))
        near = near[rows[row, near] > 0][:10]
        np.testing.assert_allclose(found.laziness[row], rows[row, near].mean(), rtol=1e-6)


def test_what_is_dropped_is_told_and_bounds_the_error():
    points, _ = torus(1500)
    graph, _ = made(points)
    whole, cut = (walked(graph, points, t=8, most_lost=lost) for lost in (0.0, 0.02))
    assert 0 < cut.lost.max() < 0.03
    assert (cut.reached < whole.reached).mean() > 0.9
    assert np.abs(cut.entropy - whole.entropy).max() < cut.lost.max() * np.log(1500)


def test_a_walk_at_rest_ends_before_its_time():
    points, _ = torus(300)
    graph, _ = made(points)
    found = walked(graph, points, t=10**9)
    np.testing.assert_allclose(found.mixing, 0, atol=1e-6)


def test_a_ball_larger_than_what_is_reached_has_no_value():
    points, _ = torus(300)
    graph, _ = made(points)
    found = walked(graph, points, t=1, ball=290)
    assert np.isnan(found.laziness).all()


# ---- surfaces ----


def fitted(points, at, width, dimension):
    """Surfaces at some points, offered all others."""
    others = [np.delete(points, place, axis=0) for place in at]
    order = [np.argsort(((other - points[place]) ** 2).sum(1)) for other, place in zip(others, at, strict=True)]
    around = np.stack([other[near] for other, near in zip(others, order, strict=True)])
    return surface(points[at], around, np.ones(around.shape[:2], bool), width, dimension)


def test_a_quadric_s_curvature_is_that_of_the_gauss_equation():
    rng = np.random.default_rng(0)
    flat = np.concatenate([np.zeros((1, 3)), rng.uniform(-0.05, 0.05, size=(300, 3))])
    first, second = (rng.normal(size=(3, 3)) for _ in range(2))
    forms = [form + form.T for form in (first, second)]
    points = np.column_stack([flat, *(np.einsum("ni,ij,nj->n", flat, form, flat) / 2 for form in forms)])
    truth = sum(np.trace(form) ** 2 - (form**2).sum() for form in forms) / 6
    found = fitted(points, [0], 200, 3)
    np.testing.assert_allclose(found.curvature, truth, rtol=0.02)


@pytest.mark.parametrize(("dimension", "radius"), [(2, 1.0), (2, 3.0), (3, 1.0)])
def test_a_sphere_has_one_over_the_square_of_its_radius(dimension, radius):
    points = np.random.default_rng(0).normal(size=(30_000, dimension + 1))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    found = fitted(points, np.arange(5), 60, dimension)
    np.testing.assert_allclose(found.curvature, radius**-2, rtol=0.05)


def test_a_cylinder_is_flat():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 3000)
    points = np.column_stack([np.cos(angle), np.sin(angle), rng.uniform(-3, 3, 3000)])
    found = fitted(points, np.flatnonzero(np.abs(points[:, 2]) < 1)[:20], 60, 2)
    np.testing.assert_allclose(found.curvature, 0, atol=0.02)


def test_noise_does_not_bend_a_plane_and_errors_are_as_large_as_they_say():
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-1, 1, size=(4000, 2)), 0.05 * rng.normal(size=(4000, 3))])
    inside = np.flatnonzero(np.abs(points[:, :2]).max(axis=1) < 0.6)[:600]
    found = fitted(points, inside, 200, 2)
    score = found.curvature / np.sqrt(found.variance)
    assert abs(np.mean(score)) < 0.3
    assert 0.6 < np.std(score) < 1.4
    np.testing.assert_allclose(np.median(found.noise), 0.05, rtol=0.1)


def test_an_edge_is_lopsided_and_the_middle_is_not():
    points = np.random.default_rng(0).uniform(-1, 1, size=(4000, 2))
    points = np.column_stack([points, np.zeros(4000)])
    points[0], points[1] = (0, 1, 0), (0, 0, 0)
    found = fitted(points, [0, 1], 60, 2)
    np.testing.assert_allclose(found.lopsided[0], 1, atol=0.2)
    assert found.lopsided[1] < 0.4


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_centre_of_a_half_ball_is_where_points_say(dimension):
    points = ball(200_000, dimension)
    weight = (1 - (points**2).sum(axis=1)) ** 2
    expected = (weight * np.abs(points[:, 0])).sum() / weight.sum()
    np.testing.assert_allclose(_edge_centre(dimension), expected, rtol=0.02)


def test_the_widest_gap_is_where_eigenvalues_fall_most():
    dimension, gap = widest_gap(np.array([[5.0, 4, 0.1, 0.09], [3, 0.1, 0.05, 0]]))
    np.testing.assert_array_equal(dimension, [2, 3])
    np.testing.assert_allclose(gap[0], np.log(40))


# ---- both together ----


def test_curvature_of_a_torus(bent):
    _, truth, _, _, found = bent
    assert np.corrcoef(found.curvature, truth)[0, 1] > 0.99
    assert np.corrcoef(found.diffusion, truth)[0, 1] > 0.95
    assert np.corrcoef(found.laziness, truth)[0, 1] > 0.75
    np.testing.assert_allclose(np.median(found.curvature), np.median(truth), atol=0.03)
    assert list(found.chosen) == [2, found.scales[0]]
    assert (found.reason == 0).all()
    assert (found.dimension == 2).mean() > 0.95
    assert found.boundary.mean() < 0.05


def test_noise_is_seen_through():
    points, truth = torus(900, noise=0.2)
    graph, map_ = made(points)
    found = hw.curvature(points, graph, map_, **QUICK)
    assert np.corrcoef(found.curvature, truth)[0, 1] > 0.85
    assert found.chosen[1] > found.scales[2]
    error = np.abs(found.curvature - truth) / found.uncertainty
    assert 0.2 < np.median(error) < 3


def test_the_flat_sample_is_flat(bent):
    found = bent[-1]
    assert len(found.null) > 500
    assert np.abs(np.percentile(found.null, [5, 95])).max() < 0.02
    assert (np.abs(found.curvature) > 0.05).mean() > 0.5


def test_where_distances_are_noise_there_is_no_flat_sample(caplog):
    points = np.column_stack([torus(300)[0], np.random.default_rng(0).normal(size=(300, 20))])
    graph, map_ = made(points)
    found = hw.curvature(points, graph, map_, dimension=2)
    assert len(found.null) == 0
    assert "distances between cells are mostly noise" in caplog.text


def test_a_sphere_bends_up_a_saddle_down_and_a_plane_not():
    flat = 0.7 * ball(800, 2)
    flat[0] = 0
    heights = {1: -(flat**2).sum(axis=1) / 2, -1: (flat[:, 0] ** 2 - flat[:, 1] ** 2) / 2, 0: np.zeros(len(flat))}
    for sign, height in heights.items():
        points = np.column_stack([flat, height]) + 0.002 * np.random.default_rng(1).normal(size=(800, 3))
        graph, map_ = made(points)
        found = hw.curvature(points, graph, map_, **QUICK)
        score = found.curvature[0] / found.uncertainty[0]
        assert (np.sign(score) if abs(score) > 3 else 0) == sign


def test_where_halves_agree_on_nothing_edges_that_the_walk_sees_bend_nothing():
    rng = np.random.default_rng(0)
    walked = np.where(rng.uniform(size=1000) < 0.3, 3.0, 1.0)  # as of cells at an edge, and of the others
    quadric = 0.01 * rng.normal(size=1000)
    halves = Halves(np.arange(1000), [100], 0.01 * rng.normal(size=(2, 1, 1000)))
    assert not halves.agree()
    flat, tilted = (_line(walked, quadric, halves, (2, 100), founded) for founded in (False, True))
    assert (np.abs(flat.values) < 2 * np.sqrt(flat.variance)).all()
    assert np.abs(tilted.values).min() > 10 * np.abs(flat.values).max()


def test_estimators_are_the_fields_of_their_names(small):
    points, _, graph, map_, combined = small
    fields = {"diffusion": "diffusion", "quadric": "quadric", "pointwise": "laziness"}
    for estimator, field in fields.items():
        found = hw.curvature(points, graph, map_, estimator=estimator, **QUICK)
        np.testing.assert_array_equal(found.curvature, getattr(combined, field))
    assert np.isnan(found.uncertainty).all()


def test_threads_blocks_and_files_change_no_byte(small, tmp_path):
    points, _, graph, map_, found = small
    other = hw.curvature(points, graph, map_, threads=1, block_cells=100, scratch=tmp_path, **QUICK)
    for name in ("curvature", "uncertainty", "diffusion", "laziness", "boundary"):
        np.testing.assert_array_equal(getattr(other, name), getattr(found, name))


def test_another_seed_draws_another_sample(small):
    points, _, graph, map_, found = small
    other = hw.curvature(points, graph, map_, seed=1, **QUICK)
    assert not np.array_equal(other.agreement, found.agreement)
    assert np.corrcoef(other.curvature, found.curvature)[0, 1] > 0.95


def test_the_ball_and_the_network_s_places_count(small):
    points, _, graph, map_, found = small
    wide = hw.curvature(points, graph, map_, ball=100, **QUICK)
    assert (wide.laziness < found.laziness).mean() > 0.8
    network = SimpleNamespace(coordinates=points[:, ::-1])
    placed = hw.curvature(points, graph, network, **QUICK)
    # Cells are grouped by their places: other rows are pushed side by side, and drop other cells.
    np.testing.assert_allclose(placed.curvature, found.curvature, rtol=1e-3, atol=1e-3)
    assert not np.array_equal(placed.laziness, found.laziness)


def test_many_cells_walk_on_every_fourth_neighbour(bent, monkeypatch):
    points, truth, graph, map_, whole = bent
    monkeypatch.setattr(spread, "WHOLE_UP_TO", 100)
    thin = hw.curvature(points, graph, map_, **QUICK)
    assert not np.array_equal(thin.diffusion, whole.diffusion)
    assert np.corrcoef(thin.diffusion, whole.diffusion)[0, 1] > 0.97
    assert np.corrcoef(thin.diffusion, truth)[0, 1] > 0.9


def test_more_cells_still_walk_on_some_of_them(monkeypatch):
    points, truth = torus(3000)
    graph, map_ = made(points)
    whole = hw.curvature(points, graph, map_, **QUICK)
    for module in (nodes_module, import_module("heatwalk.curvature")):
        monkeypatch.setattr(module, "MANY", 1500)
    some = hw.curvature(points, graph, map_, **QUICK)
    assert some.scales[-1] <= 300
    nodes = np.sort(np.random.default_rng([0, 9]).choice(3000, 1500, replace=False))
    others = np.setdiff1d(np.arange(3000), nodes)
    for rows in (nodes, others):
        assert np.corrcoef(some.diffusion[rows], truth[rows])[0, 1] > 0.95
    # Whether a cell is a node makes no difference to what is found there.
    line = np.polyfit(truth, some.diffusion, 1)
    left = some.diffusion - np.polyval(line, truth)
    assert abs(left[nodes].mean() - left[others].mean()) < 0.1 * left.std()
    assert abs(np.median(some.diffusion) - np.median(whole.diffusion)) < 0.1


@pytest.mark.parametrize(("n_points", "noise"), [(1000, 0.0), (2000, 0.02)])
def test_a_closed_sphere_has_one_curvature_everywhere(n_points, noise):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(n_points, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points += noise * rng.normal(size=points.shape)
    found = hw.curvature(points, *made(points), **QUICK)
    # Halves do not agree on which cells bend more, and yet there is something to see.
    assert found.agreement.max() < 0.6
    assert abs(np.median(found.curvature) - 1) < 0.15
    assert abs(np.median(found.diffusion) - 1) < 0.1


@pytest.fixture
def few_nodes(monkeypatch):
    for module in (nodes_module, import_module("heatwalk.curvature")):
        monkeypatch.setattr(module, "MANY", 800)
    monkeypatch.setattr(spread, "WHOLE_UP_TO", 100)


def test_a_walk_of_one_step_has_no_gaps(few_nodes):
    points, _ = torus(1600)
    graph, map_ = made(points)
    short, long = (hw.curvature(points, graph, map_, t=t, **QUICK) for t in (1, 8))
    assert np.isfinite(short.laziness).all()
    assert abs(np.median(short.diffusion)) < 2 + abs(np.median(long.diffusion))


def test_components_and_unknown_places_among_nodes(few_nodes):
    points, truth = torus(1500)
    pieces = [100 * (1 + place) + 0.01 * np.random.default_rng(place).normal(size=(6, 3)) for place in range(4)]
    points = np.concatenate([points, *pieces])
    graph = hw.affinity(points, hw.neighbors(points, n_neighbors=5))
    assert graph.components.max() >= 4
    map_ = hw.diffusion_map(graph, n_components=8)
    assert np.isnan(map_.eigenvectors[-24:]).any()  # more modes than a piece of six has
    found = hw.curvature(points, graph, map_, **QUICK)
    assert {REASONS[code] for code in found.reason[-24:]} == {"too few cells around"}
    assert np.isnan(found.curvature[-24:]).all()
    assert np.isnan(found.diffusion[-24:]).all()
    assert np.corrcoef(found.curvature[:1500], truth)[0, 1] > 0.9
    again = hw.curvature(points, graph, map_, threads=3, block_cells=500, **QUICK)
    np.testing.assert_array_equal(again.curvature, found.curvature)


def test_cells_enter_the_walk_by_their_first_step():
    points, _ = torus(300)
    graph, _ = made(points)
    rng = np.random.default_rng(0)
    names = np.stack([rng.choice(300, 5, replace=False) for _ in range(70)])
    shares, places = rng.dirichlet(np.ones(5), size=70), rng.normal(size=(70, 3))
    with compute.workers("threads", 2) as workers:
        found = walk(graph, np.ones(300), points, 4, 10, 0.0, workers, Entry(names, shares, places))
    first = np.zeros((70, 300))
    np.put_along_axis(first, names, shares, axis=1)
    rows = first @ rows_of(graph, 3)
    np.testing.assert_allclose(found.entropy, -(rows * np.log(np.where(rows > 0, rows, 1))).sum(axis=1), rtol=1e-6)
    for row in (0, 69):
        near = np.argsort(((points - places[row]) ** 2).sum(axis=1))
        near = near[rows[row, near] > 0][:10]
        np.testing.assert_allclose(found.laziness[row], rows[row, near].mean(), rtol=1e-6)


def test_genes_go_with_curvature(small):
    points, _, graph, map_, _ = small
    values = np.random.default_rng(0).normal(size=(len(points), 4)).astype(np.float32)
    values[:, 2] += 3 * small[-1].curvature
    cells = SimpleNamespace(values=values, indptr=None, selected=np.ones(4, bool), var=pd.DataFrame(index=list("abcd")))
    found = hw.curvature(points, graph, map_, cells, **QUICK)
    assert np.argmax(np.abs(found.correlation[:, 0])) == 2
    assert found.false_discovery_rate[2, 0] < 1e-10


# ---- what has none ----


def test_a_piece_too_small_has_no_curvature_and_says_why():
    points, _ = torus(700, noise=0.2)
    points = np.concatenate([points, 100 + 0.01 * np.random.default_rng(0).normal(size=(40, 3))])
    graph, map_ = made(points)
    found = hw.curvature(points, graph, map_, **QUICK)
    assert REASONS[found.reason[-1]] == "too few cells around"
    assert np.isnan(found.curvature[-40:]).all()
    assert np.isfinite(found.curvature[:700]).mean() > 0.99


def test_two_clouds_that_are_the_same_bend_the_same():
    points, truth = torus(500)
    both = np.concatenate([points, points + np.array([50, 0, 0])])
    graph, map_ = made(both)
    found = hw.curvature(both, graph, map_, **QUICK)
    np.testing.assert_allclose(found.quadric[:500], found.quadric[500:], rtol=1e-4, atol=1e-4)
    assert np.corrcoef(found.curvature[:500], truth)[0, 1] > 0.95


def test_coincident_cells_have_none():
    points, _ = torus(600)
    points[:250] = points[0]
    graph, map_ = made(points)
    found = hw.curvature(points, graph, map_, **QUICK)
    assert set(found.reason[:250]) == {2}
    assert np.isnan(found.curvature[:250]).all()
    assert np.isfinite(found.curvature).sum() > 200


def test_a_walk_that_has_forgotten_where_it_began_says_so(caplog):
    points = np.random.default_rng(0).normal(size=(200, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    graph, map_ = made(points)
    found = hw.curvature(points, graph, map_, t=100, **QUICK)
    assert set(found.reason) == {3}
    assert np.isnan(found.curvature).all()
    assert "200 of 200 cells have none: the walk is stationary" in caplog.text


def test_points_of_a_plane_have_no_normal():
    points = np.random.default_rng(0).uniform(size=(300, 2))
    graph, map_ = made(points)
    found = hw.curvature(points, graph, map_)
    assert set(found.reason) == {4}
    assert len(found.null) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "ricci"}, r"HW-CU-002 estimator: 'ricci' is unknown; use combined"),
        ({"t": 0}, r"HW-CU-003 t: 0 is no whole number above 0; set t to 8"),
        ({"ball": 1.5}, r"HW-CU-003 ball: 1.5 is no whole number"),
        ({"dimension": 7}, r"HW-CU-004 dimension: 7 is no dimension between 1 and 3"),
    ],
)
def test_options_out_of_bounds_are_refused(small, options, message):
    points, _, graph, map_, _ = small
    with pytest.raises(hw.BadInput, match=message):
        hw.curvature(points, graph, map_, **options)


def test_other_cells_and_too_few_are_refused(bent):
    points, _, graph, map_, _ = bent
    with pytest.raises(hw.BadInput, match=r"HW-CU-001 affinity: there are 899 points and a graph of 900 cells"):
        hw.curvature(points[1:], graph, map_)
    graph, map_ = made(points[:20])
    with pytest.raises(hw.BadInput, match=r"HW-CU-005 points: 20 cells in 3 dimensions are too few"):
        hw.curvature(points[:20], graph, map_)


def test_a_straight_line_has_no_curvature_and_raises_no_warning():
    points = np.column_stack([np.linspace(0, 1, 300), np.zeros(300), np.zeros(300)])
    graph, map_ = made(points)
    found = hw.curvature(points, graph, map_, **QUICK)
    assert np.isnan(found.curvature).all()
    assert set(found.reason) == {4}


# ---- the report ----


def test_the_report_warns_of_curvature_that_is_density_noise_or_missing():
    shown = {"density": 0.2, "believed": 0.9, "unknown": [], "all": 1000}
    assert concerns(shown) == concerns(None) == []
    for change, said in (
        ({"density": -0.8}, "follows the density of cells (rank correlation -0.80)"),
        ({"believed": 0.3}, "agree little on curvature (0.30)"),
        ({"unknown": [("coincident cells", 20)]}, "20 of 1,000 cells have no curvature (coincident cells)"),
    ):
        (concern,) = concerns(shown | change)
        assert said in concern.text
    assert concerns(shown | {"density": None, "unknown": [("coincident cells", 10)]}) == []
