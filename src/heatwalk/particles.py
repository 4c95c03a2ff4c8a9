"""particles: new points from samples without training, moved by the inverse generator of their diffusion map."""

from collections.abc import Callable, MutableMapping
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute
from heatwalk.decoding import as_unseen, check_decode, decode_where
from heatwalk.errors import BadInput, Problem
from heatwalk.inverse_generator import Generator, averages, force, generator
from heatwalk.progress import log, track
from heatwalk.samples import FEWEST, beside, population, read, train_rows
from heatwalk.surroundings import Surroundings, drawn, even, nearest, settled, surroundings

_AT_REST = 0.01  # of a bandwidth: the root mean square of a step at which particles stand still
_SMALLEST_STEP = 1e-3  # of time, when the energy falls no further
_SEEN, _LARGEST_SHARE = 20.0, 0.9  # samples that the median one sees by itself; of those used, at most
_CARRIED, _CROWD = 2, 50  # samples that carry a mode; particles from which on their number counts for that
_ALONE, _FEW = 0.95, 1024  # sum of squares of averages over one sample all but alone; particles looked at at a time


class Particles(NamedTuple):
    points: Any  # (particle, component) float64
    flagged: Any  # (particle,) bool, it left the data
    distances: Any  # (particle,) float64, to the nearest sample
    nearest: Any  # (particle,) int64, that sample: a row of the points given
    energy: Any  # (step,) float64
    eigenvalues: Any  # (mode,) float64, of the operator, without the trivial 1
    bandwidth: Any  # float64
    expression: Any = None  # (particle, gene) float32, where decoded


class State(NamedTuple):
    """Particles on their way; nothing in it changes, `step` makes a new one."""

    points: np.ndarray  # (particle, component)
    velocity: np.ndarray  # (particle, component)
    energy: float
    time_step: float
    moved: float  # root mean square of the last step in bandwidths


def flow(made: Generator, threads: int | None = None) -> tuple[Callable, Callable]:
    """`init(points) -> State` and `step(state) -> State` of particles under a generator.

    d/dt x = -sum_k w_k c_k grad psi_k(x): near the end every resolved mode decays as exp(-t): a step of 1 is natural.
    A step is halved until the energy does not rise, and no particle moves farther than a bandwidth at once.
    """

    def moving(points: np.ndarray) -> tuple[np.ndarray, float]:
        return force(made, points, lambda function, items: compute.in_order(function, items, threads))

    def init(points: np.ndarray) -> State:
        points = np.asarray(points, np.float64)
        return State(points, *moving(points), 1.0, np.inf)

    def step(state: State) -> State:
        time_step = state.time_step
        while True:
            move = time_step * state.velocity
            length = np.linalg.norm(move, axis=1, keepdims=True)
            move *= made.bandwidth / np.maximum(length, made.bandwidth)
            velocity, energy = moving(state.points + move)
            moved = float(np.sqrt((move**2).sum(axis=1).mean()) / made.bandwidth)
            if energy <= state.energy:
                return State(state.points + move, velocity, energy, min(1.0, 1.5 * time_step), moved)
            time_step /= 2
            if time_step < _SMALLEST_STEP:
                return state._replace(moved=0.0)

    return init, step


