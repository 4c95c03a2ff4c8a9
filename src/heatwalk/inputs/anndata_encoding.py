"""AnnData as groups and arrays, the same in HDF5 and in Zarr; also as HDF5 records, as before anndata 0.7.

root ─┬─ X            dense, or a group data, indices, indptr
      ├─ layers ─ *   like X
      ├─ raw ─┬─ X    before 0.7: raw.X, raw.var
      │       └─ var
      ├─ obs, var     tables: groups of columns; before 0.7: records, with categories in uns/<column>_categories
      └─ obsm ─ *     arrays with one row per cell; before 0.7: fields of one record array
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from heatwalk.errors import Problem
from heatwalk.inputs import names
from heatwalk.inputs.frames import read_frame
from heatwalk.inputs.matrices import Sparse, open_sparse, read_dense
from heatwalk.inputs.opened import ITEM_KINDS, Input, Request, check_shape, item_names, number_type
from heatwalk.inputs.problems import bad, gathering, raise_all, suggestion
from heatwalk.inputs.sizes import missing


class Values(NamedTuple):
    """Where the values asked for lie, and the table that names their columns (none for obsm)."""

    node: object
    var: object | None
    path: str


class Opened(NamedTuple):
    """A matrix that can be read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    sparse: bool
    read: Callable[[int], Iterator]
    notes: tuple[str, ...]


class Field:
    """One field of a record array, as an array of its own: how obsm was stored before anndata 0.7."""

    def __init__(self, records, name: str):
        self.records, self.name = records, name
        base, item_shape = records.dtype.fields[name][0].subdtype or (records.dtype.fields[name][0], ())
        self.dtype, self.shape, self.chunks = base, (*records.shape, *item_shape), records.chunks

    def __getitem__(self, rows):
        return np.asarray(self.records[rows][self.name])


def is_group(node: object) -> bool:
    return hasattr(node, "keys")


def children(root: object, name: str) -> list[str]:
    """Names under a group, or the fields of a record array; empty when there is no such element."""
    if name not in root:
        return []
    node = root[name]
    return sorted(node.keys()) if is_group(node) else list(node.dtype.names or ())


def open_anndata(root, storage, path: str, request: Request, resources: ExitStack) -> Input:
    """The AnnData under `root`, with the values that `request.layer` names."""
    if "obs" not in root and "var" not in root:
        cause = f"is no AnnData: it has neither obs nor var (only {', '.join(list(root.keys())[:8]) or 'nothing'})"
        raise bad("HW-IN-007", path, cause, "give a file that anndata or cellranger wrote")
    problems: list[Problem] = []
    obs = var = opened = values = None
    obs_notes = var_notes = obs_gaps = var_gaps = ()
    with gathering(problems):
        obs, obs_gaps = read_frame(root, "obs", storage, path)
        obs, obs_problems, obs_notes = names.cells(obs, f"{path}:obs")
        problems += obs_problems
    with gathering(problems):
        values = find_values(root, path, request)
    if values is not None:
        where = f"{path}:{values.path}"
        with gathering(problems):
            opened = open_values(values.node, where, storage, request)
        with gathering(problems):
            if values.var is not None and (opened is None or len(opened.shape) == 2):
                var, var_gaps = read_frame(root, values.var, storage, path)
                var, var_problems, var_notes = names.features(var, f"{path}:{values.var}")
                problems += var_problems
        problems += _lengths(values, where, opened, obs, var)
    raise_all(problems)
    var = _unnamed(values.path, opened.shape[1:]) if var is None else var
    obsm, obsm_notes = open_obsm(root, len(obs), storage, path)
    notes = (*opened.notes, *obs_gaps, *obs_notes, *var_gaps, *var_notes, *obsm_notes)
    read, shape = opened.read, opened.shape[1:]
    return Input(where, var, obs, MappingProxyType(obsm), shape, opened.dtype, opened.sparse, notes, read, resources)


def _lengths(values: Values, where: str, opened: Opened | None, obs, var) -> Iterator[Problem]:
    """Rows against cells and columns against features, as far as they could be read."""
    remedy = "write the object again with anndata, which keeps them equal"
    if opened is not None and obs is not None and opened.shape[0] != len(obs):
        cause = f"{values.path} has {opened.shape[0]:,} rows but obs names {len(obs):,} cells"
        yield Problem("HW-IN-018", where, cause, remedy)
    if opened is not None and var is not None and opened.shape[1] != len(var):
        cause = f"{values.path} has {opened.shape[1]:,} columns but {values.var} names {len(var):,} features"
        yield Problem("HW-IN-018", where, cause, remedy)


def _unnamed(path: str, item_shape: tuple[int, ...]):
    """A table of features that have no names of their own."""
    import pandas

    return pandas.DataFrame(index=pandas.Index(item_names(path.split("/")[-1], item_shape), dtype=object))


