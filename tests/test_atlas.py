"""atlas: one AnnData from published results, read by anndata and scanpy, equal to what the stages gave."""

import hashlib
import json
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse
from scipy.spatial.distance import cdist

import heatwalk as hw
from heatwalk import atlas as atlas_module
from heatwalk import store
from heatwalk.affinity import Affinity
from heatwalk.atlas import atlas
from heatwalk.cells import Cells, normalised
from heatwalk.neighbors import Neighbors

N_CELLS, N_GENES, BLOCK_CELLS = 130, 40, 64
OPTIONS = {
    "cells": {"n_top_genes": 25, "min_genes": 5},
    "pca": {"n_components": 6, "use_rep": ""},
    "neighbors": {"n_neighbors": 10},
    "affinity": {"alpha": 1.0, "bandwidth_neighbor": 6},
    "diffusion_map": {"n_components": 5},
}


def table_of_cells():
    """Names and columns of every type that a file may hold."""
    rng = np.random.default_rng(1)
    stages = pd.Categorical(rng.choice(["früh", "spät", "中"], N_CELLS), categories=["früh", "spät", "中", "never"])
    stages[[3, 4]] = np.nan
    columns = {
        "stage": stages,
        "ok": rng.random(N_CELLS) < 0.5,
        "plate": rng.integers(0, 9, N_CELLS),
        "score": np.where(rng.random(N_CELLS) < 0.1, np.nan, rng.random(N_CELLS)),
        "note": [f"Zelle № {n}" for n in range(N_CELLS)],
    }
    return pd.DataFrame(columns, index=[f"Zelle-ä{n}" for n in range(N_CELLS)])


def values_of_cells(far=0):
    """Counts along a path; the last `far` cells use other genes altogether. The first cell has too few genes."""
    rng = np.random.default_rng(0)
    time = np.linspace(0, 1, N_CELLS)[:, None]
    means = 8 * np.exp(-((time - np.linspace(-0.2, 1.2, N_GENES)) ** 2) / 0.05) + 0.2
    matrix = rng.poisson(means).astype(np.float32)
    if far:
        matrix[-far:] = 0
        matrix[-far:, :6] = rng.poisson(5000, (far, 6))
    matrix[0] = 0
    matrix[0, :4] = 1
    return scipy.sparse.csr_matrix(matrix)


def source(matrix, obsm=None):
    obs = table_of_cells()
    return SimpleNamespace(
        where="memory",
        obs=obs,
        features=pd.DataFrame(
            {"symbol": [f"γ{n}" for n in range(N_GENES)]}, index=[f"gene{n}" for n in range(N_GENES)]
        ),
        obsm=obsm or {},
        item_shape=(N_GENES,),
        notes=(),
        n_cells=N_CELLS,
        blocks=lambda n_rows: (matrix[start : start + n_rows] for start in range(0, N_CELLS, n_rows)),
    )


def published_chain(folder, opened, kind="counts", **changes):
    """What the stage programs do, one after another; the published results by stage."""
    results, options = {}, {stage: {**values, **changes.get(stage, {})} for stage, values in OPTIONS.items()}
    if kind != "counts":
        options["cells"].pop("min_genes")

    def publish(stage, run):
        draft = store.create(folder / stage, stage, block_cells=BLOCK_CELLS)
        run(options[stage], draft)
        parameters = {**options[stage], "kind": kind, "seed": 0, "block_cells": BLOCK_CELLS}
        inputs = {name: result.root for name, result in results.items()}
        store.publish(draft, parameters=parameters, code="c0de", inputs=inputs)
        results[stage] = store.read(folder / stage)

    blocks = {"block_cells": BLOCK_CELLS}
    publish("cells", lambda o, out: hw.cells(opened, kind, **o, **blocks, out=out))
    publish("pca", lambda o, out: hw.pca(Cells(**results["cells"]), kind, **o, **blocks, out=out))
    points = results["pca"]["coordinates"]
    publish("neighbors", lambda o, out: hw.neighbors(points, **o, **blocks, out=out))
    publish("affinity", lambda o, out: hw.affinity(points, Neighbors(**results["neighbors"]), **o, **blocks, out=out))
    publish("diffusion_map", lambda o, out: hw.diffusion_map(Affinity(**results["affinity"]), **o, out=out))
    return results


