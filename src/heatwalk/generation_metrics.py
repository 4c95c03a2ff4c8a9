"""generation_metrics: how good new points are beside held-out ones, and whether they are copies."""

from collections.abc import Callable, Mapping, MutableMapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.charts import laid
from heatwalk.condition import column_of, met
from heatwalk.errors import BadInput, Problem, first_few
from heatwalk.progress import log, track
from heatwalk.surroundings import nearest

_BLUR = 0.05  # of the median distance within the target
_CLOSE = 0.05  # quantile of the held-out points' distances to the training points
_NEAREST = 15  # labelled points that say what a point is taken for
_LABELS = 1000
_ROUNDS, _LAST_ROUNDS = 20, 200  # of 50 updates, at every eps on the way and at the last
_TOLERANCE = 1e-6  # change of the dual value in a round, of that value

FEWEST = 20  # points of a side
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


class NothingToCompare(BadInput):
    """The data leave nothing to compare, whatever the options are; a stage publishes that (`measured`)."""


class GenerationMetrics(NamedTuple):
    values: Any  # (measure,) float64, in the order of MEASURES; NaN where it does not apply
    floor: Any  # (measure,) float64, mean of fresh points against fresh points
    floor_spread: Any  # (measure,) float64, its standard deviation over pairs
    n_compared: Any  # int64, points of either side
    labels: Any = None  # (label,) table: train, generated, held_out, each a share; where there are labels
    problems: Any = None  # (problem,) table of a stage: code, cause, remedy; where there is nothing to compare


class Labelled(NamedTuple):
    """What a classifier of labels learns from, and what it is held beside."""

    points: Any  # (point, component) training points, of every label
    labels: Any  # column -> (point,) label of each
    held_out: Any  # column -> label of the held-out points that generated ones are compared with
    column: str = ""  # of the labels, where none is named


def beside(results: Mapping[str, Mapping], coordinates, cells) -> tuple:
    """What a generator gave, and the real points of its condition: the arguments of `generation_metrics`.

    results: stage -> result, of which one is neither `cells` nor `pca`: any generator's, with `points` and in its
    parameters the `condition` that it was asked for.
    """
    (made,) = (result for stage, result in results.items() if stage not in ("cells", "pca"))
    condition = made.manifest["parameters"].get("condition", "")
    space = made.manifest["parameters"].get("space")  # of a generator on one: both sides are placed there
    points, new = (laid(values, space) if space else values for values in (coordinates, made["points"]))
    points, train, obs = np.asarray(points[:]), np.asarray(cells.split[:]) == 0, cells.obs
    own = met(obs, condition, "HW-GM-003", "condition")
    if train.all():
        cause = "no cell is held out: nothing can tell new cells from copies"
        remedy = "set it to 0.1, or leave generation_metrics out"
        raise NothingToCompare(Problem("HW-GM-005", "cells: holdout", cause, remedy))
    column = column_of(obs, condition) or ""
    labelled = Labelled(points[train], obs[train], obs[own & ~train], column)
    return new, points[own & train], points[own & ~train], labelled


def measured(results: Mapping[str, Mapping], coordinates, cells, options: Mapping, out: MutableMapping, **limits):
    """`generation_metrics` of `beside`; where the data leave nothing to compare, figures of NaN and the reason.

    An atlas and a report are worth having without: a few cells too few shall not cost them.
    """
    import pandas

    try:
        generation_metrics(*beside(results, coordinates, cells), **options, out=out, **limits)
    except NothingToCompare as error:
        for name in ("values", "floor", "floor_spread"):
            out[name] = np.full(len(MEASURES), np.nan)
        out["n_compared"] = np.int64(0)
        columns = {name: [getattr(problem, name) for problem in error.problems] for name in ("cause", "remedy")}
        codes = pandas.Index([problem.code for problem in error.problems], name="code", dtype=object)
        out["problems"] = pandas.DataFrame(columns, index=codes)
        log.warning("generation_metrics: nothing was compared: %s", error)


