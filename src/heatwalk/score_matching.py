"""Training of a score network: points are noised by exact draws of Brownian motion, and the score is matched.

    denoising  E |s - grad log p_t(x, y)|^2      y drawn from the heat kernel p_t(x, .), its score exact
    implicit   E (2 div s + |s|^2)               the same up to a constant, without the kernel's score
    sliced     E (2 e' (ds/dy) e + |s|^2)        the divergence by one random e

All are weighted by t = sigma^2, with log sigma uniform: by that weight the loss bounds the log-likelihood.
"""

import copy
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from heatwalk import checkpoints, compute, fitting
from heatwalk.errors import BadInput, Problem
from heatwalk.mixture import Mixture, kernels, mixture
from heatwalk.progress import log, track
from heatwalk.score_network import Description, ScoreNetwork, as_real
from heatwalk.spaces.space import Space
from heatwalk.tangents import divergence, sliced_divergence

OBJECTIVES = ("denoising", "implicit", "sliced")
UPDATES = 100  # an epoch
_LEVELS = 64  # of noise in an epoch: many draws of one time share a table
_DECAY, _YOUNG = 0.999, 10  # of the mean of the weights; updates by which its memory is shorter at first
_CHECKED = 16384  # noised points on which the loss is compared from epoch to epoch
_CLIPPED = 10.0  # norm of a gradient
_BETWEEN = 3  # prototypes whose distance is the width of one
_LEAST_SHARE = 1e-6  # of a prototype
_WITHOUT = ("near", "log_widths_without")


class Options(NamedTuple):
    objective: str
    batch: int
    epochs: int
    rate: float  # of Adam, at the start
    validation: float  # share of the samples on which the best epoch is chosen


class Noised(NamedTuple):
    """Noised points with the logarithm of their sigma and sigma times the score of their kernel: real numbers."""

    points: np.ndarray  # (draw, value) float32
    log_sigma: np.ndarray  # (draw,) float32
    targets: np.ndarray  # (draw, value) float32
    own: np.ndarray | None = None  # (draw,) the kernel that is the sample of a draw

    def part(self, rows) -> "Noised":
        return Noised(*(None if values is None else values[rows] for values in self))


class Trained(NamedTuple):
    network: ScoreNetwork  # with the mean weights of its best epoch
    losses: np.ndarray  # (epoch, 2): in training, and of the mean weights on what is left out
    left: np.ndarray  # (sample,) rows that were not trained on
    best: int  # epochs after which the loss of these was least; 0: the beginning was best


