"""What does a diffusion map cost as cells grow: heatwalk beside scanpy, pyDiffMap, datafold, scikit-learn, in one run?

    python3.11 -m venv benchmarks/.peers
    benchmarks/.peers/bin/python -m pip install -r benchmarks/peers.txt
    python benchmarks/scale.py [--cells 10000 50000] [--repeats 3] [--tools heatwalk scanpy] [--json FILE] ...

The first two commands make the environment of pyDiffMap and datafold, which need older versions than heatwalk.
Cells are those of points.py. Every measurement is a process of its own (tools.py says what is timed), and the tools
take turns, so that noise hits all alike. Prints one table, and the exponents of cost = constant * cells^exponent.

What the first repeat of a tool found is checked afterwards: neighbours against exact search for 500 cells, pairs
against the tool's own matrix, eigenvalues against ARPACK on that matrix at a tolerance of 1e-14 (up to 200,000 cells).
Products are those of a vector and the matrix that ARPACK asked for; scikit-learn factorises a matrix instead.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import points
import psutil
from tools import TOOLS, sample

HERE = Path(__file__).resolve().parent
REFERENCE_UP_TO = 200_000  # cells whose eigenvalues are computed again
BLOCK = 16384  # cells that the exact search looks at together
HEADER = (
    "| cells | tool | neighbors and affinity, s | map, s | both, s | times heatwalk | peak MiB | recall | "
    "worst residual | worst eigenvalue error | products |\n|" + "---|" * 11
)


# ---- checks: in a process of their own -----------------------------------------------------------------------------


def check(file: Path, path: Path, n_cells: int) -> dict[str, float]:
    """Recall, worst residual |A v - lambda v| / |v| and worst eigenvalue error of what a tool kept."""
    kept = np.load(file)
    quality = {"recall": recall(np.load(path, mmap_mode="r")[:n_cells], kept["neighbors"])}
    if "data" not in kept:
        return quality
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import eigs, eigsh

    matrix = csr_array((kept["data"], kept["indices"], kept["indptr"]), shape=(n_cells, n_cells))
    values, vectors = kept["values"].astype(np.float64), kept["vectors"].astype(np.float64)
    norms = np.linalg.norm(vectors, axis=0)
    quality["residual"] = float((np.linalg.norm(matrix @ vectors - vectors * values, axis=0) / norms).max())
    if n_cells <= REFERENCE_UP_TO:
        options = {"k": 16, "tol": 1e-14, "ncv": 60, "v0": np.random.default_rng(1).standard_normal(n_cells)}
        solve, which = (eigsh, "LA") if kept["symmetric"] else (eigs, "LR")
        reference = np.sort(solve(matrix, which=which, return_eigenvectors=False, **options).real)[::-1]
        # Who leaves the trivial pair out has one less.
        error = np.abs(np.sort(values)[::-1] - reference[len(reference) - len(values) :])
        quality["error"] = float(error.max())
    return quality


def recall(cells: np.ndarray, found: np.ndarray) -> float:
    """Share of the true nearest others of the sampled cells among those found, itself not counted."""
    rows = sample(len(cells))
    targets, width = cells[rows].astype(np.float64), found.shape[1]
    best, squares = np.empty((len(rows), 0), np.int64), np.empty((len(rows), 0))
    for start in range(0, len(cells), BLOCK):
        block = cells[start : start + BLOCK].astype(np.float64)
        here = (block**2).sum(axis=1) - 2 * targets @ block.T  # |x|^2 is the same for a row
        here[rows[:, None] == np.arange(start, start + len(block))] = np.inf
        best = np.hstack([best, np.broadcast_to(np.arange(start, start + len(block)), here.shape)])
        squares = np.hstack([squares, here])
        nearest = np.argpartition(squares, min(width, squares.shape[1]) - 1, axis=1)[:, :width]
        best, squares = np.take_along_axis(best, nearest, 1), np.take_along_axis(squares, nearest, 1)
    best = np.take_along_axis(best, np.argsort(squares, axis=1), 1)
    hits = total = 0
    for row, true, given in zip(rows, best, found, strict=True):
        others = set(given.tolist()) - {int(row), -1}
        hits, total = hits + len(others & set(true[: len(others)].tolist())), total + len(others)
    return hits / total


# ---- measuring -----------------------------------------------------------------------------------------------------


def measure(name: str, n_cells: int, path: Path, folder: Path, keep: bool, options) -> dict:
    """One measurement: what the tool's process wrote, or why there is nothing."""
    python = options.peers if TOOLS[name].apart else Path(sys.executable)
    if not python.exists():
        return {"failure": "not installed"}
    result = folder / "result"
    command = [python, HERE / "tools.py", name, path, n_cells, result, *(["--keep"] if keep else [])]
    failure = watch(command, folder, options.limit, options.memory)
    if failure:
        return {"failure": failure}
    record = json.loads(result.with_suffix(".json").read_text())
    if keep:
        command = [sys.executable, __file__, "--check", result.with_suffix(".npz"), path, n_cells, result]
        failure = watch(command, folder, options.limit, options.memory)
        # A check that did not end leaves dashes, and says so; the measurement stands.
        record |= {"check": failure} if failure else json.loads(result.read_text())
        result.with_suffix(".npz").unlink()
    return record


