"""descent: a round is all neighbours of neighbours in both directions, whoever does it; and it finds what lists miss."""

import importlib

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from test_exact import cloud

import heatwalk as hw
from heatwalk import compute, descent, lists, scratch

stage = importlib.import_module("heatwalk.neighbors")  # the name in the package is the function
N_CELLS, WIDTH = 500, 6


@pytest.fixture(scope="module")
def points():
    return cloud(N_CELLS, 5)


def divided(points, pool):
    centre = points.mean(axis=0)
    unit = float(2.0 ** np.ceil(np.log2(np.abs(points - centre).max())))
    return lists.divide(points, centre, unit, seed=0, workers=pool, block_cells=100)


def coarse(points, order):
    """Names and distances, by position, of the nearest of a fifth of the cells, which differ from cell to cell."""
    distances = cdist(points[order], points)
    distances[np.random.default_rng(1).random(distances.shape) > 0.2] = np.inf
    distances[np.arange(N_CELLS), order] = np.inf
    found = np.argsort(distances, axis=1)[:, :WIDTH]
    return found.astype(np.int32), np.take_along_axis(distances, found, 1)


def one_round(points, pool):
    """The lists, what was found before, and after a round."""
    groups = divided(points, pool)
    before = coarse(points, groups.order)
    found = descent.Edges(
        scratch.array(pool.folder, "indices", before[0].shape, np.int32),
        scratch.array(pool.folder, "distances", before[1].shape, np.float64),
    )
    everything = slice(0, N_CELLS)
    found.indices[everything], found.distances[everything] = before
    descent.descended(groups, found, pool)
    return groups.order, before, (found.indices[everything], found.distances[everything])


def test_a_round_is_the_nearest_of_all_neighbours_of_neighbours(points):
    with compute.workers("threads", 2) as pool:
        order, (names, distances), found = one_round(points, pool)
    around = [set(row) for row in np.argsort(order)[names]]
    incoming = [[] for _ in range(N_CELLS)]
    for source in range(N_CELLS):
        for name, distance in zip(names[source], distances[source], strict=True):
            incoming[np.argsort(order)[name]].append((distance, source))
    around = [
        row | {source for _, source in sorted(others)[:WIDTH]} for row, others in zip(around, incoming, strict=True)
    ]
    assert max(map(len, incoming)) > WIDTH  # some are left out
    for cell in range(N_CELLS):
        near = np.array(sorted(around[cell].union(*(around[other] for other in around[cell])) - {cell}))
        away = cdist(points[order[[cell]]], points[order[near]])[0]
        best = np.lexsort((order[near], away))[:WIDTH]
        np.testing.assert_array_equal(found[0][cell], order[near[best]])
        np.testing.assert_allclose(found[1][cell], away[best], rtol=1e-12)


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_round_is_the_same_however_it_is_cut(points, tmp_path, monkeypatch, in_folder, threads):
    with compute.workers("threads", 1) as pool:
        expected = one_round(points, pool)[2]
    monkeypatch.setattr(descent, "_CELLS_A_TASK", 37)
    monkeypatch.setattr(descent, "_BAND_CELLS", 64)
    with compute.workers("threads", threads, tmp_path if in_folder else None) as pool:
        found = one_round(points, pool)[2]
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert not [path for path in tmp_path.iterdir() if path.stem not in ("indices", "distances", "points")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_coarse_search_and_rounds_reach_the_recall_asked_for(monkeypatch, dtype):
    points = cloud(25_000, 12, dtype=dtype)
    by_lists = hw.neighbors(points, n_neighbors=10, min_recall=0.98)
    monkeypatch.setattr(stage, "_DESCENT", 0)
    found = hw.neighbors(points, n_neighbors=10, min_recall=0.98)
    assert found.probes < by_lists.probes
    rows = np.random.default_rng(7).choice(25_000, 300, replace=False)
    distances = cdist(points[rows], points)
    distances[np.arange(300), rows] = np.inf
    tenth = np.partition(distances, 9, axis=1)[:, 9:10]
    assert (found.distances[rows] <= tenth * (1 + 1e-6)).mean() > 0.975
    assert found.recall >= 0.98
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert not (found.indices == np.arange(25_000)[:, None]).any()


def test_where_rounds_do_not_help_more_lists_are_searched(monkeypatch):
    monkeypatch.setattr(stage, "_DESCENT", 0)
    monkeypatch.setattr(stage, "descended", lambda *_: None)
    found = hw.neighbors(cloud(21_000, 8), n_neighbors=5, min_recall=0.97)
    assert found.recall >= 0.97


@pytest.mark.parametrize("rows", [[], [0], [999], [3, 4, 5, 900], list(range(0, 1000, 7)), list(range(1000))])
def test_rows_picked_from_a_file_are_the_rows(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(scratch, "_GAP_BYTES", 100)
    monkeypatch.setattr(scratch, "_RUN_BYTES", 1000)
    values = np.arange(3000, dtype=np.int32).reshape(1000, 3)
    file = scratch.array(tmp_path, "values", values.shape, values.dtype)
    file[0:1000] = values
    rows = np.array(rows, np.int64)
    np.testing.assert_array_equal(scratch.picked(file, rows), values[rows])
    np.testing.assert_array_equal(scratch.picked(values, rows), values[rows])
