"""How far are distances by the network from those of the exact map, on the paper's own protocol, beside Nystrom?

    python benchmarks/deep_diffusion_map.py [SET ...] [--seeds 5]        images and sequences from HEATWALK_DATA

The reference is the exact map of both halves together; network and Nystrom see the train half. One table: the mean
relative error of all pairs of the test half (and of the train half) as mean and spread over the seeds, the median, the
excess of the loss over the least possible one, and the seconds of training; then the errors by decile of the distance.
Sets, kernels and splits are those of arXiv 2505.06087; so are the figures of the authors' network and their Nystrom.
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import pdist

import heatwalk as hw
from heatwalk import networks

DATA = Path(os.environ.get("HEATWALK_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))


class Protocol(NamedTuple):
    quantile: float  # of the train distances: the bandwidth
    alpha: float
    t: int
    n_components: int
    published: tuple[str, str]  # test error of the authors' network and of their Nystrom; ~ read off a plot


PROTOCOLS = {
    "helix": Protocol(0.03, 1.0, 100, 2, (".0213", ".0194")),
    "s_curve": Protocol(0.005, 1.0, 100, 2, (".1118", ".0978")),
    "swiss_roll": Protocol(0.005, 1.0, 100, 2, (".2098", ".1111")),
    "mnist_6": Protocol(0.005, 0.0, 1, 6, ("~.085", "~.013")),
    "mnist_2": Protocol(0.005, 0.0, 1, 2, ("~.175", "~.028")),
    "phoneme": Protocol(0.005, 0.0, 1, 2, ("~.063", "~.008")),
}


def halves(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Train and test items."""
    from sklearn.datasets import make_s_curve, make_swiss_roll
    from sklearn.model_selection import train_test_split

    split = {"test_size": 0.5, "random_state": 123}
    if name == "helix":
        angle = np.random.RandomState(123).uniform(0, 2 * np.pi, 2000)
        items = np.column_stack([np.cos(angle), np.sin(2 * angle), np.sin(3 * angle)])
    elif name in ("s_curve", "swiss_roll"):
        items = {"s_curve": make_s_curve, "swiss_roll": make_swiss_roll}[name](2000, random_state=123)[0]
    elif name == "phoneme":
        data = np.load(DATA / "phoneme_esl.npz")
        items = data["X"][:, :150, None].astype(np.float64)
        split |= {"test_size": 0.222, "stratify": data["y"]}
    else:
        data = np.load(DATA / "mnist.npz")
        arrays = [data[key] for key in data]
        images = np.concatenate([array for array in arrays if array.ndim == 3])
        labels = np.concatenate([array for array in arrays if array.ndim == 1])
        images = images[labels < 6]
        items = images[np.random.RandomState(123).permutation(len(images))][:5000, :, :, None] / 255
        split["test_size"] = 0.1
    return tuple(train_test_split(items, **split))


def dense(items: np.ndarray, bandwidth: float, protocol: Protocol, solve: bool = True) -> hw.Reference:
    flat = items.reshape(len(items), -1)
    found = hw.neighbors(flat, n_neighbors=len(flat) - 1, method="exact")
    affinity = hw.affinity(flat, found, bandwidth=bandwidth, alpha=protocol.alpha)
    solved = hw.diffusion_map(affinity, n_components=protocol.n_components) if solve else None
    return hw.Reference(flat, found, affinity, solved)


def measured(name: str, n_seeds: int) -> dict:
    protocol, (train, test) = PROTOCOLS[name], halves(name)
    bandwidth = float(np.quantile(pdist(train.reshape(len(train), -1)), protocol.quantile))
    joint = dense(np.concatenate([train, test]), bandwidth, protocol).map
    expected = np.asarray(joint.eigenvectors) * np.asarray(joint.eigenvalues) ** protocol.t
    reference = dense(train, bandwidth, protocol)
    nystrom = hw.extension(reference, test.reshape(len(test), -1), t=protocol.t).coordinates
    rows = []
    for seed in range(n_seeds):
        started = time.perf_counter()
        options = {"n_components": protocol.n_components, "t": protocol.t, "seed": seed}
        found = hw.deep_diffusion_map(train, reference.affinity, **options)
        seconds = time.perf_counter() - started
        placed = networks.applied(found.network, test).astype(np.float64)
        away = hw.distance_error(placed, expected[len(train) :])
        seen = hw.distance_error(np.asarray(found.coordinates, np.float64), expected[: len(train)])
        rows.append((away, seen[0], float(found.excess), seconds))
        print(f"{name}, seed {seed}: test {away[0]:.4f}, train {seen[0]:.4f}, {seconds:.0f} s", flush=True)
    exact = hw.distance_error(nystrom.astype(np.float64), expected[len(train) :])
    return {"protocol": protocol, "rows": rows, "nystrom": exact}


def line(name: str, found: dict) -> str:
    errors = np.array([row[0][0] for row in found["rows"]])
    medians, seen, excess, seconds = (
        np.mean([pick(row) for row in found["rows"]])
        for pick in (lambda row: row[0][1], lambda row: row[1], lambda row: row[2], lambda row: row[3])
    )
    theirs, published = found["protocol"].published
    network = f"{errors.mean():.4f} ± {errors.std():.4f}"
    return (
        f"| {name} | {network} | {found['nystrom'][0]:.4f} | {theirs} | {published} | {medians:.4f} | "
        f"{found['nystrom'][1]:.4f} | {seen:.4f} | {excess:.1e} | {seconds:.0f} |"
    )


def by_decile(name: str, found: dict) -> list[str]:
    network = np.mean([row[0][2] for row in found["rows"]], axis=0)
    return [
        f"| {name} | {who} | {' | '.join(f'{value:.4f}' for value in values)} |"
        for who, values in (("network", network), ("Nystrom", found["nystrom"][2]))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of a deep diffusion map on the protocol of its paper.")
    parser.add_argument("sets", nargs="*", default=list(PROTOCOLS))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    found = {name: measured(name, options.seeds) for name in options.sets}
    head = "set | network, test | Nystrom, test | authors' network | authors' Nystrom | median | Nystrom median | "
    print(f"\n| {head}network, train | excess | seconds |", "|---" * 10 + "|", sep="\n")
    print(*(line(name, each) for name, each in found.items()), sep="\n")
    print(f"\n| set | by | {' | '.join(map(str, range(1, 11)))} |", "|---" * 12 + "|", sep="\n")
    print(*(row for name, each in found.items() for row in by_decile(name, each)), sep="\n")


if __name__ == "__main__":
    main()