def made(results, folder, **options):
    """An atlas, published; as read from Zarr, and its folder."""
    draft = store.create(folder / "atlas", "atlas", block_cells=BLOCK_CELLS)
    result = atlas(results, draft.group, draft.file("atlas.h5ad"), **options, block_cells=BLOCK_CELLS)
    files = {"atlas.h5ad": result.h5ad} if result.h5ad else {}
    store.publish(draft, parameters=options, code="c0de", inputs={}, files=files, link="atlas.zarr")
    published = store.read(folder / "atlas")
    return anndata.read_zarr(published.path), folder / "atlas"


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    embedding = np.random.default_rng(2).normal(size=(N_CELLS, 3)).astype(np.float32)
    obsm = {"X_scVI": embedding, "X_pca": embedding * 7}
    return published_chain(tmp_path_factory.mktemp("chain") / "data", source(values_of_cells(), obsm))


@pytest.fixture(scope="module")
def whole(chain, tmp_path_factory):
    return made(chain, tmp_path_factory.mktemp("atlas") / "data", scanpy_export=True)


def kernel_of(chain):
    """The kernel before alpha, dense, with its diagonal."""
    graph = chain["affinity"]
    n_cells = len(graph["degrees"][:])
    parts = graph["weights"][:], graph["indices"][:], graph["indptr"][:]
    weights = scipy.sparse.csr_array(parts, shape=(n_cells, n_cells)).toarray()
    return weights * np.outer(graph["density"][:], graph["density"][:])


# ---- both files ------------------------------------------------------------------------------------------------------


def test_zarr_and_h5ad_hold_the_same(whole):
    adata, folder = whole
    other = anndata.read_h5ad(folder / "atlas.h5ad")
    pd.testing.assert_frame_equal(adata.obs, other.obs)
    pd.testing.assert_frame_equal(adata.var, other.var)
    for mapping in ("layers", "obsm", "obsp", "varm", "varp"):
        one, two = getattr(adata, mapping), getattr(other, mapping)
        assert set(one) == set(two)
        for key in one:
            dense = [m.toarray() if scipy.sparse.issparse(m) else np.asarray(m) for m in (one[key], two[key])]
            np.testing.assert_array_equal(*dense)
            assert one[key].dtype == two[key].dtype
    np.testing.assert_array_equal(adata.X.toarray(), other.X.toarray())
    np.testing.assert_equal(adata.uns, other.uns)


def test_the_link_for_people_leads_to_the_data(whole):
    adata, folder = whole
    assert anndata.read_zarr(folder / "atlas.zarr").shape == adata.shape
    assert (folder / "atlas.h5ad").is_symlink()


def test_h5ad_has_the_same_bytes_when_it_is_written_again(chain, whole, tmp_path):
    _, again = made(chain, tmp_path / "data", scanpy_export=True)
    digests = [hashlib.sha256((folder / "atlas.h5ad").read_bytes()).hexdigest() for folder in (whole[1], again)]
    assert digests[0] == digests[1]
    assert store.read(whole[1]).root == store.read(again).root


def test_the_h5ad_can_be_left_out(chain, tmp_path):
    adata, folder = made(chain, tmp_path / "data", h5ad=False)
    assert adata.n_obs == N_CELLS - 1
    assert not (folder / "atlas.h5ad").exists()


def test_writing_in_small_pieces_changes_nothing(chain, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_module, "_EDGE_BLOCK", 50)
    adata, _ = made(chain, tmp_path / "data", scanpy_export=True)
    np.testing.assert_array_equal(adata.X.toarray(), whole[0].X.toarray())
    for key in ("connectivities", "distances"):
        np.testing.assert_array_equal(adata.obsp[key].toarray(), whole[0].obsp[key].toarray())


