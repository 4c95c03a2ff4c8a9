"""Branches of a trajectory: which of three ends a cell belongs to, by how distances from the others change on the way.

        y            from x to the crossing, the distances from y and from z fall together;
       /             beyond it, one falls where the other rises
x --- +
       \\
        z
"""

import numpy as np

TIPS = 3
FARTHEST_OF = 2000  # cells along the way, evenly by number, that the correlation is computed of
_COUNTED = 0.995  # share of the cells, the nearest ones, that a tip is the farthest of
_FEWEST = 20  # cells that can show a branching
_SHORTEST = 5, 50  # a part has at least 5 cells, and a 50th of all


def branched(places: np.ndarray, time: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Branches of the cells of one component: (cell,) int8, the tips, and the agreement, (tip, 2).

    Tips: the root's end, where `time` is least; y with the largest time; z with the largest sum of time and distance
    from y; the last 0.5% of the cells do not count, for a few far-out ones are no end of anything. From each tip,
    cells are ordered by their distance from it, and cut where Kendall's tau of the distances from the other two,
    before less beyond the cut, is largest. Cells before the cut of one tip only are its branch: 1 the root's, 2 y's,
    3 z's. 0: at the crossing, or there is none: unless tau is positive before and negative beyond every cut, nothing
    branches and all cells have 0. agreement: tau before and beyond.
    Tau is that of up to 2,000 cells, evenly spaced in the order: O(n log n) time, and O(n) memory beside the places.
    Source: Haghverdi et al., Nat. Methods 13, 845 (2016), whose tips and cuts these are but for the 0.5%.
    """
    none = np.zeros(len(time), np.int8), np.full(TIPS, -1, np.int64), np.full((TIPS, 2), np.nan)
    if len(time) < _FEWEST:
        return none
    root, second = int(np.argmin(time)), _farthest(time)
    from_second = np.linalg.norm(places - places[second], axis=1)
    third = _farthest(time + from_second)
    if len({root, second, third}) < TIPS:
        return none
    distances = (time, from_second, np.linalg.norm(places - places[third], axis=1))
    inside, agreement = np.zeros((TIPS, len(time)), bool), np.empty((TIPS, 2))
    for tip in range(TIPS):
        others = [distances[other] for other in range(TIPS) if other != tip]
        farthest, agreement[tip] = _cut(distances[tip], *others)
        inside[tip] = distances[tip] < farthest
    branch = np.where(inside.sum(axis=0) == 1, inside.argmax(axis=0) + 1, 0).astype(np.int8)
    tips = numbers[[root, second, third]]
    there = (agreement[:, 0] > 0).all() and (agreement[:, 1] < 0).all()
    return (branch if there else none[0]), tips, agreement


def _farthest(distance: np.ndarray) -> int:
    last = int(_COUNTED * (len(distance) - 1))
    return int(np.argpartition(distance, last)[last])


def _cut(along: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, tuple[float, float]]:
    """How far from a tip its branch goes, and tau of the other distances before and beyond."""
    order = np.argsort(along, kind="stable")
    order = order[np.linspace(0, len(order) - 1, min(len(order), FARTHEST_OF)).round().astype(np.int64)]
    before, beyond = taus(first[order], second[order])
    shortest = max(_SHORTEST[0], len(order) // _SHORTEST[1])
    places = np.arange(shortest, len(order) - shortest + 1)
    place = int(places[np.argmax(before[places] - beyond[places])])
    return float(along[order[place - 1 : place + 1]].mean()), (before[place], beyond[place])


def taus(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kendall's tau (a) of the first m pairs and of all the others, for every m from 0 to their number.

    >>> before, beyond = taus(np.array([1, 2, 3, 4]), np.array([1, 2, 4, 3]))
    >>> float(before[3]), float(beyond[2])
    (1.0, -1.0)
    """
    length = len(first)
    agree = np.sign(first[:, None] - first).astype(np.int8) * np.sign(second[:, None] - second).astype(np.int8)
    with_earlier = np.tril(agree).sum(axis=1, dtype=np.int64)
    with_later = np.triu(agree).sum(axis=1, dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(with_earlier)])
    beyond = np.concatenate([np.cumsum(with_later[::-1])[::-1], [0]])
    pairs = np.arange(length + 1) * (np.arange(length + 1) - 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return before / pairs, beyond / pairs[::-1]
