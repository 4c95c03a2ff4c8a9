"""Small sources in every format, and ways to break them, for test_inputs.py."""

import gzip
import re
import warnings
import zipfile

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse
import zarr

N_CELLS, N_GENES = 53, 31


def counts(n_cells=N_CELLS, n_genes=N_GENES, seed=0):
    """A sparse matrix of counts with some large ones, so that it looks like neither logged nor empty."""
    rng = np.random.default_rng(seed)
    matrix = rng.poisson(0.7, (n_cells, n_genes)).astype(np.float32)
    matrix[:, 0] = rng.integers(1, 300, n_cells)
    return scipy.sparse.csr_matrix(matrix)


def annotated(matrix=None, **options):
    """An AnnData with obs of several types, a layer, raw and obsm."""
    matrix = counts() if matrix is None else matrix
    n_cells, n_genes = matrix.shape
    rng = np.random.default_rng(1)
    obs = pd.DataFrame(
        {"cluster": pd.Categorical(rng.choice(["a", "b"], n_cells)), "depth": np.arange(n_cells), "ok": True},
        index=[f"cell{number}" for number in range(n_cells)],
    )
    var = pd.DataFrame({"gene_ids": [f"ENS{g:03}" for g in range(n_genes)]}, index=[f"G{g}" for g in range(n_genes)])
    adata = anndata.AnnData(matrix, obs=obs, var=var)
    adata.layers["doubled"] = matrix * 2
    adata.obsm["X_pca"] = rng.normal(size=(n_cells, 4))
    adata.raw = adata
    for name, value in options.items():
        setattr(adata, name, value)
    return adata


def write_h5ad(path, adata=None, **options):
    (annotated() if adata is None else adata).write_h5ad(path, **options)
    return path


def write_zarr(path, adata=None, version=3):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces its next defaults
        group = zarr.open_group(path, mode="w", zarr_format=version)
        anndata.io.write_elem(group, "/", annotated() if adata is None else adata)
    return path


