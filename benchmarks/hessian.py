"""What does diffusion on sampled losses tell of the Hessian of a trained network, beside a direct fit and Lanczos?

    python benchmarks/hessian.py [--part quadrics networks]         MNIST from HEATWALK_DATA

First table: held-out quadrics by dimension, of the law trained on and of the paper's; relative error of the Hessian and
of its largest eigenvalue by the quadric network (one pass: moments of the walk alone; three passes) and by the direct
fit, without noise and with noise of a tenth of the heights; and the error of always saying 0, the mean of either law.
Second table: five trained networks, losses on shells in subspaces of five dimensions; the three largest
eigenvalues of the Hessian by Lanczos, of the Hessian in the subspace, by the quadric network and by the fit, with the
relative errors of both, and of a fit of the two inner shells, beside the Hessian in the subspace; and the share of the
heights that the fit of all shells leaves.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from heatwalk import loss_landscape, quadrics

DATA = Path(os.environ.get("HEATWALK_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
DIMENSIONS = (2, 3, 5, 8)
DIMENSION = 5  # of the subspaces of the second table
IMAGES = 500  # that networks are trained on, and that all losses are of
RADII, POINTS = np.array([0.2, 0.4, 0.6, 0.8, 1.0]), 60  # of the shells
LARGEST = (0.03, 0.3)  # radii of the outermost shell, in units of the parameters


# ---- quadrics ------------------------------------------------------------------------------------------------------


def papers(dimension: int, number: int, draws: torch.Generator) -> torch.Tensor:
    """Hessians of z = x'Ax with entries of A uniform on (-1, 1), symmetrised."""
    entries = torch.rand(number, dimension, dimension, generator=draws, dtype=torch.float64) * 2 - 1
    return entries + entries.transpose(1, 2)


