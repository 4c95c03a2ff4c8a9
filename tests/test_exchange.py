"""exchange: a plain transpose is the truth; and numbers of edges that 32 bits do not hold, here and in the affinity."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

import heatwalk as hw
from heatwalk import compute, exchange
from heatwalk.scratch import File

stage = importlib.import_module("heatwalk.affinity")  # the name in the package is the function


def neighbors(n_cells=97, n_neighbors=5, seed=0, dtype=np.float64):
    """Every cell with some others at random, a few of them liked by most."""
    rng = np.random.default_rng(seed)
    likes = rng.permutation(n_cells) ** 2 + 1.0
    indices = [rng.choice(n_cells, n_neighbors, replace=False, p=likes / likes.sum()) for _ in range(n_cells)]
    distances = rng.uniform(size=(n_cells, n_neighbors)).astype(dtype)
    return SimpleNamespace(indices=np.array(indices, np.int32), distances=distances)


@pytest.mark.parametrize("n_bands", [1, 3, 97])
@pytest.mark.parametrize("block_cells", [1, 10, 1000])
@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges_by_the_band_they_lead_into_are_the_transpose(tmp_path, n_bands, block_cells, in_folder, dtype):
    graph = neighbors(dtype=dtype)
    bands = compute.blocks(97, -(-97 // n_bands))
    if n_bands == 3:
        bands = [slice(0, 5), slice(5, 80), slice(80, 97)]
    with compute.workers("threads", 2, tmp_path if in_folder else None) as pool:
        found = exchange.reverse(graph, bands, block_cells, pool)
        source, target = np.repeat(np.arange(97), 5), graph.indices.ravel()
        order = np.argsort(np.searchsorted([band.stop for band in bands], target, side="right"), kind="stable")
        everything = slice(0, len(target))
        assert isinstance(found.target, File if in_folder else np.ndarray)
        np.testing.assert_array_equal(found.target[everything], target[order])
        np.testing.assert_array_equal(found.source[everything], source[order])
        np.testing.assert_array_equal(found.distance[everything], graph.distances.ravel()[order])
        assert found.distance[everything].dtype == dtype
        for number, band in enumerate(bands):
            part = slice(found.start[number], found.start[number + 1])
            inside = (target >= band.start) & (target < band.stop)
            assert part.stop - part.start == inside.sum()
            assert ((found.target[part] >= band.start) & (found.target[part] < band.stop)).all()
            np.testing.assert_array_equal(found.source[part], source[inside])


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_offsets_of_more_edges_than_32_bits_count(dtype):
    # 3 blocks and 2 bands of up to 2^31 - 1 edges each.
    counts = np.array([[2**31 - 1, 2**30], [2**31 - 1, 0], [2**30, 2**31 - 1]], dtype)
    start, place = exchange.offsets(counts)
    assert start.dtype == place.dtype == np.int64
    first, second = 2**32 - 2 + 2**30, 2**30 + 2**31 - 1
    assert start.tolist() == [0, first, first + second]
    assert place.tolist() == [[0, first], [2**31 - 1, first + 2**30], [2**32 - 2, first + 2**30]]


@pytest.mark.parametrize("seed", range(3))
def test_offsets_leave_no_gap_and_no_overlap(seed):
    counts = np.random.default_rng(seed).integers(0, 2**31, (7, 5)).astype(np.int32)
    start, place = exchange.offsets(counts)
    begins = place.T.ravel()  # band by band, and block by block within
    ends = begins + counts.T.ravel().astype(np.int64)
    np.testing.assert_array_equal(ends[:-1], begins[1:])
    np.testing.assert_array_equal(place[0], start[:-1])
    assert (begins[0], ends[-1]) == (0, start[-1])


def test_in_degrees_are_counted(tmp_path):
    graph = neighbors()
    with compute.workers("threads", 2, tmp_path) as pool:
        for block_cells in (7, 1000):
            found = exchange.in_degrees(graph, block_cells, pool)
            np.testing.assert_array_equal(found, np.bincount(graph.indices.ravel(), minlength=97))


def test_no_band_holds_more_edges_than_asked_for_but_for_one_cell(monkeypatch):
    # Half of the cells have cell 0 for a neighbour: its rows must not come with those of others.
    points = np.random.default_rng(0).normal(size=(400, 3))
    found = hw.neighbors(points, n_neighbors=5)
    indices = np.array(found.indices)
    indices[200:, 4] = 0
    held, union = [], stage._union
    monkeypatch.setattr(stage, "_BAND_EDGES", 60)

    def watched(neighbors, incoming, rows, part, sigma):
        held.append((rows.stop - rows.start, part.stop - part.start + 5 * (rows.stop - rows.start)))
        return union(neighbors, incoming, rows, part, sigma)

    monkeypatch.setattr(stage, "_union", watched)
    hw.affinity(points, found._replace(indices=indices))
    assert max(edges for _, edges in held) > 200
    assert all(edges <= 60 or cells == 1 for cells, edges in held)


# ---- the rows of the affinity ----------------------------------------------------------------------------------------


def ring(n_cells):
    """Every cell knows the next one: the union also holds the one before, and the cell itself."""
    indices = ((np.arange(n_cells) + 1) % n_cells).astype(np.int32)[:, None]
    return SimpleNamespace(indices=indices, distances=np.ones((n_cells, 1), np.float32))


@pytest.mark.parametrize("n_cells", [46_342, 100_000])
@pytest.mark.parametrize("band_edges", [3_000, 2**20])
def test_rows_of_so_many_cells_that_their_square_exceeds_32_bits(monkeypatch, n_cells, band_edges):
    monkeypatch.setattr(stage, "_BAND_EDGES", band_edges)
    with compute.workers("threads", 2) as pool:
        indptr, columns, kernel, density = stage._kernel(ring(n_cells), np.ones(n_cells), 8192, pool)
    np.testing.assert_array_equal(indptr, 3 * np.arange(n_cells + 1))
    cell = np.arange(n_cells)
    expected = np.sort(np.column_stack([cell - 1, cell, cell + 1]) % n_cells, axis=1)
    np.testing.assert_array_equal(columns[: indptr[-1]].reshape(-1, 3), expected)
    diagonal = expected == cell[:, None]
    np.testing.assert_array_equal(kernel[: indptr[-1]].reshape(-1, 3), np.where(diagonal, 1, np.exp(-0.5)))
    np.testing.assert_allclose(density, 1 + 2 * np.exp(-0.5), rtol=1e-15)


class Far:
    """A long array of which a few entries are there."""

    def __init__(self, start, values):
        self.start, self.values = start, values

    def __getitem__(self, edges):
        assert self.start <= edges.start <= edges.stop <= self.start + len(self.values)
        return self.values[edges.start - self.start : edges.stop - self.start]


def test_edges_beyond_two_billion_are_weighed_and_joined_where_they_are():
    # As if the edges of other rows came first.
    start, n_cells = 2**31 + 3, 50
    with compute.workers("threads", 1) as pool:
        indptr, columns, kernel, _ = stage._kernel(ring(n_cells), np.ones(n_cells), 8192, pool)
        columns, kernel, out = Far(start, columns[: indptr[-1]]), Far(start, kernel[: indptr[-1]]), {}
        indptr = indptr + start
        ranges = compute.blocks(n_cells, 7)
        degrees = stage._weights(indptr, columns, kernel, np.full(n_cells, 2.0), ranges, pool, out)
    np.testing.assert_array_equal(out["indices"], columns.values)
    np.testing.assert_array_equal(out["weights"], 4 * kernel.values)
    np.testing.assert_allclose(degrees, 4 + 8 * np.exp(-0.5), rtol=1e-15)
    np.testing.assert_array_equal(stage._components(indptr, columns, kernel, ranges), 0)


@pytest.mark.parametrize("band_edges", [1, 40, 333])
@pytest.mark.parametrize("in_folder", [False, True])
def test_bands_and_files_change_no_byte_of_the_affinity(monkeypatch, tmp_path, band_edges, in_folder):
    points = np.random.default_rng(1).normal(size=(120, 3))
    found = hw.neighbors(points, n_neighbors=6)
    expected = hw.affinity(points, found)
    monkeypatch.setattr(stage, "_BAND_EDGES", band_edges)
    made = hw.affinity(points, found, threads=3, block_cells=11, scratch=tmp_path if in_folder else None)
    for name in expected._fields:
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))
    assert not list(tmp_path.iterdir())
