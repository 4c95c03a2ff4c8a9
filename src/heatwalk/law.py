"""Keeping the law of the data: which ends of a walk's steps are kept, and which are drawn again."""

import numpy as np
import torch

from heatwalk import fitting
from heatwalk.progress import log
from heatwalk.walker import Walker, ends

_UPDATES, _BATCH, _RATE = 300, 512, 1e-3
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the logarithm of the ratio, of which the best on points not fitted is taken
_ALL_BUT = 0.9  # of points have a ratio below the one that is always kept


def fit_law(walker: Walker, latent: torch.Tensor, fitted: np.ndarray, checked: np.ndarray, seed: int) -> None:
    """Train the ratio r(z) of the law of the places to that of the ends of steps from them.

    A step that is kept with a probability in proportion to r, and drawn again otherwise, leads from the law of the data
    to itself, up to how the share that is kept differs from place to place. r is the odds of a classifier of places and
    ends, as in discriminator rejection sampling; of its logarithm that share is taken which tells points that were not
    fitted from their ends best: none where it was learned by heart.
    """
    rng, places = np.random.default_rng([seed, 26]), latent.cpu().numpy()
    optimiser = torch.optim.Adam(walker.ratio.parameters(), lr=_RATE)
    size = min(_BATCH, len(fitted))
    for update in range(_UPDATES):
        fitting.cool(optimiser, _RATE, update / _UPDATES)
        some, others = (rng.choice(fitted, size, replace=False) for _ in range(2))
        loss = _loss(*_odds(walker, places, some, others, rng), 1.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        odds = _odds(walker, places, checked, np.concatenate([checked] * 4), rng)
        share = min(_SHARES, key=lambda share: float(_loss(*odds, share)))
        every = share * walker.ratio(latent)[:, 0]
        walker.ratio_share.fill_(share)
        walker.ratio_level.copy_(torch.quantile(every[: 2**20], _ALL_BUT))
    log.info("random_walk: steps are kept by %.2f of the ratio of laws", share)


def _odds(walker: Walker, places: np.ndarray, there: np.ndarray, begun: np.ndarray, rng) -> tuple:
    """Logarithms of the odds of places, and of the ends of steps from places."""
    with torch.no_grad():
        reached = ends(walker, torch.from_numpy(places[begun]).to(walker.scale), rng)
    known = torch.from_numpy(places[there]).to(walker.scale)
    return walker.ratio(known)[:, 0], walker.ratio(reached)[:, 0]


def _loss(known: torch.Tensor, reached: torch.Tensor, share: float) -> torch.Tensor:
    softplus = torch.nn.functional.softplus
    return softplus(-share * known).mean() + softplus(share * reached).mean()
