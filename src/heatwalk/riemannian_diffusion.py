"""riemannian_diffusion: the law of points on a space by diffusion: new points, densities, and what is unusual."""

from collections.abc import MutableMapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute, outlying
from heatwalk.charts import NAMES, Chart, chart
from heatwalk.errors import BadInput, Problem
from heatwalk.neighbors import neighbors
from heatwalk.progress import log
from heatwalk.samples import FEWEST, beside, read, train_rows
from heatwalk.spaces import Euclidean
from heatwalk.spaces.space import Space

OBJECTIVES = ("denoising", "implicit", "sliced")
SAMPLERS = ("walk", "flow")
_LEAST_SIGMA, _MOST_SIGMA = 1e-4, 0.1  # of "auto"
_FINER = 0.25  # than the distance of samples, by "auto"
_WALK = 200  # steps


class RiemannianDiffusion(NamedTuple):
    log_density: Any  # (cell,) float64, natural logarithm, for the volume of the space
    out_of_distribution: Any  # (cell,) float64, share of the samples left out that are less unusual
    points: Any = None  # (particle, component) float64; the rest is absent where a reference was given
    flagged: Any = None  # (particle,) bool, it left the data
    distances: Any = None  # (particle,) float64, to the nearest sample, through the surrounding space
    nearest: Any = None  # (particle,) int64, that sample: a row of the points given
    left_out: Any = None  # (sample,) float64, ascending, how unusual the samples are that were not trained on
    outlying: Any = None  # (byte,) uint8, safetensors: what tells how unusual points are
    losses: Any = None  # (epoch, 2) float64: in training, and of the mean weights on the samples left out
    weights: Any = None  # (byte,) uint8, safetensors
    description: Any = None  # (byte,) uint8, JSON

    @property
    def network(self):
        """The trained network, for `heatwalk.score_flow`: `log_density`, `flowed`, `walked`."""
        from heatwalk import score_network

        weights, description = (np.asarray(array[:]).tobytes() for array in (self.weights, self.description))
        return score_network.loaded(weights, description.decode())


def riemannian_diffusion(
    points,
    cells=None,
    reference: RiemannianDiffusion | None = None,
    *,
    space: str | Space = "sphere",
    n_points: int = 1000,
    condition: str = "",
    objective: str = "denoising",
    sampler: str = "walk",
    steps: int | str = "auto",
    sigma_min: float | str = "auto",
    prototypes: int = 1024,
    width: int = 128,
    batch: int = 256,
    epochs: int = 40,
    rate: float = 1e-3,
    validation: float = 0.1,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    out: MutableMapping | None = None,
) -> RiemannianDiffusion:
    """Learn the score of points that Brownian motion blurs, sigma_min to uniform, and go back along it.

        s(y, sigma) ~ grad log E_x p_t(x, y),  t = sigma^2,  by exact draws and exact scores of the heat kernel p_t

    points: (cell, component), placed on a `space` as `charts.chart` says: "sphere", "torus", "so3", or one of
    heatwalk.spaces with (cell, ...) points of it. The samples are all, or those not held out (split 0) of which
    `condition` holds. A share `validation` of them is not trained on: it chooses the epoch, and is what
    out_of_distribution compares with, by `outlying.unusual`: 1 for a point more unusual than all of them.
    objective: "implicit" and "sliced" are for comparison, see `score_matching`. sampler: a geodesic random walk
    ("walk") or the probability flow ("flow"), in so many steps; "auto": 200, and adaptive ones. sigma_min: standard
    deviation in every direction by which all is blurred; "auto": a quarter of the distance of near samples, 1e-4 to .1.
    log_density: of all points, by the flow, `score_flow.log_density`. reference: an earlier result, whose model then
    gives the densities alone, and nothing is trained. checkpoint: a file with the state after every epoch.
    Raises BadInput for options out of bounds, points that lie on no such space, fewer than 32 samples.
    Source: Lou, Xu, Ermon, Scaling Riemannian diffusion models (2023); De Bortoli et al. (2022) for the flow.
    """
    out = {} if out is None else out
    _check_choices(space, objective, sampler, steps, device)
    if reference is not None:
        return _scored(points, reference, space, seed, threads, out)
    how = chart(points, space)
    rows = train_rows(points, cells, condition, "HW-RD-008")
    samples = how.points(_read(points, rows))
    options = _options(objective, batch, epochs, rate, validation, len(samples))
    sizes = _sizes(n_points, prototypes, width, sigma_min)
    with compute.one_blas_thread():
        network, losses, left, _ = _trained(how, samples, sizes, options, (seed, threads), checkpoint, device)
        found = {"losses": losses} | _kept(network)
        judge = _judge(how, samples, left, network.description.sigma_min**2, prototypes, seed, threads)
        found |= {"outlying": outlying.packed(judge[0]), "left_out": judge[1]}
        found |= _said(network, how, points, judge, seed, threads)
        drawn = _drawn(network, n_points, sampler, steps, seed)
        found |= _beside(how, samples, rows, drawn, seed, threads)
    return _filled(found, out)


