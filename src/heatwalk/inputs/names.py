"""Names of cells and features, and the columns beside them: made fit for AnnData, or refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from heatwalk.errors import Problem, first_few
from heatwalk.inputs.problems import raise_all

if TYPE_CHECKING:
    import pandas

# Columns of `var` that hold stable ids, the usual spellings of 10x, scanpy, Seurat, CELLxGENE and monocle.
ID_COLUMNS = (
    "gene_ids",
    "gene_id",
    "id",
    "ids",
    "ensembl_id",
    "ensembl_ids",
    "ensembl",
    "feature_id",
    "feature_ids",
    "accession",
)
CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")


def named(frame: pandas.DataFrame, where: str, what: str) -> list[Problem]:
    """Turn the index of a fresh frame into text, in place; what is wrong with its names."""
    import pandas

    index = frame.index
    empty = index.isna()
    names = [_text(name) for name in index]
    frame.index = pandas.Index(names, dtype=object, name=index.name)
    empty |= ~np.fromiter(map(str.strip, names), bool, len(names))
    empty = np.flatnonzero(empty)
    problems = []
    if len(empty):
        cause = f"{len(empty):,} {what} names are empty (rows {first_few(empty)})"
        problems.append(Problem("HW-IN-025", where, cause, f"give every {what} a name"))
    broken = [name for name in names if CONTROL.search(name)] if CONTROL.search("".join(names)) else []
    if broken:
        cause = f"{len(broken):,} {what} names hold line breaks or control characters ({first_few(map(repr, broken))})"
        problems.append(Problem("HW-IN-026", where, cause, "remove them from the names"))
    return problems


def _text(name: object) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def cells(frame: pandas.DataFrame, where: str) -> tuple[pandas.DataFrame, list[Problem], list[str]]:
    """`obs` with checked cell names and columns that can be stored."""
    frame = frame.copy(deep=False)
    problems = named(frame, where, "cell")
    twice = frame.index[frame.index.duplicated()].unique()
    twice = [name for name in twice if name.strip()]
    if twice:
        cause = f"{len(twice):,} cell names occur more than once ({first_few(twice)})"
        remedy = "make them unique (adata.obs_names_make_unique()); for several samples write label=path;label=path"
        problems.append(Problem("HW-IN-024", where, cause, remedy))
    frame, notes = plain_columns(frame, "obs")
    return frame, problems, notes


def features(frame: pandas.DataFrame, where: str) -> tuple[pandas.DataFrame, list[Problem], list[str]]:
    """`var` with unique feature names: its own, or the ids beside them, or its own with a number."""
    frame, notes = plain_columns(frame.copy(deep=False), "var")
    problems = named(frame, where, "feature")
    repeated = int(frame.index.duplicated(keep=False).sum())
    if problems or not repeated:
        return frame, problems, notes
    ids = [column for column in ID_COLUMNS if column in frame.columns]
    for column in ids:
        if keyable(frame, column):
            notes.append(f"{repeated:,} features share a name with another: keyed by {column}")
            return keyed(frame, column), problems, notes
    if ids:
        twice = frame.index[frame.index.duplicated()].unique()
        cause = f"{len(twice):,} feature names occur more than once ({first_few(twice)}), and {ids[0]} is not unique"
        remedy = "make them unique (adata.var_names_make_unique()) or repair the ids"
        return frame, [Problem("HW-IN-027", where, cause, remedy)], notes
    frame.index = made_unique(frame.index)
    notes.append(f"{repeated:,} features share a name with another and have no ids: the later ones got -1, -2, ...")
    return frame, problems, notes


def keyable(frame: pandas.DataFrame, column: str) -> bool:
    """Can the features be named by this column?"""
    values = frame[column]
    return bool(values.notna().all() and values.is_unique and values.astype(str).str.strip().ne("").all())


def keyed(frame: pandas.DataFrame, column: str) -> pandas.DataFrame:
    """The features named by their ids; their former names stay as column `symbol`."""
    import pandas

    ids = pandas.Index(frame[column].astype(str).astype(object), name=column)
    former = "symbol" if "symbol" not in frame.columns else "symbol_"
    return frame.drop(columns=column).assign(**{former: frame.index.astype(object)}).set_axis(ids, axis=0)


def made_unique(index: pandas.Index) -> pandas.Index:
    """Add -1, -2, ... to later occurrences, never making a name that is there already (as anndata does)."""
    import pandas

    taken, count, names = set(index), {}, []
    seen = set()
    for name in index:
        new = name
        while new in seen or (new != name and new in taken):
            count[name] = count.get(name, 0) + 1
            new = f"{name}-{count[name]}"
        seen.add(new)
        names.append(new)
    return pandas.Index(names, dtype=object, name=index.name)


def plain_columns(frame: pandas.DataFrame, what: str) -> tuple[pandas.DataFrame, list[str]]:
    """Columns that AnnData can write: names without '/', one type per column."""
    notes = []
    names: list[str] = []
    for column in frame.columns:
        name = CONTROL.sub("_", _text(column)).replace("/", "_") or "unnamed"
        name = "index_" if name == "_index" else name
        while name in names:
            name += "_"
        names.append(name)
    changed = [f"{old} to {new}" for old, new in zip(frame.columns, names, strict=True) if old != new]
    if changed:
        notes.append(f"{what} columns renamed, since they cannot be stored under their name: {first_few(changed)}")
    frame = frame.set_axis(names, axis=1)
    mixed = [name for name in names if _mixed(frame[name])]
    if mixed:
        frame = frame.assign(**{name: _as_text(frame[name]) for name in mixed})
        notes.append(f"{what} columns of mixed types are kept as text: {first_few(mixed)}")
    return frame, notes


def _mixed(column: pandas.Series) -> bool:
    import pandas

    return column.dtype == object and pandas.api.types.infer_dtype(column, skipna=True) not in ("string", "empty")


def _as_text(column: pandas.Series) -> pandas.Series:
    return column.map(_text, na_action="ignore").astype(object)


def checked(
    obs: pandas.DataFrame, var: pandas.DataFrame, obs_where: str, var_where: str
) -> tuple[pandas.DataFrame, pandas.DataFrame, tuple[str, ...]]:
    """Both tables made fit, or BadInput with everything that is wrong with them."""
    obs, obs_problems, obs_notes = cells(obs, obs_where)
    var, var_problems, var_notes = features(var, var_where)
    raise_all(obs_problems + var_problems)
    return obs, var, (*obs_notes, *var_notes)


def decoded(values):
    """An array of bytes as text; every other array as it is."""
    if values.dtype.kind == "S":
        return [value.decode("utf-8") for value in values]
    return values.astype(object) if values.dtype.kind == "U" else values
