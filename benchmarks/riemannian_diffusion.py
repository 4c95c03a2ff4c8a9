"""Diffusion models on spaces beside kernel density estimates and mixtures, in the same run.

HEATWALK_DATA=DATA python benchmarks/riemannian_diffusion.py earth [--printed] [--sets earthquake,flood] [--seeds 3]
python benchmarks/riemannian_diffusion.py torus | torsions | so3 | su3 | sphere | cells | steps

Figures are negative log-likelihoods of test points in nats, for the Riemannian volume: lower is better. All methods of
a row have the same 80% to learn from and 10% to choose by, drawn again by each seed. earth: places once each, unless
`--printed`; adaptive: a kernel density estimate whose width is a multiple of the distance to a near place; beginning:
the network before any training. torsions:
split by protein. so3: mixtures of K heat kernels (and their true density), crystals; su3: importance weights of samples
on a lattice. sphere, cells: digits or a cell type that were not learnt from, against the nearest known point and
Mahalanobis distances. steps: flow and walk by the true score, by evaluations of it.
"""

import argparse
import csv
import gzip
import os
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from heatwalk import outlying, score_flow, score_matching
from heatwalk.baselines import densities, lattice
from heatwalk.baselines.other_kernels import Straight, Walked
from heatwalk.charts import Chart
from heatwalk.riemannian_diffusion import finest_noise
from heatwalk.score_network import Description
from heatwalk.spaces import SO3, SU, Power, Sphere, Torus, so3, sphere


def data(name: str) -> Path:
    return Path(os.environ["HEATWALK_DATA"]) / name


def parts(count: int, seed: int) -> list[np.ndarray]:
    """Rows: 80% to learn from, 10% to choose by, 10% to test."""
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, [int(0.8 * count), int(0.9 * count)])


def fitted(space, known: np.ndarray, given, seed: int, objective: str = "denoising", sigma_min=None, kernel=None):
    """A network trained on eight ninths of the points known, its epoch chosen by the rest; and seconds.

    kernel: a space whose kernel is another one than the heat kernel; of flow matching, noise has no unit.
    """
    began, how = time.time(), Chart(space, "points")
    finest = sigma_min or finest_noise(how, known, seed, None)
    sizes = {"prototypes": score_matching.prototypes(given.prototypes, len(known), 1 / 9), "width": given.width}
    described = Description(repr(space), sigma_min=finest, sigma_max=score_flow.uniform_from(space), **sizes)
    if isinstance(kernel, Straight):
        described = Description(repr(space), prototypes=1, width=given.width, sigma_min=1.0, sigma_max=np.e)
    epochs = 0 if objective == "beginning" else given.epochs
    options = score_matching.Options(objective, given.batch, epochs, given.rate, 1 / 9)
    made = score_matching.trained(kernel or space, known, described, options, seed=seed, threads=1)
    best = f"epoch {made.best} of {len(made.losses)}" if made.best else "the beginning"
    print(f"# {objective}: sigma_min {finest:.4g}, {described.prototypes} prototypes, best {best}", flush=True)
    return made.network, time.time() - began


def nll(network, points: np.ndarray) -> float:
    return -float(score_flow.log_density(network, points, threads=1).mean())


