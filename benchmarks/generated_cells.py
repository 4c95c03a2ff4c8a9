"""Are generated cells of a label like held-out ones, and no copies? The workflow on real data, one condition a row.

    python benchmarks/generated_cells.py [FOLDER] [--generator random_walk] [--rows paul15,hues9]

Data from HEATWALK_DATA (default ../shared/data).

Prints, for every row: samples and points compared; share of generated and of held-out cells that a classifier takes for
the label; coverage of generated and of real cells; memorisation (by chance .05); share flagged; Sinkhorn over its
floor; seconds and peak memory of the generator.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from heatwalk import store
from heatwalk.generation_metrics import MEASURES

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HEATWALK_DATA", ROOT.parent / "shared" / "data")).resolve()
MARKERS = "CD43,CD34,CD90,CD45RA,CD31,CD49f,CD73,CD45,FLK1,CD38"
PAUL = ("paul15_counts.h5ad", "counts", "")
HUES = ("hues9_timecourse.npz", "intensities", MARKERS)
CLUSTER, MORE = "paul15_clusters", ", cells: {holdout: 0.4}"
ROWS = {  # name: source, kind, columns, condition, more options
    "paul15": (*PAUL, "", ""),
    "paul15_2Ery": (*PAUL, f"{CLUSTER}=2Ery", ""),
    "paul15_14Mo": (*PAUL, f"{CLUSTER}=14Mo", ""),
    "paul15_2Ery_more": (*PAUL, f"{CLUSTER}=2Ery", MORE),
    "paul15_14Mo_more": (*PAUL, f"{CLUSTER}=14Mo", MORE),
    "paul15_13Baso_more": (*PAUL, f"{CLUSTER}=13Baso", MORE),
    "paul15_14Mo_ten": (*PAUL, f"{CLUSTER}=14Mo", f"{MORE}, pca: {{n_components: 10}}"),
    "hues9": (*HUES, "", ""),
    "hues9_day0": (*HUES, "day=0", ""),
    "hues9_day4": (*HUES, "day=4", ""),
    "hues9_day10": (*HUES, "day=10", ""),
    "hues9_walk_from_0": (*HUES, "", ", random_walk: {seeds: day=0}"),
    "hues9_0_to_2": (*HUES, "day=2", ", particles: {start: day=0, condition: day=2}"),
}


def prepare(folder: Path, generator: str, rows: list[str]) -> None:
    (folder / "config").mkdir(parents=True)
    table, options = ["name\tsource\tkind\tcolumns\tstages"], [f"roots: [{DATA}, .]", "overrides:"]
    for name in rows:
        source, kind, columns, condition, more = ROWS[name]
        table.append("\t".join((name, str(DATA / source), kind, columns, f"{generator},generation_metrics,report")))
        asked = "" if generator in more else f", {generator}: {{condition: {condition}}}" if condition else ""
        label = f"generation_metrics: {{label: {CLUSTER if kind == 'counts' else 'day'}}}"
        options.append(f"  {name}: {{{label}{asked}{more}}}")
    (folder / "config" / "datasets.tsv").write_text("\n".join(table) + "\n")
    (folder / "config" / "config.yaml").write_text("\n".join(options) + "\n")


def row(results: Path, generator: str) -> str:
    made, found = (store.read(results / stage) for stage in (generator, "generation_metrics"))
    split = store.read(results / "cells")["split"][:]
    value, floor = (dict(zip(MEASURES, found[name][:], strict=True)) for name in ("values", "floor"))
    run, sinkhorn = made.run, value["sinkhorn"] / floor["sinkhorn"]
    beside = " | ".join(f"{value[name]:.2f} | {floor[name]:.2f}" for name in ("label_match", "coverage"))
    return (
        f"| {results.name} | {int((split == 0).sum()):,} | {int(found['n_compared'][...])} | {beside} | "
        f"{value['memorisation']:.2f} | {made['flagged'][:].mean():.3f} | {sinkhorn:.2f} | "
        f"{value['two_sample']:.2f} | {run['seconds']:.0f} | {run['peak_memory_bytes'] / 2**20:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--generator", choices=("particles", "random_walk"), default="particles")
    parser.add_argument("--rows", default=",".join(name for name in ROWS if "walk" not in name))
    given = parser.parse_args()
    folder, rows = given.folder or Path(tempfile.mkdtemp(prefix="heatwalk-")), given.rows.split(",")
    if not (folder / "config").exists():
        prepare(folder, given.generator, rows)
    command = [sys.executable, "-m", "heatwalk.cli", "run", "--cores", "2", "--keep-going"]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("| row | training cells | compared | label | held out | coverage | real | memorisation | flagged | "
          "Sinkhorn / floor | two_sample | s | MiB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in rows:
        done = (folder / "results" / name / "generation_metrics" / "manifest.json").exists()
        print(row(folder / "results" / name, given.generator) if done else f"| {name} | failed: see logs |")


if __name__ == "__main__":
    main()
