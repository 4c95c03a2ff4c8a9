"""Training of a walker on local evidence: where does a step from here lead, and what stands there."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from heatwalk import checkpoints, fitting
from heatwalk.errors import BadInput, Problem
from heatwalk.law import fit_law
from heatwalk.leftover import fit_noise
from heatwalk.progress import log, track
from heatwalk.walker import Walker, described_as, fresh, on

UPDATES = 100  # an epoch
_POOL = 8192  # points among which the one nearest to a step's end is looked for
_RESOLUTION = 1e-4  # variance within that the encoder's places are sure of, of 1 for all of them
_FLOOR = 1e-3  # of the mean eigenvalue of a local covariance, added to all: it may have fewer than dimensions
_COINCIDE = 1e-8  # local variance within, of 1: cells at one place
_TINY = 1e-12  # squared error of points that are given back exactly
_CHECKED, _CHECKED_AT_LEAST, _CHECKED_AT_MOST = 0.1, 20, 2000  # points that the size of the noise is fitted to
_ENCODED = 2**13  # at a time


class Options(NamedTuple):
    neighbors: int  # latent neighbours in the batch
    batch: int
    reach: float  # of the local covariance
    epochs: int
    rate: float  # of Adam
    lengths: float  # weight of the stretch, beside the logarithm of what is left of points


class Losses(NamedTuple):
    """Of a batch, each a scalar tensor."""

    divergence: torch.Tensor
    reconstruction: torch.Tensor
    stretch: torch.Tensor

    def total(self, weight: float) -> torch.Tensor:
        left = (self.reconstruction + _TINY).log()  # whatever its size: groups far apart make all else small
        return self.divergence + left + weight * self.stretch


def divergence(factor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(point,) KL( N(m, C) || N(m, S) ) = ( tr(S^-1 C) - d + log |S| - log |C| ) / 2, by factors C = LL', S = TT'.

    tr(S^-1 C) is the squared norm of T^-1 L, log |C| twice the sum of the logarithms of L's diagonal.
    """
    ratio = torch.linalg.solve_triangular(target, factor, upper=False)
    logs = (torch.diagonal(given, dim1=1, dim2=2).log().sum(1) for given in (target, factor))
    return ((ratio**2).sum((1, 2)) - factor.shape[1]) / 2 + next(logs) - next(logs)


