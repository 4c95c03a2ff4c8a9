"""condition: cells of which `column=value` holds, whatever the column is made of."""

import numpy as np
import pandas as pd
import pytest

import heatwalk as hw
from heatwalk.condition import matching

OBS = pd.DataFrame(
    {
        "number": [1.0, 2.0, np.nan, 2.0],
        "category": pd.Categorical([1.0, 2.0, np.nan, 2.0]),
        "whole": pd.Categorical([1, 2, None, 2]),
        "label": pd.Categorical(["1", "2", None, "2.0"]),
        "flag": pd.Categorical([True, False, None, False]),
        "nothing": [np.nan] * 4,
        "a=b": ["1", "2", "x", "2"],
    }
)


@pytest.mark.parametrize("column", ["number", "category", "whole"])
@pytest.mark.parametrize(("value", "cells"), [("2", [1, 3]), ("2.0", [1, 3]), ("min", [0]), ("max", [1, 3])])
def test_numbers_are_numbers_also_as_categories(column, value, cells):
    assert list(matching(OBS, f"{column}={value}", "HW-PA-008", "condition")) == cells


def test_labels_are_text():
    assert list(matching(OBS, "label=2", "HW-PA-008", "condition")) == [1]
    assert list(matching(OBS, "flag=False", "HW-PA-008", "condition")) == [1, 3]
    assert list(matching(OBS, "a=b=2", "HW-PA-008", "condition")) == [1, 3]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("category=3", "the column goes from 1 to 2; use one of its values: 1.0, 2.0, or min or max"),
        ("label=min", "no cell has 'label=min'; use one of its values: 1, 2, 2.0$"),
        ("nothing=max", "no cell has 'nothing=max'; use another column: it has no value$"),
    ],
)
def test_what_no_cell_has_is_said(asked, said):
    with pytest.raises(hw.BadInput, match=said):
        matching(OBS, asked, "HW-PA-008", "condition")
