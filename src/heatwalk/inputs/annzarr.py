"""AnnData in Zarr v2 or v3: its metadata is read as JSON, and judged, before any codec touches a chunk."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from heatwalk.errors import Problem, first_few
from heatwalk.inputs.anndata_encoding import open_anndata
from heatwalk.inputs.opened import Input, Request
from heatwalk.inputs.problems import bad, damaged, raise_all, reading
from heatwalk.inputs.sizes import check_size

MARKERS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata", ".zattrs")
METADATA_BYTES = 2**26
CODECS_V3 = {"bytes", "zstd", "blosc", "gzip", "crc32c", "sharding_indexed", "transpose", "vlen-utf8", "vlen-bytes"}
COMPRESSORS_V2 = {"zstd", "blosc", "gzip", "zlib", "lz4"}
# Shuffle and delta only reorder and add numbers of a chunk already decoded: they run nothing and grow nothing.
FILTERS_V2 = {"vlen-utf8", "vlen-bytes", "shuffle", "delta"}


def recognise(path: Path) -> bool:
    """A folder with Zarr metadata, or one called .zarr."""
    return path.is_dir() and (path.suffix == ".zarr" or any((path / name).is_file() for name in MARKERS))


def open(path: Path, request: Request) -> Input:
    """Open the store, once nothing in it points elsewhere or needs a codec that is not on the list."""
    raise_all([*_tree(path), *_codecs(path)])
    import zarr

    resources = ExitStack()
    with reading(path), warnings.catch_warnings():
        # Types that are no standard of Zarr 3 yet, such as texts of fixed length, can be read all the same.
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        # Stray files are no harm, and what is damaged is missed when it is asked for by name.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        # Consolidated metadata may be stale: the arrays' own is read instead.
        root = zarr.open(str(path), mode="r", use_consolidated=False)
        if not isinstance(root, zarr.Group):
            cause, remedy = "is a single Zarr array, no AnnData", "write it with adata.write_zarr, or save it as .npy"
            raise bad("HW-IN-007", path, cause, remedy)
        return open_anndata(root, ZarrStorage(path, request.memory), str(path), request, resources)


def _tree(path: Path) -> Iterator[Problem]:
    """Links and special files, anywhere in the store."""
    found = []
    for folder, folders, files in os.walk(path):
        for name in folders + files:
            place = Path(folder, name)
            if place.is_symlink() or not (place.is_dir() or place.is_file()):  # no pipe, no socket
                found.append(str(place.relative_to(path)))
    if found:
        cause = f"{len(found)} entries are links or special files ({first_few(sorted(found))})"
        yield Problem("HW-IN-004", str(path), cause, "copy the store with its files: cp -rL STORE COPY")


def _codecs(path: Path) -> Iterator[Problem]:
    for folder, _, files in os.walk(path):
        for name in ("zarr.json", ".zarray"):
            if name not in files:
                continue
            place = Path(folder, name)
            where = str(place)
            try:
                if place.stat().st_size > METADATA_BYTES:
                    raise ValueError(f"{place.stat().st_size:,} bytes of metadata")
                metadata = json.loads(place.read_text("utf-8"))
                unknown = _unknown_v2(metadata) if name == ".zarray" else _unknown_v3(metadata)
            except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
                yield damaged(where, error)
                continue
            if unknown:
                cause = f"needs {first_few(sorted(unknown))}, which is not on the list of safe codecs"
                remedy = "write the store again with zstd, blosc or gzip (adata.write_zarr)"
                yield Problem("HW-IN-009", where, cause, remedy)


def _unknown_v2(metadata: dict) -> set[str]:
    filters = [codec["id"] for codec in metadata.get("filters") or ()]
    compressor = metadata.get("compressor")
    used = {("filter", name) for name in filters if name not in FILTERS_V2}
    if compressor is not None and compressor["id"] not in COMPRESSORS_V2 | FILTERS_V2:
        used.add(("compressor", compressor["id"]))
    unknown = {f"{role} {name!r}" for role, name in used}
    if _holds_objects(metadata["dtype"]) and not {"vlen-utf8", "vlen-bytes"} & set(filters):
        unknown.add("objects without vlen-utf8 (Python objects are never read)")
    return unknown


def _holds_objects(dtype: str | list) -> bool:
    if isinstance(dtype, str):
        return dtype.endswith("O")
    return any(_holds_objects(field[1]) for field in dtype)


def _unknown_v3(metadata: dict) -> set[str]:
    if metadata.get("node_type") != "array":
        return set()
    unknown, waiting = set(), list(metadata["codecs"])
    while waiting:
        codec = waiting.pop()
        name = codec if isinstance(codec, str) else codec["name"]
        if name not in CODECS_V3:
            unknown.add(f"codec {name!r}")
        if name == "sharding_indexed":
            waiting += [*codec["configuration"]["codecs"], *codec["configuration"]["index_codecs"]]
    if metadata.get("storage_transformers"):
        unknown.add("storage transformers")
    return unknown


class ZarrStorage:
    """What the files of a store say about an array, before it is read."""

    def __init__(self, path: Path, memory: int):
        self.path, self.memory = path, memory

    def _files(self, array) -> dict[str, int]:
        folder = self.path / array.path
        return {
            str(Path(place, name).relative_to(folder)): Path(place, name).stat().st_size
            for place, _, names in os.walk(folder)
            for name in names
            if name not in MARKERS
        }

    def check(self, array, where: str) -> list[Problem]:
        """Sizes that the stored bytes can fill."""
        stored = sum(self._files(array).values())
        return check_size(array.shape, array.chunks, array.dtype.itemsize, stored, where, self.memory)

    def missing_chunks(self, array) -> int:
        """How many chunks (or shards) have no file and read as the fill value."""
        files = self._files(array)
        unit = getattr(array, "shards", None) or array.chunks
        grid = [-(-size // step) for size, step in zip(array.shape, unit, strict=True)]
        if math.prod(grid) > 10 * len(files) + 1000:
            return math.prod(grid) - len(files)
        return sum(array.metadata.encode_chunk_key(place) not in files for place in product(*map(range, grid)))
