"""The 65 bad inputs of the qualification: which rule refuses each, with a bad and a good source, or where its test is.

    python tests/bad_inputs.py

prints the census of them as Markdown. HW-IN codes are those of `heatwalk.inputs`; "read" is a source that others
stumble over and that is read as it should be.
"""

from typing import NamedTuple

import inputs_fixtures as make
import numpy as np
import pandas as pd
from inputs_fixtures import (
    absurd,
    broken_h5ad,
    broken_zarr,
    bytes_file,
    change_values,
    edit,
    external_link,
    npz,
    put,
    repeat_gene,
    repeat_name,
    truncated,
    unlink,
    x_is,
)


class Rule(NamedTuple):
    number: int
    what: str
    code: str  # of the refusal, or "read"
    bad: object  # writes the source into a folder and gives its name
    good: object  # the same with the fault mended
    options: dict = {}  # noqa: RUF012 - never changed
    good_options: dict | None = None


POINTS = {"kind": "points"}
PLAIN = x_is(lambda x: x)


def values(*pairs):
    return lambda folder: make.write_h5ad(folder / "a.h5ad", change_values(*pairs)()).name


def named(**columns):
    """Counts whose obs has these columns, or whose names are these."""

    def write(folder):
        adata = make.annotated()
        names = columns.pop("names", None)
        for name, column in columns.items():
            adata.obs[name] = column
        adata.obs_names = names or adata.obs_names
        return make.write_h5ad(folder / "a.h5ad", adata).name

    return write


def of_types(dtype):
    return lambda folder: make.write_h5ad(folder / "a.h5ad", make.annotated(make.counts().astype(dtype))).name


def at(name):
    return lambda folder: make.write_h5ad(folder / name).name


