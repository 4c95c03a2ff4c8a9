"""random_walk: new points by walking over the data, burst by burst, in learned diffusion coordinates."""

from collections.abc import MutableMapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute, encoders
from heatwalk.decoding import as_unseen, check_decode, decode_where
from heatwalk.errors import BadInput, Problem, first_few
from heatwalk.mixing import bound, split_rhat
from heatwalk.neighbors import neighbors as nearest_others
from heatwalk.progress import log
from heatwalk.samples import FEWEST, beside, population, read, train_rows
from heatwalk.surroundings import even

_MOST_STEPS = 100  # until the walk has mixed
_WIDTH, _NOISE_RANK = 128, 8
_MANY = 128  # values of a point: of more, noise has one shared direction and networks are twice as wide
_WALKED = 2**13  # walkers at a time


class RandomWalk(NamedTuple):
    points: Any  # (particle, component) float64
    flagged: Any  # (particle,) bool, it left the data
    distances: Any  # (particle,) float64, to the nearest sample
    nearest: Any  # (particle,) int64, that sample: a row of the points given
    step: Any  # (particle,) int64, from 1
    burst: Any  # (particle,) int64, number of the walker that drew it
    seeds: Any  # (particle,) int64, where that walker began: a row of the points given
    mixing: Any  # (step, 2) float64, R of the seed and of the law; NaN at the first step
    losses: Any  # (epoch, 3) float64: divergence, reconstruction, stretch
    eigenvalues: Any  # (mode,) float64, of the encoder
    weights: Any  # (byte,) uint8, safetensors
    description: Any  # (byte,) uint8, JSON
    expression: Any = None  # (particle, gene) float32, where decoded

    @property
    def walker(self):
        """The trained walker, for `heatwalk.walker`: `places`, `burst`, `points_at`, `covariances`."""
        from heatwalk import walker

        weights, description = (np.asarray(array[:]).tobytes() for array in (self.weights, self.description))
        return walker.loaded(weights, description.decode())


def random_walk(
    points,
    cells=None,
    pca=None,
    *,
    n_points: int = 1000,
    condition: str = "",
    seeds: str | Sequence = "samples",
    steps: int | str = "auto",
    kept: str = "last",
    noise: bool = True,
    encoder: str = "deep_diffusion_map",
    n_components: int = 30,
    t: int = 1,
    latent: int = 10,
    neighbors: int = 16,
    batch: int = 256,
    reach: float = 1.0,
    epochs: int = 20,
    rate: float = 1e-3,
    lengths: float = 5.0,
    decode: bool | str = "auto",
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    out: MutableMapping | None = None,
) -> RandomWalk:
    """New points by `n_points` walkers: encode, draw from the local covariance, decode, and again from there.

        z = psi(x),  z' ~ N(z, C(z)),  x' = D(z'),  and on from psi(x')

    psi: `n_components` diffusion coordinates, see `encoders.encoder`, trained first, of which a chart makes `latent` in
    which D keeps lengths. C and D as `local_evidence.losses` says: C towards `reach` times the covariance of the
    `neighbors` nearest places in a `batch`, D towards the point whose place is nearest to z'. Given out is D(psi(x')),
    with `noise` also a draw from N(0, R), R what D leaves of the samples: D alone is their surface.
    points: (cell, component). Samples: all, or those not held out (split 0) of which `condition` holds.
    seeds: "samples", evenly chosen ones; `column=value`; names of cells, or row numbers. steps: a number; "auto": until
    by `mixing.split_rhat` the walkers' law stands still and seeds are forgotten, at most 100; from "samples" the first.
    kept: points of the "last" step, or of "all". A walk stays in a group farther off from others than steps reach.
    checkpoint: a file with the state after every epoch, from which a run goes on. device: "cpu" or "cuda".
    Raises BadInput for options out of bounds, too few eigenvalues, zero covariances, unknown seeds, NaN.
    Source: Li, Lindenbaum, Cheng, Cloninger, Variational diffusion autoencoders with random walk sampling (2020).
    """
    out = {} if out is None else out
    _check_choices(encoder, kept, steps, noise, decode, pca, device)
    rows = train_rows(points, cells, condition, "HW-RW-008")
    samples = _checked(read(points, rows))
    options = _options((neighbors, batch, reach, epochs, rate, lengths), n_points, n_components, latent, len(samples))
    began = _seeds(seeds, points, cells, rows, samples, n_points, np.random.default_rng([seed, 24]))
    with compute.one_blas_thread():
        sizes, common = (n_components, t, latent), (seed, threads, device, checkpoint)
        found, trained = _trained(samples, encoder, sizes, options, common)
        from_law = isinstance(seeds, str) and seeds == "samples"
        drawn, walked = _walk(trained, points, began, (steps, from_law, kept, noise), np.random.default_rng([seed, 25]))
        found |= walked | _beside(samples, rows, as_unseen(drawn, pca), seed, threads)
        decode_where(decode, found["points"], cells, pca, out)
    for name, array in found.items():
        arrays.make(out, name, array.shape, array.dtype)[...] = array
    return RandomWalk(**{name: out[name] for name in RandomWalk._fields if name in out})


