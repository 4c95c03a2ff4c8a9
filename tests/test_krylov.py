"""krylov: matrices whose eigenvalues are known, numpy.linalg.eigh, and operators that count what is asked of them."""

import tracemalloc

import numpy as np
import pytest

from heatwalk import compute, krylov

SIZE = 800


@pytest.fixture(scope="module")
def workers():
    with compute.workers("threads", 2) as pool:
        yield pool


class Counted:
    """The product of a matrix, or of a diagonal, with a block; it counts columns and sees that none is changed."""

    def __init__(self, matrix):
        self.matrix, self.columns = matrix, 0

    def __call__(self, block, take=None):
        self.columns += block.shape[1]
        before = block.copy()
        made = self.matrix[:, None] * block if self.matrix.ndim == 1 else self.matrix @ block
        np.testing.assert_array_equal(block, before)
        if take is None:
            return made
        for rows in compute.blocks(len(made), 300):
            take(rows, made[rows])
        return None


def solved(matrix, trivial, n_modes, workers, tolerance=1e-12, seed=0):
    operator = krylov.Operator(Counted(matrix), len(matrix), workers)
    return krylov.largest(operator, trivial, n_modes, tolerance, np.random.default_rng(seed))


def diagonal(values, n_modes, workers, **options):
    """The eigenpairs of a diagonal matrix whose first eigenvalue, 1, is the trivial one."""
    trivial = np.zeros(len(values) + 1)
    trivial[0] = 1
    return solved(np.concatenate([[1.0], values]), trivial, n_modes, workers, **options)


def filled(*leading, size=SIZE, low=-1.0, high=0.6):
    """Leading eigenvalues, and smaller ones without a gap."""
    rest = np.random.default_rng(len(leading)).uniform(low, high, size - 1 - len(leading))
    return np.concatenate([leading, rest])


def assert_solves(found, values, n_modes, tolerance=1e-12):
    """Values are the largest, vectors orthonormal and without a trivial part, residuals true and small."""
    np.testing.assert_allclose(found.values, np.sort(values)[::-1][:n_modes], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(n_modes), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.vectors[0], 0, atol=1e-12)
    error = np.concatenate([[1.0], values])[:, None] * found.vectors - found.vectors * found.values
    np.testing.assert_allclose(found.residuals, np.linalg.norm(error, axis=0), rtol=1e-6, atol=1e-15)
    assert (found.residuals <= tolerance).all()


