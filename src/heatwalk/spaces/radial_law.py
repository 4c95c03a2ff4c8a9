"""Angles of Brownian motion on S^d from its start: by the inverse of their distribution function, or by rejection."""

import numpy as np

from heatwalk.spaces import sphere_kernel

_CELLS = 256
_LOST = 40.0  # natural logarithm of the density, beside its highest, that the table leaves out
_NEWTON = 12
_DRAWS = 20  # of one time that are worth a table
_SLACK = 1e-4  # by which the bound is raised, for modes that are not exact


def angles(d: int, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(draw,) times -> (draw,) angles of the density proportional to sin^{d-1} theta p_d(theta, t).

    Many draws of one time by a table, a cubic spline through 256 cells of the density: 1e-7 of it or less is lost. Many
    times by rejection.
    """
    times, which, draws = np.unique(t, return_inverse=True, return_counts=True)
    theta = np.empty(len(t))
    single = draws[which] < _DRAWS
    if single.any():
        few = t[single]
        theta[single] = _on_circle(few, rng) if d == 1 else rejected(d, few, rng)
    order = np.argsort(which, kind="stable")
    ends = np.searchsorted(which[order], np.arange(len(times) + 1))
    for place in np.flatnonzero(draws >= _DRAWS):
        own = order[ends[place] : ends[place + 1]]
        parts = (part[0] for part in table(d, times[place : place + 1]))
        theta[own] = inverted(*parts, rng.random(len(own)))
    return theta


def _on_circle(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    walked = np.sqrt(np.minimum(t, 1e4)) * rng.normal(size=len(t))
    return np.abs(walked - 2 * np.pi * np.round(walked / (2 * np.pi)))


def rejected(d: int, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One angle for each time, d >= 2, by rejection from what no log-concave density f exceeds.

    With its mode m, f(x) <= f(m) min(1, e^{1 - f(m) |x - m|}); a quarter is accepted. Source: Devroye, Non-Uniform
    Random Variate Generation (1986), VII.2. That f is log-concave was seen on a fine grid for d from 2 to 511.
    """
    mode = modes(d, t)
    highest = log_density(d, mode, t)[0]
    theta, waiting = np.empty(len(t)), np.arange(len(t))
    while len(waiting):
        flat = rng.random(len(waiting)) < 0.5  # half of the mass of the bound is its flat top
        side = np.where(rng.random(len(waiting)) < 0.5, -1.0, 1.0)
        away = np.where(flat, rng.random(len(waiting)), 1 + rng.exponential(size=len(waiting)))
        level = np.log(rng.random(len(waiting))) + np.minimum(0, 1 - away)
        x = mode[waiting] + side * away / np.exp(highest[waiting])
        inside = np.flatnonzero((x > 0) & (x < np.pi))
        own = waiting[inside]
        found = log_density(d, x[inside], t[own])[0] - highest[own]
        taken = level[inside] + _SLACK <= found
        theta[own[taken]] = x[inside][taken]
        waiting = np.setdiff1d(waiting, own[taken], assume_unique=True)
    return theta


def modes(d: int, t: np.ndarray) -> np.ndarray:
    """Where the density is highest, to a thousandth of its width; its logarithm has a falling derivative."""
    low, high = np.zeros(len(t)), np.minimum(np.pi, np.sqrt(t) * (np.sqrt(d) + 9))
    theta = np.arccos(np.exp(-np.minimum((d - 1) * t / 2, 700)))
    for _ in range(8):
        theta = np.where((theta > low) & (theta < high), theta, (low + high) / 2)
        _, slope = log_density(d, theta, t)
        low, high = np.where(slope > 0, theta, low), np.where(slope > 0, high, theta)
        bend = (d - 1) / np.sin(theta) ** 2 + np.exp(-d * t / 2) / t
        if (np.abs(slope) < 1e-3 * np.sqrt(bend)).all():
            break
        theta = theta + slope / bend
    return theta


def log_density(d: int, theta: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the angle, and its derivative."""
    log_p, slope = sphere_kernel.log_kernel(d, theta, t, np)
    log_volume = sphere_kernel.log_volume(d - 1)
    return log_p + (d - 1) * np.log(np.sin(theta)) + log_volume, (d - 1) / np.tan(theta) - np.sin(theta) * slope


def table(d: int, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each time: (time, cell + 1) angles, the density there and its derivative, both by their highest value."""
    # Distances on a sphere are stochastically smaller than in flat space, where they are sqrt(t) chi_d.
    farthest = np.minimum(np.pi, np.sqrt(t) * (np.sqrt(d) + 9))
    low, high = 1e-12 * farthest, farthest * (1 - 1e-12)
    for last in (False, True):
        theta = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, _CELLS + 1)
        found = sphere_kernel.log_kernel(d, theta.ravel(), np.repeat(t, _CELLS + 1), np)
        log_p, slope = (part.reshape(theta.shape) for part in found)
        density = log_p + (d - 1) * np.log(np.sin(theta))
        highest = density.max(axis=1, keepdims=True)
        if not last:
            held = density > highest - _LOST
            first, end = held.argmax(axis=1), _CELLS - held[:, ::-1].argmax(axis=1)
            rows = np.arange(len(t))
            low, high = theta[rows, np.maximum(first - 1, 0)], theta[rows, np.minimum(end + 1, _CELLS)]
    density = np.exp(density - highest)
    return theta, density, density * ((d - 1) / np.tan(theta) - np.sin(theta) * slope)


def inverted(theta: np.ndarray, density: np.ndarray, slope: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Where the integral of the spline through (cell + 1,) values and slopes is a share u of the whole."""
    width = theta[1] - theta[0]
    before, after, rise, fall = density[:-1], density[1:], width * slope[:-1], width * slope[1:]
    share = np.concatenate([[0.0], np.cumsum((before + after) / 2 + (rise - fall) / 12)])
    wanted = u * share[-1]
    cell = np.clip(np.searchsorted(share, wanted, side="right") - 1, 0, len(before) - 1)
    wanted = wanted - share[cell]
    a, b = before[cell], rise[cell]
    c = 3 * (after[cell] - a) - 2 * b - fall[cell]
    e = 2 * (a - after[cell]) + b + fall[cell]
    low, high = np.zeros(len(u)), np.ones(len(u))
    at = np.full(len(u), 0.5)
    for _ in range(_NEWTON):  # kept between bounds
        over = at * (a + at * (b / 2 + at * (c / 3 + at * e / 4))) - wanted
        low, high = np.where(over < 0, at, low), np.where(over < 0, high, at)
        moved = at - over / np.maximum(a + at * (b + at * (c + at * e)), 1e-300)
        at = np.where((moved > low) & (moved < high), moved, (low + high) / 2)
    return theta[cell] + width * at
