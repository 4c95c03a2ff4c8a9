"""cells: any input becomes validated cells on Zarr, with quality control, size factors and selected genes."""

from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from heatwalk import arrays, compute, query
from heatwalk.errors import BadInput, Problem
from heatwalk.inputs import ITEM_KINDS, ValueCheck
from heatwalk.progress import log, track
from heatwalk.spaces import SPACES

_DISPERSION_BINS = 20


class Cells(NamedTuple):
    obs: Any  # (cell,) table
    var: Any  # (gene,) table
    removed: Any  # (reason,) table
    size_factors: Any  # (cell,) float64
    selected: Any  # (gene,) bool
    split: Any  # (cell,) uint8
    logarithm: Any  # bool
    item_shape: Any  # (axis,) int64
    indptr: Any = None  # (cell + 1,) int64; sparse kinds
    indices: Any = None  # (gene_edge,) int32
    data: Any = None  # (gene_edge,) float32
    values: Any = None  # (cell, gene) float32; dense kinds
    obsm: Any = None  # name -> (cell, coordinate)
    reference_columns: Any = None  # (reference_gene,) int64; of a query


def cells(
    source,
    kind: str,
    space: str = "euclidean",
    *,
    min_counts: int = 1,
    max_counts: int = 0,
    min_genes: int = 1,
    max_mito_percent: float = 100.0,
    mito_prefixes: Sequence[str] = ("MT-", "mt-"),
    min_cells: int = 3,
    target_sum: str | float = "median",
    log1p: str | bool = "auto",
    n_top_genes: int = 2000,
    transform: str = "arcsinh",
    cofactor: float = 150.0,
    units: str = "degrees",
    holdout: float = 0.1,
    holdout_group: str = "",
    min_shared: float = 0.7,
    seed: int = 0,
    block_cells: int = compute.BLOCK_CELLS,
    reference: "Cells | None" = None,
    out: MutableMapping | None = None,
) -> Cells:
    """Read a source (`heatwalk.inputs.open_input`) in row blocks into cells that every later stage can trust.

    kind: "counts" (quality control, normalisation, log1p, variable genes), "logged" (variable genes only),
    "intensities" (`transform`: x -> arcsinh(x / cofactor), or "none"), "points" of a `space` in the given `units`
    (embedded in Euclidean coordinates), "images" and "sequences" (whole numbers are divided by their type's maximum).
    Counts are stored as they are. A later stage asks `normalised` for log1p(count / size factor), size factor =
    counts of the cell / `target_sum`; "median" is the median of all kept cells, "none" leaves depths alone.
    Variable genes: the `n_top_genes` (0: all) of those in at least `min_cells` cells with the largest log dispersion,
    standardised within 20 bins of mean. split: a seeded share `holdout` of cells is marked 1, whole groups of the
    `obs` column `holdout_group` together.
    reference: the cells that these are a query of. Genes are found by name (`query.shared`), at least `min_shared` of
    its selected ones; depths are those of the genes that both have (`query.size_factors`); no cell is for training.
    Raises BadInput with every problem of the values. Source of the dispersions: Satija et al., Nat. Biotechnol. 2015.
    """
    out = {} if out is None else out
    logarithm = _logarithm(log1p, kind, source.where)
    _say(source.notes)
    out["item_shape"] = np.array(source.item_shape, np.int64)
    if kind in ("counts", "logged"):
        limits = (min_counts, max_counts, min_genes, max_mito_percent) if kind == "counts" else (0, 0, 0, 100.0)
        mitochondrial = _mitochondrial(source.features, mito_prefixes)
        obs, rows, removed = _sparse(source, kind, limits, mitochondrial, block_cells, out)
    else:
        obs, rows, removed = _dense(source, kind, space, (transform, cofactor, units), block_cells, out)
    _copy_obsm(source.obsm, rows, block_cells, out)
    out["logarithm"], var = np.bool_(logarithm), _features(source.features, kind, space)
    if reference is not None:
        options = (target_sum, min_shared, source.where, block_cells)
        var = _in_terms_of(reference, var, len(obs), kind, options, out)
    else:
        var = _in_own_terms(obs, var, kind, target_sum, (min_cells, n_top_genes, block_cells), out)
        out["split"] = _split(obs, holdout, holdout_group, seed)
    out["obs"], out["var"], out["removed"] = obs, var, removed
    return Cells(**{name: out[name] for name in Cells._fields if name in out})


