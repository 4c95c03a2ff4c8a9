"""Flat space: coordinates stand for themselves."""

import numpy as np


def embed(values: np.ndarray, units: str = "degrees") -> np.ndarray:
    """(point, dimension) -> (point, dimension), unchanged; units do not matter."""
    return values


def names(columns: list[str]) -> list[str]:
    return columns
