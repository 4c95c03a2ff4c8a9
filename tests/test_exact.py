"""exact: brute force over differences is the truth, ties by name included, in any blocks and under any names."""

import numpy as np
import pytest

from heatwalk import exact
from heatwalk.scratch import array as scratch_array


def cloud(n_points, dimension, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n_points, dimension)).astype(dtype)


def lattice(side):
    """Whole numbers: distances are exact, and most are ties."""
    return np.stack(np.meshgrid(*[np.arange(float(side))] * 3), axis=-1).reshape(-1, 3)


def tight_groups(n_points, dimension):
    """Two groups 100,000 times as far apart as they are wide: a product in single precision sees no distance within."""
    points = 0.01 * cloud(2 * n_points, dimension)
    points[n_points:] += 1000
    return points


POINTS = {
    "one dimension": lambda: cloud(250, 1),
    "cloud": lambda: cloud(300, 6),
    "many dimensions": lambda: cloud(200, 70),
    "lattice": lambda: lattice(6),
    "duplicates": lambda: np.repeat(cloud(10, 3), 25, axis=0),
    "all but one the same": lambda: np.append(np.zeros((90, 2)), [[1, 1]], axis=0),
    "tight groups far apart": lambda: tight_groups(130, 5),
    "an outlier": lambda: np.append(cloud(200, 4), np.full((1, 4), 1e4), axis=0),
    "large offset": lambda: cloud(200, 4) + 1e5,
    "tiny units": lambda: 1e-25 * cloud(200, 4),
    "huge units": lambda: 1e25 * cloud(200, 4),
}


def brute_force(points, labels, names, width):
    """Names and distances of the points nearest to those of some names, by distance and then name."""
    place = np.empty(len(points), np.int64)
    place[labels] = np.arange(len(points))
    difference = points[place[names]][:, None] - points[None]
    unit = 2.0 ** np.ceil(np.log2(np.abs(difference).max()))  # rounds nothing
    distances = unit * np.sqrt(((difference / unit) ** 2).sum(axis=-1))
    distances[names[:, None] == labels] = np.inf
    order = np.lexsort((np.broadcast_to(labels, distances.shape), distances), axis=-1)[:, :width]
    return labels[order], np.take_along_axis(distances, order, axis=1)


def searched(points, labels, names, width):
    """What exact search finds for the points of some names."""
    centre = points.mean(axis=0, dtype=np.float64)
    unit = float(2.0 ** np.ceil(np.log2(np.abs(points - centre).max())))
    place = np.arange(len(points)) if labels is None else np.argsort(labels)
    return exact.nearest(points, labels, points[place[names]], names, width, centre, unit)


@pytest.fixture(params=[17, 64, 8192])
def base_rows(request, monkeypatch):
    """Blocks of fewer points than are searched for, of a few, and one of all."""
    monkeypatch.setattr(exact, "_BASE_ROWS", request.param)
    monkeypatch.setattr(exact, "_QUERY_ROWS", 50)
    monkeypatch.setattr(exact, "_GATHER_BYTES", 5000)


@pytest.mark.parametrize("width", [1, 9, 30])
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("name", POINTS)
def test_the_nearest_are_those_of_brute_force_with_ties_by_name(base_rows, name, renamed, width):
    points = POINTS[name]()
    labels = np.random.default_rng(1).permutation(len(points)) if renamed else None
    names = np.random.default_rng(2).permutation(len(points))[:120]
    found = searched(points, labels, names, width)
    nearest, distances = brute_force(points, np.arange(len(points)) if labels is None else labels, names, width)
    np.testing.assert_array_equal(found.names, nearest)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-13)
    assert (found.names.dtype, found.distances.dtype) == (np.int64, np.float64)


@pytest.mark.parametrize("name", ["cloud", "lattice", "duplicates", "tight groups far apart"])
def test_single_precision_is_kept_and_finds_the_same(base_rows, name):
    points = POINTS[name]().astype(np.float32)
    names = np.arange(len(points))
    found = searched(points, None, names, 8)
    assert found.distances.dtype == np.float32
    nearest, distances = brute_force(points.astype(np.float64), names, names, 8)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    if name in ("lattice", "cloud"):
        np.testing.assert_array_equal(found.names, nearest)


@pytest.mark.parametrize("base_rows", [13, 5000])
def test_blocks_and_files_change_no_byte(monkeypatch, tmp_path, base_rows):
    points, names = lattice(7) + 0.1, np.arange(0, 343, 2)
    expected = searched(points, None, names, 12)
    file = scratch_array(tmp_path, "points", points.shape, points.dtype)
    file[:] = points
    monkeypatch.setattr(exact, "_BASE_ROWS", base_rows)
    centre = points.mean(axis=0)
    found = exact.nearest(file, None, points[names], names, 12, centre, 4.0)
    assert found.names.tobytes() == expected.names.tobytes()
    assert found.distances.tobytes() == expected.distances.tobytes()


def test_points_that_single_precision_cannot_tell_apart_are_compared_by_differences(monkeypatch):
    careful, by_differences = [], exact._by_differences

    def watched(base, labels, queries, names, *arguments):
        careful.extend(names)
        return by_differences(base, labels, queries, names, *arguments)

    monkeypatch.setattr(exact, "_by_differences", watched)
    searched(cloud(500, 6), None, np.arange(500), 9)
    assert not careful
    searched(tight_groups(200, 6), None, np.arange(400), 9)
    assert sorted(careful) == list(range(400))


