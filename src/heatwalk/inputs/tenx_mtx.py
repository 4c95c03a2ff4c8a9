"""The folder that cellranger writes: matrix.mtx, barcodes.tsv, features.tsv or genes.tsv, gzipped or not.

matrix.mtx   feature cell count      one line per entry, 1-based, sorted by cell
             ------- ---- -----      read in pieces; the entries of a block of cells make one CSR block
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np

from heatwalk.errors import Problem, first_few
from heatwalk.inputs import names
from heatwalk.inputs.opened import Input, Request, check_shape, only_genes
from heatwalk.inputs.problems import bad, raise_all, reading
from heatwalk.inputs.sizes import ALLOWANCE, RATIO, amount, check_memory

PIECE = 2**20  # entries parsed at once
ENTRY_BYTES = 3 * 24  # row, column and value while they are sorted


def recognise(path: Path) -> bool:
    """A folder with a matrix.mtx."""
    return path.is_dir() and any(path.glob("*matrix.mtx*"))


def open(path: Path, request: Request) -> Input:
    """Read the names, and look at the head of the matrix."""
    files = _files(path)
    if request.layer:
        raise bad("HW-IN-013", path, "a folder of mtx has no layers", "leave `layer` empty")
    with reading(path):
        barcodes = _table(files["barcodes"], request.memory)
        table = _table(files["features"], request.memory)
    matrix = files["matrix"]
    with reading(matrix):
        header = _header(matrix, request)
        n_features, n_cells, count, dtype, skip = header
        shape = (n_cells, n_features)
        problems = check_shape(shape, request.kind, str(matrix))
        for what, found, expected in (("cells", len(barcodes), n_cells), ("features", len(table), n_features)):
            if found != expected:
                cause = f"{expected:,} {what} in the matrix but {found:,} names for them"
                remedy = "copy the folder again; the matrix must be features x cells"
                problems.append(Problem("HW-IN-018", str(matrix), cause, remedy))
        raise_all(problems)
        ordered = _starts_ordered(matrix, skip)
    if not ordered and count * ENTRY_BYTES > request.memory:
        cause = f"{count:,} entries are not sorted by cell, and sorting takes {amount(count * ENTRY_BYTES)}"
        raise bad("HW-IN-023", matrix, cause, "give more memory, or convert it once with scanpy.read_10x_mtx to .h5ad")

    def read(n_rows: int) -> Iterator:
        pieces = _entries(matrix, skip, count, shape, dtype)
        return _blocks(pieces if ordered else _sorted(pieces), shape, dtype, n_rows, matrix)

    var, read_genes, notes = only_genes(_features(table), read)
    if not ordered:
        notes = (*notes, "the matrix is not sorted by cell: it is sorted in memory")
    obs, var, name_notes = names.checked(_cells(barcodes), var, str(files["barcodes"]), str(files["features"]))
    notes = (*notes, *name_notes)
    return Input(str(matrix), var, obs, MappingProxyType({}), (len(var),), dtype, True, notes, read_genes)


def _files(path: Path) -> dict[str, Path]:
    """The three files; links inside the folder are refused."""
    links = sorted(entry.name for entry in path.rglob("*") if entry.is_symlink())
    if links:
        cause = f"{len(links)} entries are links ({first_few(links)})"
        raise bad("HW-IN-004", path, cause, "copy the folder with its files: cp -rL FOLDER COPY")
    found, problems = {}, []
    wanted = {"matrix": ["matrix.mtx"], "barcodes": ["barcodes.tsv"], "features": ["features.tsv", "genes.tsv"]}
    for part, stems in wanted.items():
        candidates = [path / (stem + end) for stem in stems for end in ("", ".gz")]
        existing = [candidate for candidate in candidates if candidate.is_file()]
        if existing:
            found[part] = existing[0]
            if existing[0].stat().st_size == 0:
                problems.append(Problem("HW-IN-006", str(existing[0]), "is empty", "copy the file again"))
            continue
        near = sorted(entry.name for entry in path.glob(f"*{stems[0]}*"))
        remedy = f"rename {near[0]} to {stems[0]}{'.gz' * near[0].endswith('.gz')}" if near else "copy it there"
        problems.append(Problem("HW-IN-008", str(path), f"has no {' or '.join(stems)}[.gz]", remedy))
    raise_all(problems)
    return found


def _stream(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _table(path: Path, memory: int) -> list[list[str]]:
    """A small file of names; its size is bounded while it is read."""
    bound = min(memory, ALLOWANCE + RATIO * path.stat().st_size)
    with reading(path), _stream(path) as stream:
        text = stream.read(bound + 1)
        raise_all(check_memory(len(text), str(path), bound))
        lines = text.decode("utf-8-sig").split("\n")
    if lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip("\r").split("\t") for line in lines]


def _cells(rows: list[list[str]]):
    import pandas

    return pandas.DataFrame(index=pandas.Index([row[0] for row in rows], dtype=object))


def _features(rows: list[list[str]]):
    """id, symbol, type; the symbol is the name when there is one."""
    import pandas

    width = min(map(len, rows))
    if width == 1:
        return pandas.DataFrame(index=pandas.Index([row[0] for row in rows], dtype=object))
    columns = {"gene_ids": [row[0] for row in rows]}
    if width > 2:
        columns["feature_types"] = [row[2] for row in rows]
    return pandas.DataFrame(columns, index=pandas.Index([row[1] for row in rows], dtype=object))


def _header(path: Path, request: Request) -> tuple[int, int, int, np.dtype, int]:
    """Features, cells, entries, type, and the number of lines before the first entry."""
    with _stream(path) as stream:
        first = stream.readline(1000).decode("utf-8", "replace").lower().split()
        if first[:3] != ["%%matrixmarket", "matrix", "coordinate"] or len(first) < 5:
            raise ValueError("the first line is not '%%MatrixMarket matrix coordinate ...'")
        if first[3] not in ("integer", "real") or first[4] != "general":
            cause = f"is a {first[3]} {first[4]} matrix, not integer or real and general"
            raise bad("HW-IN-019", path, cause, "export the counts themselves (scipy.io.mmwrite)")
        skip = 1
        while (line := stream.readline(10_000)).lstrip().startswith(b"%") or line == b"\n":
            skip += 1
        n_features, n_cells, count = (int(word) for word in line.split())
        if min(n_features, n_cells, count) < 0 or count > n_features * n_cells:
            raise ValueError(f"{count} entries in {n_features} x {n_cells}")
    raise_all(check_memory(8 * (n_cells + n_features), str(path), request.memory))
    return n_features, n_cells, count, np.dtype(np.int64 if first[3] == "integer" else np.float64), skip + 1


def _entries(
    path: Path, skip: int, count: int, shape: tuple[int, int], dtype: np.dtype
) -> Iterator[tuple[np.ndarray, ...]]:
    """Cells, features (both from 0) and values, in the order of the file; checked against the header."""
    import pandas

    found = 0
    with _stream(path) as stream:
        if count == 0:
            return
        kind = {"feature": np.int64, "cell": np.int64, "value": dtype}
        frames = pandas.read_csv(
            stream, sep=r"\s+", header=None, names=list(kind), dtype=kind, skiprows=skip, chunksize=PIECE,
            skip_blank_lines=True, index_col=False, na_filter=False,
        )  # fmt: skip
        for frame in frames:
            cells, features = frame["cell"].to_numpy() - 1, frame["feature"].to_numpy() - 1
            wrong = (cells < 0) | (cells >= shape[0]) | (features < 0) | (features >= shape[1])
            if wrong.any():
                place = int(np.flatnonzero(wrong)[0])
                entry = f"first: entry {found + place + 1:,}"
                cause = f"{int(wrong.sum()):,} entries lie outside {shape[1]} x {shape[0]} ({entry})"
                raise bad("HW-IN-022", path, cause, "copy or export the folder again")
            found += len(frame)
            yield cells, features, frame["value"].to_numpy()
    if found != count:
        cause = f"holds {found:,} of the {count:,} entries its header declares"
        raise bad("HW-IN-006", path, cause, "the file is cut short: copy it again")


def _starts_ordered(path: Path, skip: int) -> bool:
    """Are the first entries sorted by cell? A file sorted by gene shows within one gene and a bit."""
    import pandas

    with _stream(path) as stream:
        try:
            head = pandas.read_csv(stream, sep=r"\s+", header=None, skiprows=skip, nrows=PIECE, usecols=[1])
        except pandas.errors.EmptyDataError:
            return True
    return bool(head.iloc[:, 0].is_monotonic_increasing)


def _sorted(pieces: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
    whole = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
    order = np.argsort(whole[0], kind="stable")
    yield tuple(part[order] for part in whole)


def _blocks(pieces, shape: tuple[int, int], dtype: np.dtype, n_rows: int, where: Path) -> Iterator:
    """CSR blocks out of entries sorted by cell."""
    waiting: list[tuple[np.ndarray, ...]] = []
    first, latest = 0, 0

    for piece in pieces:
        cells = piece[0]
        if len(cells) and (cells[0] < latest or (np.diff(cells) < 0).any()):
            remedy = "convert it once with scanpy.read_10x_mtx(FOLDER).write_h5ad(FILE) and name that file"
            raise bad("HW-IN-023", where, "entries are sorted by cell at first, but not throughout", remedy)
        latest = int(cells[-1]) if len(cells) else latest
        waiting.append(piece)
        while latest >= first + n_rows:  # all entries of the block are here
            entries = [np.concatenate(parts) for parts in zip(*waiting, strict=True)]
            cut = int(np.searchsorted(entries[0], first + n_rows))
            yield _block([part[:cut] for part in entries], first, n_rows, shape[1], dtype)
            waiting = [tuple(part[cut:] for part in entries)]
            first += n_rows
    entries = [np.concatenate(parts) for parts in zip(*waiting, strict=True)] or [np.empty(0, np.int64)] * 3
    while first < shape[0]:
        height = min(n_rows, shape[0] - first)
        cut = int(np.searchsorted(entries[0], first + height))
        yield _block([part[:cut] for part in entries], first, height, shape[1], dtype)
        entries = [part[cut:] for part in entries]
        first += height


def _block(entries: list[np.ndarray], first: int, height: int, width: int, dtype: np.dtype):
    import scipy.sparse

    cells, features, values = entries
    pointers = np.searchsorted(cells, np.arange(first, first + height + 1))
    triple = (values.astype(dtype), features.astype(np.int32), pointers)
    block = scipy.sparse.csr_matrix(triple, shape=(height, width))
    block.sum_duplicates()
    return block
