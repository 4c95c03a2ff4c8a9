"""A walker: an encoder, local covariances, a decoder and its noise, kept as safetensors and run without the data.

    x --- encoder (frozen) --- z --+-- covariance  C(z) = L(z) L(z)' --- z' = z + L(z) e
                                   +-- decoder     D(z)                   x' = D(z')
                                   +-- noise       R(z) = diag(s(z)^2) + F(z) F(z)', what D leaves of x
                                   +-- ratio       log r(z), how likely a step's end is kept

Points are in their own units outside, centred and scaled inside. The encoder is a network of `networks`.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from heatwalk import checkpoints, networks
from heatwalk.errors import BadInput, Problem

FORMAT = "heatwalk walker 1"
MOST_BYTES = 64 * 10**6
_BLOCKS = 2
_REDRAWS = 7
_PASSES = 2  # of decoding and encoding at the end of a step
_LEAST_LOG = -7.0  # of a length within: single precision knows no smaller one beside 1


class Description(NamedTuple):
    """All that is needed to build a walker, apart from its weights."""

    encoder: networks.Description
    n_values: int  # of a point
    width: int  # of the hidden layers
    noise_rank: int  # columns of F

    @property
    def n_latent(self) -> int:
        return self.encoder.n_components


class Walker(nn.Module):
    def __init__(self, description: Description):
        super().__init__()
        self.description, (latent, values) = description, (description.n_latent, description.n_values)
        self.encoder = networks.Network(description.encoder).requires_grad_(False)
        for name, length in (("latent_centre", latent), ("centre", values)):
            self.register_buffer(name, torch.zeros(length))
        for name in ("latent_scale", "scale", "noise_scale"):
            self.register_buffer(name, torch.ones(()))
        for name in ("ratio_share", "ratio_level"):
            self.register_buffer(name, torch.zeros(()))
        self.covariance = _Perceptron(latent, latent * (latent + 1) // 2, description.width)
        self.decoder = _Perceptron(latent, values, description.width)
        self.noise = _Perceptron(latent, values * (1 + description.noise_rank), description.width)
        self.ratio = _Perceptron(latent, 1, description.width)
        self._lower = torch.tril_indices(latent, latent)

    def encoded(self, points: torch.Tensor) -> torch.Tensor:
        """(point, latent) z of points in their own units."""
        return (self.encoder(points) - self.latent_centre) / self.latent_scale

    def decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """(point, value) D(z) in the points' own units."""
        return self.decoder(latent) * self.scale + self.centre

    def factor(self, latent: torch.Tensor) -> torch.Tensor:
        """(point, latent, latent) L(z), lower triangular with a positive diagonal: L L' is positive definite."""
        rows, columns = self._lower.to(latent.device)
        length = self.description.n_latent
        values = self.covariance(latent)
        values = torch.where(rows == columns, values.clamp(_LEAST_LOG, -_LEAST_LOG).exp(), values)
        return values.new_zeros(len(latent), length, length).index_put(
            (torch.arange(len(latent), device=latent.device)[:, None], rows, columns), values
        )

    def spread(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(point, value) s(z) and (point, value, rank) F(z), in the units within."""
        made = self.noise(latent).unflatten(1, (self.description.n_values, -1))
        return made[..., 0].clamp(_LEAST_LOG, -_LEAST_LOG).exp() * self.noise_scale, made[..., 1:] * self.noise_scale


class _Perceptron(nn.Module):
    """A residual multilayer perceptron."""

    def __init__(self, before: int, after: int, width: int):
        super().__init__()
        self.entry, self.exit = nn.Linear(before, width), nn.Linear(width, after)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(_BLOCKS)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        hidden = self.entry(values)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.exit(nn.functional.silu(hidden))


def _normal(walker: Walker, shape: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape, np.float32)).to(walker.scale)  # the same on any device


def on(walker: Walker, points: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(points, np.float32, ["C", "W"])).to(walker.scale)


def ends(walker: Walker, latent: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """(point, latent) where draws from the local covariances lead, z' = z + L e, moved onto the encoded surface."""
    step = walker.factor(latent) @ _normal(walker, (*latent.shape, 1), rng)
    latent = latent + step[..., 0]
    for _ in range(_PASSES):
        latent = walker.encoded(walker.decoded(latent))
    return latent


def burst(walker: Walker, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(point, latent) where one step leads from latent places: z' = z + L e, x' = D(z'), and the encoder's place of x'.

    Decoding and encoding move a place onto the encoded surface, whose decoded points lie on that of the data. Of a wide
    step from a surface that bends once is not enough: it is done twice (docs/decisions.md). An end is kept with a
    probability in proportion to `ratio`, or else drawn again, up to seven times: see `law.fit_law`.
    """
    with torch.inference_mode():
        latent = on(walker, places)
        reached, settled = ends(walker, latent, rng), torch.zeros(len(latent), dtype=torch.bool, device=latent.device)
        for _ in range(_REDRAWS if walker.ratio_share > 0 else 0):
            kept = (walker.ratio_share * walker.ratio(reached)[:, 0] - walker.ratio_level).clamp_max(0).exp()
            drawn = torch.from_numpy(rng.uniform(size=len(kept)).astype(np.float32)).to(kept)
            settled |= drawn < kept
            reached = torch.where(settled[:, None], reached, ends(walker, latent, rng))
        return reached.cpu().numpy()


def places(walker: Walker, points: np.ndarray) -> np.ndarray:
    """(point, latent) of points in their own units."""
    with torch.inference_mode():
        return walker.encoded(on(walker, points)).cpu().numpy()


def points_at(walker: Walker, places: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """(point, value) decoded points; with `rng` also what the decoder leaves of points, drawn from N(0, R(z))."""
    with torch.inference_mode():
        latent = on(walker, places)
        made = walker.decoded(latent)
        if rng is not None:
            own, shared = walker.spread(latent)
            drawn = own * _normal(walker, own.shape, rng)
            drawn = drawn + (shared @ _normal(walker, (len(own), shared.shape[2], 1), rng))[..., 0]
            made = made + drawn * walker.scale
        return made.double().cpu().numpy()


def covariances(walker: Walker, places: np.ndarray) -> np.ndarray:
    """(point, latent, latent) C(z)."""
    with torch.inference_mode():
        factor = walker.factor(on(walker, places))
        return (factor @ factor.transpose(1, 2)).double().cpu().numpy()


def saved(walker: Walker) -> tuple[bytes, str]:
    """Weights as safetensors and the description as JSON."""
    from safetensors.torch import save

    tensors = {name: value.detach().float().cpu().contiguous() for name, value in walker.state_dict().items()}
    return save(tensors), described_as(walker)


def described_as(walker: Walker) -> str:
    described = walker.description._asdict() | {"encoder": walker.description.encoder._asdict()}
    return json.dumps({"format": FORMAT, **described}, sort_keys=True)


def fresh(description: str, where: str) -> Walker:
    """A walker as it is described, its weights at random; BadInput where none can be. Global state stays."""
    try:
        given = json.loads(description)
        if not isinstance(given, Mapping) or given.get("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT!r}")
        sizes = {name: given[name] for name in Description._fields[1:]}
        if any(type(size) is not int or not 0 <= size <= MOST_BYTES for size in sizes.values()):
            raise ValueError(f"numbers must lie between 0 and {MOST_BYTES}")
        encoder = networks.described(json.dumps({"format": networks.FORMAT, **given["encoder"]}), where)
        with torch.device("meta"):
            expected = Walker(Description(encoder, **sizes)).state_dict()
        if 4 * sum(value.numel() for value in expected.values()) > MOST_BYTES:
            raise ValueError(f"it describes more than {MOST_BYTES} bytes")
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _unfit(where, error) from None
    with torch.random.fork_rng(devices=[]):  # layers begin at random
        return Walker(Description(encoder, **sizes))


def loaded(weights: bytes, description: str, where: str = "walker") -> Walker:
    """The walker of weights and a description that fit each other; BadInput for any others. No code is run."""
    walker = fresh(description, where)
    try:
        tensors = checkpoints.fitting(weights, walker.state_dict(), MOST_BYTES)
    except (ValueError, KeyError, TypeError) as error:
        raise _unfit(where, error) from None
    walker.load_state_dict(tensors)
    return walker.eval()


def _unfit(where: str, error: Exception) -> BadInput:
    cause = f"has a description or weights that cannot be used ({error})"
    return BadInput(Problem("HW-RW-010", where, cause, "use the two files that were written together"))