# ---- values ----------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_input_without_the_removed_cell(whole):
    np.testing.assert_array_equal(whole[0].layers["counts"].toarray(), values_of_cells().toarray()[1:])


def test_x_is_normalised(chain, whole):
    expected = normalised(Cells(**chain["cells"]), slice(0, N_CELLS - 1)).toarray()
    np.testing.assert_allclose(whole[0].X.toarray(), expected, rtol=1e-6)
    depth = values_of_cells().toarray()[1:].sum(axis=1)
    by_hand = np.log1p(values_of_cells().toarray()[1:] / depth[:, None] * np.median(depth))
    np.testing.assert_allclose(whole[0].X.toarray(), by_hand, rtol=1e-5)


def test_without_a_matrix_there_is_no_x_and_still_counts(chain, tmp_path):
    adata, folder = made(chain, tmp_path / "data", matrix="none")
    assert adata.X is None
    assert anndata.read_h5ad(folder / "atlas.h5ad").X is None
    assert set(adata.layers) == {"counts"}


def test_an_unknown_matrix_is_refused(chain, tmp_path):
    with pytest.raises(hw.BadInput, match="HW-AT-001 atlas: matrix: 'scaled' is unknown; use normalised or none"):
        made(chain, tmp_path / "data", matrix="scaled")


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["stage", "ok", "plate", "score", "note"])
def test_columns_of_every_type_survive(whole, column):
    expected = table_of_cells()[column].iloc[1:]
    found = whole[0].obs[column]
    assert list(found.index) == list(expected.index)
    np.testing.assert_array_equal(found.isna(), expected.isna())
    assert list(found.dropna()) == list(expected.dropna())
    if column != "note":  # anndata turns text that repeats into categories
        assert found.dtype == expected.dtype


def test_names_that_are_not_ascii_survive(whole):
    assert list(whole[0].obs_names) == list(table_of_cells().index[1:])
    assert whole[0].var["symbol"].iloc[3] == "γ3"


def test_figures_of_cells_and_genes_are_those_of_the_stages(chain, whole):
    adata, graph = whole[0], chain["affinity"]
    for column, name in (("component", "components"), ("degree", "degrees"), ("density", "density")):
        np.testing.assert_array_equal(adata.obs[f"heatwalk_{column}"], graph[name][:])
    np.testing.assert_array_equal(adata.obs["heatwalk_bandwidth"], graph["bandwidths"][:])
    np.testing.assert_array_equal(adata.obs["heatwalk_size_factor"], chain["cells"]["size_factors"][:])
    np.testing.assert_array_equal(adata.obs["heatwalk_split"] == "held out", chain["cells"]["split"][:] == 1)
    np.testing.assert_array_equal(adata.var["heatwalk_selected"], chain["cells"]["selected"][:])
    assert adata.var["heatwalk_selected"].sum() == 25


# ---- embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_the_stages(chain, whole):
    adata = whole[0]
    np.testing.assert_array_equal(adata.obsm["X_pca"], chain["pca"]["coordinates"][:])
    np.testing.assert_array_equal(adata.obsm["X_scVI"], chain["cells"]["obsm"]["X_scVI"][:])
    diffusion = chain["diffusion_map"]
    expected = diffusion["eigenvectors"][:] * diffusion["eigenvalues"][:]
    np.testing.assert_array_equal(adata.obsm["X_diffusion_map"], expected)


def test_loadings_stand_in_the_rows_of_their_genes(chain, whole):
    loadings, selected = whole[0].varm["PCs"], chain["cells"]["selected"][:]
    np.testing.assert_array_equal(loadings[selected], chain["pca"]["loadings"][:])
    np.testing.assert_array_equal(loadings[~selected], 0)


