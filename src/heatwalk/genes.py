"""Genes behind a variable of the cells: how they correlate with it, and how much they change along it."""

from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.cells import normalised
from heatwalk.progress import track

_BINS, _FEWEST = 10, 10  # bins along a variable, and cells in one at the least
_CONSTANT = 1e-12  # share of the sum of squares below which a variance is rounding


class Genes(NamedTuple):
    correlation: np.ndarray  # (gene, variable)
    p_value: np.ndarray  # (gene, variable)
    false_discovery_rate: np.ndarray  # (gene, variable)
    relevance: np.ndarray  # (gene, variable)


def genes(cells, variables: np.ndarray, *, block_cells: int = compute.BLOCK_CELLS, threads: int | None = None) -> Genes:
    """How every gene goes with each variable, (cell, variable); cells where a variable is NaN do not count for it.

    One pass over the normalised values (`cells.normalised`), in row blocks; all sums are about the variable's mean.
    correlation: Pearson's r. p_value: two-sided, of t = r sqrt((n - 2) / (1 - r^2)) with n - 2 degrees of freedom.
    false_discovery_rate: p adjusted over the genes of a variable (Benjamini and Hochberg 1995).
    relevance: how much a gene changes along the variable, up or down: with u in [0, 1] the share of cells of lower
    value, the norm of the derivative of the gene's mean with respect to u, in standard deviations of the gene,

        relevance^2 = B^2 / (B - 1) sum_b [(m_{b+1} - m_b)^2 - v_b / n_b - v_{b+1} / n_{b+1}] / variance

    where b are B = 10 bins of equally many cells (fewer below 100 cells), m_b, v_b, n_b their mean, variance and
    number: what noise adds is taken away, and less than 0 is 0. A gene that rises linearly in u without noise has
    sqrt(12) = 3.5, one that rises and falls more, though its r is 0. NaN: a gene or variable that is constant, or
    fewer than 3 cells (relevance: 20).
    The p-values take cells for independent, and the variable for one that was not made from these genes.
    """
    n_cells, n_variables = variables.shape
    known = np.isfinite(variables)
    counts = known.sum(axis=0)
    middle = [variables[known[:, place], place].sum() / max(counts[place], 1) for place in range(n_variables)]
    centred = variables - middle
    centred[~known] = 0
    bins = np.column_stack([_bins(variables[:, place]) for place in range(n_variables)])
    ranges = compute.blocks(n_cells, block_cells)
    sums, squares, products, shift = _summed(cells, centred, bins, ranges, threads)
    spread = np.einsum("cv,cv->v", centred, centred)
    with np.errstate(divide="ignore", invalid="ignore"):
        total, square = sums.sum(axis=1), squares.sum(axis=1)  # (variable, gene)
        about = square - total**2 / counts[:, None]
        rounding = _CONSTANT * np.maximum(square, counts[:, None] * shift**2)
        about = np.where(about > rounding, about, np.nan)
        spread = np.where(spread > 0, spread, np.nan)
        correlation = np.clip(products / np.sqrt(about * spread[:, None]), -1, 1)
        correlation[counts < 3] = np.nan
        relevance = _relevance(sums, squares, bins, about / (counts[:, None] - 1))
    p_value = _p_values(correlation, counts)
    return Genes(correlation.T, p_value.T, _adjusted(p_value).T, relevance.T)


def bytes_held(n_cells: int, n_genes: int, n_variables: int, threads: int) -> int:
    """Bytes of the variables, and of the sums of all blocks under way."""
    return 8 * n_variables * (n_genes * (2 * _BINS + 1) * (2 * threads + 2) + 3 * n_cells)


def _bins(variable: np.ndarray) -> np.ndarray:
    """Bin of every cell by the rank of its value, (cell,) int8; -1 where it has none."""
    known = np.flatnonzero(np.isfinite(variable))
    n_bins = min(_BINS, len(known) // _FEWEST)
    found = np.full(len(variable), -1, np.int8)
    rank = np.empty(len(known), np.int64)
    rank[np.argsort(variable[known], kind="stable")] = np.arange(len(known))
    found[known] = rank * max(n_bins, 1) // max(len(known), 1)
    return found


def _summed(cells, centred: np.ndarray, bins: np.ndarray, ranges, threads: int | None):
    """Sums by bin of values and of their squares, (variable, bin, gene), and products with the variables."""
    import scipy.sparse

    n_variables, dense = bins.shape[1], cells.values is not None
    # Far from 0, squares of dense values would lose what they differ by.
    shift = np.asarray(normalised(cells, ranges[0]), np.float64).mean(axis=0) if dense else 0.0
    offsets = _BINS * np.arange(n_variables)

    def summed(rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = normalised(cells, rows)
        values = np.asarray(values, np.float64) - shift if dense else values
        cell, variable = np.nonzero(bins[rows] >= 0)
        place = offsets[variable] + bins[rows][cell, variable]
        shape = (_BINS * n_variables, rows.stop - rows.start)
        member = scipy.sparse.csr_array((np.ones(len(cell)), (place, cell)), shape=shape)
        parts = member @ values, member @ values**2, centred[rows].T @ values
        return tuple(part.toarray() if scipy.sparse.issparse(part) else np.asarray(part) for part in parts)

    totals = None
    for parts in track(compute.in_order(summed, ranges, threads), "genes", len(ranges)):
        totals = parts if totals is None else tuple(total + part for total, part in zip(totals, parts, strict=True))
    sums, squares = (total.reshape(n_variables, _BINS, -1) for total in totals[:2])
    return sums, squares, totals[2], shift


def _relevance(sums: np.ndarray, squares: np.ndarray, bins: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(variable, gene)"""
    result = np.full(variance.shape, np.nan)
    for place in range(len(result)):
        count = np.bincount(bins[bins[:, place] >= 0, place], minlength=1)
        n_bins = len(count)
        if n_bins < 2 or count.min() < 2:
            continue
        count = count[:, None]
        mean = sums[place, :n_bins] / count
        noise = np.maximum(squares[place, :n_bins] - count * mean**2, 0) / (count * (count - 1))
        change = (np.diff(mean, axis=0) ** 2 - noise[1:] - noise[:-1]).sum(axis=0)
        result[place] = np.sqrt(np.maximum(n_bins**2 / (n_bins - 1) * change, 0) / variance[place])
    return result


def _p_values(correlation: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """P(|t| > ...) as the beta distribution of r^2: it neither divides by 1 - r^2 nor loses the far tail."""
    from scipy.special import betainc

    return betainc(np.maximum(counts - 2, 1)[:, None] / 2, 0.5, 1 - correlation**2)


def _adjusted(p_value: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p-values along the last axis; NaN are not tested."""
    from scipy.stats import false_discovery_control

    result = np.full(p_value.shape, np.nan)
    for row, values in zip(result, p_value, strict=True):
        tested = np.isfinite(values)
        if tested.any():
            row[tested] = false_discovery_control(values[tested])
    return result