def write_legacy(path):
    """An .h5ad as scanpy wrote it in 2018: records, categories in uns, raw.X and raw.var beside X."""
    matrix = counts()
    obs = np.zeros(N_CELLS, [("index", "S8"), ("cluster", "i1"), ("depth", "<i8")])
    obs["index"] = [f"cell{number}".encode() for number in range(N_CELLS)]
    obs["cluster"] = np.arange(N_CELLS) % 2
    obs["depth"] = np.arange(N_CELLS)
    var = np.array([(f"G{g}".encode(),) for g in range(N_GENES)], [("index", "S5")])
    obsm = np.zeros(N_CELLS, [("X_pca", "<f4", (4,)), ("X_one", "<f8")])
    obsm["X_pca"] = np.arange(N_CELLS * 4).reshape(N_CELLS, 4)
    with h5py.File(path, "w") as file:
        file["X"] = matrix.toarray() - 1
        file["obs"], file["var"], file["raw.var"], file["obsm"] = obs, var, var, obsm
        file["uns/cluster_categories"] = np.array([b"first", b"second"])
        group = file.create_group("raw.X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = b"csr", matrix.shape
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
    return path


def write_10x_h5(path, version=3, types=("Gene Expression",), matrix=None):
    matrix = counts() if matrix is None else matrix
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        group["barcodes"] = [f"AAAC{number}-1".encode() for number in range(matrix.shape[0])]
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices.astype(np.int64)
        group["indptr"], group["shape"] = matrix.indptr.astype(np.int64), np.array(matrix.shape[::-1])
        ids = [f"ENS{g:03}".encode() for g in range(matrix.shape[1])]
        symbols = [f"G{g}".encode() for g in range(matrix.shape[1])]
        if version == 2:
            group["genes"], group["gene_names"] = ids, symbols
        else:
            group["features/id"], group["features/name"] = ids, symbols
            group["features/feature_type"] = [types[g % len(types)].encode() for g in range(matrix.shape[1])]
    return path


def write_mtx(path, matrix=None, compressed=True, symbols=None, types=("Gene Expression",), by_gene=False, prefix=""):
    """A folder as cellranger writes it; `by_gene` sorts the entries the other way."""
    matrix = counts() if matrix is None else matrix
    path.mkdir()
    symbols = symbols or [f"G{g}" for g in range(matrix.shape[1])]
    entries = matrix.T.tocoo() if by_gene else matrix.T.tocsc().tocoo()
    order = np.lexsort((entries.col, entries.row) if by_gene else (entries.row, entries.col))
    lines = ["%%MatrixMarket matrix coordinate integer general", "%a comment"]
    lines.append(f"{matrix.shape[1]} {matrix.shape[0]} {matrix.nnz}")
    lines += [f"{entries.row[i] + 1} {entries.col[i] + 1} {int(entries.data[i])}" for i in order]
    files = {
        "matrix.mtx": lines,
        "barcodes.tsv": [f"{prefix}AAAC{number}-1" for number in range(matrix.shape[0])],
        "features.tsv": [f"ENS{g:03}\t{name}\t{types[g % len(types)]}" for g, name in enumerate(symbols)],
    }
    for name, text in files.items():
        content = ("\n".join(text) + "\n").encode()
        if compressed:
            (path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (path / name).write_bytes(content)
    return path


def write_mtx_by_scipy(path):
    """A folder with an older genes.tsv and a matrix written by SciPy."""
    path.mkdir()
    scipy.io.mmwrite(path / "matrix.mtx", counts().T.astype(np.int64))
    (path / "barcodes.tsv").write_text("".join(f"AAAC{number}-1\n" for number in range(N_CELLS)))
    (path / "genes.tsv").write_text("".join(f"ENS{g:03}\tG{g}\n" for g in range(N_GENES)))
    return path


def gaussian(n_rows=N_CELLS, n_columns=5, dtype="f8"):
    return np.random.default_rng(2).normal(size=(n_rows, n_columns)).astype(dtype)


# --- ways to break a source: each returns a function that writes it into a folder and gives its name ---


def bytes_file(name, content):
    return lambda folder: (folder / name).write_bytes(content) and name


def truncated(name, write):
    def write_and_cut(folder):
        path = write(folder / name)
        path = path / "matrix.mtx.gz" if path.is_dir() else path
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        return name

    return write_and_cut


def broken_h5ad(change, adata=None):
    """An .h5ad in which `change(file)` breaks something."""

    def write(folder):
        with h5py.File(write_h5ad(folder / "a.h5ad", adata and adata()), "r+") as file:
            change(file)
        return "a.h5ad"

    return write


def broken_10x(change):
    def write(folder):
        with h5py.File(write_10x_h5(folder / "a.h5"), "r+") as file:
            change(file)
        return "a.h5"

    return write


def broken_zarr(change, version=3, dense=False):
    def write(folder):
        matrix = counts().toarray() if dense else None
        store = write_zarr(folder / "a.zarr", annotated(matrix), version=version)
        change(store)
        return "a.zarr"

    return write


def broken_mtx(change, **options):
    def write(folder):
        change(write_mtx(folder / "a", compressed=False, **options))
        return "a"

    return write


def edit(relative, pattern, new):
    def change(folder):
        path = folder / relative
        text, count = re.subn(pattern, new, path.read_text(), count=1)
        assert count == 1, f"{pattern} not in {path}"
        path.write_text(text)

    return change


def unlink(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def put(name, value):
    """Replace a dataset of an HDF5 file."""

    def change(file):
        attributes = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        file[name] = value
        file[name].attrs.update(attributes)

    return change


def change_values(*pairs):
    """The counts with some values replaced; written as dense X."""

    def write():
        matrix = counts().toarray().astype(np.float64)
        for row, column, value in pairs:
            matrix[row, column] = value
        return annotated(matrix)

    return write


def x_is(function):
    return lambda folder: write_h5ad(folder / "a.h5ad", annotated(function(counts()))).name


def npz(**arrays):
    return lambda folder: np.savez_compressed(folder / "a.npz", **arrays) or "a.npz"


def npz_member(name, content, compression=zipfile.ZIP_DEFLATED):
    def write(folder):
        with zipfile.ZipFile(folder / "a.npz", "w", compression) as archive:
            archive.writestr(name, content)
        return "a.npz"

    return write


def npy_header(shape, descr="<f8"):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def external_link(file):
    file["layers/far"] = h5py.ExternalLink("/etc/passwd", "/X")


def external_storage(file):
    file.create_dataset("layers/far", (5,), "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(file):
    layout = h5py.VirtualLayout((5,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", shape=(5,))
    file.create_virtual_dataset("layers/far", layout)


def foreign_filter(file):
    """A filter that no library has, declared and skipped when written: as zstd of a plugin that is not here."""
    data = file["X/data"][:]
    del file["X/data"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((10,))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple(data.shape)
    h5py.h5d.create(file["X"].id, b"data", h5py.h5t.NATIVE_FLOAT, space, properties)


def never_written(file):
    size = file["X/indices"].shape
    del file["X/indices"]
    file["X"].create_dataset("indices", size, "i4", chunks=(10,))


def never_written_obsm(file):
    del file["obsm/X_pca"]
    file["obsm"].create_dataset("X_pca", (N_CELLS, 4), "f4", chunks=(10, 4))


def damaged_obsm(folder):
    """An embedding whose compressed bytes are broken: it opens, and cannot be read."""
    path = write_h5ad(folder / "a.h5ad", compression="gzip")
    with h5py.File(path) as file:
        chunk = file["obsm/X_pca"].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    return "a.h5ad"


def absurd(file):
    del file["X"]
    file.create_dataset("X", (N_CELLS, 10**12), "f8", chunks=(1, 10**6))


def link_a_chunk(store):
    chunk = next(path for path in (store / "X" / "data").rglob("*") if path.name == "0")
    target = store.parent / "elsewhere"
    chunk.rename(target)
    chunk.symlink_to(target)


def repeat_name(file):
    file["obs/_index"][1] = file["obs/_index"][0]


def repeat_gene(file):
    for name in ("var/_index", "var/gene_ids"):
        file[name][1] = file[name][0]


def csc_of_many(folder):
    return write_h5ad(folder / "a.h5ad", annotated(counts().tocsc())).name


def late_disorder(folder):
    """Sorted by cell in the first million entries only."""
    lines = [f"1 {cell + 1} 5" for cell in range(1_100_000)]
    lines.append("2 1 5")
    path = write_mtx(folder / "a", compressed=False)
    head = "%%MatrixMarket matrix coordinate integer general\n2 1100000 1100001\n"
    (path / "matrix.mtx").write_text(head + "\n".join(lines) + "\n")
    (path / "features.tsv").write_text("g1\ng2\n")
    (path / "barcodes.tsv").write_text("\n".join(map(str, range(1_100_000))))
    return "a"


def two_samples(second):
    def write(folder):
        write_mtx(folder / "a")
        second(folder / "b")
        return "u=a;v=b"

    return write
