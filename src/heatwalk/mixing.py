"""Whether walkers have forgotten where they began, and whether their law stands still."""

import numpy as np

LEADING = 5  # coordinates looked at
_BOUND = 1.05


def split_rhat(before: np.ndarray, now: np.ndarray) -> tuple[float, float]:
    """Potential scale reduction of walkers at half their way and at its end, largest over the leading coordinates.

    before, now: (walker, coordinate). seed: chains are walkers, of two draws each,

        R^2 = 1/2 + var(mean of both) / mean((now - before)^2 / 2),   1 / (1 - rho) for a law that stands still

    with rho the correlation of the two: above 1 while a walker's place tells of its earlier one. law: chains are the
    two moments, of as many draws as walkers, R^2 = 1 + (difference of means)^2 / (4 W), W the variance at one moment.
    Source: Vehtari, Gelman, Simpson, Carpenter, Buerkner, Rank-normalization, folding, and localization (2021).
    """
    before, now = (np.asarray(places, np.float64)[:, :LEADING] for places in (before, now))
    within = ((now - before) ** 2).mean(axis=0) / 2
    seed = 0.5 + ((before + now) / 2).var(axis=0) / np.maximum(within, np.finfo(float).tiny)
    alone = (before.var(axis=0) + now.var(axis=0)) / 2
    law = 1 + (now.mean(axis=0) - before.mean(axis=0)) ** 2 / (4 * np.maximum(alone, np.finfo(float).tiny))
    return float(np.sqrt(seed.max())), float(np.sqrt(law.max()))


def bound(n_walkers: int) -> float:
    """1.05, and what chance adds to R of so few walkers."""
    return _BOUND + 1 / np.sqrt(n_walkers)