def _trained(samples, kind: str, of: tuple, options, common: tuple):
    """What training gives of a result, and the walker."""
    from heatwalk import local_evidence, walker

    seed, threads, device, checkpoint = common
    limits = {"seed": seed, "threads": threads, "device": device, "checkpoint": encoders.encoder_checkpoint(checkpoint)}
    n_values, many = samples.shape[1], samples.shape[1] > _MANY
    sizes = {"n_latent": of[2], "n_values": n_values, "width": _WIDTH * (1 + many)}
    sizes |= {"noise_rank": 1 if many else min(n_values, _NOISE_RANK)}

    def make_encoder():
        return encoders.encoder(samples, kind, *of[:2], **limits)

    def described(encoder):
        return walker.Description(encoder, **sizes)

    asked = f"{kind} {of[:2]} {sizes}"
    made = local_evidence.trained(samples, make_encoder, described, asked, options, seed, checkpoint, device)
    trained, losses, eigenvalues = made
    weights, description = walker.saved(trained)
    return {
        "losses": losses,
        "eigenvalues": np.asarray(eigenvalues, np.float64),
        "weights": np.frombuffer(weights, np.uint8),
        "description": np.frombuffer(description.encode(), np.uint8),
    }, trained


def _beside(samples: np.ndarray, rows: np.ndarray, points: np.ndarray, seed: int, threads: int | None) -> dict:
    """Points, how far each is from the samples, and whether it left them."""
    known = nearest_others(samples, n_neighbors=1, seed=seed, threads=threads)
    distances, flagged, names = beside(samples, points, np.asarray(known.distances[:, 0], np.float64), seed, threads)
    log.info("random_walk: %d of %d points left the data", int(flagged.sum()), len(flagged))
    return {"points": points, "flagged": flagged, "distances": distances, "nearest": rows[names]}


def _walk(walker, points, began: np.ndarray, how: tuple, rng) -> tuple[np.ndarray, dict]:
    """New points, and the step, the walker and the seed of each, from rows of the points where walkers began."""
    steps, from_law, kept, noise = how
    start, at = np.unique(began, return_inverse=True)
    trail, mixing = _walked(walker, read(points, start)[at], steps, from_law, rng)
    drawn = [_points(walker, places, noise, rng) for places in (trail if kept == "all" else trail[-1:])]
    numbers = np.arange(len(trail) - len(drawn), len(trail)) + 1
    return np.concatenate(drawn), {
        "step": np.repeat(numbers, len(began)),
        "burst": np.tile(np.arange(len(began)), len(drawn)),
        "seeds": np.tile(began, len(drawn)),
        "mixing": mixing,
    }


