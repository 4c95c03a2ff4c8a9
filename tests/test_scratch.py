"""scratch: a file behaves like the array it stands for; rows gathered in another order are those of fancy indexing."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import heatwalk as hw
from heatwalk import compute, scratch

KINDS = [((50,), np.int32), ((50,), np.float64), ((50, 3), np.float32), ((50, 2, 4), np.int64), ((50, 1), np.uint8)]


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def filed(folder, values, name="values"):
    """A scratch file that holds some values."""
    file = scratch.array(folder, name, values.shape, values.dtype)
    file[: len(values)] = values
    return file


def slices(length, count=60, seed=1):
    """Random slices: whole, empty, open, past the end and counted from the end."""
    rng = np.random.default_rng(seed)
    ends = [sorted(rng.integers(0, length + 20, 2)) for _ in range(count)]
    open_ones = [slice(None), slice(7, None), slice(None, 9), slice(-5, None), slice(None, -45), slice(3, 3)]
    return [slice(int(start), int(stop)) for start, stop in ends] + open_ones


@pytest.mark.parametrize(("shape", "dtype"), KINDS)
def test_what_is_read_is_what_an_array_would_give(tmp_path, shape, dtype):
    values = random(shape, dtype)
    file = filed(tmp_path, values)
    assert (len(file), file.shape, file.dtype) == (len(values), values.shape, values.dtype)
    for rows in slices(len(values)):
        np.testing.assert_array_equal(file[rows], values[rows])
        assert file[rows].dtype == values.dtype
        assert file[rows].shape == values[rows].shape


@pytest.mark.parametrize(("shape", "dtype"), KINDS)
def test_what_is_written_is_what_an_array_would_hold(tmp_path, shape, dtype):
    values = random(shape, dtype)
    file = filed(tmp_path, values)
    for number, rows in enumerate(slices(len(values))):
        new = random(values[rows].shape, dtype, seed=number)
        values[rows], file[rows] = new, new
    np.testing.assert_array_equal(file[:], values)
    file[10:20] = values[10:20] = 7
    np.testing.assert_array_equal(file[:], values)
    file[10:20] = values[10:20] = random((10, *shape[1:]), np.int16)[::-1]
    np.testing.assert_array_equal(file[:], values)


def test_what_was_read_is_a_copy(tmp_path):
    file = filed(tmp_path, np.arange(5))
    read = file[:]
    read[:] = 9
    np.testing.assert_array_equal(file[:], np.arange(5))


def test_values_of_another_shape_are_refused(tmp_path):
    file = filed(tmp_path, np.zeros((5, 2)))
    with pytest.raises(ValueError, match="broadcast"):
        file[0:3] = np.ones((2, 2))
    np.testing.assert_array_equal(file[:], 0)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0)])
def test_an_array_may_be_empty(tmp_path, shape):
    file = scratch.array(tmp_path, "nothing", shape, np.float64)
    file[:] = np.empty(shape)
    assert file[:].shape == shape


@pytest.mark.parametrize("left", [0, 1, 79])
def test_a_file_that_is_too_short_is_an_error_and_not_zeros(tmp_path, left):
    file = filed(tmp_path, np.arange(10))
    with open(file.path, "r+b") as bytes_of:
        bytes_of.truncate(left)
    with pytest.raises(OSError, match=r"values.scratch ends before row 10"):
        file[2:10]
    np.testing.assert_array_equal(file[0 : left // 8], np.arange(left // 8))


def test_reads_and_writes_that_the_system_cuts_short_are_gone_on_with(tmp_path, monkeypatch):
    values = random((40, 3), np.float64)
    real = open

    class Slow:
        """A file that hands over at most 7 bytes at a time."""

        def __init__(self, *arguments, **options):
            self.file = real(*arguments, **options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def seek(self, place):
            self.file.seek(place)

        def readinto(self, view):
            return self.file.readinto(view[:7])

        def write(self, view):
            return self.file.write(view[:7])

    file = scratch.array(tmp_path, "slow", values.shape, values.dtype)
    monkeypatch.setattr(scratch, "open", Slow, raising=False)
    file[:] = values
    np.testing.assert_array_equal(file[5:31], values[5:31])


def test_a_pickled_file_reads_the_same_rows(tmp_path):
    values = random((9, 2), np.float32)
    again = pickle.loads(pickle.dumps(filed(tmp_path, values)))
    np.testing.assert_array_equal(again[3:8], values[3:8])
    assert len(pickle.dumps(again)) < 1000


def test_without_a_folder_an_array_is_held_in_memory():
    made = scratch.array(None, "values", (3, 2), np.int32)
    assert isinstance(made, np.ndarray)
    assert (made.shape, made.dtype) == ((3, 2), np.int32)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system takes no space beforehand")
def test_the_space_of_a_file_is_taken_at_once(tmp_path):
    file = scratch.array(tmp_path, "large", (1000, 5), np.float64)
    state = file.path.stat()
    assert state.st_size == 40_000
    assert state.st_blocks * 512 >= 40_000


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system takes no space beforehand")
def test_a_disk_that_is_too_small_says_so_before_the_work(tmp_path):
    with pytest.raises(OSError, match="No space left|File too large"):
        scratch.array(tmp_path, "huge", (2**58,), np.float64)


def test_files_are_removed_and_arrays_and_missing_files_are_let_be(tmp_path):
    file, gone = filed(tmp_path, np.arange(3), "a"), filed(tmp_path, np.arange(3), "b")
    gone.path.unlink()
    scratch.remove(file, gone, np.arange(3))
    assert not list(tmp_path.iterdir())


# ---- rows in another order -------------------------------------------------------------------------------------------


@pytest.fixture(params=[2, 7, 2**17])
def read_rows(request, monkeypatch):
    monkeypatch.setattr(scratch, "_READ_ROWS", request.param)


PLACES = {
    "mixed": np.random.default_rng(2).permutation(50),
    "as it is": np.arange(50),
    "reversed": np.arange(50)[::-1],
    "turned": np.roll(np.arange(50), 13),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(("shape", "dtype"), KINDS)
def test_gathered_rows_are_those_of_fancy_indexing(tmp_path, read_rows, place, in_file, shape, dtype):
    place, values = PLACES[place], random(shape, dtype)
    source, expected = filed(tmp_path, values) if in_file else values, np.empty_like(values)
    expected[place] = values
    for rows in (slice(0, 50), slice(0, 1), slice(13, 31), slice(49, 50), slice(20, 20)):
        found = scratch.gathered(source, place, rows)
        np.testing.assert_array_equal(found, expected[rows])
        assert found.dtype == values.dtype


@pytest.mark.parametrize("multiple", [1, 4, 60])
@pytest.mark.parametrize("band_bytes", [1, 100, 1000, 2**27])
@pytest.mark.parametrize("place", PLACES)
def test_rearranged_rows_come_in_order_and_once(monkeypatch, read_rows, multiple, band_bytes, place):
    monkeypatch.setattr(scratch, "_BAND_BYTES", band_bytes)
    place, values = PLACES[place], random((50, 3), np.float64)
    with compute.workers("threads", 2) as pool:
        found = list(scratch.rearranged(pool, values, place, multiple))
    expected = np.empty_like(values)
    expected[place] = values
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), expected)
    assert [rows for rows, _ in found] == scratch.bands(values.shape, values.dtype, multiple, 2)
    assert all(len(here) == rows.stop - rows.start for rows, here in found)


@pytest.mark.parametrize("multiple", [1, 4, 60])
@pytest.mark.parametrize("band_bytes", [1, 100, 1000, 2**27])
@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize(("shape", "dtype"), [*KINDS, ((0, 3), np.float64)])
def test_bands_are_consecutive_bounded_and_begin_at_multiples(monkeypatch, multiple, band_bytes, threads, shape, dtype):
    monkeypatch.setattr(scratch, "_BAND_BYTES", band_bytes)
    found = scratch.bands(shape, dtype, multiple, threads)
    starts = [0, *(band.stop for band in found)]
    assert starts == [*(band.start for band in found), shape[0]]
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    for band in found:
        assert band.start % multiple == 0
        assert (band.stop - band.start) * row_bytes <= max(band_bytes / threads, multiple * row_bytes)


def test_calls_that_share_a_folder_do_not_share_files(tmp_path):
    def computed(points, scratch):
        return hw.affinity(points, hw.neighbors(points, n_neighbors=5, method="inverted_lists", scratch=scratch))

    clouds = [np.random.default_rng(seed).normal(size=(600, 3)) for seed in range(3)]
    expected = [computed(points, None) for points in clouds]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda points: computed(points, tmp_path), clouds))
    for one, other in zip(found, expected, strict=True):
        assert [np.asarray(values).tobytes() for values in one] == [np.asarray(values).tobytes() for values in other]
    assert not list(tmp_path.iterdir())
