"""NumPy files: one array in .npy, mapped; or several in .npz, streamed out of the zip. Pickles are never read.

In an .npz, `layer` names the array of values. Of the others, those with one entry per cell become `obs`, those with
one row per cell `obsm`, and `channels` names the columns.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from heatwalk.errors import Problem, first_few
from heatwalk.inputs import names
from heatwalk.inputs.matrices import read_dense
from heatwalk.inputs.opened import Input, Request, check_shape, item_names, number_type
from heatwalk.inputs.problems import bad, raise_all, reading, suggestion
from heatwalk.inputs.sizes import amount, check_memory, check_size

SUFFIXES = (".npy", ".npz")
CELL_NAMES = ("index", "cell", "barcode")


class Member(NamedTuple):
    """One array in the zip, by its header."""

    path: Path
    name: str
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self) -> np.ndarray:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.name + ".npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def rows(self, dtype: np.dtype, n_rows: int) -> Iterator[np.ndarray]:
        """Blocks of rows; in C order without holding more than a block."""
        if self.fortran_order:  # its rows are scattered over the whole array
            yield from read_dense(self.load(), dtype, n_rows)
            return
        width = math.prod(self.shape[1:])
        with zipfile.ZipFile(self.path) as archive, archive.open(self.name + ".npy") as stream:
            _header(stream)
            for first in range(0, self.shape[0], n_rows):
                height = min(n_rows, self.shape[0] - first)
                data = stream.read(height * width * self.dtype.itemsize)
                block = np.frombuffer(data, self.dtype).reshape(height, width)
                yield block.astype(dtype)  # a copy: what frombuffer gives cannot be written to


class Loaded:
    """An array that is loaded when it is first asked for."""

    def __init__(self, member: Member):
        self.member, self.shape, self.dtype = member, member.shape, member.dtype
        self._values = None

    def __getitem__(self, rows):
        if self._values is None:
            with reading(f"{self.member.path}:{self.member.name}"):
                self._values = self.member.load()
        return self._values[rows]


def recognise(path: Path) -> bool:
    """A file called .npy or .npz, whatever is in it."""
    return path.is_file() and path.suffix in SUFFIXES


def open(path: Path, request: Request) -> Input:
    """Map the array, or find it among the members."""
    with reading(path):
        return _open_npy(path, request) if path.suffix == ".npy" else _open_npz(path, request)


def _header(stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"npy version {version} is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _open_npy(path: Path, request: Request) -> Input:
    import pandas

    if request.layer:
        raise bad("HW-IN-013", path, "an .npy holds one array and no layers", "leave `layer` empty")
    with path.open("rb") as stream:
        shape, _, dtype = _header(stream)
    number = number_type(dtype, str(path))
    raise_all(check_shape(shape, request.kind, str(path)))
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    features = pandas.DataFrame(index=pandas.Index(item_names("X", shape[1:]), dtype=object))
    obs = pandas.DataFrame(index=pandas.RangeIndex(shape[0]).astype(str).astype(object))
    return Input(
        str(path), features, obs, MappingProxyType({}), shape[1:], number, False, (),
        lambda n_rows: read_dense(array, number, n_rows),
    )  # fmt: skip


def _members(path: Path, memory: int) -> tuple[dict[str, Member], list[str]]:
    """The arrays by name, from their headers alone; and notes about members that cannot be read."""
    members, notes, problems = {}, [], []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            where = f"{path}:{name}"
            if not info.filename.endswith(".npy"):
                notes.append(f"{info.filename!r} is left out: it is no array")
                continue
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
                cause = "is encrypted, or compressed otherwise than by deflate"
                remedy = "save the arrays again with numpy.savez_compressed"
                problems.append(Problem("HW-IN-009", where, cause, remedy))
                continue
            with reading(where), archive.open(info) as stream:
                shape, fortran_order, dtype = _header(stream)
                if dtype.hasobject:
                    notes.append(f"{name!r} is left out: it holds Python objects, which are never read")
                    continue
                found = check_size(shape, (), dtype.itemsize, info.compress_size, where, memory)
                declared = math.prod(shape) * dtype.itemsize
                if not found and declared > info.file_size:
                    remedy = "copy or export the file again"
                    cause = f"declares {declared:,} bytes but holds {info.file_size:,}"
                    found = [Problem("HW-IN-006", where, cause, remedy)]
                problems += found
                members[name] = Member(path, name, shape, fortran_order, dtype)
    raise_all(problems)
    return members, notes


def _choose(members: dict[str, Member], notes: list[str], path: Path, layer: str) -> Member:
    if layer:
        if layer in members:
            return members[layer]
        cause = f"there is no array {layer!r}"
        if any(note.startswith(f"{layer!r}") for note in notes):
            cause = f"the array {layer!r} holds Python objects or is none"
            raise bad("HW-IN-019", path, cause, "save it as numbers: numpy.savez_compressed(file, X=X.astype('f4'))")
        raise bad("HW-IN-013", path, cause, f"{suggestion(layer, members)} in `layer`")
    large = [member for member in members.values() if len(member.shape) >= 2]
    if "X" in members:
        return members["X"]
    if len(large) == 1:
        return large[0]
    if not large:
        why = f" ({'; '.join(notes)})" if notes else ""
        code = "HW-IN-019" if notes else "HW-IN-013"
        raise bad(code, path, f"holds no array of two dimensions or more{why}", "save the values as an array X")
    cause = f"holds {len(large)} arrays that could be the values"
    raise bad("HW-IN-013", path, cause, f"write one of {first_few([m.name for m in large], 30)} in `layer`")


def _open_npz(path: Path, request: Request) -> Input:
    members, notes = _members(path, request.memory)
    chosen = _choose(members, notes, path, request.layer)
    where = f"{path}:{chosen.name}"
    dtype = number_type(chosen.dtype, where)
    problems = check_shape(chosen.shape, request.kind, where)
    if chosen.fortran_order and chosen.nbytes > request.memory:
        cause = f"lies in Fortran order, and takes {amount(chosen.nbytes)} at once"
        remedy = "save it in rows: numpy.savez_compressed(file, X=numpy.ascontiguousarray(X)); or give more memory"
        problems.append(Problem("HW-IN-011", where, cause, remedy))
    raise_all(problems)
    n_cells, item_shape = chosen.shape[0], chosen.shape[1:]
    features = _feature_table(members, chosen, item_shape, path)
    aside = [m for m in members.values() if m.name not in (chosen.name, "channels")]
    flat = [m for m in aside if m.shape == (n_cells,) and m.dtype.kind in "biufSU"]
    raise_all(check_memory(sum(m.nbytes for m in flat), f"{path} (obs)", request.memory))
    obs = _obs_table(flat, n_cells)
    beside = [m for m in aside if len(m.shape) == 2 and m.shape[0] == n_cells and m.dtype.kind in "iuf"]
    obsm = {m.name: Loaded(m) for m in beside if m.nbytes <= request.memory}
    obs, features, name_notes = names.checked(obs, features, str(path), f"{path}:channels")
    notes = (*notes, *name_notes)
    return Input(
        where, features, obs, MappingProxyType(obsm), item_shape, dtype, False, notes,
        lambda n_rows: chosen.rows(dtype, n_rows), ExitStack(),
    )  # fmt: skip


def _feature_table(members: dict[str, Member], chosen: Member, item_shape: tuple[int, ...], path: Path):
    import pandas

    labels = item_names(chosen.name, item_shape)
    channels = members.get("channels")
    if channels is not None and channels.dtype.kind in "SU" and len(item_shape) == 1:
        if channels.shape != item_shape:
            cause = f"names {math.prod(channels.shape)} columns, {chosen.name} has {item_shape[0]}"
            raise bad("HW-IN-018", f"{path}:channels", cause, "give one name per column")
        labels = list(channels.load())
    return pandas.DataFrame(index=pandas.Index(labels, dtype=object))


def _obs_table(members: list[Member], n_cells: int):
    import pandas

    columns = {m.name: m.load() for m in members}
    columns = {k: names.decoded(v) for k, v in columns.items()}
    named_by = next((m.name for m in members if m.name in CELL_NAMES and m.dtype.kind in "SU"), None)
    index = pandas.RangeIndex(n_cells).astype(str) if named_by is None else columns.pop(named_by)
    return pandas.DataFrame(columns, index=pandas.Index(index, dtype=object))
