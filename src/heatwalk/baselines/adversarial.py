"""Adversarial generators that a walk is compared with: WGAN-GP, and a GAN with discriminator rejection sampling."""

from itertools import pairwise

import numpy as np

from heatwalk.baselines.variational import Latent

_BATCH = 256


def wgan(
    samples: np.ndarray, n_latent: int, *, steps: int = 3000, width: int = 500, layers: int = 1, seed: int = 0
) -> Latent:
    """A generator by the Wasserstein critic with a gradient penalty of 10, five critic steps to one of its own.

    Source: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, Improved training of Wasserstein GANs (2017).
    """
    import torch

    def critic_loss(critic, real, made):
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * made).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        return critic(made).mean() - critic(real).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()

    def generator_loss(critic, made):
        return -critic(made).mean()

    shape = (steps, 5, width, layers)
    return _played(samples, n_latent, critic_loss, generator_loss, shape, 5e-4, (0.0, 0.9), seed)[0]


def rejection_sampler(samples: np.ndarray, n_latent: int, *, steps: int = 3000, width: int = 256, seed: int = 0):
    """`draw(count, seed)` of a GAN whose points are kept by the discriminator's odds.

    acceptance sigma(F - gamma), F = D - max D - log(1 - exp(D - max D - 1e-14)), gamma the 80% quantile of F.
    Source: Azadi, Olsson, Darrell, Goodfellow, Odena, Discriminator rejection sampling (2019).
    """
    import torch
    from torch.nn.functional import softplus

    def critic_loss(critic, real, made):
        return softplus(-critic(real)).mean() + softplus(critic(made)).mean()

    def generator_loss(critic, made):
        return softplus(-critic(made)).mean()

    shape = (steps, 1, width, 3)
    made, critic = _played(samples, n_latent, critic_loss, generator_loss, shape, 2e-4, (0.5, 0.9), seed)

    def draw(count: int, seed: int = 0) -> np.ndarray:
        rng, kept, best = np.random.default_rng(seed), [], -np.inf
        while sum(map(len, kept)) < count:
            points = made.decode(made.draw(10_000, int(rng.integers(2**31))))
            with torch.inference_mode():
                odds = critic(torch.as_tensor(points, dtype=torch.float32))[:, 0].double().numpy()
            best = max(best, odds.max())
            under = odds - best
            f = under - np.log(-np.expm1(np.minimum(under - 1e-14, -1e-14)))
            accept = 1 / (1 + np.exp(-(f - np.quantile(f, 0.8))))
            kept.append(points[rng.uniform(size=len(points)) < accept])
        return np.concatenate(kept)[:count]

    return draw


def _played(samples, n_latent: int, critic_loss, generator_loss, shape: tuple, rate: float, betas: tuple, seed: int):
    """The generator as a `Latent`, and the critic."""
    import torch
    from torch import nn

    steps, critic_steps, width, layers = shape

    def network(before: int, after: int) -> nn.Module:
        sizes = [before, *[width] * layers]
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(width, after))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        data = torch.as_tensor(np.asarray(samples, np.float32))
        generator, critic = network(n_latent, data.shape[1]), network(data.shape[1], 1)
        own, other = (torch.optim.Adam(net.parameters(), rate, betas) for net in (generator, critic))
        for _ in range(steps):
            for _ in range(critic_steps):
                real = data[torch.randint(len(data), (_BATCH,))]
                loss = critic_loss(critic, real, generator(torch.randn(_BATCH, n_latent)).detach())
                other.zero_grad()
                loss.backward()
                other.step()
            loss = generator_loss(critic, generator(torch.randn(_BATCH, n_latent)))
            own.zero_grad()
            loss.backward()
            own.step()

    def decode(latent: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return generator(torch.as_tensor(np.asarray(latent, np.float32))).double().numpy()

    def draw(count: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(count, n_latent))

    return Latent(None, decode, draw), critic
