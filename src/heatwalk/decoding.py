"""From places in a linear representation back to the values that it was made of."""

from collections.abc import MutableMapping

import numpy as np

from heatwalk import arrays, compute
from heatwalk.errors import BadInput, Problem
from heatwalk.progress import log, track

_BLOCK_BYTES = 2**25  # values decoded at a time


def decoded(points: np.ndarray, pca, *, at_least: float = -np.inf, out: MutableMapping | None = None):
    """(point, gene) float32 values of the selected genes at points of a PCA: what its components say of them.

        x = max(mean + scale * V y, at_least)

    pca: a result of `pca` with its loadings V, (gene, component) orthonormal. Of a gene only that part of its variance
    comes back which the components hold (`explained`): decoded cells are smoother than measured ones.
    """
    out = {} if out is None else out
    loadings, means, scales = (np.asarray(values[:], np.float64) for values in (pca.loadings, pca.means, pca.scales))
    axes = (loadings * scales[:, None]).T
    values = arrays.make(out, "expression", (len(points), len(means)), np.float32)
    rows = max(1, _BLOCK_BYTES // (8 * max(len(means), 1)))
    chunk = getattr(values, "chunks", (rows,))[0]  # a block of a file is one of its chunks
    ranges = compute.blocks(len(points), chunk)
    for block in track(ranges, "decoding", len(ranges)):
        made = np.empty((block.stop - block.start, len(means)), np.float32)
        for part in compute.blocks(len(made), rows):
            made[part] = np.maximum(points[block][part] @ axes + means, at_least)
        values[block] = made
    return values


def as_unseen(points: np.ndarray, pca) -> np.ndarray:
    """Points that are distributed as the cells which a PCA was made from, as cells never seen would be.

        y_k <- y_k unseen_k^(1/2)

    Components follow the noise of their own cells, which stand farther out along them than any new cell does.
    """
    if pca is None or pca.unseen is None:
        return points
    return points * np.sqrt(np.asarray(pca.unseen[:], np.float64))


def check_decode(asked: bool | str, pca, code: str, stage: str) -> None:
    """Refuse what is none of true, false and "auto", and true where nothing leads back."""
    if not (isinstance(asked, bool) or asked == "auto"):
        cause = f"{asked!r} is none of true, false and auto"
        raise BadInput(Problem(code, "decode", cause, f"set {stage}: decode to auto, true or false"))
    if asked is True and (pca is None or pca.loadings is None):
        cause = "the representation has no loadings: it is an embedding (pca: use_rep) or the points themselves"
        raise BadInput(Problem(code, "decode", cause, f"set {stage}: decode to auto or false"))


def decode_where(asked: bool | str, points: np.ndarray, cells, pca, out: MutableMapping) -> None:
    """`decoded` into `out` if asked for, or "auto" and there are loadings; at least 0 where the cells' values are."""
    if asked is True or (asked == "auto" and pca is not None and pca.loadings is not None):
        log.info("decoding by components with %.1f%% of the variance", 100 * explained(pca))
        decoded(points, pca, at_least=-np.inf if cells is None or cells.indptr is None else 0.0, out=out)


def explained(pca) -> float:
    """Share of the variance of the selected genes that the components hold.

    >>> from types import SimpleNamespace
    >>> explained(SimpleNamespace(variances=np.array([3.0, 1.0]), total_variance=np.float64(5)))
    0.8
    """
    total = float(np.asarray(pca.total_variance)[()])
    return float(np.sum(np.asarray(pca.variances[:]))) / total if total > 0 else 1.0
