"""The report of a query: its cells over the map of the reference, how far they can be trusted, and their labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heatwalk import compared, evidence, page, pictures
from heatwalk.evidence import Concern
from heatwalk.extension import NO_LABEL, as_labels
from heatwalk.pictures import Column
from heatwalk.progress import log, track

_FIGURES, _GROUPINGS, _GROUPS = 6, 3, 40  # of a page, tables, and rows of a table
_UNASSIGNED = "#4B5157"
_BEHIND = 20_000  # cells of the reference drawn in grey
_FEW_TRUSTED, _FEW_GENES = 0.8, 0.95  # shares that a reader should know of


def shown(results: Mapping[str, Any], reference: Mapping[str, Any], dataset: str, color_by: Sequence[str]) -> dict:
    """What the page of a query shows."""
    obs, placed = results["cells"]["obs"], results["extension"]
    trust, component = (np.asarray(placed[name][:]) for name in ("trust", "component"))
    if "diffusion_map" not in reference:  # a network has one set of axes for all pieces
        component = np.zeros_like(component)
    columns = [column for name in obs.columns if (column := evidence.column(str(name), obs[name])) is not None]
    names = [str(name) for name in obs.columns]
    # What the reference is coloured by need not be known of a query.
    chosen, unknown = evidence.choose(columns, names, [name for name in color_by if name in names])
    groups = evidence.choose(columns, names, ())[0]
    carried = [_carried(name, placed["labels"][name]) for name in placed["labels"]]
    first = pictures.coloured(Column("trust", values=trust.astype(np.float64)))._replace(scale=(0.0, 1.0, False))
    drawn = [first, *evidence.densities(results), *carried, *chosen][:_FIGURES]
    cells = page.cells(results, obs)
    name = next(key.partition("/")[0] for key in placed.manifest["inputs"] if "/" in key)
    least = float(placed.manifest["parameters"]["min_trust"])
    genes = np.asarray(results["cells"]["reference_columns"][:]) >= 0
    trusted = float((trust >= least).mean())
    header = {
        "cells": len(trust),
        "genes": (int(genes.sum()), len(genes)),
        "modes": placed["coordinates"].shape[1],
        "trusted": trusted,
        "date": page.computed(results),
        "verdict": f"{trusted:.1%} of the cells have a trust of at least {least:g}; of cells like those of {name} "
        f"{1 - least:.0%} would, had the reference not seen them.",
    }
    about = {"reference": name, "least": least, "features": "genes" if cells["sparse"] else "features"}
    return {
        "dataset": dataset,
        "header": header,
        "warnings": _concerns(header, cells, unknown, about, any(column.levels for column in groups)),
        "map": _map(results, reference, drawn, component),
        "landed": {
            **about,
            "chart": pictures.histogram(trust, "trust", "Histogram of the trust of the cells.", ends=(0.0, 1.0)),
            "groups": _groups(groups, trust >= least),
            "network": "diffusion_map" not in reference,
            "labels": [_labels(obs, placed, label) for label in placed["labels"]],
            "t": _time(results, reference),
            "elsewhere": int((component > 0).sum()),
        },
        **dict.fromkeys(("spectrum", "network", "course", "bend", "made", "graph", "representation")),
        "cells": cells,
        "stages": page.stages(results),
        "totals": page.totals(results),
        "where": page.where(results),
        "features": about["features"],
        "box": pictures,
    }


def _time(results, reference) -> float:
    """A network has a t of its own."""
    stage = results["extension"] if "diffusion_map" in reference else reference["deep_diffusion_map"]
    return float(stage.manifest["parameters"]["t"])


def _carried(name: str, labels) -> Column:
    """Labels carried over; cells without one are darker than the grey of the reference."""
    codes = labels.cat.codes.to_numpy().astype(np.int32)
    levels = tuple(str(level) for level in labels.cat.categories)
    column = pictures.coloured(Column(f"{name}, carried over", levels, codes))
    return column._replace(colours=(*column.colours[:-1], _UNASSIGNED))


def _map(results, reference, columns: list[Column], component: np.ndarray) -> dict:
    """The query's cells that landed in the largest piece, over some of the reference's, for every column."""
    log.info("report: drawing %d cells over the reference", len(component))
    placed, modes = results["extension"], min(3, results["extension"]["coordinates"].shape[1])
    t, own = _time(results, reference), np.flatnonzero(component == 0)
    places = compared.exact if "diffusion_map" in reference else compared.learnt
    drawn = np.asarray(reference["affinity"]["components"][:]) == 0
    behind = places(reference, modes, t)[drawn if "diffusion_map" in reference else slice(None)]
    behind = behind[np.sort(np.random.default_rng(0).permutation(len(behind))[:_BEHIND])]
    over = np.asarray(placed["coordinates"][:], np.float64)[own, :modes]
    points = np.concatenate([behind, over])
    views = [(0, 1), (0, 2), (1, 2)] if modes == 3 else [(0, 1)][: modes - 1] or [(0, None)]
    figures = []
    for column in track(columns, "report: drawing", len(columns)):
        mine = column.of(own)
        drawn = [
            page.draw(points, _with_grey(mine, len(behind)), view, 900 if not place else 460)
            for place, view in enumerate(views)
        ]
        keys = pictures.legend(mine) if mine.levels else []
        grey = 0 if mine.levels else int(np.isnan(mine.values).sum())
        figures.append({"all": column, "column": mine, "pictures": drawn, "keys": keys, "grey": grey})
    return {
        "figures": figures,
        "small": [],
        "ramp": pictures.ramp(24),
        "t": t,
        "drawn": len(own),
        "behind": len(behind),
        "blended": len(points) > pictures.POINTS_UP_TO,
    }


def _with_grey(column: Column, n_behind: int) -> Column:
    """The column with so many cells before it that nothing is known of."""
    if column.levels:
        return column._replace(codes=np.concatenate([np.full(n_behind, -1, np.int32), column.codes]))
    return column._replace(values=np.concatenate([np.full(n_behind, np.nan), column.values]))


def _groups(columns: list[Column], trusted: np.ndarray) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """For the first columns with levels: every level, its cells, and the share of them that is trusted."""
    tables = []
    for column in [column for column in columns if column.levels][:_GROUPINGS]:
        counts = pictures.sizes(column)
        good = np.bincount(column.codes[trusted & (column.codes >= 0)], minlength=len(counts))
        order = [level for level in np.argsort(-counts, kind="stable")[:_GROUPS] if counts[level]]
        rows = [(column.levels[level], int(counts[level]), float(good[level] / counts[level])) for level in order]
        tables.append((column.name, rows))
    return tables


def _labels(obs, placed, name: str) -> dict:
    """How many cells took which label, how surely, and how often it is what the query says itself."""
    labels, probability = placed["labels"][name], placed["probability"][name]
    means = probability.groupby(labels.to_numpy(), observed=True).mean()
    rows = [
        (str(level), int(count), None if level == NO_LABEL or not count else float(means[level]))
        for level, count in labels.value_counts().items()
    ]
    own = as_labels(obs[name]) if name in obs else None
    agreed, given = None, labels.astype("string").reset_index(drop=True)
    if own is not None and (both := own.notna() & (given != NO_LABEL)).any():
        agreed = float((own[both] == given[both]).mean())
    return {"name": name, "rows": rows[:_GROUPS], "left": max(len(rows) - _GROUPS, 0), "agreed": agreed}


def _concerns(header: dict, cells: dict, unknown: list[str], about: dict, grouped: bool) -> list[Concern]:
    found, (there, wanted) = [], header["genes"]
    if any("without regard to case" in note for note in cells["notes"]):
        remedy = "Gene symbols of mouse and human differ so. If it is another species, map it by orthologues."
        found.append(Concern(f"Genes were found in {about['reference']} only without regard to case.", remedy))
    if header["trusted"] < _FEW_TRUSTED:
        text = f"Only {header['trusted']:.0%} of the cells are covered by {about['reference']}."
        remedy = (
            "Places and labels of the others mean little: there may be a batch effect, or types it has not or hardly."
        )
        remedy += " The table by group, under Trust, says which cells they are." if grouped else ""
        found.append(Concern(text, remedy))
    if there < _FEW_GENES * wanted:
        text = (
            f"{wanted - there:,} of the {wanted:,} {about['features']} that the reference was made from are not there."
        )
        found.append(Concern(text, "They count as at their mean. Use a source that has them, if there is one."))
    return found + evidence.about_cells(cells, unknown)
