"""generation_metrics: how good new points are beside held-out ones, and whether they are copies."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from heatwalk.errors import BadInput, Problem
from heatwalk.surroundings import nearest

_BLUR = 0.05  # of the median distance within the target
_CLOSE = 0.05  # quantile of the held-out points' distances to the training points
_ITERATIONS = 10_000
_TOLERANCE = 1e-7

MEASURES = (
    "sinkhorn",
    "w2_squared",
    "mmd",
    "two_sample",
    "coverage",
    "density",
    "off_manifold",
    "memorisation",
    "label_match",
)


class GenerationMetrics(NamedTuple):
    values: Any  # (measure,) float64, in the order of MEASURES; NaN where it does not apply
    floor: Any  # (measure,) float64, mean of fresh points against fresh points
    floor_spread: Any  # (measure,) float64, its standard deviation over pairs
    n_compared: int  # points of either side


def generation_metrics(
    generated,
    train,
    held_out,
    *,
    label: Any = None,
    train_labels: Any = None,
    held_out_labels: Any = None,
    pairs: int = 10,
    neighbors: int = 5,
    most: int = 1000,
    fresh: Callable | None = None,
    seed: int = 0,
) -> GenerationMetrics:
    """Distances, coverage and copies of generated points, each beside the same figure of real points.

    sinkhorn: S = OT(a, b) - OT(a, a)/2 - OT(b, b)/2 of squared distances with entropy 2 blur^2, blur .05 of the median
    distance within the held-out points; w2_squared: exact OT. mmd: squared, unbiased, Gaussian kernel at the median
    distance. two_sample: share of points whose nearest other of both samples is of their own (1/2 for equal laws).
    coverage: share of held-out points with a generated one within the distance to their `neighbors`-th held-out one;
    density: how many such balls hold a generated point, over `neighbors`. off_manifold: root mean square distance to
    the nearest training point over that of held-out points. memorisation: share nearer to a training point than the
    held-out points' 5% quantile; .05 is expected, of copies 1. label_match: share that 15 nearest training points
    take for `label`; floor: of held-out points with that label.
    Both sides have as many points, at most `most`. floor: `fresh(count)` against `fresh(count)`, or where there is no
    such function halves of the held-out points, `pairs` times.
    Raises BadInput for fewer than 20 points on a side, points that are not finite, or a label nobody has.
    Sources: Feydy et al. (2019), Gretton et al. (2012), Schilling (1986), Naeem et al. (2020).
    """
    generated, train, held_out = (_table(*given) for given in _named(generated, train, held_out))
    if pairs < 1 or not 1 <= neighbors < 10:
        cause = f"pairs {pairs} and neighbors {neighbors} are not at least 1 and between 1 and 9"
        raise BadInput(Problem("HW-GM-002", "generation_metrics", cause, "use 10 pairs and 5 neighbors"))
    rng = np.random.default_rng([seed, 12])
    count = min(len(generated), len(held_out) if fresh else len(held_out) // 2, most)
    close = _closeness(train, held_out)
    matches = _matcher(label, train, train_labels)

    def measured(points: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.array([*_compared(points, target, neighbors), *close(points), matches(points)])

    values = measured(_some(generated, count, rng), _some(held_out, count, rng))
    # Single points are counted over all of them.
    values[6:] = [*close(generated), matches(generated)]
    floor = []
    for _ in range(pairs):
        both = fresh(2 * count) if fresh else held_out[rng.permutation(len(held_out))[: 2 * count]]
        floor.append(measured(both[:count], both[count:]))
    floor = np.array(floor)
    if label is not None:
        known = held_out[np.asarray(held_out_labels) == label] if held_out_labels is not None else held_out[:0]
        if not len(known):
            cause = f"no held-out point has the label {label!r}"
            raise BadInput(Problem("HW-GM-003", "label", cause, "name one that some have"))
        floor[:, -1] = matches(known)
    return GenerationMetrics(values, floor.mean(axis=0), floor.std(axis=0), count)


def sinkhorn(first: np.ndarray, second: np.ndarray, blur: float) -> float:
    """Debiased Sinkhorn divergence of squared distances: 0 for equal samples, W2^2 as blur falls to 0."""
    across, own, other = (_entropic(*pair, blur) for pair in ((first, second), (first, first), (second, second)))
    return across - own / 2 - other / 2


def w2_squared(first: np.ndarray, second: np.ndarray) -> float:
    """Exact squared Wasserstein distance of two samples."""
    import ot

    return float(ot.emd2([], [], _squares(first, second), numItermax=10**7))


def mmd(first: np.ndarray, second: np.ndarray, scale: float) -> float:
    """Squared maximum mean discrepancy, unbiased (it may be below 0), kernel exp(-|x - y|^2 / (2 scale^2))."""
    own, other, across = (
        np.exp(-_squares(*pair) / (2 * scale**2)) for pair in ((first, first), (second, second), (first, second))
    )
    n, m = len(first), len(second)
    return float((own.sum() - n) / (n * (n - 1)) + (other.sum() - m) / (m * (m - 1)) - 2 * across.mean())


def two_sample(first: np.ndarray, second: np.ndarray) -> float:
    """Share of points whose nearest other one comes from their own sample."""
    both = np.concatenate([first, second])
    squares = _squares(both, both)
    np.fill_diagonal(squares, np.inf)
    side = np.arange(len(both)) < len(first)
    return float((side[squares.argmin(axis=1)] == side).mean())


def coverage_and_density(generated: np.ndarray, real: np.ndarray, neighbors: int) -> tuple[float, float]:
    """Share of the balls around real points that hold a generated one; balls around a generated one, over neighbors."""
    radius = np.partition(_squares(real, real), neighbors, axis=1)[:, neighbors]
    inside = _squares(real, generated) < radius[:, None]
    return float(inside.any(axis=1).mean()), float(inside.sum() / (neighbors * len(generated)))


def _compared(points: np.ndarray, target: np.ndarray, neighbors: int) -> list[float]:
    from scipy.spatial.distance import pdist

    scale = float(np.median(pdist(target)))
    return [
        sinkhorn(points, target, _BLUR * scale),
        w2_squared(points, target),
        mmd(points, target, scale),
        two_sample(points, target),
        *coverage_and_density(points, target, neighbors),
    ]


def _closeness(train: np.ndarray, held_out: np.ndarray) -> Callable:
    """A function of points: their distance to training points beside the held-out ones', and the share of copies."""
    expected = nearest(train, held_out, 1).distances[:, 0]
    bound, typical = np.quantile(expected, _CLOSE), np.sqrt((expected**2).mean())

    def close(points: np.ndarray) -> tuple[float, float]:
        found = nearest(train, points, 1).distances[:, 0]
        return float(np.sqrt((found**2).mean()) / typical) if typical > 0 else np.nan, float((found < bound).mean())

    return close


