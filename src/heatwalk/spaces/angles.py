"""Angles in the units that a table of points has them in."""

import numpy as np


def radians(values: np.ndarray, units: str) -> np.ndarray:
    """The same angles in radians; raises ValueError for units that are neither "degrees" nor "radians".

    >>> radians(np.array([180.0]), "degrees").round(3).tolist()
    [3.142]
    """
    if units not in ("degrees", "radians"):
        raise ValueError(f"units are {units!r}, not degrees or radians")
    return np.deg2rad(values) if units == "degrees" else values
