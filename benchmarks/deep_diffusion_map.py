"""How far are distances by the network from those of the exact map, on the paper's own protocol, beside Nystrom?

    python benchmarks/deep_diffusion_map.py [SET ...] [--seeds 0 1 2 3 4] [--device cuda] [--keep FILE]

Data are those of HEATWALK_DATA.

The reference is the exact map of both halves together; network and Nystrom see the train half. Two tables: the mean
relative error of all pairs of the test half and of the train half (of the network mean and spread over the seeds), the
median, and the excess of the loss over the least possible one for so many components; then the errors by decile of the
distance. Sets, kernels and splits are those of arXiv 2505.06087; so are the figures of the authors' network and their
Nystrom (published.json: of images and sequences read off plots). What stands in FILE is not measured again.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import pdist

import heatwalk as hw
from heatwalk import networks

DATA = Path(os.environ.get("HEATWALK_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())


class Protocol(NamedTuple):
    quantile: float  # of the train distances: the bandwidth
    alpha: float
    t: int
    n_components: int


PROTOCOLS = {
    "helix": Protocol(0.03, 1.0, 100, 2),
    "s_curve": Protocol(0.005, 1.0, 100, 2),
    "swiss_roll": Protocol(0.005, 1.0, 100, 2),
    "mnist_6": Protocol(0.005, 0.0, 1, 6),
    "mnist_2": Protocol(0.005, 0.0, 1, 2),
    "phoneme": Protocol(0.005, 0.0, 1, 2),
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


def dense(items: np.ndarray, bandwidth: float, protocol: Protocol) -> hw.Reference:
    flat = items.reshape(len(items), -1)
    found = hw.neighbors(flat, n_neighbors=len(flat) - 1, method="exact")
    affinity = hw.affinity(flat, found, bandwidth=bandwidth, alpha=protocol.alpha)
    return hw.Reference(flat, found, affinity, hw.diffusion_map(affinity, n_components=protocol.n_components))


def errors(coordinates, expected: np.ndarray) -> dict:
    mean, median, deciles = hw.distance_error(np.asarray(coordinates, np.float64), expected)
    return {"mean": mean, "median": median, "deciles": deciles.tolist()}


def measured(name: str, seeds: list[int], device: str, keep: Path | None):
    """A record of Nystrom ("nystrom"), then one of the network for every seed."""
    known = [json.loads(line) for line in keep.read_text().splitlines()] if keep and keep.exists() else []
    known = {(each["set"], each["by"]): each for each in known}
    wanted = [(name, "nystrom"), *((name, seed) for seed in seeds)]
    if all(key in known for key in wanted):
        return [known[key] for key in wanted]
    protocol, (train, test) = PROTOCOLS[name], halves(name)
    bandwidth = float(np.quantile(pdist(train.reshape(len(train), -1)), protocol.quantile))
    joint = dense(np.concatenate([train, test]), bandwidth, protocol).map
    expected = np.asarray(joint.eigenvectors) * np.asarray(joint.eigenvalues) ** protocol.t
    reference, start = dense(train, bandwidth, protocol), len(train)
    least = (np.asarray(reference.map.eigenvalues) ** (4 * protocol.t)).sum()
    for key in wanted:
        if key in known:
            continue
        started = time.perf_counter()
        if key[1] == "nystrom":
            own = np.asarray(reference.map.eigenvectors) * np.asarray(reference.map.eigenvalues) ** protocol.t
            away, excess = hw.extension(reference, test.reshape(len(test), -1), t=protocol.t).coordinates, 0.0
        else:
            options = {"n_components": protocol.n_components, "t": protocol.t, "seed": key[1], "measure": False}
            found = hw.deep_diffusion_map(train, reference.affinity, **options, device=device)
            own, away = found.coordinates, networks.applied(found.network, test)
            excess = float(least - (np.asarray(found.eigenvalues) ** (4 * protocol.t)).sum())
        record = {"set": name, "by": key[1], "seconds": time.perf_counter() - started, "excess": excess}
        known[key] = record | {"test": errors(away, expected[start:]), "train": errors(own, expected[:start])}
        print(f"{name}, {key[1]}: test {known[key]['test']['mean']:.4f}, {record['seconds']:.0f} s", flush=True)
        if keep:
            with keep.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
    return [known[key] for key in wanted]


def line(name: str, nystrom: dict, network: list[dict]) -> str:
    theirs = PUBLISHED[name]

    def spread(pick, form: str) -> str:
        values = np.array([pick(record) for record in network])
        return f"{values.mean():{form}}" + (f" ± {values.std():{form}}" if len(values) > 1 else "")

    columns = [
        *(spread(lambda record, half=half: record[half]["mean"], ".4f") for half in ("test", "train")),
        *(f"{nystrom[half]['mean']:.4f}" for half in ("test", "train")),
        *(theirs[by][half] for by in ("network", "nystrom") for half in ("test", "train")),
        spread(lambda record: record["test"]["median"], ".4f"),
        f"{nystrom['test']['median']:.4f}",
        *(theirs[by]["median"] for by in ("network", "nystrom")),
        spread(lambda record: record["excess"], ".1e"),
        theirs["excess"],
        f"{np.mean([record['seconds'] for record in network]):.0f}",
    ]
    return f"| {name} ({len(network)}) | {' | '.join(columns)} |"


def by_decile(name: str, nystrom: dict, network: list[dict], half: str) -> list[str]:
    found = np.array([record[half]["deciles"] for record in network])
    rows = [("network", found.mean(axis=0)), ("its spread", found.std(axis=0)), ("Nystrom", nystrom[half]["deciles"])]
    rows = rows if len(found) > 1 else [rows[0], rows[2]]
    lines = [(who, " | ".join(f"{value:.4f}" for value in values)) for who, values in rows]
    for by in ("network", "nystrom"):
        if half in PUBLISHED[name][by]["deciles"]:
            lines.append((f"authors' {by.replace('ny', 'Ny')}", " | ".join(PUBLISHED[name][by]["deciles"][half])))
    return [f"| {name} | {half} | {who} | {values} |" for who, values in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of a deep diffusion map on the protocol of its paper.")
    parser.add_argument("sets", nargs="*", default=list(PROTOCOLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--device", default="cpu", help="where networks are trained")
    parser.add_argument("--keep", type=Path, help="file of measurements, JSON lines")
    given = parser.parse_args()
    found = {name: measured(name, given.seeds, given.device, given.keep) for name in given.sets}
    each = ("network", "Nystrom", "authors' network", "authors' Nystrom")
    halves_ = [f"{who}, {half}" for who in each for half in ("test", "train")]
    head = ["set (seeds)", *halves_, *(f"median, {who}" for who in each), "excess", "authors' excess", "seconds"]
    print(f"\n| {' | '.join(head)} |", "|---" * len(head) + "|", sep="\n")
    print(*(line(name, nystrom, network) for name, (nystrom, *network) in found.items()), sep="\n")
    print(f"\n| set | half | by | {' | '.join(map(str, range(1, 11)))} |", "|---" * 13 + "|", sep="\n")
    for name, (nystrom, *network) in found.items():
        print(*(row for half in ("test", "train") for row in by_decile(name, nystrom, network, half)), sep="\n")


if __name__ == "__main__":
    main()
