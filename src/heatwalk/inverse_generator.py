"""The inverse of a diffusion's generator as a kernel, from samples alone, and the velocity that particles take."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from heatwalk import compute
from heatwalk.errors import BadInput, Problem

_LEAST = 0.1  # eigenvalue of a mode that the kernel still resolves: its extension divides by it twice
_RIDGE = 1e-4  # added to 1 - eigenvalue: what is all but disconnected gets no infinite weight
_ANCHORS = 1000  # samples on which a bandwidth is judged
_ROWS = 1024  # points averaged at a time
_ABOVE_ONE = 1e-8  # of an eigenvalue, by rounding


class Generator(NamedTuple):
    """K = -L^-1 = sum_k w_k psi_k(x) psi_k(y), w_k = 1 / (mu_k lambda_k^2), mu_k = 2 (1 - lambda_k) / eps."""

    samples: np.ndarray  # (sample, dimension) about `centre`
    centre: np.ndarray  # (dimension,)
    bandwidth: float  # sigma = eps^(1/2)
    log_density: np.ndarray  # (sample,) log of the kernel's row sums q
    eigenvalues: np.ndarray  # (mode,) of P, descending, without the trivial 1
    vectors: np.ndarray  # (sample, mode) psi, sum_i pi_i psi_i^2 = 1
    weights: np.ndarray  # (mode,) w
    target: np.ndarray  # (mode,) mean of P psi at a fresh sample


def generator(
    samples: np.ndarray,
    *,
    landmarks: np.ndarray | None = None,
    bandwidth: float | str = "auto",
    effective_samples: float = 20.0,
    modes: int | str = "auto",
) -> Generator:
    """The inverse generator of the Langevin diffusion whose stationary distribution the samples are drawn from.

    k = exp(-|x - y|^2 / (2 eps)), q = row sums, M = k / (q_x q_y)^(1/2), D = row sums of M, P = M / D. P = 1 + eps/2 L
    + O(eps^2) with L = laplacian + grad log pi . grad: eps/(1 - lambda) without the 2 would be twice the inverse.
    P is solved as the symmetric D^-1/2 M D^-1/2, whose eigenvalues never exceed 1. Modes down to an eigenvalue of .1
    are kept, at most `modes`; 1 - lambda has a ridge of 1e-4.
    bandwidth: eps^(1/2), or "auto": where the median of 1 / sum_j P_ij^2 over samples is `effective_samples`, the
    sample itself included. landmarks: rows that the operator is made of; None: all. target: the mean over all samples
    of what each sees of the others, as a fresh sample would: with itself it would weigh sparse places twice.
    Raises BadInput for more modes than samples, a bandwidth too small or too large, or eigenvalues above 1.
    Sources: Li, Liu, Liu, Lu, Wang, Diffusion map particle systems (2023); Coifman and Lafon, Diffusion maps (2006).
    """
    centre = samples.mean(axis=0)
    about = samples - centre
    own = about if landmarks is None else about[landmarks]
    if modes != "auto" and not 1 <= modes < len(own):
        cause = f"{modes} modes are asked for, {len(own)} samples have at most {len(own) - 1}"
        raise BadInput(Problem("HW-PA-004", "modes", cause, "ask for fewer modes, or auto"))
    squares = _squares(own, own)
    eps = _bandwidth(squares, effective_samples) if bandwidth == "auto" else float(bandwidth) ** 2
    _check_scale(squares, eps)
    kernel = np.exp(squares / (-2 * eps))
    density = kernel.sum(axis=1)
    root = np.sqrt(density)
    kernel /= root[:, None]
    kernel /= root
    degrees = kernel.sum(axis=1)
    root = np.sqrt(degrees)
    kernel /= root[:, None]
    kernel /= root
    eigenvalues, vectors = _solved(kernel, np.sqrt(degrees / degrees.sum()), modes)
    made = Generator(own, centre, float(np.sqrt(eps)), np.log(density), eigenvalues, vectors, eigenvalues, eigenvalues)
    return made._replace(weights=weights(eigenvalues, eps), target=_target(made, about, landmarks))


def weights(eigenvalues: np.ndarray, eps: float) -> np.ndarray:
    """(mode,) w_k = eps / (2 (1 - lambda_k + 1e-4) lambda_k^2); BadInput where P is no contraction."""
    above = eigenvalues[~(eigenvalues <= 1 + _ABOVE_ONE)]
    if len(above):
        cause = f"{len(above)} eigenvalues are above 1, the largest {above.max():.6g}: the operator is no contraction"
        remedy = "use the symmetric conjugate, or a larger bandwidth"
        raise BadInput(Problem("HW-PA-006", "eigenvalues", cause, remedy))
    return eps / (2 * (np.maximum(1 - eigenvalues, 0) + _RIDGE) * eigenvalues**2)


def averages(made: Generator, points: np.ndarray) -> np.ndarray:
    """(point, sample) rows of P at any points: softmax_j(-|x - x_j|^2 / (2 eps) - log(q_j) / 2); never 0 / 0."""
    eps = made.bandwidth**2
    rows = (points - made.centre) @ made.samples.T
    rows /= eps
    rows -= np.einsum("ij,ij->i", made.samples, made.samples) / (2 * eps) + made.log_density / 2
    return _softmax(rows)


def force(
    made: Generator, points: np.ndarray, in_order: Callable = lambda function, items: map(function, items)
) -> tuple[np.ndarray, float]:
    """(point, dimension) velocity of every particle, and the energy whose gradient they descend.

    E = 1/2 sum_k w_k c_k^2, c_k = mean_i (P psi_k)(y_i) - target_k; v(x) = -sum_k w_k c_k grad (P psi_k)(x).
    Particles are summed first: u = sum_k w_k c_k psi_k is one number a sample, and as grad P_j(x) =
    P_j(x) (x_j - sum_l P_l x_l) / eps, v(x) = -sum_j P_j(x) (u_j - sum_l P_l u_l) x_j / eps: beside the product of
    the distances one more of m x n x d, and nothing larger than m x n.
    """
    rows = compute.blocks(len(points), _ROWS)
    parts = list(in_order(lambda part: averages(made, points[part]), rows))
    total = sum(part.sum(axis=0) for part in parts)
    off = made.vectors.T @ (total / len(points)) - made.target
    u = made.vectors @ (made.weights * off)

    def velocity(part: np.ndarray) -> np.ndarray:
        part *= u - (part @ u)[:, None]
        return (part @ made.samples) / -(made.bandwidth**2)

    return np.concatenate(list(in_order(velocity, parts))), float(0.5 * made.weights @ off**2)


def _softmax(rows: np.ndarray) -> np.ndarray:
    rows -= rows.max(axis=1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(axis=1, keepdims=True)
    return rows


def _squares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(first, second, "sqeuclidean")


def _bandwidth(squares: np.ndarray, effective_samples: float) -> float:
    """eps at which the median sample sees so many, by bisection of its logarithm."""
    some = squares[np.linspace(0, len(squares) - 1, min(_ANCHORS, len(squares))).astype(int)]
    scale = np.median(some)
    if not scale > 0:
        cause = "more than half of the distances between samples are 0"
        raise BadInput(Problem("HW-PA-005", "points", cause, "remove duplicates, or set bandwidth"))
    low, high = np.log(scale) - 30, np.log(scale) + 5
    for _ in range(40):
        middle = (low + high) / 2
        rows = _softmax(some / (-2 * np.exp(middle)))
        enough = np.median(1 / np.einsum("ij,ij->i", rows, rows)) > effective_samples
        low, high = (low, middle) if enough else (middle, high)
    return float(np.exp(high))


def _check_scale(squares: np.ndarray, eps: float) -> None:
    """Neither every sample for itself nor all alike."""
    some = squares[:: max(1, len(squares) // _ANCHORS)]
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = _softmax(np.nan_to_num(some / (-2 * eps), nan=0.0, neginf=-1e300))
    seen = float(np.median(1 / np.einsum("ij,ij->i", rows, rows)))
    if seen < 1.05:
        cause = f"at {np.sqrt(eps):.3g} a sample sees only itself ({seen:.2f} samples): the operator is the identity"
        raise BadInput(Problem("HW-PA-005", "bandwidth", cause, "set a larger bandwidth, or auto"))
    if seen > 0.99 * len(squares):
        cause = f"at {np.sqrt(eps):.3g} a sample sees all {len(squares)} alike: the operator is constant"
        raise BadInput(Problem("HW-PA-005", "bandwidth", cause, "set a smaller bandwidth, or auto"))


def _solved(conjugate: np.ndarray, trivial: np.ndarray, modes: int | str) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues without the trivial pair, and right eigenvectors of P."""
    from scipy.linalg import eigh

    # The trivial pair is known and moved out of the way: where others are 1 too, it could be mixed with them.
    conjugate -= 2 * np.outer(trivial, trivial)
    values, vectors = eigh(conjugate, overwrite_a=True, check_finite=False, subset_by_value=(_LEAST, np.inf))
    kept = slice(None) if modes == "auto" else slice(0, modes)
    if not len(values):
        cause = f"no eigenvalue but the trivial one is above {_LEAST}: the operator is constant"
        raise BadInput(Problem("HW-PA-005", "bandwidth", cause, "set a smaller bandwidth, or auto"))
    values, vectors = values[::-1][kept], vectors[:, ::-1][:, kept] / trivial[:, None]
    return values, vectors * np.where(vectors[0] < 0, -1.0, 1.0)


def _target(made: Generator, about: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
    """(mode,) mean over all samples of psi averaged over the other samples."""
    place = np.full(len(about), -1)
    place[np.arange(len(about)) if landmarks is None else landmarks] = np.arange(len(made.samples))
    eps, total = made.bandwidth**2, np.zeros(len(made.samples))
    for part in compute.blocks(len(about), _ROWS):
        rows = _squares(about[part], made.samples) / (-2 * eps) - made.log_density / 2
        known = np.flatnonzero(place[part] >= 0)
        rows[known, place[part][known]] = -np.inf
        total += _softmax(rows).sum(axis=0)
    return made.vectors.T @ (total / len(about))
