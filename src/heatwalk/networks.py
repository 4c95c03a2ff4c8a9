"""Networks that stand alone: built from a description, kept as safetensors, run without the data they were made from.

    x --+-- prototypes  softmax_j(b_j - |x - c_j|^2 / (2 s_j^2)) --+
        |                                                          +-- features --- linear --- coordinates
        +-- trunk       residual MLP, or convolutions -------------+

A prototype is a learned place and width: the softmax over them is a kernel row in small, and what is linear in it is a
Nystrom extension through learned landmarks. The trunk sees the shape of the whole. Points enter in their own units:
the network centres and scales them itself.

Of a kernel with one bandwidth all prototypes have one width s, so that far from all of them the nearest decides and not
the widest, and the MLP sees x' = sum_j softmax_j c_j instead of x: like a kernel row, the coordinates change little off
the points and beyond their edge.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from heatwalk.errors import BadInput, Problem

FORMAT = "heatwalk network 1"
MOST_BYTES = 2 * 10**6  # of weights and description together
_HEADER_BYTES = 4096  # of a safetensors file and a description, at the most
_CHANNELS = (16, 32, 64)  # of the convolutions
_MOST_BLOCKS = 64
_KINDS = {"table": 1, "sequence": 2, "image": 3}  # axes of one item


class Description(NamedTuple):
    """All that is needed to build a network, apart from its weights."""

    kind: str  # "table", "sequence" (length, channel) or "image" (height, width, channel)
    item_shape: tuple[int, ...]
    n_components: int
    prototypes: int
    width: int  # of the trunk's features
    blocks: int  # residual blocks of the trunk of a table
    t: int = 1  # diffusion time that the coordinates are for
    one_width: bool = False  # of all prototypes

    @property
    def n_values(self) -> int:
        return int(np.prod(self.item_shape))

    @property
    def n_features(self) -> int:
        return self.prototypes + self.width


class Network(nn.Module):
    """Coordinates of items, (item, n_components), in the units of the points it was trained on."""

    def __init__(self, description: Description):
        super().__init__()
        self.description = description
        self.register_buffer("centre", torch.zeros(description.n_values))
        self.register_buffer("scale", torch.ones(()))
        self.places = nn.Parameter(torch.zeros(description.prototypes, description.n_values))
        self.log_widths = nn.Parameter(torch.zeros(1 if description.one_width else description.prototypes))
        self.biases = nn.Parameter(torch.zeros(description.prototypes))
        self.trunk = _TRUNKS[description.kind](description)
        self.linear = nn.Linear(description.n_features, description.n_components)

    def features(self, points: torch.Tensor) -> torch.Tensor:
        """(item, n_features) of items of any shape with as many values."""
        flat = (points.flatten(1) - self.centre) / self.scale
        near = self._nearness(flat)
        if self.description.one_width and self.description.kind == "table":
            flat = near @ self.places / self.description.prototypes**0.5
        return torch.cat([near, self.trunk(flat)], 1)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(points))

    def _nearness(self, flat: torch.Tensor) -> torch.Tensor:
        """Softmax over the prototypes, times their root: entries of about one where a few of them share an item."""
        # |x - c|^2 / (2 s^2) as one product with (x, |x|^2): every further pass over (item, prototype) takes as long.
        sharpness = torch.exp(-2 * self.log_widths).expand(self.description.prototypes)
        known = torch.cat([flat, (flat * flat).sum(1, keepdim=True)], 1)
        matrix = torch.cat([self.places * sharpness[:, None], -sharpness[:, None] / 2], 1)
        exponents = torch.addmm(-(self.places**2).sum(1) * sharpness / 2, known, matrix.T)
        # Of an item that stands on a narrow prototype far from the centre, rounding can make it positive.
        return torch.softmax(self.biases + exponents.clamp_max(0), 1) * self.description.prototypes**0.5


class _Table(nn.Module):
    """A residual multilayer perceptron."""

    def __init__(self, description: Description):
        super().__init__()
        width = description.width
        self.entry = nn.Linear(description.n_values, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(description.blocks)
        )

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        hidden = self.entry(flat)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return nn.functional.silu(hidden)


class _Convolutions(nn.Module):
    """Convolutions, each on half the length of the one before, and an affine layer on what is left.

    They are computed in single precision whatever that of the network: double takes six times as long on a CPU, and
    what is solved for, the linear layer and the sums of the loss, stays double.
    """

    def __init__(self, description: Description):
        super().__init__()
        *self.lengths, channels = description.item_shape
        layer = nn.Conv2d if len(self.lengths) == 2 else nn.Conv1d
        pairs = zip((channels, *_CHANNELS), _CHANNELS, strict=False)
        self.convolutions = nn.ModuleList(layer(before, after, 3, padding=1) for before, after in pairs)
        left = [-(-length // 2 ** len(_CHANNELS)) for length in self.lengths]
        self.exit = nn.Linear(_CHANNELS[-1] * int(np.prod(left)), description.width)

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        plane = len(self.lengths) == 2
        convolved = nn.functional.conv2d if plane else nn.functional.conv1d
        pooled = nn.functional.avg_pool2d if plane else nn.functional.avg_pool1d
        items = flat.float().reshape(len(flat), *self.lengths, -1).movedim(-1, 1)
        for layer in self.convolutions:
            items = convolved(items, layer.weight.float(), layer.bias.float(), padding=1)
            items = pooled(nn.functional.silu(items), 2, ceil_mode=True)
        return nn.functional.silu(self.exit(items.flatten(1).to(flat.dtype)))


_TRUNKS = {"table": _Table, "sequence": _Convolutions, "image": _Convolutions}


def applied(network: Network, points: np.ndarray) -> np.ndarray:
    """Coordinates of a block of points, (point, n_components) float32."""
    parameter = network.linear.weight
    with torch.inference_mode():
        values = torch.from_numpy(np.require(points, np.float32, ["C", "W"])).to(parameter.device, parameter.dtype)
        return network(values).float().cpu().numpy()


def saved(network: Network) -> tuple[bytes, str]:
    """Weights as safetensors, in single precision, and the description as JSON; BadInput above 2 MB."""
    from safetensors.torch import save

    tensors = {name: value.detach().float().cpu().contiguous() for name, value in network.state_dict().items()}
    weights = save(tensors)
    description = json.dumps({"format": FORMAT, **network.description._asdict()}, sort_keys=True)
    if len(weights) + len(description) > MOST_BYTES:
        cause = f"the network takes {len(weights) + len(description)} bytes, the bound is {MOST_BYTES}"
        raise BadInput(Problem("HW-NN-001", "network", cause, "give fewer prototypes, or points of fewer dimensions"))
    return weights, description


def loaded(weights: bytes, description: str, where: str = "network") -> Network:
    """The network of weights and a description that fit each other; BadInput for any others. No code is run."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    with torch.random.fork_rng(devices=[]):  # layers begin at random
        network = Network(described(description, where))
    if len(weights) > MOST_BYTES:
        raise _unfit(where, f"weights of {len(weights)} bytes, the bound is {MOST_BYTES}")
    try:
        tensors = load(bytes(weights))
    except (SafetensorError, ValueError, KeyError) as error:
        raise _unfit(where, f"weights that are not safetensors ({error})") from None
    expected = network.state_dict()
    for name in sorted(set(tensors) | set(expected)):
        there, wanted = (_shape(values.get(name)) for values in (tensors, expected))
        if there != wanted:
            raise _unfit(where, f"{name} of shape {there}, the description says {wanted}")
        if not tensors[name].isfinite().all():
            raise _unfit(where, f"{name} with values that are not finite")
    network.load_state_dict(tensors)
    return network.eval()