def find_values(root, path: str, request: Request) -> Values:
    """X, a layer, raw or an obsm array: what `layer` means."""
    layer = request.layer
    if layer.startswith("obsm:"):
        key = layer.removeprefix("obsm:")
        keys = children(root, "obsm")
        if key not in keys:
            remedy = f"{suggestion(key, keys)} after obsm: in `layer`"
            raise bad("HW-IN-014", path, f"there is no obsm key {key!r}", remedy)
        node = root["obsm"]
        return Values(node[key] if is_group(node) else Field(node, key), None, f"obsm/{key}")
    layers = children(root, "layers")
    if layer == "" and "X" in root:
        return Values(root["X"], "var", "X")
    if layer and layer in layers:
        return Values(root["layers"][layer], "var", f"layers/{layer}")
    if layer == "raw":
        for matrix, table in (("raw/X", "raw/var"), ("raw.X", "raw.var")):
            if matrix in root and table in root:
                return Values(root[matrix], table, matrix)
    known = [*layers, *(["raw"] if "raw" in root or "raw.X" in root else [])]
    if not layer:
        raise bad("HW-IN-008", path, "has no X", f"{suggestion('', known)} in `layer`")
    hint = f"{suggestion(layer, known)} in `layer`" if known else "leave `layer` empty to read X"
    raise bad("HW-IN-013", path, f"there is no layer {layer!r}", hint)


def open_values(node, where: str, storage, request: Request) -> Opened:
    """A stored matrix, checked, with the function that reads its rows."""
    if is_group(node):
        parts = sparse_parts(node, where)
        raise_all(check_shape(parts.shape, request.kind, where))
        dtype, read = open_sparse(parts, where, storage, request.memory)
        return Opened(parts.shape, dtype, True, read, ())
    stored = node.records if isinstance(node, Field) else node
    raise_all(storage.check(stored, where))
    dtype = number_type(node.dtype, where)
    shape = tuple(int(size) for size in node.shape)
    if len(shape) == 1 and request.kind not in ITEM_KINDS:
        shape = (*shape, 1)  # one value per cell: anndata once wrote tables of one column so
    raise_all(check_shape(shape, request.kind, where))
    if request.layer.startswith("obsm:"):
        raise_all(missing(storage, stored, where))
    gaps = storage.missing_chunks(stored)
    note = (
        f"{gaps:,} chunks of {where} have no stored bytes: the values of their cells read as zeros. Right if these "
        "were the values, else the source is not whole: copy it again"
    )
    return Opened(shape, dtype, False, lambda n_rows: read_dense(node, dtype, n_rows), (note,) if gaps else ())


def sparse_parts(group, where: str) -> Sparse:
    """The three arrays of a sparse matrix in a group, and which way it is stored."""
    attributes = dict(group.attrs)
    encoding = attributes.get("encoding-type", attributes.get("h5sparse_format", ""))
    encoding = encoding.decode() if isinstance(encoding, bytes) else str(encoding)
    if encoding not in ("csr_matrix", "csc_matrix", "csr", "csc"):
        cause = f"is a group of encoding {encoding or 'unknown'!r}, not a matrix"
        raise bad("HW-IN-008", where, cause, "name a layer that holds a matrix, or save the values as one")
    missing = [name for name in ("data", "indices", "indptr") if name not in group or is_group(group[name])]
    if missing:
        raise bad("HW-IN-008", where, f"a sparse matrix without {', '.join(missing)}", "copy or export the file again")
    shape = attributes.get("shape", attributes.get("h5sparse_shape"))
    shape = () if shape is None else tuple(int(size) for size in np.ravel(shape))
    if len(shape) != 2 or min(shape) < 0:
        raise bad("HW-IN-008", where, f"a sparse matrix with shape {shape}", "copy or export the file again")
    return Sparse(group["data"], group["indices"], group["indptr"], shape, encoding.startswith("csr"))


def open_obsm(root, n_cells: int, storage, path: str) -> tuple[dict[str, object], list[str]]:
    """The numeric obsm arrays that can be read by rows; a note about the others."""
    found, notes, gaps = {}, [], []
    for key in children(root, "obsm"):
        node = root["obsm"]
        if not is_group(node) and node.dtype.names:
            array = Field(node, key)
            checked = node
        else:
            array = checked = node[key]
        if is_group(array):
            notes.append(f"obsm {key!r} is left out: it is a table or a sparse matrix")
        elif len(array.shape) != 2 or array.shape[0] != n_cells or np.dtype(array.dtype).kind not in "iuf":
            notes.append(f"obsm {key!r} is left out: {array.dtype} of shape {tuple(array.shape)}")
        elif problems := storage.check(checked, f"{path}:obsm/{key}"):
            notes.append(f"obsm {key!r} is left out: {problems[0].cause}")
        else:
            gaps += missing(storage, checked, f"{path}:obsm/{key}")
            found[key] = array
    raise_all(gaps)
    return found, notes
