"""Tables of text: .csv and .tsv, gzipped or not, read in chunks of rows.

Numeric columns (or those named in `columns`) are the features, all others go to `obs`; a first column without a name,
or called index, cell or barcode, names the cells. A first line of nothing but numbers is data: the file has no header.
"""

from __future__ import annotations

import csv
import gzip
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from heatwalk.errors import Problem, first_few
from heatwalk.inputs import names
from heatwalk.inputs.opened import Input, Request, check_shape, find_columns
from heatwalk.inputs.problems import bad, raise_all, reading
from heatwalk.inputs.sizes import check_memory

SUFFIXES = {".csv": ",", ".tsv": "\t"}
CELL_NAMES = ("index", "cell", "barcode")
CHUNK_FIELDS = 2**21  # fields parsed at once while the columns are looked at
LINE = 2**26  # characters that the first line may have


class Layout(NamedTuple):
    """How a table is to be read."""

    separator: str
    columns: list[str]
    skip: int  # header lines
    index: str  # the column that names the cells, "" for none
    notes: tuple[str, ...]


def recognise(path: Path) -> bool:
    """A file called .csv or .tsv, perhaps gzipped."""
    return path.is_file() and _suffix(path) in SUFFIXES


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def open(path: Path, request: Request) -> Input:
    """Look through the table once for the types of its columns, then keep those that are no features."""
    if request.layer:
        raise bad("HW-IN-013", path, "a table has no layers", "leave `layer` empty; choose with `columns`")
    where = str(path)
    with reading(path):
        layout = _layout(path)
        n_rows, kinds = _column_kinds(path, layout)
        numeric = [name for name in layout.columns if kinds[name] == "number" and name != layout.index]
        if n_rows and request.columns:
            _check_columns(request, layout, kinds, where)
        chosen = list(request.columns) or numeric
        raise_all(check_shape((n_rows, len(chosen)), request.kind, where))
        empty = [name for name in layout.columns if kinds[name] == "empty"]
        aside = [name for name in layout.columns if name not in chosen and name not in empty]
        obs = _obs(path, layout, aside, n_rows, kinds, request.memory)
        import pandas

        features = pandas.DataFrame(index=pandas.Index(chosen, dtype=object))
        obs, features, name_notes = names.checked(obs, features, where, where)
    notes = layout.notes
    if empty := [name for name in empty if name not in chosen]:
        notes = (*notes, f"columns without any value are left out: {first_few(empty)}")

    def read(height: int) -> Iterator[np.ndarray]:
        with _chunks(path, layout, height, usecols=chosen, dtype=np.float64) as chunks:
            for chunk in chunks:
                yield np.ascontiguousarray(chunk[chosen].to_numpy())

    return Input(
        where, features, obs, MappingProxyType({}), (len(chosen),), np.dtype(np.float64), False,
        (*notes, *name_notes), read,
    )  # fmt: skip


def _stream(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open("r", encoding="utf-8-sig", newline="")


def _layout(path: Path) -> Layout:
    with _stream(path) as stream:
        line = stream.readline(LINE)
    if not line.strip():
        raise bad("HW-IN-006", path, "starts with an empty line", "remove it, or export the table again")
    separator = SUFFIXES[_suffix(path)]
    if separator not in line:  # semicolons where commas are decimal points, tabs in a file called .csv
        separator = next((other for other in "\t;," if other in line), separator)
    fields = [field.strip() for field in next(csv.reader([line], delimiter=separator))]
    notes, skip = (), 1
    counted = fields == [str(number) for number in range(len(fields))]  # the header of a data frame without names
    if fields[0] and not counted and all(_is_number(field) for field in fields if field):
        fields, skip = [f"column_{number}" for number in range(len(fields))], 0
        notes = ("the table has no header: its columns are called column_0, column_1, ...",)
    if counted:
        note = f"the first line ({first_few(fields, 3)}) was taken as column names; if it holds values, add names above"
        notes = (note,)
    columns = [field or f"column_{number}" for number, field in enumerate(fields)]
    index = columns[0] if not fields[0] or fields[0].lower() in CELL_NAMES else ""
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        cause = f"{len(twice)} column names stand twice in the header ({first_few(twice)})"
        raise bad("HW-IN-015", path, cause, "give every column a name of its own")
    return Layout(separator, columns, skip, index, notes)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


@contextmanager
def _chunks(path: Path, layout: Layout, height: int, **options) -> Iterator:
    """The rows in frames of `height`."""
    import pandas

    with _stream(path) as stream, warnings.catch_warnings():
        # A row longer than the header would lose its last fields with no more than this warning.
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        warnings.simplefilter("ignore", pandas.errors.DtypeWarning)  # columns of mixed types are made text by us
        try:
            yield pandas.read_csv(
                stream,
                sep=layout.separator,
                header=None,
                names=layout.columns,
                skiprows=layout.skip,
                chunksize=height,
                index_col=False,
                **options,
            )
        except pandas.errors.ParserWarning:
            cause = f"some rows have more than the {len(layout.columns)} fields of the first"
            raise bad("HW-IN-006", path, cause, "correct these rows, or export the table again") from None


def _column_kinds(path: Path, layout: Layout) -> tuple[int, dict[str, str]]:
    """The number of rows; and for every column number, empty or other."""
    kinds = dict.fromkeys(layout.columns, "empty")
    n_rows = 0
    try:
        with _chunks(path, layout, max(1, CHUNK_FIELDS // len(layout.columns))) as chunks:
            for chunk in chunks:
                n_rows += len(chunk)
                for name, column in chunk.items():
                    if column.notna().any():
                        kind = "number" if column.dtype.kind in "iuf" else "other"
                        kinds[name] = kind if kinds[name] in ("empty", kind) else "other"
    except ValueError as error:
        if type(error).__name__ != "EmptyDataError":
            raise
    return n_rows, kinds


def _check_columns(request: Request, layout: Layout, kinds: dict[str, str], where: str) -> None:
    available = [name for name in layout.columns if name != layout.index]
    find_columns(request.columns, available, where)
    words = [name for name in request.columns if kinds[name] == "other"]
    if words:
        cause = f"{len(words)} of the columns chosen hold text or other things than numbers ({first_few(words)})"
        raise_all([Problem("HW-IN-019", where, cause, "leave them out of `columns`, or correct their values")])


def _obs(path: Path, layout: Layout, aside: list[str], n_rows: int, kinds: dict[str, str], memory: int):
    import pandas

    frames = []
    if aside:
        types = {name: str for name in aside if kinds[name] == "other" or name == layout.index}
        held = 0
        with _chunks(path, layout, max(1, CHUNK_FIELDS // len(aside)), usecols=aside, dtype=types) as chunks:
            for chunk in chunks:
                held += int(chunk.memory_usage(deep=True).sum())
                raise_all(check_memory(held, f"{path} (obs)", memory))
                frames.append(chunk)
    frame = pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame(index=range(n_rows))
    if layout.index:
        return frame.set_index(layout.index).rename_axis(None)
    return frame.set_axis(pandas.RangeIndex(n_rows).astype(str).astype(object), axis=0)