def _shape(tensor: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _unfit(where: str, cause: str) -> BadInput:
    return BadInput(Problem("HW-NN-002", where, f"has {cause}", "use the two files that were written together"))


def described(text: str, where: str) -> Description:
    """A description whose every number is within bounds: what it asks for cannot exceed memory."""
    try:
        given = json.loads(text)
        if not isinstance(given, Mapping) or given.get("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT!r}")
        given = {"one_width": False, **given}  # descriptions of 0.1 do not say
        fields = {name: given[name] for name in Description._fields}
        fields["item_shape"] = tuple(fields["item_shape"])
        numbers = [*fields["item_shape"], *(fields[name] for name in Description._fields[2:-1])]
        if type(fields["one_width"]) is not bool:
            raise ValueError("one_width must be true or false")
        if any(type(number) is not int or not 0 < number <= MOST_BYTES for number in numbers):
            raise ValueError(f"numbers must lie between 1 and {MOST_BYTES}")
        description = Description(**fields)
        if description.blocks > _MOST_BLOCKS:
            raise ValueError(f"{description.blocks} blocks, the bound is {_MOST_BLOCKS}")
        if len(description.item_shape) != _KINDS[description.kind]:
            raise ValueError(f"an item of a {description.kind} has {_KINDS[description.kind]} axes")
    except (ValueError, KeyError, TypeError) as error:
        raise _unfit(where, f"a description that cannot be used ({error})") from None
    if _n_weights(description) * 4 > MOST_BYTES:
        raise _unfit(where, f"a description of {_n_weights(description)} weights, the bound is {MOST_BYTES // 4}")
    return description


def _n_weights(description: Description) -> int:
    """How many numbers the network holds, counted without making it."""
    with torch.device("meta"):
        return sum(value.numel() for value in Network(description).state_dict().values())


def most_prototypes(description: Description) -> int:
    """How many prototypes fit the bound on the size of a network, so many being asked for."""
    fixed = _n_weights(description._replace(prototypes=1))
    each = _n_weights(description._replace(prototypes=2)) - fixed
    return max(1, min(description.prototypes, 1 + ((MOST_BYTES - _HEADER_BYTES) // 4 - fixed) // each))
