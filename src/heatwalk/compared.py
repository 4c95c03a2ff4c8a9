"""The report's section on the network: its coordinates beside those of the map, and how far off its distances are."""

from collections.abc import Mapping

import numpy as np

from heatwalk import compute, pictures
from heatwalk.diffusion_map import coordinates
from heatwalk.pictures import Column

_MODES = 2  # drawn


def network(results: Mapping, column: Column, components: np.ndarray) -> dict | None:
    """Pictures of both maps in the same colours, errors by decile, and what a reader may do with the network."""
    if "deep_diffusion_map" not in results:
        return None
    deep, drawn = results["deep_diffusion_map"], []
    parameters, largest = deep.manifest["parameters"], np.flatnonzero(components == 0)
    if "diffusion_map" in results:
        modes = min(_MODES, deep["coordinates"].shape[1], results["diffusion_map"]["eigenvectors"].shape[1])
        true, close = (places(results, modes, parameters["t"])[largest] for places in (exact, learnt))
        close *= np.where(np.nansum(true * close, axis=0) < 0, -1, 1)  # which way an axis points has no meaning
        drawn = [true, close]
    own = column.of(largest) if column.levels else pictures.coloured(column.of(largest))
    error, deciles = float(deep["error"][...]), np.asarray(deep["error_deciles"][:])
    measured = bool(np.isfinite(error))
    about = "Mean relative error of distances, from the nearest tenth of the pairs to the farthest."
    return {
        "pictures": [_draw(points, own) for points in drawn],
        "column": own,
        "keys": pictures.legend(own) if own.levels else [],
        "t": parameters["t"],
        "modes": deep["coordinates"].shape[1],
        "rounds": deep["energy"].shape[0] - 1,
        "residual": float(np.max(deep["residuals"][:])),
        "bytes": int(deep["weights"].shape[0]),
        "error": error if measured else None,
        "median": float(deep["error_median"][...]),
        "cells": int(deep["error_cells"][...]),
        "own": int(deep["error_cells"][...]) == len(components),
        "chart": pictures.columns(100 * deciles, "tenth of the distances", "% off", about) if measured else None,
    }


def exact(results: Mapping, modes: int, t: float) -> np.ndarray:
    """(cell, mode) the first coordinates lambda^t psi of the map."""
    found, components = results["diffusion_map"], np.asarray(results["affinity"]["components"][:])
    values, points = np.atleast_2d(found["eigenvalues"][...])[:, :modes], np.empty((len(components), modes))
    for rows in compute.blocks(len(components), 8 * compute.BLOCK_CELLS):
        points[rows] = coordinates(values, found["eigenvectors"][rows, :modes], components[rows], t=t)
    return points


def learnt(results: Mapping, modes: int, t: float) -> np.ndarray:
    """(cell, mode) the first coordinates by the network, which has a t of its own."""
    found = results["deep_diffusion_map"]["coordinates"]
    points = np.empty((found.shape[0], modes))
    for rows in compute.blocks(len(points), 8 * compute.BLOCK_CELLS):
        points[rows] = found[rows, :modes]
    return points


def _draw(points: np.ndarray, column: Column) -> pictures.Picture:
    if points.shape[1] == 1:
        random = np.random.default_rng(0).uniform(-1, 1, len(points))
        return pictures.picture(np.column_stack([points[:, 0], random]), column, (1, 0), 640)
    return pictures.picture(points, column, (1, 2), 640)