def table(title: str, rows: dict[str, list[float]], seconds: float) -> None:
    shown = ", ".join(
        f"{name} {np.mean(values):.3f}" + (f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
        for name, values in rows.items()
    )
    print(f"| {title} | {shown} | {len(next(iter(rows.values())))} seeds | {seconds:.0f} s a training |", flush=True)


def places(name: str) -> np.ndarray:
    with data(f"earth_{name}.csv").open() as file:
        rows = [row for row in csv.reader(file) if row]
    rows = rows if _is_number(rows[0][0]) else rows[1:]
    return np.array([[float(value) for value in row[:2]] for row in rows])


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit()


def adaptive(known: np.ndarray, points: np.ndarray, how: tuple[int, float]) -> np.ndarray:
    neighbour, factor = how
    apart = 2 * np.arcsin(cKDTree(known).query(known, neighbour + 1)[0][:, -1] / 2)
    kappa = 1 / np.maximum(factor * apart, 1e-4) ** 2
    logs = kappa * (points @ known.T - 1) + np.log(kappa / (2 * np.pi * -np.expm1(-2 * kappa)))
    return logsumexp(logs, axis=1) - np.log(len(known))


def earth(given) -> None:
    for name in given.sets.split(","):
        values = places(name)
        values = values if given.printed else np.unique(values, axis=0)
        points, rows, seconds = sphere.embed(values), {}, 0.0
        for seed in range(given.first, given.first + given.seeds):
            train, chosen, test = (points[part] for part in parts(len(points), seed))
            test = test[: given.tested]
            kappa = densities.best(
                lambda at, width, train=train: densities.von_mises_fisher(train, at, width),
                np.geomspace(3, 1e6, 50),
                chosen,
            )
            found = {"vMF kernels": -densities.von_mises_fisher(train, test, kappa).mean()}
            widths = [(k, f) for k in (2, 3, 5, 10) for f in (0.12, 0.25, 0.5, 0.7, 1.0)]
            width = densities.best(lambda at, width, train=train: adaptive(train, at, width), widths, chosen)
            found["adaptive"] = -adaptive(train, test, width).mean()
            for objective in given.objectives.split(","):
                known = np.concatenate([train, chosen])
                network, seconds = fitted(Sphere(2), known, given, seed, objective, given.sigma_min)
                found[objective] = nll(network, test)
                print("#", name, seed, {key: round(float(value), 3) for key, value in found.items()}, flush=True)
            for key, value in found.items():
                rows.setdefault(key, []).append(value)
        table(f"{name}, {len(points):,} places", rows, seconds)


def residues(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(residue, angle) the first n of phi, psi, chi1 to chi4 in radians, where there are so many; and the proteins."""
    with gzip.open(data("protein_torsions_top8000.csv.gz"), "rt") as file:
        rows = list(csv.DictReader(file))
    names = ("phi", "psi", "chi1", "chi2", "chi3", "chi4")[:n]
    rows = [row for row in rows if all(row[name] for name in names)]
    angles = np.deg2rad(np.array([[float(row[name]) for name in names] for row in rows]))
    return (angles + np.pi) % (2 * np.pi) - np.pi, np.array([row["pdb"] for row in rows])


def torsions(given) -> None:
    for n in map(int, given.angles.split(",")):
        angles, proteins = residues(n)
        rows, seconds = {}, 0.0
        for seed in range(given.seeds):
            names = np.unique(proteins)
            sides = [np.isin(proteins, names[part]) for part in parts(len(names), seed)]
            rng = np.random.default_rng(seed)
            train, chosen, test = (
                angles[rng.permutation(np.flatnonzero(side))[:most]]
                for side, most in zip(sides, (given.points, given.points // 8, given.tested), strict=True)
            )
            space = Torus(n)
            t = densities.best(
                lambda at, t, train=train, space=space: densities.heat_kernels(space, train, at, t),
                np.geomspace(1e-3, 0.3, 12),
                chosen[:300],
            )
            mixtures = [densities.WrappedMixture(train, k, seed=seed) for k in (8, 16, 32, 64)]
            mixture = max(mixtures, key=lambda model: model.log_density(chosen).mean())
            network, seconds = fitted(space, np.concatenate([train, chosen]), given, seed, sigma_min=given.sigma_min)
            found = {"kernels": -densities.heat_kernels(space, train, test, t).mean()}
            found |= {"mixture": -mixture.log_density(test).mean(), "diffusion": nll(network, test)}
            for key, value in found.items():
                rows.setdefault(key, []).append(value)
        table(f"T{n}, {len(train):,} residues", rows, seconds)


def crystals() -> np.ndarray:
    lines = data("so3_ebsd_magnesium_twins.ctf").read_text(errors="replace").splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("Phase\t"))
    rows = np.array([[float(value) for value in line.split("\t")] for line in lines[start + 1 :] if line])
    return so3.embed(rows[rows[:, 0] > 0][:, 5:8]).reshape(-1, 3, 3)


def rotations(given) -> None:
    space = SO3()
    for kind in given.kinds.split(","):
        rows, seconds = {}, 0.0
        for seed in range(given.seeds):
            rng = np.random.default_rng([seed, 1])
            if kind == "crystals":
                points = crystals()
                points = points[rng.permutation(len(points))[: given.points]]
            else:
                centres, t = space.random_point(rng, int(kind)), 0.05
                points = space.sample_heat_kernel(centres[rng.integers(len(centres), size=given.points)], t, rng=rng)
            train, chosen, test = (points[part] for part in parts(len(points), seed))
            width = densities.best(
                lambda at, t, train=train: densities.heat_kernels(space, train, at, t),
                np.geomspace(1e-4, 0.3, 14),
                chosen[:200],
            )
            found = {"kernels": -densities.heat_kernels(space, train, test, width).mean()}
            if kind != "crystals":
                found["truth"] = -densities.heat_kernels(space, centres, test, t).mean()
            network, seconds = fitted(space, np.concatenate([train, chosen]), given, seed, sigma_min=given.sigma_min)
            found["diffusion"] = nll(network, test)
            for key, value in found.items():
                rows.setdefault(key, []).append(value)
        table(f"SO(3), {kind}", rows, seconds)


def torus(given) -> None:
    rng, half = np.random.default_rng(0), np.pi / 2
    cells = rng.integers(8, size=given.points)
    corners = np.stack([cells // 2, 2 * (cells % 2) + (cells // 2) % 2], axis=1) * half - np.pi
    points = corners + half * rng.random((given.points, 2))
    train, chosen, test = (points[part] for part in parts(len(points), 0))
    t = densities.best(
        lambda at, t: densities.heat_kernels(Torus(2), train, at, t), np.geomspace(1e-3, 0.1, 8), chosen[:300]
    )
    network, seconds = fitted(Torus(2), np.concatenate([train, chosen]), given, 0)
    found = {"truth": [np.log(2 * np.pi**2)]}
    found["kernels"] = [-densities.heat_kernels(Torus(2), train, test, t).mean()]
    table("checkerboard on T2", found | {"diffusion": [nll(network, test)]}, seconds)
    if given.picture:
        import matplotlib.pyplot as plt

        grid = np.stack(np.meshgrid(*[np.linspace(-np.pi, np.pi, 100)] * 2), axis=-1).reshape(-1, 2)
        density = np.exp(score_flow.log_density(network, grid)).reshape(100, 100)
        plt.imsave(given.picture, density, origin="lower")


def su3(given) -> None:
    """Effective sample size of importance weights e^{-S} / q, per sample; and what S is on average."""
    shape = tuple(int(part) for part in given.lattice.split("x"))
    links, taken = lattice.gauge_samples(shape, given.beta, given.points, np.random.default_rng(0))
    space = Power(SU(3), (*shape, 2))
    finest, ways = given.sigma_min or 0.1, {"exact": None, "random walk": Walked(space), "flow": Straight(space)}
    for name in given.ways.split(","):
        network, seconds = fitted(space, links, given, 0, sigma_min=finest, kernel=ways[name])
        drawn = score_flow.flowed(network, given.samples, np.random.default_rng(1), 40)
        weights = -lattice.action(drawn, given.beta) - score_flow.log_density(network, drawn, threads=1, exact=True)
        shares = np.exp(weights - logsumexp(weights))
        found = {"ESS": [1 / (shares**2).sum() / len(shares)], "spread of log weights": [weights.std()]}
        found |= {"action": [lattice.action(drawn, given.beta).mean()]}
        found |= {"action of HMC": [lattice.action(links, given.beta).mean()], "HMC taken": [taken]}
        table(f"SU(3), {given.lattice} lattice, beta {given.beta:g}, {name}", found, seconds)


def outliers(title: str, known, labels, usual, unusual, given) -> None:
    """AUROC and FPR at 95% of unit vectors that are unusual: by `heatwalk.outlying`, nearest known point, Mahalanobis
    distance, and with `--density` by the density of a trained network."""
    from sklearn.metrics import roc_auc_score

    space, began = Sphere(known.shape[1] - 1), time.time()
    both = np.concatenate([usual, unusual])
    truth = np.r_[np.zeros(len(usual)), np.ones(len(unusual))]
    left = np.random.default_rng(0).permutation(len(known))[: len(known) // 9]
    kept = np.delete(known, left, axis=0)
    least = finest_noise(Chart(space, "points"), known, 0, None) ** 2
    sizes = {"dimension": space.dimension, "least": least, "most": given.prototypes, "threads": 1}
    scores = {"out of distribution": outlying.unusual(outlying.outlying(kept, known[left], **sizes), both, 1)}
    seconds = time.time() - began
    if given.density:
        network, seconds = fitted(space, known, given, 0, sigma_min=given.sigma_min)
        scores["density"] = -score_flow.log_density(network, both, threads=1)
    for k in (1, 50):
        scores[f"neighbour {k}"] = np.partition(1 - both @ known.T, k - 1, axis=1)[:, k - 1]
    means = np.stack([known[labels == label].mean(0) for label in np.unique(labels)])
    spread = known - means[np.searchsorted(np.unique(labels), labels)]
    precision = np.linalg.pinv(spread.T @ spread / len(spread), hermitian=True)
    across = both[:, None] - means
    scores["Mahalanobis"] = np.einsum("pkd,de,pke->pk", across, precision, across, optimize=True).min(1)
    for name, score in scores.items():
        bound = np.quantile(score[truth == 0], 0.95)
        wrong = (score[truth == 1] <= bound).mean()
        print(f"| {title} | {name} | AUROC {roc_auc_score(truth, score):.4f} | FPR at 95% {wrong:.3f} |", flush=True)
    print(f"# {len(usual)} and {len(unusual)} points, {seconds:.0f} s", flush=True)


def cells(given) -> None:
    with np.load(data("covid_pbmc_stephenson2021_10k_pcs.npz")) as file:
        matrix, types = file["pca"], file["cluster_id"]
    points = matrix.astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    kinds, counts = np.unique(types, return_counts=True)
    most_first = kinds[np.argsort(-counts)][: (counts >= 60).sum()]
    for kind in most_first if given.types == "all" else given.types.split(","):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(types != kind))
        known, usual = rows[: int(0.8 * len(rows))], rows[int(0.8 * len(rows)) :]
        tested = points[usual][: given.tested], points[types == kind][: given.tested]
        outliers(f"without {kind}", points[known], types[known], *tested, given)


def hypersphere(given) -> None:
    import torch
    from torch import nn

    with np.load(data("mnist.npz")) as file:
        arrays = [file[name] for name in file.files]
    images = np.concatenate([a for a in arrays if a.ndim == 3]).astype(np.float32) / 255
    digits = np.concatenate([a for a in arrays if a.ndim == 1]).astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))[: given.points + 4000]
    images, digits = torch.from_numpy(images[order])[:, None], digits[order]
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(32 * 49, 256), nn.ReLU(), nn.Linear(256, 128))
    optimiser, known = torch.optim.Adam(network.parameters(), 1e-3), np.flatnonzero(digits[: given.points] < 5)
    for _ in range(given.updates):  # supervised contrastive loss at temperature .1
        rows = np.random.default_rng(_).choice(known, 256, replace=False)
        made = nn.functional.normalize(network(images[rows]), dim=1)
        logs = (made @ made.T / 0.1).masked_fill(torch.eye(256, dtype=bool), -1e9).log_softmax(1)
        alike = torch.from_numpy(digits[rows][:, None] == digits[rows]) & ~torch.eye(256, dtype=bool)
        loss = -((logs * alike).sum(1) / alike.sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        points = nn.functional.normalize(network(images), dim=1).double().numpy()
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    fresh = np.arange(given.points, len(points))
    usual, unusual = (points[fresh[side]][: given.tested] for side in (digits[fresh] < 5, digits[fresh] >= 5))
    outliers("digits 5 to 9 beside 0 to 4", points[known], digits[known], usual, unusual, given)


def steps(given) -> None:
    """Kolmogorov-Smirnov distance of angles to a point, of points drawn by the true score and of exact draws."""
    import torch
    from scipy.stats import ks_2samp
    from torch import nn

    from heatwalk.score_network import as_points, as_real

    class BrownianScore(nn.Module):  # from one point at the time .1
        def __init__(self, space, centre):
            super().__init__()
            self.space, self.centre = space, centre
            self.description = Description(repr(space), 1, 1, 0.02, score_flow.uniform_from(space))

        def forward(self, x, log_sigma):
            sigma = float(log_sigma.exp())
            points = self.space.project(as_points(self.space, x).numpy())
            return sigma * as_real(torch.from_numpy(self.space.score(self.centre, points, 0.1 + sigma**2)))

    for space in (Torus(1), SO3()):
        rng = np.random.default_rng(0)
        centre = space.random_point(rng)
        network, count = BrownianScore(space, centre), given.points
        exact = space.distance(centre, space.sample_heat_kernel(centre, 0.1 + 0.02**2, rng=rng, size=10 * count))
        for evaluations in (4, 8, 16, 32, 64, 128, 256):
            rows = {"walk": score_flow.walked(network, count, rng, evaluations)}
            rows["flow"] = score_flow.flowed(network, count, rng, evaluations // 4)
            found = {name: ks_2samp(space.distance(centre, points), exact).statistic for name, points in rows.items()}
            shown = " | ".join(f"{name} {value:.4f}" for name, value in found.items())
            print(f"| {space!r} | {evaluations} evaluations | {shown} |", flush=True)


RUNS = {
    "earth": earth, "torus": torus, "torsions": torsions, "so3": rotations, "su3": su3, "sphere": hypersphere,
    "cells": cells, "steps": steps,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--printed", action="store_true", help="the protocol of the papers, duplicates and all")
    parser.add_argument("--sets", default="earthquake,flood,fire,volcano")
    parser.add_argument("--kinds", default="16,32,64,crystals", help="of so3")
    parser.add_argument("--objectives", default="beginning,denoising,sliced", help="of earth")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="seed of earth")
    parser.add_argument("--angles", default="2,3,4,5,6", help="of torsions")
    parser.add_argument("--tested", type=int, default=1000, help="points, at most; of either side, of sphere and cells")
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--prototypes", type=int, default=16384)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=40, help="of 100 updates each")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--sigma-min", type=float, help="by default as the library chooses it")
    parser.add_argument("--lattice", default="2x2")
    parser.add_argument("--beta", type=float, default=3.0)
    parser.add_argument("--ways", default="exact,random walk,flow", help="of su3: from links to noise")
    parser.add_argument("--samples", type=int, default=256, help="of su3, with weights")
    parser.add_argument("--updates", type=int, default=600, help="of the contrastive encoder")
    parser.add_argument("--types", default="CD8,B_cell,NK_16hi", help="held out one at a time; all: of 60 cells")
    parser.add_argument("--density", action="store_true", help="of sphere and cells: train a network, too")
    parser.add_argument("--picture", help="file of the density on the torus")
    given = parser.parse_args()
    RUNS[given.what](given)


if __name__ == "__main__":
    main()
