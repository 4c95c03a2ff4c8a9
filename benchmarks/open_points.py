"""What the paper on deep diffusion maps leaves open: how t and d, batches, and places off the data change the error.

    python benchmarks/open_points.py [times] [batches] [away]

times: S curve, 500 train and 500 test points, for t of 1, 4, 16 and 100: two components, and as many as the profile
likelihood of lambda^t chooses. `left out` is the error of the exact map with so many components beside one with 100:
no network of so many outputs can do better.
batches: swiss roll, t = 1, where eigenvalues are flat: a plain perceptron trained with DiffusionLoss on batches, the
same number of cells seen, beside the stage, with all pairs in every step. `energy`: the share of the most there is.
away: points of the swiss roll moved off it by growing distances, in units of the bandwidth: how far the network and
Nystrom put them from the exact place of the point they come from, in units of the map's radius, beside trust.
The cost beside Nystrom and the eigendecomposition is `benchmarks/landing.py --cells 1000 10000 100000 --new 100000`.
"""

import argparse
import time

import numpy as np
import torch
from deep_diffusion_map import PROTOCOLS, Protocol, dense, halves
from scipy.spatial.distance import pdist
from torch import nn

import heatwalk as hw
from heatwalk import networks
from heatwalk.diffusion_loss import DiffusionLoss
from heatwalk.diffusion_map import profile_likelihood

MANY = 100  # components that stand for all
SEEN = 50_000  # cells in all batches together
RATE = 3e-3
OFF = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


def bandwidth(points: np.ndarray, protocol: Protocol) -> float:
    return float(np.quantile(pdist(points), protocol.quantile))


def places(map_, t: int, n_components: int) -> np.ndarray:
    """(cell, mode) lambda^t psi."""
    return np.asarray(map_.eigenvectors)[:, :n_components] * np.asarray(map_.eigenvalues)[:n_components] ** t


def cut(map_, n_components: int):
    """The map with its first components alone."""
    short = {name: np.asarray(getattr(map_, name))[..., :n_components] for name in ("eigenvectors", "eigenvalues")}
    return map_._replace(**short)


def times() -> None:
    protocol, (train, test) = PROTOCOLS["s_curve"], halves("s_curve")
    train, test = train[:500], test[:500]
    width, many = bandwidth(train, protocol), protocol._replace(n_components=MANY)
    joint, reference = dense(np.concatenate([train, test]), width, many).map, dense(train, width, many)
    print("| t | components | left out | network, test | Nystrom, test | seconds |\n" + "|---" * 6 + "|", flush=True)
    for t in (1, 4, 16, 100):
        likely = profile_likelihood(np.asarray(reference.map.eigenvalues)[:50] ** t)[0]
        for d in dict.fromkeys((2, max(1, int(likely)))):
            expected, started = places(joint, t, d)[len(train) :], time.perf_counter()
            found = hw.deep_diffusion_map(train, reference.affinity, n_components=d, t=t, measure=False)
            seconds = time.perf_counter() - started
            nystrom = hw.extension(reference._replace(map=cut(reference.map, d)), test, t=t).coordinates
            left = hw.distance_error(expected, places(joint, t, MANY)[len(train) :])[0]
            network = hw.distance_error(networks.applied(found.network, test).astype(float), expected)[0]
            nystrom = hw.distance_error(nystrom.astype(float), expected)[0]
            chosen = " (2)" if d == 2 else " (likelihood)"
            print(f"| {t} | {d}{chosen} | {left:.3f} | {network:.4f} | {nystrom:.4f} | {seconds:.0f} |", flush=True)


