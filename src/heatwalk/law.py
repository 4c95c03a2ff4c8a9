"""Keeping the law of the data: which of several ends of a step the walk goes to."""

import numpy as np
import torch

from heatwalk import fitting
from heatwalk.progress import log
from heatwalk.walker import Walker, chosen, drawn_ends

_UPDATES, _BATCH, _RATE = 400, 128, 1e-3
_WALKERS, _STEPS, _UPDATES_A_STEP = 1024, 20, 20  # of the walk that the potential is trained on after that
_BEGUN_AGAIN = 0.05  # of its walkers at every step
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the potential, of which the best on points not fitted is taken


def fit_law(walker: Walker, latent: torch.Tensor, fitted: np.ndarray, checked: np.ndarray, seed: int) -> None:
    """Train the potential f(z) by which a step from the law of the data leads to that law.

        maximise  J(f) = E f(z) - E log( mean_m exp f(z'_m) ),   z of the data, z'_1 ... z'_M ends of steps from another

    J is concave in f, and its gradient is the mean of f's over the data less that over the ends which `walker.burst`
    goes to, one of M with a probability in proportion to exp f: where it is zero no function of the network's kind
    tells one law from the other. It is the dual of the bridge between the law of the data and itself that is nearest to
    the walk (Schroedinger), with M draws in place of all. What is left of the error adds up over steps, so then steps
    begin where walkers of this walk are after up to twenty, and where the gradient is zero their law is the data's. Of
    f that share is taken which has the largest J on points that were not fitted: none where it was learned by heart.
    """
    rng, places = np.random.default_rng([seed, 26]), latent.detach()
    optimiser = torch.optim.Adam(walker.potential.parameters(), lr=_RATE)
    walker.potential_share.fill_(1.0)
    at = _some(places, fitted, _WALKERS, rng)
    for step in range(_STEPS):
        with torch.no_grad():
            reached = drawn_ends(walker, at, rng)
        for update in range(_UPDATES if step == 0 else _UPDATES_A_STEP):
            part = update / _UPDATES if step == 0 else 0.5 + step / (2 * _STEPS)
            fitting.cool(optimiser, _RATE, part)
            here = torch.from_numpy(rng.integers(len(at), size=min(_BATCH, len(at)))).to(at.device)
            loss = -_bridge(walker, _some(places, fitted, _BATCH, rng), reached[here], 1.0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            at = chosen(walker, reached, rng)
            again = torch.from_numpy(rng.random(len(at)) < _BEGUN_AGAIN).to(at.device)
            at = torch.where(again[:, None], _some(places, fitted, len(at), rng), at)
    with torch.no_grad():
        known = places[checked]
        found = drawn_ends(walker, known, rng)
        share = max(_SHARES, key=lambda share: float(_bridge(walker, known, found, share)))
        walker.potential_share.fill_(share)
    log.info("random_walk: ends are chosen by %.2f of the potential", share)


def _some(places: torch.Tensor, rows: np.ndarray, count: int, rng: np.random.Generator) -> torch.Tensor:
    return places[torch.from_numpy(rng.choice(rows, count)).to(places.device)]


def _bridge(walker: Walker, known: torch.Tensor, reached: torch.Tensor, share: float) -> torch.Tensor:
    """J of that share of the potential."""
    there, left = share * walker.potential(known)[:, 0], share * walker.potential(reached)[..., 0]
    return there.mean() - (torch.logsumexp(left, dim=1) - np.log(left.shape[1])).mean()
