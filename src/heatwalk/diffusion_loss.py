"""DiffusionLoss: the cost of a deep diffusion map as a module that anyone can add to a network of their own."""

import numpy as np
import scipy.sparse
import torch
from torch import nn

from heatwalk.errors import BadInput, Problem

_FULL = 0.1  # share of entries from which sparse rows are slower than plain ones


class DiffusionLoss(nn.Module):
    """How far the inner products of outputs are from those of diffusion coordinates at time t, on a batch of cells.

        loss = sum_ij w_ij ( sqrt(pi_i pi_j) f_i.f_j - T_ij )^2,    T = A^2t - sqrt(pi) sqrt(pi)'
        w_ij = N (N - 1) / (B (B - 1)) for i /= j,  w_ii = N / B;   of order 1, as pi is about 1/N
        T_BB = (A^t e_B)' (A^t e_B) - sqrt(pi_B) sqrt(pi_B)'        for the B cells of a batch

    With these weights the mean over random batches is the loss of all N cells; with equal ones the diagonal, which no
    few components can reach, would count N / B times. Of a graph in pieces the trivial vector of each is taken out. A
    batch costs t sparse products with as many rows as it has cells; what a walk of t steps reaches is held, up to N
    numbers for each of them. The loss is added to another one, times a factor:
    `loss = reconstruction + 0.1 * diffusion(latent, rows)`.
    Source: Garcia-Heredia, Fernandez, Alaiz, Deep diffusion maps, arXiv 2505.06087.
    """

    def __init__(self, affinity, t: int = 1):
        super().__init__()
        if not (isinstance(t, int) and t >= 1):
            raise BadInput(Problem("HW-NN-005", "t", f"{t!r} is no whole number above 0", "set t to one"))
        degrees, components = np.asarray(affinity.degrees[:]), np.asarray(affinity.components[:])
        pieces = np.bincount(components, degrees)
        self.t, self.n_cells = t, len(degrees)
        self.trivial = np.sqrt(degrees / pieces[components])  # of unit length within every piece
        self.pieces = components
        self.register_buffer("root", torch.from_numpy(np.sqrt(degrees / degrees.sum())))
        entries = (np.asarray(affinity.weights[:]), np.asarray(affinity.indices[:]), np.asarray(affinity.indptr[:]))
        weights, shape = scipy.sparse.csr_array(entries, shape=(self.n_cells, self.n_cells)), np.sqrt(degrees)
        scale = scipy.sparse.dia_array((1 / shape[None], [0]), shape=weights.shape)
        self.conjugate = (scale @ weights @ scale).tocsr()

    def target(self, rows: np.ndarray) -> np.ndarray:
        """(batch, batch) T of some cells."""
        reached = self.conjugate[rows]  # A is symmetric: a row is a column
        for step in range(self.t):
            reached = reached @ self.conjugate if step else reached
            if scipy.sparse.issparse(reached) and reached.nnz > _FULL * np.prod(reached.shape):
                reached = reached.toarray()
        inner = reached @ reached.T
        inner = inner.toarray() if scipy.sparse.issparse(inner) else inner
        trivial = np.where(self.pieces[rows][:, None] == self.pieces[rows], 1.0, 0.0)
        return inner - trivial * np.outer(self.trivial[rows], self.trivial[rows])

    def forward(self, outputs: torch.Tensor, rows) -> torch.Tensor:
        """outputs: (batch, dimension) of the cells `rows` of the affinity."""
        rows = np.asarray(rows)
        if outputs.ndim != 2 or len(outputs) != len(rows) or rows.min() < 0 or rows.max() >= self.n_cells:
            cause = f"outputs of shape {tuple(outputs.shape)} for {len(rows)} of {self.n_cells} cells"
            raise BadInput(Problem("HW-NN-009", "DiffusionLoss", cause, "give one row of outputs for every row number"))
        root = self.root[rows].to(outputs)
        target = torch.from_numpy(self.target(rows)).to(outputs)
        scaled = outputs * root[:, None]
        errors, n, b = (scaled @ scaled.T - target) ** 2, self.n_cells, len(rows)
        own, all_ = errors.diagonal().sum(), errors.sum()
        return n / b * own + n * (n - 1) / (b * max(b - 1, 1)) * (all_ - own)
