"""Diffusion geometry for cell atlases.

    import heatwalk as hw
    nn = hw.neighbors(points, n_neighbors=30)
    aff = hw.affinity(points, nn)
    dm = hw.diffusion_map(aff, n_components=15)

Stages are plain functions on arrays that return named tuples; `hw.scverse` has the same verbs on an AnnData object.
"""

from heatwalk import scverse, spaces
from heatwalk.affinity import Affinity, affinity
from heatwalk.bilipschitz import Bilipschitz, bilipschitz
from heatwalk.cells import Cells, cells
from heatwalk.curvature import Curvature, curvature
from heatwalk.deep_diffusion_map import DeepDiffusionMap, deep_diffusion_map, distance_error
from heatwalk.diffusion_map import DiffusionMap, coordinates, diffusion_map
from heatwalk.errors import BadInput, HeatwalkError, Locked, OutOfResources, Problem
from heatwalk.extension import Extension, Reference, extension
from heatwalk.generation_metrics import GenerationMetrics, generation_metrics
from heatwalk.genes import Genes, genes
from heatwalk.inputs import open_input
from heatwalk.neighbors import Neighbors, neighbors
from heatwalk.particles import Particles, particles
from heatwalk.pca import Pca, pca
from heatwalk.pseudotime import Pseudotime, pseudotime
from heatwalk.random_walk import RandomWalk, random_walk
from heatwalk.riemannian_diffusion import RiemannianDiffusion, riemannian_diffusion
from heatwalk.unexplained import Unexplained

__all__ = [
    "Affinity",
    "BadInput",
    "Bilipschitz",
    "Cells",
    "Curvature",
    "DeepDiffusionMap",
    "DiffusionMap",
    "Extension",
    "GenerationMetrics",
    "Genes",
    "HeatwalkError",
    "Locked",
    "Neighbors",
    "OutOfResources",
    "Particles",
    "Pca",
    "Problem",
    "Pseudotime",
    "RandomWalk",
    "Reference",
    "RiemannianDiffusion",
    "Unexplained",
    "affinity",
    "bilipschitz",
    "cells",
    "coordinates",
    "curvature",
    "deep_diffusion_map",
    "diffusion_map",
    "distance_error",
    "extension",
    "generation_metrics",
    "genes",
    "neighbors",
    "open_input",
    "particles",
    "pca",
    "pseudotime",
    "random_walk",
    "riemannian_diffusion",
    "scverse",
    "spaces",
]
