"""Variational autoencoders that a walk's latent is compared with: Gaussian, and on a hypersphere."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_HIDDEN, _BATCH, _RATE = 500, 128, 1e-3


class Latent(NamedTuple):
    """A latent space beside what is decoded from it."""

    encode: Callable | None  # points -> posterior means
    decode: Callable  # latent -> points
    draw: Callable  # count -> latent, from the prior


def vae(samples: np.ndarray, n_latent: int, *, epochs: int = 20, noise: float = 0.05, seed: int = 0) -> Latent:
    """Gaussian posterior and prior, one hidden layer of 500 rectifiers each way; noise: variance of the decoder.

    Source: Kingma, Welling, Auto-encoding variational Bayes (2014).
    """
    import torch

    def latent(made):
        mean, log_variance = made.chunk(2, dim=1)
        log_variance = log_variance.clamp(-12, 6)
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return mean + (log_variance / 2).exp() * torch.randn_like(mean), divergence

    def place(made):
        return made[:, :n_latent]

    return _trained(samples, n_latent, 2 * n_latent, latent, place, torch.randn, epochs, noise, seed)


def hyperspherical_vae(
    samples: np.ndarray, n_latent: int, *, epochs: int = 20, noise: float = 0.05, seed: int = 0
) -> Latent:
    """Posterior von Mises-Fisher with its own concentration, uniform prior on the sphere in n_latent dimensions.

    KL = kappa A(kappa) + log C(kappa) + log |S|,  A = I_{d/2} / I_{d/2-1}. Draws by Wood's rejection, through which the
    gradient in kappa passes without the small term of the acceptance.
    Source: Davidson, Falorsi, De Cao, Kipf, Tomczak, Hyperspherical variational auto-encoders (2018).
    """
    import torch
    from torch.nn.functional import normalize, softplus

    def latent(made):
        mean, kappa = normalize(made[:, :-1], dim=1), softplus(made[:, -1]) + 1
        w = _along(kappa, n_latent)
        across = torch.randn_like(mean)
        across = normalize(across - (across * mean).sum(1, keepdim=True) * mean, dim=1)
        place = w[:, None] * mean + (1 - w**2).clamp_min(1e-10).sqrt()[:, None] * across
        return place, _divergence(kappa, n_latent)

    def place(made):
        return normalize(made[:, :-1], dim=1)

    def prior(count, dimension):
        return normalize(torch.randn(count, dimension), dim=1)

    return _trained(samples, n_latent, n_latent + 1, latent, place, prior, epochs, noise, seed)


def _along(kappa, d: int):
    """Cosines of von Mises-Fisher draws to their mean, by rejection."""
    import torch

    b = (d - 1) / (2 * kappa + (4 * kappa**2 + (d - 1) ** 2).sqrt())
    x0 = (1 - b) / (1 + b)
    c = kappa * x0 + (d - 1) * torch.log(1 - x0**2)
    beta = torch.distributions.Beta(torch.tensor((d - 1) / 2.0), torch.tensor((d - 1) / 2.0))
    made, open_ = torch.zeros_like(kappa), torch.ones_like(kappa, dtype=torch.bool)
    while open_.any():
        z = beta.sample(kappa.shape)
        w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        ratio = kappa * w + (d - 1) * torch.log(1 - x0 * w) - c
        taken = open_ & (ratio >= torch.log(torch.rand_like(ratio))).detach()
        made = torch.where(taken, w, made)
        open_ = open_ & ~taken
    return made


def _divergence(kappa, d: int):
    import torch
    from scipy.special import ive

    half = d / 2 - 1

    class LogBessel(torch.autograd.Function):
        """log I_v(kappa) and its derivative I_{v+1} / I_v + v / kappa."""

        @staticmethod
        def forward(ctx, values):
            ctx.save_for_backward(values)
            known = values.detach().double().numpy()
            return torch.from_numpy(np.log(ive(half, known)) + known).to(values)

        @staticmethod
        def backward(ctx, given):
            (values,) = ctx.saved_tensors
            known = values.double().numpy()
            return given * torch.from_numpy(ive(half + 1, known) / ive(half, known) + half / known).to(values)

    with torch.no_grad():
        known = kappa.double().numpy()
    ratio = torch.from_numpy(ive(half + 1, known) / ive(half, known)).to(kappa)
    slope = 1 - ratio.detach() ** 2 - (d - 1) / kappa.detach() * ratio.detach()
    mean = ratio + slope * (kappa - kappa.detach())  # A(kappa), with its derivative
    log_constant = half * kappa.log() - d / 2 * np.log(2 * np.pi) - LogBessel.apply(kappa)
    log_area = np.log(2) + d / 2 * np.log(np.pi) - float(torch.lgamma(torch.tensor(d / 2)))
    return kappa * mean + log_constant + log_area


def _trained(samples, n_latent: int, n_made: int, latent, place, prior, epochs: int, noise: float, seed: int) -> Latent:
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        data, n_values = torch.as_tensor(np.asarray(samples, np.float32)), samples.shape[1]
        encoder = nn.Sequential(nn.Linear(n_values, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, n_made))
        decoder = nn.Sequential(nn.Linear(n_latent, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, n_values))
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], _RATE)
        for _ in range(epochs):
            for rows in torch.randperm(len(data)).split(_BATCH):
                places, divergence = latent(encoder(data[rows]))
                loss = (((decoder(places) - data[rows]) ** 2).sum(1) / (2 * noise) + divergence).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    def numbers(function):
        def given(values):
            with torch.inference_mode():
                return function(torch.as_tensor(np.asarray(values, np.float32))).double().numpy()

        return given

    def draw(count: int, seed: int = 0) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return prior(count, n_latent).double().numpy()

    return Latent(numbers(lambda values: place(encoder(values))), numbers(decoder), draw)
