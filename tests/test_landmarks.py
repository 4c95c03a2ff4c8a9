"""landmarks: Ritz values from below that close in on the exact ones, true residuals, and an error counted again."""

import re
import sys

import numpy as np
import pytest
import scipy.sparse

import heatwalk as hw
from heatwalk import chebyshev, compute, conjugate, krylov, landmarks
from heatwalk.affinity import Affinity
from heatwalk.diffusion_map import DENSE, KRYLOV, LANDMARKS
from heatwalk.krylov import Operator

stage = sys.modules["heatwalk.diffusion_map"]

N_CELLS = 2000


def graph_of(points, n_neighbors=20):
    return hw.affinity(points, hw.neighbors(points, n_neighbors=n_neighbors))


def dense_conjugate(graph):
    n_cells = len(graph.degrees)
    matrix = np.zeros((n_cells, n_cells))
    rows = np.repeat(np.arange(n_cells), np.diff(graph.indptr))
    root = np.sqrt(graph.degrees)
    matrix[rows, graph.indices] = graph.weights / (root[rows] * root[graph.indices])
    return matrix


@pytest.fixture(scope="module")
def sheet():
    """A bent sheet in file order of one side, so that cells that follow each other are near."""
    points = np.random.default_rng(0).uniform(size=(N_CELLS, 2)) * [4, 1]
    points = points[np.argsort(points[:, 0])]
    return graph_of(np.column_stack([np.cos(points[:, 0]), np.sin(points[:, 0]), points[:, 1]]))


@pytest.fixture(scope="module")
def exact(sheet):
    return hw.diffusion_map(sheet, n_components=6)


@pytest.mark.parametrize("number", [60, 200, 600])
def test_ritz_values_are_close_to_the_eigenvalues_and_never_above(sheet, exact, number):
    found = hw.diffusion_map(sheet, n_components=6, landmarks=number)
    assert found.solver == [LANDMARKS]
    assert (found.eigenvalues <= exact.eigenvalues + 1e-12).all()
    np.testing.assert_allclose(1 - found.eigenvalues, 1 - exact.eigenvalues, rtol=0.05)


def test_more_landmarks_are_nearer(sheet, exact):
    errors = [
        np.abs(hw.diffusion_map(sheet, n_components=6, landmarks=number).eigenvalues - exact.eigenvalues).max()
        for number in (30, 300)
    ]
    assert errors[1] < errors[0]


def test_residuals_are_those_of_the_whole_graph_and_say_not_converged(sheet):
    found = hw.diffusion_map(sheet, n_components=6, landmarks=100)
    matrix, phi = dense_conjugate(sheet), found.eigenvectors * np.sqrt(sheet.stationary)[:, None]
    expected = np.linalg.norm(matrix @ phi - phi * found.eigenvalues, axis=0)
    np.testing.assert_allclose(found.residuals, expected, rtol=1e-6, atol=1e-13)
    assert not found.converged.any()