def errors(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Relative error of a Hessian, and of its largest eigenvalue in units of the largest in magnitude."""
    values, expected = np.linalg.eigvalsh(found), np.linalg.eigvalsh(true)
    return np.linalg.norm(found - true) / np.linalg.norm(true), abs(values[-1] - expected[-1]) / np.abs(expected).max()


def by_dimension(dimension: int, number: int) -> None:
    """Rows of the first table."""
    draws = torch.Generator().manual_seed(1000)
    networks = [quadrics.trained(dimension, radii=RADII, points=POINTS, passes=passes) for passes in (1, 3)]
    for law, make in (("trained on", quadrics.random_hessians), ("paper's", papers)):
        hessians = make(dimension, number, draws)
        for noise in (0.0, 0.1):
            off = []
            for hessian in hessians:
                x = quadrics.shells(dimension, RADII, POINTS, draws)
                z = ((x @ hessian) * x).sum(1) / 2
                z[1:] += noise * (z**2).mean().sqrt() * torch.randn(len(z) - 1, generator=draws, dtype=torch.float64)
                made, unit = quadrics.cloud(x, z)
                with torch.no_grad():
                    found = [unit * network(made).numpy() for network in networks]
                found += [quadrics.direct(x, z).hessian, np.zeros_like(hessian)]
                off.append([errors(each, hessian.numpy()) for each in found])
            means = [f"{value:.2g}" for value in np.mean(off, axis=0).ravel()]
            print(f"| {dimension} | {law} | {noise:.0%} | {' | '.join(means[:6])} | {means[7]} |", flush=True)


# ---- networks ------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Three pairs of convolutions on 4 channels of 7 x 7, with or without skips, no normalisation."""

    def __init__(self, skips: bool):
        super().__init__()
        self.skips, self.stem, self.head = skips, nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(196, 10)
        self.pairs = nn.ModuleList([nn.ModuleList([nn.Conv2d(4, 4, 3, 1, 1) for _ in range(2)]) for _ in range(3)])
        if not skips:  # as torch begins, signals die away and nothing is learned
            draws = torch.Generator().manual_seed(8)
            for weights in (values for values in self.parameters() if values.ndim == 4):
                nn.init.kaiming_normal_(weights, nonlinearity="relu", generator=draws)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = torch.relu(self.stem(images))
        for first, second in self.pairs:
            bent = second(torch.relu(first(values)))
            values = torch.relu(values + bent if self.skips else bent)
        return self.head(values.flatten(1))


def networks() -> dict[str, nn.Module]:
    """Five networks on 14 x 14 images (28 x 28 for perceptrons), with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        perceptron = (nn.Flatten(), nn.Linear(784, 40, bias=False), nn.ReLU(), nn.Linear(40, 10, bias=False))
        convolutions = (nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        return {
            "perceptron": nn.Sequential(*perceptron),
            "convolutions": nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 10)),
            "residual, skips": Residual(True),
            "residual, no skips": Residual(False),
            "perceptron, tanh": nn.Sequential(
                nn.Flatten(), nn.Linear(784, 40, bias=False), nn.Tanh(), nn.Linear(40, 10, bias=False)
            ),
        }


def trained(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> nn.Module:
    """SGD with momentum .9, batches of 32, the rate .05 falling to nothing; in double precision afterwards."""
    draws = torch.Generator().manual_seed(8)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=draws).split(32):
            optimiser.zero_grad()
            functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
        schedule.step()
    return network.double().eval()


def subspaces(network, images, labels, loss, centre) -> dict[str, np.ndarray]:
    """Two subspaces that need no second derivative: leading slopes of the loss of each class, and one at random."""
    of_class = [labels == label for label in range(10)]
    classes = [
        loss_landscape.loss_function(network, functional.cross_entropy, images[rows], labels[rows]) for rows in of_class
    ]
    left, _, _ = np.linalg.svd(loss_landscape.slopes(classes, centre), full_matrices=False)
    return {
        "slopes of classes": left[:, :DIMENSION],
        "random": loss_landscape.random_directions(len(centre), DIMENSION),
    }


def leading(values: np.ndarray) -> str:
    return " ".join(f"{value:.3g}" for value in values[:3])


def measured(name: str, network: nn.Module, quadric_network, images, labels, epochs: int) -> None:
    """Rows of the second table."""
    small = functional.avg_pool2d(images, 2) if not name.startswith("perceptron") else images
    network = trained(network, small, labels, epochs)
    held = small.double(), labels
    loss = loss_landscape.loss_function(network, functional.cross_entropy, *held)
    centre = loss_landscape.parameters(network)
    slope, value = float(torch.func.grad(loss)(centre).norm()), float(loss(centre))
    started = time.perf_counter()
    spectrum = loss_landscape.lanczos(loss, centre, modes=DIMENSION, tolerance=1e-4)
    print(
        f"{name}: {len(centre)} parameters of norm {float(centre.norm()):.1f}, loss {value:.4f}, slope {slope:.1e}; "
        f"residual {spectrum.residuals.max():.0e}, {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    for kind, basis in {"Lanczos": spectrum.vectors, **subspaces(network, *held, loss, centre)}.items():
        true = loss_landscape.restricted(loss, centre, basis)
        for largest in LARGEST:
            samples = loss_landscape.sample(loss, centre, largest * RADII, points=POINTS, directions=basis)
            found = quadrics.estimate(quadric_network, *samples)
            fit = quadrics.direct(*samples)
            inner = quadrics.direct(*(values[: 1 + 2 * POINTS] for values in samples))
            tops = [leading(np.linalg.eigvalsh(each)[::-1]) for each in (true, found, fit.hessian)]
            off = [f"{errors(each, true)[0]:.3f}" for each in (found, fit.hessian, inner.hessian)]
            cells = [name, leading(spectrum.values), kind, f"{largest:g}", *tops, *off, f"{fit.residual:.1g}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def landscapes(epochs: int) -> None:
    data = np.load(DATA / "mnist.npz")
    images = torch.from_numpy(data["X_train"][:IMAGES, None].astype(np.float32) / 255)
    labels = torch.from_numpy(data["y_train"][:IMAGES].astype(np.int64))
    quadric_network = quadrics.trained(DIMENSION, radii=RADII, points=POINTS)
    print(
        "| trained | Lanczos | subspace | radius | Hessian there | network | fit | error | of fit | inner fit | left |"
    )
    print("|---" * 11 + "|", flush=True)
    for name, network in networks().items():
        measured(name, network, quadric_network, images, labels, epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Hessians from diffusion on sampled losses, beside a fit and Lanczos.")
    parser.add_argument("--part", nargs="+", choices=["quadrics", "networks"], default=["quadrics", "networks"])
    parser.add_argument("--number", type=int, default=50, help="held-out quadrics of a row")
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "quadrics" in options.part:
        print("| dimension | law | noise | one pass | largest | three passes | largest | fit | largest | of 0 |")
        print("|---" * 10 + "|", flush=True)
        for dimension in DIMENSIONS:
            by_dimension(dimension, options.number)
    if "networks" in options.part:
        landscapes(options.epochs)


if __name__ == "__main__":
    main()
