"""pseudotime: diffusion pseudotime from roots, branches, and the genes that go with it and with the components."""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from heatwalk import arrays, compute
from heatwalk.branches import TIPS, branched
from heatwalk.condition import column_of, with_value
from heatwalk.deep_diffusion_map import DeepDiffusionMap
from heatwalk.diffusion_map import DiffusionMap
from heatwalk.errors import BadInput, Problem, first_few
from heatwalk.genes import genes
from heatwalk.progress import log

KNOWN, NO_ROOT, NO_PLACE, NO_DECAY = range(4)
REASONS = (
    "known",
    "no root in its piece of the graph",
    "no place in the map",
    "an eigenvalue of its piece is 1",
)
_NEAREST_TO_ONE = 1e-12  # 1 - lambda below it is rounding, and its inverse no number
TIME = re.compile(r"time|day|hour|hpf|week|month|year|stage|\bage|_age", re.I)


class Pseudotime(NamedTuple):
    pseudotime: Any  # (cell,) float64, NaN where the reason is not 0
    reason: Any  # (cell,) uint8, index into REASONS
    branch: Any  # (cell,) int8
    roots: Any  # (root,) table: name, cell, component, asked
    tips: Any  # (component, tip) int64, -1 where there are none
    agreement: Any  # (component, tip, 2) float64, NaN where there are no tips
    correlation: Any = None  # (gene, variable) float64
    p_value: Any = None  # (gene, variable) float64
    false_discovery_rate: Any = None  # (gene, variable) float64
    relevance: Any = None  # (gene, variable) float64


def pseudotime(
    map_,
    affinity,
    cells=None,
    *,
    roots: Sequence[str | int] = (),
    threads: int | None = None,
    block_cells: int = compute.BLOCK_CELLS,
    out: MutableMapping | None = None,
) -> Pseudotime:
    """Diffusion pseudotime of every cell: the distance from the nearest root of its connected component.

        dpt(x, y)^2 = sum_k (lambda_k / (1 - lambda_k))^2 (psi_k(x) - psi_k(y))^2
                    = sum_z (M(x, z) - M(y, z))^2 / pi(z),  M = sum_{t >= 1} (P^t - 1 pi^T)

    over the pairs of the map: the walk's rows summed over all times, without what it converges to. The left side is
    the right one because psi_k are orthonormal with respect to pi, and sum_{t >= 1} lambda^t = lambda / (1 - lambda).
    map_: a DiffusionMap; or a DeepDiffusionMap, whose places are lambda^t psi up to a rotation: then the distance is
    the diffusion distance at the network's t.
    roots: names of cells (or their numbers, where no `cells` are given), or `column=value` of `cells.obs`, also
    `column=min` and `column=max`. A value stands for one of its cells in each component: the one nearest to the median
    of their places. reason: an index into REASONS; branch: see `branches.branched`, -1 where there is no pseudotime.
    genes: see `heatwalk.genes`, of pseudotime and of each mode, in this order, over the cells of the first root's
    component; none without `cells`.
    Raises BadInput where there are no roots, where one is not among the cells, or where none has a place in the map.
    Source: Haghverdi et al., Nat. Methods 13, 845 (2016), with psi in place of the symmetric matrix's eigenvectors.
    """
    out = {} if out is None else out
    components = np.asarray(affinity.components[:])
    places, reason = _places(map_, components)
    found = _roots(roots, cells, places, components, reason)
    time = np.full(len(components), np.nan)
    branch = np.full(len(components), -1, np.int8)
    tips = np.full((int(components.max()) + 1, TIPS), -1, np.int64)
    agreement = np.full((*tips.shape, 2), np.nan)
    reason[~np.isin(components, found["component"]) & (reason == KNOWN)] = NO_ROOT
    for label, own in found.groupby("component")["cell"]:
        here = np.flatnonzero((components == label) & (reason == KNOWN))
        time[here] = _from_nearest(places, own.to_numpy(), here)
        branch[here], tips[label], agreement[label] = branched(places[here], time[here], here)
    _say(reason, found)
    for name, values in {"pseudotime": time, "reason": reason, "branch": branch, "tips": tips}.items():
        arrays.make(out, name, values.shape, values.dtype)[...] = values
    arrays.make(out, "agreement", agreement.shape, np.float64)[...] = agreement
    out["roots"] = found
    if cells is not None:
        del places
        limits = {"block_cells": block_cells, "threads": threads}
        _genes_of(time, map_, components == found["component"].iloc[0], cells, out, limits)
    return Pseudotime(**{name: out[name] for name in Pseudotime._fields if name in out})