def test_vectors_are_orthonormal_under_the_stationary_distribution(sheet):
    found = hw.diffusion_map(sheet, n_components=6, landmarks=100)
    gram = found.eigenvectors.T @ (sheet.stationary[:, None] * found.eigenvectors)
    np.testing.assert_allclose(gram, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(sheet.stationary @ found.eigenvectors, 0, atol=1e-10)


def test_the_walk_between_patches_is_the_sum_over_patches(sheet):
    with compute.workers() as workers:
        matrix = conjugate.conjugate(sheet, held=True, band_edges=0, workers=workers)
        component = matrix.component(0)
        patch = landmarks.patches(component, 50, np.zeros(N_CELLS, np.int8), workers)
        between = landmarks.lumped(component, matrix.root, patch, workers)
    assert sorted(set(patch)) == list(range(50))
    dense = dense_conjugate(sheet) * np.sqrt(np.outer(sheet.degrees, sheet.degrees))  # the weights
    belongs = np.eye(50)[patch[matrix.place]]
    weights = belongs.T @ dense @ belongs
    root = np.sqrt(weights.sum(axis=1))
    whole = slice(0, 50)
    np.testing.assert_allclose(between.component.rows(whole).toarray(), weights / np.outer(root, root), atol=1e-12)
    np.testing.assert_allclose(between.root, root, rtol=1e-12)


def test_as_many_landmarks_as_cells_is_the_exact_map(sheet, exact):
    found = hw.diffusion_map(sheet, n_components=6, landmarks=N_CELLS)
    assert found.solver == [KRYLOV]
    np.testing.assert_array_equal(found.eigenvectors, exact.eigenvectors)
    assert np.isnan(exact.landmark_error)


def bytes_of(found):
    return [np.asarray(values).tobytes() for values in found]


@pytest.fixture
def small_blocks(monkeypatch):
    """So many blocks for two thousand cells as a large graph has."""
    monkeypatch.setattr(conjugate, "_BLOCK_EDGES", 3000)
    monkeypatch.setattr(landmarks, "_ROWS", 150)


def test_threads_change_no_byte(sheet, small_blocks):
    expected, *others = (hw.diffusion_map(sheet, n_components=6, landmarks=100, threads=n) for n in (1, 2, 5))
    assert all(bytes_of(found) == bytes_of(expected) for found in others)


def test_a_matrix_in_files_changes_no_byte(sheet, small_blocks, tmp_path, monkeypatch):
    options = {"n_components": 6, "landmarks": 100}
    expected = hw.diffusion_map(sheet, **options)
    monkeypatch.setattr(stage, "_FEWEST_EDGES", 2000)
    memory = stage.bytes_held(N_CELLS, 0, 7, 100) + 12 * 5000
    streamed = hw.diffusion_map(sheet, **options, memory=memory, scratch=tmp_path)
    assert bytes_of(streamed) == bytes_of(expected)
    assert not list(tmp_path.iterdir())


def test_other_processes_change_no_byte(sheet, tmp_path, monkeypatch):
    options = {"n_components": 6, "landmarks": 100}
    monkeypatch.setattr(landmarks, "_SAMPLE_CELLS", 600)
    expected = hw.diffusion_map(sheet, **options)
    monkeypatch.setattr(stage, "_SENT_FROM", 1000)
    sent = hw.diffusion_map(sheet, **options, scheduler="processes", threads=2, scratch=tmp_path)
    assert bytes_of(sent) == bytes_of(expected)


def test_the_error_is_not_known_where_the_map_of_the_part_has_not_converged(sheet, monkeypatch, caplog):
    assert hw.diffusion_map(sheet, n_components=6, landmarks=100).landmark_error > 0
    monkeypatch.setattr(krylov, "_PRODUCTS", 1)
    monkeypatch.setattr(stage, "_DENSE_INSTEAD_UP_TO", 0)
    assert np.isnan(hw.diffusion_map(sheet, n_components=6, landmarks=100).landmark_error)
    assert "the error of landmarks is not known" in caplog.text


def test_memory_is_foreseen_with_the_walk_between_patches(sheet):
    assert (
        stage.bytes_held(10**6, 0, 16, 2000) < stage.bytes_held(10**6, 0, 16) == stage.bytes_held(10**6, 0, 16, 10**6)
    )
    assert stage.bytes_held(10**6, 0, 16, 200_000) > stage.bytes_held(10**6, 0, 16)
    memory = stage.bytes_held(N_CELLS, 0, 7, 100)
    with pytest.raises(hw.OutOfResources, match="HW-RS-004 diffusion_map") as caught:
        hw.diffusion_map(sheet, n_components=6, landmarks=100, memory=memory)
    enough = float(re.search(r"set memory to ([0-9.]+)GB or more", str(caught.value))[1])
    hw.diffusion_map(sheet, n_components=6, landmarks=100, memory=int(enough * 1e9))


def test_the_error_is_small_and_grows_with_fewer_landmarks(sheet):
    few, many = (hw.diffusion_map(sheet, n_components=6, landmarks=number).landmark_error for number in (20, 400))
    assert 0 < many < few
    assert many < 0.1


def test_the_error_of_a_graph_that_is_its_own_sample_is_what_distances_say(sheet, exact):
    found, generator = hw.diffusion_map(sheet, n_components=6, landmarks=100), np.random.default_rng([0, 2])
    assert generator.integers(1) == 0  # where the sample begins
    ends = sheet.order[generator.integers(N_CELLS, size=(2, 20_000))]
    distances = []
    for pairs in (exact, found):
        points = hw.coordinates(pairs.eigenvalues, pairs.eigenvectors, sheet.components)
        distances.append(np.linalg.norm(points[ends[0]] - points[ends[1]], axis=1))
    apart = distances[0] > 0
    counted = np.mean(np.abs(distances[1] - distances[0])[apart] / distances[0][apart])
    np.testing.assert_allclose(found.landmark_error, counted, rtol=1e-6)


def test_small_components_are_solved_exactly_beside_large_ones():
    rng = np.random.default_rng(3)
    graph = graph_of(np.concatenate([rng.normal(size=(1500, 2)), 100 + rng.normal(size=(60, 2))]))
    found = hw.diffusion_map(graph, n_components=4, landmarks=80)
    assert list(found.solver) == [LANDMARKS, DENSE]
    assert found.converged[1].all()


@pytest.mark.parametrize("number", [-1, 1, 7, 100.0, "many", None])
def test_too_few_landmarks_are_refused_with_the_bound(sheet, number):
    match = r"HW-DM-003 landmarks: .*neither 0 nor at least 8.*set landmarks to 0 or to 8 or more"
    with pytest.raises(hw.BadInput, match=match) as caught:
        hw.diffusion_map(sheet, n_components=6, landmarks=number)
    assert repr(number) in str(caught.value)


def test_auto_needs_landmarks_for_all_that_it_looks_at(sheet):
    with pytest.raises(hw.BadInput, match=r"HW-DM-003 landmarks: 50 is neither 0 nor at least 51"):
        hw.diffusion_map(sheet, n_components="auto", landmarks=50)
    found = hw.diffusion_map(sheet, n_components="auto", landmarks=51)
    assert found.spectrum.shape == (50,)
    assert found.eigenvectors.shape == (N_CELLS, len(found.eigenvalues))


@pytest.mark.parametrize("n_components", [1, 6])
def test_the_fewest_landmarks_give_a_map(sheet, exact, n_components):
    found = hw.diffusion_map(sheet, n_components=n_components, landmarks=n_components + 2)
    assert found.solver == [LANDMARKS]
    assert (found.eigenvalues <= exact.eigenvalues[:n_components] + 1e-12).all()
    assert np.isfinite(found.landmark_error)


def test_landmarks_are_announced_with_their_error_and_without_alarm(sheet, caplog):
    found = hw.diffusion_map(sheet, n_components=6, landmarks=100)
    text = "landmarks stand for 1 of 1 components: residuals up to {:.1e}, distances off by {:.2g} %"
    assert text.format(found.residuals.max(), 100 * found.landmark_error) in caplog.text
    assert "have not converged" not in caplog.text


def test_the_entry_of_largest_magnitude_is_positive(sheet):
    vectors = hw.diffusion_map(sheet, n_components=6, landmarks=100).eigenvectors
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(6)] > 0).all()


