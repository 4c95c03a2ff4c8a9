"""The scale of surfaces: how many cells each is fitted to, by what two halves of the points agree on."""

from functools import partial
from typing import NamedTuple

import numpy as np

from heatwalk import compute, exact
from heatwalk.nodes import QUERIES, Around, Nodes
from heatwalk.progress import track
from heatwalk.search import frame
from heatwalk.surface import MOST_DIMENSIONS, Surface, n_coefficients, surface, widest_gap

OFFERED = 1.5  # times as many are looked for: a cell that is moved onto its surface has other neighbours
FIT_BYTES = 2**26  # of point differences held at a time
SCALE_NEIGHBOR = 30  # whose distance is the spacing
_FITS = 128  # sampled cells fitted at a time
_SAMPLE = 1000  # cells on which scales and dimensions are compared
_AGREE = 0.9  # rank correlation of two halves of the points, from which a scale is taken
_CHANCE = 0.3  # and below which they agree on no difference: then one value for all may be what there is


class Halves(NamedTuple):
    """Surfaces at some cells by one half of the points and by the other, at every scale."""

    sample: np.ndarray  # (sampled,) cells
    scales: list[int]
    values: np.ndarray  # (half, scale, sampled)

    def agreement(self) -> np.ndarray:
        """(scale,) rank correlation of the halves; -1 where hardly any surface could be fitted."""
        return np.array([_correlation(*self.values[:, row]) for row in range(len(self.scales))])

    def sameness(self) -> np.ndarray:
        """(scale,) share of one value for all cells in what a half says: v^2 / (v^2 + s^2), s its error, by medians."""
        return np.array([_sameness(*self.values[:, row]) for row in range(len(self.scales))])

    def agree(self) -> bool:
        """Whether halves say more than chance of which cells bend more."""
        return bool(self.agreement().max() >= _CHANCE)

    def settled(self) -> bool:
        """Whether a wider scale is of no use: halves agree, or say one value for all clearly enough."""
        return self.agree() or bool(self.sameness().max() >= _AGREE)


