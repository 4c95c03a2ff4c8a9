"""The tables obs and var, out of AnnData's groups of columns or the records of its early years."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from heatwalk.errors import Problem
from heatwalk.inputs.problems import bad, damaged, raise_all, reading
from heatwalk.inputs.sizes import check_memory

if TYPE_CHECKING:
    import pandas


def read_frame(root, name: str, storage, path: str) -> pandas.DataFrame:
    """The table `name` under `root`, after its sizes are checked."""
    if name not in root:
        raise bad("HW-IN-008", path, f"has no {name}", "write it again with anndata")
    node = root[name]
    where = f"{path}:{name}"
    with reading(where):
        raise_all(_sizes(node, where, storage))
        if not hasattr(node, "keys"):
            return _from_records(node, root, storage, where)
        return _from_group(node, where)


def _sizes(node, where: str, storage) -> list[Problem]:
    """Every array under a table, alone against its bytes and all together against memory."""
    problems, declared, waiting = [], 0, [(node, where, 0)]
    while waiting:
        item, place, depth = waiting.pop()
        if not hasattr(item, "keys"):
            problems += storage.check(item, place)
            declared += int(np.prod(item.shape, dtype=float)) * max(item.dtype.itemsize, 1)
        elif depth > 4:  # a group that contains itself, or none that anndata wrote
            cause, remedy = "is nested too deep for a table", "write it again with anndata"
            problems.append(Problem("HW-IN-008", place, cause, remedy))
        else:
            waiting += [(item[key], f"{place}/{key}", depth + 1) for key in item]
    return problems + check_memory(declared, where, storage.memory)


def _from_group(group, where: str) -> pandas.DataFrame:
    import pandas
    from anndata import OldFormatWarning
    from anndata.io import read_elem

    encoding = dict(group.attrs).get("encoding-type")
    if encoding != "dataframe":
        cause = f"is a group of encoding {encoding!r}, not a table"
        raise bad("HW-IN-008", where, cause, "write it again with anndata")
    with warnings.catch_warnings():
        # Elements without an encoding are what old files have; they are read all the same.
        warnings.simplefilter("ignore", OldFormatWarning)
        try:
            frame = read_elem(group)
        except Exception as error:  # anndata's registry raises its own class, straight under Exception
            raise bad(*damaged(where, error)) from error
    if not isinstance(frame, pandas.DataFrame):
        raise bad("HW-IN-008", where, f"is a {type(frame).__name__}, not a table", "write it again with anndata")
    return frame


def _from_records(array, root, storage, where: str) -> pandas.DataFrame:
    """One record per row; a column of integers with categories in uns is a category."""
    import pandas

    fields = array.dtype.names
    if not fields or len(array.shape) != 1:
        cause = f"is an array of {array.dtype}, not a table"
        raise bad("HW-IN-008", where, cause, "write it again with anndata")
    records = np.asarray(array[:])
    index = next((name for name in ("index", "_index") if name in fields), fields[0])
    columns = {}
    for name in fields:
        values = records[name]
        if name == index or values.ndim != 1:
            continue
        place = f"uns/{name}_categories"
        if values.dtype.kind in "iu" and place in root:
            raise_all(storage.check(root[place], f"{where} ({place})"))
            categories = _decoded(np.atleast_1d(root[place][()]))
            columns[name] = pandas.Categorical.from_codes(values, categories)
        else:
            columns[name] = _decoded(values)
    return pandas.DataFrame(columns, index=pandas.Index(_decoded(records[index]), dtype=object))


def _decoded(values: np.ndarray) -> np.ndarray:
    """Bytes as text; everything else as it is."""
    if values.dtype.kind == "S" or (values.dtype.kind == "O" and any(isinstance(value, bytes) for value in values)):
        return np.array([v.decode("utf-8") if isinstance(v, bytes) else v for v in values], dtype=object)
    return values.astype(object) if values.dtype.kind == "U" else values
