"""What a trained score network says: log-densities by the probability-flow ODE, and new points by it or by a walk.

    dx / du = -sigma^2 s(x, sigma),  d log p / du = sigma^2 div s,  u = log sigma

carries the law at sigma_min to that at sigma_max, which is uniform. Backwards it draws; a geodesic random walk draws
from the same laws with fresh noise in every step. All is in double precision, block by block.
"""

import copy
import itertools

import numpy as np
import torch

from heatwalk import compute, fitting
from heatwalk.score_network import ScoreNetwork, as_points, as_real
from heatwalk.spaces.space import Space
from heatwalk.tangents import divergence, sliced_divergence

_BLOCK = 512  # points whose steps are chosen together, at most
_COMPARED = 2**19  # of a block with prototypes, so that these lie in a cache
_TOLERANCE = 1e-5
_EXACT = 16  # dimensions up to which the divergence is exact
_PROBES = 2  # random tangents beyond


def log_volume(space: Space) -> float:
    """The logarithm of the volume: minus that of the uniform density."""
    x = space.random_point(np.random.default_rng(0))
    return -float(space.log_heat_kernel(x, x, 1e4))


def uniform_from(space: Space) -> float:
    """The standard deviation at which the kernel is uniform to a thousandth everywhere."""
    x, low, high = space.random_point(np.random.default_rng(0)), 1e-3, 1e4
    volume = log_volume(space)
    for _ in range(40):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if space.log_heat_kernel(x, x, middle) + volume > 1e-3 else (low, middle)
    return float(np.sqrt(high))


def log_density(
    network: ScoreNetwork, x: np.ndarray, *, seed: int = 0, threads: int | None = None, exact: bool | None = None
) -> np.ndarray:
    """(point,) logarithms of the density at sigma_min, for the Riemannian volume.

    The divergence is `exact`, or a mean over two random tangents of each point, of one length, which stay the same
    along its path: log p then has an error, and a mean of it nearly none. None: exact up to 16 dimensions.
    """
    network, volume = _double(network), log_volume(network.space)
    bounds = [float(np.log(sigma)) for sigma in network.description[-2:]]
    exact = network.space.dimension <= _EXACT if exact is None else exact

    def of(block: slice) -> np.ndarray:
        at = as_real(torch.from_numpy(np.ascontiguousarray(x[block]))).double()
        probes = None if exact else _probes(network, at, [seed, 36, block.start])
        gained = torch.zeros(len(at), dtype=at.dtype)
        _, ends = _solved(_with_density(network, probes), (at, gained), bounds)
        return (ends[-1] - volume).numpy()

    with fitting.one_torch_thread():
        return np.concatenate(list(compute.in_order(of, compute.blocks(len(x), _block(network)), threads)))


def flowed(network: ScoreNetwork, count: int, rng: np.random.Generator, steps: int | None = None) -> np.ndarray:
    """(count, ...) points by the flow from uniform ones: by adaptive steps, or by so many of Runge and Kutta."""
    network, space = _double(network), network.space
    start = as_real(torch.from_numpy(space.random_point(rng, count))).double()
    bounds = [float(np.log(sigma)) for sigma in network.description[:2:-1]]

    def velocity(u, x):
        sigma = u.exp()
        with torch.no_grad():
            return -sigma * network(x, u[None])

    made = []
    with fitting.one_torch_thread():
        for block in compute.blocks(count, _block(network)):
            made.append(_solved(velocity, start[block], bounds, steps)[-1])
    return space.project(as_points(space, torch.cat(made)).numpy())


def walked(network: ScoreNetwork, count: int, rng: np.random.Generator, steps: int = 200) -> np.ndarray:
    """(count, ...) points by a geodesic random walk back from uniform ones.

    In a step from t to t' the mean of x' is (t - t') s(x, t) away and the variance is (t - t') t' / t, exact for a
    point mass in flat space; steps are even in log t.
    """
    space, x = network.space, network.space.random_point(rng, count)
    sigmas = np.geomspace(*network.description[:2:-1], steps + 1)
    network = _double(network)
    with fitting.one_torch_thread(), torch.no_grad():
        for sigma, after in itertools.pairwise(sigmas):
            width = sigma**2 - after**2
            flat = as_real(torch.from_numpy(x)).double()
            u = torch.tensor([float(np.log(sigma))], dtype=flat.dtype)
            drift = as_points(space, network(flat, u)).numpy() * width / sigma
            noise = as_points(space, torch.from_numpy(rng.normal(size=flat.shape))).numpy()
            noise = space.project(x, noise) * np.sqrt(width / space.slope) * after / sigma
            x = space.project(space.exp(x, space.project(x, drift + noise)))
    return x


def _block(network: ScoreNetwork) -> int:
    return max(32, min(_BLOCK, _COMPARED // network.description.prototypes))


def _with_density(network: ScoreNetwork, probes):
    """The flow of points and of the logarithm of their density."""

    def velocity(u, state):
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            made = network(x, u[None])
            if probes is None:
                spread = divergence(network.space, x, made)
            else:
                along = (network.tangent(x, probe).detach() for probe in probes)
                # Of one length: the divergence is near to a multiple of the identity's, which is then exact.
                along = (e / e.norm(dim=1, keepdim=True) for e in along)
                spread = sum(sliced_divergence(x, made, e) for e in along) * network.space.dimension / len(probes)
        sigma = u.exp()
        return -sigma * made.detach(), -sigma * spread.detach()

    return velocity


def _probes(network: ScoreNetwork, at: torch.Tensor, seed: list[int]) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(_PROBES, len(at), network.n_embedded)))


def _solved(velocity, start, bounds: list[float], steps: int | None = None):
    """The state at both ends of the range of u = log sigma."""
    from torchdiffeq import odeint

    span = torch.tensor(bounds, dtype=torch.float64)
    if steps is None:
        return odeint(velocity, start, span, rtol=_TOLERANCE, atol=_TOLERANCE, method="dopri5")
    return odeint(velocity, start, span, method="rk4", options={"step_size": abs(bounds[1] - bounds[0]) / steps})


def _double(network: ScoreNetwork) -> ScoreNetwork:
    return copy.deepcopy(network).double().requires_grad_(False).eval()