# ---- the parts, beside dense twins -----------------------------------------------------------------------------------


@pytest.fixture
def parts(sheet):
    """A, its component as the solver has it, and workers."""
    with compute.workers() as workers:
        matrix = conjugate.conjugate(sheet, held=True, band_edges=0, workers=workers)
        yield matrix.component(0), matrix.root, workers


def dense(component):
    return component.rows(slice(0, component.size)).toarray()


def operator_of(matrix, workers):
    def product(block, take=None):
        return take(slice(0, len(matrix)), matrix @ block) if take else matrix @ block

    return Operator(product, len(matrix), workers)


def test_eigenvectors_of_patches_carried_over_are_those_of_v_transposed_a_v(parts):
    component, root, workers = parts
    patch = landmarks.patches(component, 40, np.zeros(N_CELLS, np.int8), workers)
    between = landmarks.lumped(component, root, patch, workers)
    v = np.eye(40)[patch] * root[:, None] / between.root
    np.testing.assert_allclose(v.T @ v, np.eye(40), atol=1e-12)
    np.testing.assert_allclose(dense(between.component), v.T @ dense(component) @ v, atol=1e-12)
    values, vectors = np.linalg.eigh(dense(between.component))
    np.testing.assert_allclose(landmarks.carried(vectors, between.root, patch, root), v @ vectors, atol=1e-13)
    np.testing.assert_allclose(v @ between.root, root, rtol=1e-12)  # the trivial one
    assert (values[::-1] <= np.linalg.eigvalsh(dense(component))[::-1][:40] + 1e-12).all()


