"""A query in the terms of its reference: genes by any name, depth by the genes both have, the reference's own space."""

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from test_cells import counts, source, stored, whole

import heatwalk as hw
from heatwalk import query

N_CELLS, N_GENES = 160, 80


def names(n_genes=N_GENES):
    return [f"gene{number}" for number in range(n_genes)]


def table(index, **columns):
    return pd.DataFrame(columns, index=list(index))


@pytest.fixture(scope="module")
def matrix():
    return counts(N_CELLS, N_GENES, seed=3)


@pytest.fixture(scope="module")
def reference(matrix):
    return hw.cells(source(matrix, features=table(names())), "counts", n_top_genes=40)


def asked(matrix, reference, features=None, kind="counts", **options):
    features = table(names(matrix.shape[1])) if features is None else features
    return hw.cells(source(matrix, features=features), kind, reference=reference, **options)


def test_the_reference_s_own_cells_come_back_to_their_places_in_any_order_of_genes(matrix, reference):
    space = hw.pca(reference, "counts", n_components=8)
    order = np.random.default_rng(0).permutation(N_GENES + 5)
    wider = scipy.sparse.hstack([matrix, np.full((N_CELLS, 5), 1000.0)], format="csr")  # genes that the reference lacks
    features = table(np.array([*names(), *"vwxyz"])[order])
    cells = asked(wider[:, order][:50], reference, features)
    np.testing.assert_allclose(cells.size_factors, reference.size_factors[:50], rtol=1e-12)
    assert cells.selected.sum() == 40
    assert set(cells.var["reference_name"]) == {*names(), ""}
    landed = hw.pca(cells, "counts", n_components=8, reference=space)
    np.testing.assert_allclose(landed.coordinates, space.coordinates[:50], atol=1e-5)
    assert landed.loadings is None
    np.testing.assert_allclose(landed.variances, landed.coordinates.var(axis=0, ddof=1), rtol=1e-5)
    assert (cells.split == 1).all()


def test_genes_that_are_missing_count_as_at_their_mean_and_not_in_the_depth(matrix, reference):
    space = hw.pca(reference, "counts", n_components=5)
    kept = np.arange(N_GENES) % 7 != 2
    cells = asked(matrix[:, kept], reference, table(np.array(names())[kept]), min_shared=0.5)
    dense, selected = matrix.toarray().astype(float), reference.selected
    normal = dense / reference.size_factors[:, None]
    share = normal[:, kept].mean(axis=0).sum() / normal.mean(axis=0).sum()
    target = np.median(dense.sum(axis=1))
    factors = dense[:, kept].sum(axis=1) / share / target
    np.testing.assert_allclose(cells.size_factors, factors, rtol=1e-6)
    values = np.log1p(dense / factors[:, None])
    values[:, ~kept] = 0
    values[:, selected & ~kept] = space.means[~kept[selected]]
    expected = (values[:, selected] - space.means) @ space.loadings
    landed = hw.pca(cells, "counts", n_components=5, reference=space, block_cells=33)
    np.testing.assert_allclose(landed.coordinates, expected, atol=1e-5)
    assert (cells.reference_columns >= 0).sum() == (selected & kept).sum()


@pytest.mark.parametrize(
    ("new", "known", "how"),
    [
        (table(["b", "a", "x"]), table(["a", "b"]), "names with names"),
        (
            table(["ENSG00000000003.15", "ENSG00000000005.6"]),
            table(["ENSG00000000005", "ENSG00000000003"]),
            "names with names without version numbers",
        ),
        (table(["TP53", "CD4"]), table(["Cd4", "Tp53"]), "names with names without regard to case"),
        (table(["x", "y"], gene_symbols=["TP53", "CD4"]), table(["CD4", "TP53"]), "gene_symbols with names"),
        (
            table(["TP53", "CD4"], gene_ids=["ENSG00000000003.1", "ENSG00000000005.1"]),
            table(["q", "r"], ensembl_id=["ENSG00000000005", "ENSG00000000003"]),
            "gene_ids with ensembl_id without version numbers",
        ),
    ],
)
def test_genes_are_found_by_any_name_they_have(new, known, how):
    found = query.shared(new, known, np.ones(2, bool))
    assert found.how == how
    np.testing.assert_array_equal(found.columns, [1, 0])


