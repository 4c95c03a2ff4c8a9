"""Surfaces with a known curvature: points on them, with noise, and the best estimate that anyone could give.

Torus R = 2, r = 1 and ellipsoid 3, 2, 1, uniform by area; hyperboloid x^2/4 + y^2/4 - z^2 = 1, z and angle uniform on
|z| <= 2; saddle z = x^2 - y^2, x and y uniform on [-1, 1]. Gaussian curvature from each surface's own formula.
"""

import numpy as np


def torus(n_points: int, rng: np.random.Generator):
    """K = cos v / (2 + cos v); the area element is 2 + cos v."""
    v = rng.uniform(0, 2 * np.pi, 4 * n_points)
    v = v[rng.uniform(0, 3, len(v)) < 2 + np.cos(v)][:n_points]
    u, radius = rng.uniform(0, 2 * np.pi, len(v)), 2 + np.cos(v)
    return np.column_stack([radius * np.cos(u), radius * np.sin(u), np.sin(v)]), np.cos(v) / radius


def ellipsoid(n_points: int, rng: np.random.Generator):
    """K = 1 / (a b c)^2 / q^2, q = x^2/a^4 + y^2/b^4 + z^2/c^4; a unit vector's area grows by a b c sqrt(q)."""
    axes = np.array([3.0, 2, 1])
    unit = rng.normal(size=(8 * n_points, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    grows = np.linalg.norm(unit / axes, axis=1)
    points = (unit * axes)[rng.uniform(0, 1, len(unit)) < grows][:n_points]
    return points, 1 / np.prod(axes) ** 2 / (points**2 / axes**4).sum(axis=1) ** 2


def hyperboloid(n_points: int, rng: np.random.Generator):
    """K = -1 / (a b c)^2 / q^2, with q as for an ellipsoid of axes 2, 2, 1."""
    z, angle = rng.uniform(-2, 2, n_points), rng.uniform(0, 2 * np.pi, n_points)
    radius = 2 * np.sqrt(1 + z**2)
    points = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), z])
    return points, -1 / 16 / (radius**2 / 16 + z**2) ** 2


def saddle(n_points: int, rng: np.random.Generator):
    """K = -4 / (1 + 4 x^2 + 4 y^2)^2."""
    x, y = rng.uniform(-1, 1, size=(2, n_points))
    return np.column_stack([x, y, x**2 - y**2]), -4 / (1 + 4 * x**2 + 4 * y**2) ** 2


SURFACES = {"torus": torus, "ellipsoid": ellipsoid, "hyperboloid": hyperboloid, "saddle": saddle}
NOISES = (0.0, 0.1, 0.25)


def cloud(name: str, noise: float, seed: int, n_points: int = 2000):
    """Noisy points of a surface, and the curvature where each of them was before the noise."""
    rng = np.random.default_rng([seed, 17])
    points, curvature = SURFACES[name](n_points, rng)
    return points + noise * rng.normal(size=points.shape), curvature


def oracle(name: str, points: np.ndarray, noise: float, seed: int, n_known: int = 40_000) -> np.ndarray:
    """E[K | noisy point] for who knows the surface, by a clean sample of it."""
    known, curvature = SURFACES[name](n_known, np.random.default_rng([seed, 18]))
    expected = np.empty(len(points))
    for start in range(0, len(points), 250):
        some = points[start : start + 250]
        squares = (some**2).sum(1)[:, None] + (known**2).sum(1) - 2 * some @ known.T
        weights = np.exp(-(squares - squares.min(axis=1, keepdims=True)) / (2 * noise**2))
        expected[start : start + 250] = weights @ curvature / weights.sum(axis=1)
    return expected


def quadratic(kind: str, dimension: int, noise: float, rng: np.random.Generator, n_points: int = 2000) -> np.ndarray:
    """A piece of a saddle (half of the directions up, half down), a sphere or a plane; the first point is its centre.

    Saddle: height sum_i +-u_i^2 over the unit ball; sphere of radius 1: the cap within .7 of its pole; plane: 0.
    """
    flat = rng.normal(size=(n_points, dimension))
    flat *= rng.uniform(size=(n_points, 1)) ** (1 / dimension) / np.linalg.norm(flat, axis=1, keepdims=True)
    flat[0] = 0
    signs = np.where(np.arange(dimension) % 2, -1, 1)
    if kind == "sphere":
        flat *= 0.7
    heights = {"saddle": flat**2 @ signs, "sphere": np.sqrt(1 - (flat**2).sum(axis=1)), "plane": np.zeros(n_points)}
    points = np.column_stack([flat, heights[kind]])
    return points + noise * rng.normal(size=points.shape)
