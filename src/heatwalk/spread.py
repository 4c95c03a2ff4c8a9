"""How far the walk from a cell spreads beside flat space, on a graph of its own, and the curvature that follows."""

from math import gamma

import numpy as np

from heatwalk import compute, exact, placing
from heatwalk.affinity import Affinity, affinity
from heatwalk.diffusion_map import coordinates
from heatwalk.neighbors import Neighbors
from heatwalk.nodes import Around, Nodes
from heatwalk.walks import Entry, walk

NEIGHBORS = 150  # of the walk's own graph, whose bandwidth is the median distance to the 30th
WHOLE_UP_TO, EVERY = 10_000, 4  # nodes; beyond, it has every fourth of the neighbours
_GAPS = 4  # steps
LOST = 0.005  # mass that a walk may lose


def every_of(n_nodes: int, t: int) -> int:
    """Of the nodes around, every so manieth is a neighbour in the graph of the walk."""
    # After a few steps rows still have gaps where neighbours were left out, and an entropy too small.
    return 1 if n_nodes <= WHOLE_UP_TO or t < _GAPS else EVERY


def spread(nodes: Nodes, around: Around, graph, map_, dimension: int, t: int, ball: int, options: dict, workers):
    """What the walk says (`Walk`), and (cell,) the mean sectional curvature by its entropy.

        4 (h_flat - h) / (tau d (d - 1)),  h_flat = d/2 log(2 pi e tau),  tau the variance of the walk in one direction

    graph: the cells' affinity, map_ their map. The walk is on the nodes; cells that are none enter by their first step:
    rows of P^t then meet no more nodes however many cells there are. options: those of `affinity`, and the seed.
    """
    n_cells, n_nodes = len(around.near), len(nodes.cells)
    chain, volume = _chain(nodes, around, graph, dimension, options)
    places = np.asarray(_places(map_, graph.components, t)[:])
    step, entry = _step(chain, dimension), None
    variance = t * step
    if n_nodes < n_cells:
        entry, first = _entry(around, chain, places)
        variance = first / dimension + (t - 1) * step
    walked = walk(chain, volume, places[nodes.cells], t, ball, LOST, workers, entry)
    walked = walked._replace(laziness=walked.laziness * (n_nodes / n_cells))  # of a cell, not of a node
    if dimension < 2:
        return walked, np.full(n_cells, np.nan)
    flat = dimension / 2 * np.log(2 * np.pi * np.e * variance)
    return walked, 4 * (flat - walked.entropy) / (variance * dimension * (dimension - 1))


def _places(map_, components, t: int):
    if hasattr(map_, "eigenvectors"):
        return coordinates(map_.eigenvalues, map_.eigenvectors, components, t=t)
    return map_.coordinates


def _chain(nodes: Nodes, around: Around, graph, dimension: int, options: dict) -> tuple[Affinity, np.ndarray]:
    """The graph of the walk, and (node,) the volume that a node stands for."""
    cells, width = nodes.cells, min(NEIGHBORS, len(nodes.cells) - 1)
    ball_volume = np.pi ** (dimension / 2) / gamma(dimension / 2 + 1)
    volume = ball_volume * np.maximum(around.far[cells], np.finfo(float).tiny ** 0.05) ** dimension / width
    near = around.near[cells]
    sigma = float(np.median(near[near > 0] if near.any() else np.asarray(graph.bandwidths[:])))
    own = Neighbors(around.names[cells], around.distances[cells], np.arange(len(cells)), 1.0, 0)
    without_seed = {name: value for name, value in options.items() if name != "seed"}
    chain = affinity(nodes.points, own, bandwidth=sigma, alpha=1.0, **without_seed)
    return chain, volume.sum() * np.asarray(chain.stationary)


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


def _entry(around: Around, chain: Affinity, places: np.ndarray) -> tuple[Entry, float]:
    """The first step of every cell onto the nodes, itself left out, and the median of its mean square."""
    kernel = placing.Graph(chain.bandwidths, 1 / np.asarray(chain.density), chain.components, 0, NEIGHBORS)
    shares, squares = np.empty(around.names.shape, np.float32), np.empty(len(around.names))
    for rows in compute.blocks(len(shares), compute.BLOCK_CELLS):
        shares[rows] = placing.weights(exact.Found(around.names[rows], around.distances[rows]), kernel)
        squares[rows] = (shares[rows] * around.distances[rows].astype(np.float64) ** 2).sum(axis=1)
    return Entry(around.names, shares, places), float(np.median(squares))
