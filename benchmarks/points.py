"""Cells of any number from one density: a branching tissue in three dimensions, bent into fifty, with noise.

    python benchmarks/points.py FILE CELLS       writes CELLS x 50 in single precision to FILE (.npy)

    root -- 1 -+- 2 -+- 3        every arm is a curved tube of one width: cells are uniform along it, Gaussian across,
               |     +- 4        and fall into the arms with fixed probabilities
               +- 5 -+- 6
                     +- 7

Density, widths, map and noise do not depend on the number of cells; the first cells are the same whatever the total.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK = 8192  # cells of a block; each has a generator of its own
NODES = np.array([[0, 0, 0], [3, 0, 0], [5, 2, 1], [8, 2, 2], [6, 5, 1], [5, -2, -1], [8, -3, 0], [5, -4, -3]], float)
ARMS = np.array([[0, 1], [1, 2], [2, 3], [2, 4], [1, 5], [5, 6], [5, 7]])  # nodes at the two ends of an arm
BENDS = np.array(
    [[0, 0.5, 0.5], [0, 0.6, -0.4], [0.3, -0.6, 0.4], [0.7, 0, 0.4], [0, 0.5, 0.5], [0.3, 0.5, 0.5], [-0.6, 0, 0]]
)
SHARES = np.array([0.25, 0.15, 0.1, 0.15, 0.15, 0.15, 0.05])
WIDTH = 0.25  # standard deviation across an arm
NOISE = 0.05  # standard deviation of every coordinate
WAVES = 30


def points(n_cells: int, dimension: int = 50, seed: int = 0) -> np.ndarray:
    """(cell, dimension) single precision, in memory."""
    return np.concatenate(list(_blocks(n_cells, dimension, seed)))


def write(path: Path, n_cells: int, dimension: int = 50, seed: int = 0) -> None:
    """The same as a .npy file, a block of memory at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (n_cells, dimension)}
    with Path(path).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in _blocks(n_cells, dimension, seed):
            file.write(block.astype("<f4").tobytes())


def _blocks(n_cells: int, dimension: int, seed: int) -> Iterator[np.ndarray]:
    for number, start in enumerate(range(0, n_cells, BLOCK)):
        # Whole blocks are drawn, so that what is in one does not depend on where the total cuts it.
        block = _block(np.random.default_rng([seed, number]), dimension)
        yield block[: n_cells - start]


def _block(generator: np.random.Generator, dimension: int) -> np.ndarray:
    """BLOCK cells."""
    arm = generator.choice(len(ARMS), BLOCK, p=SHARES)
    along = generator.random((BLOCK, 1))
    first, last = NODES[ARMS[arm, 0]], NODES[ARMS[arm, 1]]
    centre = first + along * (last - first) + 4 * along * (1 - along) * BENDS[arm]
    tissue = centre + WIDTH * generator.standard_normal((BLOCK, 3))
    noise = NOISE * generator.standard_normal((BLOCK, dimension))
    return (_bent(tissue, dimension) + noise).astype(np.float32)


def _bent(tissue: np.ndarray, dimension: int) -> np.ndarray:
    """Three dimensions in many: an isometric plane and smooth waves on it, the same for every seed."""
    generator = np.random.default_rng(2006)
    plane = np.linalg.qr(generator.standard_normal((dimension, 3)))[0]
    waves = generator.standard_normal((3, WAVES)), generator.uniform(0, 2 * np.pi, WAVES)
    heights = 0.5 * generator.standard_normal((WAVES, dimension)) / np.sqrt(WAVES * dimension)
    return tissue @ plane.T + np.sin(tissue @ waves[0] + waves[1]) @ heights


def main() -> None:
    write(Path(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
