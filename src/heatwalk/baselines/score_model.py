"""A small score-based generative model: a network that removes noise at every level, sampled from noise down."""

from itertools import pairwise

import numpy as np

_LEVELS = 60


def score_model(samples: np.ndarray, n_particles: int, *, steps: int = 3000, seed: int = 0) -> np.ndarray:
    """Denoising score matching on standardised samples, noise .01 to 3, three layers of 128, then the reverse SDE.

    Source: Song et al., Score-based generative modeling through stochastic differential equations (2021).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    centre, scale = samples.mean(axis=0), samples.std()
    data, dimension = torch.as_tensor((samples - centre) / scale, dtype=torch.float32), samples.shape[1]
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        layers = [torch.nn.Linear(dimension + 8, 128)]
        layers += [torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128)]
        network = torch.nn.Sequential(*layers, torch.nn.SiLU(), torch.nn.Linear(128, dimension))

    def noise_in(noisy, sigma):
        level = torch.log(sigma) * torch.arange(1, 5) / 4
        features = torch.cat([noisy / torch.sqrt(sigma**2 + 1), torch.sin(level), torch.cos(level)], dim=1)
        return network(features)

    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(data), (256,), generator=generator)
        sigma = torch.exp(torch.rand((256, 1), generator=generator) * np.log(300.0) + np.log(0.01))
        noise = torch.randn((256, dimension), generator=generator)
        loss = ((noise_in(data[rows] + sigma * noise, sigma) - noise) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    levels = torch.exp(torch.linspace(np.log(3.0), np.log(0.01), _LEVELS))
    points = torch.randn((n_particles, dimension), generator=generator) * np.sqrt(3.0**2 + 1)
    with torch.no_grad():
        for now, then in pairwise(levels):
            drop = now**2 - then**2
            points = points - drop / now * noise_in(points, now.expand(n_particles, 1))
            fresh = torch.randn(points.shape, generator=generator)
            points = points + then / now * torch.sqrt(drop) * fresh
        points = points - levels[-1] * noise_in(points, levels[-1].expand(n_particles, 1))
    return points.double().numpy() * scale + centre
