"""The AnnData of generated points: not on the atlas's cell axis, but with what sets them beside its cells."""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from heatwalk import compute
from heatwalk.cells import Cells
from heatwalk.condition import column_of, matching
from heatwalk.decoding import explained
from heatwalk.hdf5_file import hdf5_file
from heatwalk.pca import Pca

_COPIED = 2**22  # values of the matrix at a time


def files(draft, name: str, made, results: Mapping[str, Any], provenance: Mapping) -> dict[str, Path]:
    """The files of a result that may have no new points, as a query's has none."""
    return {} if made.points is None else {name: write(draft.file(name), made, results, provenance)}


def write(path: Path, made, results: Mapping[str, Any], provenance: Mapping) -> Path:
    """Write what a generator gave as .h5ad, the matrix in row blocks; where it is.

    X: decoded values of the selected genes, if there are any. obsm: the representation, named as in the atlas. obs:
    heatwalk_flagged, heatwalk_distance to the nearest real cell, heatwalk_nearest, its name, and the column of the
    condition; of a walk heatwalk_step, heatwalk_burst and heatwalk_seed, the cell that it began at.
    uns["heatwalk"]["generated"]: parameters, seed, code, version, root hashes of the inputs, and
    share_of_variance, what decoding knows of it. The same result gives the same bytes.
    """
    import anndata

    cells, pca, parameters = Cells(**results["cells"]), Pca(**results["pca"]), provenance["parameters"]
    decoded = getattr(made, "expression", None) is not None
    about = {"code": provenance["code"], "version": metadata.version("heatwalk"), "seed": parameters["seed"]}
    about |= {"parameters": json.dumps(parameters, sort_keys=True), "inputs": dict(provenance["inputs"])}
    about |= {"share_of_variance": explained(pca)} if decoded else {}
    elements = {
        "obs": _obs(made, cells.obs, parameters["condition"]),
        "var": cells.var[np.asarray(cells.selected[:])] if decoded else cells.var.iloc[:0, :0],
        "obsm": {results["pca"].manifest["parameters"]["use_rep"] or "X_pca": np.asarray(made.points[:])},
        "uns": {"heatwalk": {"generated": about}},
        **{name: {} for name in ("layers", "obsp", "varm", "varp")},
    }
    with hdf5_file(path) as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name, value in elements.items():
            anndata.io.write_elem(file, name, value)
        if decoded:
            _copy(made.expression, file)
    return path


def _obs(made, known, condition: str):
    """What is known of every generated point."""
    import pandas

    n_points = made.points.shape[0]
    obs = pandas.DataFrame(index=pandas.Index([f"generated{number}" for number in range(n_points)], dtype=object))
    obs["heatwalk_flagged"], obs["heatwalk_distance"] = np.asarray(made.flagged[:]), np.asarray(made.distances[:])
    obs["heatwalk_nearest"] = np.asarray(known.index, object)[np.asarray(made.nearest[:])]
    for name in ("step", "burst"):
        if hasattr(made, name):
            obs[f"heatwalk_{name}"] = np.asarray(getattr(made, name)[:])
    if hasattr(made, "seeds"):
        obs["heatwalk_seed"] = np.asarray(known.index, object)[np.asarray(made.seeds[:])]
    if condition:
        like = known[column_of(known, condition)].iloc[matching(known, condition, "HW-PA-008", "condition")[:1]]
        obs[like.name] = like.repeat(n_points).set_axis(obs.index)
    return obs


def _copy(values, file) -> None:
    rows, columns = values.shape
    step = max(1, _COPIED // max(columns, 1))
    options = {"chunks": (min(step, rows), columns), "compression": "gzip", "compression_opts": 1}
    matrix = file.create_dataset("X", values.shape, np.float32, track_times=False, **options)
    matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for block in compute.blocks(rows, step):
        matrix[block] = values[block]