@pytest.mark.parametrize("t", [0, 3.0])
def test_t_is_the_power_of_the_eigenvalues(chain, tmp_path, t):
    adata, _ = made(chain, tmp_path / "data", t=t, h5ad=False)
    diffusion = chain["diffusion_map"]
    expected = diffusion["eigenvectors"][:] * diffusion["eigenvalues"][:] ** t
    np.testing.assert_allclose(adata.obsm["X_diffusion_map"], expected, rtol=1e-14)


def test_an_embedding_that_was_passed_through_keeps_its_name(tmp_path):
    embedding = np.random.default_rng(2).normal(size=(N_CELLS, 3)).astype(np.float32)
    opened = source(values_of_cells(), {"X_scVI": embedding})
    changes = {"pca": {"use_rep": "X_scVI", "n_components": "auto"}}
    adata, _ = made(published_chain(tmp_path / "data", opened, **changes), tmp_path / "data", h5ad=False)
    np.testing.assert_array_equal(adata.obsm["X_scVI"], embedding[1:])
    assert set(adata.obsm) == {"X_scVI", "X_diffusion_map"}
    assert adata.uns["neighbors"]["params"]["use_rep"] == "X_scVI"


# ---- graph -----------------------------------------------------------------------------------------------------------


def test_connectivities_are_the_kernel_without_its_diagonal(chain, whole):
    expected = kernel_of(chain)
    np.testing.assert_allclose(np.diag(expected), 1, rtol=1e-12)
    np.fill_diagonal(expected, 0)
    found = whole[0].obsp["connectivities"]
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-12)
    np.testing.assert_array_equal(found.toarray(), found.toarray().T)
    assert found.nnz == len(chain["affinity"]["weights"][:]) - (N_CELLS - 1)
    assert found.has_canonical_format


def test_connectivities_are_the_formula_on_the_coordinates(chain, whole):
    distances, sigma = cdist(*[chain["pca"]["coordinates"][:]] * 2), chain["affinity"]["bandwidths"][:]
    kernel = np.exp(-(distances**2) / (2 * np.outer(sigma, sigma)))
    found = whole[0].obsp["connectivities"].toarray()
    np.testing.assert_allclose(found[found > 0], kernel[found > 0], rtol=1e-4)


