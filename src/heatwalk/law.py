"""Keeping the law of the data: which of several ends of a step the walk goes to."""

import numpy as np
import torch

from heatwalk import fitting
from heatwalk.progress import log
from heatwalk.walker import DRAWS, Walker, ends

_UPDATES, _BATCH, _RATE = 600, 512, 1e-3
_FROM = 4096  # places that ends are drawn from
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the potential, of which the best on points not fitted is taken


def fit_law(walker: Walker, latent: torch.Tensor, fitted: np.ndarray, checked: np.ndarray, seed: int) -> None:
    """Train the potential f(z) by which a step from the law of the data leads to that law.

        maximise  J(f) = E f(z) - E log( mean_m exp f(z'_m) ),   z of the data, z'_1 ... z'_M ends of steps from another

    J is concave in f, and its gradient is the mean of f's over the data less that over the ends which `walker.burst`
    goes to, one of M with a probability in proportion to exp f: where it is zero no function of the network's kind
    tells one law from the other. It is the dual of the bridge between the law of the data and itself that is nearest to
    the walk (Schroedinger), with M draws in place of all. Of f that share is taken which has the largest J on points
    that were not fitted: none where it was learned by heart.
    """
    rng, places = np.random.default_rng([seed, 26]), latent.detach()
    began = rng.choice(fitted, min(_FROM, len(fitted)), replace=False)
    reached = _ends(walker, places[began], rng)
    optimiser = torch.optim.Adam(walker.potential.parameters(), lr=_RATE)
    for update in range(_UPDATES):
        fitting.cool(optimiser, _RATE, update / _UPDATES)
        there, here = rng.choice(fitted, min(_BATCH, len(fitted))), rng.choice(len(began), min(_BATCH, len(began)))
        loss = -_bridge(walker, places[there], reached[here], 1.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        known, found = places[checked], _ends(walker, places[checked], rng)
        share = max(_SHARES, key=lambda share: float(_bridge(walker, known, found, share)))
        walker.potential_share.fill_(share)
    log.info("random_walk: ends are chosen by %.2f of the potential", share)


def _ends(walker: Walker, places: torch.Tensor, rng) -> torch.Tensor:
    """(place, draw, latent) ends of as many steps from each place as the walk chooses from."""
    with torch.no_grad():
        return torch.stack([ends(walker, places, rng) for _ in range(DRAWS)], dim=1)


def _bridge(walker: Walker, known: torch.Tensor, reached: torch.Tensor, share: float) -> torch.Tensor:
    """J of that share of the potential."""
    there, left = share * walker.potential(known)[:, 0], share * walker.potential(reached)[..., 0]
    return there.mean() - (torch.logsumexp(left, dim=1) - np.log(left.shape[1])).mean()