def map_of(results: Mapping[str, Mapping]) -> DiffusionMap | DeepDiffusionMap:
    """The map among published results: that of the eigenvectors where there is one."""
    spectral = "diffusion_map" in results
    return DiffusionMap(**results["diffusion_map"]) if spectral else DeepDiffusionMap(**results["deep_diffusion_map"])


def suggested(obs) -> list[str]:
    """Roots that columns of obs may stand for: the earliest cells of those that sound like a time.

    >>> import pandas
    >>> suggested(pandas.DataFrame({"embryo.time": [130, 90], "type": ["a", "b"]}))
    ['embryo.time=min']
    """
    import pandas

    named = [name for name in obs.columns if TIME.search(str(name))]
    return [f"{name}=min" for name in named if pandas.api.types.is_numeric_dtype(obs[name])]


def _scale(map_, components: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Factor of every mode by component, NaN where a component has no such mode; and the reason of every component."""
    sizes = np.bincount(components)
    reason = np.full(len(sizes), KNOWN, np.uint8)
    if not hasattr(map_, "eigenvectors"):
        return None, reason
    values = np.atleast_2d(np.asarray(map_.eigenvalues[...], np.float64))
    has = np.minimum(values.shape[1], sizes - 1)  # modes that a component of this size must have
    whole = np.isfinite(values)
    reason[(whole.sum(axis=1) < has) | (has < 1)] = NO_PLACE
    reason[(1 - values < _NEAREST_TO_ONE).any(axis=1)] = NO_DECAY
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where((reason == KNOWN)[:, None], values / (1 - values), np.nan)
    missed = int((whole & ~np.atleast_2d(np.asarray(map_.converged[...]))).sum())
    if missed:
        log.warning("pseudotime: %d of %d pairs of the map did not converge", missed, whole.sum())
    return factors, reason


def _places(map_, components: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places whose Euclidean distances are dpt, (cell, mode) float64, and why a cell has none."""
    vectors = _modes(map_)
    if vectors.shape[0] != len(components):
        cause = f"the map is of {vectors.shape[0]} cells, the graph of {len(components)}"
        raise BadInput(Problem("HW-PT-001", "pseudotime", cause, "give the map of this graph"))
    factors, of_component = _scale(map_, components)
    places, reason = np.empty(vectors.shape), of_component[components]
    for rows in compute.blocks(len(places), compute.BLOCK_CELLS):
        places[rows] = vectors[rows]
        if factors is not None:  # a mode that a component is too small for adds nothing
            own = factors[components[rows]]
            places[rows] = np.where(np.isnan(own), 0.0, places[rows] * own)
    reason[~np.isfinite(places).all(axis=1) & (reason == KNOWN)] = NO_PLACE
    return places, reason


def _modes(map_):
    return map_.eigenvectors if hasattr(map_, "eigenvectors") else map_.coordinates


def _from_nearest(places: np.ndarray, own: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Distance of the cells `here` from the nearest of the roots `own`."""
    time = np.full(len(here), np.inf)
    for root in own:
        for rows in compute.blocks(len(here), compute.BLOCK_CELLS):
            time[rows] = np.minimum(time[rows], np.linalg.norm(places[here[rows]] - places[root], axis=1))
    return time


def _say(reason: np.ndarray, found) -> None:
    log.info("pseudotime: %d roots: %s", len(found), first_few(found.index))
    for code, count in enumerate(np.bincount(reason, minlength=len(REASONS))):
        if code and count:
            log.warning("pseudotime: %d of %d cells have none: %s", count, len(reason), REASONS[code])


# ---- roots -----------------------------------------------------------------------------------------------------------


def _roots(roots, cells, places: np.ndarray, components: np.ndarray, reason: np.ndarray):
    """Table of the roots, each cell once, in the order asked for."""
    import pandas

    if not len(roots):
        known = suggested(cells.obs) if cells is not None else []
        remedy = f"set pseudotime: roots, for example to [{known[0] if known else 'NAME OF A CELL'}]"
        raise BadInput(Problem("HW-PT-002", "roots", "no root is given", remedy))
    chosen, lost = {}, 0
    for asked in roots:
        group = _group(asked, cells, len(components))
        usable = group[reason[group] == KNOWN]
        lost += len(group) - len(usable)
        for label in np.unique(components[usable]):
            chosen.setdefault(_middle(places, usable[components[usable] == label]), str(asked))
    if lost:
        log.warning("pseudotime: %d cells asked for as roots have no place in the map", lost)
    if not chosen:
        cause = f"none of the {lost} cells of {first_few(roots)} has a place in the map"
        raise BadInput(Problem("HW-PT-005", "roots", cause, "name other cells; the log of diffusion_map says more"))
    numbers = np.fromiter(chosen, np.int64)
    names = [str(number) for number in numbers] if cells is None else cells.obs.index[numbers].astype(str)
    columns = {"cell": numbers, "component": components[numbers].astype(np.int64), "asked": list(chosen.values())}
    return pandas.DataFrame(columns, index=pandas.Index(names, name="name"))


def _middle(places: np.ndarray, group: np.ndarray) -> int:
    """The cell of a group nearest to the median of its places; the mean would follow a few stray cells."""
    away = np.linalg.norm(places[group] - np.median(places[group], axis=0), axis=1)
    return int(group[np.argmin(away)])


def _group(asked: str | int, cells, n_cells: int) -> np.ndarray:
    """Numbers of the cells that a root stands for."""
    if cells is None:
        if not (isinstance(asked, int | np.integer) and 0 <= asked < n_cells):
            cause = f"{asked!r} is no number of a cell, 0 to {n_cells - 1}"
            raise BadInput(
                Problem("HW-PT-003", "roots", cause, "give the number of a cell, or `cells` with their names")
            )
        return np.array([asked])
    obs, text = cells.obs, str(asked)
    named = np.flatnonzero(np.asarray(obs.index == text))
    if len(named):
        return named
    known = column_of(obs, text)
    if known is not None:
        return with_value(obs[known], text[len(known) + 1 :], text, "HW-PT-004", "roots")
    gone = 0 if cells.removed is None else int(cells.removed["cells"].sum())
    if "=" in text:
        cause = f"there is no cell {text!r} and no column {text.partition('=')[0]!r} in obs"
        remedy = f"use a column of obs: {first_few(obs.columns, 10) or 'none is there'}"
        raise BadInput(Problem("HW-PT-004", "roots", cause, remedy))
    cause = f"there is no cell {text!r} among the {n_cells} cells; quality control removed {gone}"
    remedy = f"name one of them, such as {obs.index[0]}, or write column=value of obs"
    raise BadInput(Problem("HW-PT-003", "roots", cause, remedy))


# ---- genes -----------------------------------------------------------------------------------------------------------


def _genes_of(time: np.ndarray, map_, inside: np.ndarray, cells, out: MutableMapping, limits: dict) -> None:
    """Fill `out` with the genes of pseudotime and of every mode. Modes of two components have nothing in common."""
    modes = _modes(map_)
    variables = np.empty((len(time), 1 + modes.shape[1]))
    for rows in compute.blocks(len(time), compute.BLOCK_CELLS):
        variables[rows, 0], variables[rows, 1:] = time[rows], modes[rows]
    variables[~inside] = np.nan
    for name, values in genes(cells, variables, **limits)._asdict().items():
        arrays.make(out, name, values.shape, np.float64)[...] = values
