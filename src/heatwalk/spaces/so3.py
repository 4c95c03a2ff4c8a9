"""The rotation group SO(3) as matrices in R^9; the Frobenius norm of a difference is 2 sqrt 2 sin(theta / 2)."""

import numpy as np

from heatwalk.spaces.angles import radians


def embed(values: np.ndarray, units: str = "degrees") -> np.ndarray:
    """(point, 3) Euler angles (phi1, Phi, phi2) in Bunge's z-x-z convention -> (point, 9) rotation matrices by rows.

    R = Z(phi2) X(Phi) Z(phi1), the passive rotation from sample to crystal axes. Source: Bunge, Texture Analysis in
    Materials Science (1982), equation 2.34.

    >>> embed(np.array([[90.0, 0.0, 0.0]])).round(3).reshape(3, 3).tolist()
    [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if values.shape[1] != 3:
        raise ValueError(f"so3 takes 3 columns, the Euler angles phi1, Phi, phi2; there are {values.shape[1]}")
    first, tilt, second = radians(values, units).T
    (c1, c, c2), (s1, s, s2) = np.cos([first, tilt, second]), np.sin([first, tilt, second])
    rows = [
        [c1 * c2 - s1 * s2 * c, s1 * c2 + c1 * s2 * c, s2 * s],
        [-c1 * s2 - s1 * c2 * c, -s1 * s2 + c1 * c2 * c, c2 * s],
        [s1 * s, -c1 * s, c],
    ]
    return np.moveaxis(np.array(rows), -1, 0).reshape(len(values), 9) + 0.0  # no negative zeros


def names(columns: list[str]) -> list[str]:
    return [f"r{row}{column}" for row in "123" for column in "123"]