SPECTRA = {
    "no gap": (filled(), 10),
    "one gap": (filled(0.99, 0.98, 0.97), 3),
    "a gap of a millionth": (filled(0.9, 0.9 - 1e-6, 0.9 - 2e-6), 3),
    "close to the trivial one": (filled(1 - 1e-9, 1 - 1e-8, 1 - 1e-7), 5),
    "clusters of more copies than a block": (filled(*np.repeat([0.9, 0.8, 0.7], [5, 7, 9])), 21),
    "a cluster that is cut": (filled(*np.repeat([0.9, 0.8], [1, 11])), 6),
    "copies of the trivial one": (filled(*np.repeat(1.0, 6)), 7),
    "negative": (filled(low=-1, high=-0.1), 6),
    "both signs, largest magnitudes negative": (filled(0.02, 0.01, low=-1, high=-0.9), 4),
    "one": (filled(0.95), 1),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra_are_found(name, workers):
    values, n_modes = SPECTRA[name]
    assert_solves(diagonal(values, n_modes, workers), values, n_modes)


FEW = {
    "one half": (np.full(SIZE, 0.5), 5),
    "less than nothing": (np.full(SIZE, -0.5), 5),
    "nothing": (np.zeros(SIZE), 9),
    "one half and rank one": (np.append(np.full(SIZE, 0.5), 0.9), 5),
    "less than nothing and rank one": (np.append(np.full(SIZE, -0.5), -0.1), 5),
    "rank three": (np.append(np.zeros(SIZE), [0.9, 0.8, 0.7]), 12),
    "rank three, negative": (np.append(np.zeros(SIZE), [-0.9, -0.8, -0.7]), 12),
    "two values": (np.repeat([0.3, -0.7], [SIZE // 2, SIZE // 2]), 8),
    "a value of few copies above": (np.repeat([0.8, 0.1], [6, SIZE]), 9),
}


@pytest.mark.parametrize("name", FEW)
def test_few_distinct_eigenvalues_make_a_space_invariant_early_and_random_vectors_go_on(name, workers):
    values, n_modes = FEW[name]
    found = diagonal(values, n_modes, workers)
    assert_solves(found, values, n_modes)
    assert found.products < 400


@pytest.mark.parametrize("width", [1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-13])
@pytest.mark.parametrize("leading", [(), (0.9,), (0.9, 0.8, 0.7)])
def test_a_space_that_is_all_but_invariant_keeps_its_digits(width, leading, workers):
    # Columns of a block are then all but dependent: the first is as long as a matrix, the others as its narrow rest.
    rest = np.random.default_rng(1).uniform(-1, 1, SIZE - len(leading))
    values = np.concatenate([leading, 0.5 + width * rest])
    n_modes = max(2, len(leading))
    assert_solves(diagonal(values, n_modes, workers), values, n_modes)


@pytest.mark.parametrize("n_modes", [1, 4, 12])
def test_a_full_matrix_has_the_eigenpairs_of_numpy(n_modes, workers):
    rng = np.random.default_rng(2)
    trivial = rng.uniform(0.5, 1.5, 500)
    trivial /= np.linalg.norm(trivial)
    noise = rng.normal(size=(500, 500)) / 80
    beside = np.eye(500) - np.outer(trivial, trivial)
    matrix = np.outer(trivial, trivial) + beside @ (noise + noise.T) @ beside
    matrix = (matrix + matrix.T) / 2
    values, vectors = np.linalg.eigh(matrix - 3 * np.outer(trivial, trivial))
    found = solved(matrix, trivial, n_modes, workers)
    np.testing.assert_allclose(found.values, values[::-1][:n_modes], rtol=0, atol=1e-13)
    overlap = np.abs(np.sum(found.vectors * vectors[:, ::-1][:, :n_modes], axis=0))
    np.testing.assert_allclose(overlap, 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(n_modes), rtol=0, atol=1e-12)
    np.testing.assert_allclose(trivial @ found.vectors, 0, atol=1e-12)
    error = np.linalg.norm(matrix @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, error, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8, 1e-13])
def test_residuals_are_as_small_as_asked_for_and_no_product_is_made_for_more(tolerance, workers):
    values = filled(0.7, 0.68, 0.66)
    found = diagonal(values, 3, workers, tolerance=tolerance)
    assert (found.residuals <= tolerance).all()
    assert found.products <= diagonal(values, 3, workers, tolerance=tolerance / 100).products


def test_an_easy_spectrum_takes_few_products_whatever_the_size(workers):
    values = filled(0.99, 0.97, 0.95, 0.93, 0.91, size=60_000, high=0.3)
    found = diagonal(values, 5, workers, tolerance=1e-10)
    np.testing.assert_allclose(found.values, [0.99, 0.97, 0.95, 0.93, 0.91], atol=1e-12)
    assert found.products < 600


@pytest.mark.parametrize("name", ["no gap", "a cluster that is cut", "one"])
def test_every_product_is_counted(name, workers):
    values, n_modes = SPECTRA[name]
    product = Counted(np.concatenate([[1.0], values]))
    trivial = np.eye(1, len(values) + 1)[0]
    operator = krylov.Operator(product, len(trivial), workers)
    found = krylov.largest(operator, trivial, n_modes, 1e-10, np.random.default_rng(0))
    assert product.columns == found.products


def test_products_end_where_they_are_limited_and_residuals_tell(monkeypatch, workers):
    values = 1 - 1e-7 * np.random.default_rng(3).uniform(1, 2, SIZE) * np.arange(1, SIZE + 1)
    monkeypatch.setattr(krylov, "_PRODUCTS", 40)
    found = diagonal(values, 5, workers)
    assert 40 * 5 < found.products <= 40 * 5 + 2 * krylov.BLOCK * 200 + 60 + 5  # of degree 200
    assert found.residuals.max() > 1e-12
    error = np.concatenate([[1.0], values])[:, None] * found.vectors - found.vectors * found.values
    np.testing.assert_allclose(found.residuals, np.linalg.norm(error, axis=0), rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("values", [filled(0.9, size=50_000), np.append(np.full(49_998, 0.5), 0.9)])
def test_no_more_vectors_are_held_than_stated(monkeypatch, values, workers):
    monkeypatch.setattr(krylov, "_ROWS", 500)
    monkeypatch.setattr(krylov, "_PRODUCTS", 1)
    trivial, diagonal = np.eye(1, 50_000)[0], np.concatenate([[1.0], values])[:, None]
    operator = krylov.Operator(lambda block: diagonal * block, 50_000, workers)
    tracemalloc.start()
    try:
        krylov.largest(operator, trivial, 15, 1e-6, np.random.default_rng(0))
        held = tracemalloc.get_traced_memory()[1] / trivial.nbytes
    finally:
        tracemalloc.stop()
    assert held < krylov.width(15) + 2


def test_same_seed_gives_the_same_bytes_and_another_the_same_pairs(workers):
    values = filled(0.95, 0.94, 0.8)
    first, second, other = (diagonal(values, 4, workers, seed=seed) for seed in (7, 7, 8))
    assert [part.tobytes() for part in first[:3]] == [part.tobytes() for part in second[:3]]
    assert first.vectors.tobytes() != other.vectors.tobytes()
    np.testing.assert_allclose(np.abs(first.vectors), np.abs(other.vectors), atol=1e-9)


@pytest.mark.parametrize("n_rows", [20, 100, 801])
def test_threads_change_no_byte_in_parts_of_any_size(monkeypatch, n_rows):
    monkeypatch.setattr(krylov, "_ROWS", n_rows)
    results = []
    for threads in (1, 2, 3):
        with compute.workers("threads", threads) as pool:
            found = diagonal(filled(0.9, 0.9, 0.8), 4, pool)
        results.append([part.tobytes() for part in found[:3]])
    assert results[0] == results[1] == results[2]


COPIES = {
    "three of one value": ([0.9, 0.9, 0.9, 0.8], 4),
    "more than three blocks of two values": (np.repeat([0.99, 0.97], 13), 8),
    "all but one": (np.repeat([0.999, 0.99], [11, 1]), 12),
}


@pytest.mark.parametrize("tolerance", [1e-6, 1e-10, 1e-12])
@pytest.mark.parametrize("name", COPIES)
def test_no_copy_is_missed(name, tolerance, workers):
    leading, n_modes = COPIES[name]
    for seed in range(3):
        found = diagonal(filled(*leading, size=400, high=0.5), n_modes, workers, tolerance=tolerance, seed=seed)
        np.testing.assert_allclose(found.values, np.sort(leading)[::-1][:n_modes], atol=2 * tolerance)
        assert (found.residuals <= tolerance).all()
        assert found.products < 150 * n_modes


@pytest.mark.parametrize("n_modes", [4, 16])
@pytest.mark.parametrize("apart", [1e-5, 1e-6, 1e-7, 1e-8])
def test_values_that_crowd_at_one_above_a_gap_take_few_products(apart, n_modes, workers):
    crowd = 1 - apart * np.arange(1, 1 + n_modes + n_modes // 2)
    values = filled(*crowd)
    found = diagonal(values, n_modes, workers)
    assert_solves(found, values, n_modes)
    assert found.products < 1000 + 70 * n_modes


@pytest.mark.parametrize("power", [1.0, 1.3, 2.0])
@pytest.mark.parametrize("first", [2e-5, 1e-3])
def test_values_that_begin_near_one_and_have_no_gap_are_all_found(first, power, workers):
    values = 1 - np.minimum(first * np.arange(1.0, 3001) ** power, 1.9)
    found = diagonal(values, 8, workers, tolerance=1e-10)
    np.testing.assert_allclose(found.values, values[:8], atol=1e-12)
    assert (found.residuals <= 1e-10).all()


def test_what_is_missed_in_every_product_at_first_is_found_later(workers):
    values = np.concatenate([[1.0], filled(0.9, 0.9, 0.8, 0.7)])
    hidden, calls = np.eye(SIZE)[2], [0]

    def product(block, take=None):  # has no part along one copy for some time
        calls[0] += 1
        made = values[:, None] * block
        if calls[0] < 40:
            made -= np.outer(hidden, hidden @ made)
        if take is None:
            return made
        take(slice(0, SIZE), made)
        return None

    operator = krylov.Operator(product, SIZE, workers)
    found = krylov.largest(operator, np.eye(SIZE)[0], 3, 1e-10, np.random.default_rng(0))
    np.testing.assert_allclose(found.values, [0.9, 0.9, 0.8], atol=1e-10)
