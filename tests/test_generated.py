"""generated: the AnnData of generated points, of counts by loadings and of an embedding without them."""

import anndata
import numpy as np
import pytest
from workflow_runs import write_counts

import heatwalk as hw
from heatwalk.generated import write

PARAMETERS = {"condition": "", "seed": 3}


class Stored(dict):
    def __init__(self, arrays, **parameters):
        super().__init__({name: values for name, values in arrays.items() if values is not None})
        self.manifest = {"parameters": parameters}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_counts(folder / "toy.h5ad")
    cells = anndata.read_h5ad(folder / "toy.h5ad")
    cells.obsm["X_scVI"] = np.random.default_rng(0).normal(size=(240, 3)).astype(np.float32)
    cells.obs["day"] = np.arange(240) // 80
    cells.write_h5ad(folder / "toy.h5ad")
    return folder


def made(source, path, use_rep="", condition="", **options):
    with hw.open_input("toy.h5ad", kind="counts", base=source, roots=[source]) as opened:
        cells = hw.cells(opened, "counts", n_top_genes=60)
    pca = hw.pca(cells, "counts", n_components="auto" if use_rep else 10, use_rep=use_rep)
    results = {"cells": Stored(cells._asdict(), kind="counts"), "pca": Stored(pca._asdict(), use_rep=use_rep)}
    found = hw.particles(pca.coordinates, cells, pca, n_particles=40, condition=condition, **options)
    provenance = {"parameters": {**PARAMETERS, "condition": condition}, "code": "abc", "inputs": {"pca": "def"}}
    write(path, found, results, provenance)
    return found, anndata.read_h5ad(path)


def test_an_embedding_has_points_and_no_matrix(source, tmp_path):
    found, new = made(source, tmp_path / "new.h5ad", use_rep="X_scVI", condition="day=1")
    assert new.shape == (40, 0)
    assert new.X is None
    np.testing.assert_array_equal(new.obsm["X_scVI"], found.points)
    assert list(new.obs["day"]) == [1] * 40
    about = new.uns["heatwalk"]["generated"]
    assert (about["code"], about["seed"], about["inputs"]["pca"]) == ("abc", 3, "def")
    assert "share_of_variance" not in about
    with pytest.raises(hw.BadInput, match="HW-PA-010 decode: .*embedding .*set particles: decode to auto or false"):
        made(source, tmp_path / "other.h5ad", use_rep="X_scVI", decode=True)


def test_the_same_points_are_the_same_bytes_whatever_is_copied_at_a_time(source, tmp_path, monkeypatch):
    found, new = made(source, tmp_path / "new.h5ad")
    made(source, tmp_path / "again.h5ad")
    assert (tmp_path / "new.h5ad").read_bytes() == (tmp_path / "again.h5ad").read_bytes()
    monkeypatch.setattr("heatwalk.generated._COPIED", 600)
    _, blocks = made(source, tmp_path / "blocks.h5ad")
    np.testing.assert_array_equal(blocks.X, found.expression)
    np.testing.assert_array_equal(new.X, found.expression)
    assert new.X.min() >= 0


def test_a_condition_of_labels_stays_a_label(source, tmp_path):
    _, new = made(source, tmp_path / "new.h5ad", condition="type=1")
    assert new.obs["type"].dtype == "category"
    assert set(new.obs["type"]) == {"1"}