def scales_of(
    points: np.ndarray, component: np.ndarray, dimension, most: int, seed: int, workers
) -> tuple[tuple[int, int], Halves]:
    """The dimension and how many cells a surface is fitted to; and what the two halves of the points say."""
    rng, n_cells = np.random.default_rng([seed, 7]), points.shape[0]
    half = rng.permutation(n_cells) % 2
    sample = np.sort(rng.choice(n_cells, min(_SAMPLE, n_cells), replace=False))
    found = [
        _in_half(points, np.flatnonzero(half == side), sample, int(OFFERED * most / 2), workers) for side in (0, 1)
    ]
    if dimension == "auto":
        dimension = _dimension(points, sample, exact.merged(*found, most), most)
    first = max(30, 3 * n_coefficients(dimension))
    scales = sorted({min(most, int(first * 1.5**step)) for step in range(20)})
    values = np.full((2, len(scales), len(sample)), np.nan)

    def at(part: slice, side: int, scale: int) -> np.ndarray:
        cells, names = sample[part], found[side].names[part]
        known = component[names] == component[cells][:, None]
        return _fitted(points, points[cells], names, known, max(scale // 2, 8), dimension).curvature

    if 2 <= dimension < points.shape[1]:
        for side, row in np.ndindex(values.shape[:2]):
            parts = compute.blocks(len(sample), _FITS)
            fits = workers.here.in_order(partial(at, side=side, scale=scales[row]), parts)
            values[side, row] = np.concatenate(list(fits))
    halves = Halves(sample, scales, values)
    return (int(dimension), scales[_scale(halves)]), halves


def one_value(chosen: tuple[int, int], halves: Halves, wider: Halves) -> tuple[tuple[int, int], Halves]:
    """The first wider scale at which halves say one value for all clearly enough, or else what was chosen before.

    The widest where they say nothing at all. Few such wide surfaces lie beside each other, so whether halves agree on
    differences is chance there.
    """
    said = wider.sameness()
    if _CHANCE <= said.max() < _AGREE:
        return chosen, halves
    place = int((said >= _AGREE).argmax()) if said.max() >= _AGREE else len(said) - 1
    return (chosen[0], wider.scales[place]), wider


def _scale(halves: Halves) -> int:
    """Place of the first scale at which halves agree, on differences or else on one value for all, or agree most.

    The widest where they agree on neither.
    """
    said = halves.agreement() if halves.agree() else halves.sameness()
    if said.max() >= _AGREE:
        return int((said >= _AGREE).argmax())
    return int(said.argmax()) if said.max() >= _CHANCE else len(said) - 1


def _in_half(held: np.ndarray, rows: np.ndarray, sample: np.ndarray, width: int, workers) -> exact.Found:
    """The nearest of some rows to the sampled cells, themselves left out."""
    base, (centre, unit) = held[rows], frame(held)
    width = min(width, len(rows) - 1)

    def search(part: slice) -> exact.Found:
        return exact.nearest(base, rows, held[sample[part]], sample[part], width, centre, unit)

    parts = list(workers.in_order(search, compute.blocks(len(sample), 128)))
    return exact.Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _dimension(held: np.ndarray, sample: np.ndarray, found: exact.Found, most: int) -> int:
    """Where the eigenvalues of local covariances fall most, in the mean over cells, at the scale where they do most.

    Of 2 dimensions and more, one less than the space has at the most: curves have no curvature of their own.
    """
    best = (0.0, min(2, held.shape[1]))
    possible = range(2, min(MOST_DIMENSIONS, held.shape[1] - 1) + 1)
    highest = max((number for number in possible if 3 * n_coefficients(number) <= most), default=2)
    tried = {min(most, int(20 * 1.5**step)) for step in range(12)}
    for scale in sorted(tried) if held.shape[1] > 2 else ():
        logs = np.zeros(held.shape[1])
        for rows in compute.blocks(len(sample), 64):
            around = held[found.names[rows, :scale]].astype(np.float64)
            around -= around.mean(axis=1, keepdims=True)
            values = np.linalg.eigvalsh(around.transpose(0, 2, 1) @ around)[:, ::-1]
            logs += np.log(np.maximum(values, 1e-12 * np.maximum(values[:, :1], 1e-300))).sum(axis=0)
        eigenvalues = np.exp((logs - logs[0]) / len(sample))
        dimension, gap = widest_gap(eigenvalues[1 : highest + 1])
        best = max(best, (float(gap), int(dimension) + 1))
    return best[1]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation where both are known; -1 where hardly any are."""
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 20:
        return -1.0
    ranks = [np.argsort(np.argsort(values[both], kind="stable"), kind="stable") for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _sameness(first: np.ndarray, second: np.ndarray) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 20:
        return -1.0
    value = np.median((first[both] + second[both]) / 2)
    error = 1.4826 * np.median(np.abs(first[both] - second[both])) / np.sqrt(2)
    return float(value**2 / max(value**2 + error**2, np.finfo(float).tiny))


def surfaces(
    points,
    nodes: Nodes,
    component: np.ndarray,
    chosen: tuple[int, int],
    most: int,
    every: int,
    workers,
    block_cells: int,
) -> tuple[Surface, Around]:
    """Surfaces at all cells, and what is kept of the nodes around: every so manieth of the nearest `most`.

    Cells are compared with the nodes once, block by block; no more of the nodes around is held than what is kept.
    """
    (dimension, width), n_cells = chosen, points.shape[0]
    dimension = min(dimension, points.shape[1] - 1)
    offered = min(len(nodes.cells) - 1, max(most, int(OFFERED * width)))
    most, scale, own = min(most, offered), min(SCALE_NEIGHBOR, offered), component[nodes.cells]
    names = np.empty((n_cells, len(range(0, most, every))), np.int32)
    distances, near, far = np.empty(names.shape, nodes.points.dtype), np.empty(n_cells), np.empty(n_cells)

    def fit(part: slice, block: np.ndarray, first: int) -> Surface:
        some, rows = block[part], slice(first + part.start, first + part.stop)
        cells = np.arange(rows.start, rows.stop)
        found = nodes.nearest(some, cells, offered)
        names[rows], distances[rows] = found.names[:, :most:every], found.distances[:, :most:every]
        near[rows], far[rows] = found.distances[:, scale - 1], found.distances[:, most - 1]
        known = own[found.names] == component[cells][:, None]
        return _fitted(nodes.points, some, found.names, known, width, dimension)

    made, ranges = [], compute.blocks(n_cells, block_cells)
    for rows in track(ranges, "curvature: fitting surfaces", len(ranges)):
        block = np.asarray(points[rows])
        parts = compute.blocks(len(block), QUERIES)
        made += workers.here.in_order(partial(fit, block=block, first=rows.start), parts)
    return Surface(*(np.concatenate(values) for values in zip(*made, strict=True))), Around(names, distances, near, far)


def _fitted(base: np.ndarray, points: np.ndarray, names: np.ndarray, known: np.ndarray, width: int, dimension: int):
    """Surfaces at some points through the nearest `width` of the rows of the base that are named and known."""
    rows = max(1, FIT_BYTES // (8 * names.shape[1] * (3 * base.shape[1] + 2 * n_coefficients(dimension))))
    made = []
    for part in compute.blocks(len(points), rows):
        around = base[names[part]].astype(np.float64)
        made.append(surface(points[part], around, known[part], width, dimension))
    return Surface(*(np.concatenate(values) for values in zip(*made, strict=True)))
