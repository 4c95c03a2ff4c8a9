"""HDF5 read with care: no links out of the file, no foreign filters, no size that its bytes cannot fill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from heatwalk.errors import Problem, first_few
from heatwalk.inputs.heaps import endless
from heatwalk.inputs.problems import bad, damaged, raise_all, reading
from heatwalk.inputs.sizes import check_size

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What every HDF5 library can decode by itself: deflate, shuffle, fletcher32, szip, lzf; blosc where it is installed.
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 32000: "lzf"}
BLOSC = 32001


def has_signature(path: Path) -> bool:
    """Does the file start as HDF5 does?"""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(8) == SIGNATURE


def open_file(path: Path, resources: ExitStack):
    """The file, opened to read, once nothing in it points elsewhere."""
    import h5py

    try:
        file = resources.enter_context(h5py.File(path, "r", locking="best-effort"))
    except OSError as error:
        raise bad(*damaged(path, error)) from error
    if endless(path):
        raise bad(*damaged(path, OSError("a heap of strings holds a free object of no bytes")))
    with reading(path):
        raise_all(_links(file, path))
    return file


def _links(file, path: Path) -> Iterator[Problem]:
    """External links, external storage and virtual datasets, anywhere in the file."""
    import h5py

    links, foreign, seen, waiting = [], [], set(), [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                links.append(f"{group.name.rstrip('/')}/{name} -> {link.filename}")
            if not isinstance(link, h5py.HardLink):
                continue  # a soft link leads to a place that is visited by itself
            node = group[name]
            if isinstance(node, h5py.Group):
                key = h5py.h5o.get_info(node.id).addr  # a group may contain itself
                if key not in seen:
                    seen.add(key)
                    waiting.append(node)
            elif isinstance(node, h5py.Dataset) and (node.is_virtual or node.external):
                foreign.append(node.name)
    remedy = "copy the data into one file: h5repack, or read and write it with anndata"
    if links:
        yield Problem("HW-IN-004", str(path), f"{len(links)} external links ({first_few(links)})", remedy)
    if foreign:
        cause = f"{len(foreign)} datasets have their bytes in other files ({first_few(foreign)})"
        yield Problem("HW-IN-004", str(path), cause, remedy)


class Hdf5Storage:
    """What the bytes of an HDF5 file say about a dataset, before it is read."""

    def __init__(self, memory: int):
        self.memory = memory

    def check(self, dataset, where: str) -> list[Problem]:
        """Filters on the list, and sizes that the stored bytes can fill."""
        import h5py

        properties = dataset.id.get_create_plist()
        used = [properties.get_filter(number) for number in range(properties.get_nfilters())]
        unknown = [
            f"{code} {name.decode('utf-8', 'replace')}".strip()
            for code, _, _, name in used
            if code not in FILTERS and not (code == BLOSC and h5py.h5z.filter_avail(BLOSC))
        ]
        if unknown:
            cause = f"is compressed with {first_few(unknown)}, which is not among {', '.join(FILTERS.values())}"
            remedy = f"rewrite the file: h5repack -f GZIP=4 {Path(dataset.file.filename).name} new.h5"
            return [Problem("HW-IN-009", where, cause, remedy)]
        stored = dataset.id.get_storage_size()
        chunk = dataset.chunks or ()
        return check_size(dataset.shape, chunk, dataset.dtype.itemsize, stored, where, self.memory)

    def missing_chunks(self, dataset) -> int:
        """How many chunks were never written and read as the fill value."""
        if not dataset.size:
            return 0
        if dataset.chunks is None:
            return int(dataset.id.get_storage_size() == 0)
        expected = int(np.prod([-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)]))
        return max(0, expected - dataset.id.get_num_chunks())