def test_a_name_that_stands_twice_is_nobody_s():
    found = query.shared(table(["a", "b", "b", "c"]), table(["a", "b", "c", "c"]), np.ones(4, bool))
    np.testing.assert_array_equal(found.columns, [0, -1, -1, -1])


def test_a_stricter_comparison_is_kept_unless_a_looser_one_finds_more():
    known = table([f"g{number}" for number in range(300)])
    new = table([*known.index[:299], "G299"])
    assert query.shared(new, known, np.ones(300, bool)).how == "names with names"
    new = table([*known.index[:280], *(f"G{number}" for number in range(280, 300))])
    assert query.shared(new, known, np.ones(300, bool)).how.endswith("without regard to case")


def test_what_was_compared_is_said(matrix, reference, caplog):
    with caplog.at_level(logging.WARNING, "heatwalk"):
        asked(matrix, reference, table([name.upper() for name in names()]))
    assert (
        "40 of the 40 selected genes of the reference are there, comparing names with names without regard"
        in caplog.text
    )


def logged(matrix, target=1000.0):
    dense = matrix.toarray().astype(np.float64)
    return scipy.sparse.csr_matrix(np.log1p(target * dense / dense.sum(axis=1, keepdims=True)))


def test_logged_cells_land_as_they_are_and_another_depth_is_noticed(matrix, caplog):
    made = hw.cells(source(logged(matrix), features=table(names())), "logged", n_top_genes=40)
    space = hw.pca(made, "logged", n_components=5)
    cells = asked(logged(matrix), made, kind="logged")
    landed = hw.pca(cells, "logged", n_components=5, reference=space)
    np.testing.assert_allclose(landed.coordinates, space.coordinates, atol=1e-5)
    with caplog.at_level(logging.WARNING, "heatwalk"):
        asked(logged(matrix, 2000), made, kind="logged")
    assert "was it normalised in the same way" in caplog.text
    with pytest.raises(hw.BadInput, match="HW-CE-007 memory: a cell has 10,000 counts .* the reference 1,000"):
        asked(logged(matrix, 10_000), made, kind="logged")
    with pytest.raises(hw.BadInput, match="HW-IN-045"):
        asked(matrix, made, kind="logged")


def test_cells_of_equal_depth_are_no_cells_without_normalisation():
    rng = np.random.default_rng(0)
    equal = scipy.sparse.csr_matrix(rng.multinomial(500, np.full(N_GENES, 1 / N_GENES), 100).astype(np.float32))
    made = hw.cells(source(equal, features=table(names())), "counts", n_top_genes=0)
    assert (made.size_factors == 1).all()
    np.testing.assert_allclose(asked(7 * equal, made).size_factors, 7, rtol=1e-9)


def test_a_cell_with_nothing_in_common_is_said_and_stays_finite(matrix, reference, caplog):
    lonely = scipy.sparse.hstack([matrix, np.full((N_CELLS, 1), 5.0)], format="csr").tolil()
    lonely[3, :N_GENES] = 0
    with caplog.at_level(logging.WARNING, "heatwalk"):
        cells = asked(lonely.tocsr(), reference, table([*names(), "other"]))
    assert "1 of 160 cells have no count in the reference's genes" in caplog.text
    assert whole(cells)[3].max() < 20


def test_depths_that_were_left_alone_are_left_alone(matrix):
    made = hw.cells(source(matrix, features=table(names())), "counts", target_sum="none", n_top_genes=0)
    cells = asked(2 * matrix, made, target_sum="none")
    assert (cells.size_factors == 1).all()
    np.testing.assert_allclose(whole(cells), np.log1p(stored(cells)), rtol=1e-6)


def test_channels_in_another_order_land_and_a_missing_one_is_refused():
    values = np.random.default_rng(0).gamma(2, 300, (90, 4))
    made = hw.cells(source(values, features=table("abcd")), "intensities")
    space = hw.pca(made, "intensities", n_components=3)
    cells = hw.cells(source(values[:, [2, 0, 3, 1]], features=table("cadb")), "intensities", reference=made)
    landed = hw.pca(cells, "intensities", n_components=3, reference=space)
    np.testing.assert_allclose(landed.coordinates, space.coordinates, atol=1e-5)
    with pytest.raises(hw.BadInput, match="HW-CE-006 memory: 3 of the 4 selected genes .* 100% must be; missing: d"):
        hw.cells(source(values[:, :3], features=table("abc")), "intensities", reference=made)


