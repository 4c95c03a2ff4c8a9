"""pca: NumPy's SVD of the centred matrix is the truth, for sparse counts and dense values, in any blocks."""

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import heatwalk as hw
from heatwalk.cells import normalised

N_CELLS, N_GENES = 150, 40


def sparse_cells(n_cells=N_CELLS, n_genes=N_GENES, seed=0, **obsm):
    """Counts with size factors, log1p, and every fourth gene not selected."""
    rng = np.random.default_rng(seed)
    counts = scipy.sparse.csr_array(rng.poisson(rng.gamma(0.5, 4, n_genes), (n_cells, n_genes)).astype(np.float32))
    return hw.Cells(
        obs=pd.DataFrame(index=[f"c{n}" for n in range(n_cells)]),
        var=pd.DataFrame(index=[f"g{n}" for n in range(n_genes)]),
        removed=None,
        size_factors=rng.uniform(0.5, 2, n_cells),
        selected=np.arange(n_genes) % 4 != 3,
        split=np.zeros(n_cells, np.uint8),
        logarithm=np.bool_(True),
        item_shape=np.array([n_genes]),
        indptr=counts.indptr.astype(np.int64),
        indices=counts.indices,
        data=counts.data,
        obsm=obsm or None,
    )


def dense_cells(values, **obsm):
    n_cells, n_genes = values.shape
    table = sparse_cells(n_cells, n_genes)
    selected = np.ones(n_genes, bool)
    return table._replace(indptr=None, indices=None, data=None, values=values, selected=selected, obsm=obsm or None)


def test_held_out_cells_do_not_take_part():
    cells = sparse_cells()
    held = np.arange(N_CELLS) % 5 == 0
    found = hw.pca(cells._replace(split=held.astype(np.uint8)), "counts", n_components=6, block_cells=16)
    values = matrix(cells)
    _, variances, loadings = dense_twin(values[~held], 6, scale=False)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-10)
    expected = (values - values[~held].mean(axis=0)) @ loadings
    np.testing.assert_allclose(found.coordinates, expected, atol=1e-5)


CELLS = {
    "counts": (sparse_cells(), "counts"),
    "intensities": (dense_cells(np.random.default_rng(1).gamma(2, 3, (N_CELLS, 12)).astype(np.float32)), "intensities"),
    "more genes than cells": (sparse_cells(20, 60), "counts"),
}


def matrix(cells):
    """Selected, normalised values, dense."""
    values = normalised(cells, slice(0, cells.size_factors.shape[0]))
    values = values.toarray() if scipy.sparse.issparse(values) else values.astype(np.float64)
    return values[:, cells.selected]


def dense_twin(values, n_components, scale):
    """Coordinates, variances, loadings by SVD; the entry of largest magnitude of a loading is positive."""
    centred = values - values.mean(axis=0)
    if scale:
        deviations = values.std(axis=0, ddof=1)
        centred = centred / np.where(deviations > 0, deviations, 1)
    _, singular, loadings = np.linalg.svd(centred, full_matrices=False)
    loadings = loadings[:n_components].T
    loadings = loadings * np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(n_components)])
    return centred @ loadings, singular[:n_components] ** 2 / (len(values) - 1), loadings


@pytest.mark.parametrize("scale", [False, True])
def test_unseen_equals_its_dense_twin(scale):
    cells = sparse_cells()
    found = hw.pca(cells, "counts", n_components=6, scale=scale, block_cells=16)
    values = matrix(cells)
    values = (values - values.mean(axis=0)) / (np.maximum(values.std(axis=0, ddof=1), 1e-12) if scale else 1)
    aside = np.arange(N_CELLS) % 5 == 0
    variances, loadings = np.linalg.eigh(values[~aside].T @ values[~aside] / ((~aside).sum() - 1))
    expected = ((values[aside] @ loadings[:, -6:]) ** 2).mean(axis=0) / variances[-6:]
    np.testing.assert_allclose(found.unseen, 1 - 0.8 * np.clip(1 - expected, 0, 1)[::-1], rtol=1e-8)


