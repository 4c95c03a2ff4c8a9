"""What every format gives: an opened source, whose rows are read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from heatwalk.errors import Problem
from heatwalk.inputs.problems import bad, raise_all, reading, suggestion

if TYPE_CHECKING:
    import pandas
    import scipy.sparse

KINDS = ("counts", "logged", "intensities", "points", "images", "sequences")
ITEM_KINDS = ("images", "sequences")  # one item per row, of any shape; the other kinds are tables


class Request(NamedTuple):
    """What the user asks of a source: a row of datasets.tsv."""

    kind: str
    layer: str
    columns: tuple[str, ...]
    memory: int  # bytes that may be held at once


@dataclass(frozen=True, eq=False)
class Input:
    """One opened source: small things in memory, values and obsm read by rows when asked for."""

    where: str  # file, and the element in it that holds the values
    features: pandas.DataFrame  # index: feature names
    obs: pandas.DataFrame  # index: cell names
    obsm: Mapping[str, object]  # sliceable (cell, component)
    item_shape: tuple[int, ...]  # (n_features,) for tables, (28, 28) for images
    dtype: np.dtype
    sparse: bool
    notes: tuple[str, ...]  # what a person should be told
    read: Callable[[int], Iterator]  # the format's reader: n_rows -> blocks of exactly n_rows, the last shorter
    resources: ExitStack = field(default_factory=ExitStack)  # open files

    @property
    def n_cells(self) -> int:
        return len(self.obs)

    def blocks(self, n_rows: int) -> Iterator[scipy.sparse.csr_matrix | np.ndarray]:
        """Consecutive blocks of exactly `n_rows` rows, the last one shorter; items are flattened to (row, feature)."""
        if n_rows < 1:
            raise ValueError(f"n_rows must be at least 1, not {n_rows}")
        found = 0
        with reading(self.where):
            for block in self.read(n_rows):
                found += block.shape[0]
                yield block
        if found != self.n_cells:
            raise bad(
                "HW-IN-006",
                self.where,
                f"{found:,} rows of values for {self.n_cells:,} cells",
                "the file is cut short or was changed while it was read: copy or export it again",
            )

    def close(self) -> None:
        self.resources.close()

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Embedding:
    """An obsm array whose rows are read within the border where library errors become problems."""

    def __init__(self, array, where: str):
        self._array, self._where = array, where
        self.shape, self.dtype = tuple(array.shape), array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows):
        with reading(self._where):
            return self._array[rows]


def number_type(dtype: np.dtype, where: str) -> np.dtype:
    """The type in which values are handed on, native and known to SciPy; refused when it is no number."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "iuf":
        names = {"b": "bool", "O": "object", "S": "text", "U": "text", "T": "text", "V": "records", "c": "complex"}
        remedy = "turn the values into numbers (int32 or float32) and save them again"
        if dtype.kind == "c":
            remedy = "split the real and the imaginary part into columns"
        name = names.get(dtype.kind, str(dtype))
        raise bad("HW-IN-019", where, f"values are of type {name} ({dtype}), not numbers", remedy)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize == 2 else np.float64)
    return dtype.newbyteorder("=")


def item_names(prefix: str, item_shape: tuple[int, ...]) -> list[str]:
    """Names for values that have none: X_0, X_1, ... or, in images, X_row_column.

    >>> item_names("X", (2,)), item_names("X", (1, 2))
    (['X_0', 'X_1'], ['X_0_0', 'X_0_1'])
    """
    return ["_".join((prefix, *map(str, place))) for place in np.ndindex(*item_shape)]


def check_shape(shape: tuple[int, ...], kind: str, where: str) -> list[Problem]:
    """Does an array of this shape suit the kind: a table, images, sequences?"""
    problems = []
    least = 3 if kind == "images" else 2
    shown = " x ".join(map(str, shape)) or "no dimension"
    if len(shape) < least:
        remedy = "use kind points for a table" if len(shape) == 2 else "give an array with one row per cell"
        problems.append(
            Problem("HW-IN-020", where, f"an array of {shown} holds no {kind}: {least} dimensions needed", remedy)
        )
    elif len(shape) > 2 and kind not in ITEM_KINDS:
        remedy = "use kind images or sequences, or reshape it to one row per cell"
        problems.append(Problem("HW-IN-020", where, f"an array of {shown} is no table, which {kind} needs", remedy))
    if shape and shape[0] == 0:
        problems.append(Problem("HW-IN-016", where, "there are 0 cells", "give a source with at least one cell"))
    if len(shape) > 1 and 0 in shape[1:]:
        what = "genes" if kind in ("counts", "logged") else "columns"
        remedy = f"give a source with {what}; were all of them filtered out?"
        problems.append(Problem("HW-IN-017", where, f"there are 0 {what} ({shown})", remedy))
    return problems


def find_columns(columns: tuple[str, ...], available: list[str], where: str) -> list[int]:
    """Places of the wanted columns, in the order wanted."""
    place = {name: index for index, name in enumerate(available)}
    problems = [
        Problem("HW-IN-015", where, f"there is no column {name!r}", f"{suggestion(name, available)} in `columns`")
        for name in columns
        if name not in place
    ]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    problems += [Problem("HW-IN-015", where, f"`columns` names {n!r} twice", "name it once") for n in twice]
    raise_all(problems)
    return [place[name] for name in columns]


def choose_columns(opened: Input, request: Request) -> Input:
    """The same source with only the columns wanted."""
    if not request.columns or list(opened.features.index) == list(request.columns):
        return opened
    if len(opened.item_shape) > 1:
        raise bad("HW-IN-015", opened.where, "items with several dimensions have no columns", "leave `columns` empty")
    places = find_columns(request.columns, list(opened.features.index), opened.where)

    def read(n_rows: int) -> Iterator:
        return (block[:, places] for block in opened.read(n_rows))

    return replace(opened, features=opened.features.iloc[places], item_shape=(len(places),), read=read)


def rebatch(pieces: Iterator, n_rows: int) -> Iterator:
    """Blocks of exactly `n_rows` out of pieces of any height.

    pieces  [---]  [-----]  [--]
    blocks  [----]  [----]  [--]
    """
    import scipy.sparse

    kept: list = []
    height = 0
    for piece in pieces:
        while height + piece.shape[0] >= n_rows:
            take = n_rows - height
            kept.append(piece[:take])
            yield _stack(kept, scipy.sparse)
            kept, height, piece = [], 0, piece[take:]
        if piece.shape[0]:
            kept.append(piece)
            height += piece.shape[0]
    if kept:
        yield _stack(kept, scipy.sparse)


def _stack(pieces: list, sparse) -> object:
    if len(pieces) == 1:
        return pieces[0]
    if sparse.issparse(pieces[0]):
        return sparse.csr_matrix(sparse.vstack(pieces, format="csr"))
    return np.concatenate(pieces)


def only_genes(var: pandas.DataFrame, read: Callable[[int], Iterator]) -> tuple[pandas.DataFrame, Callable, tuple]:
    """Without antibodies, guides and peaks, where a 10x matrix holds them beside the genes."""
    types = var["feature_types"].unique() if "feature_types" in var.columns else []
    if len(types) < 2 or "Gene Expression" not in types:
        return var, read, ()
    genes = np.flatnonzero((var["feature_types"] == "Gene Expression").to_numpy())
    others = ", ".join(sorted(str(name) for name in types if name != "Gene Expression"))
    note = f"{len(genes):,} genes are kept, {len(var) - len(genes):,} other features left out ({others})"
    return var.iloc[genes], lambda n_rows: (block[:, genes] for block in read(n_rows)), (note,)
