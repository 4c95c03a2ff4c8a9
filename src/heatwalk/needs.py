"""What a whole configuration will need, stage by stage, before anything runs."""

import shutil
from pathlib import Path
from typing import NamedTuple

from heatwalk import forecast
from heatwalk.asked import opened
from heatwalk.config import STAGES, Plan, memory_bytes
from heatwalk.errors import BadInput, OutOfResources, Problem
from heatwalk.forecast import Need


class Row(NamedTuple):
    dataset: str
    stage: str
    n_cells: int
    need: Need


def of_config(plan: Plan, threads: int, *, missing_in: Path | None = None) -> tuple[list[Row], list[Problem]]:
    """The needs of every stage of every dataset, and the problems of inputs that cannot be opened.

    missing_in: a results folder; datasets whose results all stand there are left out.
    """
    rows, problems = [], []
    for name in plan.datasets:
        stages = plan.wanted(name)
        if missing_in and all((missing_in / name / stage / "manifest.json").exists() for stage in stages):
            continue
        try:
            size = size_of(plan, name)
        except BadInput as error:
            problems += error.problems
            continue
        needs = of_dataset(plan, size, stages, threads)
        rows += [Row(name, stage, size.n_cells, need) for stage, need in needs.items()]
    return rows, problems


def of_dataset(plan: Plan, size: forecast.Size, stages: list[str], threads: int) -> dict[str, Need]:
    """The needs of stages of a dataset of a size."""
    memory = memory_bytes(plan.config["memory"])
    limits = {"threads": threads, "memory": memory, "block_cells": plan.config["block_cells"]}
    return {stage: forecast.forecast(stage, size, **limits) for stage in stages}


def size_of(plan: Plan, name: str) -> forecast.Size:
    """The size of a dataset, by its source and that of its reference."""
    size, reference = _size(plan, name), plan.datasets[name].reference
    if reference:
        known = _size(plan, reference)
        # Its graph and its components are those of the reference.
        own = {"n_neighbors": known.n_neighbors, "n_edges": 1, "n_selected": 0, "score_epochs": 0}
        size = size._replace(n_reference=known.n_cells, **own)
    return size


def _size(plan: Plan, name: str) -> forecast.Size:
    """The size of a dataset, by its source."""
    options = {stage: plan.options(name, stage) for stage in STAGES}
    with opened(plan, name) as source:
        size = forecast.of_source(source, plan.datasets[name].kind, options)
        return size._replace(**{name: plan.config["compute"][name] for name in ("scheduler", "device")})


def check(rows: list[Row], memory: int, results: Path) -> list[Problem]:
    """Every stage that does not fit in memory, and the disk when all results together do not fit on it."""
    problems = []
    for row in rows:
        try:
            forecast.refuse(row.stage, row.need, memory, f"results/{row.dataset}/{row.stage}")
        except OutOfResources as error:
            problems += error.problems
    free = shutil.disk_usage(results if results.exists() else Path()).free
    disk = sum(row.need.result for row in rows) + max((row.need.scratch for row in rows), default=0)
    if disk > free:
        cause = f"the results need about {amount(disk)} of disk, {amount(free)} are free"
        problems.append(Problem("HW-RS-006", f"{results}", cause, "free disk space, or name another --directory"))
    return problems


def table(rows: list[Row], threads: int, memory: int) -> str:
    """The needs as lines for a person."""
    head = f"{'dataset':<20} {'stage':<18} {'cells':>12} {'time':>9} {'memory':>9} {'result':>9} {'scratch':>9}"
    lines = [head]
    for row in rows:
        need, cells = row.need, f"{row.n_cells:,}"
        sizes = " ".join(f"{amount(value):>9}" for value in (need.memory, need.result, need.scratch))
        lines.append(f"{row.dataset:<20} {row.stage:<18} {cells:>12} {duration(need.seconds):>9} {sizes}")
    seconds, disk = sum(row.need.seconds for row in rows), sum(row.need.result for row in rows)
    most = max((row.need.memory for row in rows), default=0)
    lines.append(
        f"in all, on {threads} threads: about {duration(seconds)}, {amount(disk)} of results; "
        f"most memory {amount(most)} of {amount(memory)}"
    )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def amount(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
