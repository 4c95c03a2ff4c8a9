"""conjugate: the dense D^-1/2 W D^-1/2 in another order, in memory and in files, and row ranges that fit together."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

from heatwalk import compute, conjugate
from heatwalk.scratch import File

N_CELLS = 60


def graph(n_cells=N_CELLS, n_components=3, density=0.2, seed=0):
    """Symmetric weights in components of mixed order, an entry on every diagonal, and an order of the cells."""
    rng = np.random.default_rng(seed)
    label = np.sort(rng.integers(0, n_components, n_cells))[::-1]
    label = rng.permutation(np.unique(label, return_inverse=True)[1])
    numbers = np.argsort(-np.bincount(label), kind="stable")
    components = np.argsort(numbers)[label]
    weights = rng.uniform(0.1, 1, (n_cells, n_cells)) * (rng.uniform(size=(n_cells, n_cells)) < density)
    weights = np.where(components[:, None] == components, weights + weights.T, 0) + np.eye(n_cells)
    return stored(weights, weights > 0, components, rng.permutation(n_cells))


def stored(weights, mask, components, order):
    """What conjugate reads of an affinity result; entries of the mask are stored, zeros among them."""
    rows, columns = np.nonzero(mask)
    return SimpleNamespace(
        indptr=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(mask)))]),
        indices=columns.astype(np.int32),
        weights=weights[rows, columns],
        degrees=weights.sum(axis=1),
        components=components.astype(np.int32),
        order=order,
    )


def dense(found):
    """The matrix that the components hold, by position."""
    blocks = []
    for label in range(len(found.start) - 1):
        component = found.component(label)
        blocks.append(component.rows(slice(0, component.size)).toarray())
    return scipy.sparse.block_diag(blocks).toarray()


def expected(affinity, order):
    weights = scipy.sparse.csr_array((affinity.weights, affinity.indices, affinity.indptr)).toarray()
    root = np.sqrt(affinity.degrees)
    return (weights / (root[:, None] * root))[np.ix_(order, order)]


def made(affinity, held=True, band_edges=10**9, threads=1, folder=None):
    with compute.workers("threads", threads) as pool:
        pool.folder = folder  # one that stays
        return conjugate.conjugate(affinity, held=held, band_edges=band_edges, workers=pool)


@pytest.mark.parametrize("n_components", [1, 3, 25])
@pytest.mark.parametrize("read_edges", [1, 17, 10**6])
def test_it_is_the_dense_conjugate_with_its_cells_in_another_order(monkeypatch, n_components, read_edges):
    monkeypatch.setattr(conjugate, "_READ_EDGES", read_edges)
    affinity = graph(n_components=n_components)
    found = made(affinity, threads=2)
    np.testing.assert_allclose(dense(found), expected(affinity, found.order), rtol=1e-15)
    np.testing.assert_array_equal(found.root, np.sqrt(affinity.degrees)[found.order])


@pytest.mark.parametrize("band_edges", [1, 40, 333, 10**9])
@pytest.mark.parametrize("threads", [1, 3])
def test_in_files_it_is_the_same_to_the_last_bit_in_bands_of_any_size(monkeypatch, tmp_path, band_edges, threads):
    monkeypatch.setattr(conjugate, "_READ_EDGES", 50)
    affinity = graph()
    held = made(affinity)
    found = made(affinity, held=False, band_edges=band_edges, threads=threads, folder=tmp_path)
    assert isinstance(found.columns, File)
    assert isinstance(found.values, File)
    everything = slice(0, len(affinity.indices))
    for name in ("columns", "values"):
        assert getattr(found, name)[everything].tobytes() == getattr(held, name).tobytes()
    for name in ("order", "place", "start", "root", "indptr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(held, name))


def test_it_is_symmetric_to_the_last_bit():
    matrix = dense(made(graph()))
    np.testing.assert_array_equal(matrix, matrix.T)


def test_cells_stand_by_component_and_within_one_in_the_order_given():
    affinity = graph()
    found = made(affinity)
    assert (np.diff(affinity.components[found.order]) >= 0).all()
    for label in range(len(found.start) - 1):
        own = found.order[found.start[label] : found.start[label + 1]]
        np.testing.assert_array_equal(own, affinity.order[affinity.components[affinity.order] == label])
    np.testing.assert_array_equal(found.order[found.place], np.arange(N_CELLS))


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("band_edges", [7, 10**9])
def test_edges_of_no_weight_that_lead_out_of_a_component_do_no_harm(tmp_path, held, band_edges):
    rng = np.random.default_rng(1)
    components = np.array([2, 0, 1, 0, 0, 1, 2, 0, 1, 0])
    weights = np.where(components[:, None] == components, 1 + rng.uniform(size=(10, 10)), 0)
    weights = weights + weights.T
    affinity = stored(weights, np.ones((10, 10), bool), components, rng.permutation(10))
    assert len(affinity.indices) == 100
    found = made(affinity, held=held, band_edges=band_edges, folder=tmp_path)
    np.testing.assert_allclose(dense(found), expected(affinity, found.order), rtol=1e-15)
    for label in range(3):
        columns = found.component(label).rows(slice(0, int(np.sum(components == label)))).indices
        assert columns.min() >= 0
        assert columns.max() < np.sum(components == label)


def test_row_blocks_of_a_component_are_its_rows(monkeypatch):
    monkeypatch.setattr(conjugate, "_BLOCK_EDGES", 30)
    found = made(graph())
    component = found.component(0)
    whole = component.rows(slice(0, component.size)).toarray()
    blocks = component.blocks()
    assert len(blocks) > 3
    np.testing.assert_array_equal(np.concatenate([component.rows(rows).toarray() for rows in blocks]), whole)


@pytest.mark.parametrize("held", [True, False])
def test_the_compiled_product_has_the_sums_of_scipys(monkeypatch, tmp_path, held):
    found = made(graph(), held=held, folder=tmp_path)
    component, rng = found.component(0), np.random.default_rng(2)
    block = rng.standard_normal((component.size, 4))
    for rows in (slice(0, component.size), slice(3, 9), slice(5, 5)):
        plain = component.times(rows, block)
        with monkeypatch.context() as patch:
            patch.setattr(conjugate, "COMPILED_FROM", 0)
            compiled = component.times(rows, block)
        np.testing.assert_array_equal(plain, component.rows(rows) @ block)
        np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-15)
        assert compiled.shape == (rows.stop - rows.start, 4)


# ---- row ranges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_edges", [1, 4, 30, 10**6])
def test_row_ranges_are_consecutive_and_as_long_as_the_edges_allow(seed, n_edges):
    rng = np.random.default_rng(seed)
    indptr = np.concatenate([[0], np.cumsum(rng.integers(0, 12, 80) * (rng.uniform(size=80) < 0.7))])
    first, last = sorted(rng.choice(81, 2, replace=False))
    found = conjugate.cuts(indptr, slice(int(first), int(last)), n_edges)
    assert [found[0].start, *(part.stop for part in found)] == [*(part.start for part in found), last]
    for part in found:
        edges = indptr[part.stop] - indptr[part.start]
        assert edges <= n_edges or part.stop == part.start + 1
        assert part.stop == last or indptr[part.stop + 1] - indptr[part.start] > n_edges
        assert part.start < part.stop


def test_no_rows_have_no_ranges():
    assert conjugate.cuts(np.array([0, 3, 5]), slice(1, 1), 10) == []


def test_rows_without_edges_are_in_a_range_too():
    assert conjugate.cuts(np.zeros(6, np.int64), slice(0, 5), 3) == [slice(0, 5)]


def test_ranges_of_more_edges_than_32_bits_count():
    indptr = np.arange(40) * 2**29
    assert conjugate.cuts(indptr, slice(0, 39), 2**31) == [
        slice(start, min(start + 4, 39)) for start in range(0, 39, 4)
    ]
    assert conjugate.cuts(indptr, slice(30, 39), 2**18) == [slice(row, row + 1) for row in range(30, 39)]


class Far:
    """A long array of which a few entries are there; it says from where they were read."""

    def __init__(self, start, values):
        self.start, self.values, self.read = start, values, []

    def __getitem__(self, edges):
        assert self.start <= edges.start <= edges.stop <= self.start + len(self.values)
        self.read.append((int(edges.start), int(edges.stop)))
        return self.values[edges.start - self.start : edges.stop - self.start]


@pytest.mark.parametrize("start", [2**31 - 5, 2**31 + 7, 2**40])
def test_rows_of_a_component_beyond_two_billion_edges_are_read_where_they_are(start):
    near = made(graph()).component(0)
    parts = (Far(start, part[near.indptr[0] : near.indptr[-1]]) for part in (near.columns, near.values))
    far = conjugate.Component(near.indptr + start, *parts)
    rows = slice(5, 20)
    np.testing.assert_array_equal(far.rows(rows).toarray(), near.rows(rows).toarray())
    assert far.columns.read == far.values.read == [(near.indptr[5] + start, near.indptr[20] + start)]
    assert far.rows(rows).indptr.dtype == np.int32
    assert far.blocks() == near.blocks()


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_held_while_it_is_gathered_is_known(monkeypatch, threads):
    monkeypatch.setattr(conjugate, "_READ_EDGES", 2**14)
    affinity, n_cells = graph(700, n_components=1, density=0.3), 700
    n_edges = len(affinity.indices)
    made(affinity)  # with what is imported and compiled on the way
    tracemalloc.start()
    found = made(affinity, threads=threads)
    peak = tracemalloc.get_traced_memory()[1] - found.columns.nbytes - found.values.nbytes
    tracemalloc.stop()
    bound = conjugate.filling_bytes(n_cells, n_edges, threads)
    assert peak < bound + 2e5  # of Python's own
    assert threads > 1 or peak > bound / 2
