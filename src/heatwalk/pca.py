"""pca: coordinates of every cell in a linear representation, and what a new cell needs to land in it."""

from collections.abc import Iterator, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from heatwalk import arrays, compute
from heatwalk.cells import Cells, normalised
from heatwalk.errors import BadInput, OutOfResources, Problem, first_few
from heatwalk.progress import log, track

_AUTO_COMPONENTS = 50
_DENSE_BYTES = 2**26  # values made dense at a time by one thread
_EVERY, _ASIDE = 5, 2000  # every so manieth cell, and at most so many, say what cells never seen would have


class Pca(NamedTuple):
    coordinates: Any  # (cell, component) float32
    variances: Any  # (component,) float64
    total_variance: Any  # float64
    loadings: Any = None  # (gene, component) float64, over the selected genes
    means: Any = None  # (gene,) float64
    scales: Any = None  # (gene,) float64
    unseen: Any = None  # (component,) float64, variance of cells never seen over `variances`
    unexplained: Any = None  # (cell,) float32, squared length less that of the coordinates
    left: Any = None  # (gene,) float64, variance that the components leave


def pca(
    cells: Cells,
    kind: str,
    *,
    n_components: int | str = "auto",
    use_rep: str = "",
    scale: bool = False,
    memory: int = 4 * 2**30,
    threads: int | None = None,
    block_cells: int = compute.BLOCK_CELLS,
    reference: Pca | None = None,
    out: MutableMapping | None = None,
) -> Pca:
    """Principal components of the selected, normalised genes by the exact covariance, in row blocks.

        mu = mean(x),  s = standard deviation if `scale` else 1,  C = (X - mu)' (X - mu) / (n - 1) scaled by 1 / (s s')
        C V = V diag(variances),  coordinates = ((X - mu) / s) V

    over the cells that are not held out (split 0), so that the held-out ones stand like cells never seen.

    n_components: a number, or "auto": 50 (or as many as there are); points are then passed through unchanged, their
    columns as components. unseen: components follow the noise of the cells that they are made from, the more the fewer
    these are: the variance of every fifth of them (at most 2,000) along the components of the others, over that of the
    others, as it would be with none left out; 1 at most. Generated cells are to have this one. use_rep: the name of an
    embedding of the input to pass through instead. The entry of largest magnitude of every loading is positive. Blocks
    are summed in order: any number of cores gives the same result.
    reference: the result for the reference of these cells; its means, scales and loadings are used then, a gene that
    the query lacks counts as at its mean, and the variances are those of the query's coordinates.
    unexplained: |(x - mu) / s|^2 - |coordinates|^2 of every cell; of a query that lacks genes over the share of `left`,
    diag(C) less what the components have of it, in those that are there.
    Raises BadInput for more components than the data has or an unknown embedding, OutOfResources when the covariance
    does not fit in `memory` bytes.
    """
    out = {} if out is None else out
    n_cells = cells.size_factors.shape[0]
    if use_rep or (kind == "points" and n_components == "auto"):
        given = _embedding(cells, use_rep) if use_rep else cells.values
        columns = slice(None) if use_rep or reference is None else np.asarray(cells.reference_columns[:])
        return _passed_through(given, n_cells, columns, reference, block_cells, out)
    if reference is not None:
        return _landed(cells, reference, threads, block_cells, out)
    selected, train = np.flatnonzero(np.asarray(cells.selected[:])), np.asarray(cells.split[:]) == 0
    n_components = _n_components(n_components, int(train.sum()), len(selected))
    threads = _threads_that_fit(len(selected), memory, threads or compute.available_threads())
    ranges = compute.blocks(n_cells, _rows_at_once(block_cells, len(selected)))
    means, covariance, aside = _moments(cells, selected, train, ranges, threads)
    deviations = np.sqrt(np.diag(covariance))
    scales = np.where(deviations > 0, deviations, 1.0) if scale else np.ones(len(selected))
    covariance /= scales
    covariance /= scales[:, None]
    variances, loadings, total = _decompose(covariance, n_components)
    out["unseen"] = _unseen(covariance, aside / scales, int(train.sum()), n_components)
    out["left"] = np.maximum(np.diag(covariance) - (loadings**2 * variances).sum(axis=1), 0)
    axes, ranges = (selected, means, scales, loadings), compute.blocks(n_cells, block_cells)
    for _ in _projected(cells, axes, 1.0, ranges, threads, out):
        pass
    out["variances"], out["total_variance"], out["loadings"] = variances, np.float64(total), loadings
    out["means"], out["scales"] = means, scales
    return Pca(**{name: out[name] for name in Pca._fields})


