"""particles: new points from samples without training, moved by the inverse generator of their diffusion map."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.errors import BadInput, Problem
from heatwalk.inverse_generator import Generator, force, generator
from heatwalk.progress import log
from heatwalk.surroundings import drawn, even, nearest, settled, surroundings

_AT_REST = 0.01  # of a bandwidth: the root mean square of a step at which particles stand still
_SMALLEST_STEP = 1e-3  # of time, when the energy falls no further
_FRESH = 0.99  # of samples that lie as near to another one: a particle farther off has left the data


class Particles(NamedTuple):
    points: Any  # (particle, component) float64
    flagged: Any  # (particle,) bool, it left the data
    distances: Any  # (particle,) float64, to the nearest sample
    nearest: Any  # (particle,) int64, that sample
    energy: Any  # (step,) float64
    eigenvalues: Any  # (mode,) float64, of the operator, without the trivial 1
    bandwidth: float


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
    *,
    n_particles: int = 1000,
    start: Any = "samples",
    bandwidth: float | str = "auto",
    effective_samples: float = 20.0,
    modes: int | str = "auto",
    landmarks: int = 3000,
    max_steps: int = 100,
    seed: int = 0,
    threads: int | None = None,
) -> Particles:
    """New points distributed as the samples are: particles that flow until their means of all modes are the samples'.

    points: (sample, component), the training samples. start: "samples", a Gaussian of the neighbours of evenly chosen
    samples, so that every region has its share from the beginning; "gaussian", the mean and covariance of all; or
    (particle, component) points. Flow: `flow`, by the operator of `generator` on up to `landmarks` evenly chosen
    samples, until a step moves particles by less than .01 bandwidths, the energy falls no further, or `max_steps`.
    Then `settled`: nothing in the flow contracts normal to a thin surface. Mass does not cross wide gaps between
    groups of samples: their shares are those of the start.
    flagged: farther from every sample than 99% of samples are from their nearest other one. Every point is finite.
    bandwidth, effective_samples, modes: see `generator`. Memory: landmarks^2 and particles x landmarks numbers.
    Raises BadInput for samples or starts that are none or not finite, and options out of bounds.
    Sources: Li et al., Diffusion map particle systems for generative modeling (2023); Chewi et al., SVGD as a
    kernelized Wasserstein gradient flow of the chi-squared divergence (2020).
    """
    samples, started = _checked(points, start, n_particles, effective_samples, bandwidth, landmarks, max_steps)
    rng = np.random.default_rng([seed, 11])
    with compute.one_blas_thread():
        around = surroundings(samples, seed=seed, threads=threads)
        chosen = np.sort(even(samples, landmarks, rng)) if len(samples) > landmarks else None
        options = {"bandwidth": bandwidth, "effective_samples": effective_samples, "modes": modes}
        made = generator(samples, landmarks=chosen, **options)
        if isinstance(start, str) and start == "samples":
            started = drawn(around, even(samples, n_particles, rng), rng)
        elif started is None:
            spread = (samples - made.centre) / np.sqrt(len(samples))
            started = made.centre + rng.normal(size=(n_particles, len(samples))) @ spread
        if not isinstance(start, str) or start != "samples":  # far from the samples the velocity is all but 0
            started = settled(around, started, rng, threads)
        init, step = flow(made, threads)
        state = init(started)
        energy = [state.energy]
        while state.moved > _AT_REST and len(energy) <= max_steps:
            state = step(state)
            energy.append(state.energy)
        final = settled(around, state.points, rng, threads)
        found = nearest(samples, final, 1, threads)
    distances = found.distances[:, 0].astype(np.float64)
    flagged = distances > np.quantile(around.spacing, _FRESH)
    _tell(state, len(energy) - 1, max_steps, flagged)
    return Particles(final, flagged, distances, found.names[:, 0], np.array(energy), made.eigenvalues, made.bandwidth)


def _checked(points, start, n_particles, effective_samples, bandwidth, landmarks, max_steps):
    """The samples, and the points to start from, if they are given."""
    samples = np.asarray(points[:], np.float64)
    if samples.ndim != 2 or len(samples) < 8 or not np.isfinite(samples).all():
        cause = f"samples of shape {samples.shape} are fewer than 8, no table, or not finite"
        raise BadInput(Problem("HW-PA-001", "points", cause, "give 8 finite samples or more"))
    whole = {"n_particles": (n_particles, 1), "landmarks": (landmarks, 8), "max_steps": (max_steps, 0)}
    for name, (value, least) in whole.items():
        if not (isinstance(value, Integral) and value >= least):
            cause = f"{value!r} is no whole number from {least}"
            raise BadInput(Problem("HW-PA-002", name, cause, f"set {name} to {least} or more"))
    n_used = min(len(samples), landmarks)
    if not 1.5 <= effective_samples <= 0.9 * n_used:
        cause = f"{effective_samples} is not between 1.5 and nine tenths of the {n_used} samples used"
        raise BadInput(Problem("HW-PA-007", "effective_samples", cause, "set it to 20, or give more samples"))
    if bandwidth != "auto" and not (np.isfinite(bandwidth) and bandwidth > 0):
        raise BadInput(Problem("HW-PA-007", "bandwidth", f"{bandwidth!r} is no length", "set it above 0, or to auto"))
    if isinstance(start, str):
        if start not in ("samples", "gaussian"):
            remedy = "use samples, gaussian, or an array of points"
            raise BadInput(Problem("HW-PA-003", "start", f"{start!r} is unknown", remedy))
        return samples, None
    started = np.asarray(start, np.float64)
    if started.ndim != 2 or not len(started) or started.shape[1] != samples.shape[1] or not np.isfinite(started).all():
        cause = f"start has the shape {started.shape}, and must be finite points of {samples.shape[1]} components"
        raise BadInput(Problem("HW-PA-003", "start", cause, "give at least one point as the samples are"))
    return samples, started


def _tell(state: State, n_steps: int, max_steps: int, flagged: np.ndarray) -> None:
    log.info("particles: %d steps, the last moved %.3g bandwidths, energy %.3g", n_steps, state.moved, state.energy)
    if state.moved > _AT_REST and n_steps >= max_steps:
        log.warning("particles: still moving %.3g bandwidths a step after %d steps", state.moved, n_steps)
    log.info("particles: %d of %d left the data", int(flagged.sum()), len(flagged))
