"""cells: every kind of source, its thresholds, its normalisation beside scanpy's, and every way it says no."""

import warnings
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import heatwalk as hw
from heatwalk import store
from heatwalk.cells import normalised
from heatwalk.spaces import SPACES


def source(values, obs=None, features=None, item_shape=None, obsm=None, notes=()):
    """What `open_input` gives, held in memory."""
    n_cells, n_features = values.shape
    obs = pd.DataFrame(index=[f"cell{n}" for n in range(n_cells)]) if obs is None else obs
    features = pd.DataFrame(index=[f"gene{n}" for n in range(n_features)]) if features is None else features
    return SimpleNamespace(
        where="memory",
        obs=obs,
        features=features,
        obsm=obsm or {},
        item_shape=item_shape or (n_features,),
        notes=notes,
        n_cells=n_cells,
        blocks=lambda n_rows: (values[start : start + n_rows] for start in range(0, n_cells, n_rows)),
    )


def counts(n_cells=120, n_genes=80, seed=0):
    """Counts of genes of very different means, some of which vary more than others."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(0.4, 3, n_genes) * rng.gamma(2, 0.5, (n_cells, n_genes)) ** rng.integers(0, 2, n_genes)
    matrix = rng.poisson(means * rng.uniform(0.5, 2, (n_cells, 1))).astype(np.float32)
    matrix[:, 0] = rng.integers(1, 200, n_cells)
    return scipy.sparse.csr_matrix(matrix)


def made(matrix=None, kind="counts", **options):
    return hw.cells(source(counts() if matrix is None else matrix), kind, **options)


def whole(cells):
    """Normalised values of all cells, dense."""
    values = normalised(cells, slice(0, cells.size_factors.shape[0]))
    return values.toarray() if scipy.sparse.issparse(values) else values


def stored(cells):
    """Counts as they are kept, dense."""
    shape = (len(cells.indptr) - 1, len(cells.selected))
    return scipy.sparse.csr_array((cells.data, cells.indices, cells.indptr), shape=shape).toarray()


def from_file(tmp_path, matrix, kind="counts", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata.AnnData(matrix).write_h5ad(tmp_path / "source.h5ad")
    with hw.open_input("source.h5ad", kind=kind, roots=[tmp_path], base=tmp_path) as opened:
        return hw.cells(opened, kind, **options)


# ---- counts ----------------------------------------------------------------------------------------------------------


def test_counts_are_kept_as_they_are():
    matrix = counts()
    found = made(matrix)
    np.testing.assert_array_equal(stored(found), matrix.toarray())
    assert (found.data.dtype, found.indices.dtype, found.indptr.dtype) == (np.float32, np.int32, np.int64)
    assert (found.data > 0).all()
    assert list(found.item_shape) == [80]


def test_unsorted_rows_and_stored_zeros_are_put_in_order():
    matrix = scipy.sparse.csr_matrix((np.float32([3, 0, 2, 9]), [2, 1, 0, 1], [0, 3, 4]), shape=(2, 3))
    found = made(matrix, min_cells=0)
    np.testing.assert_array_equal(found.indices, [0, 2, 1])
    np.testing.assert_array_equal(found.data, [2, 3, 9])


def test_normalised_values_are_the_logarithm_of_counts_at_median_depth():
    matrix = counts().toarray().astype(np.float64)
    depth = matrix.sum(axis=1)
    found = made()
    np.testing.assert_allclose(found.size_factors, depth / np.median(depth), rtol=1e-14)
    np.testing.assert_allclose(whole(found), np.log1p(matrix / depth[:, None] * np.median(depth)), rtol=1e-12)


@pytest.mark.parametrize("target_sum", [1e4, 100])
def test_a_target_sum_is_the_depth_of_every_cell(target_sum):
    found = made(target_sum=target_sum, log1p=False)
    np.testing.assert_allclose(whole(found).sum(axis=1), target_sum, rtol=1e-12)


def test_without_target_sum_and_logarithm_values_are_the_counts():
    np.testing.assert_array_equal(whole(made(target_sum="none", log1p=False)), counts().toarray())
    np.testing.assert_allclose(whole(made(target_sum="none", log1p=True)), np.log1p(counts().toarray()), rtol=1e-6)


def test_a_row_block_is_normalised_like_the_whole():
    found = made()
    np.testing.assert_array_equal(normalised(found, slice(37, 61)).toarray(), whole(found)[37:61])


def test_normalisation_equals_scanpy():
    import scanpy

    adata = anndata.AnnData(counts().astype(np.float64))
    scanpy.pp.normalize_total(adata)
    scanpy.pp.log1p(adata)
    np.testing.assert_allclose(whole(made()), adata.X.toarray(), rtol=1e-12)


def test_quality_figures_equal_scanpy():
    import scanpy

    features = pd.DataFrame(index=[f"MT-{n}" if n % 9 == 0 else f"gene{n}" for n in range(80)])
    found = hw.cells(source(counts(), features=features), "counts")
    adata = anndata.AnnData(counts(), var=features)
    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    scanpy.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, log1p=False, inplace=True)
    for column in ("total_counts", "n_genes_by_counts", "pct_counts_mt"):
        np.testing.assert_allclose(found.obs[column], adata.obs[column], rtol=1e-6)


# ---- quality control -------------------------------------------------------------------------------------------------

# total, genes, mitochondrial share:  empty | 3, 2, 0 | 500, 2, 0 | 40, 1, 0 | 40, 3, 75 % | 60, 3, 0 | 61, 4, 25 %
QUALITY = scipy.sparse.csr_matrix(
    np.float32(
        [
            [0, 0, 0, 0, 0],
            [0, 1, 2, 0, 0],
            [0, 250, 250, 0, 0],
            [0, 40, 0, 0, 0],
            [30, 5, 5, 0, 0],
            [0, 20, 20, 20, 0],
            [15, 15, 15, 15, 0],
        ]
    )
)
SYMBOLS = pd.DataFrame(index=["MT-ND1", "A", "B", "C", "D"])
THRESHOLDS = {"min_counts": 10, "max_counts": 100, "min_genes": 2, "max_mito_percent": 50.0, "min_cells": 0}


def test_every_threshold_removes_its_cells_and_the_table_counts_them():
    found = hw.cells(source(QUALITY, features=SYMBOLS), "counts", **THRESHOLDS)
    assert list(found.obs.index) == ["cell5", "cell6"]
    assert found.removed["cells"].to_dict() == {
        "empty": 1,
        "min_counts": 1,
        "max_counts": 1,
        "min_genes": 1,
        "max_mito_percent": 1,
    }
    assert found.removed["threshold"].to_dict() == {
        "empty": "0",
        "min_counts": "10",
        "max_counts": "100",
        "min_genes": "2",
        "max_mito_percent": "50.0",
    }
    np.testing.assert_array_equal(stored(found), QUALITY.toarray()[5:])


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        ({"min_counts": 40}, [2, 3, 4, 5, 6]),
        ({"min_counts": 41}, [2, 5, 6]),
        ({"max_counts": 60}, [1, 3, 4, 5, 6]),
        ({"max_counts": 59}, [1, 3, 4]),
        ({"min_genes": 3}, [4, 5, 6]),
        ({"max_mito_percent": 75.0}, [1, 2, 3, 4, 5, 6]),
        ({"max_mito_percent": 74.9}, [1, 2, 3, 5, 6]),
    ],
)
def test_a_cell_at_a_threshold_is_kept(threshold, kept):
    found = hw.cells(source(QUALITY, features=SYMBOLS), "counts", min_cells=0, **threshold)
    assert list(found.obs.index) == [f"cell{n}" for n in kept]


def test_empty_cells_are_removed_and_counted(caplog):
    found = hw.cells(source(QUALITY, features=SYMBOLS), "counts", min_cells=0)
    assert len(found.obs) == 6
    assert found.removed.loc["empty", "cells"] == 1
    assert "removed 1 of 7 cells: empty" in caplog.text


def test_cells_that_are_empty_by_stored_zeros_are_removed():
    matrix = QUALITY.tolil().tocsr()
    matrix = scipy.sparse.vstack(
        [matrix, scipy.sparse.csr_matrix((np.float32([0]), [0], [0, 1]), shape=(1, 5))]
    ).tocsr()
    assert hw.cells(source(matrix, features=SYMBOLS), "counts", min_cells=0).removed.loc["empty", "cells"] == 2


def test_mitochondrial_genes_are_found_by_symbol_where_the_index_holds_ids():
    features = pd.DataFrame({"gene_symbols": SYMBOLS.index}, index=[f"ENSG{n}" for n in range(5)])
    found = hw.cells(source(QUALITY, features=features), "counts", min_cells=0)
    np.testing.assert_allclose(found.obs.loc["cell4", "pct_counts_mt"], 75)


def test_without_mitochondrial_genes_there_is_no_column_for_them():
    assert "pct_counts_mt" not in made().obs


def test_embeddings_lose_the_cells_that_are_removed():
    embedding = np.arange(14.0).reshape(7, 2)
    opened = source(QUALITY, features=SYMBOLS, obsm={"X_scVI": embedding})
    for block_cells in (2, 1000):
        found = hw.cells(opened, "counts", min_cells=0, max_mito_percent=74.9, block_cells=block_cells)
        np.testing.assert_array_equal(found.obsm["X_scVI"], embedding[[1, 2, 3, 5, 6]])


def test_obs_of_the_source_is_kept_beside_the_quality_figures():
    obs = pd.DataFrame({"kind": pd.Categorical(list("aabbccd")), "depth": range(7)}, index=[f"c{n}" for n in range(7)])
    found = hw.cells(source(QUALITY, obs=obs, features=SYMBOLS), "counts", min_cells=0)
    assert list(found.obs.columns) == ["kind", "depth", "total_counts", "n_genes_by_counts", "pct_counts_mt"]
    assert list(found.obs["kind"]) == list("abbccd")
    assert list(obs.columns) == ["kind", "depth"]  # the source's own table is left alone


def test_notes_of_the_source_are_told(caplog):
    hw.cells(source(counts(), notes=("antibodies are left out",)), "counts")
    assert "antibodies are left out" in caplog.text


# ---- variable genes --------------------------------------------------------------------------------------------------


def scanpy_dispersions(matrix, n_top_genes):
    import scanpy

    adata = anndata.AnnData(scipy.sparse.csr_matrix(matrix, dtype=np.float64))
    scanpy.pp.normalize_total(adata)
    scanpy.pp.log1p(adata)
    scanpy.pp.highly_variable_genes(adata, flavor="seurat", n_top_genes=n_top_genes)
    return adata.var


@pytest.mark.parametrize("n_top_genes", [10, 40])
def test_variable_genes_equal_scanpys_seurat_flavor(n_top_genes):
    matrix = counts(300, 200, seed=4)
    matrix = matrix[:, np.flatnonzero(matrix.getnnz(axis=0) >= 3)]
    found, expected = made(matrix, n_top_genes=n_top_genes), scanpy_dispersions(matrix, n_top_genes)
    np.testing.assert_allclose(found.var["dispersion"], expected["dispersions_norm"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.selected, expected["highly_variable"])
    assert found.selected.sum() == n_top_genes


def test_variable_genes_of_pbmc3k_equal_scanpy(real_data):
    with hw.open_input("pbmc3k_counts.h5ad", kind="counts", roots=[real_data], base=real_data) as opened:
        found = hw.cells(opened, "counts", n_top_genes=2000, min_cells=0)
    assert len(found.obs) == 2638
    expected = scanpy_dispersions(stored(found), 2000)
    np.testing.assert_allclose(found.var["dispersion"], expected["dispersions_norm"], rtol=1e-4, atol=1e-5)
    assert (found.selected != expected["highly_variable"]).sum() <= 2  # ties at the threshold


def test_figures_of_genes_are_those_of_the_normalised_counts():
    found = made(log1p=False)
    np.testing.assert_allclose(found.var["mean"], whole(found).mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.var["n_cells"], (counts().toarray() > 0).sum(axis=0))


def test_genes_in_too_few_cells_are_not_selected():
    matrix = counts().tolil()
    matrix[:, 5] = 0
    matrix[:2, 5] = 7
    found = made(matrix.tocsr(), min_cells=3, n_top_genes=0)
    np.testing.assert_array_equal(found.selected, found.var["n_cells"] >= 3)
    assert not found.selected[5]


def test_all_genes_are_selected_where_fewer_than_asked_for_are_eligible():
    assert made(min_cells=0, n_top_genes=2000).selected.all()


def test_genes_of_logged_values_are_those_of_the_counts_behind_them():
    depth = counts().toarray().sum(axis=1)
    logged = scipy.sparse.csr_matrix(np.log1p(counts().toarray() / depth[:, None] * np.median(depth)))
    one, other = made(n_top_genes=20), made(logged, kind="logged", n_top_genes=20)
    np.testing.assert_array_equal(one.selected, other.selected)
    np.testing.assert_allclose(one.var["dispersion"], other.var["dispersion"], rtol=1e-3, atol=1e-4)


def test_duplicated_symbols_are_kept_apart():
    features = pd.DataFrame({"gene_symbols": ["TP53"] * 80}, index=[f"ENSG{n}" for n in range(80)])
    found = hw.cells(source(counts(), features=features), "counts")
    assert list(found.var["gene_symbols"]) == ["TP53"] * 80
    np.testing.assert_array_equal(stored(found), counts().toarray())


# ---- other kinds -----------------------------------------------------------------------------------------------------


def test_logged_values_are_neither_normalised_nor_logged_again():
    logged = scipy.sparse.csr_matrix(np.log1p(counts().toarray()))
    found = made(logged, kind="logged", min_counts=10**6, max_counts=1)
    np.testing.assert_array_equal(whole(found), logged.toarray())
    np.testing.assert_array_equal(found.size_factors, 1)
    assert len(found.obs) == 120
    assert not found.logarithm


@pytest.mark.parametrize("transform", ["arcsinh", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_intensities_are_transformed_and_may_be_negative(transform, dtype):
    values = (np.random.default_rng(0).normal(size=(50, 4)) * 1000).astype(dtype)
    found = made(values, kind="intensities", transform=transform, cofactor=5.0)
    expected = np.arcsinh(values / 5.0) if transform == "arcsinh" else values
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert found.indptr is None
    assert found.selected.all()


def test_sparse_intensities_become_dense():
    found = made(counts(), kind="intensities", transform="none")
    np.testing.assert_array_equal(found.values, counts().toarray())


@pytest.mark.parametrize(("space", "n_columns"), [("euclidean", 3), ("sphere", 2), ("torus", 2), ("so3", 3)])
@pytest.mark.parametrize("units", ["degrees", "radians"])
def test_points_are_embedded_in_the_coordinates_of_their_space(space, n_columns, units):
    values = np.random.default_rng(0).uniform(-1.5, 1.5, (50, n_columns))
    features = pd.DataFrame(index=[f"column{n}" for n in range(n_columns)])
    found = hw.cells(source(values, features=features), "points", space, units=units, block_cells=16)
    np.testing.assert_allclose(found.values, SPACES[space].embed(values, units), rtol=1e-6, atol=1e-7)
    assert list(found.var.index) == SPACES[space].names(list(features.index))
    np.testing.assert_array_equal(found.size_factors, 1)


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_images_of_whole_numbers_are_divided_by_the_largest_of_their_type(dtype, largest):
    values = np.random.default_rng(0).uniform(0, largest, (20, 12)).astype(dtype)
    found = hw.cells(source(values, item_shape=(3, 4)), "images")
    np.testing.assert_allclose(found.values, values / np.float64(largest), rtol=1e-6)
    assert list(found.item_shape) == [3, 4]


# ---- blocks, where it is written -------------------------------------------------------------------------------------


def test_streaming_equals_reading_at_once():
    one, other = (made(block_cells=size, min_genes=20) for size in (16, 1000))
    for name in ("indptr", "indices", "data", "size_factors", "selected", "split"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    pd.testing.assert_frame_equal(one.removed, other.removed)


@pytest.mark.parametrize("kind", ["counts", "intensities"])
def test_a_store_draft_holds_what_memory_holds(tmp_path, kind):
    opened = source(counts(), obsm={"X_scVI": np.arange(240.0).reshape(120, 2)})
    expected = hw.cells(opened, kind)
    draft = store.create(tmp_path / "data" / "cells", "cells", block_cells=32)
    hw.cells(opened, kind, block_cells=32, out=draft)
    store.publish(draft, parameters={}, code="", inputs={})
    result = store.read(tmp_path / "data" / "cells")
    for name in ("indptr", "indices", "data", "values", "size_factors", "selected", "split"):
        assert (name in result) == (getattr(expected, name) is not None)
        if name in result:
            np.testing.assert_array_equal(result[name][:], getattr(expected, name))
    pd.testing.assert_frame_equal(result["obs"], expected.obs, check_column_type=False)
    pd.testing.assert_frame_equal(result["var"], expected.var, check_column_type=False, rtol=1e-9)
    np.testing.assert_array_equal(result["obsm"]["X_scVI"][:], opened.obsm["X_scVI"])


# ---- split -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("holdout", "held"), [(0.0, 0), (0.1, 12), (0.5, 60), (0.009, 1)])
def test_the_share_of_held_out_cells_is_rounded_down(holdout, held):
    assert made(holdout=holdout).split.sum() == held


def test_the_split_follows_the_seed_alone():
    one, same, other = made(seed=1).split, made(seed=1, block_cells=7).split, made(seed=2).split
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_groups_are_held_out_whole_and_some_are_left_to_train_on():
    obs = pd.DataFrame({"donor": np.arange(120) % 6}, index=[f"cell{n}" for n in range(120)])
    for holdout in (0.1, 0.3, 0.99):
        split = hw.cells(source(counts(), obs=obs), "counts", holdout=holdout, holdout_group="donor").split
        held = pd.Series(split).groupby(obs["donor"].to_numpy()).mean()
        assert set(held) == {0, 1}
        assert held.sum() == min(np.ceil(holdout * 6), 5)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_logarithm_of_logged_values_is_refused():
    with pytest.raises(hw.BadInput, match="HW-CE-001 memory: log1p is asked for on data of kind logged"):
        made(kind="logged", log1p=True)


def test_thresholds_that_leave_no_cell_are_refused_with_the_reasons():
    with pytest.raises(hw.BadInput, match=r"HW-CE-002 memory: .* removed all 7 cells \(empty 1, min_counts 6\)"):
        hw.cells(source(QUALITY, features=SYMBOLS), "counts", min_counts=1000)


def test_points_that_are_not_in_their_space_are_refused():
    with pytest.raises(hw.BadInput, match="HW-CE-003 memory: latitudes reach 91 degrees, the bound is 90"):
        hw.cells(source(np.array([[0.0, 0], [91, 0]])), "points", "sphere")
    with pytest.raises(hw.BadInput, match="HW-CE-003 memory: so3 takes 3 columns"):
        hw.cells(source(np.zeros((2, 2))), "points", "so3")


def test_genes_that_are_all_too_rare_are_refused():
    with pytest.raises(hw.BadInput, match="HW-CE-004 cells: min_cells: none of the 5 genes is in 3 cells"):
        made(scipy.sparse.csr_matrix(100 * np.eye(5, dtype=np.float32)), min_cells=3)


def test_fewer_cells_than_min_cells_ask_for_genes_in_all_of_them():
    matrix = scipy.sparse.csr_matrix(np.float32([[90, 1, 0], [80, 0, 2]]))
    np.testing.assert_array_equal(made(matrix, min_cells=3).selected, [True, False, False])


def test_genes_that_vary_alike_have_a_dispersion_of_zero():
    # Two genes of one mean and one variance share a bin whose spread is 0.
    matrix = scipy.sparse.csr_matrix(np.float32([[1, 3, 90], [3, 1, 90], [1, 3, 90], [3, 1, 90]]))
    np.testing.assert_array_equal(made(matrix, target_sum="none").var["dispersion"][:2], 0)


def test_an_unknown_group_is_refused_with_those_there_are():
    with pytest.raises(hw.BadInput, match="HW-CE-005 cells: holdout_group: there is no obs column 'donor'; use one of"):
        made(holdout_group="donor")


BAD_VALUES = {
    "NaN": (np.nan, "counts", "HW-IN-040"),
    "infinite": (np.inf, "counts", "HW-IN-041"),
    "negative": (-3, "counts", "HW-IN-042"),
    "broken": (2.5, "counts", "HW-IN-043"),
    "NaN in intensities": (np.nan, "intensities", "HW-IN-040"),
    "NaN in logged values": (np.nan, "logged", "HW-IN-040"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
@pytest.mark.parametrize("block_cells", [16, 1000])
def test_bad_values_are_refused_with_the_cell(tmp_path, name, block_cells):
    value, kind, code = BAD_VALUES[name]
    matrix = counts()
    matrix[77, 0] = value
    with pytest.raises(hw.BadInput, match=rf"{code} .*source\.h5ad.*: 1 .* in 1 of 120 cells \(77\)") as caught:
        from_file(tmp_path, matrix, kind, block_cells=block_cells)
    assert caught.value.problems[0].code == code


def test_points_that_are_nan_are_refused_by_value_not_by_space():
    with pytest.raises(hw.BadInput, match="HW-IN-040 memory: 1 NaN values"):
        hw.cells(source(np.array([[0.0, 0], [np.nan, 0]])), "points", "sphere")


def test_a_file_reads_like_memory(tmp_path):
    one, other = from_file(tmp_path, counts(), block_cells=16), made()
    np.testing.assert_array_equal(stored(one), stored(other))
    np.testing.assert_array_equal(one.selected, other.selected)


def test_a_column_of_the_input_that_is_replaced_is_said_and_others_survive(caplog):
    matrix = counts()
    given = {"total_counts": 7.0, "_row": np.arange(matrix.shape[0])}
    obs = pd.DataFrame(given, index=[f"cell{n}" for n in range(matrix.shape[0])])
    with caplog.at_level("WARNING", logger="heatwalk"):
        found = hw.cells(source(matrix, obs=obs), "counts")
    assert "the obs column 'total_counts' of the input is replaced" in caplog.text
    np.testing.assert_allclose(found.obs["total_counts"], np.asarray(matrix.sum(axis=1)).ravel())
    assert found.obs["_row"].tolist() == list(range(matrix.shape[0]))