def _scored(points, reference, space, seed: int, threads: int | None, out) -> RiemannianDiffusion:
    """Densities by the model of a reference."""
    network, how = reference.network, chart(points, space)
    if repr(how.space) != network.description.space:
        cause = f"points lie on {how.space!r}, the model of the reference is of {network.description.space}"
        raise BadInput(Problem("HW-RD-009", "reference", cause, "use the same space and representation"))
    if reference.outlying is None:
        cause = "was made by an earlier version and does not tell how unusual points are"
        raise BadInput(Problem("HW-RD-010", "reference", cause, "make it again with this version"))
    judge = outlying.unpacked(reference.outlying[:]), np.asarray(reference.left_out[:])
    with compute.one_blas_thread():
        return _filled(_said(network, how, points, judge, seed, threads), out)


def _filled(found: dict, out: MutableMapping) -> RiemannianDiffusion:
    for name, array in found.items():
        arrays.make(out, name, array.shape, array.dtype)[...] = array
    return RiemannianDiffusion(**{name: out[name] for name in RiemannianDiffusion._fields if name in out})


def _trained(how: Chart, samples, sizes: dict, options: tuple, common: tuple, checkpoint: Path | None, device: str):
    from heatwalk import score_flow, score_matching
    from heatwalk.score_network import Description

    seed, threads = common
    sizes = sizes | {"prototypes": score_matching.prototypes(sizes["prototypes"], len(samples), options[-1])}
    if sizes["sigma_min"] == "auto":
        sizes["sigma_min"] = finest_noise(how, samples, seed, threads)
    most = score_flow.uniform_from(how.space)
    if sizes["sigma_min"] >= most / 2:
        cause = f"{sizes['sigma_min']:g} leaves nothing of {how.space!r}, which is uniform from {most:.3g} on"
        raise BadInput(Problem("HW-RD-002", "sigma_min", cause, f"set it below {most / 2:.2g}, or to auto"))
    described = Description(repr(how.space), sigma_max=most, **sizes)
    log.info("riemannian_diffusion: %s, sigma from %.4g to %.4g", *(described[i] for i in (0, 3, 4)))
    given = score_matching.Options(*options)
    limits = {"seed": seed, "threads": threads, "checkpoint": checkpoint, "device": device}
    return score_matching.trained(how.space, samples, described, given, **limits)


def finest_noise(how: Chart, samples: np.ndarray, seed: int, threads: int | None) -> float:
    """A quarter of the distance, in every direction, at which a tenth of the samples has another one."""
    distinct = np.unique(how.flat(samples), axis=0)
    near = neighbors(distinct, n_neighbors=1, seed=seed, threads=threads).distances[:, 0]
    apart = float(np.quantile(near, 0.1)) * np.sqrt(how.space.slope / how.space.dimension)
    return float(np.clip(_FINER * apart, _LEAST_SIGMA, _MOST_SIGMA))


def _kept(network) -> dict:
    from heatwalk import score_network

    weights, description = score_network.saved(network)
    texts = {"weights": weights, "description": description.encode()}
    return {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}


def _judge(how: Chart, samples, left: np.ndarray, least: float, prototypes: int, seed: int, threads: int | None):
    """What tells how unusual points are, and how unusual samples left out are, ascending."""
    kept, fresh = (how.flat(part) * how.space.slope**0.5 for part in (np.delete(samples, left, axis=0), samples[left]))
    sizes = {"dimension": how.space.dimension, "least": least, "most": prototypes}
    made = outlying.outlying(kept, fresh, **sizes, seed=seed, threads=threads)
    return made, np.sort(outlying.unusual(made, fresh, threads))