def test_every_patch_is_connected_and_of_one_level_and_holds_its_landmark(parts):
    component, _, workers = parts
    level = np.zeros(N_CELLS, np.int8)
    level[300:330], level[1200:1700], level[::97] = 1, 1, 2
    patch = landmarks.patches(component, 50, level, workers)
    steps = scipy.sparse.csr_array(dense(component) * (patch[:, None] == patch))
    n_parts, _ = scipy.sparse.csgraph.connected_components(steps)
    assert n_parts == patch.max() + 1 >= 50 + 50 + 21
    assert all(len(np.unique(level[patch == number])) == 1 for number in range(n_parts))
    singles = np.flatnonzero(level == 2)
    np.testing.assert_array_equal(np.bincount(patch)[patch[singles]], 1)


def test_a_cell_joins_the_patch_of_its_largest_entry(parts):
    component, _, workers = parts
    level, matrix = np.zeros(N_CELLS, np.int8), dense(component)
    patch = landmarks.patches(component, 50, level, workers)
    begun = np.arange(50) * N_CELLS // 50
    reached = np.flatnonzero(matrix[:, begun].max(axis=1) > 0)
    reached = np.setdiff1d(reached, begun)
    np.testing.assert_array_equal(patch[begun], np.arange(50))
    np.testing.assert_array_equal(patch[reached], matrix[reached][:, begun].argmax(axis=1))


def test_refined_pairs_are_the_ritz_pairs_of_the_filtered_span(parts):
    component, root, workers = parts
    matrix, trivial = dense(component), root / np.linalg.norm(root)
    values, vectors = np.linalg.eigh(matrix)
    start = np.linalg.qr(np.random.default_rng(0).standard_normal((N_CELLS, 12)))[0]
    polynomial = np.polynomial.chebyshev.Chebyshev.basis(
        chebyshev.damping(0.97, landmarks._AMPLIFIED).degree, domain=[-1, 0.97]
    )
    span = vectors @ (polynomial(values)[:, None] * (vectors.T @ start))
    span, _ = np.linalg.qr(span - np.outer(trivial, trivial @ span))
    ritz, rotation = np.linalg.eigh(span.T @ matrix @ span)
    found = landmarks.refined(operator_of(matrix, workers), start, trivial, 5, 0.97)
    np.testing.assert_allclose(found.values, ritz[::-1][:5], atol=1e-11)
    np.testing.assert_allclose(np.abs(np.sum(found.vectors * (span @ rotation[:, ::-1][:, :5]), axis=0)), 1, atol=1e-9)