def local_covariance(latent: torch.Tensor, neighbors: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(point, latent, latent) covariance of each point's nearest others in the batch about their mean, and its rank.

    The divergence is least on average at the inverse of the mean of S^-1, and of k draws of a Gaussian in m dimensions
    that mean is (k - 1) / (k - 2 - m) times the inverse of the true covariance: S is made larger by so much, with the
    effective rank m = tr(S)^2 / tr(S^2). Also the numbers of those nearest, (point, neighbor).
    """
    apart = torch.cdist(latent, latent, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    names = apart.topk(neighbors, largest=False).indices
    near = latent[names] - latent[names].mean(1, keepdim=True)
    covariance = near.transpose(1, 2) @ near / max(neighbors - 1, 1)
    trace, square = torch.diagonal(covariance, dim1=1, dim2=2).sum(1), (covariance**2).sum((1, 2))
    rank = torch.where(square > 0, trace**2 / square.clamp_min(1e-30), torch.ones_like(trace))
    larger = ((neighbors - 1) / (neighbors - 2 - rank).clamp_min(1.0)).clamp_min(1.0)
    return covariance * larger[:, None, None], rank, names


def target_factor(covariance: torch.Tensor, reach: float) -> torch.Tensor:
    """Cholesky factor of reach * S, with a floor that keeps it positive definite."""
    mean = torch.diagonal(covariance, dim1=1, dim2=2).mean(1)
    unit = torch.eye(covariance.shape[1]).to(covariance)
    return torch.linalg.cholesky(reach * covariance + (reach * _FLOOR * mean + _RESOLUTION)[:, None, None] * unit)


def stretch(latent: torch.Tensor, made: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Mean of log^2( |x_i - x_j| / c |z_i - z_j| ) over places z_i, decoded x_i, and neighbours j.

    0 where the decoder keeps lengths but for the factor c, c^2 = values / latent, with which z has as much variance a
    coordinate as x has a value. It is what makes the local bi-Lipschitz constant large, see `bilipschitz`, in a form
    with a gradient.
    """
    across, along = (((rows[near] - rows[:, None]) ** 2).mean(2) for rows in (made, latent))
    return ((across + _COINCIDE).log() - (along + _COINCIDE).log()).square().mean() / 4


def losses(walker: Walker, points, psi, latent, batch, pool, drawn, options: Options) -> Losses:
    """points (point, value), psi (point, component), latent (point, latent) of all; batch, pool: numbers of points.

    minimise  KL( N(z, C(z)) || N(z, reach S(z)) ) + log( |x' - D(z + L(z) e)|^2 + |x - D(z)|^2 )
              + weight stretch(z, D)

    x' is the point whose place is nearest to the step's end, x itself, by its number, left out; the pool begins with
    the batch. `latent` is from the beginning of the epoch, z is now. The covariance shares no weights with chart and
    decoder, which follow the errors and the stretch: in the logarithm, as shares of what they are.
    """
    moving = walker.chart(psi[batch])
    here = moving.detach()
    covariance, _, near = local_covariance(here, options.neighbors)
    factor = walker.factor(here)
    apart = divergence(factor, target_factor(covariance, options.reach)).mean()
    ends = here + (factor.detach() @ drawn[..., None])[..., 0]
    far = torch.cdist(ends, latent[pool])
    own = torch.arange(len(batch), device=far.device)
    far[own, own] = torch.inf
    wanted, given = points[pool[far.argmin(1)]], points[batch]
    made, again = walker.decoder(ends), walker.decoder(moving)
    errors = ((made - wanted) ** 2).sum(1).mean() + ((again - given) ** 2).sum(1).mean()
    return Losses(apart, errors, stretch(moving, again, near))


def trained(
    samples: np.ndarray, make_encoder, described, asked: str, options: Options, seed: int, checkpoint, device: str
):
    """A trained walker, its losses by epoch, (epoch, 3), and the encoder's eigenvalues.

    make_encoder() -> (network, eigenvalues), as `asked` for, is called unless a checkpoint of the same training has
    them; described: the network's description -> Description. The state is kept before the first epoch and after every
    one, and a run goes on from it to the same bits.
    """
    key = _key(samples, options, asked, seed) if checkpoint else ""
    known = _resumed(checkpoint, key)
    walker, moments, found, eigenvalues = known or _started(samples, make_encoder, described, seed)
    walker = walker.to(device)
    with fitting.one_torch_thread():
        optimiser = torch.optim.Adam(_parameters(walker), lr=options.rate)
        checkpoints.give_moments(optimiser, moments)
        points = (on(walker, samples) - walker.centre) / walker.scale
        psi = _all_psi(walker, samples)
        order = np.random.default_rng([seed, 21]).permutation(len(samples))
        n_checked = min(max(_CHECKED_AT_LEAST, int(_CHECKED * len(order))), len(order) // 4, _CHECKED_AT_MOST)
        checked, fitted = order[:n_checked], order[n_checked:]
        variance = _spread(_charted(walker, psi), fitted, options, seed)
        if not known:
            _start_steps(walker, options.reach * variance)
            _save(checkpoint, key, walker, optimiser, found, eigenvalues)
        epochs = range(len(found), options.epochs)
        for epoch in track(epochs, "random_walk: epochs", len(epochs)):
            found.append(_epoch(walker, optimiser, (points, psi), fitted, options, seed, epoch))
            _save(checkpoint, key, walker, optimiser, found, eigenvalues)
        latent = _charted(walker, psi)
        fit_noise(walker, points, latent, fitted, checked, seed)
        fit_law(walker, latent, fitted, checked, seed)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return walker.cpu().eval(), np.array(found, np.float64).reshape(-1, 3), np.asarray(eigenvalues)


def _epoch(walker: Walker, optimiser, data: tuple, fitted: np.ndarray, options: Options, seed: int, epoch: int):
    (points, psi), latent = data, _charted(walker, data[1])
    rng, sums = np.random.default_rng([seed, 22, epoch]), torch.zeros(3, device=points.device)
    for update in range(UPDATES):
        part = (epoch * UPDATES + update) / (options.epochs * UPDATES)
        fitting.cool(optimiser, options.rate, part)
        pool = torch.from_numpy(rng.choice(fitted, min(_POOL, len(fitted)), replace=False)).to(points.device)
        drawn = torch.from_numpy(rng.standard_normal((options.batch, latent.shape[1]), np.float32)).to(points)
        try:
            found = losses(walker, points, psi, latent, pool[: options.batch], pool, drawn, options)
        except torch.linalg.LinAlgError:  # of numbers that are not finite
            sums += torch.nan
            break
        optimiser.zero_grad()
        # At first points are to be given back, and lengths are kept in the end.
        found.total(part * options.lengths).backward()
        optimiser.step()
        sums += torch.stack([*found]).detach()
    means = (sums / UPDATES).tolist()
    if not np.isfinite(means).all():
        named = ", ".join(f"{name} {value:.3g}" for name, value in zip(Losses._fields, means, strict=True))
        cause = f"the loss is not finite in epoch {epoch + 1} of {options.epochs} ({named}) at rate {options.rate:g}"
        remedy = f"set rate to {options.rate / 10:.2g}; the state after epoch {epoch} is kept"
        raise BadInput(Problem("HW-RW-007", "rate", cause, remedy))
    return means


def _spread(latent: torch.Tensor, fitted: np.ndarray, options: Options, seed: int) -> float:
    """Median variance of a coordinate among the neighbours of a place."""
    some = np.random.default_rng([seed, 23]).choice(fitted, options.batch, replace=False)
    covariance, *_ = local_covariance(latent[torch.from_numpy(some).to(latent.device)], options.neighbors)
    variance = torch.diagonal(covariance, dim1=1, dim2=2).sum(1)
    share = float((variance < _COINCIDE).float().mean())
    if share > 0.5:
        cause = f"{share:.0%} of local covariances degenerate: {options.neighbors} latent neighbours are at one place"
        raise BadInput(Problem("HW-RW-006", "points", cause, "remove duplicates, or raise neighbors"))
    return float(variance.median()) / latent.shape[1]


@torch.no_grad()
def _start_steps(walker: Walker, variance: float) -> None:
    """Steps in every direction as wide as the neighbourhoods are, to begin with."""
    diagonal = torch.arange(walker.description.n_latent)
    walker.covariance.exit.weight *= 0.1
    walker.covariance.exit.bias.zero_()
    walker.covariance.exit.bias[diagonal * (diagonal + 3) // 2] = float(np.log(variance + _RESOLUTION)) / 2


def _all_psi(walker: Walker, samples: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([walker.psi(on(walker, part)) for part in _parts(samples)]).clone()


def _charted(walker: Walker, psi: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([walker.chart(part) for part in _parts(psi)])


def _parts(rows) -> list:
    return [rows[start : start + _ENCODED] for start in range(0, len(rows), _ENCODED)]


def _parameters(walker: Walker) -> list[torch.nn.Parameter]:
    """Those trained together; noise and potential are fitted after them."""
    return [
        value
        for name, value in walker.named_parameters()
        if value.requires_grad and not name.startswith(("noise", "potential"))
    ]


def _started(samples: np.ndarray, make_encoder, described, seed: int):
    encoder, eigenvalues = make_encoder()
    with torch.random.fork_rng(devices=[]), fitting.one_torch_thread():
        torch.manual_seed(seed)
        walker = Walker(described(encoder.description))
        walker.encoder.load_state_dict(encoder.state_dict())
        centre = samples.mean(axis=0)
        walker.centre.copy_(torch.from_numpy(centre))
        spread = float(np.sqrt(((samples - centre) ** 2).mean()))
        walker.scale.fill_(max(spread, np.finfo(np.float32).tiny))
        psi = _all_psi(walker, samples).double()
        walker.psi_centre.copy_(psi.mean(0))
        walker.psi_scale.copy_(psi.std().clamp_min(torch.finfo(torch.float32).tiny))
        with torch.no_grad():  # the leading coordinates at first
            walker.straight.weight.copy_(torch.eye(*walker.straight.weight.shape))
            walker.bent.exit.weight *= 0.1
            walker.bent.exit.bias.zero_()
    return walker, {}, [], eigenvalues


def _key(samples: np.ndarray, options: Options, asked: str, seed: int) -> str:
    """What a checkpoint was made from."""
    digest = hashlib.sha256(f"{options} {asked} {seed}".encode())
    digest.update(np.ascontiguousarray(samples).data)
    return digest.hexdigest()


def _save(checkpoint: Path | None, key: str, walker: Walker, optimiser, found: list, eigenvalues) -> None:
    """Keep the state after an epoch."""
    tensors = {f"walker.{name}": value for name, value in walker.state_dict().items()}
    tensors |= checkpoints.moments(optimiser)
    tensors["eigenvalues"] = torch.tensor(np.asarray(eigenvalues), dtype=torch.float64)
    tensors["losses"] = torch.tensor(found, dtype=torch.float64).reshape(-1, 3)
    checkpoints.keep(checkpoint, key, tensors, description=described_as(walker))


def _resumed(checkpoint: Path | None, key: str):
    """The walker, Adam's moments, the losses and the eigenvalues that a checkpoint of the same training holds."""
    found = checkpoints.kept(checkpoint, key)
    if found is None:
        return None
    tensors, about = found
    walker = fresh(about["description"], str(checkpoint))
    walker.load_state_dict({n.removeprefix("walker."): v for n, v in tensors.items() if n.startswith("walker.")})
    log.info("random_walk: going on after epoch %d", len(tensors["losses"]))
    return walker, tensors, tensors["losses"].tolist(), tensors["eigenvalues"].numpy()
