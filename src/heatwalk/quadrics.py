"""Quadrics around a point: the walk on sampled points, a direct fit, and a network that reads the Hessian off the walk.

z(x) = z(0) + g.x + x'Hx / 2        points (x, z(x)), the centre first; Q of z = x'Qx is H / 2

walk     rows of P^t of the centre on the graph of the points (x, z), heights scaled to the spread of x
moments  of every row p_t: what is left of z after its best linear function, times x x', in units of Cov(x)
network  H = sum_t a_t A_t + b_t tr(A_t) 1 / d, with A_t the moments, a and b learned functions of rotation invariants
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from heatwalk.affinity import affinity
from heatwalk.errors import BadInput, Problem
from heatwalk.fitting import cool, one_torch_thread
from heatwalk.neighbors import neighbors

TIMES = (1, 2, 4, 8, 16)  # of the walk
_NEIGHBORS = 30  # of a point in the graph, above twice the dimension
_HIDDEN = 64
_BATCH = 64  # clouds of a step of Adam
_RATE = 3e-3  # of Adam at the start
_RIDGE = 1e-9  # of the mean variance, where a row of the walk lies in a plane


class Cloud(NamedTuple):
    offsets: torch.Tensor  # (..., point, dimension) in units of the largest radius, the centre first
    heights: torch.Tensor  # (..., point) above the centre, in units of their root mean square
    rows: torch.Tensor  # (..., time, point) of P^t, the centre's


class Quadric(NamedTuple):
    hessian: np.ndarray  # (dimension, dimension)
    gradient: np.ndarray  # (dimension,)
    residual: float  # root mean square of what the quadric leaves, over that of the heights


def shells(dimension: int, radii: Sequence[float], points: int, generator: torch.Generator) -> torch.Tensor:
    """(1 + len(radii) * points, dimension): the origin, then `points` uniform directions at each of the radii."""
    if not (len(radii) and all(0 < radius < math.inf for radius in radii)):
        cause = f"{list(radii)} are not all positive numbers"
        raise BadInput(Problem("HW-LL-001", "radii", cause, "give at least one radius, all above 0"))
    if dimension < 1 or points < 1:
        cause = f"{points} points in {dimension} dimensions"
        raise BadInput(Problem("HW-LL-002", "points", cause, "give at least 1 of both"))
    normal = torch.randn(len(radii), points, dimension, generator=generator, dtype=torch.float64)
    around = normal / normal.norm(dim=2, keepdim=True) * torch.tensor(radii, dtype=torch.float64)[:, None, None]
    return torch.cat([torch.zeros(1, dimension, dtype=torch.float64), around.reshape(-1, dimension)])


def cloud(offsets, heights) -> tuple[Cloud, float]:
    """The walk of the centre, and the unit of the Hessian of the scaled cloud: H = unit * scaled H.

    offsets: (point, dimension), the centre first at 0; heights: (point,). Heights are scaled to the root mean square of
    one coordinate of x, so that neither a flat nor a steep surface is a plane or a wall to the graph.
    Raises BadInput where the heights are all the same or not finite, or the points too few for a quadric.
    """
    x, z = np.asarray(offsets, np.float64), np.asarray(heights, np.float64)
    _check(x, z)
    radius, z = float(np.linalg.norm(x, axis=1).max()), z - z[0]
    spread = float(np.sqrt((z**2).mean()))
    x, z = x / radius, z / spread
    points = np.column_stack([x, z * np.sqrt((x**2).mean())])
    found = neighbors(points, n_neighbors=min(max(_NEIGHBORS, 2 * x.shape[1]), len(x) - 1), method="exact", threads=1)
    graph = affinity(points, found, alpha=1.0, threads=1)
    made = Cloud(torch.from_numpy(x), torch.from_numpy(z), torch.from_numpy(_rows(graph)))
    return made, spread / radius**2


def _check(x: np.ndarray, z: np.ndarray) -> None:
    if x.ndim != 2 or z.shape != x.shape[:1] or (x[:1] != 0).any():
        cause = f"offsets of shape {x.shape} and heights of shape {z.shape}"
        raise BadInput(
            Problem("HW-LL-003", "offsets", cause, "give (point, dimension), the centre first at 0, and (point,)")
        )
    least = 1 + x.shape[1] + x.shape[1] * (x.shape[1] + 1) // 2
    if len(x) < least:
        cause = f"{len(x)} points in {x.shape[1]} dimensions, a quadric has {least} coefficients"
        raise BadInput(Problem("HW-LL-004", "offsets", cause, f"sample at least {least} points, or fewer dimensions"))
    if not np.isfinite(z).all() or (z == z[0]).all():
        cause = f"{np.isfinite(z).sum()} of {len(z)} heights are finite, of {len(np.unique(z))} values"
        raise BadInput(Problem("HW-LL-005", "heights", cause, "change the radii until the loss is finite and varies"))


def _rows(graph) -> np.ndarray:
    """(time, point) rows of P^t of the first point."""
    from scipy.sparse import csr_array

    n = len(graph.degrees)
    weights = csr_array((graph.weights, graph.indices, graph.indptr), shape=(n, n))
    row, rows = np.zeros(n), []
    row[0] = 1.0
    for step in range(1, max(TIMES) + 1):
        row = weights @ (row / graph.degrees)  # the weights are symmetric
        if step in TIMES:
            rows.append(row)
    return np.array(rows)


def direct(offsets, heights) -> Quadric:
    """The quadric of least squares through the points, all weighed alike: exact where the heights are a quadric.

    offsets: (point, dimension), the centre first at 0; heights: (point,). Value, gradient and Hessian are all free.
    """
    x, z = np.asarray(offsets, np.float64), np.asarray(heights, np.float64)
    _check(x, z)
    radius, spread = np.linalg.norm(x, axis=1).max(), np.sqrt(((z - z[0]) ** 2).mean())
    u, d = x / radius, x.shape[1]
    upper = np.triu_indices(d)
    terms = np.column_stack([np.ones(len(u)), u, u[:, upper[0]] * u[:, upper[1]]])
    found = np.linalg.lstsq(terms, (z - z[0]) / spread, rcond=None)[0]
    left = np.sqrt(((terms @ found - (z - z[0]) / spread) ** 2).mean())
    half = np.zeros((d, d))
    half[upper] = found[1 + d :]
    return Quadric((half + half.T) * spread / radius**2, found[1 : 1 + d] * spread / radius, float(left))


def moments(given: Cloud, heights: torch.Tensor) -> torch.Tensor:
    """(..., time, d, d) A_t = S^-1 E_t[r x x'] S^-1, S = Cov_t(x), r the heights less their best linear function.

    Were p_t a normal distribution, A_t would be the mean Hessian (Stein's identity).
    """
    rows, x = given.rows, given.offsets
    linear = torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)
    width = linear.shape[-1]
    pairs = (linear.unsqueeze(-1) * linear.unsqueeze(-2)).flatten(-2)  # (..., point, (1 + d)^2)
    gram = (rows @ pairs).unflatten(-1, (width, width)) + _RIDGE * torch.eye(width, dtype=x.dtype)
    slopes = torch.linalg.solve(gram, (rows * heights.unsqueeze(-2)) @ linear)  # (..., time, 1 + d)
    left = heights.unsqueeze(-2) - slopes @ linear.transpose(-1, -2)  # (..., time, point)
    bent = ((rows * left) @ pairs).unflatten(-1, (width, width))[..., 1:, 1:]
    inverse = torch.linalg.inv(gram)[..., 1:, 1:]  # of the covariance, by the block formula
    found = inverse @ bent @ inverse
    return (found + found.transpose(-1, -2)) / 2


class QuadricNetwork(nn.Module):
    """The Hessian of clouds of one dimension, turned as they are turned, in units of the clouds.

        H_0 = 0,    H_j+1 = H_j + sum_t a_jt A_t(z - x'H_j x / 2) + b_jt tr(A_t) 1 / d
        a, b = perceptron(invariants of the walk and of the first moments)

    The first pass sees what diffusion alone tells; the others correct it for how the points happen to lie.
    """

    def __init__(self, dimension: int, passes: int, generator: torch.Generator):
        super().__init__()
        self.dimension, self.passes, n_times = dimension, passes, len(TIMES)
        self.register_buffer("centre", torch.zeros(5 * n_times))
        self.register_buffer("scale", torch.ones(5 * n_times))
        sizes = [5 * n_times, _HIDDEN, _HIDDEN, passes * 2 * n_times]
        layers = [nn.utils.skip_init(nn.Linear, *pair) for pair in pairwise(sizes)]
        for layer in layers:  # the generator is our own: torch's constructors draw from the global one
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(layers[-1].weight)
        with torch.no_grad():
            layers[-1].bias.view(passes, 2, n_times)[:, 0] = 1 / n_times
        self.perceptron = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2]).double()
        self.double()

    def forward(self, given: Cloud) -> torch.Tensor:
        """(..., dimension, dimension), symmetric."""
        first = moments(given, given.heights)
        scaled = (invariants(given, first) - self.centre) / self.scale
        shares = self.perceptron(scaled).unflatten(-1, (self.passes, 2, len(TIMES)))
        hessian, seen = torch.zeros_like(first[..., 0, :, :]), first
        for step in range(self.passes):
            if step:
                bent = ((given.offsets @ hessian) * given.offsets).sum(-1) / 2
                seen = moments(given, given.heights - bent)
            own, mean = shares[..., step, 0, :, None, None], shares[..., step, 1, :]
            trace = (mean * seen.diagonal(dim1=-2, dim2=-1).mean(-1)).sum(-1)
            hessian = hessian + (own * seen).sum(-3) + trace[..., None, None] * torch.eye(self.dimension).to(seen)
        return hessian


def invariants(given: Cloud, first: torch.Tensor) -> torch.Tensor:
    """(..., 5 times) numbers that no rotation changes: return, entropy and spread of p_t; size and trace of A_t."""
    rows, square = given.rows, (given.offsets**2).sum(-1)
    back = rows[..., 0].log()
    entropy = -torch.special.xlogy(rows, rows).sum(-1)
    spread = (rows * square.unsqueeze(-2)).sum(-1).log()
    size = torch.linalg.matrix_norm(first)
    trace = first.diagonal(dim1=-2, dim2=-1).sum(-1) / size
    return torch.cat([back, entropy, spread, size.log(), trace], dim=-1)


def random_hessians(dimension: int, number: int, generator: torch.Generator) -> torch.Tensor:
    """(number, d, d) diagonal: eigenvalues exp(normal) in size, positive with a chance drawn for each Hessian.

    Minima and saddles of uneven curvature. Directions of points are uniform, so that diagonal ones stand for all.
    """
    size = torch.randn(number, dimension, generator=generator, dtype=torch.float64).exp()
    chance = torch.rand(number, 1, generator=generator, dtype=torch.float64)
    up = torch.rand(number, dimension, generator=generator, dtype=torch.float64) < chance
    return torch.diag_embed(torch.where(up, size, -size))


def sampled(hessians: torch.Tensor, radii: Sequence[float], points: int, generator: torch.Generator):
    """Clouds of quadrics with these Hessians and a small gradient, and the Hessians in the clouds' units."""
    clouds, targets = [], []
    for hessian in hessians:
        x = shells(hessian.shape[-1], radii, points, generator)
        slope = torch.randn(len(hessian), generator=generator, dtype=torch.float64)
        slope *= torch.rand(1, generator=generator, dtype=torch.float64) * max(radii) * hessian.norm() / 4
        made, unit = cloud(x, x @ slope + ((x @ hessian) * x).sum(1) / 2)
        clouds.append(made)
        targets.append(hessian / unit)
    return Cloud(*(torch.stack(parts) for parts in zip(*clouds, strict=True))), torch.stack(targets)


def trained(
    dimension: int,
    *,
    radii: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    points: int = 60,
    quadrics: int = 300,
    epochs: int = 60,
    passes: int = 3,
    seed: int = 0,
) -> QuadricNetwork:
    """A network for clouds of so many dimensions on shells with radii in these proportions, trained on random quadrics.

    The loss is the mean of |H - H'|_F^2 / |H'|_F^2 over batches, by Adam, its rate falling to nothing along a cosine.
    """
    generator = torch.Generator().manual_seed(seed)
    with one_torch_thread():
        network = QuadricNetwork(dimension, passes, generator)
        given, targets = sampled(random_hessians(dimension, quadrics, generator), radii, points, generator)
        seen = invariants(given, moments(given, given.heights))
        network.centre.copy_(seen.mean(0))
        network.scale.copy_(seen.std(0) + 1e-6)
        optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
        for epoch in range(epochs):
            cool(optimiser, _RATE, epoch / epochs)
            for part in torch.randperm(quadrics, generator=generator).split(_BATCH):
                optimiser.zero_grad()
                found = network(Cloud(*(values[part] for values in given)))
                loss = (torch.linalg.matrix_norm(found - targets[part]) / torch.linalg.matrix_norm(targets[part])) ** 2
                loss.mean().backward()
                optimiser.step()
    return network.eval()


def estimate(network: QuadricNetwork, offsets, heights) -> np.ndarray:
    """(dimension, dimension) Hessian of the heights at the centre, in their units, by the network."""
    made, unit = cloud(offsets, heights)
    if made.offsets.shape[-1] != network.dimension:
        cause = f"the network is for {network.dimension} dimensions, the offsets have {made.offsets.shape[-1]}"
        raise BadInput(Problem("HW-LL-006", "offsets", cause, "train a network for the dimensions of the offsets"))
    with one_torch_thread(), torch.no_grad():
        return unit * network(made).numpy()