def by_batches(train: np.ndarray, diffusion: DiffusionLoss, batch: int, seed: int = 0) -> nn.Module:
    """The authors' perceptron, trained on batches until SEEN cells were seen."""
    generator, points = np.random.default_rng(seed), torch.from_numpy((train / train.std()).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [layer for i, o in ((3, 128), (128, 64), (64, 32)) for layer in (nn.Linear(i, o), nn.ReLU())]
        model = nn.Sequential(*layers, nn.Linear(32, 2))
    optimiser, steps = torch.optim.Adam(model.parameters(), lr=RATE), SEEN // batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = generator.choice(len(points), batch, replace=False)
        loss = diffusion(model(points[rows]), rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def batches() -> None:
    protocol, (train, test) = PROTOCOLS["swiss_roll"]._replace(t=1), halves("swiss_roll")
    width = bandwidth(train, protocol)
    joint, reference = dense(np.concatenate([train, test]), width, protocol).map, dense(train, width, protocol)
    expected, values = places(joint, 1, 2)[len(train) :], np.asarray(reference.map.eigenvalues)
    print(f"eigenvalues {values.round(4)}\n| trained | steps | energy | network, test | seconds |\n" + "|---" * 5 + "|")
    diffusion, scale = DiffusionLoss(reference.affinity, t=1), train.std()
    root = np.sqrt(np.asarray(reference.affinity.degrees) / np.sum(reference.affinity.degrees))
    for batch in (50, 200, 1000):
        started = time.perf_counter()
        model = by_batches(train, diffusion, batch)
        seconds = time.perf_counter() - started
        with torch.inference_mode():
            own, away = (model(torch.from_numpy((half / scale).astype(np.float32))).numpy() for half in (train, test))
        # Of coordinates that are free to be short or long: how much of T is in their span.
        space = np.linalg.qr(own.astype(float) * root[:, None])[0]
        vectors = np.asarray(reference.map.eigenvectors) * root[:, None]
        share = ((space.T @ vectors * values) ** 2).sum() / (values**2).sum()
        error = hw.distance_error(away.astype(float), expected)[0]
        print(f"| batches of {batch} | {SEEN // batch:,} | {share:.4f} | {error:.4f} | {seconds:.0f} |", flush=True)
    started = time.perf_counter()
    found = hw.deep_diffusion_map(train, reference.affinity, n_components=2, t=1, measure=False)
    share = (np.asarray(found.eigenvalues) ** 4).sum() / (values**4).sum()
    error = hw.distance_error(networks.applied(found.network, test).astype(float), expected)[0]
    rounds, seconds = found.energy.shape[0] - 1, time.perf_counter() - started
    print(f"| the stage | {rounds} rounds | {share:.4f} | {error:.4f} | {seconds:.0f} |", flush=True)


def normals(points: np.ndarray) -> np.ndarray:
    """Of the swiss roll (t cos t, height, t sin t)."""
    t = np.hypot(points[:, 0], points[:, 2])
    along = np.column_stack([np.cos(t) - t * np.sin(t), np.sin(t) + t * np.cos(t)])
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return np.column_stack([along[:, 1], np.zeros(len(t)), -along[:, 0]])


def away() -> None:
    protocol, (train, test) = PROTOCOLS["swiss_roll"], halves("swiss_roll")
    width, t = bandwidth(train, protocol), protocol.t
    joint, reference = dense(np.concatenate([train, test]), width, protocol).map, dense(train, width, protocol)
    expected = places(joint, t, 2)
    found = hw.deep_diffusion_map(train, reference.affinity, n_components=2, t=t, measure=False)

    def turned(coordinates: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Onto the exact map, by the rotation that is best for the train half."""
        left, _, right = np.linalg.svd(own.T @ expected[: len(train)])
        return coordinates @ left @ right

    radius = np.sqrt((expected**2).sum(axis=1).mean())
    print("| off, bandwidths | network | Nystrom | trust, median | below .05 |\n" + "|---" * 5 + "|", flush=True)
    for distance in OFF:
        moved = test + distance * width * normals(test)
        placed = hw.extension(reference, moved, t=t)
        network = turned(networks.applied(found.network, moved).astype(float), np.asarray(found.coordinates, float))
        nystrom = turned(np.asarray(placed.coordinates, float), places(reference.map, t, 2))
        errors = (np.linalg.norm(each - expected[len(train) :], axis=1).mean() / radius for each in (network, nystrom))
        far = f"{(placed.trust < 0.05).mean():.1%}"
        figures = " | ".join(f"{error:.4f}" for error in errors)
        print(f"| {distance:g} | {figures} | {np.median(placed.trust):.3f} | {far} |", flush=True)


TABLES = {"times": times, "batches": batches, "away": away}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the paper on deep diffusion maps leaves open.")
    parser.add_argument("tables", nargs="*", default=list(TABLES), help=", ".join(TABLES))
    for name in parser.parse_args().tables:
        print(f"\n{name}\n")
        TABLES[name]()


if __name__ == "__main__":
    main()
