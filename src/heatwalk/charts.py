"""A representation as points of a space, and back: unit vectors, angles, rotations. What does not fit is refused."""

from typing import NamedTuple

import numpy as np

from heatwalk.errors import BadInput, Problem, first_few
from heatwalk.spaces import SO3, Sphere, Torus, points, torus
from heatwalk.spaces.space import Space

NAMES = ("sphere", "torus", "so3")
_FIRST, _ON_CIRCLE = 8192, 1e-4  # rows that say whether columns are cosines and sines; of their squares, from 1
_CIRCLES = "cos^2 + sin^2 differs from 1", "give angles in radians, or all cosines and then all sines"
_MOST_ANGLE = 2 * np.pi + 1e-6
_LEAST_LENGTH = 1e-12  # of the longest


class Chart(NamedTuple):
    """How rows of a table are points of a space."""

    space: Space
    kind: str  # "unit vectors", "angles", "cosines and sines", "rotations", or "points" of a space given as such

    def points(self, rows: np.ndarray, where: str = "points") -> np.ndarray:
        """(row, column) -> (row, ...) points; BadInput for rows that lie on no space or too far off."""
        rows = np.asarray(rows, np.complex128 if self.space.complex_ else np.float64)
        _check_finite(rows, where)
        if self.kind == "unit vectors":
            return rows / _lengths(rows, where)
        if self.kind == "angles":
            return self.space.project(_within_a_turn(rows, where))
        if self.kind == "cosines and sines":
            cosines, sines = np.split(rows, 2, axis=1)
            points.check_on(where, _off_circles(rows) * 1e-2, False, *_CIRCLES, np)
            return np.arctan2(sines, cosines)
        found = rows.reshape(len(rows), *self.space.shape)
        self.space._given(points=found)
        return found

    def rows(self, points: np.ndarray) -> np.ndarray:
        """(row, ...) points -> (row, column) of the representation: unit vectors where that was not of length 1."""
        if self.kind == "cosines and sines":
            return torus.embed(points, "radians")
        return points if self.kind == "points" else points.reshape(len(points), -1)

    def flat(self, points: np.ndarray) -> np.ndarray:
        """(row, value) real coordinates in which points are near each other where they are near on the space."""
        if isinstance(self.space, Torus):
            return torus.embed(points, "radians")
        values = points.reshape(len(points), -1)
        return np.concatenate([values.real, values.imag], axis=1) if self.space.complex_ else values


def chart(rows, space: str | Space) -> Chart:
    """The chart of a representation: its columns say the dimension.

    "sphere": any embedding, each row divided by its length. "torus": angles in radians, or all cosines and then all
    sines. "so3": the nine entries of a matrix by rows. A space of heatwalk.spaces: (row, ...) points of it.
    """
    if isinstance(space, Space):
        if tuple(rows.shape[1:]) != space.shape:
            cause = f"their shape is {tuple(rows.shape)}, points of {space!r} are (row, {first_few(space.shape)})"
            raise BadInput(Problem("HW-RD-003", "points", cause, "give points of that space"))
        return Chart(space, "points")
    if space not in NAMES:
        cause = f"{space!r} is unknown" if isinstance(space, str) else f"{space!r} is no space that has one heat kernel"
        raise BadInput(Problem("HW-RD-002", "space", cause, f"use one of: {', '.join(NAMES)}"))
    columns = rows.shape[1]
    if space == "sphere":
        if columns < 2:
            cause = f"points of {columns} column lie on no sphere"
            raise BadInput(Problem("HW-RD-003", "points", cause, "give unit vectors of two columns or more"))
        return Chart(Sphere(columns - 1), "unit vectors")
    if space == "so3":
        if columns != 9:
            cause = f"a rotation has 9 entries, points have {columns} columns"
            raise BadInput(Problem("HW-RD-003", "points", cause, "give matrices by rows"))
        return Chart(SO3(), "rotations")
    if columns % 2 == 0 and (_off_circles(np.asarray(rows[:_FIRST], np.float64)) <= _ON_CIRCLE).all():
        return Chart(Torus(columns // 2), "cosines and sines")
    return Chart(Torus(columns), "angles")


def laid(rows, space: str) -> np.ndarray:
    """(row, value) coordinates of a representation on a named space, near where points of it are near."""
    how = chart(rows, space)
    return how.flat(how.points(np.asarray(rows[:])))


def _off_circles(rows: np.ndarray) -> np.ndarray:
    """(row,) how far squares of a cosine and a sine are from 1."""
    cosines, sines = np.split(rows, 2, axis=1)
    return np.abs(cosines**2 + sines**2 - 1).max(axis=1, initial=0)


def _check_finite(rows: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
    if len(bad):
        cause = f"{len(bad)} of {len(rows)} are not finite: rows {first_few(bad)}"
        raise BadInput(Problem("HW-RD-001", where, cause, "remove them"))


def _lengths(rows: np.ndarray, where: str) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(lengths <= _LEAST_LENGTH * lengths.max(initial=1e-300))
    if len(bad):
        cause = f"{len(bad)} of {len(rows)} have no direction, their length is 0: rows {first_few(bad)}"
        raise BadInput(Problem("HW-RD-004", where, cause, "remove them: the centre has no place on the sphere"))
    return lengths


def _within_a_turn(rows: np.ndarray, where: str) -> np.ndarray:
    largest = np.abs(rows).max(initial=0)
    if largest > _MOST_ANGLE:
        cause = f"angles reach {largest:g}, the bound is a whole turn, 6.283 radians"
        remedy = "give radians: numpy.deg2rad(points)" if largest <= 361 else "give angles, space: sphere normalises"
        raise BadInput(Problem("HW-RD-005", where, cause, remedy))
    return rows