def test_points_land_by_position_unless_their_number_differs():
    values = np.random.default_rng(0).standard_normal((60, 3))
    made = hw.cells(source(values, features=table("xyz")), "points")
    space = hw.pca(made, "points")
    cells = hw.cells(source(values, features=table("abc")), "points", reference=made)
    np.testing.assert_array_equal(hw.pca(cells, "points", reference=space).coordinates, space.coordinates)
    cells = hw.cells(source(values[:, [2, 0, 1]], features=table("zxy")), "points", reference=made)
    np.testing.assert_array_equal(hw.pca(cells, "points", reference=space).coordinates, space.coordinates)
    for columns in ("xy", "wxyz"):
        given = np.ones((60, len(columns)))
        with pytest.raises(hw.BadInput, match=f"HW-CE-006 memory: an item has shape {len(columns)}, one of the refer"):
            hw.cells(source(given, features=table(columns)), "points", reference=made)


def test_images_must_have_the_reference_s_shape():
    values = np.random.default_rng(0).random((30, 12))
    made = hw.cells(source(values, features=table(names(12)), item_shape=(3, 4)), "images")
    with pytest.raises(hw.BadInput, match="HW-CE-006 memory: an item has shape 4 x 3, one of the reference 3 x 4"):
        hw.cells(source(values, features=table(names(12)), item_shape=(4, 3)), "images", reference=made)


def test_whole_numbers_beside_floats_in_other_units_are_noticed():
    values = np.random.default_rng(0).integers(0, 256, (30, 12))
    features, shape = table(names(12)), {"item_shape": (3, 4)}
    whole, floats, shares = values.astype(np.uint8), values.astype(np.float32), (values / 255).astype(np.float32)
    for own, other, fits in (
        (floats, whole, False),
        (whole, floats, False),
        (shares, whole, True),
        (whole, shares, True),
        (floats, floats / 2, True),
        (shares, (16 * values).astype(np.uint16), False),  # 12 bits in 16
    ):
        made = hw.cells(source(own, features=features, **shape), "images")
        given = source(other, features=features, **shape)
        if fits:
            hw.cells(given, "images", reference=made)
            continue
        with pytest.raises(hw.BadInput, match="HW-CE-008 memory: values reach .* those of the reference"):
            hw.cells(given, "images", reference=made)


def test_a_given_embedding_must_have_the_reference_s_columns(matrix):
    made = hw.cells(source(matrix, features=table(names()), obsm={"X_scVI": np.ones((N_CELLS, 4))}), "counts")
    space = hw.pca(made, "counts", use_rep="X_scVI")
    for width, fits in ((4, True), (3, False)):
        embedded = source(matrix, features=table(names()), obsm={"X_scVI": np.full((N_CELLS, width), 2.0)})
        cells = hw.cells(embedded, "counts", reference=made)
        if fits:
            assert (hw.pca(cells, "counts", use_rep="X_scVI", reference=space).coordinates == 2).all()
        else:
            with pytest.raises(hw.BadInput, match="HW-PC-006 pca: use_rep: the query has 3 columns there"):
                hw.pca(cells, "counts", use_rep="X_scVI", reference=space)


def test_too_few_genes_are_refused_with_what_is_missing(matrix, reference):
    few = [name if place % 3 else f"other{place}" for place, name in enumerate(names())]
    with pytest.raises(
        hw.BadInput, match=r"HW-CE-006 memory: \d+ of the 40 selected genes .* 70% must be; missing: gene"
    ):
        asked(matrix, reference, table(few))
    asked(matrix, reference, table(few), min_shared=0.3)
    with pytest.raises(hw.BadInput, match="0 of the 40 selected"):
        asked(matrix, reference, table(f"z{place}" for place in range(N_GENES)), min_shared=0.001)


def test_no_partition_changes_a_query(matrix, reference):
    some = np.arange(N_GENES) % 9 != 4
    one, other = (
        asked(matrix[:, some], reference, table(np.array(names())[some]), block_cells=size) for size in (17, 8192)
    )
    np.testing.assert_array_equal(one.size_factors, other.size_factors)
