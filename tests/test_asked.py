"""What is wrong with a query beside its reference is said before anything runs."""

import json
import re

import anndata
import numpy as np
import pytest
from click.testing import CliRunner
from workflow_runs import ROOT, prepare, write_counts

import heatwalk as hw
from heatwalk import asked, cli, store
from heatwalk.config import Plan
from heatwalk.inputs import open_input

OPTIONS = {"extension": {"transfer": ["type"]}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A reference, and a query that fits it; the working folder."""
    prepare(tmp_path / "own")
    rows = "name\tsource\tkind\treference\ntoy\ttoy.h5ad\tcounts\t\nnew\tnew.h5ad\tcounts\ttoy\n"
    (tmp_path / "own" / "config" / "datasets.tsv").write_text(rows)
    write_counts(tmp_path / "own" / "config" / "new.h5ad", n_cells=40, seed=1)
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def problems(folder, options=OPTIONS):
    plan = Plan({**options, "datasets": str(folder / "config" / "datasets.tsv")}, ROOT)
    return [str(problem) for problem in asked.problems(plan, "new", folder / "results")]


def renamed(folder, n_genes):
    """The query with other names for its first genes."""
    path = folder / "config" / "new.h5ad"
    cells = anndata.read_h5ad(path)
    cells.var_names = [f"other{k}" if k < n_genes else name for k, name in enumerate(cells.var_names)]
    cells.write_h5ad(path)


def test_a_query_that_fits_has_no_problem_and_a_reference_is_no_query(folder):
    assert problems(folder) == []
    plan = Plan({"datasets": str(folder / "config" / "datasets.tsv")}, ROOT)
    assert asked.problems(plan, "toy", folder / "results") == []


def test_a_column_that_the_reference_has_not_or_of_numbers_is_named(folder):
    found = problems(folder, {"extension": {"transfer": ["time", "tissue", "type"]}})
    assert len(found) == 2
    assert "HW-EX-007 transfer: 'time' holds numbers" in found[0]
    assert "no labels 'tissue'; use some of: type" in found[1]


def test_without_results_only_a_query_without_any_gene_is_refused(folder):
    renamed(folder, 80)
    assert problems(folder) == []
    renamed(folder, 90)
    (found,) = problems(folder)
    assert "HW-CE-006" in found


def test_with_results_the_selected_genes_count(folder):
    with open_input("toy.h5ad", kind="counts", base=folder / "config", roots=[folder / "config"]) as source:
        draft = store.create(folder / "results" / "toy" / "cells", "cells", block_cells=64)
        hw.cells(source, "counts", n_top_genes=60, out=draft)
        store.publish(draft, parameters={}, code="", inputs={})
    assert problems(folder) == []
    renamed(folder, 80)
    (found,) = problems(folder)
    assert "of the 60 selected genes" in found


def test_the_command_looks_at_a_query_by_its_name(folder):
    renamed(folder, 90)
    done = CliRunner().invoke(cli.main, ["validate", "new", "--json", "--configfile", "config/config.yaml"])
    assert done.exit_code == 2
    assert [problem["code"] for problem in json.loads(done.output)["problems"]] == ["HW-CE-006"]
    assert CliRunner().invoke(cli.main, ["validate", "toy"]).output == "toy: no problems\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"condition": "type=1", "start": "time=min"}, []),
        (
            {"condition": "type=9"},
            ["HW-PA-008 particles: condition: no cell has 'type=9'; use one of its values: 0, 1, 2"],
        ),
        (
            {"condition": "day=1", "start": "type=x"},
            ["HW-PA-008 particles: condition: there is no column 'day'", "HW-PA-009"],
        ),
    ],
)
def test_a_condition_that_no_cell_meets_is_said_before_anything_runs(folder, options, said):
    (folder / "config" / "datasets.tsv").write_text("name\tsource\tkind\tstages\ntoy\ttoy.h5ad\tcounts\tparticles\n")
    plan = Plan({"particles": options, "datasets": str(folder / "config" / "datasets.tsv")}, ROOT)
    found = [str(problem) for problem in asked.problems(plan, "toy", folder / "results")]
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"condition": "type=1", "seeds": "time=min"}, []),
        ({"seeds": ["cell3"]}, []),
        (
            {"condition": "day=1", "seeds": "type=x"},
            ["HW-RW-008 random_walk: condition", "HW-RW-009 random_walk: seeds"],
        ),
    ],
)
def test_seeds_that_no_cell_meets_are_said_before_anything_runs(folder, options, said):
    rows = "name\tsource\tkind\tstages\ntoy\ttoy.h5ad\tcounts\trandom_walk\n"
    (folder / "config" / "datasets.tsv").write_text(rows)
    plan = Plan({"random_walk": options, "datasets": str(folder / "config" / "datasets.tsv")}, ROOT)
    found = [str(problem) for problem in asked.problems(plan, "toy", folder / "results")]
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        (
            {"particles": {"condition": "type=1"}},
            [r"HW-GM-001 generation_metrics: about \d of \d\d cells with 'type=1' will be held out"],
        ),
        ({"particles": {"condition": "type=1"}, "cells": {"holdout": 0.3}}, []),
        ({"cells": {"holdout": 0.05}}, ["HW-GM-001 generation_metrics: about 12 of 240 cells will be held out"]),
    ],
)
def test_too_few_held_out_cells_are_said_before_anything_runs(folder, options, said):
    rows = "name\tsource\tkind\tstages\ntoy\ttoy.h5ad\tcounts\tgeneration_metrics\n"
    (folder / "config" / "datasets.tsv").write_text(rows)
    plan = Plan({**options, "datasets": str(folder / "config" / "datasets.tsv")}, ROOT)
    found = [str(problem) for problem in asked.problems(plan, "toy", folder / "results")]
    assert len(found) == len(said)
    assert all(re.match(start, line) for line, start in zip(found, said, strict=True))


def test_items_of_another_shape_are_refused(folder):
    for name, shape in (("toy", (20, 4, 3)), ("new", (20, 3, 4))):
        np.savez(folder / "config" / f"{name}.npz", X=np.ones(shape))
    rows = "name\tsource\tkind\treference\ntoy\ttoy.npz\timages\t\nnew\tnew.npz\timages\ttoy\n"
    (folder / "config" / "datasets.tsv").write_text(rows)
    (found,) = problems(folder, {})
    assert "an item has shape 3 x 4, one of the reference 4 x 3" in found