def test_distances_are_those_of_the_search(chain, whole):
    neighbors, found = chain["neighbors"], whole[0].obsp["distances"]
    assert found.nnz == (N_CELLS - 1) * 10
    expected = np.zeros((N_CELLS - 1, N_CELLS - 1))
    np.put_along_axis(expected, neighbors["indices"][:], neighbors["distances"][:], axis=1)
    np.testing.assert_array_equal(found.toarray(), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_connectivities_do_not_depend_on_alpha(whole, tmp_path, alpha):
    changed = published_chain(tmp_path / "data", source(values_of_cells()), affinity={"alpha": alpha})
    adata, _ = made(changed, tmp_path / "data", h5ad=False)
    found, expected = (a.obsp["connectivities"].toarray() for a in (adata, whole[0]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# ---- what explains it ------------------------------------------------------------------------------------------------


def test_every_stage_is_explained_by_hashes_and_parameters(chain, whole):
    explained = whole[0].uns["heatwalk"]
    assert set(explained) == set(chain)
    for stage, result in chain.items():
        assert (explained[stage]["root"], explained[stage]["code"]) == (result.root, "c0de")
        assert json.loads(explained[stage]["parameters"]) == result.manifest["parameters"]


def test_eigenvalues_and_residuals_are_numbers_without_the_trivial_pair(chain, whole):
    explained = whole[0].uns["heatwalk"]["diffusion_map"]
    assert explained["eigenvalues"].dtype == explained["residuals"].dtype == np.float64
    np.testing.assert_array_equal(explained["eigenvalues"], chain["diffusion_map"]["eigenvalues"][:])
    assert explained["eigenvalues"].max() < 1 - 1e-6
    assert explained["residuals"].max() < 1e-10
    assert explained["converged"].dtype == bool
    assert float(whole[0].uns["heatwalk"]["neighbors"]["recall"]) == 1.0


# ---- scanpy ----------------------------------------------------------------------------------------------------------


def test_scanpy_finds_the_graph_where_uns_says(whole):
    adata = whole[0].copy()
    view = scanpy.Neighbors(adata)
    assert view.n_neighbors == 11  # scanpy counts the cell itself
    np.testing.assert_array_equal(view.connectivities.toarray(), adata.obsp["connectivities"].toarray())
    scanpy.tl.diffmap(adata, n_comps=4)
    assert adata.obsm["X_diffmap"].shape == (N_CELLS - 1, 4)


def test_scanpys_pseudotime_runs_on_the_export_and_follows_the_path(whole):
    adata = whole[0].copy()
    adata.uns["iroot"] = 0
    scanpy.tl.dpt(adata, n_dcs=6)
    order = adata.obs["dpt_pseudotime"].rank()
    assert np.isfinite(adata.obs["dpt_pseudotime"]).all()
    assert np.corrcoef(order, np.arange(N_CELLS - 1))[0, 1] > 0.95


def test_the_export_has_the_trivial_pair_first_and_columns_of_scanpys_scale(chain, whole):
    adata = whole[0]
    np.testing.assert_array_equal(adata.uns["diffmap_evals"][0], 1)
    np.testing.assert_allclose(adata.uns["diffmap_evals"][1:], chain["diffusion_map"]["eigenvalues"][:], rtol=1e-6)
    basis = adata.obsm["X_diffmap"]
    np.testing.assert_allclose(np.linalg.norm(basis[:, 0]), 1, rtol=1e-5)
    np.testing.assert_allclose(basis[:, 1:] / basis[:, :1], chain["diffusion_map"]["eigenvectors"][:], rtol=1e-5)


def test_without_the_export_there_is_no_diffmap(chain, tmp_path):
    adata, _ = made(chain, tmp_path / "data", h5ad=False)
    assert "X_diffmap" not in adata.obsm
    assert "diffmap_evals" not in adata.uns


# ---- several components, other kinds ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def islands(tmp_path_factory):
    folder = tmp_path_factory.mktemp("islands") / "data"
    return published_chain(folder, source(values_of_cells(far=30)), affinity={"bandwidth": 1.0})


def test_a_graph_of_several_components_is_mapped_and_explained(islands, tmp_path):
    adata, folder = made(islands, tmp_path / "data")
    n_components = adata.obs["heatwalk_component"].nunique()
    assert n_components > 1
    assert adata.uns["heatwalk"]["diffusion_map"]["eigenvalues"].shape == (n_components, 5)
    assert anndata.read_h5ad(folder / "atlas.h5ad").obsm["X_diffusion_map"].shape == (N_CELLS - 1, 5)


def test_several_components_cannot_be_exported_to_scanpy(islands, tmp_path):
    match = r"HW-AT-002 atlas: scanpy_export: the graph has \d+ components, scanpy's diffmap knows one"
    with pytest.raises(hw.BadInput, match=match):
        made(islands, tmp_path / "data", scanpy_export=True)


def test_intensities_have_a_dense_x_and_no_counts(tmp_path):
    dense = np.random.default_rng(0).gamma(2, 50, (N_CELLS, N_GENES)).astype(np.float32)
    adata, folder = made(published_chain(tmp_path / "data", source(dense), "intensities"), tmp_path / "data")
    np.testing.assert_allclose(adata.X, np.arcsinh(dense / 150), rtol=1e-6)
    assert len(adata.layers) == 0
    np.testing.assert_array_equal(anndata.read_h5ad(folder / "atlas.h5ad").X, adata.X)
    assert "heatwalk_size_factor" not in adata.obs


def test_the_h5ad_has_no_times_in_it(whole):
    times = []
    with h5py.File(whole[1] / "atlas.h5ad") as file:
        file.visititems(lambda _, item: times.append(h5py.h5g.get_objinfo(item.id).mtime))
    assert len(times) > 20
    assert set(times) == {0}
