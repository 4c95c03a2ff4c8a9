"""Divergence of tangent fields on a space, by derivatives of torch: exact, or along random tangents.

    div V = sum_k e_k' (dV/dx) e_k,  e_k orthonormal tangents, for any smooth field V of tangents

V may be extended off the space in any way: derivatives along tangents do not see it. A metric that is a constant times
that of the surrounding space has the same divergence.
"""

import torch
from array_api_compat import torch as namespace

from heatwalk.score_network import as_points, as_real
from heatwalk.spaces import SO3, SU, Sphere, Torus
from heatwalk.spaces.space import Space


def divergence(space: Space, x: torch.Tensor, field: torch.Tensor, *, create_graph: bool = False) -> torch.Tensor:
    """(point,) of a (point, value) field made of (point, value) points that require gradients: exact."""
    return sum(sliced_divergence(x, field, e, create_graph=create_graph) for e in frame(space, x.detach()))


def sliced_divergence(
    x: torch.Tensor, field: torch.Tensor, along: torch.Tensor, *, create_graph: bool = False
) -> torch.Tensor:
    """(point,) e' (dV/dx) e; its mean over tangents e with mean e e' the projection is the divergence."""
    (slope,) = torch.autograd.grad(field, x, along, retain_graph=True, create_graph=create_graph)
    return (slope * along).sum(1)


def frame(space: Space, x: torch.Tensor) -> list[torch.Tensor]:
    """(point, value) tangents at real points whose sum of e e' is the projection to the tangent space."""
    if isinstance(space, SO3 | SU):
        at = as_points(space, x)
        return [as_real(at @ generator) for generator in _generators(space, at)]
    units = torch.eye(x.shape[1]).to(x)
    if isinstance(space, Sphere):  # a reflection carries the last axis to x, and the others to tangents
        sign = torch.where(x[:, -1:] < 0, -1.0, 1.0)
        w = x + sign * units[-1]
        w = w / w.norm(dim=1, keepdim=True)
        return [unit - 2 * w[:, k : k + 1] * w for k, unit in enumerate(units[:-1])]
    if isinstance(space, Torus):
        return [unit.expand_as(x) for unit in units]
    at = as_points(space, x)
    each = (as_points(space, unit.expand_as(x)) for unit in units)
    return [as_real(space._tangent(at, e, namespace)) for e in each]


def _generators(space: Space, like: torch.Tensor) -> list[torch.Tensor]:
    """Orthonormal matrices of the Lie algebra, in the Frobenius norm."""
    n, found = space.shape[0], []
    for row in range(n):
        for column in range(row):
            turn = torch.zeros(n, n, dtype=like.dtype, device=like.device)
            turn[row, column], turn[column, row] = 0.5**0.5, -(0.5**0.5)
            found.append(turn)
            if space.complex_:
                found.append(1j * turn.abs())
    for row in range(1, n if space.complex_ else 0):
        values = torch.tensor([1.0] * row + [-float(row)] + [0.0] * (n - row - 1), device=like.device)
        found.append(torch.diag(1j * values / values.norm()).to(like.dtype))
    return found
