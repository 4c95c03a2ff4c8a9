"""What every stage gives: array name -> dimensions, dtype kind, one sentence. The names are the NamedTuple's fields.

Dimensions: `cell`, `gene` (any feature), `gene_edge` (a stored count), `row` (cell + 1), `component` (of the graph, or
of the PCA), `mode` (a non-trivial eigenpair), `neighbor`, `edge` (a directed entry of the symmetric graph), `round` (of
training), `decile`, `byte`, `reference_gene` (a selected gene of a query's reference), `variable` (pseudotime,
then each mode; or curvature), `flat` (a point of a flat sample), `tip` and `side` (of a branching), `particle` (a
generated point), `step` (of particles), `walk_step`, `side`, `epoch` and `loss` (of a walk and its training), `measure`
(in the order of generation_metrics.MEASURES), `label`, `problem`, `left_out` (a sample not trained on).
"""

from typing import NamedTuple

import numpy as np


class Array(NamedTuple):
    """The contract of one array of a result."""

    dimensions: tuple[str, ...]
    kind: str  # NumPy dtype kind: f, i, u, b; "table" for a data frame; "arrays" for named arrays along the dimension
    about: str


SCHEMAS: dict[str, dict[str, Array]] = {
    "cells": {
        "indptr": Array(("row",), "i", "Row pointers of the stored counts (CSR); absent for dense kinds."),
        "indices": Array(("gene_edge",), "i", "Gene of every stored count, ascending within a cell."),
        "data": Array(("gene_edge",), "f", "Stored counts (kind counts) or logged values (kind logged)."),
        "values": Array(("cell", "gene"), "f", "Dense values after the kind's transform; absent for sparse kinds."),
        "size_factors": Array(("cell",), "f", "Divisor of a cell's counts; 1 where there is no normalisation."),
        "selected": Array(("gene",), "b", "Genes that the representation is computed from."),
        "split": Array(("cell",), "u", "0 for the cells a model may be trained on, 1 for the held-out ones."),
        "obs": Array(("cell",), "table", "What is known of every cell, with its name and its quality figures."),
        "var": Array(("gene",), "table", "What is known of every gene, with its mean, dispersion and number of cells."),
        "obsm": Array(("cell",), "arrays", "Embeddings that came with the input."),
        "item_shape": Array(("axis",), "i", "Shape of one item: (gene,) for tables, (height, width) for images."),
        "logarithm": Array((), "b", "Whether log1p is applied to the normalised values."),
        "removed": Array(("reason",), "table", "How many cells each quality threshold removed."),
        "reference_columns": Array(
            ("reference_gene",), "i", "Of a query: column of every selected gene of its reference, -1 where absent."
        ),
    },
    "pca": {
        "coordinates": Array(("cell", "component"), "f", "Coordinates of every cell in the representation."),
        "loadings": Array(("gene", "component"), "f", "Orthonormal loadings; absent for an embedding."),
        "means": Array(("gene",), "f", "Mean of every selected gene, subtracted before projection."),
        "scales": Array(("gene",), "f", "Divisor of every selected gene after centring; 1 unless scaled."),
        "variances": Array(("component",), "f", "Variance along every component (divisor n - 1)."),
        "total_variance": Array((), "f", "Variance of all selected genes together."),
        "unseen": Array(("component",), "f", "Variance of cells never seen over that of those seen, 1 at most."),
        "unexplained": Array(("cell",), "f", "Squared length of a cell less that of its coordinates."),
        "left": Array(("gene",), "f", "Variance of every selected gene that the components leave."),
    },
    "neighbors": {
        "indices": Array(("cell", "neighbor"), "i", "Nearest other cells, nearest first, ties by index."),
        "distances": Array(("cell", "neighbor"), "f", "Their Euclidean distances."),
        "order": Array(("cell",), "i", "Cells by locality: those that stand near each other are near."),
        "recall": Array((), "f", "Share of the true neighbours found, measured on a sample against exact search."),
        "probes": Array((), "i", "Inverted lists searched for every cell; 0 for exact search."),
    },
    "affinity": {
        "indptr": Array(("row",), "i", "Row pointers of the symmetric graph (CSR)."),
        "indices": Array(("edge",), "i", "Column of every entry, ascending within a row, diagonal included."),
        "weights": Array(("edge",), "f", "Kernel divided by (density_x density_y)^alpha."),
        "degrees": Array(("cell",), "f", "Row sums of the weights: P = weights / degrees."),
        "density": Array(("cell",), "f", "Row sums of the kernel before alpha: an unnormalised density estimate."),
        "bandwidths": Array(("cell",), "f", "sigma of every cell, in the units of the distances."),
        "stationary": Array(("cell",), "f", "Stationary distribution of the walk, degrees / sum(degrees)."),
        "components": Array(("cell",), "i", "Connected component of every cell, 0 the largest."),
        "order": Array(("cell",), "i", "Cells by locality, as in neighbors."),
    },
    "diffusion_map": {
        "eigenvalues": Array(("component", "mode"), "f", "Eigenvalues of P, descending, without the trivial 1."),
        "eigenvectors": Array(("cell", "mode"), "f", "Right eigenvectors psi of P, sum_i pi_i psi_i^2 = 1."),
        "residuals": Array(("component", "mode"), "f", "Norm of P psi - eigenvalue psi, weighted by pi."),
        "converged": Array(("component", "mode"), "b", "Whether the residual is within the tolerance."),
        "spectrum": Array(
            ("component", "computed"),
            "f",
            "All eigenvalues computed, chosen or not.",
        ),
        "solver": Array(("component",), "u", "What solved it: 0 nothing (one cell), 1 dense, 2 Krylov, 3 landmarks."),
        "products": Array(
            ("component",), "i", "How often the matrix was multiplied with a vector; 0 for a dense solve."
        ),
        "landmark_error": Array((), "f", "Mean relative error of distances on a sample; NaN without landmarks."),
    },
    "deep_diffusion_map": {
        "coordinates": Array(("cell", "mode"), "f", "Coordinates by the network, close to eigenvalue^t psi."),
        "eigenvalues": Array(("mode",), "f", "Estimates of the eigenvalues from below."),
        "residuals": Array(("mode",), "f", "Norm of T g - mu g beside that of mu g, of every column."),
        "energy": Array(("round",), "f", "Squared norm of G G' after every round of training."),
        "error": Array((), "f", "Mean relative error of distances beside the exact map, or NaN."),
        "error_median": Array((), "f", "Median of the same errors."),
        "error_deciles": Array(("decile",), "f", "Mean of the same errors by decile of the distance."),
        "error_cells": Array((), "i", "Cells of the exact map compared with; 0: not measured."),
        "excess": Array((), "f", "Loss beyond the least that so many components can have."),
        "weights": Array(("byte",), "u", "The network's weights as safetensors."),
        "description": Array(("byte",), "u", "What the network is, JSON."),
    },
    "curvature": {
        "curvature": Array(("cell",), "f", "Mean sectional curvature, 1 / length^2; NaN for a reason."),
        "uncertainty": Array(("cell",), "f", "Its standard error, from the residuals of the surface."),
        "diffusion": Array(("cell",), "f", "Curvature by the entropy of the walk alone."),
        "quadric": Array(("cell",), "f", "Curvature by the surface through the cells around alone."),
        "laziness": Array(("cell",), "f", "Mean of P^t over the diffusion ball, the definition of 2022."),
        "dimension": Array(("cell",), "i", "Where the eigenvalues of the cell's local covariance fall most."),
        "boundary": Array(("cell",), "b", "Whether the cells around lie to one side."),
        "lost_mass": Array(("cell",), "f", "Mass of the walk in entries too small to follow."),
        "reason": Array(
            ("cell",), "u", "Why a cell has none: 0 it has, 1 too few around, 2 coincident, 3 stationary, 4 no normal."
        ),
        "scales": Array(("scale",), "i", "Numbers of cells that a surface was tried on."),
        "agreement": Array(("scale",), "f", "Rank correlation of surfaces through two halves of the cells."),
        "chosen": Array(("choice",), "i", "The dimension of the surfaces, and the number of cells of each."),
        "null": Array(("flat",), "f", "The estimate on a flat sample as dense and as noisy, away from its edges."),
        "correlation": Array(("gene", "variable"), "f", "Pearson's r of a gene with the curvature."),
        "p_value": Array(("gene", "variable"), "f", "Of that r, two-sided, cells taken for independent."),
        "false_discovery_rate": Array(("gene", "variable"), "f", "p adjusted over genes (Benjamini, Hochberg)."),
        "relevance": Array(("gene", "variable"), "f", "Norm of the derivative of the gene's mean along the curvature."),
    },
    "pseudotime": {
        "pseudotime": Array(("cell",), "f", "Diffusion pseudotime: distance from the nearest root; NaN for a reason."),
        "reason": Array(
            ("cell",), "u", "Why a cell has none: 0 it has, 1 no root, 2 no place in the map, 3 an eigenvalue of 1."
        ),
        "branch": Array(("cell",), "i", "1 the root's, 2, 3; 0 at the crossing or none; -1 without pseudotime."),
        "roots": Array(("root",), "table", "Roots by name: cell, component, and what was asked for."),
        "tips": Array(("component", "tip"), "i", "Cells at the ends of the three branches, -1 where not looked for."),
        "agreement": Array(("component", "tip", "side"), "f", "Kendall's tau before and beyond the cut of a branch."),
        "correlation": Array(("gene", "variable"), "f", "Pearson's r of a gene with pseudotime and with every mode."),
        "p_value": Array(("gene", "variable"), "f", "Of that r, two-sided, cells taken for independent."),
        "false_discovery_rate": Array(("gene", "variable"), "f", "p adjusted over genes (Benjamini, Hochberg)."),
        "relevance": Array(("gene", "variable"), "f", "Norm of the derivative of the gene's mean along the variable."),
    },
    "particles": {
        "points": Array(("particle", "component"), "f", "Generated points in the representation."),
        "flagged": Array(("particle",), "b", "Whether a point is farther from all samples than 99% of these are."),
        "distances": Array(("particle",), "f", "Distance to the nearest sample."),
        "nearest": Array(("particle",), "i", "That sample: number of a cell."),
        "energy": Array(("step",), "f", "What the particles descend, before the first step and after each."),
        "eigenvalues": Array(("mode",), "f", "Eigenvalues of the samples' operator, without the trivial 1."),
        "bandwidth": Array((), "f", "sigma of its kernel, in the units of the distances."),
        "expression": Array(("particle", "gene"), "f", "Values of the selected genes, where decoded."),
    },
    "random_walk": {
        "points": Array(("particle", "component"), "f", "Generated points in the representation."),
        "flagged": Array(("particle",), "b", "Whether a point is farther from all samples than 99% of these are."),
        "distances": Array(("particle",), "f", "Distance to the nearest sample."),
        "nearest": Array(("particle",), "i", "That sample: number of a cell."),
        "step": Array(("particle",), "i", "Step of the walk that the point was drawn at, from 1."),
        "burst": Array(("particle",), "i", "Number of the walker that drew it."),
        "seeds": Array(("particle",), "i", "Number of the cell where that walker began."),
        "mixing": Array(("walk_step", "side"), "f", "R of the walkers' places: of the seed, and of the law."),
        "losses": Array(("epoch", "loss"), "f", "Divergence, reconstruction and stretch of the training."),
        "eigenvalues": Array(("mode",), "f", "Eigenvalues of the encoder's walk."),
        "weights": Array(("byte",), "u", "The walker's weights as safetensors."),
        "description": Array(("byte",), "u", "What the walker is, JSON."),
        "expression": Array(("particle", "gene"), "f", "Values of the selected genes, where decoded."),
    },
    "riemannian_diffusion": {
        "log_density": Array(("cell",), "f", "Logarithm of the density at a cell, for the volume of the space."),
        "out_of_distribution": Array(("cell",), "f", "Share of the samples not trained on that are less unusual."),
        "points": Array(("particle", "component"), "f", "Generated points; absent for a query, as is all below."),
        "flagged": Array(("particle",), "b", "Whether a point is farther from all samples than 99% of these are."),
        "distances": Array(("particle",), "f", "Distance to the nearest sample, through the surrounding space."),
        "nearest": Array(("particle",), "i", "That sample: number of a cell."),
        "left_out": Array(("left_out",), "f", "How unusual the samples are that were not trained on, ascending."),
        "outlying": Array(("byte",), "u", "What tells how unusual points are, safetensors."),
        "losses": Array(("epoch", "side"), "f", "Loss in training, and of the mean weights on samples left out."),
        "weights": Array(("byte",), "u", "The network's weights as safetensors."),
        "description": Array(("byte",), "u", "What the network is, JSON."),
    },
    "generation_metrics": {
        "values": Array(("measure",), "f", "Figures of the generated points; NaN where one does not apply."),
        "floor": Array(("measure",), "f", "The same of real points, mean over pairs."),
        "floor_spread": Array(("measure",), "f", "Standard deviation over pairs."),
        "n_compared": Array((), "i", "Points of either side of a comparison."),
        "labels": Array(("label",), "table", "Shares of labels: in training, of generated and of held-out points."),
        "problems": Array(("problem",), "table", "Why nothing was compared, by code: cause and remedy; where so."),
    },
    "extension": {
        "coordinates": Array(("cell", "mode"), "f", "Coordinates in the map of the reference."),
        "trust": Array(("cell",), "f", "Share of the reference's held-out cells that are at least as novel."),
        "novelty": Array(("cell",), "f", "How far a cell is from the reference, in the logarithm of distances there."),
        "component": Array(("cell",), "i", "Component of the reference's graph that a cell landed in."),
        "labels": Array(("cell",), "table", "Labels carried over from the reference; `unassigned` below min_trust."),
        "probability": Array(("cell",), "table", "Share of the kernel that has the label."),
    },
    "atlas": {},
    "report": {},
}

GENERATORS = tuple(stage for stage, arrays in SCHEMAS.items() if "points" in arrays)  # stages that give new points


def check(stage: str, name: str, shape: tuple[int, ...], dtype) -> None:
    """Raise unless an array of this name, shape and dtype is what the stage promises."""
    if name not in SCHEMAS[stage]:
        raise ValueError(f"{stage} has no array {name!r}; it has {', '.join(SCHEMAS[stage])}")
    contract = SCHEMAS[stage][name]
    leading = ("component",) if stage == "diffusion_map" and contract.dimensions[:1] == ("component",) else ()
    # A connected graph drops the component axis.
    if len(shape) not in (len(contract.dimensions), len(contract.dimensions) - len(leading)):
        raise ValueError(f"{stage}: {name} has {len(shape)} dimensions, the schema says {contract.dimensions}")
    if np.dtype(dtype).kind != contract.kind:
        raise ValueError(f"{stage}: {name} has dtype {np.dtype(dtype)}, the schema says kind {contract.kind!r}")
