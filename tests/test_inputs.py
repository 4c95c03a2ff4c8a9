"""Inputs: every format reads as a plain reader would, and every fault is one line with its code."""

import gzip
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import inputs_fixtures as make
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr
from inputs_fixtures import (
    absurd,
    broken_10x,
    broken_h5ad,
    broken_mtx,
    broken_zarr,
    bytes_file,
    change_values,
    csc_of_many,
    edit,
    external_link,
    external_storage,
    foreign_filter,
    late_disorder,
    link_a_chunk,
    never_written,
    never_written_obsm,
    npy_header,
    npz,
    npz_member,
    put,
    repeat_gene,
    repeat_name,
    truncated,
    two_samples,
    unlink,
    virtual_dataset,
    x_is,
)

from heatwalk.errors import BadInput
from heatwalk.inputs import CODES, FORMATS, ValueCheck, open_input, resolve, validate

DATA = Path(os.environ.get("HEATWALK_DATA", Path(__file__).parents[2] / "shared" / "data"))
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the folder of real data is not here")


def opened(source, folder, kind="counts", **options):
    return open_input(str(source), kind=kind, roots=[folder], base=folder, **options)


def whole(source, n_rows):
    """All blocks below each other, after a look at their heights."""
    blocks = list(source.blocks(n_rows))
    heights = [block.shape[0] for block in blocks]
    assert heights[:-1] == [n_rows] * (len(blocks) - 1)
    assert 0 < heights[-1] <= n_rows
    assert all(scipy.sparse.isspmatrix_csr(block) == source.sparse for block in blocks)
    assert {block.dtype for block in blocks} == {source.dtype}
    return scipy.sparse.vstack(blocks).toarray() if source.sparse else np.concatenate(blocks)


def same_values(source, expected):
    expected = np.asarray(expected).reshape(len(expected), -1)
    for n_rows in (7, 20, 1000):
        np.testing.assert_array_equal(whole(source, n_rows), expected)
    assert source.n_cells == len(expected) == len(source.obs)
    assert len(source.features) == expected.shape[1]


# --- every format, read as it should be ----------------------------------------------------------------------------

GOOD_COUNTS = {
    "h5ad": lambda path: make.write_h5ad(path / "a.h5ad"),
    "h5ad gzip": lambda path: make.write_h5ad(path / "a.h5ad", compression="gzip"),
    "h5ad csc": lambda path: make.write_h5ad(path / "a.h5ad", make.annotated(make.counts().tocsc())),
    "h5ad dense": lambda path: make.write_h5ad(path / "a.h5ad", make.annotated(make.counts().toarray())),
    "zarr 2": lambda path: make.write_zarr(path / "a.zarr", version=2),
    "zarr 3": lambda path: make.write_zarr(path / "a.zarr", version=3),
    "zarr csc": lambda path: make.write_zarr(path / "a.zarr", make.annotated(make.counts().tocsc())),
    "zarr dense": lambda path: make.write_zarr(path / "a.zarr", make.annotated(make.counts().toarray())),
    "10x h5, version 3": lambda path: make.write_10x_h5(path / "a.h5"),
    "10x h5, version 2": lambda path: make.write_10x_h5(path / "a.h5", version=2),
    "mtx gz": lambda path: make.write_mtx(path / "a"),
    "mtx sorted by gene": lambda path: make.write_mtx(path / "a", compressed=False, by_gene=True),
    "mtx by SciPy": lambda path: make.write_mtx_by_scipy(path / "a"),
}


@pytest.mark.parametrize("name", GOOD_COUNTS)
def test_counts_in_every_format(name, tmp_path):
    with opened(GOOD_COUNTS[name](tmp_path), tmp_path) as source:
        same_values(source, make.counts().toarray())
        assert source.sparse == ("dense" not in name)
        assert source.item_shape == (make.N_GENES,)
        assert list(source.features.index) == [f"G{gene}" for gene in range(make.N_GENES)]
        assert list(source.features["gene_ids"][:2]) == ["ENS000", "ENS001"]
    assert validate(name_of(tmp_path), kind="counts", roots=[tmp_path], base=tmp_path) == []


def name_of(folder):
    return next(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_layers_raw_and_obsm(suffix, tmp_path):
    write = make.write_h5ad if suffix == "h5ad" else make.write_zarr
    adata = make.annotated()
    adata = adata[:, 3:].copy()  # raw keeps all genes
    source = write(tmp_path / f"a.{suffix}", adata)
    with opened(source, tmp_path, layer="doubled") as layer:
        same_values(layer, adata.layers["doubled"].toarray())
    with opened(source, tmp_path, layer="raw") as raw:
        same_values(raw, adata.raw.X.toarray())
        assert len(raw.features) == make.N_GENES
    with opened(source, tmp_path, kind="points", layer="obsm:X_pca") as points:
        same_values(points, adata.obsm["X_pca"])
        assert list(points.features.index) == [f"X_pca_{number}" for number in range(4)]
        np.testing.assert_array_equal(points.obsm["X_pca"][5:9], adata.obsm["X_pca"][5:9])
        pd.testing.assert_frame_equal(points.obs, adata.obs, check_dtype=False)


def test_a_layer_called_raw_goes_before_raw(tmp_path):
    adata = make.annotated()
    adata.layers["raw"] = adata.X * 3
    with opened(make.write_h5ad(tmp_path / "a.h5ad", adata), tmp_path, layer="raw") as source:
        same_values(source, make.counts().toarray() * 3)


def test_legacy_h5ad(tmp_path):
    path = make.write_legacy(tmp_path / "old.h5ad")
    with opened(path, tmp_path, layer="raw") as source:
        same_values(source, make.counts().toarray())
        assert list(source.obs["cluster"][:3]) == ["first", "second", "first"]
        assert source.obsm["X_pca"][2:4].tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
        assert "obsm 'X_one' is left out" in source.notes[0]
    with opened(path, tmp_path, kind="logged") as source:
        same_values(source, make.counts().toarray() - 1)
    with opened(path, tmp_path, kind="points", layer="obsm:X_pca") as source:
        same_values(source, np.arange(make.N_CELLS * 4).reshape(make.N_CELLS, 4))


def test_the_default_dataset_of_the_product():
    import scanpy

    with open_input(
        "scanpy:10x_pbmc68k_reduced.h5ad", kind="logged", layer="raw", roots=[], base=Path()
    ) as source:  # fmt: skip
        expected = scanpy.datasets.pbmc68k_reduced()
        same_values(source, expected.raw.X.toarray())
        assert list(source.features.index) == list(expected.raw.var_names)
        assert list(source.obs["bulk_labels"]) == list(expected.obs["bulk_labels"])
        np.testing.assert_array_equal(source.obsm["X_umap"][:], expected.obsm["X_umap"])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_numpy_files(suffix, order, tmp_path):
    values = np.asarray(make.gaussian(dtype=">f4"), order=order)
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, values)
    else:
        np.savez_compressed(path, X=values)
    with opened(path, tmp_path, kind="points") as source:
        assert source.dtype == np.float32
        same_values(source, values)
        assert list(source.features.index)[:2] == ["X_0", "X_1"]


