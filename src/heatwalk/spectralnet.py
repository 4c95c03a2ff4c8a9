"""spectralnet: a network whose outputs are leading eigenvectors of diffusion on batches, made orthogonal in each."""

from typing import NamedTuple

import numpy as np
import torch

from heatwalk import fitting
from heatwalk.errors import BadInput, Problem
from heatwalk.networks import Network
from heatwalk.progress import track
from heatwalk.training import description, placed

_BATCH = 1024
_LAST_BATCHES = 16  # that the eigenvalues, and the turn of the outputs, are taken from
_WIDTH = 1.4  # of the prototypes, of what they are apart
_RATE, _UPDATES = 1e-3, 600
_RIDGE = 1e-6  # of the mean variance of the outputs
_LEAST_POWER = 1e-5  # lambda^t of the last component over that of the first


class SpectralNet(NamedTuple):
    network: Network  # lambda^t psi
    eigenvalues: np.ndarray  # (mode,), of the batches' walk


def spectralnet(
    samples: np.ndarray,
    *,
    n_components: int,
    t: int = 1,
    prototypes: int = 384,
    n_neighbors: int = 30,
    share: float = 1.0,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
) -> SpectralNet:
    """Coordinates by a network trained on batches of points alone: no graph of all of them is made.

        maximise  tr( (F' D F)^-1 F' W F ),  F the outputs on a batch, less their mean by D

    W: Gaussian kernel of the batch with half the distance to a near neighbour as bandwidth, divided by the product of
    densities (alpha = 1); D its row sums. Whatever the last layer, the trace is that of the outputs made orthonormal by
    a Cholesky factor, through which the gradient passes; 1 of the trivial eigenvector is left out. Its greatest value
    is the sum of the leading eigenvalues, reached by any turn of the eigenvectors: afterwards the turn that
    diagonalises W, summed over 16 batches, and lambda^t are taken into the last layer.
    n_neighbors: the near neighbour's number if the batch were `share` of all points of the graph it stands for.
    Raises BadInput where lambda^t falls below 1e-5 of the first.
    Source: Shaham et al., SpectralNet: spectral clustering using deep neural networks, arXiv 1801.01587.
    """
    described = description(samples.shape, "table", n_components, prototypes, t)
    generator = np.random.default_rng([seed, 3])
    network, widths = placed(samples, described, seed, generator, threads)
    size = min(_BATCH, len(samples))
    near = int(np.clip(round(n_neighbors * share), min(8, size - 1), size - 1))
    with fitting.one_torch_thread():
        with torch.no_grad():
            network.log_widths.copy_(torch.from_numpy(np.log(_WIDTH * widths)))
        network = network.to(device)
        optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
        for update in track(range(_UPDATES), "random_walk: spectralnet", _UPDATES):
            fitting.cool(optimiser, _RATE, update / _UPDATES)
            inner, mapped, _ = _forms(network, _batch(samples, size, generator, device), near)
            loss = -torch.linalg.solve(inner, mapped).trace()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        values = _turned(network, samples, size, near, generator, device)
    return SpectralNet(network.cpu(), values)


def _batch(samples: np.ndarray, size: int, generator: np.random.Generator, device: str) -> torch.Tensor:
    rows = np.sort(generator.choice(len(samples), size, replace=False))
    return torch.from_numpy(np.require(samples[rows], np.float32, ["C", "W"])).to(device)


def _forms(network: Network, points: torch.Tensor, near: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """F' D F and F' W F of a batch, of degrees that sum to 1, with a ridge; and the mean of the outputs by D."""
    with torch.no_grad():
        apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        width = apart.kthvalue(near + 1, dim=1).values.clamp_min(1e-12) / 2
        kernel = torch.exp(-(apart**2) / (2 * width[:, None] * width))
        density = kernel.sum(1)
        kernel = kernel / (density[:, None] * density)
        kernel = kernel / kernel.sum()
        degrees = kernel.sum(1)
    outputs = network(points)
    mean = degrees @ outputs
    outputs = outputs - mean
    inner, mapped = outputs.T @ (outputs * degrees[:, None]), outputs.T @ (kernel @ outputs)
    ridge = _RIDGE * torch.diagonal(inner).mean().detach() * torch.eye(len(inner)).to(inner)
    return inner + ridge, mapped, mean


@torch.no_grad()
def _turned(network: Network, samples: np.ndarray, size: int, near: int, generator, device: str) -> np.ndarray:
    """Take the turn of the eigenvectors, and lambda^t, into the last layer; the eigenvalues."""
    import scipy.linalg

    forms = [_forms(network, _batch(samples, size, generator, device), near) for _ in range(_LAST_BATCHES)]
    inner, mapped, mean = (sum(f[n].double().cpu().numpy() for f in forms) / len(forms) for n in range(3))
    values, vectors = scipy.linalg.eigh((mapped + mapped.T) / 2, (inner + inner.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    t = network.description.t
    powers = np.maximum(values, 0) ** t
    there = int((powers > _LEAST_POWER * max(powers[0], 0)).sum())
    if there < len(values):
        cause = f"at t {t} only {there} of {len(values)} components have lambda^t above {_LEAST_POWER:g} of the first"
        remedy = f"set t to less, or n_components to {there}" if there else "set t to less"
        raise BadInput(Problem("HW-RW-004", "n_components", cause, remedy))
    turn = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))] < 0, -1, 1) * powers
    turn, mean = (torch.from_numpy(np.ascontiguousarray(part)).to(network.linear.weight) for part in (turn, mean))
    network.linear.weight.copy_(turn.T @ network.linear.weight)
    network.linear.bias.copy_((network.linear.bias - mean) @ turn)
    return values.copy()