def _said(network, how: Chart, points, judge: tuple, seed: int, threads: int | None) -> dict:
    """Log-densities of all points, read block by block, and the share of samples left out that are less unusual."""
    from heatwalk import score_flow

    made, levels = judge
    logs, shares = np.empty(points.shape[0]), np.empty(points.shape[0])
    for block in compute.blocks(points.shape[0], compute.BLOCK_CELLS):
        own = how.points(np.asarray(points[block]), f"points from row {block.start}")
        logs[block] = score_flow.log_density(network, own, seed=seed + block.start, threads=threads)
        found = outlying.unusual(made, how.flat(own) * how.space.slope**0.5, threads)
        shares[block] = np.searchsorted(levels, found) / len(levels)
    return {"log_density": logs, "out_of_distribution": shares}


def _drawn(network, n_points: int, sampler: str, steps: int | str, seed: int) -> np.ndarray:
    from heatwalk import score_flow

    rng = np.random.default_rng([seed, 37])
    if sampler == "flow":
        return score_flow.flowed(network, n_points, rng, None if steps == "auto" else steps)
    return score_flow.walked(network, n_points, rng, _WALK if steps == "auto" else steps)


def _beside(how: Chart, samples, rows: np.ndarray, drawn, seed: int, threads: int | None) -> dict:
    """Points, how far each is from the samples, and whether it left them."""
    near = how.flat(samples)
    known = neighbors(near, n_neighbors=1, seed=seed, threads=threads)
    spacing = np.asarray(known.distances[:, 0], np.float64)
    distances, flagged, names = beside(near, how.flat(drawn), spacing, seed, threads)
    log.info("riemannian_diffusion: %d of %d points left the data", int(flagged.sum()), len(flagged))
    return {"points": how.rows(drawn), "flagged": flagged, "distances": distances, "nearest": rows[names]}


def _read(points, rows: np.ndarray) -> np.ndarray:
    """Some rows; complex points stay so."""
    return points[rows] if isinstance(points, np.ndarray) else read(points, rows)


def _check_choices(space, objective: str, sampler: str, steps, device: str) -> None:
    compute.check_device(device)
    if isinstance(space, Euclidean):
        cause = f"{space!r} has no uniform law to begin from"
        raise BadInput(Problem("HW-RD-002", "space", cause, f"use one of: {', '.join(NAMES)}, or a compact space"))
    for name, value, allowed in (("objective", objective, OBJECTIVES), ("sampler", sampler, SAMPLERS)):
        if value not in allowed:
            raise BadInput(Problem("HW-RD-002", name, f"{value!r} is unknown", f"use one of: {', '.join(allowed)}"))
    if steps != "auto" and not (isinstance(steps, Integral) and steps >= 1):
        raise BadInput(Problem("HW-RD-002", "steps", f"{steps!r} is no whole number from 1", "set it to auto"))


def _sizes(n_points, prototypes, width, sigma_min) -> dict:
    for name, value in (("n_points", n_points), ("prototypes", prototypes), ("width", width)):
        _check_whole(name, value, 1, np.inf)
    if sigma_min != "auto":
        _check_above("sigma_min", sigma_min)
    return {"prototypes": prototypes, "width": width, "sigma_min": sigma_min}


def _options(objective: str, batch, epochs, rate, validation, n_samples: int) -> tuple:
    if n_samples < 4 * FEWEST:
        cause = f"{n_samples} samples are fewer than {4 * FEWEST}"
        raise BadInput(Problem("HW-RD-007", "points", cause, f"give {4 * FEWEST} samples or more"))
    _check_whole("batch", batch, 2, np.inf)
    _check_whole("epochs", epochs, 1, np.inf)
    _check_above("rate", rate)
    if not (isinstance(validation, Real) and 0 < validation <= 0.5):
        cause = f"{validation!r} is no share above 0 and up to 0.5"
        raise BadInput(Problem("HW-RD-002", "validation", cause, "set it to 0.1"))
    return objective, batch, epochs, rate, validation


def _check_whole(name: str, value, least: int, most: float) -> None:
    if not (isinstance(value, Integral) and least <= value <= most):
        cause = f"{value!r} is no whole number from {least}"
        raise BadInput(Problem("HW-RD-002", name, cause, f"set {name} to {least} or more"))


def _check_above(name: str, value) -> None:
    if not (isinstance(value, Real) and np.isfinite(value) and value > 0):
        raise BadInput(Problem("HW-RD-002", name, f"{value!r} is no number above 0", f"set {name} above 0"))
