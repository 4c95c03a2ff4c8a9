"""Samples of heat kernels over twenty seeds beside the law of their distance, by Kolmogorov and Smirnov."""

import numpy as np
import pytest
from scipy.stats import kstest

from heatwalk.spaces import SO3, SU, Grassmannian, Sphere, Torus, grassmannian_kernel, sphere_kernel, su_kernel

SEEDS, DRAWS = 20, 400


def middles(end, count):
    return (np.arange(count) + 0.5) / count * end


def triangle(end, count):
    """(node, 2) positive pairs of a sum below the end."""
    x, y = (part.ravel() for part in np.meshgrid(middles(end, count), middles(end, count)))
    return np.stack([x, y], axis=1)[x + y < end]


def radii(space, t):
    """Distances from a point, and at each the logarithm of the kernel and the volume, but for a constant."""
    far = 14 * np.sqrt(t)
    if isinstance(space, Grassmannian):
        angles = triangle(2 * min(np.pi / 2, far), 500)
        angles = angles[(angles < np.pi / 2).all(1)]
        square = np.cos(2 * angles[:, 0]) - np.cos(2 * angles[:, 1])
        volume = np.sin(2 * angles).prod(1) * square**2
        return np.linalg.norm(angles, axis=1), grassmannian_kernel.log_kernel(2 * angles, t + 0 * square, np)[0], volume
    if isinstance(space, SU) and space.n == 3:
        x, y = triangle(min(2 * np.pi, far), 500).T  # differences of eigenvalues on the shortest path
        angles = np.stack([2 * x + y, y - x, -x - 2 * y], axis=1) / 3
        volume = (np.sin(x / 2) * np.sin(y / 2) * np.sin((x + y) / 2)) ** 2
        return np.linalg.norm(angles, axis=1), su_kernel.log_kernel(angles, t + 0 * x, np)[0], volume
    if isinstance(space, SU):
        x = middles(min(2 * np.pi, far), 20_000)
        logs = su_kernel.log_kernel(np.stack([x, -x], axis=1) / 2, t + 0 * x, np)[0]
        return x / 2**0.5, logs, np.sin(x / 2) ** 2
    d = {Torus: 1, SO3: 3}.get(type(space)) or space.d
    theta = middles(min(np.pi, 14 * np.sqrt(d * t)), 20_000)
    if isinstance(space, SO3):
        x = np.array([[np.zeros(20_000), -theta, 0 * theta], [theta, 0 * theta, 0 * theta], [0 * theta] * 3])
        y = space.exp(np.eye(3), np.moveaxis(x, 2, 0))
        return theta, space.log_heat_kernel(np.eye(3), y, t), np.sin(theta / 2) ** 2
    return theta, sphere_kernel.log_kernel(d, theta, t + 0 * theta, np)[0], np.sin(theta) ** (d - 1)


@pytest.mark.parametrize("t", [0.003, 0.3, 2.0])
@pytest.mark.parametrize(
    "space",
    [Sphere(1), Sphere(2), Sphere(10), Sphere(127), Torus(1), SO3(), SU(2), SU(3), Grassmannian(2, 4)],
    ids=repr,
)
def test_distances_of_samples_have_their_law_over_twenty_seeds(space, t):
    found, logs, volume = radii(space, t)
    order = np.argsort(found)
    mass = (np.exp(logs - logs.max()) * volume)[order]
    share = (np.cumsum(mass) - mass / 2) / mass.sum()
    start, values = space.random_point(np.random.default_rng(99)), []
    for seed in range(SEEDS):
        drawn = space.sample_heat_kernel(start, t, rng=np.random.default_rng(seed), size=DRAWS)
        values.append(kstest(np.interp(space.distance(start, drawn), found[order], share), "uniform").pvalue)
    assert min(values) > 1e-4
    assert kstest(values, "uniform").pvalue > 1e-4