def test_levels_are_of_the_diagonal_of_the_squared_filter(parts):
    component, _, workers = parts
    matrix = dense(component)
    values, vectors = np.linalg.eigh(matrix)
    polynomial = np.polynomial.chebyshev.Chebyshev.basis(
        chebyshev.damping(0.9, landmarks._AMPLIFIED).degree, domain=[-1, 0.9]
    )
    share = vectors**2 @ polynomial(values) ** 2
    level, products = landmarks.levels(operator_of(matrix, workers), 0.9, np.random.default_rng(0))
    assert products == 8 * chebyshev.damping(0.9, landmarks._AMPLIFIED).degree
    assert (share[level > 0] > 1.5 * share.mean()).all()
    assert (level[share < share.mean()] == 0).all()


def test_the_sample_is_the_walk_on_its_own_weights(parts, monkeypatch):
    component, root, _ = parts
    monkeypatch.setattr(landmarks, "_SAMPLE_CELLS", 300)
    first = np.random.default_rng(4).integers(N_CELLS - 300 + 1)
    part = landmarks.sample(component, root, np.random.default_rng(4))
    weights = (dense(component) * np.outer(root, root))[first : first + 300, first : first + 300]
    _, labels = scipy.sparse.csgraph.connected_components(scipy.sparse.csr_array(weights))
    kept = labels == np.bincount(labels).argmax()
    weights = weights[kept][:, kept]
    degrees = weights.sum(axis=1)
    np.testing.assert_allclose(part.root, np.sqrt(degrees), rtol=1e-12)
    np.testing.assert_allclose(dense(part.component), weights / np.sqrt(np.outer(degrees, degrees)), atol=1e-12)


def test_the_error_is_measured_on_a_part_of_a_large_graph(sheet, monkeypatch):
    monkeypatch.setattr(landmarks, "_SAMPLE_CELLS", 900)
    seen = []
    monkeypatch.setattr(stage, "patches", lambda *a: seen.append(a[:2]) or landmarks.patches(*a))
    found = hw.diffusion_map(sheet, n_components=6, landmarks=400)
    assert [(component.size, number) for component, number in seen] == [(N_CELLS, 400)] * 2 + [(900, 225)] * 2
    assert 0 < found.landmark_error < 0.05


# ---- known surfaces, small populations, odd graphs -------------------------------------------------------------------


def circle(n_points):
    angles = 2 * np.pi * np.arange(n_points) / n_points
    return angles, np.column_stack([np.cos(angles), np.sin(angles)])


def sphere(n_points):
    z = 1 - (2 * np.arange(n_points) + 1) / n_points
    longitude = np.pi * (3 - np.sqrt(5)) * np.arange(n_points)
    return np.column_stack([np.sqrt(1 - z**2) * np.cos(longitude), np.sqrt(1 - z**2) * np.sin(longitude), z])


def test_modes_of_a_circle_are_its_waves():
    angles, points = circle(3000)
    found = hw.diffusion_map(graph_of(points), n_components=8, landmarks=150)
    waves = np.column_stack([wave(k * angles) for k in range(1, 5) for wave in (np.cos, np.sin)]) * np.sqrt(2)
    overlap = np.linalg.norm((waves.T @ found.eigenvectors).reshape(4, 2, 4, 2), axis=(1, 3)) / len(angles)
    np.testing.assert_allclose(overlap, np.sqrt(2) * np.eye(4), atol=2e-3)
    rates = (1 - found.eigenvalues) / (1 - found.eigenvalues[0])
    np.testing.assert_allclose(rates, np.repeat([1, 4, 9, 16], 2), rtol=1e-2)
    assert found.landmark_error < 0.01


def test_modes_of_a_sphere_are_its_coordinates_and_rates_go_by_degree():
    points = sphere(4000)
    found = hw.diffusion_map(graph_of(points), n_components=15, landmarks=400)
    fit = points @ np.linalg.lstsq(points, found.eigenvectors[:, :3], rcond=None)[0]
    np.testing.assert_allclose(fit, found.eigenvectors[:, :3], atol=0.05)
    rates = (1 - found.eigenvalues) / (1 - found.eigenvalues[:3].mean())
    np.testing.assert_allclose(rates, np.repeat([1, 3, 6], [3, 5, 7]), rtol=0.05)  # l (l + 1) / 2
    assert found.landmark_error < 0.01


