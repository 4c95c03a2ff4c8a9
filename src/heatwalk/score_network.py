"""A score network: the gradient of the log-density of noised points of a space, kept as safetensors and JSON.

    x --+-- kernels  k_j = Student's of n_j degrees and variances v_j = sigma^2 + w_j^2 around c_j ------+
        |                                                                                               |
        +-- trunk  residual MLP (x, log sigma) --+---- sigma grad log sum_j e^{b_j} k_j(x) ---- gate ----+
                                                 +---- tangent part ---- sigma times the score

        w_j = e^{h(sigma)} times the width that kernel j began with,  1 / n_j = (w_j^2 / v_j)^2 tail

Kernels alone are the score of a mixture; noise makes them wider and takes their tails, as it does to a normal law whose
width is random. The trunk gives what curvature and the data add. All is made in the Euclidean space that the points lie
in, and projected to the tangent space. Where kernels lie at samples, what is learnt from a sample leaves out its own
and the widths that it gave to others.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from array_api_compat import torch as namespace
from torch import nn

from heatwalk import checkpoints
from heatwalk.errors import BadInput, Problem
from heatwalk.spaces import SO3, SU, Grassmannian, Power, Sphere, Torus
from heatwalk.spaces.space import Space

FORMAT = "heatwalk score network 2"
MOST_BYTES = 64 * 10**6
_BLOCKS = 3
_FREQUENCIES = 8  # of the logarithm of the noise
_FARTHEST = 40.0  # logarithm of the largest share over the least
_QUICK = 10  # how much faster the two numbers that all kernels share are learnt
_KINDS = {"Sphere": Sphere, "Torus": Torus, "SO3": SO3, "SU": SU, "Grassmannian": Grassmannian}


class Description(NamedTuple):
    """All that is needed to build a score network, apart from its weights."""

    space: str  # of which it has scores, as Python writes it: Sphere(2), Power(SU(3), (2, 2))
    prototypes: int
    width: int  # of the hidden layers
    sigma_min: float  # standard deviations of the noise in every direction
    sigma_max: float


class ScoreNetwork(nn.Module):
    def __init__(self, description: Description):
        super().__init__()
        self.description, self.space = description, space_of(description.space)
        values, width, m = self.n_embedded, description.width, description.prototypes
        # Places move in units of the widths that they began with, whatever the scale of the data is.
        self.register_buffer("origins", torch.zeros(m, values))
        self.register_buffer("units", torch.ones(m, 1))
        self.moves = nn.Parameter(torch.zeros(m, values))
        self.log_widths, self.biases = nn.Parameter(torch.zeros(m)), nn.Parameter(torch.zeros(m))
        # Of training alone, where kernels lie at samples: those whose widths each sample made, and these without it.
        self.register_buffer("near", None, persistent=False)
        self.register_buffer("log_widths_without", None, persistent=False)
        times = 2 * _FREQUENCIES
        self.register_buffer("log_tail", torch.tensor(-10.0))
        self.tail, self.stretch = nn.Parameter(torch.zeros(())), nn.Linear(times, 1)
        self.entry = nn.Linear(values, width)
        self.times = nn.ModuleList(nn.Linear(times, width) for _ in range(_BLOCKS))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(_BLOCKS)
        )
        self.exit, self.gate = nn.Linear(width, values), nn.Linear(width, 1)
        for layer in (self.exit, self.gate, self.stretch):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def places(self) -> torch.Tensor:
        """(prototype, n_embedded)."""
        return self.origins + self.units * self.moves

    @property
    def n_values(self) -> int:
        """Real numbers of a point."""
        return int(np.prod(self.space.shape)) * (2 if self.space.complex_ else 1)

    @property
    def n_embedded(self) -> int:
        """Values of a point in the Euclidean space that the network sees."""
        return 2 * self.n_values if isinstance(self.space, Torus) else self.n_values

    def embedded(self, x: torch.Tensor) -> torch.Tensor:
        """(point, value) -> (point, n_embedded): of angles all cosines, then all sines."""
        return torch.cat([x.cos(), x.sin()], 1) if isinstance(self.space, Torus) else x

    def tangent(self, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(point, n_embedded) vectors -> (point, value) their tangent part, of lengths in the metric of the space."""
        if isinstance(self.space, Torus):
            cosines, sines = v.chunk(2, 1)
            return x.cos() * sines - x.sin() * cosines
        return as_real(self.space._tangent(as_points(self.space, x), as_points(self.space, v), namespace))

    def forward(self, x: torch.Tensor, log_sigma: torch.Tensor, own: torch.Tensor | None = None) -> torch.Tensor:
        """(point, value) sigma times the score at (point, value) real points, log_sigma (point,) or (1,).

        own: (point,) number of the kernel whose sample each point does without.
        """
        at, times = self.embedded(x), self._times(log_sigma)
        pulled = log_sigma.exp()[:, None] * self._pulled(at, log_sigma, own)
        hidden = self.entry(at)
        for time, block in zip(self.times, self.blocks, strict=True):
            hidden = hidden + block(hidden + time(times))
        hidden = nn.functional.silu(hidden)
        return self.tangent(x, self.exit(hidden) + (1 + self.gate(hidden)) * pulled)

    def _times(self, log_sigma: torch.Tensor) -> torch.Tensor:
        low, high = (float(np.log(sigma)) for sigma in self.description[-2:])
        part = (log_sigma - low) / (high - low)
        angles = part[:, None] * torch.pi * torch.arange(1, _FREQUENCIES + 1).to(part) / 2
        return torch.cat([angles.cos(), angles.sin()], 1)

    def _pulled(self, at: torch.Tensor, log_sigma: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        """(point, n_embedded) the score of the mixture of kernels."""
        levels, which = torch.unique(log_sigma, return_inverse=True)
        tables = self._kernels(levels, self.log_widths)
        which = which.expand(len(at))
        if len(levels) > 1 or own is not None:
            tables = [table[which] for table in tables]
        if own is not None and self.near is not None:
            near = self.near[own]
            others = self._kernels(levels, self.log_widths_without)
            tables = [a.scatter(1, near, b[which[:, None], near]) for a, b in zip(tables, others, strict=True)]
        if own is None and not any(part.requires_grad for part in (*tables, self.places)):
            return _Pulled.apply(at, self.places, *tables, self.space.slope)
        return _pulled(at, self.places, tables, own)[0]

    def _kernels(self, levels: torch.Tensor, log_widths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(level, prototype) e, p, c, f of log k = c - p log(1 + e |x - c_j|^2), grad = f (c_j - x) / (1 + ...).

        e = slope / (n v), p = (n + d) / 2, and c has Stirling's formula for the gamma functions.
        """
        half, slope = self.space.dimension / 2, self.space.slope
        own = torch.exp(2 * (log_widths + _QUICK * self.stretch(self._times(levels))))
        precision = (torch.exp(2 * levels)[:, None] + own).reciprocal()
        tail = (own * precision) ** 2 * torch.exp(self.log_tail + _QUICK * self.tail)
        a = 0.5 / tail
        power = a + half
        constant = (power - 0.5) * torch.log1p(half / a) + (1 / power - 1 / a) / 12 + half * precision.log()
        return slope * tail * precision, power, self.biases + constant, (1 + 2 * half * tail) * precision


def _pulled(at, places, tables, own=None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(point, n_embedded) the score of kernels at places, their weights and 1 / (1 + e |x - c|^2)."""
    steepness, power, constant, precision = tables
    # In single precision squares of small distances are lost, and with them small noise.
    wide = (at.double(), places.double())
    squares = ((part**2).sum(1) for part in wide)
    square = torch.addmm(next(squares)[:, None] + next(squares), wide[0], wide[1].T, alpha=-2).clamp_min(0).to(at)
    farther = square * steepness
    logs = constant - power * farther.log1p()
    if own is not None:
        logs = logs.scatter(1, own[:, None], -torch.inf)
    # Smaller shares would be subnormal numbers, which processors multiply a hundred times slower.
    shares = torch.softmax(torch.maximum(logs, logs.detach().amax(1, keepdim=True) - _FARTHEST), 1)
    nearness = 1 / (1 + farther)
    weights = shares * precision * nearness
    return weights @ places - weights.sum(1, keepdim=True) * at, weights, nearness


class _Pulled(torch.autograd.Function):
    """The same of kernels that are not learnt, with the derivative along u in fewer sums than a graph needs.

    S = sum_j m_j (c_j - x),  m_j = share of j times f_j / (1 + e_j |x - c_j|^2),  q_j = m_j u' (c_j - x)
    u' dS/dx = sum_j w_j (c_j - x) - u sum_j m_j,  w_j = q_j (slope f_j + 2 e_j) / (1 + ...) - slope m_j sum_i q_i
    """

    @staticmethod
    def forward(ctx, at, places, steepness, power, constant, precision, slope):
        made, weights, nearness = _pulled(at, places, (steepness, power, constant, precision))
        ctx.save_for_backward(at, places, weights, nearness * (slope * precision + 2 * steepness))
        ctx.slope = slope
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, u):
        at, places, weights, slopes = ctx.saved_tensors
        along = torch.addmm(-(u * at).sum(1, keepdim=True), u, places.T) * weights
        found = along * slopes - ctx.slope * along.sum(1, keepdim=True) * weights
        pull = found @ places - found.sum(1, keepdim=True) * at - weights.sum(1, keepdim=True) * u
        return pull, *(None,) * 6


def as_real(points: torch.Tensor) -> torch.Tensor:
    """(point, ...) points -> (point, value) real numbers."""
    return (torch.view_as_real(points) if points.is_complex() else points).flatten(1)


def as_points(space: Space, values: torch.Tensor) -> torch.Tensor:
    """(point, value) real numbers -> (point, ...) points, or vectors in the space that they lie in."""
    if space.complex_:
        return torch.view_as_complex(values.reshape(-1, *space.shape, 2))
    return values.reshape(-1, *space.shape)


def space_of(text: str) -> Space:
    """The space that Python writes so; ValueError for any other text. No code is run.

    >>> space_of("Power(SU(3), (2, 2))").shape
    (2, 2, 3, 3)
    """
    import ast

    def made(node):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Tuple):
            return tuple(map(made, node.elts))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            kind = {**_KINDS, "Power": Power}.get(node.func.id)
            if kind:
                return kind(*map(made, node.args))
        raise ValueError(f"{text!r} is no space")

    found = made(ast.parse(text, mode="eval").body)
    if not isinstance(found, Space):
        raise ValueError(f"{text!r} is no space")
    return found