N = make.N_CELLS
LEVELS = pd.Categorical.from_codes(np.arange(N), [f"level{number}" for number in range(40_000)])
RULES = [
    Rule(1, "negative counts", "HW-IN-042", x_is(lambda x: x - 2 * x), PLAIN),
    Rule(4, "duplicated names of cells", "HW-IN-024", broken_h5ad(repeat_name), PLAIN),
    Rule(5, "duplicated names of genes, and of their ids", "HW-IN-027", broken_h5ad(repeat_gene), PLAIN),
    Rule(9, "whole numbers of an integer type", "read", of_types(np.int64), PLAIN),
    Rule(10, "Python objects", "HW-IN-019", npz(X=np.array([["a", None]], object)), npz(X=np.eye(3)), POINTS),
    Rule(11, "a count of 3e38", "HW-IN-048", values((0, 0, 3e38)), values((0, 0, 2**24))),
    Rule(12, "logged values as counts", "HW-IN-044", x_is(lambda x: x.log1p()), x_is(lambda x: x.log1p()), {},
         {"kind": "logged"}),
    Rule(13, "missing values in a column of batches", "read",
         named(batch=pd.Categorical(["a", None] + ["b"] * (N - 2))), named(batch=pd.Categorical(["a"] * N))),
    Rule(15, "empty names", "HW-IN-025", broken_h5ad(lambda f: f["obs/_index"].__setitem__(2, "")), PLAIN),
    Rule(16, "a line break in a name", "HW-IN-026",
         broken_h5ad(lambda f: f["obs/_index"].__setitem__(2, "a\nb")), PLAIN),
    Rule(17, "an index outside the matrix", "HW-IN-022",
         broken_h5ad(lambda f: f["X/indices"].__setitem__(4, 31)), PLAIN),
    Rule(18, "a missing chunk of Zarr", "HW-IN-012", broken_zarr(unlink("X/indices/c/0")), broken_zarr(lambda s: None)),
    Rule(19, "a damaged chunk of Zarr", "HW-IN-006", broken_zarr(lambda s: (s / "X/data/c/0").write_bytes(b"1" * 99)),
         broken_zarr(lambda s: None)),
    Rule(20, "a store half written", "HW-IN-008", broken_h5ad(lambda f: f.pop("obs")), PLAIN),
    Rule(21, "NaN", "HW-IN-040", values((3, 1, np.nan)), values()),
    Rule(22, "infinite values", "HW-IN-041", values((3, 1, np.inf)), values()),
    Rule(23, "nothing but zeros", "HW-IN-047", x_is(lambda x: x * 0), PLAIN),
    Rule(28, "no cells", "HW-IN-016", x_is(lambda x: x[:0]), x_is(lambda x: x[:1])),
    Rule(29, "no genes", "HW-IN-017", x_is(lambda x: x[:, :0]), x_is(lambda x: x[:, :1])),
    Rule(30, "true and false as values", "HW-IN-019", x_is(lambda x: x.astype(bool)), of_types(np.int16)),
    Rule(32, "row pointers that fall", "HW-IN-021", broken_h5ad(lambda f: f["X/indptr"].__setitem__(3, 10**6)), PLAIN),
    Rule(33, "a file cut short", "HW-IN-006", truncated("a.h5ad", make.write_h5ad), PLAIN),
    Rule(34, "an empty file", "HW-IN-006", lambda f: (f / "a.h5ad").touch() or "a.h5ad", PLAIN),
    Rule(35, "HDF5 that is no AnnData", "HW-IN-007", broken_h5ad(lambda f: [f.pop("obs"), f.pop("var")]), PLAIN),
    Rule(36, "more rows than names of cells", "HW-IN-018", broken_h5ad(put("X", np.ones((9, 31)))), PLAIN),
    Rule(40, "no embedding of that name", "HW-IN-014", PLAIN, PLAIN, POINTS | {"layer": "obsm:X_pcs"},
         POINTS | {"layer": "obsm:X_pca"}),
    Rule(41, "names beyond ASCII", "read", named(names=[f"Zelle \N{DNA DOUBLE HELIX} {n}" for n in range(N)]), PLAIN),
    Rule(42, "counts that are not whole", "HW-IN-043", x_is(lambda x: x * 1.5), x_is(lambda x: x * 2)),
    Rule(43, "double precision", "read", of_types(np.float64), PLAIN),
    Rule(48, "a column of mixed types", "read", named(mixed=["a", "1"] * (N // 2) + ["2.5"]), PLAIN),
    Rule(49, "40,000 categories", "read", named(many=LEVELS), PLAIN),
    Rule(52, "a path out of the folder", "HW-IN-003", lambda f: "../../../etc/passwd", PLAIN),
    Rule(53, "a pickle as a codec", "HW-IN-009", broken_zarr(edit("X/data/zarr.json", '"zstd"', '"numcodecs.pickle"')),
         broken_zarr(lambda s: None)),
    Rule(54, "a declared size that nothing fills", "HW-IN-010", broken_h5ad(absurd), PLAIN),
    Rule(62, "spaces, quotes and a leading dash in a path", "read", at("-a 'b\".h5ad"), PLAIN),
    Rule(66, "a link to another file (HDF5)", "HW-IN-004", broken_h5ad(external_link), PLAIN),
    Rule(67, "bytes of no format", "HW-IN-005", bytes_file("a.obj", b"v 1 2 3"), PLAIN),
]  # fmt: skip
# What is no fault of a source alone, or that a test of its own shows: number, what, what comes of it, file::test.
ELSEWHERE = [
    (2, "cells without counts", "removed and counted", "test_cells::test_empty_cells_are_removed_and_counted"),
    (3, "genes that do not vary", "read", "test_pca::test_a_gene_that_does_not_vary_is_not_scaled"),
    (6, "identical cells", "HW-AF-005 where all are",
     "test_affinity::test_cells_that_all_coincide_with_their_neighbors_are_refused"),
    (7, "n_neighbors of all cells or more", "HW-NB-003",
     "test_neighbors::test_n_neighbors_out_of_bounds_is_refused_with_the_bound"),
    (8, "a graph in pieces", "each piece has its own map", "test_report::test_pieces_of_the_graph_are_drawn_apart"),
    (14, "a query with other genes", "HW-CE-006", "test_query::test_too_few_genes_are_refused_with_what_is_missing"),
    (24, "n_neighbors of 0", "HW-NB-003", "test_neighbors::test_n_neighbors_out_of_bounds_is_refused_with_the_bound"),
    (25, "n_neighbors of 1", "read", "test_neighbors::test_two_points_are_enough"),
    (26, "too many components", "HW-PC-001", "test_pca::test_more_components_than_there_are_is_refused_with_the_bound"),
    (27, "one cell", "HW-PC-002", "test_pca::test_one_cell_or_no_gene_is_refused"),
    (31, "entries unsorted or twice", "put in order", "test_inputs::test_entries_written_twice_mean_their_sum"),
    (37, "a slash in the name of a column", "renamed with a note", "test_inputs::test_obs_columns_are_made_storable"),
    (38, "groups that are no column", "HW-CE-005", "test_cells::test_an_unknown_group_is_refused_with_those_there_are"),
    (39, "groups of one cell", "held out whole or kept",
     "test_cells::test_groups_are_held_out_whole_and_some_are_left_to_train_on"),
    (44, "row pointers beyond 2^31", "int64 by the schema; no file so large is made here",
     "test_affinity::test_types_are_those_of_the_schema"),
    (45, "genes in another order", "read",
     "test_query::test_the_reference_s_own_cells_come_back_to_their_places_in_any_order_of_genes"),
    (46, "ids with versions, or symbols", "compared by any name",
     "test_query::test_genes_are_found_by_any_name_they_have"),
    (47, "letter case of genes", "compared by any name", "test_query::test_genes_are_found_by_any_name_they_have"),
    (50, "NaN in an embedding", "HW-PC-005", "test_pca::test_an_embedding_that_is_not_finite_is_refused_with_the_row"),
    (51, "weights that are not symmetric", "obsp of a source is never read",
     "test_affinity::test_weights_are_symmetric_to_the_last_bit"),
    (55, "Zarr of version 2 and 3", "read", "test_inputs::test_counts_in_every_format"),
    (56, "stale consolidated metadata", "not believed",
     "test_inputs::test_a_sharded_store_with_stray_files_and_stale_metadata"),
    (57, "a wrong hash in a manifest", "HW-ST-002", "test_store::test_every_flipped_bit_is_noticed"),
    (58, "a dataset twice", "HW-CF-005", "test_config::test_the_same_dataset_twice_is_refused"),
    (59, "a batch in the query alone", "nothing depends on batches",
     "test_query::test_genes_that_are_missing_count_as_at_their_mean_and_not_in_the_depth"),
    (60, "samples that share barcodes", "named by their sample", "test_inputs::test_several_samples"),
    (61, "a read-only folder", "HW-RS-003",
     "test_qualification_resources::test_results_that_cannot_be_written_end_with_4"),
    (63, "byte order mark, CRLF and tabs in a table", "read",
     "test_config::test_byte_order_mark_and_windows_line_ends_do_no_harm"),
    (64, "traps of YAML", "HW-CF-001", "test_config::test_a_key_that_stands_twice_is_refused"),
    (65, "times in the future", "content counts",
     "test_qualification_same::test_a_source_is_known_by_its_content_and_not_by_its_time"),
]  # fmt: skip


def table() -> str:
    lines = ["| | input | what comes of it | test |", "|---|---|---|---|"]
    rows = [(rule.number, rule.what, rule.code, "bad_inputs, a bad and a good source") for rule in RULES]
    rows += [(number, what, outcome, place.partition("::")[0]) for number, what, outcome, place in ELSEWHERE]
    return "\n".join([*lines, *(f"| {n} | {what} | {outcome} | {place} |" for n, what, outcome, place in sorted(rows))])


if __name__ == "__main__":
    print(table())
