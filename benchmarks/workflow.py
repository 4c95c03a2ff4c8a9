"""What does the whole workflow need as cells grow, and does `heatwalk plan` foresee it?

    python benchmarks/workflow.py FOLDER [--cells 100000 300000 1000000] [--memory 2GB] [--min-recall 0.99]

Every size is a working folder of its own in FOLDER, with cells of points.py as `points`, run from file to report by
`heatwalk run` on all cores, one after the other; what stands there already is not run again. Prints the seconds and
peak memory of every stage beside what was foreseen, and the exponents of cost = constant * cells^exponent.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import points
from scale import exponent

from heatwalk.config import Dataset, needed

STAGES = needed(Dataset("cells", "cells.npy", "points"))
TARGET = "results/points/report/manifest.json"


def run(folder: Path, n_cells: int, memory: str, min_recall: float) -> None:
    (folder / "config").mkdir(parents=True, exist_ok=True)
    if not (folder / "cells.npy").exists():
        points.write(folder / "cells.npy", n_cells)
    options = f"memory: {memory}\nroots: [..]\nneighbors: {{min_recall: {min_recall}}}\n"
    (folder / "config" / "config.yaml").write_text(options)
    (folder / "config" / "datasets.tsv").write_text("name\tsource\tkind\npoints\t../cells.npy\tpoints\n")
    subprocess.run([Path(sys.executable).parent / "heatwalk", "run", "--cores", "all", TARGET], cwd=folder, check=True)


def measured(folder: Path) -> dict[str, dict]:
    """stage -> what its run.json says."""
    results = folder / "results" / "points"
    return {stage: json.loads((results / stage / "run.json").read_text()) for stage in STAGES}


def cell(record: dict) -> str:
    """Seconds and MB of memory, what was foreseen in brackets."""
    foreseen, memory = record["predicted"], record["peak_memory_bytes"]
    seconds = f"{record['seconds']:,.1f} ({foreseen['seconds']:,.1f}) s"
    return f"{seconds}, {memory / 1e6:,.0f} ({foreseen['memory'] / 1e6:,.0f})"


def table(found: dict[int, dict[str, dict]]) -> list[str]:
    """found: cells -> stage -> record."""
    sizes = sorted(found)
    rows = [f"| stage | {' | '.join(f'{size:,}' for size in sizes)} | exponent |", "|---" * (len(sizes) + 2) + "|"]
    for stage in STAGES:
        cells = [cell(found[size][stage]) for size in sizes]
        grows = f"{exponent(sizes, [found[size][stage]['seconds'] for size in sizes]):.2f}" if len(sizes) > 1 else "-"
        rows.append(f"| {stage} | {' | '.join(cells)} | {grows} |")
    totals = [sum(record["seconds"] for record in found[size].values()) for size in sizes]
    grows = f"{exponent(sizes, totals):.2f}" if len(sizes) > 1 else "-"
    rows.append(f"| all | {' | '.join(f'{total:,.0f} s' for total in totals)} | {grows} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds and memory of the whole workflow as cells grow.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--min-recall", type=float, default=0.99)
    options = parser.parse_args()
    for n_cells in options.cells:
        run(options.folder / str(n_cells), n_cells, options.memory, options.min_recall)
    print(*table({n_cells: measured(options.folder / str(n_cells)) for n_cells in options.cells}), sep="\n")


if __name__ == "__main__":
    main()
