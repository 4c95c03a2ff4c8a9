"""The report's section on the network: its coordinates beside those of the map, and how far off its distances are."""

from collections.abc import Mapping

import numpy as np

from heatwalk import compute, pictures
from heatwalk.bilipschitz import bilipschitz
from heatwalk.deep_diffusion_map import distance_error
from heatwalk.diffusion_map import coordinates
from heatwalk.pictures import Column

_MODES = 2  # drawn
_FEWEST = 10  # cells that are worth a comparison
_PAIRS_OF = 1500  # cells all of whose distances are compared
_NEAR = 10  # cells around one in which a map's stretch is measured


def network(results: Mapping, column: Column, components: np.ndarray) -> dict | None:
    """Pictures of both maps in the same colours, errors by decile, and what a reader may do with the network."""
    if "deep_diffusion_map" not in results:
        return None
    deep, drawn, found = results["deep_diffusion_map"], [], None
    parameters, largest = deep.manifest["parameters"], np.flatnonzero(components == 0)
    if "diffusion_map" in results and len(largest) >= _FEWEST:
        drawn, found = _beside_the_map(results, largest, parameters["t"])
    own = column.of(largest) if column.levels else pictures.coloured(column.of(largest))
    # Beside the map of these very cells where there is one; else what the stage found on others like them.
    stage = (float(deep["error"][...]), float(deep["error_median"][...]), np.asarray(deep["error_deciles"][:]))
    error, median, deciles = found or stage
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
        "median": median,
        "cells": min(_PAIRS_OF, len(largest)) if found else int(deep["error_cells"][...]),
        "own": bool(found) or int(deep["error_cells"][...]) == len(components),
        "chart": pictures.columns(100 * deciles, "tenth of the distances", "% off", about) if measured else None,
    }


def _beside_the_map(results: Mapping, largest: np.ndarray, t: int) -> tuple[list[np.ndarray], tuple]:
    """The map and the network's places turned onto it, (cell, 2) of the largest component, and the errors of distances.

    Both on as many components as both have. Places are known up to a rotation: the one that brings them nearest to the
    map is found on the cells whose distances are compared.
    """
    from scipy.linalg import orthogonal_procrustes

    true, close = results["diffusion_map"]["eigenvectors"], results["deep_diffusion_map"]["coordinates"]
    modes = min(true.shape[1], close.shape[1])
    values = np.atleast_2d(results["diffusion_map"]["eigenvalues"][...])[0, :modes]
    modes = int(np.isfinite(values).sum())
    some = _sample(largest)
    powers, shown = values[:modes] ** t, min(_MODES, modes)
    expected, found = _rows(true, some)[:, :modes] * powers, _rows(close, some)[:, :modes]
    turn = orthogonal_procrustes(found, expected)[0][:, :shown]
    drawn = [np.empty((true.shape[0], shown)) for _ in range(2)]
    for rows in compute.blocks(true.shape[0], 8 * compute.BLOCK_CELLS):
        drawn[0][rows] = true[rows, :shown] * powers[:shown]
        drawn[1][rows] = np.asarray(close[rows, :modes], np.float64) @ turn
    # Components of a graph in pieces are those of each piece here, and of all together there.
    error = distance_error(found, expected) if len(largest) == true.shape[0] else None
    return [points[largest] for points in drawn], error


def stretched(results: Mapping, components: np.ndarray, t: float) -> list[tuple[str, float]]:
    """Median local bi-Lipschitz constant of the map, of the network or of both, beside the representation.

    Of a sample of the largest component among its own nearest, all components kept, after one rescaling each.
    """
    largest, found = np.flatnonzero(components == 0), []
    some = _sample(largest)
    data = _rows(results["pca"]["coordinates"], some)
    for name, stage, array in (
        ("map", "diffusion_map", "eigenvectors"),
        ("network", "deep_diffusion_map", "coordinates"),
    ):
        if stage in results:
            places = _rows(results[stage][array], some)
            if name == "map":
                values = np.atleast_2d(results[stage]["eigenvalues"][...])[0]
                places = (places * values**t)[:, np.isfinite(values)]
            known = np.isfinite(places).all(axis=1) & np.isfinite(data).all(axis=1)
            if known.sum() > _NEAR and places.shape[1]:
                middle = float(np.median(bilipschitz(places[known], data[known], k=_NEAR).rescaled))
                found += [(name, middle)] if np.isfinite(middle) else []
    return found


def _sample(rows: np.ndarray) -> np.ndarray:
    return np.sort(np.random.default_rng(0).choice(rows, min(_PAIRS_OF, len(rows)), replace=False))


def _rows(array, rows: np.ndarray) -> np.ndarray:
    """Some rows, ascending, of an array on disk, read in blocks."""
    parts = compute.blocks(array.shape[0], 8 * compute.BLOCK_CELLS)
    picked = [(part, rows[(rows >= part.start) & (rows < part.stop)] - part.start) for part in parts]
    return np.concatenate([np.asarray(array[part], np.float64)[own] for part, own in picked if len(own)])


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