def normalised(cells: Cells, rows: slice) -> scipy.sparse.csr_array | np.ndarray:
    """Values of a row block as later stages use them: counts divided by size factors, log1p where it applies."""
    if cells.values is not None:
        return np.asarray(cells.values[rows])
    indptr = np.asarray(cells.indptr[rows.start : rows.stop + 1])
    edges = slice(int(indptr[0]), int(indptr[-1]))
    values = np.asarray(cells.data[edges], np.float64)
    values /= np.repeat(np.asarray(cells.size_factors[rows]), np.diff(indptr))
    if bool(np.asarray(cells.logarithm)[()]):
        np.log1p(values, out=values)
    shape = (rows.stop - rows.start, cells.selected.shape[0])
    return scipy.sparse.csr_array((values, np.asarray(cells.indices[edges]), indptr - indptr[0]), shape=shape)


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        log.warning("cells: %s", note)


def _logarithm(log1p: str | bool, kind: str, where: str) -> bool:
    if log1p is True and kind == "logged":
        cause = "log1p is asked for on data of kind logged"
        raise BadInput(Problem("HW-CE-001", where, cause, "set cells: log1p to auto, or the kind to counts"))
    return kind == "counts" if log1p == "auto" else bool(log1p) and kind == "counts"


def _sparse(source, kind: str, limits, mitochondrial: np.ndarray, block_cells: int, out: MutableMapping):
    """Stream sparse values into CSR without cells that miss a threshold; obs, the rows kept, and what was removed."""
    import pandas

    check = ValueCheck(kind, source.obs.index, source.where)
    indices, data = arrays.Appender(out, "indices", np.int32), arrays.Appender(out, "data", np.float32)
    lengths, kept, figures, removed = [], [], [], np.zeros(len(_REASONS), np.int64)
    n_blocks, start = -(-source.n_cells // block_cells), 0
    for block in track(source.blocks(block_cells), "cells: reading", n_blocks):
        check.add(block)
        matrix = scipy.sparse.csr_array(block)
        matrix.sort_indices()
        matrix.eliminate_zeros()
        table = _quality(matrix, mitochondrial)
        reason = _reason(table, limits, kind)
        removed += np.bincount(reason, minlength=len(_REASONS))
        keep = np.flatnonzero(reason == 0)
        chosen = matrix[keep] if len(keep) < matrix.shape[0] else matrix
        indices.append(chosen.indices)
        data.append(chosen.data)
        lengths.append(np.diff(chosen.indptr))
        kept.append(keep + start)
        figures.append(table.iloc[keep])
        start += matrix.shape[0]
    _finish(check, removed, source)
    indices.close(), data.close()
    rows = np.concatenate(kept)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    arrays.make(out, "indptr", indptr.shape, np.int64)[:] = indptr
    obs = source.obs.iloc[rows].copy()
    figures = pandas.concat(figures, ignore_index=True).set_index(obs.index)
    for name in figures.columns if kind == "counts" else ["n_genes_by_counts"]:
        if name in obs:
            _say([f"the obs column {name!r} of the input is replaced by what these counts give"])
        obs[name] = figures[name]
    thresholds = [str(limit) for limit in (0, *limits)]
    reasons = pandas.DataFrame({"threshold": thresholds, "cells": removed[1:]}, index=list(_REASONS[1:]))
    return obs, rows, reasons


_REASONS = ("kept", "empty", "min_counts", "max_counts", "min_genes", "max_mito_percent")


def _quality(matrix: scipy.sparse.csr_array, mitochondrial: np.ndarray):
    """Depth, number of genes and mitochondrial share of every cell of a block, under the names scanpy gives them."""
    import pandas

    totals = np.asarray(matrix.sum(axis=1), np.float64).ravel()
    mito = np.asarray(matrix @ mitochondrial.astype(np.float64)).ravel()
    share = np.divide(100 * mito, totals, out=np.zeros_like(totals), where=totals > 0)
    columns = {"total_counts": totals, "n_genes_by_counts": np.diff(matrix.indptr).astype(np.int32)}
    return pandas.DataFrame(columns | ({"pct_counts_mt": share} if mitochondrial.any() else {}))


def _reason(table, limits, kind: str) -> np.ndarray:
    """Index into _REASONS of the first threshold that each cell misses; 0 for a kept cell."""
    min_counts, max_counts, min_genes, max_mito_percent = limits
    totals, genes = table["total_counts"].to_numpy(), table["n_genes_by_counts"].to_numpy()
    mito = table["pct_counts_mt"].to_numpy() if "pct_counts_mt" in table else np.zeros(len(table))
    misses = [
        genes == 0,
        totals < min_counts,
        (totals > max_counts) & (max_counts > 0),
        genes < min_genes,
        mito > max_mito_percent,
    ]
    if kind == "logged":  # sums of logged values are no depths, and their shares no shares
        misses[1:] = [np.zeros(len(table), bool)] * 4
    return np.where(np.any(misses, axis=0), np.argmax(misses, axis=0) + 1, 0)


def _finish(check: ValueCheck, removed: np.ndarray, source) -> None:
    """Stop when the values are bad or no cell is left; say how many cells were removed."""
    problems = check.problems()
    if not problems and removed[0] == 0:
        reasons = ", ".join(f"{name} {count}" for name, count in zip(_REASONS, removed, strict=True) if count)
        cause = f"quality control removed all {source.n_cells} cells ({reasons})"
        problems = [Problem("HW-CE-002", source.where, cause, "lower the thresholds in the section cells")]
    if problems:
        raise BadInput(*problems)
    _say(check.notes())
    for name, count in zip(_REASONS[1:], removed[1:], strict=True):
        if count:
            log.warning("cells: removed %d of %d cells: %s", count, source.n_cells, name)


def _dense(source, kind: str, space: str, options, block_cells: int, out: MutableMapping):
    """Stream dense values through the kind's transform."""
    import pandas

    transform, cofactor, units = options
    check = ValueCheck(kind, source.obs.index, source.where)
    n_features = len(_features(source.features, kind, space))
    values = arrays.make(out, "values", (source.n_cells, n_features), np.float32)
    n_blocks = -(-source.n_cells // block_cells)
    for number, block in enumerate(track(source.blocks(block_cells), "cells: reading", n_blocks)):
        check.add(block)
        rows = slice(number * block_cells, min((number + 1) * block_cells, source.n_cells))
        dense = block.toarray() if scipy.sparse.issparse(block) else np.asarray(block)
        if kind == "intensities" and transform == "arcsinh":
            dense = np.arcsinh(dense.astype(np.float64) / cofactor)
        elif kind == "points":
            dense = _embedded(dense, space, units, source.where)
        elif kind in ITEM_KINDS and dense.dtype.kind in "ui":
            dense = dense / np.iinfo(dense.dtype).max
        values[rows] = dense.astype(np.float32)
    problems = check.problems()
    if problems:
        raise BadInput(*problems)
    _say(check.notes())
    removed = pandas.DataFrame({"threshold": pandas.Series(dtype=str), "cells": pandas.Series(dtype=np.int64)})
    return source.obs.copy(), np.arange(source.n_cells), removed


def _embedded(values: np.ndarray, space: str, units: str, where: str) -> np.ndarray:
    try:
        return SPACES[space].embed(values.astype(np.float64), units)
    except ValueError as error:
        remedy = "name the right columns in datasets.tsv, and their units under cells: units"
        raise BadInput(Problem("HW-CE-003", where, str(error), remedy)) from None


def _features(features, kind: str, space: str):
    """The table of features: of points in a curved space, the Euclidean coordinates they are embedded in."""
    import pandas

    if kind == "points" and space != "euclidean":
        return pandas.DataFrame(index=SPACES[space].names([str(name) for name in features.index]))
    return features.copy()


def _copy_obsm(obsm, rows: np.ndarray, block_cells: int, out: MutableMapping) -> None:
    """Embeddings of the kept cells; held in memory they are a dict, on disk they are written block by block."""
    if not obsm:
        return
    on_disk = hasattr(out, "make")
    kept = {}
    for key, array in obsm.items():
        kept[key] = arrays.make(
            out if on_disk else kept, f"obsm/{key}" if on_disk else key, (len(rows), array.shape[1]), array.dtype
        )
        for part in compute.blocks(len(rows), block_cells):
            first, last = rows[part.start], rows[part.stop - 1] + 1
            kept[key][part] = np.asarray(array[first:last])[rows[part] - first]
    if not on_disk:
        out["obsm"] = kept


def _size_factors(totals: np.ndarray, target_sum: str | float) -> np.ndarray:
    if target_sum == "none":
        return np.ones(len(totals))
    return totals / (np.median(totals) if target_sum == "median" else float(target_sum))


def _in_own_terms(obs, var, kind: str, target_sum: str | float, options, out: MutableMapping):
    """Fill size factors and the mask of selected genes; `var` with what is known of every gene."""
    totals = obs["total_counts"].to_numpy(np.float64) if kind == "counts" else np.ones(len(obs))
    out["size_factors"] = _size_factors(totals, target_sum if kind == "counts" else "none")
    selected = np.ones(len(var), bool)
    if kind in ("counts", "logged"):
        var, selected = _variable_genes(_view(out), var, kind, *options)
    out["selected"] = selected
    return var


def _in_terms_of(reference: Cells, var, n_cells: int, kind: str, options, out: MutableMapping):
    """Fill a query's size factors, columns and mask of selected genes; `var` with the reference's names of genes."""
    target_sum, min_shared, where, block_cells = options
    columns = query.settle(var, np.asarray(out["item_shape"][:]), reference, kind, min_shared, where)
    total = query.depths(out, len(var), columns, block_cells, unlogged=kind == "logged") if "indptr" in out else None
    if kind == "logged":
        query.check_scale(total, columns, reference, where)
    if kind in ITEM_KINDS:
        query.check_range(out["values"], reference.values, where, block_cells)
    depths_count = kind == "counts" and target_sum != "none"
    out["size_factors"] = query.size_factors(total, columns, reference) if depths_count else np.ones(n_cells)
    out["split"] = np.ones(n_cells, np.uint8)
    chosen = np.asarray(reference.selected[:])
    out["reference_columns"] = columns[chosen]
    selected, names = np.zeros(len(var), bool), np.full(len(var), "", object)
    selected[columns[chosen & (columns >= 0)]] = True
    names[columns[columns >= 0]] = np.asarray(reference.var.index, str)[columns >= 0]
    out["selected"], var["reference_name"] = selected, names
    return var


def _mitochondrial(features, prefixes: Sequence[str]) -> np.ndarray:
    symbols = next((features[name] for name in query.NAMES if name in features), features.index.to_series())
    return symbols.astype(str).str.startswith(tuple(prefixes)).to_numpy()


def _view(out: MutableMapping) -> Cells:
    """What is filled so far, as `normalised` reads it."""
    empty = dict.fromkeys(("obs", "var", "removed", "item_shape", "split"))
    names = ("indptr", "indices", "data", "size_factors", "logarithm")
    return Cells(**empty, **{name: out[name] for name in names}, selected=None)


def _variable_genes(cells: Cells, var, kind: str, min_cells: int, n_top_genes: int, block_cells: int):
    """`var` with mean, dispersion and number of cells of every gene, and the mask of the selected ones.

    With x = count / size factor (or exp(value) - 1 of logged data): dispersion = log(var(x) / mean(x)), standardised
    within 20 equal-width bins of log1p(mean).
    """
    n_genes, n_cells = len(var), cells.indptr.shape[0] - 1
    sums, squares, n_with = np.zeros(n_genes), np.zeros(n_genes), np.zeros(n_genes, np.int64)

    def moments(rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        block = normalised(cells._replace(logarithm=False, selected=np.empty(n_genes, bool)), rows)
        values = block.data if kind == "counts" else np.expm1(block.data)
        count = np.bincount(block.indices, minlength=n_genes)
        return np.bincount(block.indices, values, n_genes), np.bincount(block.indices, values**2, n_genes), count

    ranges = compute.blocks(n_cells, block_cells)
    for total, square, count in track(compute.in_order(moments, ranges), "cells: variable genes", len(ranges)):
        sums, squares, n_with = sums + total, squares + square, n_with + count
    mean = sums / n_cells
    variance = np.maximum(squares / n_cells - mean**2, 0) * n_cells / max(n_cells - 1, 1)
    var["mean"], var["n_cells"] = mean, n_with
    var["dispersion"] = dispersion = _standardised_dispersion(mean, variance)
    eligible = n_with >= min(min_cells, n_cells)
    if not eligible.any():
        cause = f"none of the {n_genes} genes is in {min_cells} cells"
        raise BadInput(Problem("HW-CE-004", "cells: min_cells", cause, "lower min_cells"))
    if n_top_genes and eligible.sum() > n_top_genes:
        score = np.where(eligible & np.isfinite(dispersion), dispersion, -np.inf)
        best = np.argsort(-score, kind="stable")[:n_top_genes]
        eligible &= np.isin(np.arange(n_genes), best)
    return var, eligible


def _standardised_dispersion(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    import pandas

    safe_mean = np.where(mean == 0, 1e-12, mean)
    ratio = variance / safe_mean
    dispersion = np.log(ratio, out=np.full_like(ratio, np.nan), where=ratio > 0)
    bins = pandas.cut(np.log1p(safe_mean), bins=_DISPERSION_BINS, labels=False)
    grouped = pandas.Series(dispersion).groupby(bins)
    centre, spread = grouped.transform("mean").to_numpy(), grouped.transform("std").to_numpy()
    alone = np.isnan(spread)  # a bin of one gene: its dispersion is as ordinary as can be, and counts as 1
    standardised = (dispersion - centre) / np.where(spread > 0, spread, 1)
    return np.where(alone, np.where(np.isnan(dispersion), np.nan, 1.0), standardised)


def _split(obs, holdout: float, holdout_group: str, seed: int) -> np.ndarray:
    """1 for held-out cells: a seeded share, rounded down; whole groups until the share is reached where grouped."""
    generator, split = np.random.default_rng(seed), np.zeros(len(obs), np.uint8)
    n_held = int(holdout * len(obs))
    if not holdout_group:
        split[generator.permutation(len(obs))[:n_held]] = 1
        return split
    if holdout_group not in obs:
        cause = f"there is no obs column {holdout_group!r}"
        raise BadInput(Problem("HW-CE-005", "cells: holdout_group", cause, f"use one of {', '.join(obs.columns)}"))
    codes, names = obs[holdout_group].astype(str).factorize(sort=True)
    for group in generator.permutation(len(names))[:-1]:  # at least one group is left to train on
        if split.sum() >= n_held:
            break
        split[codes == group] = 1
    return split
