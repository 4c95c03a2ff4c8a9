"""Several sources as one: samples or time points below each other, over the features they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from heatwalk.errors import first_few
from heatwalk.inputs import names
from heatwalk.inputs.opened import Input, rebatch
from heatwalk.inputs.problems import bad


class Below:
    """Arrays with the same columns, one below the other, sliced by rows as one."""

    def __init__(self, arrays: list):
        self.arrays = arrays
        self.starts = np.cumsum([0, *(array.shape[0] for array in arrays)])
        self.shape = (int(self.starts[-1]), arrays[0].shape[1])
        self.dtype = np.result_type(*(array.dtype for array in arrays))

    def __getitem__(self, key):
        rows, *rest = key if isinstance(key, tuple) else (key,)
        start, stop, step = rows.indices(self.shape[0])
        pieces = [
            np.asarray(array[max(start - first, 0) : max(min(stop - int(first), array.shape[0]), 0)])
            for first, array in zip(map(int, self.starts), self.arrays, strict=False)
        ]
        values = np.concatenate(pieces).astype(self.dtype, copy=False)[::step]
        return values[(slice(None), *rest)] if rest else values


def joined(labels: list[str], parts: list[Input]) -> Input:
    """All parts as one source, in the order written; `obs` says in `sample` where a cell is from."""
    where = "; ".join(part.where for part in parts)
    shapes = {part.item_shape for part in parts if len(part.item_shape) > 1}
    if shapes and len({part.item_shape for part in parts}) > 1:
        cause = f"items have different shapes: {sorted({part.item_shape for part in parts})}"
        raise bad("HW-IN-018", where, cause, "give samples whose items have one shape")
    parts = same_key(parts)
    features, feature_notes = shared_features(parts, where)
    obs, obs_notes = stacked_obs(labels, parts)
    dtype = np.result_type(*(part.dtype for part in parts))
    sparse = any(part.sparse for part in parts)
    places = [part.features.index.get_indexer(features.index) for part in parts]

    def pieces(n_rows: int) -> Iterator:
        import scipy.sparse

        for part, place in zip(parts, places, strict=True):
            whole = len(place) == len(part.features) and (np.diff(place) == 1).all()
            for block in part.blocks(n_rows):
                block = (block if whole else block[:, place]).astype(dtype, copy=False)
                block = scipy.sparse.csr_matrix(block) if sparse else block
                if sparse:
                    block.sort_indices()
                yield block

    resources = ExitStack()
    for part in parts:
        resources.callback(part.close)
    notes = [f"{label}: {note}" for label, part in zip(labels, parts, strict=True) for note in part.notes]
    item_shape = parts[0].item_shape if shapes else (len(features),)
    return Input(
        where, features, obs, MappingProxyType(shared_obsm(parts)), item_shape, dtype, sparse,
        (*notes, *feature_notes, *obs_notes), lambda n_rows: rebatch(pieces(n_rows), n_rows), resources,
    )  # fmt: skip


def same_key(parts: list[Input]) -> list[Input]:
    """All parts keyed by ids when duplicated symbols made some of them so."""
    column = next((p.features.index.name for p in parts if p.features.index.name in names.ID_COLUMNS), None)
    others = [part for part in parts if part.features.index.name != column]
    if column is None or not all(
        column in part.features.columns and names.keyable(part.features, column) for part in others
    ):
        return parts
    return [replace(part, features=names.keyed(part.features, column)) if part in others else part for part in parts]


def shared_features(parts: list[Input], where: str) -> tuple[object, list[str]]:
    """The features of the first part that all parts have, in its order."""
    first = parts[0].features
    keep = np.ones(len(first), bool)
    for part in parts[1:]:
        keep &= first.index.isin(part.features.index)
    if not keep.any():
        several = [first_few(part.features.index, 2) for part in parts]
        cause = f"the {len(parts)} samples have no feature in common (they have {' / '.join(several)})"
        raise bad("HW-IN-028", where, cause, "name the features alike in all: all by symbol or all by id")
    most = max(len(part.features) for part in parts)
    notes = []
    if keep.sum() < most:
        notes.append(f"{int(keep.sum()):,} features are in all {len(parts)} samples and are kept, of up to {most:,}")
    return first[keep], notes


def stacked_obs(labels: list[str], parts: list[Input]) -> tuple[object, list[str]]:
    """The tables below each other, with `sample`; cell names get the label in front when two samples share one."""
    import pandas

    notes = []
    tables = []
    for label, part in zip(labels, parts, strict=True):
        table = part.obs
        if "sample" in table.columns:
            table = table.rename(columns={"sample": "sample_before"})
            notes.append(f"{label}: the obs column sample is now called sample_before")
        tables.append(table)
    every = np.concatenate([np.asarray(table.index, dtype=object) for table in tables])
    names_twice = pandas.Index(every)
    shared = names_twice[names_twice.duplicated()].nunique()
    if shared:
        every = np.concatenate([[f"{label}:{n}" for n in t.index] for label, t in zip(labels, tables, strict=True)])
        notes.append(f"{shared:,} cell names occur in more than one sample: the label was put in front of all of them")
    columns = dict.fromkeys(name for table in tables for name in table.columns)
    obs = pandas.DataFrame({name: _stacked_column(name, tables) for name in columns}, index=range(len(every)))
    sample = np.repeat(labels, [len(table) for table in tables])
    obs["sample"] = pandas.Categorical(sample, categories=labels)
    obs.index = pandas.Index(every.astype(object))
    obs, column_notes = names.plain_columns(obs, "obs")
    return obs, [*notes, *column_notes]


def _stacked_column(name: str, tables: list):
    """One column of all tables; missing where a table has none."""
    import pandas

    types = {str(table[name].dtype) if name in table.columns else None for table in tables}
    if len(types) == 1 and types != {"category"}:
        return pandas.concat([table[name] for table in tables], ignore_index=True)
    pieces = [
        table[name].astype(object) if name in table.columns else pandas.Series(np.nan, table.index, dtype=object)
        for table in tables
    ]
    column = pandas.concat(pieces, ignore_index=True)
    return column.astype("category") if "category" in types else column.infer_objects()


def shared_obsm(parts: list[Input]) -> dict[str, object]:
    """The obsm arrays that all parts have with the same number of columns."""
    keys = [key for key in parts[0].obsm if all(key in part.obsm for part in parts)]
    return {
        key: Below([part.obsm[key] for part in parts])
        for key in keys
        if len({part.obsm[key].shape[1] for part in parts}) == 1
    }