def particles(
    points,
    cells=None,
    pca=None,
    *,
    n_particles: int = 1000,
    condition: str = "",
    start: Any = "samples",
    decode: bool | str = "auto",
    bandwidth: float | str = "auto",
    effective_samples: float | str = "auto",
    modes: int | str = "auto",
    landmarks: int = 3000,
    max_steps: int = 100,
    seed: int = 0,
    threads: int | None = None,
    out: MutableMapping | None = None,
) -> Particles:
    """New points distributed as the samples are: particles that flow until their means of all modes are the samples'.

    points: (cell, component). The samples are all of them or, with `cells`, those that are not held out (split 0) and
    of which the condition `column=value` of obs holds. start: "samples", a Gaussian of the neighbours of evenly chosen
    samples, so that every region has its share from the beginning; "gaussian", by the mean and covariance of all;
    `column=value`, as "samples" of the cells that are not held out and have that value; or (particle, component)
    points. Flow: `flow`, by the operator of `generator` on up to `landmarks` evenly chosen samples, until a step moves
    particles by less than .01 bandwidths, the energy falls no further, or `max_steps`. Then `settled`: nothing in the
    flow contracts normal to a thin surface. What begins so far off that it sees one sample alone is drawn from the
    Gaussian around that: the velocity vanishes there. Mass does not cross wide gaps between groups of samples: their
    shares are those of the start.
    decode: `decoding.decoded` of every particle, at least 0 where the cells' values are; "auto": where `pca` has
    loadings. flagged: farther from all samples than 99% of distinct ones from each other. Points are finite. bandwidth,
    effective_samples, modes: see `generator`; effective_samples "auto": 20, or .9 of fewer than 23 samples. Memory:
    landmarks^2, particles x landmarks and component^2 numbers.
    Raises BadInput for samples or starts that are none or not finite, and options out of bounds.
    Sources: Li et al., Diffusion map particle systems for generative modeling (2023); Chewi et al., SVGD as a
    kernelized Wasserstein gradient flow of the chi-squared divergence (2020).
    """
    out = {} if out is None else out
    _check_options(n_particles, landmarks, max_steps, bandwidth, modes, decode, pca)
    rows = train_rows(points, cells, condition, "HW-PA-008")
    samples = _checked(read(points, rows))
    seen = _seen(effective_samples, min(len(samples), landmarks)) if bandwidth == "auto" else _SEEN
    rng = np.random.default_rng([seed, 11])
    with compute.one_blas_thread():
        around = surroundings(samples, seed=seed, threads=threads)
        chosen = np.sort(even(samples, landmarks, rng)) if len(samples) > landmarks else None
        made = generator(samples, landmarks=chosen, bandwidth=bandwidth, effective_samples=seen, modes=modes)
        started = _started(start, n_particles, around, made, (points, cells), rng, seed, threads)
        made = _matchable(made, len(started))
        state, energy = _moved(made, started, max_steps, threads)
        final = as_unseen(settled(around, state.points, rng, threads), pca)
        distances, flagged, names = beside(samples, final, around.spacing, seed, threads)
        decode_where(decode, final, cells, pca, out)
    _tell(state, len(energy) - 1, max_steps, flagged)
    values = (final, flagged, distances, rows[names], energy, made.eigenvalues, np.float64(made.bandwidth))
    for name, array in zip(Particles._fields, values, strict=False):
        arrays.make(out, name, array.shape, array.dtype)[...] = array
    return Particles(**{name: out[name] for name in Particles._fields if name in out})


def _matchable(made: Generator, n_particles: int) -> Generator:
    """Without the modes that fewer samples carry than one particle stands for, or than 2: nothing can match them.

    Samples that carry a mode: (sum psi^2)^2 / sum psi^4. A mode of one outlying sample has an eigenvalue of all but 1
    and the largest weight: a particle that comes near it outweighs all others, and the energy falls no further.
    """
    squares = made.vectors**2
    carried = squares.sum(axis=0) ** 2 / (squares**2).sum(axis=0)
    fewest = max(_CARRIED, len(squares) / max(n_particles, _CROWD))
    kept = carried >= min(fewest, carried.max())
    if not kept.all():
        log.info("particles: %d of %d modes are of too few samples to be matched", (~kept).sum(), len(kept))
    modes = {name: getattr(made, name)[..., kept] for name in ("eigenvalues", "vectors", "weights", "target")}
    return made._replace(**modes)


def _moved(made: Generator, started: np.ndarray, max_steps: int, threads: int | None) -> tuple[State, np.ndarray]:
    """Particles at rest, or after so many steps, and the energy after each."""
    init, step = flow(made, threads)
    state = init(started)
    energy = [state.energy]
    for _ in track(range(max_steps), "particles: steps", max_steps):
        state = step(state)
        energy.append(state.energy)
        if state.moved <= _AT_REST:
            break
    return state, np.array(energy)