def generation_metrics(
    generated,
    train,
    held_out,
    labelled: Labelled | None = None,
    fresh: Callable | None = None,
    *,
    label: str = "",
    pairs: int = 10,
    neighbors: int = 5,
    most: int = 1000,
    seed: int = 0,
    threads: int | None = None,
    out: MutableMapping | None = None,
) -> GenerationMetrics:
    """Distances, coverage and copies of generated points, each beside the same figure of real points.

    sinkhorn: S = OT(a, b) - OT(a, a)/2 - OT(b, b)/2 of squared distances with entropy 2 blur^2, blur .05 of the median
    distance within the held-out points; w2_squared: exact OT. mmd: squared, unbiased, Gaussian kernel at the median
    distance. two_sample: share of points whose nearest other of both samples is of their own (1/2 for equal laws).
    coverage: share of held-out points with a generated one within the distance to their `neighbors`-th held-out one;
    density: how many such balls hold a generated point, over `neighbors`. off_manifold: root mean square distance to
    the nearest training point over that of held-out points. memorisation: share as near to a training point as
    the held-out points' 5% quantile; .05 is expected, more where points repeat, of copies 1. label_match: share that 15
    nearest labelled points take for the one label of all held-out points; floor: of the held-out points. label: its
    column, "" for that of `labelled` unless it has more than 1,000 values.
    Both sides have as many points, at most `most`. floor: `fresh(count)` against `fresh(count)`, or where there is no
    such function halves of the held-out points, `pairs` times. Any number of threads gives the same figures.
    Raises BadInput for fewer than 20 points on a side, points that are not finite or of other components, options out
    of bounds, or a column that is not there.
    Sources: Feydy et al. (2019), Gretton et al. (2012), Schilling (1986), Naeem et al. (2020).
    """
    out = {} if out is None else out
    _check_options(pairs, neighbors, most)
    generated, train, held_out = _tables(generated, train, held_out)
    column = _column(labelled, label)
    rng = np.random.default_rng([seed, 12])
    count = min(len(generated), len(held_out) if fresh else len(held_out) // 2, most)
    sides = [(_some(generated, count, rng), _some(held_out, count, rng))]
    for _ in range(pairs):
        both = fresh(2 * count) if fresh else held_out[rng.permutation(len(held_out))[: 2 * count]]
        sides.append((both[:count], both[count:]))

    with compute.one_blas_thread():
        close = _closeness(train, held_out, threads)
        compared = compute.in_order(lambda pair: _compared(*pair, neighbors), sides, threads)
        compared = list(track(compared, "generation_metrics: pairs", len(sides)))
        singles = [(*close(points), np.nan) for points in (generated, *(first for first, _ in sides[1:]))]
        if column:
            out["labels"], match = _labels(labelled, column, generated, held_out, threads)
            singles = [(*single[:2], match[place > 0]) for place, single in enumerate(singles)]
    figures = np.array([[*pair, *single] for pair, single in zip(compared, singles, strict=True)])
    _tell(figures)
    out["values"], out["floor"], out["floor_spread"] = (
        figures[0],
        figures[1:].mean(axis=0),
        (figures[1:] - figures[1]).std(axis=0),
    )
    out["n_compared"] = np.int64(count)
    return GenerationMetrics(**{name: out[name] for name in GenerationMetrics._fields if name in out})


def _tell(figures: np.ndarray) -> None:
    for name, value, floor in zip(MEASURES, figures[0], figures[1:].mean(axis=0), strict=True):
        log.info("generation_metrics: %s %.4g, of real points %.4g", name, value, floor)


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


def _closeness(train: np.ndarray, held_out: np.ndarray, threads: int | None) -> Callable:
    """A function of points: their distance to training points beside the held-out ones', and the share of copies."""
    expected = nearest(train, held_out, 1, threads).distances[:, 0]
    bound, typical = np.quantile(expected, _CLOSE), np.sqrt((expected**2).mean())

    def close(points: np.ndarray) -> tuple[float, float]:
        found = nearest(train, points, 1, threads).distances[:, 0]
        return float(np.sqrt((found**2).mean()) / typical) if typical > 0 else np.nan, float((found <= bound).mean())

    return close


def _column(labelled: Labelled | None, label: str) -> str:
    """The column of labels; "" for none, or for the numbers of a condition that are no labels."""
    column = "" if labelled is None else label or labelled.column
    if not column:
        return ""
    if column not in labelled.labels:
        remedy = f"use one of: {first_few(labelled.labels) or 'there is none'}"
        raise BadInput(Problem("HW-GM-003", "label", f"there is no column {column!r} in obs", remedy))
    n_values = len(set(_text(labelled.labels[column])))
    if n_values <= _LABELS:
        return column
    cause = f"{column!r} has {n_values} different values, more than {_LABELS}"
    if label:
        raise NothingToCompare(Problem("HW-GM-003", "label", cause, "name a column of labels"))
    log.info("generation_metrics: no labels are matched: %s", cause)
    return ""


def _text(values):
    import pandas

    return pandas.Series(np.asarray(values)).astype("string").fillna("")


def _labels(labelled: Labelled, column: str, generated: np.ndarray, held_out: np.ndarray, threads: int | None):
    """Table of labels, and the shares of generated and held-out points taken for the one that the latter have."""
    import pandas

    place, names = _text(labelled.labels[column]).factorize(sort=True)
    own = _text(labelled.held_out[column]).unique()
    train = np.asarray(labelled.points[:], np.float64)
    width, shares = min(_NEAREST, len(train)), {"train": np.bincount(place, minlength=len(names)) / len(place)}
    for kind, points in {"generated": generated, "held_out": held_out}.items():
        votes = place[nearest(train, points, width, threads).names]
        counts = np.stack([(votes == name).sum(axis=1) for name in range(len(names))], axis=1)
        shares[kind] = np.bincount(counts.argmax(axis=1), minlength=len(names)) / len(points)
    table = pandas.DataFrame(shares, index=pandas.Index(names.astype(str), name="label"))
    wanted = own[0] if len(own) == 1 else None
    match = [float(table[kind].get(wanted, np.nan)) for kind in ("generated", "held_out")]
    return table, match


def _entropic(first: np.ndarray, second: np.ndarray, blur: float) -> float:
    """min <P, C> + eps KL(P | a x b), eps = 2 blur^2, by its dual <a, f> + <b, g>, which errs by squares of errors.

    eps is halved from the largest cost on, and at each the potentials are updated until the value stands: mass that is
    to cross a wide gap moves by about eps an update, and never would at the last one. Potentials follow a new eps in
    logarithms, so that nothing underflows; then they are scaled by matrix products, and taken into the kernel every 50.
    """
    from scipy.special import logsumexp

    if not blur > 0:
        cause = "more than half of the points are equal"
        raise NothingToCompare(Problem("HW-GM-004", "held_out", cause, "remove duplicates"))
    costs, least = _squares(first, second), 2 * blur**2
    (n, m), eps = costs.shape, max(float(costs.max()), least)
    g = np.zeros(m)
    while True:
        f = -eps * (logsumexp((g - costs) / eps, axis=1, keepdims=True) - np.log(m))
        g = -eps * (logsumexp((f - costs) / eps, axis=0) - np.log(n))
        value = f.mean() + g.mean()
        for _ in range(_LAST_ROUNDS if eps == least else _ROUNDS):
            f, g = _scaled(costs, f, g, eps)
            before, value = value, f.mean() + g.mean()
            if abs(value - before) <= _TOLERANCE * max(abs(value), eps):
                break
        else:
            if eps == least:
                change = abs(value - before) / max(abs(value), eps)
                log.warning("generation_metrics: sinkhorn still changes by %.2g in 50 updates, and is too low", change)
        if eps == least:
            return float(value)
        eps = max(eps / 2, least)


def _scaled(costs: np.ndarray, f: np.ndarray, g: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Potentials after 50 updates of both."""
    (n, m), kernel = costs.shape, np.exp((f + g - costs) / eps)
    v = np.ones(m)
    for _ in range(50):
        u = m / (kernel @ v)
        v = n / (u @ kernel)
    return f + eps * np.log(u)[:, None], g + eps * np.log(v)


def _check_options(pairs, neighbors, most) -> None:
    bounds = {"pairs": (pairs, 1, np.inf), "neighbors": (neighbors, 1, 9), "most": (most, FEWEST, np.inf)}
    for name, (value, least, largest) in bounds.items():
        if not (isinstance(value, Integral) and least <= value <= largest):
            cause = f"{value!r} is no whole number from {least}{f' to {largest}' if largest < np.inf else ''}"
            raise BadInput(Problem("HW-GM-002", name, cause, "use 10 pairs, 5 neighbors and 1000 as most"))


def _tables(generated, train, held_out) -> list[np.ndarray]:
    """The three sides in double precision, checked."""
    remedies = {
        "generated": "raise n_particles of particles, or n_points of random_walk",
        "train": "use a condition that more cells meet, or a smaller cells: holdout",
        "held_out": "use a condition that more cells meet, or a larger cells: holdout",
    }
    sides = [np.asarray(points[:], np.float64) for points in (generated, train, held_out)]
    for (name, remedy), points in zip(remedies.items(), sides, strict=True):
        if points.ndim != 2 or points.shape[1:] != sides[1].shape[1:] or not np.isfinite(points).all():
            cause = f"points of shape {points.shape} are no table, not finite, or have other components than train"
            raise BadInput(Problem("HW-GM-001", name, cause, "give finite points of the same components"))
        if len(points) < FEWEST:
            cause = f"{len(points)} points are fewer than {FEWEST}"
            raise NothingToCompare(Problem("HW-GM-001", name, cause, remedy))
    return sides


def _some(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return points[rng.permutation(len(points))[:count]]


def _squares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(first, second, "sqeuclidean")
