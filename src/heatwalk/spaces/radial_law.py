"""Angles of Brownian motion on S^d from its start: the inverse of their distribution function, tabulated."""

import numpy as np

from heatwalk.spaces import sphere_kernel

_CELLS = 256
_LOST = 40.0  # natural logarithm of the density, beside its highest, that the table leaves out
_NEWTON = 12


def angles(d: int, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(draw,) times -> (draw,) angles of the density proportional to sin^{d-1} theta p_d(theta, t).

    The density is a cubic spline through 256 cells of its range, with its derivatives: 1e-7 of it or less is lost.
    """
    times, which = np.unique(t, return_inverse=True)
    theta, drawn = np.empty(len(t)), rng.random(len(t))
    order = np.argsort(which, kind="stable")
    ends = np.searchsorted(which[order], np.arange(len(times) + 1))
    for first in range(0, len(times), 64):
        tables = table(d, times[first : first + 64])
        for place in range(len(tables[0])):
            own = order[ends[first + place] : ends[first + place + 1]]
            theta[own] = inverted(*(part[place] for part in tables), drawn[own])
    return theta


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
