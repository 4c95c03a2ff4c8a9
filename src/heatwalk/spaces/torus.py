"""The flat torus T^n in R^2n."""

import numpy as np

from heatwalk.spaces.angles import radians


def embed(values: np.ndarray, units: str = "degrees") -> np.ndarray:
    """(point, n) angles -> (point, 2 n): all cosines, then all sines.

    >>> embed(np.array([[0.0, 180.0]])).round(3).tolist()
    [[1.0, -1.0, 0.0, 0.0]]
    """
    angles = radians(values, units)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def names(columns: list[str]) -> list[str]:
    return [f"cos {name}" for name in columns] + [f"sin {name}" for name in columns]
