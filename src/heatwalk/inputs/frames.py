"""The tables obs and var, out of AnnData's groups of columns or the records of its early years."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from heatwalk.errors import Problem, first_few
from heatwalk.inputs.problems import bad, damaged, raise_all, reading
from heatwalk.inputs.sizes import check_memory, missing

if TYPE_CHECKING:
    import pandas


def read_frame(root, name: str, storage, path: str) -> tuple[pandas.DataFrame, list[str]]:
    """The table `name` under `root`, after its sizes are checked; and what a person should know of it."""
    if name not in root:
        raise bad("HW-IN-008", path, f"has no {name}", "write it again with anndata")
    node = root[name]
    where = f"{path}:{name}"
    with reading(where):
        raise_all(_sizes(node, where, storage))
        if not hasattr(node, "keys"):
            raise_all(missing(storage, node, where))
            return _from_records(node, root, storage, where), []
        problems, notes = _gaps(node, where, storage)
        raise_all(problems)
        return _from_group(node, where), notes


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


def _gaps(frame, where: str, storage) -> tuple[list[Problem], list[str]]:
    """Missing chunks: refused where names, codes or categories would be wrong; a note where zeros may be all there was.

    Zarr leaves out chunks that hold nothing but the fill value, so a column of zeros has no files at all.
    """
    index = dict(frame.attrs).get("_index", "_index")
    problems, empty = [], []
    for key in frame:
        waiting = [(frame[key], key)]
        while waiting:
            item, place = waiting.pop()
            if hasattr(item, "keys"):
                waiting += [(item[name], f"{place}/{name}") for name in item]
            elif gaps := missing(storage, item, f"{where}/{place}"):
                wanted = key == index or (_is_categories(frame[key]) and _n_categories(frame[key]) > 1)
                if wanted and place.endswith("/mask"):
                    continue  # names and categories are all there: false throughout, which Zarr leaves out
                # Sorted cells fill whole chunks with the first category, which Zarr leaves out too; never all chunks.
                sorted_codes = place.endswith("/codes") and storage.missing_chunks(item) < _n_chunks(item)
                if wanted and not sorted_codes:
                    problems += gaps
                else:
                    empty.append(place)
    if not empty:
        return problems, []
    note = (
        f"{len(empty)} columns of {where} have chunks without stored bytes, which read as 0, false, empty text or the "
        f"first category ({first_few(sorted(empty))}): right if these were the values, else the store is not whole"
    )
    return problems, [note]


def _n_chunks(array) -> int:
    return math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))


def _is_categories(column) -> bool:
    return hasattr(column, "keys") and "codes" in column and "categories" in column


def _n_categories(column) -> int:
    """With a single category, codes of zeros are all that can stand there."""
    categories = column["categories"]
    categories = categories["values"] if hasattr(categories, "keys") else categories
    return int(np.prod(categories.shape))


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
            raise_all(missing(storage, root[place], f"{where} ({place})"))
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
