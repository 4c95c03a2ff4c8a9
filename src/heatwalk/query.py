"""The cells of a query in the terms of its reference: which gene is which, how deep a cell is, what is selected."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.errors import BadInput, Problem
from heatwalk.progress import log, track

NAMES = ("gene_symbols", "gene_symbol", "gene_short_name", "gene_name", "feature_name", "symbol")
_IDS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl", "feature_id")
_WORTH = 0.01  # of the genes: what a looser way to compare names must find beyond a stricter one
_TOLD, _REFUSED = 1.5, 3.0  # ratio of mean depths of logged cells
_OTHER_UNITS = 10.0  # ratio of the largest values of items: 8 bits are off by 255, 12 bits in 16 by 16


class Shared(NamedTuple):
    """Which gene of the query each gene of the reference is."""

    columns: np.ndarray  # (gene of the reference,) int64, -1: absent
    how: str  # the names were compared


def as_it_is(name: str) -> str:
    return name


def without_version(name: str) -> str:
    """
    >>> without_version("ENSG00000141510.18"), without_version("RP11-34P13.7")
    ('ENSG00000141510', 'RP11-34P13.7')
    """
    return re.sub(r"^(ENS[A-Z]*\d{11})\.\d+$", r"\1", name)


def without_case(name: str) -> str:
    return without_version(name).casefold()


_WAYS: tuple[tuple[Callable[[str], str], str], ...] = (
    (as_it_is, ""),
    (without_version, " without version numbers"),
    (without_case, " without regard to case"),
)


def shared(new, known, wanted: np.ndarray) -> Shared:
    """Find every gene of a reference among those of a query.

    new, known: tables of genes (pandas), named by their index; columns of symbols and identifiers are tried too, in
    all pairs, first as they are, then without version numbers, then without regard to case. The strictest pair counts
    that finds as many of the `wanted` genes, within 1 in 100, as any. Names that stand twice are not found.
    """
    found = []
    for fold, way in _WAYS:
        for here, own in _columns(new):
            for there, others in _columns(known):
                columns = _positions(others, own, fold)
                found.append((int((columns[wanted] >= 0).sum()), Shared(columns, f"{here} with {there}{way}")))
    most = max(count for count, _ in found)
    return next(way for count, way in found if count >= most - _WORTH * wanted.sum())


def _columns(table) -> list[tuple[str, np.ndarray]]:
    """What genes are called: the index, and columns of symbols and identifiers."""
    named = [("names", table.index), *((name, table[name]) for name in (*NAMES, *_IDS) if name in table)]
    return [(name, np.asarray(values).astype(str)) for name, values in named]


def _positions(names: np.ndarray, among: np.ndarray, fold: Callable[[str], str]) -> np.ndarray:
    """Where each name stands among others, -1 where it does not, or where either stands twice."""
    import pandas

    own, others = (pandas.Index([fold(name) for name in values]) for values in (names, among))
    once = pandas.Index(others[~others.duplicated(keep=False)])
    place = np.append(np.flatnonzero(~others.duplicated(keep=False)), -1)[once.get_indexer(own)]
    return np.where(own.duplicated(keep=False), -1, place)


def settle(features, item_shape, reference, kind: str, min_shared: float, where: str) -> np.ndarray:
    """`shared`'s columns, told and checked: enough of the selected genes for sparse kinds, every column for others.

    Items are matched by position; points by their names where these are the same, else by position.
    """
    known, selected = reference.var, np.asarray(reference.selected[:])
    if kind in ("images", "sequences", "points"):
        shape, wanted = tuple(item_shape), tuple(np.asarray(reference.item_shape[:]))
        if len(features) != len(known) or (kind != "points" and shape != wanted):
            cause = f"an item has shape {_shape(shape)}, one of the reference {_shape(wanted)}"
            raise BadInput(Problem("HW-CE-006", where, cause, "give items of the reference's shape"))
        named = kind == "points" and set(features.index) == set(known.index)
        return features.index.get_indexer(known.index) if named else np.arange(len(known))
    found = shared(features, known, selected)
    n_found, n_wanted = int((found.columns[selected] >= 0).sum()), int(selected.sum())
    needed = min_shared if kind in ("counts", "logged") else 1.0
    if n_found < needed * n_wanted or not n_found:
        missing = [str(name) for name in known.index[selected & (found.columns < 0)]]
        cause = f"{n_found:,} of the {n_wanted:,} selected genes of the reference are there ({n_found / n_wanted:.1%})"
        cause += f", {needed:.0%} must be; missing: {', '.join(missing[:3])}; the query has {_few(features.index)}"
        remedy = "name its genes as the reference does, or give var a column gene_symbols or gene_ids"
        raise BadInput(Problem("HW-CE-006", where, cause, remedy))
    lost = n_wanted - n_found
    told = f"{n_found:,} of the {n_wanted:,} selected genes of the reference are there, comparing {found.how}"
    (log.warning if lost or found.how != "names with names" else log.info)("cells: %s", told)
    return found.columns


def _shape(lengths) -> str:
    return " x ".join(str(int(length)) for length in lengths)


def _few(names: Sequence[str]) -> str:
    return ", ".join(str(name) for name in names[:3])


def depths(stored: Mapping, n_genes: int, columns: np.ndarray, block_cells: int, *, unlogged: bool) -> np.ndarray:
    """(cell,) sum of the stored values in the genes that a reference has too; of exp(value) - 1 where `unlogged`.

    stored: indptr, indices and data of the query, CSR.
    """
    n_cells = stored["indptr"].shape[0] - 1
    total, inside = np.empty(n_cells), np.zeros(n_genes, bool)
    inside[columns[columns >= 0]] = True

    def add(rows: slice) -> None:
        indptr = np.asarray(stored["indptr"][rows.start : rows.stop + 1])
        edges = slice(int(indptr[0]), int(indptr[-1]))
        values = np.asarray(stored["data"][edges], np.float64) * inside[np.asarray(stored["indices"][edges])]
        row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        total[rows] = np.bincount(row, np.expm1(values) if unlogged else values, len(indptr) - 1)

    ranges = compute.blocks(n_cells, block_cells)
    for _ in track(compute.in_order(add, ranges), "cells: depths", len(ranges)):
        pass
    return total


def size_factors(total: np.ndarray, columns: np.ndarray, reference) -> np.ndarray:
    """Divisors of the counts by which a query's cells are as deep as the reference's.

        s_i = (sum_{g shared} x_ig / phi) / target,   phi = share of the reference's normalised counts in shared genes

    target: counts a cell of the reference has after its normalisation, total counts / size factor. With the same genes
    phi is 1, and this is the reference's own formula. A cell that has none of them counts as if it had one.
    """
    mean = reference.var["mean"].to_numpy(np.float64)
    share = mean[columns >= 0].sum() / mean.sum()
    known = np.asarray(reference.size_factors[:])
    target = np.median(reference.obs["total_counts"].to_numpy(np.float64) / known)
    if not total.all():
        log.warning("cells: %d of %d cells have no count in the reference's genes", (total == 0).sum(), len(total))
    return np.maximum(total, 1) / share / target


def check_scale(total: np.ndarray, columns: np.ndarray, reference, where: str) -> None:
    """Refuse logged values whose sum of exp(value) - 1 says that they were normalised in another way."""
    expected = float(reference.var["mean"].to_numpy(np.float64)[columns >= 0].sum())
    ratio = float(total.mean()) / expected if expected > 0 else np.inf
    if 1 / _TOLD <= ratio <= _TOLD:
        return
    told = (
        f"a cell has {total.mean():,.0f} counts in the shared genes after undoing the logarithm, one of the reference"
    )
    told += f" {expected:,.0f}"
    if not 1 / _REFUSED <= ratio <= _REFUSED:
        remedy = f"normalise the query to the reference's depth ({expected:,.0f}) before log1p"
        raise BadInput(Problem("HW-CE-007", where, f"{told}: it was normalised in another way", remedy))
    log.warning("cells: %s: was it normalised in the same way?", told)


def check_range(values, known, where: str, block_cells: int) -> None:
    """Refuse images or sequences whose largest value says that they are in other units than the reference's.

    Whole numbers are divided by the maximum of their type, other numbers are taken as they are: of 8-bit images beside
    floats from 0 to 255 nothing could be told. values, known: (item, value) of the query and of the reference.
    """
    largest, wanted = _largest(values, block_cells), _largest(known, block_cells)
    if not largest or not wanted or 1 / _OTHER_UNITS < largest / wanted < _OTHER_UNITS:
        return
    cause = f"values reach {largest:.4g}, those of the reference {wanted:.4g} (whole numbers are divided by the largest"
    cause += " one of their type)"
    remedy = "store both as whole numbers of one type, or both as floats in the same units"
    raise BadInput(Problem("HW-CE-008", where, cause, remedy))


def _largest(values, block_cells: int) -> float:
    ranges = compute.blocks(values.shape[0], block_cells)
    return max(compute.in_order(lambda rows: float(np.abs(np.asarray(values[rows])).max(initial=0)), ranges))