def _n_components(asked: int | str, n_cells: int, n_genes: int) -> int:
    most = min(n_genes, n_cells - 1)
    if most < 1:
        cause = f"there is nothing to decompose in {n_cells} cells and {n_genes} genes"
        raise BadInput(Problem("HW-PC-002", "pca", cause, "give at least 2 cells and 1 gene"))
    if asked == "auto":
        return min(_AUTO_COMPONENTS, most)
    if not 1 <= asked <= most:
        cause = f"n_components is {asked}, the bounds are 1 and {most} ({n_cells} cells, {n_genes} genes)"
        raise BadInput(Problem("HW-PC-001", "pca", cause, f"set pca: n_components to auto or at most {most}"))
    return asked


def _dense(cells: Cells, selected: np.ndarray, rows: slice) -> np.ndarray:
    """Normalised values of the selected genes, (row, gene) float64."""
    values = normalised(cells, rows)[:, selected]
    return np.asarray(values.toarray() if scipy.sparse.issparse(values) else values, np.float64)


def _projected(
    cells: Cells, axes: tuple, share: float, ranges: list[slice], threads: int | None, out: MutableMapping
) -> Iterator[np.ndarray]:
    """Write coordinates, and what they leave of the squared lengths over `share`; yields coordinates of every range.

    axes: selected columns, their means and scales, loadings. A few rows are dense at a time.
    """
    selected, means, scales, loadings = axes
    step, n_cells = _rows_at_once(ranges[0].stop, len(selected)), cells.size_factors.shape[0]
    coordinates = arrays.make(out, "coordinates", (n_cells, loadings.shape[1]), np.float32)
    unexplained = arrays.make(out, "unexplained", (n_cells,), np.float32)

    def project(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        made = []
        for part in compute.blocks(rows.stop - rows.start, step):
            values = _dense(cells, selected, slice(rows.start + part.start, rows.start + part.stop))
            values -= means
            values /= scales
            placed = values @ loadings
            made.append((placed, np.einsum("ij,ij->i", values, values) - (placed**2).sum(axis=1)))
        return tuple(np.concatenate(parts) for parts in zip(*made, strict=True))

    made = track(compute.in_order(project, ranges, threads), "pca: projecting", len(ranges))
    for rows, (placed, squared) in zip(ranges, made, strict=True):
        coordinates[rows], unexplained[rows] = placed, np.maximum(squared, 0) / share
        yield placed


def _rows_at_once(block_cells: int, n_genes: int) -> int:
    """Rows that are dense at a time: depends on the data alone, so that sums do not depend on the machine."""
    return int(min(block_cells, max(256, _DENSE_BYTES // (8 * max(n_genes, 1)))))


def _moments(cells: Cells, selected: np.ndarray, train: np.ndarray, ranges: list[slice], threads: int | None):
    """Mean, covariance and some centred cells: centred before squaring, so that large means cost no digits."""
    n_cells, means = int(train.sum()), np.zeros(len(selected))
    covariance, some = np.zeros((len(selected), len(selected))), []
    aside = np.zeros(len(train), bool)
    aside[np.flatnonzero(train)[:: max(_EVERY, -(-n_cells // _ASIDE))]] = True

    def total(rows: slice) -> np.ndarray:
        return _dense(cells, selected, rows)[train[rows]].sum(axis=0)

    def products(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        centred = _dense(cells, selected, rows)[train[rows]] - means
        return centred.T @ centred, centred[aside[rows][train[rows]]]

    for part in track(compute.in_order(total, ranges, threads), "pca: means", len(ranges)):
        means += part
    means /= n_cells
    for part, own in track(compute.in_order(products, ranges, threads), "pca: covariance", len(ranges)):
        covariance += part
        some.append(own)
    covariance /= n_cells - 1
    return means, covariance, np.concatenate(some)


def _unseen(covariance: np.ndarray, aside: np.ndarray, n_cells: int, n_components: int) -> np.ndarray:
    """(component,) variance of the cells aside along the components of all others, over that of these.

    What it lacks to 1 is taken to fall as one over the number of cells, of which fewer were used than there are.
    """
    rest = covariance * (n_cells - 1)
    rest -= aside.T @ aside
    rest /= max(n_cells - len(aside) - 1, 1)
    variances, loadings, _ = _decompose(rest, n_components)
    least = np.finfo(float).eps * max(variances[0], np.finfo(float).tiny)
    lacking = 1 - ((aside @ loadings) ** 2).mean(axis=0) / np.maximum(variances, least)
    return 1 - np.clip(lacking, 0, 1) * (1 - len(aside) / n_cells)


def _decompose(covariance: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Largest eigenpairs, descending, signs fixed; and the trace."""
    import scipy.linalg

    n_genes = len(covariance)
    with compute.one_blas_thread():
        subset = (n_genes - n_components, n_genes - 1)
        variances, loadings = scipy.linalg.eigh(covariance, subset_by_index=subset)
    variances, loadings = np.maximum(variances[::-1], 0), loadings[:, ::-1]
    largest = loadings[np.abs(loadings).argmax(axis=0), np.arange(n_components)]
    return variances, loadings * np.where(largest < 0, -1.0, 1.0), float(np.trace(covariance))


def _threads_that_fit(n_genes: int, memory: int, threads: int) -> int:
    """Threads whose covariances fit in memory beside the sum and the copies that eigh makes."""
    each = 8 * n_genes**2
    # A wave holds two products a thread.
    fitting = (memory // max(each, 1) - 3) // 2
    if fitting < 1:
        most = int(np.sqrt(memory / (8 * 5)))
        cause = f"the covariance of {n_genes} columns needs {5 * each / 1e9:.1f} GB, memory is {memory / 1e9:.1f} GB"
        enough = np.ceil(5 * each / 1e9)
        remedy = f"set memory to {enough:.0f}GB or more, or for counts cells: n_top_genes to at most {most}"
        raise OutOfResources(Problem("HW-PC-003", "pca", cause, remedy))
    return min(threads, fitting)


def _embedding(cells: Cells, use_rep: str):
    known = cells.obsm or {}
    if use_rep not in known:
        cause = f"the input has no embedding {use_rep!r} in obsm, it has: {first_few(known) or 'none'}"
        raise BadInput(Problem("HW-PC-004", "pca: use_rep", cause, "name one of those, or set use_rep to ''"))
    return known[use_rep]


def _landed(cells: Cells, reference: Pca, threads: int | None, block_cells: int, out: MutableMapping) -> Pca:
    """A query's cells on the components of its reference."""
    columns, means, scales = (np.asarray(a[:]) for a in (cells.reference_columns, reference.means, reference.scales))
    there, n_cells = columns >= 0, cells.size_factors.shape[0]
    axes = (columns[there], means[there], scales[there], np.asarray(reference.loadings[:])[there])
    left, sums, squares = np.zeros(len(means)) if reference.left is None else np.asarray(reference.left[:]), 0.0, 0.0
    share = max(left[there].sum() / left.sum(), np.finfo(np.float32).eps) if left.any() else 1.0
    for values in _projected(cells, axes, share, compute.blocks(n_cells, block_cells), threads, out):
        sums, squares = sums + values.sum(axis=0), squares + (values**2).sum(axis=0)
    out["variances"] = np.maximum(squares - sums**2 / n_cells, 0) / max(n_cells - 1, 1)
    out["total_variance"] = np.float64(out["variances"][:].sum())
    return Pca(out["coordinates"], out["variances"], out["total_variance"], unexplained=out["unexplained"])


def _passed_through(given, n_cells: int, columns, reference: Pca | None, block_cells: int, out: MutableMapping) -> Pca:
    """An embedding as it is, after a look at its values."""
    wanted = given.shape[1] if reference is None else reference.coordinates.shape[1]
    if given.shape[1] != wanted:  # of an embedding: the columns of points are settled
        cause = f"the query has {given.shape[1]} columns there, its reference {wanted}"
        raise BadInput(Problem("HW-PC-006", "pca: use_rep", cause, "embed both with one model, then run again"))
    coordinates = arrays.make(out, "coordinates", given.shape, np.float32)
    sums, squares = np.zeros(given.shape[1]), np.zeros(given.shape[1])
    for rows in compute.blocks(n_cells, block_cells):
        values = np.asarray(given[rows], np.float64)[:, columns]
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            cause = (
                f"{len(bad)} cells of a block have values that are not finite, the first is row {rows.start + bad[0]}"
            )
            raise BadInput(Problem("HW-PC-005", "pca: use_rep", cause, "remove those cells, or mend the embedding"))
        coordinates[rows] = values
        sums, squares = sums + values.sum(axis=0), squares + (values**2).sum(axis=0)
    variances = np.maximum(squares - sums**2 / n_cells, 0) / max(n_cells - 1, 1)
    out["variances"], out["total_variance"] = variances, np.float64(variances.sum())
    log.info("pca: %d given columns are passed through", given.shape[1])
    return Pca(out["coordinates"], out["variances"], out["total_variance"])
