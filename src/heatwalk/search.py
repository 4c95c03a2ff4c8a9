"""Search in lists: the cells of one list, or new points that fall into it, against the lists nearest to it."""

from collections.abc import Callable

import numpy as np

from heatwalk import compute, exact, lists
from heatwalk.lists import Lists, scaled
from heatwalk.progress import log

_QUERIES = 8192  # of a large list, searched at a time
_EXACT_QUERIES = 512  # compared with all cells at a time
_EXACT_UP_TO = 20_000  # cells; below, exact search is faster than building an index
_RECALL = 0.995  # of a search for new points, aimed at
_SAMPLE = 1000  # cells whose known neighbours say how many lists that takes


def within(
    divided: Lists, number: int, queries: np.ndarray, names: np.ndarray, probes: int, n_neighbors: int
) -> exact.Found:
    """Neighbours of points within the `probes` lists nearest to the list that they belong to.

    names: the cells that the queries are, which are no neighbours of themselves; -1 for new points. Differences are
    taken about the list's centroid before the product |x|^2 + |y|^2 - 2xy, which therefore loses digits of the list's
    own extent only. Small lists are joined by further ones until there are enough points.
    """
    near = divided.near(number, probes, n_neighbors + 1)
    parts = [slice(divided.start[other], divided.start[other + 1]) for other in near]
    base = np.concatenate([divided.points[part] for part in parts])
    labels = np.concatenate([divided.order[part] for part in parts])
    centre = divided.centre + divided.centroids[number].astype(np.float64) * divided.unit
    # A few more than asked for: the cell itself is among them, and single precision may swap the last ones.
    width = min(n_neighbors + 1 + max(2, n_neighbors // 10), len(base))
    around, best = scaled(base, centre, divided.unit), []
    for part in compute.blocks(len(queries), _QUERIES):
        some = queries[part]
        found = exact.candidates(scaled(some, centre, divided.unit), around, width)[1]
        ranked = exact.ranked(base, labels, some, names[part], found, divided.unit)
        best.append(exact.best(ranked, n_neighbors))
    return exact.Found(*(np.concatenate(values) for values in zip(*best, strict=True)))


def enough(divided: Lists, positions: np.ndarray, names: np.ndarray, share: float) -> int:
    """The fewest lists around a cell's own that hold so large a share of its neighbours.

    names: (position, neighbor), the true neighbours of the cells at some positions.
    """
    home, away = (
        np.searchsorted(divided.start, places, side="right") - 1 for places in (positions, divided.place[names])
    )
    n_lists = len(divided.centroids)
    rank = np.empty(away.shape, np.int64)
    for row, number in enumerate(home):
        place = np.empty(n_lists, np.int64)
        place[divided.near(number, n_lists)] = np.arange(n_lists)
        rank[row] = place[away[row]]
    shares = np.cumsum(np.bincount(rank.ravel(), minlength=n_lists)) / rank.size
    return min(int(np.searchsorted(shares, share)) + 1, n_lists)


def searcher(points, n_neighbors: int, known, seed: int, workers: compute.Workers) -> Callable:
    """A function that finds the nearest cells of a block of new points.

    points: (cell, dimension), those of a reference; known: (cell, neighbor), its own neighbours.
    """
    base = points if points.dtype in (np.float32, np.float64) else np.asarray(points[:], np.float64)
    centre, unit = frame(base)
    n_cells = base.shape[0]

    def exactly(block: np.ndarray) -> exact.Found:
        block = np.asarray(block, base.dtype)
        largest = max(unit, frame(block, centre)[1])

        def search(part: slice) -> exact.Found:
            nobody = np.full(part.stop - part.start, -1)
            return exact.nearest(base, None, block[part], nobody, n_neighbors, centre, largest)

        return _joined(workers.in_order(search, compute.blocks(len(block), _EXACT_QUERIES)))

    if n_cells <= _EXACT_UP_TO:
        return exactly
    divided = lists.divide(base, centre, unit, seed=seed, workers=workers, block_cells=compute.BLOCK_CELLS)
    sample = np.sort(np.random.default_rng([seed, 5]).choice(n_cells, min(_SAMPLE, n_cells), replace=False))
    names = np.concatenate([np.asarray(known[row : row + 1]) for row in sample])
    probes = enough(divided, divided.place[sample], names, _RECALL)
    log.info("extension: %d of %d lists are searched for every point", probes, len(divided.centroids))
    return lambda block: _by_lists(divided, np.asarray(block, base.dtype), probes, n_neighbors, workers)


def _by_lists(divided: Lists, block: np.ndarray, probes: int, n_neighbors: int, workers) -> exact.Found:
    """Every point against the lists around the list that it falls into."""
    import faiss

    with compute.faiss_threads(1):
        home = faiss.knn(scaled(block, divided.centre, divided.unit), divided.centroids, 1)[1][:, 0]
    order = np.argsort(home, kind="stable")
    numbers, first = np.unique(home[order], return_index=True)
    groups = list(zip(numbers.tolist(), np.split(order, first[1:]), strict=True))

    def search(group) -> exact.Found:
        number, rows = group
        return within(divided, number, block[rows], np.full(len(rows), -1), probes, n_neighbors)

    found, back = _joined(workers.in_order(search, groups)), np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return exact.Found(found.names[back], found.distances[back])


def frame(points, centre: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """The mean of points unless given, and a power of two that bounds their coordinates about it."""
    total, low, high = np.zeros(points.shape[1]), np.inf, -np.inf
    for rows in compute.blocks(points.shape[0], compute.BLOCK_CELLS):
        block = np.asarray(points[rows])
        total += block.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    centre = total / points.shape[0] if centre is None else centre
    largest = max((high - centre).max(), (centre - low).max(), np.finfo(np.float32).tiny)
    return centre, float(2.0 ** np.ceil(np.log2(largest)))


def _joined(parts) -> exact.Found:
    return exact.Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))
