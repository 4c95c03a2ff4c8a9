"""What the decoder of a walker leaves of points: the noise R(z), fitted when chart and decoder stand."""

import numpy as np
import torch

from heatwalk import fitting
from heatwalk.progress import log
from heatwalk.walker import Walker

_UPDATES, _BATCH, _RATE = 600, 256, 1e-3
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of what was learnt, of which the best on points not fitted is taken
_PART = 2**13  # points at a time
_LEAST = 1e-6  # of a unit within: the noise of a value that is given back exactly


def fit_noise(
    walker: Walker, points: torch.Tensor, latent: torch.Tensor, fitted: np.ndarray, checked: np.ndarray, seed: int
) -> None:
    """Fit R(z) = diag(s^2) + F F' to residuals r = x - D(z) by their likelihood.

        minimise  -E log N(r; 0, R(z)),   s = u exp(a(z)),  F = u B(z),  u each value's root mean square of r

    points: (point, value) x, and latent: (point, latent) z of all, in the units within; fitted, checked: rows. In units
    of u residuals are of size 1 wherever they began, 1/200 of the data or all of it, and a and B begin near 0. The
    decoder has seen the fitted points, and so may a and B have learnt by heart: that share of them is taken which is
    likeliest on the checked ones, and u is scaled so that there r' R^-1 r is the number of values in the median.
    """
    with torch.no_grad():
        parts = zip(points.split(_PART), latent.split(_PART), strict=True)
        residual = torch.cat([part - walker.decoder(places) for part, places in parts])
        rows, others = (torch.from_numpy(given).to(residual.device) for given in (fitted, checked))
        walker.noise_unit.copy_((residual[rows] ** 2).mean(0).sqrt().clamp_min(_LEAST))
        walker.noise.exit.weight *= 0.1
        walker.noise.exit.bias.zero_()
    optimiser, rng = torch.optim.Adam(walker.noise.parameters(), lr=_RATE), np.random.default_rng([seed, 27])
    walker.noise_share.fill_(1.0)
    for update in range(_UPDATES):
        fitting.cool(optimiser, _RATE, update / _UPDATES)
        some = rows[torch.from_numpy(rng.integers(len(rows), size=min(_BATCH, len(rows)))).to(rows.device)]
        loss = -log_density(walker, latent[some], residual[some]).mean() / residual.shape[1]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = [_sized(walker, latent[others], residual[others], share) for share in _SHARES]
        share, size, _ = max(found, key=lambda one: one[2])
        walker.noise_share.fill_(share)
        walker.noise_unit.mul_(size)
    log.info("random_walk: noise of %.2f of what was learnt, %.2f times as large on points left out", share, size)


def _sized(walker: Walker, latent: torch.Tensor, residual: torch.Tensor, share: float) -> tuple[float, float, float]:
    """The share, the factor that R's lengths need, and the log-likelihood with both."""
    walker.noise_share.fill_(share)
    log_densities = log_density(walker, latent, residual)
    squared = -2 * (log_densities - log_density(walker, latent, torch.zeros_like(residual)))
    size = float((squared.median() / residual.shape[1]).sqrt().clamp(0.5, 4.0))
    scaled = log_densities + squared / 2 * (1 - size**-2) - residual.shape[1] * np.log(size)
    return share, size, float(scaled.mean())


def log_density(walker: Walker, latent: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """(point,) log N(residual; 0, R(z)), in double precision: single has no room for both narrow and shared noise."""
    own, shared = (part.double() for part in walker.spread(latent))
    residual = residual.double()
    law = torch.distributions.LowRankMultivariateNormal(torch.zeros_like(residual), shared, own**2, validate_args=False)
    return law.log_prob(residual)