def _matcher(label: Any, train: np.ndarray, labels: Any) -> Callable:
    if label is None:
        return lambda points: np.nan
    known = None if labels is None else np.asarray(labels) == label
    if known is None or len(known) != len(train) or not known.any():
        cause = f"no training point has the label {label!r}"
        raise BadInput(Problem("HW-GM-003", "label", cause, "give train_labels, and name one that some have"))
    names, place = np.unique(np.asarray(labels), return_inverse=True)
    width, number = min(15, len(train)), int(np.flatnonzero(names == label)[0])

    def matches(points: np.ndarray) -> float:
        votes = place[nearest(train, points, width).names]
        counts = np.stack([(votes == name).sum(axis=1) for name in range(len(names))], axis=1)
        return float((counts.argmax(axis=1) == number).mean())

    return matches


def _entropic(first: np.ndarray, second: np.ndarray, blur: float) -> float:
    """min <P, C> + 2 blur^2 KL(P | a x b), from the dual potentials."""
    import ot

    if not blur > 0:
        raise BadInput(Problem("HW-GM-004", "held_out", "more than half of the points are equal", "remove duplicates"))
    costs, strength = _squares(first, second), 2 * blur**2
    a, b = (np.full(len(side), 1 / len(side)) for side in (first, second))
    options = {"method": "sinkhorn_stabilized", "numItermax": _ITERATIONS, "stopThr": _TOLERANCE, "warn": False}
    plan = ot.sinkhorn(a, b, costs, strength, **options)
    positive = plan > 0
    entropy = (plan[positive] * np.log(plan[positive] / (a[0] * b[0]))).sum()
    return float((plan * costs).sum() + strength * (entropy - plan.sum() + 1))


def _named(generated, train, held_out):
    return (generated, "generated"), (train, "train"), (held_out, "held_out")


def _table(points, name: str) -> np.ndarray:
    points = np.asarray(points[:], np.float64)
    if points.ndim != 2 or len(points) < 20 or not np.isfinite(points).all():
        cause = f"points of shape {points.shape} are fewer than 20, no table, or not finite"
        raise BadInput(Problem("HW-GM-001", name, cause, "give 20 finite points or more"))
    return points


def _some(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return points[rng.permutation(len(points))[:count]]


def _squares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(first, second, "sqeuclidean")