def test_points_from_afar_are_told_apart_in_double_precision():
    # Distances that differ by less than a millionth of themselves, and in single precision not at all.
    points = np.append(cloud(200, 4), np.full((1, 4), 1e6), axis=0)
    found = searched(points, None, np.array([200]), 9)
    nearest, distances = brute_force(points, np.arange(201), np.array([200]), 9)
    np.testing.assert_array_equal(found.names, nearest)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-15)


def test_a_query_is_left_out_though_others_lie_on_it():
    points = np.zeros((60, 2))
    points[:20] = 1
    found = searched(points, np.arange(60)[::-1], np.arange(60), 15)
    assert not (found.names == np.arange(60)[:, None]).any()
    np.testing.assert_array_equal(found.distances, 0)
    np.testing.assert_array_equal(found.names[59], np.arange(40, 55))
    np.testing.assert_array_equal(found.names[0], np.arange(1, 16))


def test_where_there_are_fewer_points_the_rest_is_infinitely_far():
    found = searched(cloud(5, 2), None, np.arange(5), 7)
    assert np.isinf(found.distances[:, 4:]).all()
    np.testing.assert_array_equal(np.sort(found.names[:, :4]), [sorted({*range(5)} - {own}) for own in range(5)])


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_the_first_of_equal_distances_are_those_of_the_smallest_names():
    distances = np.array([[3.0, 1, 1, 1, 2], [1, 1, 1, 1, 1], [5, 4, 3, 2, 1]])
    names = np.array([50, 40, 20, 30, 10])
    found = [set(names[row]) for row in exact._first(distances, names, 2)]
    assert found == [{20, 30}, {10, 20}, {10, 30}]
    assert [set(names[row]) for row in exact._first(distances, names, 4)][1] == {10, 20, 30, 40}


@pytest.mark.parametrize("width", [1, 2, 7, 19, 20, 25])
def test_the_first_are_those_of_sorting_by_distance_and_name(width):
    rng = np.random.default_rng(3)
    distances, names = rng.integers(0, 4, (80, 20)).astype(np.float64), rng.permutation(20)
    found = np.sort(names[exact._first(distances, names, width)], axis=1)
    order = np.lexsort((np.broadcast_to(names, distances.shape), distances), axis=-1)[:, :width]
    np.testing.assert_array_equal(found, np.sort(names[order], axis=1))


def test_distances_that_differ_by_rounding_alone_are_ties():
    distances = np.array([[1.0, 1 + 1e-12, 1 - 1e-12, 1, 0.5]])
    names = np.array([4, 1, 3, 2, 0])
    assert set(names[exact._first(distances, names, 3)[0]]) == {0, 1, 2}


def test_the_best_of_two_are_nearest_first_and_ties_by_name():
    one = exact.Found(np.array([[7, 3]]), np.array([[1.0, 2.0]]))
    other = exact.Found(np.array([[5, 2, 9]]), np.array([[1.0, 2.0, 0.5]]))
    found = exact.merged(one, other, 4)
    assert found.names.tolist() == [[9, 5, 7, 2]]
    assert found.distances.tolist() == [[0.5, 1.0, 1.0, 2.0]]


def test_a_row_of_minus_one_is_no_candidate():
    points = np.array([[0.0], [1.0], [3.0]])
    found = exact.ranked(points, np.array([10, 11, 12]), points[:1], np.array([10]), np.array([[0, 1, -1, 2]]), 4.0)
    np.testing.assert_array_equal(found.distances, [[np.inf, 1, np.inf, 3]])
    np.testing.assert_array_equal(found.names[0, [1, 3]], [11, 12])


# ---- the smallest of a row -------------------------------------------------------------------------------------------

ROWS = {
    "as they come": lambda: cloud(40, 5000),
    "ascending": lambda: np.sort(cloud(40, 5000), axis=1),
    "descending": lambda: -np.sort(cloud(40, 5000), axis=1),
    "small ones together": lambda: np.concatenate([cloud(40, 100) - 10, cloud(40, 4000, 1)], axis=1),
    "small ones at the end": lambda: np.concatenate([cloud(40, 4001), cloud(40, 100, 1) - 10], axis=1),
    "few": lambda: cloud(40, 70),
    "one row": lambda: cloud(1, 3000),
}


@pytest.mark.parametrize("width", [1, 2, 33, 61])
@pytest.mark.parametrize("name", ROWS)
def test_the_smallest_of_every_row_are_those_of_a_sort(name, width):
    values = ROWS[name]().astype(np.float32)
    found, columns = exact.smallest(values, width)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(values, axis=1)[:, :width])
    np.testing.assert_array_equal(np.take_along_axis(values, columns, 1), found)
    assert all(len(set(row)) == width for row in columns.tolist())


@pytest.mark.parametrize("levels", [1, 2, 7])
def test_of_equal_values_so_many_as_asked_for_are_taken_each_once(levels):
    values = np.random.default_rng(0).integers(0, levels, (30, 4000)).astype(np.float32)
    found, columns = exact.smallest(values, 50)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(values, axis=1)[:, :50])
    assert all(len(set(row)) == 50 for row in columns.tolist())


def test_products_are_held_for_a_few_queries_at_a_time(monkeypatch):
    block, queries = cloud(500, 6).astype(np.float32), cloud(90, 6, 1).astype(np.float32)
    squares, rows = exact.candidates(queries, block, 20)
    monkeypatch.setattr(exact, "_PRODUCT", 3000)
    again, same = exact.candidates(queries, block, 20)
    difference = queries[:, None] - block[None]
    np.testing.assert_allclose(
        np.sort(squares, axis=1), np.sort((difference**2).sum(axis=-1), axis=1)[:, :20], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.sort(same, axis=1))
    np.testing.assert_allclose(np.sort(squares, axis=1), np.sort(again, axis=1), rtol=1e-5, atol=1e-5)
