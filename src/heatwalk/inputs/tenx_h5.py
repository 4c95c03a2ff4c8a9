"""The matrix files of cellranger: one group `matrix` (version 3), or one group per genome (version 2).

Stored as features x cells by columns, which is cells x features by rows: read as CSR without turning anything round.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import numpy as np

from heatwalk.errors import Problem
from heatwalk.inputs import hdf5, names
from heatwalk.inputs.matrices import Sparse, open_sparse
from heatwalk.inputs.opened import Input, Request, check_shape, only_genes
from heatwalk.inputs.problems import bad, gathering, raise_all, reading, suggestion
from heatwalk.inputs.sizes import check_memory

PARTS = ("barcodes", "data", "indices", "indptr", "shape")


def recognise(path: Path) -> bool:
    """An HDF5 file with a 10x matrix in it."""
    if not hdf5.has_signature(path):
        return False
    import h5py

    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return bool(_matrices(file))
    except (OSError, RuntimeError, KeyError, ValueError):
        return False  # damaged: h5ad.open says how


def _matrices(file) -> list[str]:
    import h5py

    found = []
    for name in file:
        is_hard = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if is_hard and isinstance(file[name], h5py.Group) and {"barcodes", "indptr"} <= set(file[name]):
            found.append(name)
    return found


def open(path: Path, request: Request) -> Input:
    """Open the matrix; `layer` names the genome when there are several."""
    resources = ExitStack()
    try:
        file = hdf5.open_file(path, resources)
        with reading(path):
            return _open(file, path, request, resources)
    except BaseException:
        resources.close()
        raise


def _open(file, path: Path, request: Request, resources: ExitStack) -> Input:
    import pandas

    genomes = _matrices(file)
    genome = request.layer or genomes[0]
    if genome not in genomes or (len(genomes) > 1 and not request.layer):
        cause = f"there is no genome {genome!r}" if request.layer else f"holds {len(genomes)} genomes"
        raise bad("HW-IN-013", path, cause, f"{suggestion(request.layer, genomes)} in `layer`")
    group, where = file[genome], f"{path}:{genome}"
    storage = hdf5.Hdf5Storage(request.memory)
    missing = [name for name in PARTS if name not in group]
    if missing:
        raise bad("HW-IN-008", where, f"has no {', '.join(missing)}", "copy or export the file again")
    n_features, n_cells = (int(size) for size in np.ravel(group["shape"][:2]))
    shape = (n_cells, n_features)
    if min(shape) < 0:
        raise bad("HW-IN-008", where, f"has shape {shape}", "copy or export the file again")
    raise_all(check_shape(shape, request.kind, where))
    problems: list[Problem] = []
    obs = var = None
    with gathering(problems):
        barcodes = _text(group["barcodes"], f"{where}/barcodes", storage)
        obs = pandas.DataFrame(index=pandas.Index(barcodes, dtype=object))
    with gathering(problems):
        var = _features(group, where, storage)
    with gathering(problems):
        parts = Sparse(group["data"], group["indices"], group["indptr"], shape, by_cell=True)
        dtype, read = open_sparse(parts, where, storage, request.memory)
    for what, table, expected in (("barcodes", obs, n_cells), ("features", var, n_features)):
        if table is not None and len(table) != expected:
            cause = f"{len(table):,} {what} for a matrix of {expected:,}"
            problems.append(Problem("HW-IN-018", where, cause, "copy or export the file again"))
    raise_all(problems)
    var, read, notes = only_genes(var, read)
    obs, var, name_notes = names.checked(obs, var, f"{where}/barcodes", f"{where}/features")
    notes = (*notes, *name_notes)
    return Input(where, var, obs, MappingProxyType({}), (len(var),), dtype, True, notes, read, resources)


def _text(dataset, where: str, storage) -> list[str]:
    if len(dataset.shape) != 1:
        raise bad("HW-IN-008", where, f"has {len(dataset.shape)} dimensions, not 1", "copy or export the file again")
    raise_all(storage.check(dataset, where))
    raise_all(check_memory(dataset.shape[0] * dataset.dtype.itemsize, where, storage.memory))
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in dataset[:]]


def _features(group, where: str, storage):
    import pandas

    # name in the file -> name in `var`, as scanpy calls them
    if "features" in group:
        columns = {"features/id": "gene_ids", "features/feature_type": "feature_types", "features/genome": "genome"}
        symbols = "features/name"
    else:
        columns, symbols = {"genes": "gene_ids"}, "gene_names"
    if symbols not in group:
        raise bad("HW-IN-008", where, f"has no {symbols}", "copy or export the file again")
    index = _text(group[symbols], f"{where}/{symbols}", storage)
    table = {new: _text(group[old], f"{where}/{old}", storage) for old, new in columns.items() if old in group}
    return pandas.DataFrame(table, index=pandas.Index(index, dtype=object))