def noised(space: Space, x: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> Noised:
    """One draw from the heat kernel at each of (draw, ...) points, for (draw,) standard deviations."""
    y = space.sample_heat_kernel(x, sigma**2, rng=rng)
    target = space.score(x, y, sigma**2) * sigma.reshape(-1, *(1,) * len(space.shape))
    points, targets = (as_real(torch.from_numpy(part)).float().numpy() for part in (y, target))
    return Noised(points, np.log(sigma).astype(np.float32), targets)


def epoch_of(space: Space, samples: np.ndarray, described: Description, options: Options, seed: list[int]) -> Noised:
    """What an epoch is trained on: every batch has all levels of noise, evenly spread in log sigma."""
    rng, count = np.random.default_rng(seed), UPDATES * options.batch
    low, high = np.log(described.sigma_min), np.log(described.sigma_max)
    levels = low + (high - low) * (np.arange(_LEVELS) + rng.random()) / _LEVELS
    which = np.resize(np.arange(_LEVELS), count).reshape(UPDATES, -1)
    rows = np.resize(rng.permutation(len(samples)), count)
    made = noised(space, samples[rows], np.exp(levels[which.ravel()]), rng)
    return made._replace(own=rows) if described.prototypes == len(samples) else made


def loss(network: ScoreNetwork, given: Noised, objective: str, probes: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over (draw, value) tensors. probes: (draw, value) vectors of "sliced"."""
    points, log_sigma, targets, own = given
    slope = network.space.slope
    if objective == "denoising":
        return slope * ((network(points, log_sigma, own) - targets) ** 2).sum(1).mean()
    points = points.requires_grad_()
    made = network(points, log_sigma, own)
    if objective == "implicit":
        spread = divergence(network.space, points, made, create_graph=True)
    else:
        spread = sliced_divergence(points, made, network.tangent(points, probes).detach(), create_graph=True)
    return (2 * log_sigma.exp() * spread + slope * (made**2).sum(1)).mean()


class State(NamedTuple):
    network: ScoreNetwork
    mean: dict[str, torch.Tensor]  # of its weights so far
    best: dict[str, torch.Tensor]  # the mean at the epoch of least loss, or as it began
    losses: list[tuple[float, float]]  # of every epoch: in training, and of the mean on what is not trained on


def prototypes(most: int, n_samples: int, validation: float) -> int:
    """One at every sample that is trained on, where so many are allowed; else at most a half of that."""
    kept = n_samples - _left(n_samples, validation)
    return kept if most >= kept else min(most, kept // 2)


def _left(n_samples: int, validation: float) -> int:
    return max(1, round(validation * n_samples))


def trained(
    space: Space,
    samples: np.ndarray,
    described: Description,
    options: Options,
    *,
    seed: int,
    threads: int | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> Trained:
    """A network trained on all but a share of the samples.

    As many prototypes as these leave are kernels at all of them, and what is learnt from a sample leaves its own out,
    and the widths that it gave to others: else a kernel at the sample would be all that there is to learn. Fewer are a
    mixture, and learnt.

    The denoising loss on what is left out chooses the epoch, or the beginning, whatever the objective. Noise is drawn
    ahead on other threads, by a generator for each epoch; the network is trained on one. A run goes on from a
    checkpoint to the same bits.
    """
    order = np.random.default_rng([seed, 31]).permutation(len(samples))
    left = np.sort(order[: _left(len(samples), options.validation)])
    kept = np.delete(samples, left, axis=0)
    key = _key(samples, described, options, seed) if checkpoint else ""
    found = _resumed(checkpoint, key, described)
    state, remembered = found or (_started(kept, samples[left], space, described, seed, threads), {})
    network = state.network.to(device)
    for part in (network.moves, network.log_widths, network.biases):
        part.requires_grad_(described.prototypes < len(kept))
    state = state._replace(mean={name: value.to(device) for name, value in state.mean.items()})
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=options.rate)
    epochs = range(len(state.losses), options.epochs)
    with fitting.one_torch_thread(), compute.workers("threads", threads) as workers:
        checkpoints.give_moments(optimiser, remembered)
        checked = _on(_checks(space, samples[left], described, seed), network)
        least = _compared(state.network, state.best, checked)
        drawn = workers.in_order(lambda epoch: epoch_of(space, kept, described, options, [seed, 32, epoch]), epochs)
        for epoch, given in track(zip(epochs, drawn, strict=True), "riemannian_diffusion: epochs", len(epochs)):
            found = _epoch(state, optimiser, given, options, [seed, 33, epoch], epoch)
            state.losses.append((found, _compared(network, state.mean, checked)))
            if state.losses[-1][1] < least:
                least = state.losses[-1][1]
                state.best.update({name: value.clone() for name, value in state.mean.items()})
            _save(checkpoint, key, state, optimiser)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    network.load_state_dict(state.best)
    losses = np.array(state.losses, np.float64).reshape(-1, 2)
    best = 1 + int(losses[:, 1].argmin()) if least in losses[:, 1] else 0
    log.info("riemannian_diffusion: best after epoch %d of %d; 0 is the beginning", best, len(losses))
    return Trained(network.cpu().eval(), losses, left, best)


def _epoch(state: State, optimiser, given: Noised, options: Options, seed: list[int], epoch: int) -> float:
    network, rng, total = state.network, np.random.default_rng(seed), 0.0
    on = _on(given, network)
    for update, rows in enumerate(torch.arange(len(given.points)).split(options.batch)):
        done = epoch * UPDATES + update
        fitting.cool(optimiser, options.rate, done / (options.epochs * UPDATES))
        probes = None
        if options.objective == "sliced":
            shape = (len(rows), network.n_embedded)
            probes = torch.from_numpy(rng.integers(0, 2, shape).astype(np.float32) * 2 - 1).to(on.points)
        found = loss(network, on.part(rows), options.objective, probes)
        optimiser.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIPPED)
        optimiser.step()
        total += float(found.detach())
        decay = min(_DECAY, (1 + done) / (_YOUNG + done))
        for name, value in network.state_dict().items():
            state.mean[name].lerp_(value, 1 - decay)
    if not np.isfinite(total):
        cause = f"the loss is not finite in epoch {epoch + 1} of {options.epochs} at rate {options.rate:g}"
        remedy = f"set rate to {options.rate / 10:.2g}; the state after epoch {epoch} is kept"
        raise BadInput(Problem("HW-RD-006", "rate", cause, remedy))
    return total / UPDATES


def _checks(space: Space, left: np.ndarray, described: Description, seed: int) -> Noised:
    """Samples that are not trained on, each noised many times."""
    rng = np.random.default_rng([seed, 34])
    count = max(_CHECKED, _LEVELS)
    low, high = np.log(described.sigma_min), np.log(described.sigma_max)
    levels = low + (high - low) * (np.arange(_LEVELS) + 0.5) / _LEVELS
    rows = np.resize(rng.permutation(len(left)), count)
    return noised(space, left[rows], np.exp(np.resize(levels, count)), rng)


def _compared(network: ScoreNetwork, weights: dict[str, torch.Tensor], checked: Noised) -> float:
    """The denoising loss of a network with other weights."""
    network = copy.deepcopy(network)
    network.load_state_dict(weights)
    with torch.inference_mode():
        parts = torch.arange(len(checked.points)).split(256)
        return float(np.mean([float(loss(network, checked.part(rows), "denoising")) for rows in parts]))


def _started(samples, left, space: Space, described: Description, seed: int, threads: int | None) -> State:
    """Prototypes at all samples, or by a mixture that begins at some, and that samples left out choose."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ScoreNetwork(described)
    scale = space.slope**0.5
    known, tested = (scale * network.embedded(as_real(torch.from_numpy(part))).numpy() for part in (samples, left))
    limits = {"dimension": space.dimension, "least": described.sigma_min**2}
    if described.prototypes == len(samples):
        found = kernels(known, seed=seed, threads=threads, **limits)
        begun = Mixture(known, found.variances, np.full(len(known), 1 / len(known)))
        network.log_tail.fill_(-np.log(found.freedom))
        network.near = torch.from_numpy(found.near)
        network.log_widths_without = torch.from_numpy(np.log(found.without) / 2).float()
    else:
        begun = _few(known, tested, described, limits, np.random.default_rng([seed, 35]))
    with torch.no_grad():
        network.origins.copy_(torch.from_numpy(begun.places / scale))
        network.units.copy_(torch.from_numpy(begun.variances[:, None] ** 0.5 / scale))
        network.log_widths.copy_(torch.from_numpy(np.log(begun.variances) / 2))
        network.biases.copy_(torch.from_numpy(np.log(begun.shares + _LEAST_SHARE)))
    mean, best = ({name: value.clone() for name, value in network.state_dict().items()} for _ in range(2))
    return State(network, mean, best, [])


def _few(known, tested, described: Description, limits: dict, rng: np.random.Generator) -> Mixture:
    rows = np.sort(rng.choice(len(known), described.prototypes, replace=False))
    apart = _near(known[rows].astype(np.float32)) / limits["dimension"]
    return mixture(rng.permutation(known), tested, known[rows], np.maximum(apart, limits["least"]), **limits)


def _near(places: np.ndarray) -> np.ndarray:
    """Mean square of the distance of each place to the nearest others."""
    import faiss

    k = min(_BETWEEN + 1, len(places))
    with compute.faiss_threads(1):
        return np.maximum(faiss.knn(places, places, k)[0][:, 1:].mean(axis=1) if k > 1 else np.ones(1), 0)


def _on(given: Noised, network: ScoreNetwork) -> Noised:
    points, log_sigma, targets = (torch.from_numpy(part).to(network.biases) for part in given[:3])
    own = None if given.own is None else torch.from_numpy(given.own).to(points.device)
    return Noised(points, log_sigma, targets, own)


def _key(samples: np.ndarray, described: Description, options: Options, seed: int) -> str:
    """What a checkpoint was made from."""
    digest = hashlib.sha256(f"{described} {options} {seed}".encode())
    digest.update(np.ascontiguousarray(samples).data)
    return digest.hexdigest()


def _save(checkpoint: Path | None, key: str, state: State, optimiser) -> None:
    tensors = checkpoints.moments(optimiser)
    tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64).reshape(-1, 2)
    for part, weights in (("network", state.network.state_dict()), ("mean", state.mean), ("best", state.best)):
        tensors |= {f"{part}.{name}": value for name, value in weights.items()}
    if state.network.near is not None:
        tensors |= {name: getattr(state.network, name) for name in _WITHOUT}
    checkpoints.keep(checkpoint, key, tensors)


def _resumed(checkpoint: Path | None, key: str, described: Description) -> tuple[State, dict] | None:
    """The state that a checkpoint of the same training holds, and what the optimiser remembers."""
    found = checkpoints.kept(checkpoint, key)
    if found is None:
        return None
    tensors, _ = found
    with torch.random.fork_rng(devices=[]):  # layers begin at random
        network = ScoreNetwork(described)
    parts = ("network.", "mean.", "best.")
    weights = [{n.removeprefix(part): v for n, v in tensors.items() if n.startswith(part)} for part in parts]
    network.load_state_dict(weights[0])
    for name in _WITHOUT:
        setattr(network, name, tensors.get(name))
    losses = [tuple(pair) for pair in tensors["losses"].tolist()]
    log.info("riemannian_diffusion: going on after epoch %d", len(losses))
    return State(network, weights[1], weights[2], losses), tensors
