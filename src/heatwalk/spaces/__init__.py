"""Geometries of data that is no table of numbers: one file each, with `embed` into Euclidean coordinates."""

from heatwalk.spaces import euclidean, so3, sphere, torus

SPACES = {"euclidean": euclidean, "sphere": sphere, "torus": torus, "so3": so3}
