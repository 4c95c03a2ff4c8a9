"""scverse: the stages as verbs on an AnnData object; what they write, and when they refuse."""

import warnings

import anndata
import numpy as np
import pytest
import scipy.sparse
import zarr

import heatwalk as hw


@pytest.fixture
def adata():
    """Two groups and one embedding of another name."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(90, 4)), rng.normal(size=(60, 4)) + np.array([3, 0, 0, 0])])
    made = anndata.AnnData(scipy.sparse.csr_matrix(rng.poisson(1.0, (150, 6)).astype(np.float32)))
    made.obs_names = [f"cell{n}" for n in range(150)]
    made.obsm["X_pca"], made.obsm["X_other"] = points.astype(np.float32), rng.normal(size=(150, 2))
    return made


def test_neighbors_writes_what_the_functions_give(adata):
    hw.scverse.neighbors(adata, n_neighbors=8, bandwidth_neighbor=5, alpha=0.5)
    nn = hw.neighbors(adata.obsm["X_pca"], n_neighbors=8)
    graph = hw.affinity(adata.obsm["X_pca"], nn, bandwidth_neighbor=5, alpha=0.5)
    stored = adata.obsp["heatwalk_affinity"]
    np.testing.assert_array_equal(stored.data, graph.weights)
    np.testing.assert_array_equal(stored.indices, graph.indices)
    np.testing.assert_array_equal(stored.indptr, graph.indptr)
    np.testing.assert_array_equal(adata.obs["heatwalk_component"], graph.components)
    distances = np.take_along_axis(adata.obsp["heatwalk_distances"].toarray(), nn.indices, axis=1)
    np.testing.assert_array_equal(distances, nn.distances)
    assert adata.obsp["heatwalk_distances"].nnz == 150 * 8


def test_neighbors_says_what_was_asked(adata):
    hw.scverse.neighbors(adata, n_neighbors=8, alpha=0.5)
    explained = adata.uns["heatwalk"]
    assert explained["params"] == {"use_rep": "X_pca", "alpha": 0.5, "bandwidth": "adaptive", "n_neighbors": 8}
    assert explained["recall"] == 1.0
    assert adata.obsp[explained["connectivities_key"]].shape == adata.obsp[explained["distances_key"]].shape


def test_diffusion_map_writes_what_the_functions_give(adata):
    hw.scverse.neighbors(adata, n_neighbors=8)
    hw.scverse.diffusion_map(adata, n_components=4, t=2)
    points = adata.obsm["X_pca"]
    graph = hw.affinity(points, hw.neighbors(points, n_neighbors=8))
    found = hw.diffusion_map(graph, n_components=4)
    expected = hw.coordinates(found.eigenvalues, found.eigenvectors, graph.components, t=2)
    np.testing.assert_allclose(adata.obsm["X_diffusion_map"], expected, atol=1e-12)
    explained = adata.uns["heatwalk"]["diffusion_map"]
    np.testing.assert_allclose(explained["eigenvalues"], found.eigenvalues, atol=1e-13)
    assert explained["converged"].all()
    assert (explained["obsm_key"], explained["t"]) == ("X_diffusion_map", 2)


def test_keys_keep_two_graphs_apart(adata):
    hw.scverse.neighbors(adata, n_neighbors=8)
    hw.scverse.neighbors(adata, n_neighbors=5, use_rep="X_other", key_added="other")
    hw.scverse.diffusion_map(adata, n_components=2)
    hw.scverse.diffusion_map(adata, n_components=2, neighbors_key="other", key_added="X_map_of_other")
    assert set(adata.obsp) == {"heatwalk_affinity", "heatwalk_distances", "other_affinity", "other_distances"}
    assert set(adata.obsm) == {"X_pca", "X_other", "X_diffusion_map", "X_map_of_other"}
    assert set(adata.obs) == {"heatwalk_component", "other_component"}
    assert adata.uns["other"]["diffusion_map"]["obsm_key"] == "X_map_of_other"


@pytest.mark.parametrize("sparse", [True, False])
def test_x_itself_may_be_the_representation(adata, sparse):
    adata.X = adata.X if sparse else adata.X.toarray()
    hw.scverse.neighbors(adata, use_rep="X", n_neighbors=8)
    dense = adata.X.toarray() if sparse else adata.X
    expected = hw.affinity(dense, hw.neighbors(dense, n_neighbors=8)).weights
    np.testing.assert_array_equal(adata.obsp["heatwalk_affinity"].data, expected)


def test_an_unknown_embedding_is_refused_with_those_there_are(adata):
    with pytest.raises(hw.BadInput, match=r"HW-SC-001 adata.obsm: there is no embedding 'X_scVI', only X_pca, X_other"):
        hw.scverse.neighbors(adata, use_rep="X_scVI")


def test_a_map_without_a_graph_is_refused(adata):
    with pytest.raises(hw.BadInput, match=r"HW-SC-002 .*there is no heatwalk graph; run heatwalk.scverse.neighbors"):
        hw.scverse.diffusion_map(adata)


CHANGES = {
    "without some cells": lambda a: a[:140],
    "without one cell": lambda a: a[np.arange(150) != 70],
    "in another order": lambda a: a[np.random.default_rng(0).permutation(150)],
    "with two cells swapped": lambda a: a[[1, 0, *range(2, 150)]],
    "with one cell twice": lambda a: a[[0, 0, *range(2, 150)]],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_graph_that_no_longer_fits_is_refused(adata, change, alpha):
    hw.scverse.neighbors(adata, n_neighbors=8, alpha=alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names that are not unique
        changed = CHANGES[change](adata).copy()
    with pytest.raises(hw.BadInput, match=r"HW-SC-003 .*the graph was made for 150 cells in another order or number"):
        hw.scverse.diffusion_map(changed, n_components=2)


def test_after_subsetting_a_new_graph_helps(adata):
    hw.scverse.neighbors(adata, n_neighbors=8)
    part = adata[:100].copy()
    hw.scverse.neighbors(part, n_neighbors=8)
    hw.scverse.diffusion_map(part, n_components=2)
    assert part.obsm["X_diffusion_map"].shape == (100, 2)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_a_graph_that_was_written_and_read_gives_the_same_map(adata, tmp_path, form):
    hw.scverse.neighbors(adata, n_neighbors=8)
    hw.scverse.diffusion_map(adata, n_components=3)
    path = tmp_path / f"adata.{form}"
    if form == "h5ad":
        adata.write_h5ad(path)
        read = anndata.read_h5ad(path)
    else:
        with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False), warnings.catch_warnings():
            warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)  # anndata consolidates the metadata
            adata.write_zarr(path)
        read = anndata.read_zarr(path)
    assert read.uns["heatwalk"]["diffusion_map"]["eigenvalues"].shape == (3,)
    hw.scverse.diffusion_map(read, n_components=3)
    np.testing.assert_array_equal(read.obsm["X_diffusion_map"], adata.obsm["X_diffusion_map"])


def test_several_components_are_mapped_each_on_its_own(adata):
    adata.obsm["X_pca"][90:] += 1000
    hw.scverse.neighbors(adata, n_neighbors=8)
    hw.scverse.diffusion_map(adata, n_components=3)
    assert list(np.bincount(adata.obs["heatwalk_component"])) == [90, 60]
    assert adata.uns["heatwalk"]["diffusion_map"]["eigenvalues"].shape == (2, 3)
    assert np.isfinite(adata.obsm["X_diffusion_map"]).all()


def test_scanpy_reads_the_graph_by_its_key(adata):
    import scanpy

    hw.scverse.neighbors(adata, n_neighbors=8)
    view = scanpy.Neighbors(adata, neighbors_key="heatwalk")
    assert view.connectivities.shape == (150, 150)
    assert view.distances.nnz == 150 * 8


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_pseudotime_writes_what_the_functions_give(adata, form):
    if form == "dense":
        adata.X = adata.X.toarray()
    hw.scverse.neighbors(adata, n_neighbors=8)
    with pytest.raises(hw.BadInput, match=r"HW-SC-004 .*there is no map of this graph; run heatwalk.scverse.diff"):
        hw.scverse.pseudotime(adata, roots=["cell3"])
    hw.scverse.diffusion_map(adata, n_components=4, t=2)
    hw.scverse.pseudotime(adata, roots=["cell3"])
    graph = hw.affinity(adata.obsm["X_pca"], hw.neighbors(adata.obsm["X_pca"], n_neighbors=8))
    found = hw.pseudotime(hw.diffusion_map(graph, n_components=4), graph, roots=[3])
    np.testing.assert_allclose(adata.obs["heatwalk_pseudotime"], found.pseudotime, atol=1e-9)
    np.testing.assert_array_equal(adata.obs["heatwalk_branch"], found.branch)
    assert list(adata.uns["heatwalk"]["pseudotime"]["roots"]) == ["cell3"]
    dense = adata.X if form == "dense" else adata.X.toarray()
    r = np.corrcoef(dense[:, 2], found.pseudotime)[0, 1]
    np.testing.assert_allclose(adata.varm["heatwalk_correlation"][2, 0], r, atol=1e-6)


def test_curvature_writes_what_the_function_gives(adata):
    hw.scverse.neighbors(adata, n_neighbors=8)
    with pytest.raises(hw.BadInput, match="HW-SC-004"):
        hw.scverse.curvature(adata)
    hw.scverse.diffusion_map(adata, n_components=4)
    hw.scverse.curvature(adata, null_points=0, estimator="quadric", dimension=2)
    points = adata.obsm["X_pca"]
    graph = hw.affinity(points, hw.neighbors(points, n_neighbors=8))
    found = hw.curvature(points, graph, hw.diffusion_map(graph), null_points=0, estimator="quadric", dimension=2)
    for name, key in (("curvature", ""), ("uncertainty", "_uncertainty")):
        np.testing.assert_array_equal(adata.obs[f"heatwalk_curvature{key}"], getattr(found, name))
    assert (adata.obs["heatwalk_curvature_reason"].cat.codes == found.reason).all()
    np.testing.assert_array_equal(adata.obs["heatwalk_boundary"], found.boundary)
    np.testing.assert_array_equal(adata.uns["heatwalk"]["curvature"]["chosen"], found.chosen)
