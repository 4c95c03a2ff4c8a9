"""What would 100 million and a billion cells cost? The cost model of `heatwalk plan`, without running anything.

    python benchmarks/scaling.py [--cells 10000000 100000000 1000000000] [--threads 32] [--memory 256GB] [--price 0.05]

Cells of 50 components as `points`, 30 neighbours, 15 pairs, recall .95: those of workflow.py, whose runs from 100,000
to 10,000,000 cells the formulas (heatwalk.forecast) were fitted to. Prints hours, memory at the peak, bytes that stay
and scratch of every stage; then hours, disk and money in all, at so much a core and hour.
"""

import argparse

from heatwalk.config import memory_bytes
from heatwalk.forecast import Need, Size, forecast
from workflow import STAGES

DIMENSION = 50


def size(n_cells: int) -> Size:
    return Size(n_cells, DIMENSION, DIMENSION * n_cells, 0, DIMENSION, min_recall=0.95)


def needs(n_cells: int, threads: int, memory: int) -> dict[str, Need]:
    """stage -> what it needs."""
    return {stage: forecast(stage, size(n_cells), threads=threads, memory=memory) for stage in STAGES}


def row(stage: str, need: Need, memory: int) -> str:
    over = f" **over {memory / 1e9:,.0f}**" if need.memory > memory else ""
    figures = (f"{need.seconds / 3600:,.2f}", f"{need.memory / 1e9:,.1f}{over}")
    return f"| {stage} | {' | '.join(figures)} | {need.result / 1e9:,.0f} | {need.scratch / 1e9:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of atlases too large to run here.")
    parser.add_argument("--cells", type=int, nargs="+", default=[10**7, 10**8, 10**9])
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--memory", default="256GB")
    parser.add_argument("--price", type=float, default=0.05, help="of a core for an hour")
    given = parser.parse_args()
    memory = memory_bytes(given.memory)
    for n_cells in given.cells:
        found = needs(n_cells, given.threads, memory)
        print(f"\n{n_cells:,} cells, {given.threads} threads, memory {given.memory}\n")
        print("| stage | hours | peak GB | result GB | scratch GB |\n|---|---|---|---|---|")
        print(*(row(stage, need, memory) for stage, need in found.items()), sep="\n")
        hours = sum(need.seconds for need in found.values()) / 3600
        disk = sum(need.result for need in found.values()) + max(need.scratch for need in found.values())
        input_bytes = 4 * DIMENSION * n_cells
        print(f"\nIn all {hours:,.1f} hours, {(disk + input_bytes) / 1e12:,.2f} TB of disk with the input, ", end="")
        print(f"{hours * given.threads * given.price:,.0f} at {given.price} a core and hour.")


if __name__ == "__main__":
    main()
