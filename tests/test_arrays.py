"""arrays: a dict and a store draft are filled by the same verbs and hold the same values."""

import numpy as np
import pytest

from heatwalk import arrays, draft, store


@pytest.fixture
def small_chunks(tmp_path, monkeypatch):
    """A draft of an affinity whose edges lie in chunks of 8."""
    monkeypatch.setattr(draft, "_EDGE_CHUNK", 8)
    return store.create(tmp_path / "data" / "affinity", "affinity", block_cells=4)


def test_make_gives_an_array_of_the_shape_and_type():
    out = {}
    made = arrays.make(out, "degrees", (5,), np.float64)
    assert made is out["degrees"]
    assert (made.shape, made.dtype) == ((5,), np.float64)


def test_make_keeps_an_array_that_is_there():
    out = {"degrees": np.zeros(5)}
    assert arrays.make(out, "degrees", (5,), np.float64) is out["degrees"]


def test_make_refuses_an_array_of_another_shape():
    with pytest.raises(ValueError, match=r"out\['degrees'\] has shape \(4,\), the result has \(5,\)"):
        arrays.make({"degrees": np.zeros(4)}, "degrees", (5,), np.float64)


@pytest.mark.parametrize("lengths", [[], [0], [3], [8], [16], [3, 5], [20, 1], [1] * 19, [0, 9, 0, 8, 7], [40]])
def test_appended_pieces_come_out_in_order_in_memory_and_on_disk(small_chunks, lengths):
    values = np.random.default_rng(0).normal(size=sum(lengths))
    pieces = np.split(values, np.cumsum(lengths)[:-1]) if lengths else []
    for out in ({}, small_chunks):
        appender = arrays.Appender(out, "weights", np.float64)
        for piece in pieces:
            appender.append(piece)
        array = appender.close()
        assert appender.length == len(values)
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array[:], values)
        np.testing.assert_array_equal(out["weights"][:], values)


def test_an_appender_writes_whole_chunks_before_the_last(small_chunks):
    appender = arrays.Appender(small_chunks, "weights", np.float64)
    appender.append(np.arange(7.0))
    assert small_chunks["weights"].shape == (0,)
    appender.append(np.arange(12.0))
    assert small_chunks["weights"].shape == (16,)
    appender.close()
    assert small_chunks["weights"].shape == (19,)


def test_an_appender_converts_to_its_type():
    out = {}
    appender = arrays.Appender(out, "indices", np.int32)
    appender.append(np.arange(3, dtype=np.int64))
    assert appender.close().dtype == np.int32


def test_a_draft_refuses_what_the_schema_does_not_know(small_chunks):
    with pytest.raises(ValueError, match="affinity has no array 'speed'"):
        arrays.make(small_chunks, "speed", (5,), np.float64)
    with pytest.raises(ValueError, match="affinity: degrees has dtype int64, the schema says kind 'f'"):
        arrays.make(small_chunks, "degrees", (5,), np.int64)
    with pytest.raises(ValueError, match="affinity: degrees has 2 dimensions"):
        arrays.make(small_chunks, "degrees", (5, 2), np.float64)


def test_a_draft_refuses_writes_that_share_a_chunk(small_chunks):
    degrees = arrays.make(small_chunks, "degrees", (10,), np.float64)
    degrees[4:8], degrees[8:10] = np.ones(4), np.ones(2)
    with pytest.raises(ValueError, match="rows 2 to 4 of /degrees do not fill whole chunks of 4 rows"):
        degrees[2:4] = np.ones(2)


def test_floats_that_were_never_written_read_as_nan(small_chunks):
    assert np.isnan(arrays.make(small_chunks, "degrees", (10,), np.float64)[:]).all()
