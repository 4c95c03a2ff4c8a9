"""Cells of which `column=value` of obs holds, as options name them."""

import re

import numpy as np

from heatwalk.errors import BadInput, Problem, first_few


def column_of(obs, asked: str) -> str | None:
    """The column that a condition begins with; None where obs has no such column. A name may hold '=' itself.

    >>> column_of({"day": []}, "day=2"), column_of({"day": []}, "hour=2")
    ('day', None)
    """
    cuts = [match.start() for match in re.finditer("=", asked)]
    return next((asked[:cut] for cut in cuts if asked[:cut] in obs), None)


def matching(obs, asked: str, code: str, where: str) -> np.ndarray:
    """Numbers of the cells of which a condition holds: `column=value`, also `column=min` and `column=max` of numbers.

    Raises BadInput with this code and place where there is no such column, or no cell with that value.
    """
    column = column_of(obs, asked)
    if column is None:
        name = asked.partition("=")[0]
        cause = f"{asked!r} is not written column=value" if "=" not in asked else f"there is no column {name!r} in obs"
        remedy = f"use a column of obs: {first_few(obs.columns, 10) or 'none is there'}"
        raise BadInput(Problem(code, where, cause, remedy))
    return with_value(obs[column], asked[len(column) + 1 :], asked, code, where)


def met(obs, asked: str, code: str, where: str) -> np.ndarray:
    """(cell,) bool, whether a condition holds; an empty one holds of every cell."""
    if not asked:
        return np.ones(len(obs), bool)
    return np.isin(np.arange(len(obs)), matching(obs, asked, code, where))


def with_value(column, value: str, asked: str, code: str, where: str) -> np.ndarray:
    """Numbers of the cells that have a value, written as text or as a number; or the least or the largest one."""
    import pandas

    if isinstance(column.dtype, pandas.CategoricalDtype) and _numbers(column.cat.categories):
        column = column.astype(np.float64)
    is_number = _numbers(column)
    if is_number:
        values = column.to_numpy(np.float64, na_value=np.nan)
        ends = {"min": np.fmin.reduce(values), "max": np.fmax.reduce(values)} if len(values) else {}
        try:
            found = np.flatnonzero(values == (ends[value] if value in ends else float(value)))
        except ValueError:
            found = np.empty(0, np.int64)
    else:
        found = np.flatnonzero(column.astype("string").eq(value).fillna(False).to_numpy(bool))
    if not len(found):
        levels = column.dropna().unique()
        cause = f"no cell has {asked!r}"
        if is_number and len(levels):
            cause += f": the column goes from {ends['min']:g} to {ends['max']:g}"
        remedy = f"use one of its values: {first_few(sorted(map(str, levels)), 8)}{', or min or max' * is_number}"
        raise BadInput(Problem(code, where, cause, remedy if len(levels) else "use another column: it has no value"))
    return found


def _numbers(values) -> bool:
    import pandas

    return pandas.api.types.is_numeric_dtype(values) and not pandas.api.types.is_bool_dtype(values)
