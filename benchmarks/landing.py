"""What does it cost to train a network for a map, and to place new cells: network beside Nystrom, as cells grow?

    python benchmarks/landing.py [--cells 100000 1000000] [--new 100000 1000000] [--device cuda] [--folder FOLDER]

Cells are those of points.py. Every step is a process of its own, whose seconds and memory count from when its input
is loaded. `graph` and `train` (deep_diffusion_map without measuring its error) run on the device, all else on the
CPU: `map` is the exact eigendecomposition. New cells of the same density are then read from a file and placed:
`network` is the network alone, in blocks on all cores, written to a file; `nystrom` is `extension`, which looks for
their neighbours and scores their trust. A step whose result stands in FOLDER is not repeated.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import points
from scale import exponent
from tools import Clock

import heatwalk as hw
from heatwalk import compute, networks

BLOCK = 2**11
N_COMPONENTS = 15


def save(folder: Path, name: str, result) -> None:
    for field, value in zip(type(result)._fields, result, strict=True):
        np.save(folder / f"{name}.{field}.npy", np.asarray(value))


def load(folder: Path, name: str, kind: type):
    return kind(*(np.load(folder / f"{name}.{field}.npy") for field in kind._fields))


def graph(cells: np.ndarray, folder: Path, clock: Clock, device: str) -> None:
    clock.start()
    neighbors = hw.neighbors(cells, min_recall=0.95, device=device)
    affinity = hw.affinity(cells, neighbors)
    clock.lap("graph")
    save(folder, "neighbors", neighbors)
    save(folder, "affinity", affinity)


def train(cells: np.ndarray, folder: Path, clock: Clock, device: str) -> None:
    affinity = load(folder, "affinity", hw.Affinity)
    clock.start()
    made = hw.deep_diffusion_map(cells, affinity, n_components=N_COMPONENTS, measure=False, device=device)
    clock.lap("train")
    save(folder, "deep", made)


def map_(cells: np.ndarray, folder: Path, clock: Clock, _device: str) -> None:
    affinity = load(folder, "affinity", hw.Affinity)
    clock.start()
    made = hw.diffusion_map(affinity, n_components=N_COMPONENTS)
    clock.lap("map")
    save(folder, "map", made)


def fresh(folder: Path, n_new: int) -> np.ndarray:
    """New cells of the same density, read from disk as they are needed."""
    path = folder / f"new.{n_new}.npy"
    if not path.exists():
        points.write(path, n_new, seed=1)
    return np.load(path, mmap_mode="r")


def by_network(cells: np.ndarray, folder: Path, clock: Clock, n_new: int) -> None:
    network, new = load(folder, "deep", hw.DeepDiffusionMap).network, fresh(folder, n_new)
    placed = np.lib.format.open_memmap(folder / "placed.npy", "w+", np.float32, (n_new, N_COMPONENTS))
    with compute.workers("threads") as workers, compute.one_blas_thread():
        # Torch on one thread for each of ours, and started before the clock.
        from heatwalk.fitting import one_torch_thread

        with one_torch_thread():
            networks.applied(network, new[:BLOCK])
            clock.start()
            ranges = compute.blocks(n_new, BLOCK)
            found = workers.in_order(lambda rows: networks.applied(network, new[rows]), ranges)
            for rows, values in zip(ranges, found, strict=True):
                placed[rows] = values
            clock.lap("network")


def by_nystrom(cells: np.ndarray, folder: Path, clock: Clock, n_new: int) -> None:
    kinds = {"neighbors": hw.Neighbors, "affinity": hw.Affinity, "map": hw.DiffusionMap}
    reference, new = hw.Reference(cells, *(load(folder, *item) for item in kinds.items())), fresh(folder, n_new)
    clock.start()
    hw.extension(reference, new, method="nystrom")
    clock.lap("nystrom")


MAKING = {"graph": graph, "train": train, "map": map_}
PLACING = {"network": by_network, "nystrom": by_nystrom}


def one(step: str, folder: Path, n_new: int, device: str) -> None:
    """A step in a process of its own; writes seconds and memory."""
    cells, clock = np.load(folder / "cells.npy"), Clock()
    if step in MAKING:
        MAKING[step](cells, folder, clock, device)
    else:
        PLACING[step](cells, folder, clock, n_new)
    record = {"seconds": clock.seconds[step], "peak_mib": clock.peak_mib}
    (folder / f"{step}.{n_new}.json").write_text(json.dumps(record))


def measured(step: str, folder: Path, device: str, n_new: int = 0) -> dict:
    result = folder / f"{step}.{n_new}.json"
    if not result.exists():
        subprocess.run([sys.executable, __file__, "--one", step, str(folder), str(n_new), device], check=True)
    return json.loads(result.read_text())


def rows(folder: Path, sizes: list[int], new: list[int], device: str) -> Iterator[tuple]:
    """(step, cells, new cells, seconds, memory) of every measurement."""
    for n_cells in sizes:
        own = folder / str(n_cells)
        own.mkdir(exist_ok=True)
        if not (own / "cells.npy").exists():
            points.write(own / "cells.npy", n_cells)
        for step in MAKING:
            yield step, n_cells, 0, *measured(step, own, device).values()
        for step in PLACING:
            for n_new in new:
                yield step, n_cells, n_new, *measured(step, own, device, n_new).values()


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        step, folder, n_new, device = sys.argv[2:]
        one(step, Path(folder), int(n_new), device)
        return
    parser = argparse.ArgumentParser(description="What training and placing cost.")
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--new", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="keeps what every step made")
    given, found = parser.parse_args(), []
    print("| step | cells | new cells | seconds | new cells a second | peak MiB |\n" + "|---" * 6 + "|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(exist_ok=True)
        for step, n_cells, n_new, seconds, peak in rows(folder, given.cells, given.new, given.device):
            rate = f"{n_new / seconds:,.0f}" if n_new else ""
            print(f"| {step} | {n_cells:,} | {n_new:,} | {seconds:,.1f} | {rate} | {peak:,.0f} |", flush=True)
            found.append((step, n_cells, n_new, seconds))
    for step in PLACING if len(given.new) > 1 else ():
        for n_cells in given.cells:
            own = [(n_new, seconds) for name, cells, n_new, seconds in found if (name, cells) == (step, n_cells)]
            print(f"{step}, {n_cells:,} cells: exponent in new cells {exponent(*zip(*own, strict=True)):.2f}")


if __name__ == "__main__":
    main()
