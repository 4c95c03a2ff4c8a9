"""The unit sphere S^2 in R^3."""

import numpy as np

from heatwalk.spaces.angles import radians


def embed(values: np.ndarray, units: str = "degrees") -> np.ndarray:
    """(point, 2) latitude and longitude -> (point, 3) unit vectors.

    x = (cos lat cos lon, cos lat sin lon, sin lat). Raises ValueError for a latitude beyond a quarter turn.

    >>> embed(np.array([[0.0, 90.0]])).round(3).tolist()
    [[0.0, 1.0, 0.0]]
    """
    if values.shape[1] != 2:
        raise ValueError(f"a sphere takes 2 columns, latitude and longitude; there are {values.shape[1]}")
    latitude, longitude = radians(values, units).T
    quarter = 90.0 if units == "degrees" else np.pi / 2
    if np.abs(values[:, 0]).max(initial=0) > quarter * (1 + 1e-6):
        raise ValueError(f"latitudes reach {np.abs(values[:, 0]).max():g} {units}, the bound is {quarter:g}")
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], 1)


def names(columns: list[str]) -> list[str]:
    return ["x", "y", "z"]
