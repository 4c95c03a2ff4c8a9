"""A result that is being made: Zarr arrays after the schema, every chunk with a checksum. `store.create` makes one."""

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np

from heatwalk import schema

_EDGE_CHUNK = 2**20
_LARGEST_CHUNK_BYTES = 2**26


class Draft(MutableMapping):
    """An unpublished result: a mapping from array name to a writable Zarr array, made after the schema.

    Setting a whole array, a number, a data frame or a dict of arrays writes it at once; `make` gives an array to fill.
    """

    def __init__(self, folder: Path, stage: str, path: Path, block_cells: int):
        import zarr

        self.folder, self.stage, self.path, self.block_cells = folder, stage, path, block_cells
        self.scratch = path.parent.absolute() / "scratch"  # workers elsewhere know it by this name
        self.scratch.mkdir()
        self.group = zarr.create_group(path, zarr_format=3)
        self._arrays: dict[str, object] = {}

    def file(self, name: str) -> Path:
        """Where to write a file that is published beside the data."""
        return self.path.parent / name

    def write(self, name: str, array) -> Path:
        """A file beside the data with the bytes of an array; where it is."""
        path = self.file(name)
        path.write_bytes(np.asarray(array[:], np.uint8).tobytes())
        return path

    def make(self, name: str, shape: tuple[int, ...], dtype) -> "Aligned":
        base, _, key = name.partition("/")
        contract = schema.SCHEMAS[self.stage].get(base)
        if key and contract and contract.kind == "arrays":
            dimensions = (contract.dimensions[0], "coordinate")
        else:
            schema.check(self.stage, name, shape, dtype)
            dimensions = contract.dimensions[len(contract.dimensions) - len(shape) :]
        chunks = _chunks(dimensions, shape, dtype, self.block_cells)
        array = self.group.create_array(
            name,
            shape=tuple(shape),
            chunks=chunks,
            dtype=np.dtype(dtype).newbyteorder("<"),
            dimension_names=dimensions,
            **encoding(dtype),
        )
        self._arrays[name] = Aligned(array)
        return self._arrays[name]

    def __setitem__(self, name: str, value) -> None:
        kind = schema.SCHEMAS[self.stage][name].kind
        if kind == "table":
            write_element(self.group, name, value)
            self._arrays[name] = value
        elif kind == "arrays":
            for key, array in value.items():
                self.make(f"{name}/{key}", array.shape, array.dtype)[:] = np.asarray(array)
        else:
            value = np.asarray(value)
            self.make(name, value.shape, value.dtype)[...] = value

    def __getitem__(self, name: str):
        return self._arrays[name]

    def __delitem__(self, name: str) -> None:
        del self._arrays[name]
        del self.group[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class Aligned:
    """A Zarr array that refuses a write which shares a chunk with another: such writes corrupt silently in parallel."""

    def __init__(self, array):
        self._array = array

    def __getattr__(self, name: str):
        return getattr(self._array, name)

    def __len__(self) -> int:
        return self._array.shape[0]

    def __getitem__(self, selection):
        return self._array[selection]

    def __setitem__(self, selection, value) -> None:
        first = selection[0] if isinstance(selection, tuple) and selection else selection
        if isinstance(first, slice):
            start, stop, _ = first.indices(self._array.shape[0])
            chunk = self._array.chunks[0]
            if start % chunk or (stop % chunk and stop != self._array.shape[0]):
                raise ValueError(
                    f"rows {start} to {stop} of {self._array.name} do not fill whole chunks of {chunk} rows; "
                    f"write blocks whose bounds are multiples of {chunk}"
                )
        self._array[selection] = value


def encoding(dtype) -> dict:
    """Codec and fill of an array: every chunk carries a checksum, and a missing chunk of floats reads as NaN, not 0."""
    from zarr.codecs import ZstdCodec

    return {
        "compressors": [ZstdCodec(level=1, checksum=True)],
        "fill_value": np.nan if np.dtype(dtype).kind == "f" else 0,
        "config": {"write_empty_chunks": True},
    }


def write_element(group, name: str, value) -> None:
    """Write one AnnData element (a data frame, a nested dict, a matrix) with the same codec as all other arrays."""
    import anndata
    from zarr.codecs import ZstdCodec

    def with_checksum(write, store, key, element, *, dataset_kwargs, **_):
        plain = isinstance(element, (dict, str, int, float, bool, np.generic)) or np.ndim(element) == 0
        options = {} if plain else {"compressors": [ZstdCodec(level=1, checksum=True)]}
        write(store, key, element, dataset_kwargs={**dataset_kwargs, **options})

    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        anndata.experimental.write_dispatched(group, name, value, with_checksum)


def _chunks(dimensions: tuple[str, ...], shape: tuple[int, ...], dtype, block_cells: int) -> tuple[int, ...]:
    """Chunks along the first dimension only; rows are halved, so that blocks stay aligned, until a chunk is bounded."""
    if not shape:
        return ()
    first = {"edge": _EDGE_CHUNK, "gene_edge": _EDGE_CHUNK} | dict.fromkeys(("cell", "row", "particle"), block_cells)
    rows = first.get(dimensions[0], max(shape[0], 1))
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    while rows % 2 == 0 and rows * row_bytes > _LARGEST_CHUNK_BYTES:
        rows //= 2
    return (rows, *(max(length, 1) for length in shape[1:]))
