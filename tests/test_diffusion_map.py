"""diffusion_map: the equation on every surface, spectra that are known, a dense twin, and what happens at the edges."""

import importlib
import itertools
import re
import tracemalloc

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
from scipy.spatial.distance import cdist, pdist
from scipy.special import ive
from sklearn.datasets import make_s_curve, make_swiss_roll
from sklearn.model_selection import train_test_split

import heatwalk as hw
from heatwalk import compute, conjugate, krylov, scratch
from heatwalk.affinity import Affinity
from heatwalk.diffusion_map import DENSE, KRYLOV, NONE, profile_likelihood

stage = importlib.import_module("heatwalk.diffusion_map")  # the name in the package is the function
N_POINTS = 700  # above the size that is solved densely


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Dense eigenvalues in the tests themselves; threads of BLAS only wait for each other where others work too."""
    with compute.one_blas_thread():
        yield


def affinity(points, n_neighbors=30, **options):
    return hw.affinity(points, hw.neighbors(points, n_neighbors=n_neighbors), **options)


def full_affinity(points, bandwidth, alpha=1.0):
    """The dense kernel of the papers."""
    return affinity(points, len(points) - 1, bandwidth=bandwidth, alpha=alpha)


def markov(graph):
    """P from the weights alone, by row normalisation."""
    n_cells = len(graph.indptr) - 1
    weights = scipy.sparse.csr_array((graph.weights, graph.indices, graph.indptr), shape=(n_cells, n_cells))
    return scipy.sparse.diags_array(1 / weights.sum(axis=1)) @ weights


def dense_twin(points, bandwidth, alpha, n_components):
    """Eigenpairs by numpy.linalg.eigh of the dense symmetric conjugate, the trivial one dropped."""
    kernel = np.exp(-(cdist(points, points) ** 2) / (2 * bandwidth**2))
    density = kernel.sum(axis=1)
    weights = kernel / np.outer(density, density) ** alpha
    degrees = weights.sum(axis=1)
    values, phi = np.linalg.eigh(weights / np.sqrt(np.outer(degrees, degrees)))
    psi = phi / np.sqrt(degrees / degrees.sum())[:, None]
    return values[::-1][1 : n_components + 1], psi[:, ::-1][:, 1 : n_components + 1]


def oriented(vectors):
    """The entry of largest magnitude made positive; of several within a millionth, the first."""
    largest = (np.abs(vectors) > (1 - 1e-6) * np.abs(vectors).max(axis=0)).argmax(axis=0)
    return vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])


def circle(n_points, noise=0.0):
    angles = 2 * np.pi * np.arange(n_points) / n_points
    radius = 1 + noise * np.random.default_rng(0).normal(size=(n_points, 1))
    return angles, radius * np.column_stack([np.cos(angles), np.sin(angles)])


def fibonacci_sphere(n_points):
    """Points in golden-angle steps: close to uniform."""
    z = 1 - (2 * np.arange(n_points) + 1) / n_points
    longitude = np.pi * (3 - np.sqrt(5)) * np.arange(n_points)
    return np.column_stack([np.sqrt(1 - z**2) * np.cos(longitude), np.sqrt(1 - z**2) * np.sin(longitude), z])


def flat_torus(angles):
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def helix(n_points, seed=123):
    angles = np.random.RandomState(seed).uniform(0, 2 * np.pi, n_points)
    return np.column_stack([np.cos(angles), np.sin(2 * angles), np.sin(3 * angles)])


SURFACES = {
    "circle": lambda: circle(N_POINTS, noise=0.05)[1],
    "sphere": lambda: fibonacci_sphere(N_POINTS),
    "flat torus": lambda: flat_torus(np.random.default_rng(1).uniform(0, 2 * np.pi, (N_POINTS, 2))),
    "swiss roll": lambda: make_swiss_roll(N_POINTS, random_state=0)[0],
    "helix": lambda: helix(N_POINTS),
    "small cloud": lambda: np.random.default_rng(2).normal(size=(90, 3)),
}


@pytest.fixture(scope="module", params=SURFACES)
def surface(request):
    graph = affinity(SURFACES[request.param]())
    return graph, hw.diffusion_map(graph, n_components=12)


# ---- the equation ----------------------------------------------------------------------------------------------------


def test_every_pair_solves_p_psi_is_lambda_psi_at_every_cell(surface):
    graph, found = surface
    error = markov(graph) @ found.eigenvectors - found.eigenvectors * found.eigenvalues
    assert np.abs(error).max() < 1e-10
    assert found.converged.all()
    assert found.converged.shape == found.eigenvalues.shape == (12,)


def test_degrees_are_row_sums_of_the_weights(surface):
    graph, _ = surface
    sums = [graph.weights[a:b].sum() for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)]
    np.testing.assert_allclose(graph.degrees, sums, rtol=1e-14)


def test_eigenvectors_are_orthonormal_under_the_stationary_distribution_and_orthogonal_to_one(surface):
    graph, found = surface
    pi = graph.degrees / graph.degrees.sum()
    np.testing.assert_allclose(found.eigenvectors.T @ (pi[:, None] * found.eigenvectors), np.eye(12), atol=1e-10)
    np.testing.assert_allclose(pi @ found.eigenvectors, 0, atol=1e-10)


def test_the_trivial_pair_is_left_out_and_eigenvalues_descend(surface):
    _, found = surface
    assert found.eigenvalues[0] < 1 - 1e-6
    assert (np.diff(found.eigenvalues) <= 1e-12).all()
    assert (found.eigenvectors.std(axis=0) > 0.1).all()


def test_large_graphs_are_solved_by_lanczos_without_a_false_alarm(surface):
    graph, found = surface
    assert found.solver == [DENSE if len(graph.degrees) <= 500 else KRYLOV]


def test_residuals_are_the_norm_weighted_by_the_stationary_distribution(surface):
    graph, found = surface
    error = markov(graph) @ found.eigenvectors - found.eigenvectors * found.eigenvalues
    weighted = np.sqrt(graph.stationary @ error**2)
    np.testing.assert_allclose(found.residuals, weighted, atol=1e-13)


def test_the_entry_of_largest_magnitude_is_positive(surface):
    _, found = surface
    np.testing.assert_array_equal(found.eigenvectors, oriented(found.eigenvectors))


# ---- known answers ---------------------------------------------------------------------------------------------------


def circulant_eigenvalues(n_points, bandwidth):
    """lambda_k = sum_j k(j) cos(2 pi j k / n) / sum_j k(j), with chords |x_0 - x_j| = 2 sin(pi j / n)."""
    kernel = np.exp(-((2 * np.sin(np.pi * np.arange(n_points) / n_points)) ** 2) / (2 * bandwidth**2))
    return np.fft.fft(kernel).real / kernel.sum()


@pytest.mark.parametrize("n_points", [240, 600])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_equally_spaced_circle_has_the_eigenvalues_of_a_circulant_in_pairs(n_points, alpha):
    found = hw.diffusion_map(full_affinity(circle(n_points)[1], 0.3, alpha), n_components=8)
    expected = np.repeat(circulant_eigenvalues(n_points, 0.3)[1:5], 2)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12)


@pytest.mark.parametrize("n_points", [240, 600])
def test_circle_eigenvectors_are_waves_of_one_frequency(n_points):
    angles, points = circle(n_points)
    found = hw.diffusion_map(full_affinity(points, 0.3), n_components=8)
    for mode, psi in enumerate(found.eigenvectors.T):
        frequency = mode // 2 + 1
        waves = np.sqrt(2) * np.column_stack([np.cos(frequency * angles), np.sin(frequency * angles)])
        weights = waves.T @ psi / n_points
        np.testing.assert_allclose(waves @ weights, psi, atol=1e-9)
        np.testing.assert_allclose(weights @ weights, 1, atol=1e-10)


def test_sphere_spectrum_has_multiplicities_three_five_seven_at_the_values_of_funk_and_hecke():
    # exp((cos theta - 1) / sigma^2) has eigenvalues I_{l + 1/2}(1 / sigma^2), up to one factor.
    found = hw.diffusion_map(full_affinity(fibonacci_sphere(1000), 0.4), n_components=15)
    orders = np.repeat([1, 2, 3], [3, 5, 7])
    expected = ive(orders + 0.5, 1 / 0.4**2) / ive(0.5, 1 / 0.4**2)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=2e-4)
    gaps = -np.diff(found.eigenvalues)
    assert set(np.flatnonzero(gaps > 0.05)) == {2, 7}


def test_first_three_modes_of_the_sphere_are_its_coordinates():
    points = fibonacci_sphere(1000)
    found = hw.diffusion_map(full_affinity(points, 0.4), n_components=3)
    fit = points @ np.linalg.lstsq(points, found.eigenvectors, rcond=None)[0]
    np.testing.assert_allclose(fit, found.eigenvectors, atol=0.02)


def test_flat_torus_spectrum_is_the_product_of_two_circles():
    side = 2 * np.pi * np.arange(24) / 24
    angles = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    found = hw.diffusion_map(full_affinity(flat_torus(angles), 0.5), n_components=20)
    one = circulant_eigenvalues(24, 0.5)
    expected = np.sort(np.outer(one, one).ravel())[::-1][1:21]
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12)
    assert set(np.flatnonzero(-np.diff(found.eigenvalues) > 1e-3)) == {3, 7, 11}  # 4, 4, 4, 8 of them


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_points", [150, 620])
def test_equals_the_dense_twin(n_points, alpha):
    points = np.random.default_rng(3).normal(size=(n_points, 3)) * [3, 2, 1]
    found = hw.diffusion_map(full_affinity(points, 1.0, alpha), n_components=6)
    values, vectors = dense_twin(points, 1.0, alpha, 6)
    assert found.solver == [DENSE if n_points == 150 else KRYLOV]
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-13)
    np.testing.assert_allclose(found.eigenvectors, oriented(vectors), atol=1e-9)


ANCHORS = {  # sigma, first training point and lambda^100 of the networks' published targets (methods.md 1.4, 1.6)
    "helix": (
        3e-2,
        0.21748892708273765,
        (-0.29433047, 0.56258544, 0.62453163),
        (0.675266, 0.671397, 0.223593, 0.199635, 0.045401, 0.019372),
    ),
    "s_curve": (
        5e-3,
        0.17716898076681079,
        (0.94366295, 0.23785392, -1.33090821),
        (0.863272, 0.543912, 0.250933, 0.095011, 0.059042),
    ),
    "swiss_roll": (
        5e-3,
        1.691607613101776,
        (3.75012981, 2.49746616, -10.69438132),
        (0.729592, 0.499699, 0.260245, 0.123979, 0.083085),
    ),
}


@pytest.mark.parametrize("name", ANCHORS)
def test_published_spectra_of_deep_diffusion_maps(name):
    quantile, sigma, first, powers = ANCHORS[name]
    make = {"helix": helix, "s_curve": make_s_curve, "swiss_roll": make_swiss_roll}[name]
    points = make(2000) if name == "helix" else make(2000, random_state=123)[0]
    train, _ = train_test_split(points, test_size=0.5, random_state=123)
    np.testing.assert_allclose(train[0], first, atol=1e-8)
    bandwidth = np.quantile(pdist(train), quantile)
    np.testing.assert_allclose(bandwidth, sigma, rtol=1e-14)
    found = hw.diffusion_map(full_affinity(train, bandwidth, alpha=1.0), n_components=len(powers))
    np.testing.assert_allclose(found.eigenvalues**100, powers, rtol=0, atol=1e-6)


# ---- determinism, solvers --------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes():
    graph = affinity(SURFACES["sphere"]())
    first, second = (hw.diffusion_map(graph, seed=5) for _ in range(2))
    assert first.solver == [KRYLOV]
    assert bytes_of(first) == bytes_of(second)


def test_another_seed_gives_the_same_map():
    graph = affinity(SURFACES["helix"]())
    first, second = (hw.diffusion_map(graph, n_components=5, seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(first.eigenvectors, second.eigenvectors, atol=1e-9)


def watched(monkeypatch, module, name):
    """The results of every call of a function, collected as it is called."""
    results, function = [], getattr(module, name)

    def call(*arguments, **options):
        results.append(function(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(module, name, call)
    return results


def bytes_of(found):
    return [np.asarray(values).tobytes() for values in found]


def graph_of(weights):
    """An affinity graph with given weights, its cells in their own order."""
    weights = scipy.sparse.csr_array(weights)
    weights.sort_indices()
    degrees, n_cells = weights.sum(axis=1), weights.shape[0]
    _, components = scipy.sparse.csgraph.connected_components(weights)
    return Affinity(
        indptr=weights.indptr.astype(np.int64),
        indices=weights.indices.astype(np.int32),
        weights=weights.data,
        degrees=degrees,
        density=degrees,
        bandwidths=np.ones(n_cells),
        stationary=degrees / degrees.sum(),
        components=components.astype(np.int32),
        order=np.arange(n_cells),
    )


def hypercube(dimension):
    """The walk that stays with probability 1/2: eigenvalue 1 - k / d as often as k of d can be chosen."""
    number = np.arange(2**dimension)
    rows, columns = np.repeat(number, dimension), (number[:, None] ^ 2 ** np.arange(dimension)).ravel()
    steps = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(2**dimension,) * 2)
    return graph_of(steps + dimension * scipy.sparse.eye_array(2**dimension))


def dense_conjugate(graph):
    weights = scipy.sparse.csr_array((graph.weights, graph.indices, graph.indptr)).toarray()
    return weights / np.sqrt(np.outer(graph.degrees, graph.degrees))


def test_products_are_limited_and_what_has_not_converged_is_reported(monkeypatch, caplog):
    monkeypatch.setattr(stage, "_DENSE_INSTEAD_UP_TO", 0)
    graph = affinity(SURFACES["swiss roll"]())
    expected = hw.diffusion_map(graph, n_components=8)
    monkeypatch.setattr(krylov, "_PRODUCTS", 1)
    found = hw.diffusion_map(graph, n_components=8)
    assert found.products[0] < expected.products[0]
    assert not found.converged.all()
    np.testing.assert_array_equal(found.converged, found.residuals <= 1e-10)
    error = markov(graph) @ found.eigenvectors - found.eigenvectors * found.eigenvalues
    np.testing.assert_allclose(found.residuals, np.sqrt(graph.stationary @ error**2), rtol=1e-6, atol=1e-13)
    assert f"{(~found.converged).sum()} of 8 pairs have not converged" in caplog.text


def test_products_are_counted_for_every_component_and_none_for_a_dense_solve():
    found = hw.diffusion_map(affinity(SURFACES["small cloud"]()), n_components=5)
    assert (list(found.solver), list(found.products)) == ([DENSE], [0])
    found = hw.diffusion_map(affinity(SURFACES["sphere"]()), n_components=5)
    assert found.solver == [KRYLOV]
    assert 0 < found.products[0] < N_POINTS
    assert found.products.dtype == np.int64


@pytest.mark.parametrize("n_components", [4, 9, 14, 21])
def test_all_copies_of_an_eigenvalue_are_found_though_there_are_more_than_columns_of_a_block(n_components):
    # 10 of 0.9 and 45 of 0.8, where a Krylov space of one block holds four of each.
    graph = hypercube(10)
    found = hw.diffusion_map(graph, n_components=n_components)
    expected = np.linalg.eigvalsh(dense_conjugate(graph))[::-1][1 : n_components + 1]
    np.testing.assert_allclose(expected, np.repeat([0.9, 0.8, 0.7], [10, 45, 120])[:n_components], atol=1e-13)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12)
    assert found.converged.all()
    gram = found.eigenvectors.T @ (graph.stationary[:, None] * found.eigenvectors)
    np.testing.assert_allclose(gram, np.eye(n_components), atol=1e-10)


def test_a_torus_in_four_dimensions_has_eight_and_twenty_four_copies():
    one = scipy.sparse.csr_array(scipy.linalg.circulant([2.0, 1, 0, 0, 0, 1]))
    two = scipy.sparse.kron(one, one)
    found = hw.diffusion_map(graph_of(scipy.sparse.kron(two, two)), n_components=33)
    np.testing.assert_allclose(found.eigenvalues, np.repeat([3 / 4, 9 / 16, 27 / 64], [8, 24, 1]), atol=1e-12)
    assert found.solver == [KRYLOV]
    assert found.converged.all()


@pytest.mark.parametrize("jitter", [1e-2, 1e-3, 3e-4, 3e-5, 3e-6, 1e-8])
def test_cells_that_are_all_but_duplicates_leave_eigenvalues_of_hardly_anything(jitter):
    # Blocks are then all but dependent, and a space is all but invariant.
    rng = np.random.default_rng(4)
    points = np.repeat(rng.normal(size=(3, 2)), 250, axis=0) + jitter * rng.normal(size=(750, 2))
    graph = full_affinity(points, 1.0)
    found = hw.diffusion_map(graph, n_components=8)
    expected = np.linalg.eigvalsh(dense_conjugate(graph))[::-1][1:9]
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=0, atol=1e-12)
    gram = found.eigenvectors.T @ (graph.stationary[:, None] * found.eigenvectors)
    np.testing.assert_allclose(gram, np.eye(8), atol=1e-8)
    assert found.converged.all()


def test_no_pair_is_looked_for_where_none_is_missed():
    # A smooth kernel: eigenvalues fall to nothing within a few dozen, and rounding must not look like one of them.
    found = hw.diffusion_map(full_affinity(circle(600)[1], 0.3), n_components=8)
    assert found.products[0] < 400


@pytest.mark.parametrize("forgotten", [0, 3])
def test_a_pair_that_the_solver_is_blind_for_at_first_is_found_again(monkeypatch, forgotten):
    graph = affinity(SURFACES["swiss roll"]())
    expected = hw.diffusion_map(graph, n_components=6)
    phi = np.sqrt(graph.stationary) * expected.eigenvectors[:, forgotten]
    operator, started, looks = stage._operator, krylov._started, []

    def blind(component, workers):
        whole = operator(component, workers)

        def product(block, take=None):
            made = whole.product(block)
            if len(looks) < 2:
                made -= np.outer(phi, phi @ made)
            return made if take is None else take(slice(0, len(made)), made)

        return whole._replace(product=product)

    def look(*arguments):
        looks.append(arguments)
        return started(*arguments)

    monkeypatch.setattr(stage, "_operator", blind)
    monkeypatch.setattr(krylov, "_started", look)
    found = hw.diffusion_map(graph, n_components=6)
    assert len(looks) == 3  # the beginning, the look that found it, and the last one
    assert found.solver == [KRYLOV]
    assert found.converged.all()
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, atol=1e-12)
    np.testing.assert_allclose(found.eigenvectors, expected.eigenvectors, atol=1e-6)


def test_a_tolerance_that_nothing_meets_converges_nowhere():
    found = hw.diffusion_map(affinity(SURFACES["small cloud"]()), n_components=5, tolerance=1e-30)
    assert not found.converged.any()
    assert (found.residuals < 1e-12).all()


# ---- where the matrix is kept, in which order, and who computes ------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    """So many blocks and tasks for a few hundred cells as a large graph has."""
    monkeypatch.setattr(conjugate, "_BLOCK_EDGES", 1500)
    monkeypatch.setattr(conjugate, "_READ_EDGES", 4000)
    monkeypatch.setattr(krylov, "_ROWS", 50)
    monkeypatch.setattr(krylov, "_PARTS", 3)


@pytest.fixture(scope="module")
def roll():
    """A surface whose neighbours are listed in another order than its cells."""
    points = SURFACES["swiss roll"]()
    return hw.affinity(points, hw.neighbors(points, n_neighbors=30, method="inverted_lists"))


@pytest.fixture(params=["one component", "islands"])
def some_graph(request, roll, islands):
    return roll if request.param == "one component" else islands[2]


def memory_for(n_cells, n_computed, n_entries, n_edges=0):
    """Bytes that hold the vectors and so many entries of the matrix, of `n_edges`."""
    return stage.bytes_held(n_cells, n_edges, n_computed) + 12 * n_entries


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_matrix_in_files_gives_the_bytes_of_one_in_memory(monkeypatch, tmp_path, small_blocks, some_graph, in_folder):
    expected = hw.diffusion_map(some_graph, n_components=6)
    monkeypatch.setattr(stage, "_FEWEST_EDGES", 2000)
    kept = watched(monkeypatch, stage, "conjugate")
    memory = memory_for(len(some_graph.degrees), 7, 5000)
    found = hw.diffusion_map(some_graph, n_components=6, memory=memory, scratch=tmp_path if in_folder else None)
    assert isinstance(kept[0].values, scratch.File)
    assert isinstance(kept[0].columns, scratch.File)
    assert (kept[0].values.path.parent.parent == tmp_path) == in_folder
    assert not kept[0].values.path.exists()
    assert not list(tmp_path.iterdir())
    assert bytes_of(found) == bytes_of(expected)


def test_a_matrix_is_gathered_in_as_many_entries_as_memory_has_room_for(roll):
    n_cells, n_edges = len(roll.degrees), len(roll.indices)
    limit = stage._FEWEST_EDGES
    for n_entries in (limit, 10 * limit):
        memory = memory_for(n_cells, 7, n_entries, 100 * limit)
        held, band_edges = stage._room(n_cells, 100 * limit, 7, memory, "threads")
        assert not held
        assert limit <= band_edges <= max(limit, n_entries / 2)
    assert stage._room(n_cells, n_edges, 7, memory_for(n_cells, 7, limit), "threads")[0]
    assert stage._room(n_cells, n_edges, 7, None, "threads") == (True, n_edges)
    assert not stage._room(n_cells, n_edges, 7, None, "processes")[0]


def test_memory_that_the_vectors_do_not_fit_in_is_refused_with_both_numbers(roll):
    needed = (stage.bytes_held(N_POINTS, 0, 7) + stage.band_bytes(len(roll.indices))) / 1e9
    match = (
        rf"HW-RS-004 diffusion_map: vectors and a band of 700 cells need {needed:.2f} GB, memory is 0.12 GB; set mem"
    )
    with pytest.raises(hw.OutOfResources, match=match) as caught:
        hw.diffusion_map(roll, n_components=6, memory=120_000_000)
    enough = float(re.search(r"set memory to ([0-9.]+)GB or more", str(caught.value))[1])
    assert hw.diffusion_map(roll, n_components=6, memory=int(enough * 1e9)).converged.all()


@pytest.mark.parametrize("n_cells", [10**3, 10**6, 10**7, 10**8])
@pytest.mark.parametrize("n_computed", [2, 16, 51])
def test_the_memory_that_a_refusal_asks_for_suffices(n_cells, n_computed):
    with pytest.raises(hw.OutOfResources) as caught:
        stage._room(n_cells, 30 * n_cells, n_computed, 10**6, "threads")
    enough = float(re.search(r"set memory to ([0-9.]+)GB or more", str(caught.value))[1])
    assert not stage._room(n_cells, 10**10, n_computed, int(enough * 1e9), "threads")[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_in_which_cells_are_kept_changes_nothing(roll, seed):
    expected = hw.diffusion_map(roll, n_components=8)
    order = np.random.default_rng(seed).permutation(N_POINTS)
    found = hw.diffusion_map(roll._replace(order=order), n_components=8)
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.eigenvectors, expected.eigenvectors, rtol=0, atol=1e-8)


def test_the_sign_of_waves_whose_largest_entries_are_equal_is_that_of_the_first_cell_in_any_order():
    # Every vector of a hypercube of one mode each: entries are all 1 or -1.
    steps = np.array([[8, 4, 2, 0], [4, 8, 0, 2], [2, 0, 8, 4], [0, 2, 4, 8.0]])
    graph = graph_of(steps)
    expected = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    for order in itertools.permutations(range(4)):
        found = hw.diffusion_map(graph._replace(order=np.array(order)), n_components=3)
        np.testing.assert_allclose(found.eigenvectors, expected, atol=1e-13)


def test_any_number_of_threads_gives_the_same_bytes(small_blocks, some_graph):
    one, two, three = (bytes_of(hw.diffusion_map(some_graph, n_components=6, threads=threads)) for threads in (1, 2, 3))
    assert one == two == three


def test_blocks_of_cells_that_are_written_change_nothing(roll):
    one, other = (bytes_of(hw.diffusion_map(roll, n_components=4, block_cells=size)) for size in (64, 10_000))
    assert one == other


# ---- degenerate spectra ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_copies", [20, 150])
def test_duplicates_give_zero_eigenvalues_whose_vectors_hold_no_trivial_part(n_copies):
    # Five places, each held by many cells: 4 eigenvalues that are not 0, and a null space of all the rest.
    points = np.repeat(np.random.default_rng(4).normal(size=(5, 2)), n_copies, axis=0)
    graph = full_affinity(points, 1.0)
    found = hw.diffusion_map(graph, n_components=12)
    np.testing.assert_allclose(found.eigenvalues[4:], 0, atol=1e-12)
    np.testing.assert_allclose(graph.stationary @ found.eigenvectors, 0, atol=1e-8)
    gram = found.eigenvectors.T @ (graph.stationary[:, None] * found.eigenvectors)
    np.testing.assert_allclose(gram, np.eye(12), atol=1e-8)


def test_all_pairs_of_a_small_graph_equal_the_dense_twin():
    points = np.random.default_rng(5).normal(size=(12, 2))
    found = hw.diffusion_map(full_affinity(points, 1.0), n_components=11)
    np.testing.assert_allclose(found.eigenvalues, dense_twin(points, 1.0, 1.0, 11)[0], atol=1e-13)


def test_two_cells_have_one_pair():
    # W = [[a, b], [b, a]]: lambda = (a - b) / (a + b), psi = (1, -1).
    found = hw.diffusion_map(full_affinity(np.array([[0.0], [1.0]]), 1.0), n_components=1)
    kernel = np.exp(-0.5)
    np.testing.assert_allclose(found.eigenvalues, [(1 - kernel) / (1 + kernel)], atol=1e-15)
    np.testing.assert_allclose(found.eigenvectors, [[1], [-1]], atol=1e-15)


# ---- auto ------------------------------------------------------------------------------------------------------------


def test_auto_finds_the_split_of_a_spectrum_with_four_clusters():
    rng = np.random.default_rng(6)
    centres = np.array([[0, 0], [8, 0], [0, 8], [8, 8]])
    points = np.concatenate([centre + rng.normal(size=(60, 2)) for centre in centres])
    found = hw.diffusion_map(full_affinity(points, 2.0), n_components="auto")
    assert found.eigenvalues.shape == (3,)
    assert found.eigenvectors.shape == (240, 3)
    assert found.spectrum.shape == (50,)
    np.testing.assert_array_equal(found.spectrum[:3], found.eigenvalues)


def test_the_spectrum_holds_one_eigenvalue_more_so_that_the_gap_after_the_last_is_known():
    points = np.random.default_rng(5).normal(size=(12, 2))
    for n_components, n_computed in ((4, 5), (10, 11), (11, 11)):
        found = hw.diffusion_map(full_affinity(points, 1.0), n_components=n_components)
        assert found.eigenvalues.shape == found.residuals.shape == found.converged.shape == (n_components,)
        assert found.eigenvectors.shape == (12, n_components)
        assert found.spectrum.shape == (n_computed,)
        np.testing.assert_array_equal(found.spectrum[:n_components], found.eigenvalues)


@pytest.mark.parametrize("n_points", [2, 3, 4, 10])
def test_auto_is_never_empty(n_points):
    points = np.random.default_rng(7).normal(size=(n_points, 2))
    found = hw.diffusion_map(full_affinity(points, 1.0), n_components="auto")
    assert 1 <= len(found.eigenvalues) < n_points


def test_auto_is_not_empty_where_every_cell_is_alone():
    points = 100.0 * np.arange(5)[:, None]
    found = hw.diffusion_map(full_affinity(points, 1.0), n_components="auto")
    assert found.eigenvectors.shape == (5, 1)
    assert np.isnan(found.eigenvectors).all()


def test_profile_likelihood_of_a_spectrum_worked_by_hand():
    # Squares about the two means: 38 | 2 + 1/2 | 402/9. With n = 4 the pooled variance is squares / 2, and
    # -n/2 log(2 pi variance) - squares / (2 variance) = -2 log(pi squares) - 1.
    split, evidence = profile_likelihood(np.array([10.0, 8.0, 1.0, 0.0]))
    assert split == 2
    np.testing.assert_allclose(evidence, -2 * np.log(np.pi * np.array([38, 2.5, 402 / 9])) - 1, rtol=1e-14)


def test_profile_likelihood_takes_two_flat_levels_and_leaves_nan_out():
    assert profile_likelihood(np.array([1.0, 1.0, 0.0, 0.0, 0.0, np.nan]))[0] == 2


# ---- components ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def islands():
    """600, 40 and 2 cells and one alone, far from each other and in mixed order."""
    rng = np.random.default_rng(8)
    parts = [rng.normal(size=(600, 2)), rng.normal(size=(40, 2)), np.array([[0.0, 0], [1, 0]]), np.zeros((1, 2))]
    points = np.concatenate([part + np.array([100 * number, 0]) for number, part in enumerate(parts)])
    label = np.repeat(np.arange(4), [600, 40, 2, 1])
    order = rng.permutation(len(points))
    graph = affinity(points[order], 20, bandwidth=1.0)
    return points[order], label[order], graph, hw.diffusion_map(graph, n_components=5)


def test_components_are_numbered_by_size_and_each_has_its_own_solver(islands):
    _, label, graph, found = islands
    np.testing.assert_array_equal(graph.components, label)
    assert list(found.solver) == [KRYLOV, DENSE, DENSE, NONE]


@pytest.mark.parametrize("number", [0, 1])
def test_a_component_is_mapped_as_if_it_were_alone(islands, number):
    points, label, _, found = islands
    alone = hw.diffusion_map(affinity(points[label == number], 20, bandwidth=1.0), n_components=5)
    np.testing.assert_allclose(found.eigenvalues[number], alone.eigenvalues, atol=1e-13)
    np.testing.assert_allclose(found.eigenvectors[label == number], alone.eigenvectors, atol=1e-9)


def test_modes_that_a_component_is_too_small_for_are_nan_and_nothing_is_infinite(islands):
    _, label, _, found = islands
    assert found.eigenvalues.shape == found.residuals.shape == found.converged.shape == (4, 5)
    expected = np.array([5, 5, 1, 0])
    np.testing.assert_array_equal(np.isfinite(found.eigenvalues).sum(axis=1), expected)
    np.testing.assert_array_equal(found.converged.sum(axis=1), expected)
    for number, n_modes in enumerate(expected):
        own = found.eigenvectors[label == number]
        assert np.isfinite(own[:, :n_modes]).all()
        assert np.isnan(own[:, n_modes:]).all()
    assert not any(np.isinf(values).any() for values in (found.eigenvalues, found.eigenvectors, found.residuals))


def test_the_equation_holds_within_every_component(islands):
    _, label, graph, found = islands
    kept = label < 2
    psi = np.where(np.isnan(found.eigenvectors), 0, found.eigenvectors)
    error = markov(graph) @ psi - psi * found.eigenvalues[label]
    assert np.abs(error[kept]).max() < 1e-10
    for number in range(2):
        pi = graph.degrees[label == number] / graph.degrees[label == number].sum()
        np.testing.assert_allclose(pi @ found.eigenvectors[label == number] ** 2, 1, atol=1e-10)


def test_coordinates_use_the_eigenvalues_of_the_own_component(islands):
    _, label, graph, found = islands
    embedding = hw.coordinates(found.eigenvalues, found.eigenvectors, graph.components, t=2)
    expected = found.eigenvectors[label == 1] * found.eigenvalues[1] ** 2
    np.testing.assert_array_equal(embedding[label == 1], expected)
    assert np.isnan(embedding[label == 3]).all()


def test_components_are_announced(islands, caplog):
    hw.diffusion_map(islands[2], n_components=2)
    assert "the graph has 4 components, each is mapped on its own" in caplog.text


# ---- coordinates, bounds, out ----------------------------------------------------------------------------------------


def test_distances_of_coordinates_are_diffusion_distances():
    # |p_t(x, .) - p_t(y, .)|^2 weighted by 1 / pi equals the squared distance of lambda^t psi over all modes.
    points = np.random.default_rng(9).normal(size=(25, 2))
    graph = full_affinity(points, 1.0)
    found = hw.diffusion_map(graph, n_components=24)
    walk = np.linalg.matrix_power(markov(graph).toarray(), 3) / np.sqrt(graph.stationary)
    embedding = hw.coordinates(found.eigenvalues, found.eigenvectors, graph.components, t=3)
    np.testing.assert_allclose(pdist(embedding), pdist(walk), atol=1e-12)


@pytest.mark.parametrize("t", [0, 1, 2, 0.5, 2.5])
def test_coordinates_are_lambda_to_the_t_times_psi(t):
    embedding = hw.coordinates(np.array([0.9, 0.25]), np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros(2, int), t=t)
    np.testing.assert_allclose(embedding, [[0.9**t, 2 * 0.25**t], [3 * 0.9**t, 4 * 0.25**t]], rtol=1e-15)


def test_negative_eigenvalues_have_whole_powers_only():
    values, vectors = np.array([0.5, -0.5]), np.ones((1, 2))
    np.testing.assert_array_equal(hw.coordinates(values, vectors, np.zeros(1, int), t=3), [[0.125, -0.125]])
    with pytest.raises(hw.BadInput, match=r"HW-DM-002 t: t is 1.5 and the smallest eigenvalue is -0.5"):
        hw.coordinates(values, vectors, np.zeros(1, int), t=1.5)


def test_eigenvalues_that_are_all_absent_have_any_power():
    values, vectors = np.full((2, 1), np.nan), np.full((2, 1), np.nan)
    assert np.isnan(hw.coordinates(values, vectors, np.arange(2), t=0.5)).all()


@pytest.mark.parametrize("tolerance", [0, -1e-3, 1, np.nan])
def test_a_tolerance_that_is_no_bound_is_refused(roll, tolerance):
    with pytest.raises(hw.BadInput, match="HW-DM-004 tolerance: .* is no bound; set tolerance to about 1e-10"):
        hw.diffusion_map(roll, n_components=3, tolerance=tolerance)


@pytest.mark.parametrize("n_components", [0, -1, 90, 2.5, "many", None])
def test_n_components_out_of_bounds_is_refused_with_the_bound(n_components):
    graph = affinity(SURFACES["small cloud"]())
    with pytest.raises(hw.BadInput, match=r"HW-DM-001 n_components: .* not between 1 and 89") as caught:
        hw.diffusion_map(graph, n_components=n_components)
    assert repr(n_components) in str(caught.value)


def test_numpy_numbers_are_numbers():
    graph = affinity(SURFACES["small cloud"]())
    assert hw.diffusion_map(graph, n_components=np.int64(3)).eigenvalues.shape == (3,)


def test_out_is_filled_with_what_is_returned():
    out = {}
    found = hw.diffusion_map(affinity(SURFACES["small cloud"]()), n_components=3, out=out)
    assert set(out) == set(found._fields)
    assert all(out[name] is getattr(found, name) for name in out)


def test_a_walk_all_but_stuck_in_small_places_is_solved_densely_instead():
    # Weak links between groups: dozens of eigenvalues within a hundred thousandth of 1.
    graph = affinity(np.random.default_rng(0).uniform(0, 80, (800, 2)), bandwidth=0.7)
    found = hw.diffusion_map(graph, n_components=8)
    assert np.ravel(found.solver)[0] == DENSE
    assert np.ravel(found.converged)[:8].all()


def test_a_dense_solve_holds_one_array(roll):
    with compute.workers("threads", 1) as workers:
        matrix = conjugate.conjugate(roll, held=True, band_edges=1, workers=workers)
    trivial = matrix.root / np.linalg.norm(matrix.root)
    stage._dense(matrix.component(0), trivial, 5)  # with what is imported on the way
    tracemalloc.start()
    pairs = stage._dense(matrix.component(0), trivial, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * 8 * N_POINTS**2 + 20 * len(roll.indices)
    assert pairs.residuals.max() < 1e-13