def test_unseen_foretells_the_variance_of_held_out_cells():
    rng = np.random.default_rng(3)
    signal = rng.normal(size=(1200, 3)) * [6, 5, 4] @ np.linalg.qr(rng.normal(size=(300, 3)))[0].T
    cells = dense_cells((signal + rng.normal(size=signal.shape)).astype(np.float32))
    split = (np.arange(1200) >= 600).astype(np.uint8)
    found = hw.pca(cells._replace(split=split), "intensities", n_components=20)
    held_out = found.coordinates[split == 1].var(axis=0) / found.variances
    assert found.unseen[:3].mean() > 0.8
    assert (held_out[3:] < 0.6).all()
    np.testing.assert_allclose(found.unseen[3:].mean(), held_out[3:].mean(), rtol=0.2)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_equals_the_dense_twin(name, scale):
    cells, kind = CELLS[name]
    found = hw.pca(cells, kind, n_components=6, scale=scale)
    coordinates, variances, loadings = dense_twin(matrix(cells), 6, scale)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-10)
    np.testing.assert_allclose(found.loadings, loadings, atol=1e-8)
    np.testing.assert_allclose(found.coordinates, coordinates, atol=1e-5)
    assert (found.coordinates.dtype, found.loadings.dtype) == (np.float32, np.float64)


@pytest.mark.parametrize("name", CELLS)
def test_loadings_are_orthonormal(name):
    loadings = hw.pca(*CELLS[name], n_components=8).loadings
    np.testing.assert_allclose(loadings.T @ loadings, np.eye(8), atol=1e-12)


@pytest.mark.parametrize("scale", [False, True])
def test_total_variance_is_the_sum_over_all_genes(scale):
    cells, kind = CELLS["counts"]
    values = matrix(cells)
    found = hw.pca(cells, kind, n_components=2, scale=scale)
    expected = (values.std(axis=0) > 0).sum() if scale else values.var(axis=0, ddof=1).sum()
    np.testing.assert_allclose(found.total_variance, expected, rtol=1e-12)


