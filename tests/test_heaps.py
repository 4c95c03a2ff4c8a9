"""Heaps of strings that HDF5 does not come back from are refused before it looks at them."""

import inputs_fixtures as make
import pytest

from heatwalk.errors import BadInput
from heatwalk.inputs import hdf5, heaps


@pytest.fixture
def source(tmp_path):
    return make.write_h5ad(tmp_path / "a.h5ad")


def zero_an_object(path, number: int) -> None:
    """Zero the header of the first object of a heap, as a lost page of the disk would."""
    content = bytearray(path.read_bytes())
    place = -1
    for _ in range(number + 1):
        place = content.index(heaps.HEAP, place + 1)
    content[place + heaps.HEADER : place + 2 * heaps.HEADER] = bytes(heaps.HEADER)
    path.write_bytes(content)


def opened(path):
    from contextlib import ExitStack

    with ExitStack() as resources:
        return sorted(hdf5.open_file(path, resources))


@pytest.mark.parametrize("number", [0, 1])
def test_a_heap_with_a_free_object_of_no_bytes_is_refused(source, number):
    assert "obs" in opened(source)
    zero_an_object(source, number)
    assert heaps.endless(source)  # or HDF5 would not come back here
    with pytest.raises(BadInput, match="HW-IN-006 .*a heap of strings holds a free object of no bytes"):
        opened(source)


@pytest.mark.parametrize("block", [8, 100, 4096])
def test_a_heap_is_found_wherever_a_block_ends(source, block, monkeypatch):
    content = source.read_bytes()
    expected = [place for place in range(len(content)) if content.startswith(heaps.HEAP, place)]
    monkeypatch.setattr(heaps, "BLOCK", block)
    with source.open("rb") as stream:
        assert list(heaps._places(stream)) == expected != []


@pytest.mark.parametrize("length", [0, 3, 16, 200])
def test_a_file_cut_short_has_no_such_heap(source, length):
    source.write_bytes(source.read_bytes()[:length])
    assert not heaps.endless(source)