def graph_of_weights(weights):
    weights = scipy.sparse.csr_array(weights)
    weights.sort_indices()
    degrees, n_cells = weights.sum(axis=1), weights.shape[0]
    ones = np.ones(n_cells)
    _, components = scipy.sparse.csgraph.connected_components(weights)
    arrays = weights.indptr.astype(np.int64), weights.indices.astype(np.int32), weights.data, degrees, degrees, ones
    return Affinity(*arrays, degrees / degrees.sum(), components.astype(np.int32), np.arange(n_cells))


@pytest.fixture(scope="module")
def with_few(sheet):
    """The sheet; 8 cells that hang on it by an edge of little weight; and one by another."""
    shape = (N_CELLS, N_CELLS)
    weights = scipy.sparse.csr_array((sheet.weights, sheet.indices, sheet.indptr), shape=shape)
    weights = weights / weights.data.mean()
    few = np.ones((8, 8))
    joined = scipy.sparse.block_diag([weights, few, np.ones((1, 1))], format="lil")
    for cell, hangs_on, weight in ((N_CELLS, 700, 1e-2), (N_CELLS + 8, 1503, 1e-3)):
        joined[cell, hangs_on] = joined[hangs_on, cell] = weight
    return graph_of_weights(joined)


@pytest.mark.parametrize("number", [30, 100, 400])
def test_a_population_much_smaller_than_a_patch_is_not_lost(with_few, number):
    exact = hw.diffusion_map(with_few, n_components=4)
    found = hw.diffusion_map(with_few, n_components=4, landmarks=number)
    lonely = np.abs(exact.eigenvectors).argmax(axis=0) >= N_CELLS
    assert lonely.sum() >= 2
    np.testing.assert_allclose(1 - found.eigenvalues, 1 - exact.eigenvalues, rtol=0.05)
    overlap = np.abs(found.eigenvectors.T @ (with_few.stationary[:, None] * exact.eigenvectors))
    np.testing.assert_allclose(overlap, np.eye(4), atol=0.02)


def test_without_levels_it_would_be(with_few, monkeypatch):
    exact = hw.diffusion_map(with_few, n_components=4)
    monkeypatch.setattr(stage, "levels", lambda operator, *_: (np.zeros(operator.size, np.int8), 0))
    found = hw.diffusion_map(with_few, n_components=4, landmarks=30)
    assert ((1 - found.eigenvalues) / (1 - exact.eigenvalues)).max() > 2


def test_duplicates_leave_a_null_space_and_no_trivial_part():
    points = np.repeat(np.random.default_rng(4).normal(size=(5, 2)), 150, axis=0)
    graph = hw.affinity(points, hw.neighbors(points, n_neighbors=749), bandwidth=1.0)
    exact = hw.diffusion_map(graph, n_components=12)
    for number in (14, 50, 600):
        found = hw.diffusion_map(graph, n_components=12, landmarks=number)
        assert found.solver == [LANDMARKS]
        np.testing.assert_allclose(found.eigenvalues, exact.eigenvalues, atol=1e-12)
        np.testing.assert_allclose(graph.stationary @ found.eigenvectors, 0, atol=1e-8)
        assert found.landmark_error < 1e-6


def test_cells_that_no_edge_leads_to_begin_patches(parts, monkeypatch):
    component, _, workers = parts
    level = np.arange(N_CELLS).astype(np.int8) % 100  # neighbours hardly ever share one
    patch = landmarks.patches(component, 3, level, workers)
    assert sorted(set(patch)) == list(range(patch.max() + 1))
    assert all(len(np.unique(level[patch == number])) == 1 for number in range(0, patch.max() + 1, 37))
