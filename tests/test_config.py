"""Configuration and the table of datasets: strict, merged, and every problem said at once."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from heatwalk import config
from heatwalk.errors import BadInput
from heatwalk.inputs import fingerprint
from heatwalk.rules import Rules

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "workflow" / "schemas"
DEFAULTS = config.load(ROOT / "config" / "config.yaml")


def written(path, text, newline="\n"):
    path.write_text(text, encoding="utf-8", newline=newline)
    return path


def problems_of(**changes):
    return [str(problem) for problem in config.check(config.complete(changes, DEFAULTS), SCHEMAS)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"neighbors": {"n_neighbours": 5}},
            r"HW-CF-002 config: neighbors: 'n_neighbours' is unknown; did you mean n_neighbors\?",
        ),
        ({"neighbours": {}}, r"HW-CF-002 config: 'neighbours' is unknown; did you mean neighbors\?"),
        ({"neighbors": {"n_neighbors": -3}}, "neighbors: n_neighbors: -3 is less than the minimum of 1"),
        ({"neighbors": {"n_neighbors": "5"}}, "'5' is not of type 'integer'"),
        ({"affinity": {"alpha": 1.5}}, "affinity: alpha: 1.5 is greater than the maximum of 1"),
        ({"seed": True}, "True is not of type 'integer'"),
        ({"memory": "plenty"}, "memory: 'plenty' does not match .* write it like memory: 4GB"),
        ({"overrides": {"pbmc": {"neighbors": {"n": 1}}}}, "overrides: pbmc: neighbors: 'n' is unknown"),
        ({"overrides": {"pbmc": {"umap": {}}}}, "overrides: pbmc: 'umap' is unknown"),
    ],
)
def test_wrong_options_are_said_in_one_line(changes, message):
    (problem,) = problems_of(**changes)

    assert re.search(message, problem)
    assert "\n" not in problem


def test_every_wrong_option_is_said():
    assert len(problems_of(seed=-1, cells={"holdout": 2}, atlas={"matrix": "raw"})) == 3


def test_a_key_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"HW-CF-001 .*the key 'seed' stands twice"):
        config.load(written(tmp_path / "c.yaml", "seed: 1\nseed: 2\n"))


@pytest.mark.parametrize(("text", "value"), [("1e-10", 1e-10), ("1e5", 1e5), ("-2.5E3", -2500.0), ("1.0e-3", 0.001)])
def test_numbers_with_exponents_are_numbers(tmp_path, text, value):
    assert config.load(written(tmp_path / "c.yaml", f"tolerance: {text}\n")) == {"tolerance": value}


@pytest.mark.parametrize("text", ["- a\n", "{", "\tx: 1", "!!python/object/apply:os.system [ls]"])
def test_files_that_are_no_configuration_are_refused(tmp_path, text):
    with pytest.raises(BadInput, match="HW-CF-001"):
        config.load(written(tmp_path / "c.yaml", text))


def test_a_missing_configuration_is_refused(tmp_path):
    with pytest.raises(BadInput, match="HW-CF-001 .*No such file"):
        config.load(tmp_path / "none.yaml")


def test_complete_merges_sections_and_replaces_lists():
    merged = config.complete({"cells": {"mito_prefixes": ["mt:"]}}, DEFAULTS)
    assert merged["cells"]["mito_prefixes"] == ["mt:"]
    assert merged["cells"]["min_cells"] == DEFAULTS["cells"]["min_cells"]
    assert config.complete({}, DEFAULTS) == DEFAULTS


HEADER = "name\tsource\tkind\tlayer\tcolumns\tspace\tmap\tstages\n"


def table(tmp_path, *rows, header=HEADER, newline="\n", start=""):
    path = tmp_path / "datasets.tsv"
    return config.datasets(written(path, start + header + "".join(row + "\n" for row in rows), newline), SCHEMAS)


def test_rows_are_read_with_their_defaults(tmp_path):
    rows, problems = table(tmp_path, "# a comment", "a\tx.h5ad\tcounts", "b\ty.npz\tintensities\tX\tCD4, CD8\t\t\tpca")
    assert problems == []
    assert rows["a"] == config.Dataset("a", "x.h5ad", "counts")
    assert rows["b"].columns == ("CD4", "CD8")
    assert rows["b"].stages == ("pca",)


def test_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    rows, problems = table(tmp_path, "a\tx.h5ad\tcounts", newline="\r\n", start="\ufeff")
    assert problems == []
    assert list(rows) == ["a"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../x\ta.h5ad\tcounts", "row 1: name: '../x' does not match .* begins with a letter or a digit"),
        ("-x\ta.h5ad\tcounts", "does not match"),
        ("a b\ta.h5ad\tcounts", "does not match"),
        ("a\ta.h5ad\tcount", "'count' is not one of"),
        ("a\t\tcounts", "'source' is a required property"),
        ("a\tx\tcounts\t\t\t\t\tumap", "'umap' is not one of"),
        ("a\tx\tcounts\t\t\t\t\t\textra\tmore", "has 2 more fields than the header"),
    ],
)
def test_wrong_rows_are_said_in_one_line(tmp_path, row, message):

    _, (problem,) = table(tmp_path, row)
    assert re.search(message, str(problem))


def test_results_that_other_stages_imply_are_named_too():
    rows = {"toy": config.Dataset("toy", "toy.h5ad", "counts", stages=("generation_metrics", "report"))}
    said = Rules.where_results_are(SimpleNamespace(datasets=rows)).splitlines()
    assert said == [
        "report: results/toy/report/report.html",
        "atlas: results/toy/atlas/atlas.zarr",
        "particles: results/toy/particles/particles.h5ad",
    ]


def test_an_unknown_column_of_the_table_is_said(tmp_path):
    _, (problem,) = table(tmp_path, "a\tx\tcounts\tz", header="name\tsource\tkind\tlayers\n")
    assert "'layers' is unknown; did you mean layer?" in str(problem)


def test_the_same_dataset_twice_is_refused(tmp_path):
    _, (problem,) = table(tmp_path, "a\tx\tcounts", "a\ty\tcounts")
    assert str(problem).startswith("HW-CF-005")


def test_an_empty_or_missing_table_is_refused(tmp_path):
    assert table(tmp_path)[1][0].code == "HW-CF-006"
    assert config.datasets(tmp_path / "none.tsv", SCHEMAS)[1][0].code == "HW-CF-003"


def test_overrides_reach_one_dataset_and_one_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "d.tsv", HEADER + "a\tx\tcounts\nb\ty\tcounts\n")
    plan = config.Plan({"datasets": "d.tsv", "overrides": {"a": {"neighbors": {"n_neighbors": 5}}}}, ROOT)
    assert plan.options("a", "neighbors")["n_neighbors"] == 5
    assert plan.options("b", "neighbors")["n_neighbors"] == 30
    with pytest.raises(BadInput, match="HW-CF-007 overrides: c: there is no such dataset; use one of: a, b"):
        config.Plan({"datasets": "d.tsv", "overrides": {"c": {}}}, ROOT)


def test_sources_may_lie_beside_the_table_and_in_scanpy_only_unless_roots_say_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "d.tsv", HEADER + "a\tx\tcounts\n")
    assert config.Plan({"datasets": "d.tsv"}, ROOT).roots == [Path("."), config.installed_data()]
    assert config.Plan({"datasets": "d.tsv", "roots": ["/data"]}, ROOT).roots[0] == Path("/data")


@pytest.mark.parametrize("text", ["", "4 apples", "-1GB", "1e3"])
def test_amounts_that_are_none_are_refused(text):
    with pytest.raises(BadInput, match="HW-CF-008"):
        config.memory_bytes(text)


def test_fingerprint_sees_content_not_time(tmp_path):

    path = written(tmp_path / "x", "one")
    first = fingerprint([path])
    os.utime(path, (1, 1))
    assert fingerprint([path]) == first
    written(path, "two")
    os.utime(path, (1, 1))
    assert fingerprint([path]) != first
    assert fingerprint([tmp_path]) == fingerprint([path])


QUERY_HEADER = "name\tsource\tkind\tspace\tmap\treference\tstages\n"


def plan_of(tmp_path, monkeypatch, *rows, **options):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "d.tsv", QUERY_HEADER + "".join(row + "\n" for row in rows))
    return config.Plan({"datasets": "d.tsv", **options}, ROOT)


KNOWN = "known\tx\tcounts\t\t\t\t"


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            "q\ty\tcounts\t\t\tnone",
            {},
            "HW-CF-012 .*d.tsv: q: reference 'none' is no dataset of this table; use one of: known",
        ),
        ("q\ty\tcounts\t\t\tother", {}, "HW-CF-012 .*: reference 'other' is a query itself; use one of: known"),
        ("q\ty\tcounts\t\t\tq", {}, "HW-CF-012"),
        ("q\ty\tcounts\t\t\tknown\tneighbors", {}, "HW-CF-013 .*a query has no neighbors: it lands in the map"),
        ("q\ty\tcounts\t\t\t\textension", {}, "HW-CF-013 .*the column reference is empty"),
        ("q\ty\tcounts\t\tboth\tknown", {}, "HW-CF-013 .*map is both: a query lands in the map of its reference"),
        ("q\ty\tlogged\t\t\tknown", {}, "HW-CF-015 .*kind is 'logged', that of the reference 'known' is 'counts'"),
        (
            "q\ty\tcounts\t\tneural\t",
            {"overrides": {"q": {"atlas": {"scanpy_export": True}}}},
            "HW-CF-017 .*d.tsv: q: atlas: scanpy_export needs eigenvectors",
        ),
        ("q\ty\tcounts\t\t\tknown", {"extension": {"method": "network"}}, "HW-CF-016 .*method network needs a map"),
        (
            "q\ty\tcounts\t\t\tknown",
            {"overrides": {"q": {"pca": {"n_components": 7}}}},
            "HW-CF-014 overrides: q: a query takes pca: n_components from its reference 'known'; remove",
        ),
    ],
)
def test_a_query_that_cannot_be_is_said_in_one_line(tmp_path, monkeypatch, row, options, message):
    with pytest.raises(BadInput, match=message) as raised:
        plan_of(tmp_path, monkeypatch, KNOWN, "other\tz\tcounts\t\t\tknown", row, **options)
    assert len(raised.value.problems) in (1, 2)  # `other` cannot have a network either


def test_a_query_has_the_options_of_its_reference_where_it_must_not_differ(tmp_path, monkeypatch):
    overrides = {
        "known": {"cells": {"n_top_genes": 500, "min_counts": 100}, "pca": {"n_components": 7}},
        "q": {"cells": {"min_counts": 20}},
    }
    plan = plan_of(tmp_path, monkeypatch, KNOWN, "q\ty\tcounts\t\t\tknown", overrides=overrides)
    assert plan.options("q", "pca")["n_components"] == 7
    cells = plan.options("q", "cells")
    assert (cells["n_top_genes"], cells["min_counts"]) == (500, 20)


@pytest.mark.parametrize(
    ("map_", "method", "stage"),
    [
        ("spectral", "auto", "diffusion_map"),
        ("neural", "auto", "deep_diffusion_map"),
        ("both", "auto", "diffusion_map"),
        ("both", "network", "deep_diffusion_map"),
        ("both", "landmark", "diffusion_map"),
    ],
)
def test_a_query_lands_in_the_map_that_its_reference_has(tmp_path, monkeypatch, map_, method, stage):
    rows = (f"known\tx\tcounts\t\t{map_}\t\t", "q\ty\tcounts\t\t\tknown")
    plan = plan_of(tmp_path, monkeypatch, *rows, extension={"method": method})
    used = [name for _, name in plan.borrowed("q", "extension")]
    assert used == ["cells", "pca", "neighbors", "affinity", stage]
    assert plan.borrowed("known", "pca") == []
    assert config.needed(plan.datasets["q"]) == ["cells", "pca", "extension", "atlas", "report"]


def test_a_query_wants_of_its_reference_what_it_borrows(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, monkeypatch, "known\tx\tcounts\t\t\t\tpca", "q\ty\tcounts\t\t\tknown")
    assert plan.wanted("known") == ["cells", "pca", "neighbors", "affinity", "diffusion_map"]
    assert plan.wanted("q") == ["cells", "pca", "extension", "atlas", "report"]


def planned(tmp_path, row, changes):
    """The plan of one dataset of counts."""
    table = written(tmp_path / "datasets.tsv", f"name\tsource\tkind\tmap\tstages\n{row}\n")
    return config.Plan({"datasets": str(table), **changes}, ROOT)


ROOTS = {"overrides": {"a": {"pseudotime": {"roots": ["day=0"]}}}}


@pytest.mark.parametrize(
    ("row", "changes", "there"),
    [
        ("a\ta.h5ad\tcounts", {}, False),
        ("a\ta.h5ad\tcounts", ROOTS, True),
        ("a\ta.h5ad\tcounts", {"pseudotime": {"roots": ["day=0"]}}, True),
        ("a\ta.h5ad\tcounts\t\tpseudotime", ROOTS, True),
        ("a\ta.h5ad\tcounts\t\tneighbors", ROOTS, False),
    ],
)
def test_pseudotime_runs_where_there_are_roots(tmp_path, row, changes, there):
    plan = planned(tmp_path, row, changes)
    assert ("pseudotime" in plan.wanted("a")) == there
    assert ("pseudotime" in config.depends("report", plan.datasets["a"])) == there


@pytest.mark.parametrize(("map_", "used"), [("spectral", "diffusion_map"), ("neural", "deep_diffusion_map")])
def test_pseudotime_is_made_from_the_map_there_is(tmp_path, map_, used):
    plan = planned(tmp_path, f"a\ta.h5ad\tcounts\t{map_}", ROOTS)
    assert config.depends("pseudotime", plan.datasets["a"]) == ("cells", "affinity", used)


@pytest.mark.parametrize(
    ("stages", "wanted", "shown"),
    [
        ("particles,report", {"particles"}, ("particles",)),
        ("generation_metrics,report", {"particles", "generation_metrics"}, ("particles", "generation_metrics")),
        ("random_walk,report", {"random_walk"}, ("random_walk",)),
        ("random_walk,generation_metrics,report", {"random_walk", "generation_metrics"}, None),
        ("riemannian_diffusion,report", {"riemannian_diffusion"}, ("riemannian_diffusion",)),
        ("report", set(), ()),
    ],
)
def test_new_cells_are_made_and_shown_where_a_dataset_asks_for_them(tmp_path, stages, wanted, shown):
    plan = planned(tmp_path, f"a\ta.h5ad\tcounts\t\t{stages}", {})
    new = {"particles", "random_walk", "riemannian_diffusion", "generation_metrics"}
    assert new & set(plan.wanted("a")) == wanted
    made_from = config.depends("report", plan.datasets["a"])
    shown = tuple(stages.split(",")[:-1]) if shown is None else shown
    assert tuple(stage for stage in made_from if stage in new) == shown
    of_cells = {"riemannian_diffusion"} & wanted  # which says something of every cell
    assert new & set(config.depends("atlas", plan.datasets["a"])) == of_cells
    generator = next((name for name in ("random_walk", "riemannian_diffusion") if name in stages), "particles")
    assert config.depends("generation_metrics", plan.datasets["a"]) == ("cells", "pca", generator)


def test_a_query_takes_the_model_of_its_reference(tmp_path):
    rows = "a\ta.h5ad\tcounts\t\tatlas\nq\tq.h5ad\tcounts\ta\triemannian_diffusion,atlas"
    (tmp_path / "datasets.tsv").write_text(
        f"name\tsource\tkind\treference\tstages\n{rows}\n".replace("\t\tatlas\nq", "\t\tatlas\nq")
    )
    changes = {"riemannian_diffusion": {"space": "torus"}}
    plan = config.Plan({"datasets": str(tmp_path / "datasets.tsv"), "overrides": {"a": changes}}, ROOT)
    assert config.depends("riemannian_diffusion", plan.datasets["q"]) == ("cells", "pca")
    assert plan.borrowed("q", "riemannian_diffusion") == [("a", "riemannian_diffusion")]
    assert "riemannian_diffusion" in plan.wanted("a")
    assert "riemannian_diffusion" not in config.depends("atlas", plan.datasets["a"])
    assert config.depends("atlas", plan.datasets["q"]) == ("cells", "pca", "extension", "riemannian_diffusion")
    assert plan.options("q", "riemannian_diffusion")["space"] == "torus"


def test_points_of_a_space_are_learnt_on_that_space(tmp_path):
    rows = "name\tsource\tkind\tspace\tstages\na\ta.csv\tpoints\ttorus\triemannian_diffusion\n"
    (tmp_path / "datasets.tsv").write_text(rows)
    message = "HW-CF-022 .*points lie on torus, and riemannian_diffusion: space is sphere; set overrides: {a: "
    with pytest.raises(BadInput, match=message):
        config.Plan({"datasets": str(tmp_path / "datasets.tsv")}, ROOT)
    changes = {"riemannian_diffusion": {"space": "torus"}}
    config.Plan({"datasets": str(tmp_path / "datasets.tsv"), "overrides": {"a": changes}}, ROOT)


def test_a_dataset_has_one_generator(tmp_path):
    with pytest.raises(
        BadInput, match="HW-CF-021 .*stages has particles and random_walk: .*; add a row of another name"
    ):
        planned(tmp_path, "a\ta.h5ad\tcounts\t\tparticles,random_walk", {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode": True}, "HW-CF-020 .*random_walk: decode is true"),
        ({"seeds": "cell"}, "HW-CF-002 .*random_walk: seeds: .*; write samples, column=value, or a list of cells"),
        ({"steps": 0}, "HW-CF-002 .*random_walk: steps: .*; set it to auto, or from 1 on"),
    ],
)
def test_a_walk_that_cannot_be_is_refused(tmp_path, changes, message):
    of = {"random_walk": changes, "pca": {"use_rep": "X_scVI"}}
    with pytest.raises(BadInput, match=message):
        planned(tmp_path, "a\ta.h5ad\tcounts\t\trandom_walk", of)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": {"holdout": 0}}, r"HW-CF-019 .*cells: holdout is 0.*; set overrides: \{a: \{cells: \{holdout: 0.1"),
        ({"particles": {"decode": True}, "pca": {"use_rep": "X_scVI"}}, r"HW-CF-020 .*'X_scVI' has no loadings"),
        ({"particles": {"condition": "day"}}, r"HW-CF-002 .*particles: condition: .*; write column=value"),
        (
            {"particles": {"start": "anywhere"}},
            r"HW-CF-002 .*particles: start: .*; write samples, gaussian, or column=",
        ),
    ],
)
def test_new_cells_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        planned(tmp_path, "a\ta.h5ad\tcounts\t\tgeneration_metrics", changes)


def test_a_query_has_no_new_cells(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="HW-CF-013 .*a query has no particles"):
        plan_of(tmp_path, monkeypatch, "known\tx\tcounts", "q\ty\tcounts\t\t\tknown\tparticles,report")


def test_pseudotime_without_roots_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"HW-CF-018 .*stages has pseudotime, and pseudotime: roots is empty; set overr"):
        planned(tmp_path, "a\ta.h5ad\tcounts\t\tpseudotime", {})