def _walked(walker, start: np.ndarray, steps: int | str, from_law: bool, rng):
    """(latent places after each step, (step, 2) R of the seed and of the law)."""
    from heatwalk.walker import burst, diffusion_coordinates, places

    def looked_at(at):
        return _in_parts(lambda block: diffusion_coordinates(walker, block), at)

    at = _in_parts(lambda block: places(walker, block), start)
    trail, told, seen = [at], [], [looked_at(at)]
    most = _MOST_STEPS if steps == "auto" else steps
    while len(told) < most:
        at = _in_parts(lambda block: burst(walker, block, rng), at)
        trail.append(at)
        seen.append(looked_at(at))
        number = len(trail) - 1
        told.append(split_rhat(seen[number // 2], seen[-1]) if number > 1 else (np.nan, np.nan))
        stands = [told[-1][1]] if from_law else told[-1]
        if steps == "auto" and number > 1 and max(stands) <= bound(len(at)):
            break
    else:
        if steps == "auto":
            log.warning("random_walk: not mixed after %d steps: R of the seed %.3g, of the law %.3g", most, *told[-1])
    log.info("random_walk: %d steps, R of the seed %.3g, of the law %.3g", len(told), *told[-1])
    return trail[1:], np.array(told, np.float64)


def _points(walker, latent: np.ndarray, noise: bool, rng) -> np.ndarray:
    from heatwalk.walker import points_at

    return _in_parts(lambda block: points_at(walker, block, rng if noise else None), latent)


def _in_parts(function, values: np.ndarray) -> np.ndarray:
    """In order, on one torch thread: the same bits on any number of cores."""
    from heatwalk.fitting import one_torch_thread

    with one_torch_thread():
        return np.concatenate([function(values[block]) for block in compute.blocks(len(values), _WALKED)])


def _seeds(seeds, points, cells, rows: np.ndarray, samples: np.ndarray, n_points: int, rng) -> np.ndarray:
    """(walker,) row numbers of the points where walkers begin."""
    if isinstance(seeds, str) and seeds == "samples":
        return rows[even(samples, n_points, rng)]
    if isinstance(seeds, str):
        if cells is None or "=" not in seeds:
            remedy = "use samples, column=value of obs, a list of names of cells, or row numbers"
            raise BadInput(Problem("HW-RW-009", "seeds", f"{seeds!r} is unknown", remedy))
        chosen = population(cells, seeds, "HW-RW-009", "seeds")
    else:
        chosen = _named(list(seeds), points.shape[0], cells)
    return np.sort(chosen[np.arange(n_points) % len(chosen)])


def _named(seeds: list, n_points: int, cells) -> np.ndarray:
    """Row numbers of cells by name or by number."""
    names = [] if cells is None else [str(name) for name in cells.obs.index]
    place = {name: row for row, name in enumerate(names)}
    missing = [
        seed
        for seed in seeds
        if not (seed in place if isinstance(seed, str) else isinstance(seed, Integral) and 0 <= seed < n_points)
    ]
    if missing or not seeds:
        what = (
            f"{len(missing)} of {len(seeds)} seeds are no cell of the data: {first_few(missing)}"
            if seeds
            else "no seed"
        )
        known = f", e.g. {first_few(names, 2)}" if names else f" below {n_points}"
        remedy = f"name cells that quality control kept{known}" if names else f"give row numbers{known}"
        raise BadInput(Problem("HW-RW-009", "seeds", what, remedy))
    return np.array([place[seed] if isinstance(seed, str) else int(seed) for seed in seeds])


def _checked(samples: np.ndarray) -> np.ndarray:
    if samples.ndim != 2 or len(samples) < 4 * FEWEST or not np.isfinite(samples).all():
        cause = f"samples of shape {samples.shape} are fewer than {4 * FEWEST}, no table, or not finite"
        raise BadInput(Problem("HW-RW-001", "points", cause, f"give {4 * FEWEST} finite samples or more"))
    return samples


def _check_choices(encoder: str, kept: str, steps, noise, decode, pca, device: str) -> None:
    compute.check_device(device)
    choices = {
        "encoder": (encoder, encoders.ENCODERS),
        "kept": (kept, ("last", "all")),
        "noise": (noise, (True, False)),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            remedy = f"use one of: {', '.join(map(str, allowed))}"
            raise BadInput(Problem("HW-RW-002", name, f"{value!r} is unknown", remedy))
    if steps != "auto" and not (isinstance(steps, Integral) and steps >= 1):
        raise BadInput(Problem("HW-RW-002", "steps", f"{steps!r} is no whole number from 1", "set it to auto"))
    check_decode(decode, pca, "HW-RW-002", "random_walk")


def _check_sizes(n_points, n_components, latent, n_samples: int) -> None:
    _check_whole("n_points", n_points, 1, np.inf, n_samples)
    _check_whole("n_components", n_components, 1, n_samples // 3, n_samples)
    if not (isinstance(latent, Integral) and 1 <= latent <= n_components):
        cause = f"{latent!r} is no whole number from 1 to the {n_components} diffusion coordinates they are made of"
        remedy = f"set latent to {n_components} or less, or raise n_components"
        raise BadInput(Problem("HW-RW-002", "latent", cause, remedy))


def _check_whole(name: str, value, least: int, largest: float, n_samples: int) -> None:
    if not (isinstance(value, Integral) and least <= value <= largest):
        bounds = f"from {least}{f' to {largest}' if largest < np.inf else ''}"
        cause = f"{value!r} is no whole number {bounds}, of {n_samples} samples"
        remedy = f"set {name} to {int(largest) if largest < np.inf else least}"
        raise BadInput(Problem("HW-RW-002", name, cause, remedy))


def _options(given: tuple, n_points, n_components, latent, n_samples: int):
    from heatwalk.local_evidence import Options

    _check_sizes(n_points, n_components, latent, n_samples)
    options = Options(*given)
    _check_whole("batch", options.batch, 4, n_samples - max(1, n_samples // 4), n_samples)
    _check_whole("neighbors", options.neighbors, 3, np.inf, n_samples)
    _check_whole("epochs", options.epochs, 1, np.inf, n_samples)
    if options.neighbors >= options.batch:
        cause = f"a batch of {options.batch} has no {options.neighbors} neighbors of a point"
        remedy = f"set batch to {2 * options.neighbors} or more, or neighbors to {max(3, options.batch // 4)}"
        raise BadInput(Problem("HW-RW-003", "batch", cause, remedy))
    for name, value in (("reach", options.reach), ("rate", options.rate)):
        if not (isinstance(value, Real) and np.isfinite(value) and value > 0):
            raise BadInput(Problem("HW-RW-002", name, f"{value!r} is no number above 0", f"set {name} above 0"))
    if not (isinstance(options.lengths, Real) and 0 <= options.lengths < np.inf):
        raise BadInput(
            Problem("HW-RW-002", "lengths", f"{options.lengths!r} is no number from 0 on", "set lengths to 0")
        )
    return options
