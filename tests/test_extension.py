"""extension: the Nystrom formula in ten lines is the truth, and the published figures; trust is a p value."""

import importlib

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

import heatwalk as hw
from heatwalk import search


def ring(n_cells, seed=0, noise=0.03, dimension=4):
    """Cells on a bent circle, and where on it."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n_cells)
    points = np.zeros((n_cells, dimension))
    points[:, 0], points[:, 1], points[:, 2] = np.cos(angle), np.sin(angle), 0.3 * np.cos(2 * angle)
    return points + noise * rng.standard_normal(points.shape), angle


def dense(points, bandwidth, alpha, n_components):
    nn = hw.neighbors(points, n_neighbors=len(points) - 1, method="exact")
    aff = hw.affinity(points, nn, bandwidth=bandwidth, alpha=alpha)
    return hw.Reference(points, nn, aff, hw.diffusion_map(aff, n_components=n_components))


def sparse(points, n_neighbors=20, **options):
    nn = hw.neighbors(points, n_neighbors=n_neighbors)
    aff = hw.affinity(points, nn, bandwidth_neighbor=12)
    return hw.Reference(points, nn, aff, hw.diffusion_map(aff, n_components=4), **options)


@pytest.fixture(scope="module")
def reference():
    return sparse(ring(3000)[0])


def nystrom(points, new, bandwidth, alpha, n_components, t):
    """As published: A_mix = W_mix / sqrt(row sums, degrees), phi = A_mix phi / lambda, psi = phi / phi_0."""
    kernel = np.exp(-cdist(points, points, "sqeuclidean") / (2 * bandwidth**2))
    density = kernel.sum(axis=1)
    weights = kernel / np.outer(density, density) ** alpha
    degrees = weights.sum(axis=1)
    values, vectors = np.linalg.eigh(weights / np.sqrt(np.outer(degrees, degrees)))
    values, vectors = values[::-1][: n_components + 1], vectors[:, ::-1][:, : n_components + 1]
    mixed = np.exp(-cdist(new, points, "sqeuclidean") / (2 * bandwidth**2))
    mixed /= np.outer(mixed.sum(axis=1), density) ** alpha
    mixed /= np.sqrt(np.outer(mixed.sum(axis=1), degrees))
    phi = mixed @ vectors / values
    return (phi[:, 1:] / phi[:, :1]) * values[1:] ** t


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("t", [1, 7])
def test_nystrom_is_the_published_formula(alpha, t):
    points, new = ring(300)[0], ring(50, seed=1)[0]
    found = hw.extension(dense(points, 0.4, alpha, 3), new, t=t)
    expected = nystrom(points, new, 0.4, alpha, 3, t)
    signs = np.sign((found.coordinates * expected).sum(axis=0))
    np.testing.assert_allclose(found.coordinates * signs, expected, rtol=2e-5, atol=2e-6)  # kept in single precision


def test_the_reference_s_own_cells_stay_where_they_are():
    points = ring(300)[0]
    reference = dense(points, 0.4, 1.0, 3)
    found = hw.extension(reference, points, t=2)
    expected = np.asarray(reference.map.eigenvectors) * np.asarray(reference.map.eigenvalues) ** 2
    np.testing.assert_allclose(found.coordinates, expected, rtol=1e-5, atol=1e-6)


def curve(name):
    from sklearn.datasets import make_s_curve, make_swiss_roll

    if name == "helix":
        angle = np.random.RandomState(123).uniform(0, 2 * np.pi, 2000)
        return np.column_stack([np.cos(angle), np.sin(2 * angle), np.sin(3 * angle)])
    return {"s_curve": make_s_curve, "swiss_roll": make_swiss_roll}[name](2000, random_state=123)[0]


@pytest.mark.parametrize(
    ("name", "quantile", "published"),
    [("helix", 0.03, 0.01938), ("s_curve", 0.005, 0.09777), ("swiss_roll", 0.005, 0.11109)],
)
def test_published_errors_of_nystrom_on_the_test_half(name, quantile, published):
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(curve(name), test_size=0.5, random_state=123)
    bandwidth = np.quantile(pdist(train), quantile)
    found = hw.extension(dense(train, bandwidth, 1.0, 2), test, t=100)
    joint = dense(np.concatenate([train, test]), bandwidth, 1.0, 2).map
    expected = (np.asarray(joint.eigenvectors) * np.asarray(joint.eigenvalues) ** 100)[1000:]
    assert hw.distance_error(found.coordinates.astype(float), expected)[0] == pytest.approx(published, abs=6e-6)


def test_a_row_on_a_sparse_graph_with_bandwidths_of_its_own(reference):
    new = ring(40, seed=2)[0]
    found, points = hw.extension(reference, new), reference.points
    distances = cdist(new, points)
    near = np.argsort(distances, axis=1)[:, :20]
    distances = np.take_along_axis(distances, near, 1)
    kernel = np.exp(-(distances**2) / (2 * (distances[:, 11:12] / 2) * reference.affinity.bandwidths[near]))
    rows = kernel / reference.affinity.density[near]  # alpha is 1
    expected = np.einsum("ij,ijk->ik", rows / rows.sum(axis=1, keepdims=True), reference.map.eigenvectors[near])
    np.testing.assert_allclose(found.coordinates, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["nystrom", "landmark"])
def test_new_cells_land_beside_cells_from_the_same_place(method):
    points, angle = ring(4000)
    reference = sparse(points[:3500])
    found = hw.extension(reference, points[3500:], method=method, landmarks=800)
    expected = np.asarray(reference.map.eigenvectors) * np.asarray(reference.map.eigenvalues)
    apart = np.abs(np.angle(np.exp(1j * (angle[3500:, None] - angle[:3500]))))
    twin = expected[apart.argmin(axis=1)]
    away = np.linalg.norm(found.coordinates[:, :2] - twin[:, :2], axis=1)  # of 1.4, the radius of the circle
    assert np.median(away) < 0.04
    assert away.max() < 0.4
    sizes = [np.linalg.norm(here[:, :2], axis=1).mean() for here in (found.coordinates, twin)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_trust_is_a_p_value_of_cells_like_the_reference_s_and_small_elsewhere(reference):
    alike = hw.extension(reference, ring(4000, seed=3)[0])
    for threshold in (0.05, 0.2, 0.5):
        share = (alike.trust <= threshold).mean()
        # Of 300 cells set aside and 4,000 new ones: two standard errors of both.
        assert abs(share - threshold) < 2 * np.sqrt(threshold * (1 - threshold) * (1 / 300 + 1 / 4000))
    centre = hw.extension(reference, 0.1 * np.random.default_rng(0).standard_normal((50, 4)))
    assert centre.trust.max() < 0.01
    far = hw.extension(reference, np.full((1, 4), 1e6))
    assert np.isfinite(far.coordinates).all()
    assert far.trust[0] == pytest.approx(1 / 301)


def test_a_split_of_the_reference_calibrates_trust():
    points = ring(1000)[0]
    split = np.zeros(1000, np.uint8)
    split[::4] = 1
    found = hw.extension(sparse(points, split=split), np.full((1, 4), 50.0))
    assert found.trust[0] == pytest.approx(1 / 251)


def measured(n_cells, seed, markers=0):
    """Cells on a ring in 3 of 30 genes, deeper ones with less noise; `markers`: genes that the ring has nothing of."""
    rng = np.random.default_rng(seed)
    depth = np.exp(rng.normal(0, 0.5, n_cells))
    values = np.zeros((n_cells, 30))
    values[:, :3] = ring(n_cells, seed, 0, 3)[0]
    values += 0.1 * rng.standard_normal(values.shape) / np.sqrt(depth)[:, None]
    values[:, 30 - markers :] += 0.5
    return values[:, :4], hw.Unexplained((values[:, 4:] ** 2).sum(axis=1), depth)


@pytest.fixture(scope="module")
def with_the_rest():
    points, rest = measured(1500, 0)
    return sparse(points, split=(np.arange(1500) % 5 == 0).astype(np.uint8))._replace(unexplained=rest)


def test_what_components_leave_finds_cells_with_markers_of_their_own(with_the_rest):
    points, rest = measured(600, 1)
    alike = hw.extension(with_the_rest, points, rest).trust
    for threshold in (0.05, 0.5):  # two binomial standard errors, of both samples
        spread = 2 * np.sqrt(threshold * (1 - threshold) * (1 / 600 + 1 / 300))
        assert abs((alike <= threshold).mean() - threshold) < spread
    points, rest = measured(600, 2, markers=3)
    assert (hw.extension(with_the_rest, points, rest).trust <= 0.05).mean() > 0.9
    assert (hw.extension(with_the_rest, points).trust <= 0.05).mean() < 0.1


def test_depth_alone_makes_no_cell_new(with_the_rest):
    points, rest = measured(2000, 3)
    unknown = rest._replace(depth=np.full(2000, 1.0))
    blind = with_the_rest._replace(unexplained=with_the_rest.unexplained._replace(depth=np.full(1500, 1.0)))
    found = [hw.extension(*given) for given in ((with_the_rest, points, rest), (blind, points, unknown))]
    shallow = rest.depth < np.quantile(rest.depth, 0.25)
    told, untold, by_place = ((of.trust[shallow] <= 0.1).mean() for of in (*found, hw.extension(blind, points)))
    assert told < by_place + 0.02  # whose noise depends on depth too
    assert told < untold - 0.1


def test_the_novelty_equals_its_dense_twin(with_the_rest):
    points, rest = measured(50, 4, markers=1)
    base, known, aside = with_the_rest.points, with_the_rest.unexplained, np.asarray(with_the_rest.split) == 1
    rows = np.flatnonzero(~aside)[:: -(-int((~aside).sum()) // 1000)]
    near = base[np.asarray(with_the_rest.neighbors.indices)[rows, :15]]
    between = ((base[rows] - near.mean(axis=1)) ** 2).mean(axis=0) * 15 / 16
    every = np.unique(np.append(rows, np.asarray(with_the_rest.neighbors.indices)[rows, :15]))
    shares = np.clip(1 - between / base[every].var(axis=0), 0, 1)
    assert shares[:3].min() > 0.8
    assert shares[3] < shares[:3].min()

    def length(place, squared):
        return np.log(squared + (place**2 * (1 - shares**2)).sum(axis=1)) / 2

    powers = np.polyfit(np.log(known.depth[aside]), length(base, known.squared)[aside], 2)
    spread = (length(base, known.squared) - np.polyval(powers, np.log(known.depth)))[aside].std()

    def near_ones(place, own):  # of those that a point is placed by, what is not set aside
        apart = cdist(place, base)
        if own:
            np.fill_diagonal(apart, np.inf)
        found = []
        for row, point in zip(np.argsort(apart, axis=1)[:, :20], place, strict=True):
            row = row[~aside[row]]
            close = np.linalg.norm((base[row] - point) * shares, axis=1)
            order = np.argsort(close)[:15]
            found.append((close[order], row[order]))
        return found

    radius = np.array([np.log(close[-1]) for close, _ in near_ones(base, True)])

    def by_distance(found):
        return np.array([np.log(close[-1]) - 2 / 3 * radius[row].mean() for close, row in found])

    scale = by_distance(near_ones(base, True))[aside].std()
    left = (length(points, rest.squared) - np.polyval(powers, np.log(rest.depth))) / spread
    expected = by_distance(near_ones(points, False)) + scale * left
    np.testing.assert_allclose(hw.extension(with_the_rest, points, rest).novelty, expected, rtol=1e-4, atol=1e-4)


def test_labels_are_carried_over_with_their_share(reference):
    angle = ring(3000)[1]
    side = np.where(np.sin(angle) > 0, "left", "right")
    new, new_angle = ring(500, seed=4)
    new = np.concatenate([new, np.zeros((1, 4))])
    found = hw.extension(reference._replace(labels={"side": side}), new, transfer=["side"])
    expected = np.where(np.sin(new_angle) > 0, "left", "right")
    inside = (np.abs(np.sin(new_angle)) > 0.2) & (found.trust[:-1] >= 0.05)
    assert (found.labels["side"].to_numpy()[:-1][inside] == expected[inside]).all()
    assert found.labels["side"].iloc[-1] == "unassigned"
    assert list(found.labels["side"].cat.categories) == ["left", "right", "unassigned"]
    assert (found.labels["side"][:-1][found.trust[:-1] < 0.05] == "unassigned").all()
    assert found.probability["side"][:-1][inside].mean() > 0.99
    border = np.abs(np.sin(new_angle)) < 0.02
    assert found.probability["side"][:-1].min() >= 0.5
    assert found.probability["side"][:-1][border].mean() < 0.85


def test_cells_without_a_label_carry_none_over(reference):
    angle, (new, new_angle) = ring(3000)[1], ring(500, seed=4)
    labels = np.where(np.sin(angle) > 0, "left", "unassigned").astype(object)
    labels[np.cos(angle) > 0.9] = None
    found = hw.extension(reference._replace(labels={"side": labels}), new, transfer=["side"], min_trust=0.0)
    far = np.sin(new_angle) < -0.5
    assert (found.labels["side"].to_numpy()[far] == "unassigned").all()
    assert (found.probability["side"][far] == 0).all()
    beside = (np.sin(new_angle) > 0) & (np.cos(new_angle) < 0.85) & (np.sin(new_angle) > 0.2)
    assert (found.labels["side"].to_numpy()[beside] == "left").all()
    assert (found.probability["side"][beside] == 1).all()


def test_labels_of_whole_numbers_have_no_point_and_many_labels_are_counted_in_parts(reference, monkeypatch):
    labels = np.arange(3000.0) // 10
    labels[5] = np.nan
    reference, new = reference._replace(labels={"clone": labels}), ring(60, seed=4)[0]
    whole = hw.extension(reference, new, transfer=["clone"])
    assert "17" in whole.labels["clone"].cat.categories
    monkeypatch.setattr(importlib.import_module("heatwalk.extension"), "_VOTES", 1000)
    parts = hw.extension(reference, new, transfer=["clone"])
    assert (parts.labels["clone"] == whole.labels["clone"]).all()
    np.testing.assert_array_equal(parts.probability, whole.probability)


def test_landmarks_in_pieces_keep_to_the_piece_of_the_cell():
    points = ring(1200)[0]
    both = np.concatenate([points, points[:60] + 20])
    reference, new = sparse(both), ring(50, seed=6)[0] + 20
    near = hw.extension(reference, new, method="nystrom")
    for landmarks in (40, 1260):
        found = hw.extension(reference, new, method="landmark", landmarks=landmarks)
        np.testing.assert_array_equal(found.component, near.component)
        known = np.isfinite(found.coordinates).all(axis=1)
        assert known.all() or landmarks == 40
    assert np.median(np.abs(found.coordinates - near.coordinates)) < 0.3  # of modes of size 1, with all as landmarks


def test_auto_takes_the_method_of_the_map(reference):
    new = ring(20, seed=9)[0]
    one, other = (hw.extension(reference, new, method=method).coordinates for method in ("auto", "nystrom"))
    np.testing.assert_array_equal(one, other)


def test_components_keep_to_themselves():
    points = ring(800)[0]
    both = np.concatenate([points, points[:300] + 20])
    reference = sparse(both)
    assert len(np.unique(reference.affinity.components)) == 2
    found = hw.extension(reference, np.concatenate([ring(20, seed=5)[0], ring(20, seed=6)[0] + 20]))
    np.testing.assert_array_equal(found.component, np.repeat([0, 1], 20))
    for rows, cells, label in ((slice(0, 20), slice(0, 800), 0), (slice(20, 40), slice(800, 1100), 1)):
        own = np.asarray(reference.map.eigenvectors)[cells] * np.asarray(reference.map.eigenvalues)[label]
        assert (cdist(found.coordinates[rows], own).min(axis=1) < 0.3).all()  # of modes of size 1


def test_search_by_lists_finds_what_exact_search_finds(reference, monkeypatch, tmp_path):
    new = ring(700, seed=7)[0]
    expected = hw.extension(reference, new)
    monkeypatch.setattr(search, "_EXACT_UP_TO", 100)
    for options in ({}, {"scratch": tmp_path}, {"threads": 3}):
        found = hw.extension(reference, new, **options)
        off = np.abs(found.coordinates - expected.coordinates).max(axis=1)
        assert (off < 1e-6).mean() > 0.85
        assert off.max() < 0.1
        assert (found.trust == expected.trust).mean() > 0.85  # at a recall of .995, one row in ten lacks a neighbour


@pytest.mark.parametrize("method", ["nystrom", "landmark"])
def test_no_partition_changes_a_coordinate(reference, monkeypatch, method):
    new = ring(300, seed=8)[0].astype(np.float32)
    expected = hw.extension(reference, new, method=method, landmarks=500)
    monkeypatch.setattr(importlib.import_module("heatwalk.extension"), "_POINTS", 1)
    found = hw.extension(reference, new, method=method, landmarks=500, block_cells=7, threads=3)
    for one, other in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(one, other)


ERRORS = {
    "HW-EX-001 method: 'nearest' is unknown; use auto": {"method": "nearest"},
    "HW-EX-002 method: 'network' cannot use a DiffusionMap": {"method": "network"},
    "HW-EX-003 points: points have shape \\(5, 3\\), the reference has 3000 cells of 4": {"points": np.zeros((5, 3))},
    "HW-EX-003 points: points have shape \\(0, 4\\)": {"points": np.zeros((0, 4))},
    "HW-EX-004 t: 0 is no whole number": {"t": 0},
    "HW-EX-005 landmarks: 1 is below 2": {"landmarks": 1},
    "HW-EX-006 min_trust: 1.5 is no share": {"min_trust": 1.5},
    "HW-EX-007 transfer: 'type' holds numbers, not labels": {"labels": {"type": [0.5] * 3000}, "transfer": ["type"]},
    "HW-EX-009 min_trust: min_trust is 0.001, and no trust by 300 cells": {"min_trust": 0.001},
    "HW-EX-007 transfer: type: 7 labels for 3000 cells": {"labels": {"type": ["a"] * 7}, "transfer": ["type"]},
    "HW-EX-007 transfer: type: no cell of the reference": {"labels": {"type": [None] * 3000}, "transfer": ["type"]},
    "HW-EX-007 transfer: the reference has no labels 'type'; use some of: kind": {
        "labels": {"kind": ["a"] * 3000},
        "transfer": ["type"],
    },
    "HW-EX-010 unexplained: there are 5 squared lengths and 4 depths for 5 points": {
        "unexplained": hw.Unexplained(np.ones(5), np.ones(4))
    },
    "HW-EX-008 points: 1 new points are not finite, the first in row 3": {"points": np.diag([0, 0, 0, np.nan])},
}


@pytest.mark.parametrize("message", ERRORS)
def test_bad_input_is_one_clear_line(reference, message):
    options = {"points": np.zeros((5, 4)), "labels": None, **ERRORS[message]}
    reference = reference._replace(labels=options.pop("labels"))
    with pytest.raises(hw.BadInput, match=message):
        hw.extension(reference, options.pop("points"), **options)