def test_variances_are_those_of_the_coordinates():
    found = hw.pca(*CELLS["counts"], n_components=5)
    np.testing.assert_allclose(found.coordinates.var(axis=0, ddof=1), found.variances, rtol=1e-5)
    np.testing.assert_allclose(found.coordinates.mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("scale", [False, True])
def test_a_cell_that_is_projected_lands_on_its_coordinates(scale):
    cells, kind = CELLS["counts"]
    found = hw.pca(cells, kind, n_components=5, scale=scale)
    landed = ((matrix(cells)[17] - found.means) / found.scales) @ found.loadings
    np.testing.assert_allclose(landed, found.coordinates[17], atol=1e-5)


@pytest.mark.parametrize("scale", [False, True])
def test_what_components_leave_is_the_rest_of_the_squared_length(scale):
    cells, kind = CELLS["counts"]
    found = hw.pca(cells, kind, n_components=5, scale=scale)
    values = (matrix(cells) - found.means) / found.scales
    rest = values - values @ found.loadings @ found.loadings.T
    np.testing.assert_allclose(found.unexplained, (rest**2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.left, rest.var(axis=0, ddof=1), rtol=1e-8, atol=1e-10)


def test_what_is_left_of_a_query_is_made_up_for_genes_that_it_lacks():
    cells, kind = CELLS["counts"]
    reference = hw.pca(cells, kind, n_components=5)
    columns = np.flatnonzero(cells.selected)
    whole = hw.pca(cells._replace(reference_columns=columns), kind, reference=reference)
    np.testing.assert_allclose(whole.unexplained, reference.unexplained, rtol=1e-5)
    columns = np.where(np.arange(len(columns)) % 3 == 0, -1, columns)
    part = hw.pca(cells._replace(reference_columns=columns), kind, reference=reference)
    assert part.unexplained.mean() == pytest.approx(reference.unexplained.mean(), rel=0.2)
    assert part.unexplained.mean() > 0.8 * reference.unexplained.mean()


def test_large_means_cost_no_digits():
    values = np.random.default_rng(2).normal(size=(200, 5)) * [5, 4, 3, 2, 1]
    shifted = hw.pca(dense_cells(values + 1e7), "intensities", n_components=5)
    np.testing.assert_allclose(shifted.variances, dense_twin(values, 5, False)[1], rtol=1e-7)


def test_a_gene_that_does_not_vary_is_not_scaled():
    values = np.random.default_rng(2).normal(size=(50, 4))
    values[:, 2] = 3
    found = hw.pca(dense_cells(values), "intensities", n_components=3, scale=True)
    assert found.scales[2] == 1
    assert np.isfinite(found.coordinates).all()


def test_block_size_changes_nothing_but_last_digits():
    # Below 256 rows a block is what is asked for, so these are cut into 10, 2 and 1.
    one, other, whole = (hw.pca(*CELLS["counts"], n_components=6, block_cells=size) for size in (16, 100, 1000))
    for found in (one, other):
        np.testing.assert_allclose(found.variances, whole.variances, rtol=1e-10)
        np.testing.assert_allclose(found.loadings, whole.loadings, atol=1e-10)
        np.testing.assert_allclose(found.coordinates, whole.coordinates, atol=1e-5)


def test_threads_change_no_byte():
    one, two = (hw.pca(*CELLS["counts"], n_components=6, block_cells=16, threads=threads) for threads in (1, 2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


# ---- how many components ---------------------------------------------------------------------------------------------


def test_auto_takes_fifty_or_as_many_as_there_are():
    assert hw.pca(*CELLS["counts"]).coordinates.shape == (N_CELLS, 30)  # 30 of 40 genes are selected
    assert hw.pca(*CELLS["more genes than cells"]).coordinates.shape == (20, 19)
    assert hw.pca(sparse_cells(80, 100), "counts").coordinates.shape == (80, 50)


@pytest.mark.parametrize(
    ("name", "n_components", "most"),
    [("counts", 31, 30), ("counts", 0, 30), ("more genes than cells", 20, 19)],
)
def test_more_components_than_there_are_is_refused_with_the_bound(name, n_components, most):
    match = f"HW-PC-001 pca: n_components is {n_components}, the bounds are 1 and {most}"
    with pytest.raises(hw.BadInput, match=match):
        hw.pca(*CELLS[name], n_components=n_components)


def test_one_cell_or_no_gene_is_refused():
    with pytest.raises(hw.BadInput, match="HW-PC-002 pca: there is nothing to decompose in 1 cells"):
        hw.pca(sparse_cells(1), "counts")
    with pytest.raises(hw.BadInput, match="HW-PC-002 pca: there is nothing to decompose in 150 cells and 0 genes"):
        hw.pca(sparse_cells()._replace(selected=np.zeros(N_GENES, bool)), "counts")


def test_too_little_memory_is_refused_with_the_number_of_genes_that_fit():
    # (2 products a thread, the sum, and two for eigh) x 8 bytes x genes^2; 30 genes on one thread need 36,000 bytes.
    cells, kind = CELLS["counts"]
    assert hw.pca(cells, kind, n_components=2, threads=2, memory=36_000).variances.shape == (2,)
    with pytest.raises(hw.OutOfResources, match=r"HW-PC-003 pca: .* n_top_genes to at most 29") as caught:
        hw.pca(cells, kind, n_components=2, threads=2, memory=35_999)
    assert caught.value.exit_code == 4


# ---- passed through --------------------------------------------------------------------------------------------------


def test_points_are_passed_through_unchanged():
    values = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
    found = hw.pca(dense_cells(values), "points", block_cells=16)
    np.testing.assert_array_equal(found.coordinates, values)
    np.testing.assert_allclose(found.variances, values.var(axis=0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(found.total_variance, values.var(axis=0, ddof=1).sum(), rtol=1e-5)
    assert (found.loadings, found.means, found.scales) == (None, None, None)


def test_points_are_decomposed_where_components_are_asked_for():
    values = np.random.default_rng(3).normal(size=(60, 3)) * [1, 5, 2]
    found = hw.pca(dense_cells(values), "points", n_components=2)
    np.testing.assert_allclose(found.coordinates, dense_twin(values, 2, False)[0], atol=1e-5)


def test_an_embedding_is_passed_through():
    given = np.random.default_rng(4).normal(size=(N_CELLS, 7)).astype(np.float32)
    found = hw.pca(sparse_cells(X_scVI=given), "counts", use_rep="X_scVI", block_cells=32)
    np.testing.assert_array_equal(found.coordinates, given)
    assert found.loadings is None


def test_an_unknown_embedding_is_refused_with_those_there_are():
    cells = sparse_cells(X_scVI=np.zeros((N_CELLS, 2)))
    with pytest.raises(
        hw.BadInput, match="HW-PC-004 pca: use_rep: the input has no embedding 'X_pca' in obsm, it has: X_scVI"
    ):
        hw.pca(cells, "counts", use_rep="X_pca")
    with pytest.raises(hw.BadInput, match="it has: none"):
        hw.pca(sparse_cells(), "counts", use_rep="X_pca")


def test_an_embedding_that_is_not_finite_is_refused_with_the_row():
    given = np.zeros((N_CELLS, 2))
    given[[70, 75], 1] = np.nan, np.inf
    with pytest.raises(hw.BadInput, match=r"HW-PC-005 pca: use_rep: 2 cells .* the first is row 70"):
        hw.pca(sparse_cells(X_scVI=given), "counts", use_rep="X_scVI", block_cells=32)


def test_passing_through_is_told(caplog):
    caplog.set_level(logging.INFO, "heatwalk")
    hw.pca(dense_cells(np.random.default_rng(0).normal(size=(9, 3))), "points")
    assert "3 given columns are passed through" in caplog.text
