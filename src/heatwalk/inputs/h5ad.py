"""AnnData in HDF5: today's .h5ad, and those of scanpy's early years."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from heatwalk.inputs import hdf5
from heatwalk.inputs.anndata_encoding import open_anndata
from heatwalk.inputs.opened import Input, Request
from heatwalk.inputs.problems import reading

SUFFIXES = (".h5ad", ".h5", ".hdf5")


def recognise(path: Path) -> bool:
    """Any HDF5 file that no other format claims, and files named like one, whatever is in them."""
    return path.is_file() and (hdf5.has_signature(path) or path.suffix in SUFFIXES)


def open(path: Path, request: Request) -> Input:
    """Open the file, once nothing in it points elsewhere."""
    resources = ExitStack()
    try:
        file = hdf5.open_file(path, resources)
        with reading(path):
            return open_anndata(file, hdf5.Hdf5Storage(request.memory), str(path), request, resources)
    except BaseException:
        resources.close()
        raise
