"""What is wrong with a query beside its reference, or with a condition, by their sources, before anything runs."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from heatwalk import store
from heatwalk.condition import matching
from heatwalk.config import Plan, memory_bytes
from heatwalk.errors import BadInput, Problem
from heatwalk.extension import coded
from heatwalk.generation_metrics import FEWEST
from heatwalk.inputs import Input, open_input, validate
from heatwalk.query import settle
from heatwalk.schema import GENERATORS

_SPARSE = ("counts", "logged")
_CONDITIONS = {
    "particles": {"condition": "HW-PA-008", "start": "HW-PA-009"},
    "random_walk": {"condition": "HW-RW-008", "seeds": "HW-RW-009"},
    "riemannian_diffusion": {"condition": "HW-RD-008"},
}


def problems(plan: Plan, name: str, results: Path) -> list[Problem]:
    """Features that the reference has and the query has not, and columns of `transfer` that hold no labels.

    Of a dataset with new cells, a condition, start or seeds that no cell meets, or too few to measure new cells beside.
    Which genes the reference selects is known once its cells stand in `results`; before, a query of counts or logged
    values is refused only where it shares no gene at all. The query's own source is taken to be sound.
    """
    row = plan.datasets[name]
    if not row.reference:
        stage = next((stage for stage in GENERATORS if stage in plan.wanted(name)), None)
        return _conditions(plan, name, stage) if stage else []
    try:
        with opened(plan, name) as new, opened(plan, row.reference) as known:
            return _beside(plan, name, new, known, results / row.reference / "cells")
    except BadInput as error:  # of the reference's source
        return list(error.problems)


def everything(plan: Plan, name: str, results: Path) -> list[Problem]:
    """All that is wrong with a dataset before it runs: its source by itself, and then beside what is asked of it."""
    row, memory = plan.datasets[name], memory_bytes(plan.config["memory"])
    source = {key: getattr(row, key) for key in ("source", "kind", "layer", "columns")}
    found = validate(**source, base=plan.base, roots=plan.roots, memory=memory)
    return found or problems(plan, name, results)


def _conditions(plan: Plan, name: str, stage: str) -> list[Problem]:
    found, options = [], plan.options(name, stage)
    with opened(plan, name) as source:
        for option, code in _CONDITIONS[stage].items():
            if isinstance(options[option], str) and "=" in options[option]:
                try:
                    matching(source.obs, options[option], code, f"{stage}: {option}")
                except BadInput as error:
                    found += error.problems
        if not found and "generation_metrics" in plan.wanted(name):
            found = _few_held_out(plan.options(name, "cells"), source.obs, options["condition"], stage)
    return found


def _few_held_out(of_cells: dict, obs, condition: str, stage: str) -> list[Problem]:
    """Fewer cells than generation_metrics compares; how many whole groups hold is not foreseen."""
    n_cells = len(matching(obs, condition, "HW-GM-003", f"{stage}: condition") if condition else obs)
    expected = of_cells["holdout"] * n_cells
    if expected >= FEWEST or of_cells["holdout_group"]:
        return []
    asked = f" with {condition!r}" if condition else ""
    cause = f"about {expected:.0f} of {n_cells} cells{asked} will be held out; fewer than {FEWEST} are not compared"
    remedy = "use a condition that more cells meet"
    if n_cells > 2 * FEWEST:
        remedy = f"set cells: holdout to {np.ceil(110 * FEWEST / n_cells) / 100:.2f}, or {remedy}"
    return [Problem("HW-GM-001", "generation_metrics", cause, remedy)]


def opened(plan: Plan, name: str) -> Input:
    row, memory = plan.datasets[name], memory_bytes(plan.config["memory"])
    source = {key: getattr(row, key) for key in ("source", "kind", "layer", "columns")}
    return open_input(**source, base=plan.base, roots=plan.roots, memory=memory)


def _beside(plan: Plan, name: str, new: Input, known: Input, made: Path) -> list[Problem]:
    kind, least = plan.datasets[name].kind, plan.options(name, "cells")["min_shared"]
    selected, item_shape = np.ones(len(known.features), bool), np.array(known.item_shape)
    reference, labels = SimpleNamespace(var=known.features, selected=selected, item_shape=item_shape), known.obs
    if kind in _SPARSE and (made / "manifest.json").exists():
        cells = store.read(made)
        reference = SimpleNamespace(var=cells["var"], selected=cells["selected"])
        labels = cells["obs"]
    elif kind in _SPARSE:
        least = 0.0
    found = []
    try:
        settle(new.features, new.item_shape, reference, kind, least, new.where)
    except BadInput as error:
        found += error.problems
    for column in plan.options(name, "extension")["transfer"]:
        try:
            coded(labels, len(labels), column)
        except BadInput as error:
            found += error.problems
    return found