def watch(command: list, folder: Path, limit: float, memory: float) -> str:
    """Run a command; why it failed, or nothing."""
    started, errors = time.monotonic(), folder / "errors"
    with errors.open("w") as file:
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=file)
    try:
        while process.poll() is None:
            if time.monotonic() - started > limit:
                return f"over {limit:,.0f} s"
            if resident(process.pid) > memory * 1e9:
                return f"out of memory at {memory:g} GB"
            time.sleep(0.05)
    finally:
        for each in tree(process.pid):
            each.kill()
        process.wait()
    if process.returncode < 0:
        return f"failed: signal {-process.returncode}"
    lines = [line for line in errors.read_text().splitlines() if line.strip()]
    return f"failed: {lines[-1].strip() if lines else 'it said nothing'}" if process.returncode else ""


def tree(pid: int) -> list[psutil.Process]:
    """A process and its children; none when it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident(pid: int) -> int:
    """Bytes of memory that a process and its children hold."""
    try:
        return sum(each.memory_info().rss for each in tree(pid))
    except psutil.NoSuchProcess:
        return 0


def run(options) -> list[dict]:
    """All measurements, sizes ascending, tools taking turns within a repeat."""
    records: list[dict] = []
    failed: dict[str, tuple[int, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        points.write(folder / "points.npy", max(options.cells))
        for n_cells in sorted(set(options.cells)):
            for repeat in range(options.repeats):
                for tool in options.tools:
                    if tool in failed and (repeat or failed[tool][0] == n_cells):
                        continue
                    if tool in failed:
                        found = {"failure": skipped(*failed[tool])}
                    else:
                        found = measure(tool, n_cells, folder / "points.npy", folder, not repeat, options)
                    if "failure" in found:
                        failed.setdefault(tool, (n_cells, found["failure"]))
                    records.append({"tool": tool, "cells": n_cells, "repeat": repeat, **found})
                    note(records[-1], options.json)
    return records


def skipped(n_cells: int, failure: str) -> str:
    """What a row says when the tool failed at fewer cells."""
    if failure == "not installed":
        return failure
    return f"skipped: {'failed' if failure.startswith('failed') else 'ran out'} at {n_cells:,}"


def note(record: dict, path: Path | None) -> None:
    """Show a measurement as it comes, and keep it."""
    line = json.dumps(record)
    print(line, file=sys.stderr, flush=True)
    if path:
        with path.open("a") as file:
            file.write(line + "\n")


# ---- the tables ----------------------------------------------------------------------------------------------------


def total(record: dict) -> float:
    return sum(record["seconds"].values())


def stages(record: dict) -> dict[str, float]:
    """Seconds of a record: its own stages, and all."""
    return {**record["seconds"], "all": total(record)}


def table(records: list[dict]) -> list[str]:
    """One row for every size and tool: medians over the repeats, the highest peak, what was checked."""
    rows = [HEADER]
    for cells, tool in dict.fromkeys((record["cells"], record["tool"]) for record in records):
        own = [record for record in records if (record["cells"], record["tool"]) == (cells, tool)]
        rows.append(
            row(own, [record for record in records if (record["cells"], record["tool"]) == (cells, "heatwalk")])
        )
    return rows


def row(own: list[dict], heatwalk: list[dict]) -> str:
    """A row of the table from the repeats of a tool, and those of heatwalk at the same size."""
    start = f"| {own[0]['cells']:,} | {TOOLS[own[0]['tool']].title} |"
    failures = [record["failure"] for record in own if "failure" in record]
    if failures:
        return f"{start} {failures[0].replace('|', '/')} |" + " |" * 8
    base = {record["repeat"]: total(record) for record in heatwalk if "seconds" in record}
    ratios = [total(record) / base[record["repeat"]] for record in own if record["repeat"] in base]
    last = statistics.median(record["seconds"]["map"] for record in own)
    first = statistics.median(total(record) - record["seconds"]["map"] for record in own)
    cells = [
        *(f"{seconds:,.2f}" for seconds in (first, last, statistics.median(map(total, own)))),
        f"{statistics.median(ratios):.2f}" if ratios else "-",
        f"{max(record['peak_mib'] for record in own):,.0f}",
        shown(own, "recall", ".4f"),
        shown(own, "residual", ".1e"),
        shown(own, "error", ".1e"),
        shown(own, "products", ",d"),
    ]
    return f"{start} {' | '.join(cells)} |"


def shown(own: list[dict], name: str, form: str) -> str:
    """A figure of the first repeat that has it, or a dash."""
    found = [record[name] for record in own if record.get(name) is not None]
    return format(found[0], form) if found else "-"


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Least squares slope of log cost against log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def exponents(records: list[dict]) -> list[str]:
    """Growth of every stage of every tool with the number of cells, where two sizes or more were done."""
    rows = ["| tool | stage | exponent | from | to |\n|---|---|---|---|---|"]
    done = [record for record in records if "seconds" in record]
    for tool in dict.fromkeys(record["tool"] for record in done):
        own = [record for record in done if record["tool"] == tool]
        sizes = sorted({record["cells"] for record in own})
        for stage in stages(own[0]) if len(sizes) > 1 else ():
            costs = [
                statistics.median(stages(record)[stage] for record in own if record["cells"] == size) for size in sizes
            ]
            ends = f"{sizes[0]:,} | {sizes[-1]:,}"
            rows.append(f"| {TOOLS[tool].title} | {stage} | {exponent(sizes, costs):.2f} | {ends} |")
    return rows


def versions(records: list[dict]) -> str:
    """Which version of each tool was measured, and on how many cores."""
    done = {TOOLS[record["tool"]].package: record for record in records if "version" in record}
    named = ", ".join(f"{package} {record['version']}" for package, record in done.items())
    return f"{named}; {max((record['threads'] for record in done.values()), default=0)} cores"


def unchecked(records: list[dict]) -> list[str]:
    """A line for every measurement whose check did not end."""
    failed = [record for record in records if "check" in record]
    return [f"{TOOLS[each['tool']].title}, {each['cells']:,} cells, not checked: {each['check']}" for each in failed]


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cost and quality of diffusion maps as cells grow.")
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 50_000, 200_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--peers", type=Path, default=HERE / ".peers" / "bin" / "python", help="their interpreter")
    parser.add_argument("--limit", type=float, default=1800, help="seconds of one process")
    parser.add_argument("--memory", type=float, default=16, help="GB of one process")
    parser.add_argument("--json", type=Path, help="file to append every measurement to, a line each")
    return parser.parse_args(words)


def main() -> None:
    if sys.argv[1:2] == ["--check"]:
        file, path, n_cells, result = sys.argv[2:]
        Path(result).write_text(json.dumps(check(Path(file), Path(path), int(n_cells))))
        return
    records = run(arguments())
    print(*table(records), "", *exponents(records), "", *unchecked(records), versions(records), sep="\n")


if __name__ == "__main__":
    main()
