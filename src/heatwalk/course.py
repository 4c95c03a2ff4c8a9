"""The report's section on pseudotime: the map coloured by it, its branches, and the genes that go with it."""

from collections.abc import Mapping

import numpy as np

from heatwalk import compared, page, pictures
from heatwalk.evidence import Concern
from heatwalk.pictures import Column
from heatwalk.pseudotime import NO_ROOT, REASONS
from heatwalk.query import NAMES

_GENES = 12  # of a table
_NAMED = 8  # roots
_FEW = 0.01  # share of the cells
_BRANCHES = ("at the crossing", "the root's branch", "the second branch", "the third branch")


def section(results: Mapping) -> dict | None:
    """Pictures of the piece of the graph that the first root is in, and tables of genes; None without pseudotime."""
    if "pseudotime" not in results:
        return None
    found, roots = results["pseudotime"], results["pseudotime"]["roots"]
    label = int(roots["component"].iloc[0])
    own = np.asarray(results["affinity"]["components"][:]) == label
    values, branch = (np.asarray(found[name][:])[own] for name in ("pseudotime", "branch"))
    column = pictures.coloured(Column("pseudotime", values=values))
    column = column._replace(scale=(0.0, column.scale[1], False))  # it begins at the root
    codes = np.where(branch < 0, -1, (branch + 3) % 4).astype(np.int32)
    branches = pictures.coloured(Column("branch", (*_BRANCHES[1:], _BRANCHES[0]), codes))
    branching = bool((branch > 0).any())
    columns = [column, *([branches] if branching else [])]
    points, view = places(results, own)
    reason = np.bincount(np.asarray(found["reason"][:]), minlength=len(REASONS))
    agreement = np.asarray(found["agreement"][label])
    return {
        "pictures": [page.draw(points, each, view, 640) for each in columns],
        "column": column,
        "ramp": pictures.ramp(24),
        "keys": pictures.legend(branches) if branching else [],
        "branching": branching,
        "weakest": float(agreement[:, 0].min()) if branching else None,
        "roots": [(str(name), str(asked)) for name, asked in zip(roots.index[:_NAMED], roots["asked"], strict=False)],
        "left": len(roots) - _NAMED,
        "cells": int(own.sum()),
        "unknown": [(text, int(count)) for text, count in zip(REASONS[1:], reason[1:], strict=True) if count],
        "without_root": int(reason[NO_ROOT]),
        "all": len(own),
        "chart": pictures.histogram(values, "pseudotime", "Histogram of pseudotime.", ends=(0.0, _end(values))),
        **_tables(results),
    }


def concerns(shown: dict | None) -> list[Concern]:
    if not shown or shown["without_root"] <= _FEW * shown["all"]:
        return []
    lost = f"{shown['without_root']:,} of {shown['all']:,} cells"
    text = f"{lost} have no pseudotime: no root is in their piece of the graph."
    return [Concern(text, "Name a root in each piece, or raise neighbors: n_neighbors until they join.")]


def _end(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.max(initial=0.0)) or 1.0


def places(results: Mapping, own: np.ndarray) -> tuple[np.ndarray, tuple[int, int | None]]:
    """Places of the cells on the first two components, and which these are."""
    neural = "diffusion_map" not in results
    values = results["deep_diffusion_map"]["coordinates"] if neural else results["diffusion_map"]["eigenvectors"]
    modes = min(2, values.shape[1])
    points = (compared.learnt if neural else compared.exact)(results, modes, 1.0)[own]
    return points, ((0, 1) if modes == 2 else (0, None))


def _tables(results: Mapping) -> dict:
    """The genes that go up or down with pseudotime, and those that change most along it without that."""
    found, var = results["pseudotime"], results["cells"]["var"]
    names = next((var[name] for name in NAMES if name in var), var.index.to_series()).astype(str).to_numpy()
    kinds = ("correlation", "false_discovery_rate", "relevance")
    correlation, rate, relevance = (np.asarray(found[name][:, 0]) for name in kinds)
    known = np.isfinite(correlation)
    by_size = np.argsort(-np.where(known, np.abs(correlation), -1), kind="stable")[: min(_GENES, int(known.sum()))]
    by_change = np.argsort(-np.where(np.isfinite(relevance), relevance, -1), kind="stable")
    other = [gene for gene in by_change[: 2 * _GENES] if gene not in set(by_size) and relevance[gene] > 0][:_GENES]

    def rows(chosen) -> list[tuple]:
        return [(names[g], float(correlation[g]), float(rate[g]), float(relevance[g])) for g in chosen]

    return {
        "first": rows(by_size),
        "changing": rows(other),
        "found": int((rate < 0.05).sum()),
        "tested": int(known.sum()),
    }