def _started(start, n_particles: int, around: Surroundings, made: Generator, of: tuple, rng, seed: int, threads):
    """(particle, component) where particles begin."""
    samples = around.samples
    if isinstance(start, str) and start == "samples":
        return drawn(around, even(samples, n_particles, rng), rng)
    if isinstance(start, str) and start == "gaussian":
        about = samples - made.centre
        variances, axes = np.linalg.eigh(about.T @ about / len(samples))
        started = made.centre + rng.normal(size=(n_particles, len(axes))) * np.sqrt(np.maximum(variances, 0)) @ axes.T
    elif isinstance(start, str):
        population = read(of[0], _population(of[1], start))
        others = surroundings(population, seed=seed, threads=threads)
        started = drawn(others, even(population, n_particles, rng), rng)
    else:
        started = np.asarray(start, np.float64)
        if started.ndim != 2 or not len(started) or started.shape[1:] != samples.shape[1:] or not _finite(started):
            cause = f"start has the shape {started.shape}, and must be finite points of {samples.shape[1]} components"
            raise BadInput(Problem("HW-PA-003", "start", cause, "give at least one point as the samples are"))
    started = settled(around, started, rng, threads)
    blocks = compute.blocks(len(started), _FEW)
    alone = np.concatenate([(averages(made, started[part]) ** 2).sum(axis=1) > _ALONE for part in blocks])
    if alone.any():  # there the velocity is all but 0
        started[alone] = drawn(around, nearest(samples, started[alone], 1, threads).names[:, 0], rng)
        log.info(
            "particles: %d of %d began where no samples are, and are moved to the nearest", alone.sum(), len(alone)
        )
    return started


def _population(cells, start: str) -> np.ndarray:
    """Numbers of the cells that a start names."""
    if cells is None or "=" not in start:
        remedy = "use samples, gaussian, column=value of obs, or an array of points"
        raise BadInput(Problem("HW-PA-003", "start", f"{start!r} is unknown", remedy))
    return population(cells, start, "HW-PA-009", "start")


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())


def _check_options(n_particles, landmarks, max_steps, bandwidth, modes, decode, pca) -> None:
    whole = {"n_particles": (n_particles, 1), "landmarks": (landmarks, FEWEST), "max_steps": (max_steps, 0)}
    for name, (value, least) in whole.items():
        if not (isinstance(value, Integral) and value >= least):
            cause = f"{value!r} is no whole number from {least}"
            raise BadInput(Problem("HW-PA-002", name, cause, f"set {name} to {least} or more"))
    if not _is_auto(modes) and not isinstance(modes, Integral):
        raise BadInput(Problem("HW-PA-004", "modes", f"{modes!r} is no whole number", "set it from 1 on, or to auto"))
    if not _is_auto(bandwidth) and not (isinstance(bandwidth, Real) and np.isfinite(bandwidth) and bandwidth > 0):
        raise BadInput(Problem("HW-PA-007", "bandwidth", f"{bandwidth!r} is no length", "set it above 0, or to auto"))
    check_decode(decode, pca, "HW-PA-010", "particles")


def _is_auto(value) -> bool:
    return isinstance(value, str) and value == "auto"


def _checked(samples: np.ndarray) -> np.ndarray:
    if samples.ndim != 2 or len(samples) < FEWEST or not _finite(samples):
        cause = f"samples of shape {samples.shape} are fewer than {FEWEST}, no table, or not finite"
        raise BadInput(Problem("HW-PA-001", "points", cause, f"give {FEWEST} finite samples or more"))
    return samples


def _seen(effective_samples: float | str, n_used: int) -> float:
    """How many samples the median one sees: as asked for, or as many as so few allow."""
    most = _LARGEST_SHARE * n_used
    if _is_auto(effective_samples):
        if most < _SEEN:
            log.info("particles: effective_samples is %.1f, as only %d samples are used", most, n_used)
        return min(_SEEN, most)
    if not (isinstance(effective_samples, Real) and 1.5 <= effective_samples <= most):
        cause = f"{effective_samples!r} is not between 1.5 and {most:.1f}, nine tenths of the {n_used} samples used"
        remedy = f"set it to {int(min(_SEEN, most))}, to auto, or give more samples"
        raise BadInput(Problem("HW-PA-007", "effective_samples", cause, remedy))
    return float(effective_samples)


def _tell(state: State, n_steps: int, max_steps: int, flagged: np.ndarray) -> None:
    log.info("particles: %d steps, the last moved %.3g bandwidths, energy %.3g", n_steps, state.moved, state.energy)
    if state.moved > _AT_REST and n_steps >= max_steps:
        log.warning("particles: still moving %.3g bandwidths a step after %d steps", state.moved, n_steps)
    log.info("particles: %d of %d left the data", int(flagged.sum()), len(flagged))
