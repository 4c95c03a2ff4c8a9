"""How far the walk from a cell spreads beside flat space, on a graph of its own, and the curvature that follows."""

from math import gamma
from typing import NamedTuple

import numpy as np

from heatwalk import compute, exact, placing
from heatwalk.affinity import Affinity, affinity
from heatwalk.diffusion_map import coordinates
from heatwalk.neighbors import Neighbors, neighbors
from heatwalk.search import frame
from heatwalk.walks import Entry, walk

NEIGHBORS = 150  # of the walk's own graph
SCALE_NEIGHBOR = 30  # the median distance to it is that graph's bandwidth
MANY = 20_000  # cells; beyond, so many of them are the nodes of the graph
WHOLE_UP_TO, EVERY = 10_000, 4  # nodes; beyond, it has every fourth of the neighbours
LOST = 0.005  # mass that a walk may lose
_QUERIES = 512  # cells compared with the nodes at a time


class _Nodes(NamedTuple):
    rows: np.ndarray  # (node,) cells
    points: np.ndarray  # (node, dimension)
    graph: Affinity
    volume: np.ndarray  # (node,) what it stands for


def spread(points, around: Neighbors, graph, map_, dimension: int, t: int, ball: int, options: dict, workers):
    """What the walk says (`Walk`), and (cell,) the mean sectional curvature by its entropy.

        4 (h_flat - h) / (tau d (d - 1)),  h_flat = d/2 log(2 pi e tau),  tau the variance of the walk in one direction

    around: at least 150 neighbours of every cell, if there are as many. graph: the cells' affinity, map_ their map.
    Beyond 20,000 cells the walk is on so many drawn at random, which other cells enter by their first step: rows of P^t
    then meet no more nodes however many cells there are. options: those of `neighbors`.
    """
    n_cells = points.shape[0]
    nodes, every = _nodes(points, around, graph, dimension, options)
    places = np.asarray(_places(map_, graph.components, t)[:])
    step, entry = _step(nodes.graph, dimension), None
    variance = t * step
    if len(nodes.rows) < n_cells:
        entry, first = _entry(points, nodes, places, every, workers)
        variance = first / dimension + (t - 1) * step
    walked = walk(nodes.graph, nodes.volume, places[nodes.rows], t, ball, LOST, workers, entry)
    if dimension < 2:
        return walked, np.full(n_cells, np.nan)
    flat = dimension / 2 * np.log(2 * np.pi * np.e * variance)
    return walked, 4 * (flat - walked.entropy) / (variance * dimension * (dimension - 1))


def distance_to(around: Neighbors, number: int) -> np.ndarray:
    """(cell,) distance to the neighbour of that number."""
    return _columns(around.distances, slice(number - 1, number))[:, 0].astype(np.float64)


def _columns(values, kept: slice) -> np.ndarray:
    """(cell, kept) some columns of an array that is stored in blocks of cells."""
    ranges = compute.blocks(values.shape[0], compute.BLOCK_CELLS)
    return np.concatenate([np.asarray(values[rows])[:, kept] for rows in ranges])


def _places(map_, components, t: int):
    if hasattr(map_, "eigenvectors"):
        return coordinates(map_.eigenvalues, map_.eigenvectors, components, t=t)
    return map_.coordinates


def _nodes(points, around: Neighbors, graph, dimension: int, options: dict) -> tuple[_Nodes, int]:
    """The graph of the walk, and which of its neighbours it has."""
    n_cells = points.shape[0]
    if n_cells > MANY:
        rows = np.sort(np.random.default_rng([options["seed"], 9]).choice(n_cells, MANY, replace=False))
        here = placing.rows_of(points, rows)
        around = neighbors(here, n_neighbors=NEIGHBORS, **options)
    else:
        rows, here = np.arange(n_cells), points
    width = min(NEIGHBORS, around.indices.shape[1])
    ball_volume = np.pi ** (dimension / 2) / gamma(dimension / 2 + 1)
    volume = ball_volume * np.maximum(distance_to(around, width), np.finfo(float).tiny ** 0.05) ** dimension / width
    reach = distance_to(around, min(SCALE_NEIGHBOR, width))
    sigma = float(np.median(reach[reach > 0] if reach.any() else np.asarray(graph.bandwidths[:])))
    every = 1 if len(rows) <= WHOLE_UP_TO else EVERY
    near = (_columns(values, slice(0, width, every)) for values in (around.indices, around.distances))
    without_seed = {name: value for name, value in options.items() if name != "seed"}
    own = affinity(here, Neighbors(*near, around.order, 1.0, 0), bandwidth=sigma, alpha=1.0, **without_seed)
    return _Nodes(rows, here, own, volume.sum() * np.asarray(own.stationary)), every


def _step(graph: Affinity, dimension: int) -> float:
    """Variance of one step in one direction, the median over nodes: a node's own would be what is measured."""
    start, density = np.asarray(graph.indptr[:]), np.log(np.asarray(graph.density[:]))
    found = []
    for rows in compute.blocks(len(density), compute.BLOCK_CELLS):
        edges = slice(start[rows.start], start[rows.stop])
        lengths = np.diff(start[rows.start : rows.stop + 1])
        weights = np.asarray(graph.weights[edges])
        # Weights are k / (d_x d_y), and k = exp(-r^2 / 2 sigma^2); those that underflow count for nothing.
        logs = np.log(np.maximum(weights, np.finfo(float).tiny)) + np.repeat(density[rows], lengths)
        logs += density[np.asarray(graph.indices[edges])]
        row = np.repeat(np.arange(len(lengths)), lengths)
        squares = np.bincount(row, weights * -logs, len(lengths)) / np.asarray(graph.degrees[rows])
        found.append(2 * squares * np.asarray(graph.bandwidths[rows]) ** 2)
    return float(np.median(np.concatenate(found))) / dimension


def _entry(points, nodes: _Nodes, places: np.ndarray, every: int, workers) -> tuple[Entry, float]:
    """The first step of every cell onto the nodes, itself left out, and the median of its mean square."""
    n_cells, (centre, unit) = points.shape[0], frame(nodes.points)
    position = np.full(n_cells, -1)
    position[nodes.rows] = np.arange(len(nodes.rows))
    density = np.asarray(nodes.graph.density)
    width = len(range(0, NEIGHBORS, every))
    kernel = placing.Graph(nodes.graph.bandwidths, 1 / density, nodes.graph.components, 0, width)
    names, shares = np.empty((n_cells, width), np.int32), np.empty((n_cells, width), np.float32)
    squares = np.empty(n_cells)

    def enter(rows: slice) -> None:
        queries = np.asarray(points[rows], nodes.points.dtype)
        largest = max(unit, frame(queries, centre)[1])
        found = exact.nearest(nodes.points, None, queries, position[rows], NEIGHBORS, centre, largest)
        found = exact.Found(*(values[:, ::every] for values in found))
        names[rows], shares[rows] = found.names, placing.weights(found, kernel)
        squares[rows] = (shares[rows] * found.distances.astype(np.float64) ** 2).sum(axis=1)

    for _ in workers.here.in_order(enter, compute.blocks(n_cells, _QUERIES)):
        pass
    return Entry(names, shares, places), float(np.median(squares))