def test_npz_with_obs_obsm_and_channels(tmp_path):
    values = make.gaussian()
    np.savez(
        tmp_path / "a.npz",
        X=values,
        channels=["CD3", "CD4", "CD8", "CD19", "FSC-A"],
        day=np.arange(make.N_CELLS),
        barcode=[f"cell{number}" for number in range(make.N_CELLS)],
        umap=values[:, :2],
        other=np.zeros((3, 3)),
        objects=np.array([{"a": 1}], dtype=object),
    )
    with opened(tmp_path / "a.npz", tmp_path, kind="intensities", columns=["CD19", "CD3"]) as source:
        same_values(source, values[:, [3, 0]])
        assert list(source.features.index) == ["CD19", "CD3"]
        assert list(source.obs.columns) == ["day"]
        assert source.obs.index[3] == "cell3"
        np.testing.assert_array_equal(source.obsm["umap"][4:6], values[4:6, :2])
        assert source.notes == ("'objects' is left out: it holds Python objects, which are never read",)


def test_images_and_sequences_keep_their_shape(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (make.N_CELLS, 6, 4), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", train=pictures, label=np.arange(make.N_CELLS))
    with opened("a.npz", tmp_path, kind="images") as source:
        same_values(source, pictures)
        assert (source.item_shape, source.dtype, list(source.obs.columns)) == ((6, 4), np.uint8, ["label"])
        assert source.features.index[5] == "train_1_1"
    np.save(tmp_path / "b.npy", pictures)
    with opened("b.npy", tmp_path, kind="sequences") as source:
        same_values(source, pictures)


CSV_GOOD = {
    "index without a name": "{bom},x,kind,y\r\nc1,1.5,a,2\r\nc2,3,b,-4\r\n",
    "index called Barcode": "Barcode,x,kind,y\nc1,1.5,a,2\nc2,3,b,-4",
    "tab in .csv": "cell\tx\tkind\ty\nc1\t1.5\ta\t2\nc2\t3\tb\t-4\n",
    "semicolons": "cell;x;kind;y\nc1;1.5;a;2\nc2;3;b;-4\n",
}


@pytest.mark.parametrize("name", CSV_GOOD)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_tables(name, suffix, tmp_path):
    text = CSV_GOOD[name].format(bom="\ufeff").encode()
    (tmp_path / f"a.{suffix}").write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    with opened(f"a.{suffix}", tmp_path, kind="points") as source:
        same_values(source, [[1.5, 2], [3, -4]])
        assert list(source.obs.index) == ["c1", "c2"]
        assert list(source.obs["kind"]) == ["a", "b"]
    with opened(f"a.{suffix}", tmp_path, kind="points", columns=["y"]) as source:
        same_values(source, [[2], [-4]])
        assert list(source.obs.columns) == ["x", "kind"]


def test_tables_without_names(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n5,6\n")
    with opened("a.csv", tmp_path, kind="points") as source:
        same_values(source, [[1, 2], [3, 4], [5, 6]])
        assert "has no header" in source.notes[0]
    pd.DataFrame([[7.0, 8.0]]).to_csv(tmp_path / "b.csv")  # header ",0,1"
    with opened("b.csv", tmp_path, kind="points") as source:
        same_values(source, [[7, 8]])
    pd.DataFrame([[7.0, 8.0]]).to_csv(tmp_path / "c.csv", index=False)  # header "0,1"
    with opened("c.csv", tmp_path, kind="points") as source:
        same_values(source, [[7, 8]])
        assert source.notes[0].startswith("the first line (0, 1) was taken as column names")
    (tmp_path / "d.tsv").write_text("x\ty\tnone\n1\t2\t\n3\t4\t\n")
    with opened("d.tsv", tmp_path, kind="points") as source:
        same_values(source, [[1, 2], [3, 4]])
        assert source.notes == ("columns without any value are left out: none",)


def test_several_samples(tmp_path):
    first, second = make.counts(seed=1), make.counts(seed=2)
    make.write_mtx(tmp_path / "a", first)
    order = np.random.default_rng(0).permutation(make.N_GENES)
    adata = make.annotated(second)[:, order].copy()
    adata.obs_names = [f"AAAC{number + 50}-1" for number in range(make.N_CELLS)]  # 3 of them in both samples
    make.write_h5ad(tmp_path / "b.h5ad", adata)
    with opened("day0=a; day3=b.h5ad;", tmp_path) as source:
        same_values(source, np.concatenate([first.toarray(), second.toarray()]))
        assert source.obs["sample"].value_counts(sort=False).to_dict() == {"day0": 53, "day3": 53}
        assert source.obs.index[0] == "day0:AAAC0-1"
        assert any(note.startswith("3 cell names occur in more than one sample") for note in source.notes)
        assert source.obs["depth"].isna().sum() == make.N_CELLS
        assert source.obsm == {}


def test_samples_share_some_features_and_obsm(tmp_path):
    adata = make.annotated()
    adata.obs["sample"] = "old"
    make.write_h5ad(tmp_path / "a.h5ad", adata)
    other = make.annotated()[:, 5:20].copy()
    other.obs_names = [f"other{number}" for number in range(make.N_CELLS)]
    make.write_zarr(tmp_path / "b.zarr", other)
    with opened("a=a.h5ad;b=b.zarr", tmp_path) as source:
        same_values(source, np.concatenate([make.counts().toarray()[:, 5:20]] * 2))
        assert source.obs.index[-1] == "other52"
        assert any("15 features are in all 2 samples and are kept, of up to 31" in note for note in source.notes)
        assert any("sample_before" in note for note in source.notes)
        both = np.concatenate([adata.obsm["X_pca"], other.obsm["X_pca"]])
        np.testing.assert_array_equal(source.obsm["X_pca"][50:60], both[50:60])
        np.testing.assert_array_equal(source.obsm["X_pca"][:], both)


def test_samples_keyed_by_symbol_and_by_id_meet(tmp_path):
    symbols = [f"G{gene}" for gene in range(make.N_GENES)]
    symbols[4] = symbols[3]
    make.write_mtx(tmp_path / "a", symbols=symbols)
    make.write_mtx(tmp_path / "b", prefix="B")
    with opened("a=a;b=b", tmp_path) as source:
        assert source.features.index[4] == "ENS004"
        same_values(source, np.concatenate([make.counts().toarray()] * 2))


def test_duplicated_feature_names(tmp_path):
    symbols = [f"G{gene}" for gene in range(make.N_GENES)]
    symbols[4] = symbols[3]
    with opened(make.write_mtx(tmp_path / "a", symbols=symbols), tmp_path) as source:
        assert list(source.features.index[3:5]) == ["ENS003", "ENS004"]
        assert list(source.features["symbol"][3:5]) == ["G3", "G3"]
        assert source.notes == ("2 features share a name with another: keyed by gene_ids",)
    adata = make.annotated()
    adata.var.drop(columns="gene_ids", inplace=True)
    adata.var.index = ["a", "b", "a-1", "a", *adata.var.index[4:]]
    with h5py.File(make.write_h5ad(tmp_path / "b.h5ad", make.annotated()), "r+") as file:
        del file["var/gene_ids"]
        file["var"].attrs["column-order"] = np.array([], dtype="S1")
        file["var/_index"][:4] = ["a", "b", "a-1", "a"]
    with opened("b.h5ad", tmp_path) as source:
        assert list(source.features.index[:4]) == ["a", "b", "a-1", "a-2"]
        assert source.notes[0].endswith("the later ones got -1, -2, ...")


@pytest.mark.parametrize("write", [make.write_10x_h5, make.write_mtx])
def test_only_genes_are_kept(write, tmp_path):
    path = write(tmp_path / "a.h5", types=("Gene Expression", "Antibody Capture"))
    with opened(path, tmp_path) as source:
        same_values(source, make.counts().toarray()[:, ::2])
        assert source.notes[0] == "16 genes are kept, 15 other features left out (Antibody Capture)"


def test_obs_columns_are_made_storable(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("cell,a/b,_index,x\nc1,u,v,1\nc2,u,v,2\n")
    with opened(path, tmp_path, kind="points") as source:
        assert list(source.obs.columns) == ["a_b", "index_"]
        assert source.notes == (
            "obs columns renamed, since they cannot be stored under their name: a/b to a_b, _index to index_",
        )


def test_entries_written_twice_mean_their_sum(tmp_path):
    with h5py.File(make.write_h5ad(tmp_path / "a.h5ad"), "r+") as file:
        expected = make.counts().toarray()
        second = file["X/indices"][1]
        file["X/indices"][1] = file["X/indices"][0]
        expected[0, 0] += expected[0, second]
        expected[0, second] = 0
    with opened("a.h5ad", tmp_path) as source:
        same_values(source, expected)


def test_a_sharded_store_with_stray_files_and_stale_metadata(tmp_path):
    store = make.write_zarr(tmp_path / "a.zarr", make.annotated(make.counts().toarray()))
    with pytest.warns(zarr.errors.ZarrUserWarning):
        zarr.consolidate_metadata(store)
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    attributes = dict(group["X"].attrs)
    del group["X"]
    group.create_array("X", data=make.counts().toarray(), chunks=(10, 7), shards=(20, 14), attributes=attributes)
    (store / ".DS_Store").write_text("stray")
    (store / "obsm" / "README").write_text("stray")
    with opened(store, tmp_path) as source:
        same_values(source, make.counts().toarray())
        assert source.notes == ()


def test_a_missing_chunk_of_a_dense_matrix_is_noted(tmp_path):
    store = make.write_zarr(tmp_path / "a.zarr", make.annotated(make.counts().toarray()))
    (store / "X" / "c" / "0" / "0").unlink()
    with opened(store, tmp_path) as source:
        assert source.notes[0].startswith("1 chunks of")
        assert "the values of their cells read as zeros" in source.notes[0]


@pytest.mark.parametrize("version", [2, 3])
def test_columns_that_may_be_all_zeros_are_read_with_a_note(version, tmp_path):
    adata = make.annotated()
    adata.obs["same"] = pd.Categorical(["a"] * make.N_CELLS)
    adata.obs["zero"], adata.obs["no"], adata.obs["gap"] = 0, False, pd.array([1] * make.N_CELLS, dtype="Int64")
    store = make.write_zarr(tmp_path / "a.zarr", adata, version=version)
    with opened(store, tmp_path) as source:
        (note,) = source.notes
        assert note.startswith("4 columns of ")
        assert "(gap/mask, no, same/codes, zero): right if" in note
        pd.testing.assert_frame_equal(source.obs[["same"]], adata.obs[["same"]], check_dtype=False)
        assert not source.obs[["zero", "no"]].to_numpy().any()
    unlink("obs/depth/0" if version == 2 else "obs/depth/c/0")(store)
    with opened(store, tmp_path) as source:
        assert "(depth, gap/mask, no, same/codes, zero)" in source.notes[0]


def test_cells_sorted_by_type_leave_out_chunks_of_the_first_type_and_are_read(tmp_path):
    store = make.write_zarr(tmp_path / "a.zarr", make.annotated())
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    attributes, values = dict(group["obs/cluster/codes"].attrs), np.sort(group["obs/cluster/codes"][:])
    del group["obs/cluster/codes"]
    group.create_array("obs/cluster/codes", data=values, chunks=(5,), fill_value=0, attributes=attributes)
    assert not (store / "obs" / "cluster" / "codes" / "c" / "0").exists()
    with opened(store, tmp_path) as source:
        assert "cluster/codes" in source.notes[0]
        assert (source.obs["cluster"].cat.codes.to_numpy() == values).all()


def test_a_link_named_by_the_user_is_followed(tmp_path):
    make.write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "link.h5ad").symlink_to(tmp_path / "a.h5ad")
    with opened("link.h5ad", tmp_path) as source:
        assert source.n_cells == make.N_CELLS


def test_several_genomes_are_chosen_by_layer(tmp_path):
    make.write_10x_h5(tmp_path / "a.h5", version=2)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.copy("GRCh38", "mm10")
    with opened("a.h5", tmp_path, layer="mm10") as source:
        same_values(source, make.counts().toarray())


def test_memory_stays_flat(tmp_path):
    """Reading 8 times as many cells takes no more memory: blocks are read, not the matrix."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs the peak that Linux shows in /proc")
    program = (
        "import sys; from pathlib import Path; from heatwalk.inputs import open_input\n"
        "with open_input(sys.argv[1], kind='counts', roots=[Path('/')], base=Path('/')) as source:\n"
        "    rows = sum(block.shape[0] for block in source.blocks(500))\n"
        "print(rows, *[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    peaks = []
    for size in (2_000, 16_000):
        path = tmp_path / f"{size}.h5ad"
        matrix = scipy.sparse.random(size, 2000, 0.2, format="csr", dtype=np.float32, rng=0)
        make.write_h5ad(path, make.anndata.AnnData(matrix))
        answer = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        rows, peak = map(int, answer.stdout.split())
        assert rows == size
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 20_000  # kB; the larger matrix takes 50 MB


# --- real data -------------------------------------------------------------------------------------------------------

REAL = [
    ("paul15_counts.h5ad", "counts", "", (), (2730, 3451)),
    ("pbmc3k_counts.h5ad", "counts", "", (), (2638, 13714)),
    ("worm_embryo_packer2019_subset.h5ad", "counts", "", (), (1805, 10000)),
    ("pbmc_ifnb_kang2018_2000_counts.h5ad", "counts", "", (), (2000, 9015)),
    ("10x-10k-subset.zarr", "counts", "", (), (10000, 1000)),
    ("covid_pbmc_stephenson2021_10k_pcs.npz", "points", "pca", (), (10000, 50)),
    ("hues9_timecourse.npz", "intensities", "", ("CD43", "CD34"), (50674, 2)),
    ("coil20.npz", "images", "", (), (1440, 128, 128)),
    ("phoneme_esl.npz", "sequences", "", (), (4509, 256)),
    ("earth_volcano.csv", "points", "", (), (827, 2)),
    ("protein_torsions_top8000.csv.gz", "points", "", ("phi", "psi"), (155781, 2)),
]


@real_data
@pytest.mark.parametrize(("name", "kind", "layer", "columns", "shape"), REAL)
def test_real_data(name, kind, layer, columns, shape):
    options = {"kind": kind, "layer": layer, "columns": columns, "roots": [DATA], "base": DATA}
    assert validate(name, **options) == []
    with open_input(name, **options) as source:
        assert (source.n_cells, *source.item_shape) == shape
        if name.endswith("h5ad"):
            np.testing.assert_array_equal(whole(source, 999), make.anndata.read_h5ad(DATA / name).X.toarray())


# --- every fault -----------------------------------------------------------------------------------------------------


LOGGED = {"kind": "logged"}
POINTS = {"kind": "points"}
BAD = [
    # code, what is wrong, source writer, options, words of the message
    ("HW-IN-001", "missing", lambda f: make.write_h5ad(f / "ab.h5ad") and "a.h5ad", {}, "there is no .*write ab.h5ad"),
    ("HW-IN-001", "missing in scanpy", lambda f: "scanpy:none.h5ad", {}, "there is no "),
    ("HW-IN-002", "empty source", lambda f: " ", {}, "is empty"),
    ("HW-IN-002", "kind", lambda f: make.write_h5ad(f / "a.h5ad").name, {"kind": "count"}, "write one of counts"),
    ("HW-IN-002", "label", lambda f: "a=b;c", {}, "'c' is no label=path"),
    ("HW-IN-002", "label twice", lambda f: "a=b;a=c", {}, "label 'a' stands twice"),
    ("HW-IN-002", "file twice", lambda f: make.write_mtx(f / "a") and "u=a;v=./a", {}, "listed twice"),
    ("HW-IN-002", "null byte", lambda f: "a\0b", {}, "is no path"),
    ("HW-IN-003", "outside", lambda f: "../../../etc/passwd", {}, "outside the folders that may be read"),
    ("HW-IN-003", "outside scanpy", lambda f: "scanpy:../__init__.py", {}, "outside the folders"),
    ("HW-IN-004", "external link", broken_h5ad(external_link), {}, r"1 external links \(/layers/far -> /etc/passwd\)"),
    ("HW-IN-004", "external storage", broken_h5ad(external_storage), {}, "bytes in other files"),
    ("HW-IN-004", "virtual", broken_h5ad(virtual_dataset), {}, "bytes in other files"),
    ("HW-IN-004", "10x external link", broken_10x(lambda f: f.update(x=h5py.ExternalLink("y", "/"))), {}, "external"),
    ("HW-IN-004", "linked chunk", broken_zarr(link_a_chunk), {}, "1 entries are links"),
    ("HW-IN-004", "linked mtx", broken_mtx(lambda p: (p / "x").symlink_to("/etc/passwd")), {}, "1 entries are links"),
    ("HW-IN-005", "format", bytes_file("a.obj", b"v 1 2 3"), {}, "no format that is known"),
    ("HW-IN-005", "folder", lambda f: (f / "a").mkdir() or "a", {}, "no format that is known"),
    ("HW-IN-006", "empty file", lambda f: (f / "a.h5ad").touch() or "a.h5ad", {}, r"is empty \(0 bytes\)"),
    ("HW-IN-006", "garbage h5ad", bytes_file("a.h5ad", b"garbage" * 99), {}, "cannot be read .*signature"),
    ("HW-IN-006", "truncated h5ad", truncated("a.h5ad", make.write_h5ad), {}, "truncated"),
    ("HW-IN-006", "truncated 10x", truncated("a.h5", make.write_10x_h5), {}, "truncated"),
    ("HW-IN-006", "truncated mtx", truncated("a", make.write_mtx), {}, "end-of-stream"),
    ("HW-IN-006", "garbage npz", bytes_file("a.npz", b"garbage"), POINTS, "not a zip file"),
    ("HW-IN-006", "garbage npy", bytes_file("a.npy", b"garbage" * 9), POINTS, "magic string"),
    ("HW-IN-006", "truncated npy", bytes_file("a.npy", npy_header((5, 3)) + b"1234"), POINTS, "cannot be read"),
    ("HW-IN-006", "truncated npz", npz_member("X.npy", npy_header((50, 3)) + b"12"), POINTS, "declares 1,200 bytes"),
    ("HW-IN-006", "garbage gz", bytes_file("a.csv.gz", b"garbage"), POINTS, "gzipped"),
    ("HW-IN-006", "long csv", bytes_file("a.csv", b"x,y\n1,2,3\n1,2,3\n"), POINTS, "more than the 2 fields"),
    ("HW-IN-006", "ragged csv", bytes_file("a.csv", b"x,y\n1,2\n3,4,5\n"), POINTS, "cannot be read"),
    ("HW-IN-006", "no text", bytes_file("a.csv", b"\xff\xfe\x00x,y"), POINTS, "decode"),
    ("HW-IN-006", "mtx banner", broken_mtx(edit("matrix.mtx", "%%Matrix", "")), {}, "first line is not"),
    ("HW-IN-006", "short mtx", broken_mtx(edit("matrix.mtx", r"\n1 5 \d+", "")), {}, "holds .* entries its header"),
    ("HW-IN-006", "words in mtx", broken_mtx(edit("matrix.mtx", r"\n1 5 \d+", r"\n1 5 x")), {}, "cannot be read"),
    ("HW-IN-006", "zarr json", broken_zarr(lambda s: (s / "X/zarr.json").write_text("{")), {}, "cannot be read"),
    ("HW-IN-006", "zarr chunk", broken_zarr(lambda s: (s / "X/data/c/0").write_bytes(b"1" * 999)), {}, "cannot be"),
    ("HW-IN-006", "obsm of an .h5ad", make.damaged_obsm, {}, "a.h5ad:obsm/X_pca: cannot be read .*filter returned"),
    ("HW-IN-006", "obsm of a store", broken_zarr(lambda s: (s / "obsm/X_pca/c/0/0").write_bytes(b"1")), {}, "X_pca: c"),
    ("HW-IN-007", "other HDF5", broken_h5ad(lambda f: [f.pop("obs"), f.pop("var")]), {}, "neither obs nor var"),
    ("HW-IN-007", "zarr array", lambda f: zarr.save_array(f / "a.zarr", np.ones(3)) or "a.zarr", {}, "single Zarr"),
    ("HW-IN-008", "no obs", broken_h5ad(lambda f: f.pop("obs")), {}, "has no obs"),
    ("HW-IN-008", "no var", broken_h5ad(lambda f: f.pop("var")), {}, "has no var"),
    ("HW-IN-008", "no X", broken_h5ad(lambda f: f.pop("X")), {}, "has no X; write one of doubled, raw in `layer`"),
    ("HW-IN-008", "no indptr", broken_h5ad(lambda f: f["X"].pop("indptr")), {}, "sparse matrix without indptr"),
    ("HW-IN-008", "no shape", broken_h5ad(lambda f: f["X"].attrs.pop("shape")), {}, r"with shape \(\)"),
    ("HW-IN-008", "2-D data", broken_h5ad(put("X/data", np.ones((2, 2)))), {}, "has 2 dimensions, not 1"),
    ("HW-IN-008", "10x without data", broken_10x(lambda f: f["matrix"].pop("data")), {}, "has no data"),
    ("HW-IN-008", "no genes.tsv", broken_mtx(unlink("features.tsv")), {}, r"has no features.tsv or genes.tsv"),
    ("HW-IN-009", "HDF5 filter", broken_h5ad(foreign_filter), {}, "compressed with 32015.*h5repack -f GZIP=4 a.h5ad"),
    ("HW-IN-009", "zarr 3 codec", broken_zarr(edit("X/data/zarr.json", '"zstd"', '"numcodecs.pickle"')), {}, "pickle"),
    (
        "HW-IN-009",
        "zarr 2 filter",
        broken_zarr(edit("X/data/.zarray", '"filters": null', '"filters": [{"id": "pickle"}]'), version=2),
        {},
        "filter 'pickle'",
    ),
    (
        "HW-IN-009",
        "zarr 2 objects",
        broken_zarr(edit("obs/_index/.zarray", '"id": "vlen-utf8"', '"id": "delta"'), version=2),
        {},
        "Python objects are never read",
    ),
    ("HW-IN-009", "bzip2 in npz", npz_member("X.npy", npy_header((1,)), zipfile.ZIP_BZIP2), POINTS, "otherwise than"),
    ("HW-IN-010", "absurd h5ad", broken_h5ad(absurd), {}, "declares 424,000,000,000,000 bytes"),
    (
        "HW-IN-010",
        "absurd zarr",
        broken_zarr(edit("X/zarr.json", r'"shape": \[\s*53,\s*31', '"shape": [53, 1000000000000'), dense=True),
        {},
        "declares 212,000,000,000,000 bytes",
    ),
    ("HW-IN-010", "absurd npz", npz_member("X.npy", npy_header((9**9, 9))), POINTS, "declares .* but stores"),
    ("HW-IN-011", "csc", csc_of_many, {"memory": 10_000}, "is stored by gene .*tocsr"),
    ("HW-IN-011", "npz in F order", npz(X=np.asfortranarray(np.ones((99, 9)))), POINTS | {"memory": 999}, "ascontig"),
    ("HW-IN-011", "obs", lambda f: make.write_h5ad(f / "a.h5ad").name, {"memory": 99}, "and 99 bytes may"),
    ("HW-IN-011", "csc, said in bytes", csc_of_many, {"memory": 10_000}, r"takes 1\d,\d{3} bytes of 10,000 bytes"),
    ("HW-IN-012", "zarr indices", broken_zarr(unlink("X/indices/c/0")), {}, "1 chunks have no stored bytes"),
    ("HW-IN-012", "zarr 2 indptr", broken_zarr(unlink("X/indptr/0"), version=2), {}, "1 chunks have no stored bytes"),
    ("HW-IN-012", "zarr codes", broken_zarr(unlink("obs/cluster/codes/c/0")), {}, "obs/cluster/codes: 1 chunks have"),
    ("HW-IN-012", "zarr 2 codes", broken_zarr(unlink("obs/cluster/codes/0"), version=2), {}, "obs/cluster/codes: 1 c"),
    ("HW-IN-012", "categories", broken_zarr(unlink("obs/cluster/categories/c/0")), {}, "obs/cluster/categories: 1 c"),
    ("HW-IN-012", "zarr names", broken_zarr(unlink("obs/_index/c/0")), {}, "obs/_index: 1 chunks have no stored"),
    ("HW-IN-012", "zarr 2 names", broken_zarr(unlink("var/_index/0"), version=2), {}, "var/_index: 1 chunks have no"),
    ("HW-IN-012", "zarr obsm", broken_zarr(unlink("obsm/X_pca/c/0/0")), {}, "obsm/X_pca: 1 chunks have no stored"),
    ("HW-IN-012", "zarr 2 obsm", broken_zarr(unlink("obsm/X_pca/0.0"), version=2), {}, "obsm/X_pca: 1 chunks have"),
    ("HW-IN-012", "obsm asked for", broken_zarr(unlink("obsm/X_pca/c/0/0")), POINTS | {"layer": "obsm:X_pca"},
     "obsm/X_pca: 1 chunks have"),
    ("HW-IN-012", "HDF5 obsm", broken_h5ad(never_written_obsm), {}, "obsm/X_pca: .* chunks have no stored bytes"),
    ("HW-IN-012", "HDF5 indices", broken_h5ad(never_written), {}, "chunks have no stored bytes"),
    ("HW-IN-013", "layer", x_is(lambda x: x), {"layer": "double"}, "no layer 'double'; write doubled in `layer`"),
    ("HW-IN-013", "array", npz(a=np.ones((3, 2)), b=np.ones((3, 2))), POINTS, "write one of a, b in `layer`"),
    ("HW-IN-013", "named array", npz(abc=np.ones((3, 2))), POINTS | {"layer": "abd"}, "write abc in `layer`"),
    ("HW-IN-013", "layer of mtx", lambda f: make.write_mtx(f / "a").name, {"layer": "x"}, "has no layers"),
    ("HW-IN-013", "genome", lambda f: make.write_10x_h5(f / "a.h5").name, {"layer": "x"}, "write one of matrix"),
    ("HW-IN-014", "obsm", x_is(lambda x: x), POINTS | {"layer": "obsm:X_pcs"}, "no obsm key 'X_pcs'; write X_pca"),
    ("HW-IN-015", "column", x_is(lambda x: x), {"columns": ["G1", "G99"]}, "no column 'G99'; write G9"),
    ("HW-IN-015", "csv column", bytes_file("a.csv", b"lat,lon\n1,2\n"), POINTS | {"columns": ["lot"]}, "write lon or"),
    ("HW-IN-015", "column twice", x_is(lambda x: x), {"columns": ["G1", "G1"]}, "names 'G1' twice"),
    ("HW-IN-015", "header", bytes_file("a.csv", b"x,x\n1,2\n"), POINTS, "1 column names stand twice in the header"),
    (
        "HW-IN-015",
        "columns of images",
        npz(X=np.ones((3, 2, 2))),
        {"kind": "images", "columns": ["X_0_0"]},
        "several dimensions have no columns",
    ),
    ("HW-IN-016", "no cells", x_is(lambda x: x[:0]), {}, "there are 0 cells"),
    ("HW-IN-016", "csv without rows", bytes_file("a.csv", b"x,y\n"), POINTS, "there are 0 cells"),
    ("HW-IN-017", "no genes", x_is(lambda x: x[:, :0]), {}, "there are 0 genes"),
    ("HW-IN-017", "csv of words", bytes_file("a.csv", b"x,y\na,b\n"), POINTS, "there are 0 columns"),
    ("HW-IN-018", "obs", broken_h5ad(put("X", np.ones((9, 31)))), {}, "X has 9 rows but obs names 53 cells"),
    ("HW-IN-018", "var", broken_h5ad(put("X", np.ones((53, 9)))), {}, "X has 9 columns but var names 31 features"),
    ("HW-IN-018", "10x", broken_10x(put("matrix/barcodes", [b"a"])), {}, "1 barcodes for a matrix of 53"),
    ("HW-IN-018", "mtx", broken_mtx(edit("barcodes.tsv", "AAAC3-1\n", "")), {}, "53 cells in the matrix but 52 names"),
    ("HW-IN-018", "channels", npz(X=np.ones((3, 2)), channels=["a"]), POINTS, "names 1 columns, X has 2"),
    ("HW-IN-019", "bool", broken_h5ad(put("X", np.ones((53, 31), bool))), {}, "type bool"),
    ("HW-IN-019", "text", broken_h5ad(put("X", np.full((53, 31), b"a"))), {}, "type text"),
    ("HW-IN-019", "object", npz(X=np.array([["a", None]], dtype=object)), POINTS, "Python objects"),
    ("HW-IN-019", "complex", npz(X=np.ones((3, 2), complex)), POINTS, "type complex"),
    ("HW-IN-019", "sparse bool", x_is(lambda x: x.astype(bool)), {}, "type bool"),
    ("HW-IN-019", "pattern", broken_mtx(edit("matrix.mtx", "integer", "pattern")), {}, "pattern general matrix"),
    ("HW-IN-019", "csv", bytes_file("a.csv", b"x,y\na,1\n"), POINTS | {"columns": ["x"]}, "hold text"),
    ("HW-IN-020", "points of images", npz(X=np.ones((3, 2, 2))), POINTS, "3 x 2 x 2 is no table"),
    ("HW-IN-020", "images of points", npz(X=np.ones((3, 2))), {"kind": "images"}, "use kind points"),
    ("HW-IN-020", "one dimension", bytes_file("a.npy", npy_header((1,)) + b"8" * 8), POINTS, "2 dimensions needed"),
    ("HW-IN-021", "pointers", broken_h5ad(put("X/indptr", np.zeros(9, int))), {}, "has 9 entries, 54 are needed"),
    ("HW-IN-021", "falls", broken_h5ad(lambda f: f["X/indptr"].__setitem__(3, 10**6)), {}, "falls 1 times"),
    ("HW-IN-021", "end", broken_h5ad(lambda f: f["X/indptr"].__setitem__(53, 10**6)), {}, "ends at 1,000,000, not"),
    ("HW-IN-021", "start", broken_h5ad(lambda f: f["X/indptr"].__setitem__(0, 1)), {}, "starts at 1, not 0"),
    ("HW-IN-021", "lengths", broken_h5ad(put("X/data", np.ones(9))), {}, "9 values but"),
    ("HW-IN-021", "float", broken_h5ad(put("X/indptr", np.zeros(54))), {}, "type float64, not whole numbers"),
    ("HW-IN-022", "index", broken_h5ad(lambda f: f["X/indices"].__setitem__(40, 31)), {}, r"1 indices .* 0\.\.30"),
    ("HW-IN-022", "negative", broken_h5ad(lambda f: f["X/indices"].__setitem__(0, -1)), {}, r"first: -1 in row 0\)"),
    ("HW-IN-022", "10x", broken_10x(lambda f: f["matrix/indices"].__setitem__(0, 2**40)), {}, "1 indices are not in"),
    ("HW-IN-022", "mtx", broken_mtx(edit("matrix.mtx", r"\n1 5 ", "\n99 5 ")), {}, "1 entries lie outside 31 x 53"),
    ("HW-IN-023", "large", lambda f: make.write_mtx(f / "a", by_gene=True).name, {"memory": 9999}, "not sorted by"),
    ("HW-IN-023", "late", late_disorder, {}, "sorted by cell at first, but not throughout"),
    ("HW-IN-024", "h5ad", broken_h5ad(repeat_name), {}, r"1 cell names occur more than once \(cell0\)"),
    ("HW-IN-025", "cells", broken_h5ad(lambda f: f["obs/_index"].__setitem__(2, "")), {}, "1 cell names are empty"),
    ("HW-IN-025", "genes", broken_h5ad(lambda f: f["var/_index"].__setitem__(2, " ")), {}, "1 feature names are"),
    ("HW-IN-026", "cells", broken_h5ad(lambda f: f["obs/_index"].__setitem__(2, "a\nb")), {}, r"\('a\\nb'\)"),
    ("HW-IN-027", "ids", broken_h5ad(repeat_gene), {}, r"\(G0\), and gene_ids is not unique"),
    ("HW-IN-028", "other genes", two_samples(
        lambda p: make.write_mtx(p, symbols=[f"other{g}" for g in range(31)])), {}, "no feature in common"),
    ("HW-IN-040", "NaN", lambda f: make.write_h5ad(f / "a.h5ad", change_values((3, 1, np.nan), (3, 2, np.nan))()).name,
     {}, r"2 NaN values in 1 of 53 cells \(cell3\)"),
    ("HW-IN-041", "Inf", lambda f: make.write_h5ad(f / "a.h5ad", change_values((7, 1, np.inf))()).name,
     {}, r"1 infinite values in 1 of 53 cells \(cell7\)"),
    ("HW-IN-042", "negative", x_is(lambda x: x - x * 2), {}, r"negative counts in 53 of 53 cells .* and 48 more"),
    ("HW-IN-043", "broken", x_is(lambda x: x * 1.5), {}, "counts that are not whole numbers .*round estimated"),
    ("HW-IN-044", "logged", x_is(lambda x: x.log1p()), {}, "none above 5.*look logged already.*`kind: logged`"),
    ("HW-IN-045", "raw", x_is(lambda x: x), LOGGED, "look like raw counts.*`kind: counts`"),
    ("HW-IN-045", "few raw", x_is(lambda x: x.minimum(3)), LOGGED, "all values are whole numbers, up to 3"),
    ("HW-IN-048", "2^24", lambda f: make.write_h5ad(f / "a.h5ad", change_values((4, 0, 2**24 + 1))()).name,
     {}, r"1 counts above 16,777,216 that float32 rounds in 1 of 53 cells \(cell4\)"),
    ("HW-IN-046", "large", lambda f: make.write_h5ad(f / "a.h5ad", change_values((0, 0, 1e39))()).name,
     {}, "1 values beyond float32"),
    ("HW-IN-047", "zeros", x_is(lambda x: x * 0), {}, "all values of 53 cells are 0"),
    ("HW-IN-047", "zero images", npz(X=np.zeros((3, 2, 2))), {"kind": "images"}, "all values of 3 cells are 0"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "name", "write", "options", "words"), BAD, ids=[f"{b[0]} {b[1]}" for b in BAD])
def test_every_fault_is_said(code, name, write, options, words, tmp_path):
    source = write(tmp_path)
    problems = validate(str(source), **{"kind": "counts", "roots": [tmp_path], "base": tmp_path} | options)
    found = [problem for problem in problems if re.search(words, str(problem))]
    assert found, problems
    assert found[0].code == code, problems
    for problem in problems:
        assert problem.code in CODES
        assert "\n" not in str(problem)
        assert problem.remedy


def test_every_code_has_a_bad_source():
    assert {code for code, *_ in BAD} == set(CODES)


def test_codes_in_the_source_are_in_the_table():
    text = "".join(path.read_text() for path in Path(sys.modules["heatwalk.inputs"].__file__).parent.glob("*.py"))
    used = re.findall(r'"(HW-IN-\d{3})"(?!:)', text)
    assert set(used) == set(CODES)


# --- the rest of the contract ------------------------------------------------------------


def test_all_faults_at_once(tmp_path):
    def change(file):
        repeat_name(file)
        file["var/_index"][2] = ""
        file["X/indptr"][0] = 1

    source = broken_h5ad(change)(tmp_path)
    with pytest.raises(BadInput) as raised:
        opened(source, tmp_path)
    assert {problem.code for problem in raised.value.problems} == {"HW-IN-021", "HW-IN-024", "HW-IN-025"}


def test_blocks_raise_what_is_found_while_reading(tmp_path):
    source = broken_h5ad(lambda file: file["X/indices"].__setitem__(-1, 99))(tmp_path)
    with opened(source, tmp_path) as cells:
        blocks = cells.blocks(10)
        assert next(blocks).shape == (10, make.N_GENES)
        with pytest.raises(BadInput, match=r"HW-IN-022 .*first: 99 in row 52"):
            list(blocks)
        with pytest.raises(ValueError, match="n_rows must be at least 1"):
            next(cells.blocks(0))


def test_resolve_finds_labels_and_paths(tmp_path):
    for name in ("a b", "c=d"):
        (tmp_path / name).mkdir()
    assert resolve("a b", base=tmp_path, roots=[tmp_path]) == [("", tmp_path / "a b")]
    assert resolve("./c=d", base=tmp_path, roots=[tmp_path]) == [("", tmp_path / "c=d")]
    assert resolve("x=a b;y=c=d", base=tmp_path, roots=[tmp_path]) == [("x", tmp_path / "a b"), ("y", tmp_path / "c=d")]
    assert resolve(str(tmp_path / "a b"), base=Path("/"), roots=[tmp_path]) == [("", tmp_path / "a b")]
    for name in ("u=a", "a b;c", "u=a b;v=c=d"):
        (tmp_path / name).write_text("")
        assert resolve(name, base=tmp_path, roots=[tmp_path]) == [("", tmp_path / name)]
    with pytest.raises(BadInput, match="HW-IN-002"):
        resolve("a b;d", base=tmp_path, roots=[tmp_path])
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(BadInput, match="HW-IN-003"):
        resolve("out", base=tmp_path, roots=[tmp_path])


def test_the_check_of_values_counts_over_blocks():
    names = [f"c{row}" for row in range(9)]
    dense = np.arange(18.0).reshape(9, 2) + 40
    dense[[1, 7, 8], 0] = np.nan
    for blocks in (np.split(dense, 3), [scipy.sparse.csr_matrix(block) for block in np.split(dense, [2])]):
        check = ValueCheck("intensities", names, "here")
        for block in blocks:
            check.add(block)
        (problem,) = check.problems()
        assert problem.cause == "3 NaN values in 3 of 9 cells (c1, c7, c8)"
    check = ValueCheck("logged", names, "here")
    check.add(np.array([[1.5, -1.0], [0.0, 0.0]]))
    assert check.problems() == []
    assert [note.split(" cells")[0] for note in check.notes()] == ["1 negative values in 1", "1"]


def test_whole_numbers_and_large_counts():
    def said(kind, values):
        check = ValueCheck(kind, [f"c{row}" for row in range(values.shape[0])], "here")
        check.add(values)
        return [problem.code for problem in check.problems()], check.notes()

    assert said("logged", np.array([[0, 2], [1, 0]])) == (["HW-IN-045"], ())
    assert said("logged", np.array([[0, 2.5], [1, 0]])) == ([], ())
    codes, notes = said("logged", np.array([[0, 1.0], [1, 0]]))
    assert codes == []
    assert notes[0].startswith("all values are whole numbers, none above 1")
    exact = np.array([[2**24], [2**24 + 2], [2**40]])
    for dtype in (np.int64, np.uint64, np.float64, np.float32):
        assert said("counts", exact.astype(dtype)) == ([], ())
    for value in (2**24 + 1, 2**53 + 1, 2**63 - 1):
        assert said("counts", np.array([[value]], np.int64))[0] == ["HW-IN-048"]
        assert said("counts", scipy.sparse.csr_matrix(np.array([[value]], np.int64)))[0] == ["HW-IN-048"]
        assert said("intensities", np.array([[value]], np.int64))[0] == []


def test_names_with_a_mask_of_nothing_are_whole(tmp_path):
    """anndata writes text that may be missing with a mask, whose chunks of false Zarr leaves out."""
    adata = make.annotated()
    adata.obs.index = pd.Index(pd.array(adata.obs_names, dtype="string"))
    with make.anndata.settings.override(allow_write_nullable_strings=True):
        store = make.write_zarr(tmp_path / "a.zarr", adata)
    with opened(store, tmp_path) as source:
        assert source.notes == ()
        assert source.obs.index[3] == "cell3"
    unlink("obs/_index/values/c/0")(store)
    with pytest.raises(BadInput, match="HW-IN-012 .*obs/_index/values"):
        opened(store, tmp_path)


def test_formats_are_told_apart(tmp_path):
    sources = [make.write_10x_h5(tmp_path / "a.h5"), make.write_h5ad(tmp_path / "b.h5"), make.write_mtx(tmp_path / "m")]
    firsts = [next(form.__name__.split(".")[-1] for form in FORMATS if form.recognise(path)) for path in sources]
    assert firsts == ["tenx_h5", "h5ad", "tenx_mtx"]


def test_import_stays_light():
    program = (
        "import sys, heatwalk.inputs; print([m for m in ('pandas', 'h5py', 'zarr', 'anndata') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
