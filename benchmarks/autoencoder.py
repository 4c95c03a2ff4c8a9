"""What does DiffusionLoss do to an autoencoder: latent distances beside diffusion distances, with it and without?

    python benchmarks/autoencoder.py [--epochs 20] [--factor 0.05] [--picture FILE]        data from HEATWALK_DATA

50,674 cells of a differentiation time course, ten markers. An autoencoder with three latent dimensions is trained on
nine tenths of them, once on its reconstruction alone and once with `factor` times DiffusionLoss (t = 2) of the latent.
Of the tenth held out: the share of the variance that is reconstructed; the relative error of latent distances beside
diffusion distances, after the best common scale; the rank correlation of both; and how often 15 neighbours in the
latent tell the day.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import heatwalk as hw
from heatwalk.diffusion_loss import DiffusionLoss

DATA = Path(os.environ.get("HEATWALK_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
MARKERS = ("CD43", "CD34", "CD90", "CD45RA", "CD31", "CD49f", "CD73", "CD45", "FLK1", "CD38")
LATENT, T, BATCH, RATE = 3, 2, 1024, 2e-3
COMPARED = 1500  # cells held out, all of whose distances are compared


class Autoencoder(nn.Module):
    def __init__(self, n_values: int):
        super().__init__()
        self.encoder, self.decoder = _layers(n_values, LATENT), _layers(LATENT, n_values)

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent = self.encoder(values)
        return latent, self.decoder(latent)


def _layers(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, after))


def cells() -> tuple[np.ndarray, np.ndarray]:
    """arcsinh of the markers, each with variance 1, and the day of every cell."""
    data = np.load(DATA / "hues9_timecourse.npz")
    chosen = [
        list(data["channels"].astype(str)).index(name) for name in MARKERS if name in data["channels"].astype(str)
    ]
    values = np.arcsinh(data["X"][:, chosen].astype(np.float64) / 150)
    return ((values - values.mean(axis=0)) / values.std(axis=0)).astype(np.float32), data["day"]


def trained(
    values: np.ndarray, train: np.ndarray, diffusion: DiffusionLoss | None, factor: float, epochs: int, seed: int
):
    """An autoencoder; `diffusion` is of the train cells alone."""
    generator, points = np.random.default_rng(seed), torch.from_numpy(values[train])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(values.shape[1])
    optimiser, steps = torch.optim.Adam(model.parameters(), lr=RATE), epochs * len(points) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = generator.choice(len(points), BATCH, replace=False)
        latent, decoded = model(points[rows])
        loss = ((decoded - points[rows]) ** 2).mean()
        if diffusion is not None:
            loss = loss + factor * diffusion(latent, rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def compared(model: Autoencoder, values: np.ndarray, days: np.ndarray, held: np.ndarray, true: np.ndarray) -> tuple:
    """Figures of the cells held out; true: (held cell, mode) their diffusion coordinates."""
    with torch.inference_mode():
        latent, decoded = (made.numpy().astype(np.float64) for made in model(torch.from_numpy(values)))
    lost = ((decoded[held] - values[held]) ** 2).sum() / ((values[held] - values[held].mean(axis=0)) ** 2).sum()
    some = np.random.default_rng(0).choice(len(held), min(COMPARED, len(held)), replace=False)
    distances, expected = pdist(latent[held[some]]), pdist(true[some])
    scale = np.median(expected / distances)
    error = np.abs(scale * distances - expected) / expected
    known = np.setdiff1d(np.arange(len(values)), held)
    day = KNeighborsClassifier(15).fit(latent[known], days[known]).score(latent[held], days[held])
    return 1 - lost, float(error.mean()), float(spearmanr(distances, expected).statistic), day, latent


def drawn(latents: dict[str, np.ndarray], days: np.ndarray, path: Path) -> None:
    """The first two latent directions of both, coloured by day."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(latents), figsize=(5 * len(latents), 5))
    order = np.random.default_rng(0).permutation(len(days))
    for plot, (name, latent) in zip(axes, latents.items(), strict=True):
        turned = latent - latent.mean(axis=0)
        turned = turned @ np.linalg.svd(turned, full_matrices=False)[2].T
        plot.scatter(*turned[order, :2].T, c=days[order], s=1, cmap="viridis")
        plot.set_title(name)
        plot.set_axis_off()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="An autoencoder with and without DiffusionLoss.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--factor", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    values, days = cells()
    held = np.sort(np.random.default_rng(given.seed).choice(len(values), len(values) // 10, replace=False))
    train = np.setdiff1d(np.arange(len(values)), held)
    affinity = hw.affinity(values[train], hw.neighbors(values[train]))
    whole = hw.affinity(values, hw.neighbors(values))
    exact = hw.diffusion_map(whole, n_components=LATENT)
    true = (np.asarray(exact.eigenvectors) * np.asarray(exact.eigenvalues) ** T)[held]
    print(
        "| loss | variance reconstructed | error of distances | rank correlation | day by 15 neighbours |\n"
        + "|---" * 5
        + "|"
    )
    latents = {}
    for name, loss in (("reconstruction", None), ("and DiffusionLoss", DiffusionLoss(affinity, T))):
        model = trained(values, train, loss, given.factor, given.epochs, given.seed)
        *figures, latents[name] = compared(model, values, days, held, true)
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |", flush=True)
    if given.picture:
        drawn(latents, days, given.picture)


if __name__ == "__main__":
    main()