def saved(network: ScoreNetwork) -> tuple[bytes, str]:
    """Weights as safetensors and the description as JSON."""
    from safetensors.torch import save

    tensors = {name: value.detach().float().cpu().contiguous() for name, value in network.state_dict().items()}
    return save(tensors), json.dumps({"format": FORMAT, **network.description._asdict()}, sort_keys=True)


def loaded(weights: bytes, description: str, where: str = "score network") -> ScoreNetwork:
    """The network of weights and a description that fit each other; BadInput for any others. No code is run."""
    try:
        given = json.loads(description)
        if not isinstance(given, Mapping) or given.get("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT!r}")
        described = Description(**{name: given[name] for name in Description._fields})
        if any(type(size) is not int or not 0 < size <= MOST_BYTES for size in (described.prototypes, described.width)):
            raise ValueError(f"numbers must lie between 1 and {MOST_BYTES}")
        if not 0 < described.sigma_min < described.sigma_max < np.inf:
            raise ValueError("the bounds of sigma are no range")
        with torch.device("meta"):
            expected = ScoreNetwork(described).state_dict()
        tensors = checkpoints.fitting(weights, expected, MOST_BYTES)
        with torch.random.fork_rng(devices=[]):  # layers begin at random
            network = ScoreNetwork(described)
    except (ValueError, KeyError, TypeError, SyntaxError, RuntimeError) as error:
        cause = f"has a description or weights that cannot be used ({error})"
        raise BadInput(Problem("HW-RD-010", where, cause, "use the two files that were written together")) from None
    network.load_state_dict(tensors)
    return network.eval()
