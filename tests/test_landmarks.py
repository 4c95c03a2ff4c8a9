"""landmarks: Ritz values from below that close in on the exact ones, true residuals, and an error counted again."""

import numpy as np
import pytest

import heatwalk as hw
from heatwalk import compute
from heatwalk.conjugate import conjugate
from heatwalk.diffusion_map import DENSE, KRYLOV, LANDMARKS
from heatwalk.landmarks import lumped, patches

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


@pytest.mark.parametrize("landmarks", [60, 200, 600])
def test_ritz_values_are_close_to_the_eigenvalues_and_never_above(sheet, exact, landmarks):
    found = hw.diffusion_map(sheet, n_components=6, landmarks=landmarks)
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
        matrix = conjugate(sheet, held=True, band_edges=0, workers=workers)
        component = matrix.component(0)
        patch = patches(component, 50, np.zeros(N_CELLS, np.int8), workers)
        between = lumped(component, matrix.root, patch, workers)
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


def test_threads_and_streaming_change_no_byte(sheet, tmp_path):
    options = {"n_components": 6, "landmarks": 100}
    one, two = (hw.diffusion_map(sheet, **options, threads=threads) for threads in (1, 2))
    for name in one._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


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


@pytest.mark.parametrize("landmarks", [-1, 1, 7])
def test_too_few_landmarks_are_refused_with_the_bound(sheet, landmarks):
    with pytest.raises(hw.BadInput, match=r"HW-DM-003 landmarks: .*at least 8.*set landmarks to 0 or to 8"):
        hw.diffusion_map(sheet, n_components=6, landmarks=landmarks)


def test_landmarks_are_announced_with_their_error(sheet, caplog):
    hw.diffusion_map(sheet, n_components=6, landmarks=100)
    assert "landmarks stand for 1 of 1 components" in caplog.text
