"""Weighted least squares for the coordinates of a network, in shards: the same bits on any number of threads.

    loss = sum_i w_i sum_k m_k (f_k(x_i) - y_ik)^2

The linear layer is fitted in coordinates in which its inputs are orthonormal (`basis`): without them the problem is as
ill-conditioned as the features are alike, and neither Adam nor L-BFGS moves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from heatwalk import compute
from heatwalk.networks import Network

_SHARD = 512  # items whose gradient one thread computes
BATCH = 4096  # items of a step of Adam
_RATE = 2e-3  # of Adam, at the start of a round
_HISTORY = 20  # pairs that L-BFGS keeps


class Regression(NamedTuple):
    points: torch.Tensor  # (item, value)
    targets: torch.Tensor  # (item, mode)
    weights: torch.Tensor  # (item,), of sum 1
    metric: torch.Tensor  # (mode,)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """torch on one thread, as before afterwards: its parallel sums differ in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Head:
    """The linear layer of a network as `basis` times free values, for the time of a fit."""

    def __init__(self, network: Network, basis: np.ndarray, coefficients: np.ndarray):
        like = network.linear.weight
        self.network = network
        self.basis = torch.tensor(basis, dtype=like.dtype, device=like.device)
        # The basis has orthonormal columns in the weighted features, not in the plain ones: least squares finds it.
        values = np.linalg.lstsq(basis, coefficients, rcond=None)[0]
        self.values = torch.tensor(values, dtype=like.dtype, device=like.device, requires_grad=True)

    @property
    def parameters(self) -> list[torch.Tensor]:
        linear = {id(parameter) for parameter in self.network.linear.parameters()}
        return [self.values, *(p for p in self.network.parameters() if id(p) not in linear)]

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        features = self.network.features(points)
        coefficients = self.basis @ self.values
        return features @ coefficients[:-1] + coefficients[-1]


def gradient(head: Head, given: Regression, rows: torch.Tensor, workers: compute.Workers) -> float:
    """Put the gradient of the loss of some rows in the parameters; the loss."""
    parameters = head.parameters

    def shard(part: torch.Tensor) -> tuple[torch.Tensor, ...]:
        errors = (head(given.points[part]) - given.targets[part]) ** 2
        loss = ((errors * given.metric).sum(1) * given.weights[part]).sum()
        return loss.detach(), *torch.autograd.grad(loss, parameters)

    # A GPU computes all at once; shards are what makes CPUs agree whatever their number.
    length = _SHARD if given.points.device.type == "cpu" else len(rows)
    total, *slopes = _summed(workers.in_order(shard, rows.split(length)))
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad = slope.contiguous()  # L-BFGS takes views of them
    return float(total)


def _summed(parts) -> list[torch.Tensor]:
    """Sum in the order given."""
    total = [part.clone() for part in next(parts)]
    for part in parts:
        for sum_, value in zip(total, part, strict=True):
            sum_ += value
    return total


def by_newton(head: Head, given: Regression, steps: int, workers: compute.Workers) -> None:
    """L-BFGS with a Wolfe line search on all rows."""
    options = {"history_size": _HISTORY, "line_search_fn": "strong_wolfe"}
    exact = {"tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimiser = torch.optim.LBFGS(head.parameters, max_iter=steps, **options, **exact)
    rows = torch.arange(len(given.points))

    def closure() -> float:
        return gradient(head, given, rows, workers)

    optimiser.step(closure)


def cool(optimiser: torch.optim.Optimizer, rate: float, part: float) -> None:
    """The rate of a step when so large a part of all is done: from `rate` to nothing along a cosine."""
    for group in optimiser.param_groups:
        group["lr"] = rate * (1 + np.cos(np.pi * part)) / 2


def by_batches(
    head: Head, given: Regression, steps: int, generator: np.random.Generator, workers: compute.Workers
) -> Iterator[int]:
    """Adam on batches in random order, the rate falling to nothing along a cosine; yields after every step."""
    optimiser = torch.optim.Adam(head.parameters, lr=_RATE)
    n_items, left = len(given.points), torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(left) < min(BATCH, n_items):
            left = torch.from_numpy(generator.permutation(n_items))
        rows, left = left[:BATCH], left[BATCH:]
        cool(optimiser, _RATE, step / steps)
        gradient(head, given, rows, workers)
        # The gradient of a batch stands for that of all items.
        for parameter in head.parameters:
            parameter.grad *= n_items / len(rows)
        optimiser.step()
        yield step
