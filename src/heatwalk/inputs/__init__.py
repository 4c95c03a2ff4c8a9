"""Inputs: what a user names as the source of cells, recognised, checked and read in blocks of rows.

    with open_input("pbmc.h5ad", kind="counts", roots=[folder], base=folder) as cells:
        for block in cells.blocks(1000): ...

Every fault is a Problem with a code of `problems.CODES`. Formats are modules with the same two functions,
`recognise(path)` and `open(path, request)`, asked in the order of `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from heatwalk import remote
from heatwalk.errors import BadInput, Problem
from heatwalk.inputs import annzarr, delimited, h5ad, npz, samples, tenx_h5, tenx_mtx
from heatwalk.inputs.opened import ITEM_KINDS, KINDS, Embedding, Input, Request, choose_columns
from heatwalk.inputs.paths import fingerprint, resolve
from heatwalk.inputs.problems import CODES, bad, gathering
from heatwalk.inputs.values import ValueCheck

__all__ = ["CODES", "FORMATS", "ITEM_KINDS", "KINDS", "Input", "ValueCheck"]
__all__ += ["fingerprint", "open_input", "resolve", "validate"]

FORMATS = (tenx_h5, h5ad, annzarr, tenx_mtx, npz, delimited)
KNOWN = ".h5ad, an AnnData .zarr, a 10x .h5, a folder with matrix.mtx, .npy, .npz, .csv, .tsv (.gz)"
BLOCK_VALUES = 2**24  # values held at once while a source is validated


def open_input(
    source: str,
    *,
    kind: str,
    layer: str = "",
    columns: Sequence[str] = (),
    roots: Sequence[Path],
    base: Path,
    memory: int = 4 * 2**30,
) -> Input:
    """The source, opened: names and shape checked, values still to be read.

    `memory`: bytes that may be held at once. Raises BadInput with all faults found in the structure.
    """
    if kind not in KINDS:
        raise bad("HW-IN-002", f"source {source!r}", f"kind {kind!r} is not known", f"write one of {', '.join(KINDS)}")
    request = Request(kind, layer, tuple(columns), memory)
    parts = resolve(source, base=base, roots=roots)
    opened: list[Input] = []
    problems: list[Problem] = []
    for _, place in parts:
        try:
            opened.append(_open_one(remote.fetch(place) if remote.is_remote(place) else place, request))
        except BadInput as error:
            problems += error.problems
    if not problems:
        try:
            return samples.joined([label for label, _ in parts], opened) if parts[0][0] else opened[0]
        except BadInput as error:
            problems += error.problems
    for part in opened:
        part.close()
    raise BadInput(*problems)


def _open_one(path: Path, request: Request) -> Input:
    if path.is_file() and path.stat().st_size == 0:
        raise bad("HW-IN-006", path, "is empty (0 bytes)", "copy or download the file again")
    for form in FORMATS:
        if form.recognise(path):
            opened = form.open(path, request)
            try:
                return _with_embeddings(choose_columns(opened, request), path)
            except BaseException:
                opened.close()
                raise
    raise bad("HW-IN-005", path, "is in no format that is known here", f"give {KNOWN}")


def _with_embeddings(opened: Input, path: Path) -> Input:
    """The same source, whose embeddings fail in our words."""
    found = {key: Embedding(array, f"{path}:obsm/{key}") for key, array in opened.obsm.items()}
    return replace(opened, obsm=MappingProxyType(found))


def validate(
    source: str,
    *,
    kind: str,
    layer: str = "",
    columns: Sequence[str] = (),
    roots: Sequence[Path],
    base: Path,
    memory: int = 4 * 2**30,
) -> list[Problem]:
    """Everything that is wrong with the source, its values included; never raises for a bad one."""
    try:
        opened = open_input(
            source, kind=kind, layer=layer, columns=columns, roots=roots, base=base, memory=memory
        )  # fmt: skip
    except BadInput as error:
        return list(error.problems)
    problems = []
    with opened:
        check = ValueCheck(kind, opened.obs.index, opened.where)
        n_rows = max(1, BLOCK_VALUES // max(1, len(opened.features)))
        try:
            for block in opened.blocks(n_rows):
                check.add(block)
        except BadInput as error:
            problems += error.problems
        for array in opened.obsm.values():
            with gathering(problems):
                step = max(1, BLOCK_VALUES // max(1, array.shape[1]))
                all(len(array[first : first + step]) for first in range(0, len(array), step))
        return [*check.problems(), *problems]
