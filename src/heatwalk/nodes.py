"""Cells that stand for all: what is around a cell is measured among so many of them, however many there are."""

from typing import NamedTuple

import numpy as np

from heatwalk import exact
from heatwalk.placing import rows_of
from heatwalk.search import frame

MANY = 20_000  # cells; beyond, so many drawn at random are the nodes
QUERIES = 512  # cells compared with the nodes at a time


class Nodes(NamedTuple):
    cells: np.ndarray  # (node,) ascending
    points: np.ndarray  # (node, dimension)
    position: np.ndarray  # (cell,) among the nodes, -1 of a cell that is none
    centre: np.ndarray
    unit: float

    def nearest(self, points: np.ndarray, cells: np.ndarray, width: int) -> exact.Found:
        """The nodes nearest to some cells at these points, themselves left out."""
        points = np.asarray(points, self.points.dtype)
        largest = max(self.unit, frame(points, self.centre)[1])
        return exact.nearest(self.points, None, points, self.position[cells], width, self.centre, largest)


class Around(NamedTuple):
    """What a walk needs of the nodes nearest to every cell."""

    names: np.ndarray  # (cell, neighbor) int32, some of them
    distances: np.ndarray  # (cell, neighbor)
    near: np.ndarray  # (cell,) distance to the 30th
    far: np.ndarray  # (cell,) distance to the 150th


def drawn(points, seed: int) -> Nodes:
    n_cells = points.shape[0]
    cells = np.arange(n_cells)
    if n_cells > MANY:
        cells = np.sort(np.random.default_rng([seed, 9]).choice(n_cells, MANY, replace=False))
    position = np.full(n_cells, -1)
    position[cells] = np.arange(len(cells))
    held = points if len(cells) == n_cells and isinstance(points, np.ndarray) else rows_of(points, cells)
    held = held if held.dtype in (np.float32, np.float64) else held.astype(np.float64)
    return Nodes(cells, held, position, *frame(held))
