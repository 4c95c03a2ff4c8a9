"""A walker: an encoder, local covariances, a decoder and its noise, kept as safetensors and run without the data.

    x --- encoder (frozen) --- psi --- chart --- z --+-- covariance  C(z) = L(z) L(z)' --- z' = z + L(z) e
                                                     +-- decoder     D(z)                   x' = D(z')
                                                     +-- noise       R(z) = diag(s(z)^2) + F(z) F(z)', left by D
                                                     +-- potential   f(z), which of several ends a step goes to

Points are in their own units outside, centred and scaled inside. The encoder is a network of `networks`, for diffusion
coordinates psi; the chart makes coordinates of them in which the decoder keeps lengths, but for one factor.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from heatwalk import checkpoints, networks
from heatwalk.errors import BadInput, Problem

FORMAT = "heatwalk walker 2"
MOST_BYTES = 64 * 10**6
_BLOCKS = 2
DRAWS = 8  # ends that a step goes to one of
_PASSES = 2  # of decoding and encoding at the end of a step
_LEAST_LOG = -7.0  # of a length within: single precision knows no smaller one beside 1
_MOST_LOG = 3.0  # of a value's noise beside its usual size, and of its shared noise: no draw is far beyond residuals


class Description(NamedTuple):
    """All that is needed to build a walker, apart from its weights."""

    encoder: networks.Description
    n_latent: int  # coordinates of a place
    n_values: int  # of a point
    width: int  # of the hidden layers
    noise_rank: int  # columns of F


class Walker(nn.Module):
    def __init__(self, description: Description):
        super().__init__()
        self.description, (latent, values) = description, (description.n_latent, description.n_values)
        self.encoder = networks.Network(description.encoder).requires_grad_(False)
        given = description.encoder.n_components
        for name, length in (("psi_centre", given), ("centre", values), ("noise_unit", values)):
            self.register_buffer(name, torch.zeros(length))
        for name in ("psi_scale", "scale"):
            self.register_buffer(name, torch.ones(()))
        for name in ("noise_share", "potential_share"):
            self.register_buffer(name, torch.zeros(()))
        self.straight = nn.Linear(given, latent, bias=False)
        self.bent = _Perceptron(given, latent, description.width)
        self.covariance = _Perceptron(latent, latent * (latent + 1) // 2, description.width)
        self.decoder = _Perceptron(latent, values, description.width)
        self.noise = _Perceptron(latent, values * (1 + description.noise_rank), description.width)
        self.potential = _Perceptron(latent, 1, description.width)
        self._lower = torch.tril_indices(latent, latent)

    @property
    def unit(self) -> float:
        """The length in the points' units that a unit of z stands for: of both the variance is that of all values."""
        return float(self.scale) * (self.description.n_values / self.description.n_latent) ** 0.5

    def psi(self, points: torch.Tensor) -> torch.Tensor:
        """(point, component) diffusion coordinates of points in their own units, of mean 0 and variance 1."""
        return (self.encoder(points) - self.psi_centre) / self.psi_scale

    def chart(self, psi: torch.Tensor) -> torch.Tensor:
        """(point, latent) z."""
        return self.straight(psi) + self.bent(psi)

    def encoded(self, points: torch.Tensor) -> torch.Tensor:
        """(point, latent) z of points in their own units."""
        return self.chart(self.psi(points))

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
        """(point, value) s(z) and (point, value, rank) F(z), in the units within: see `leftover.fit_noise`."""
        made = self.noise_share * self.noise(latent).unflatten(1, (self.description.n_values, -1))
        made = _MOST_LOG * (made / _MOST_LOG).tanh()  # a limit with a gradient
        return made[..., 0].exp() * self.noise_unit, made[..., 1:] * self.noise_unit[:, None]


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
    step from a surface that bends once is not enough: it is done twice (docs/decisions.md). Of eight ends one is taken,
    with a probability in proportion to exp f, so that the law of the data stays: see `law.fit_law`.
    """
    with torch.inference_mode():
        return chosen(walker, drawn_ends(walker, on(walker, places), rng), rng).cpu().numpy()


def drawn_ends(walker: Walker, latent: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """(point, draw, latent) the ends that a step goes to one of: eight, or one where all would be alike."""
    return torch.stack([ends(walker, latent, rng) for _ in range(DRAWS if walker.potential_share > 0 else 1)], dim=1)


def chosen(walker: Walker, reached: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """(point, latent) one of the ends of each, with a probability in proportion to exp f."""
    chance = torch.from_numpy(rng.gumbel(size=reached.shape[:2]).astype(np.float32)).to(reached)
    best = (chance + walker.potential_share * walker.potential(reached)[..., 0]).argmax(1)
    return reached[torch.arange(len(reached), device=reached.device), best]


def places(walker: Walker, points: np.ndarray) -> np.ndarray:
    """(point, latent) of points in their own units."""
    with torch.inference_mode():
        return walker.encoded(on(walker, points)).cpu().numpy()


def diffusion_coordinates(walker: Walker, places: np.ndarray) -> np.ndarray:
    """(point, component) psi of the decoded points, the slowest first."""
    with torch.inference_mode():
        return walker.psi(walker.decoded(on(walker, places))).cpu().numpy()


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
    return BadInput(
        Problem(
            "HW-RW-010",
            where,
            cause,
            "use the two files that were written together, or make them again with this version",
        )
    )
