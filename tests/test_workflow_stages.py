"""Stages that rows of the table ask for, as users run them: networks, queries, roots, generators, spheres."""

import json
import re
import shutil
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
from workflow_runs import (
    OPTIONS,
    dry_run,
    heatwalk,
    manifest,
    prepare,
    roots,
    write_counts,
)

import heatwalk as heatwalk_library
from heatwalk import store

ROWS = "name\tsource\tkind\tmap\treference\n"
QUERY = ("cells", "pca", "extension", "atlas", "report")


def jobs(folder, *arguments) -> set[str]:
    """dataset/stage of every job of a dry run."""
    dry = dry_run(folder, *arguments)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    return {line.split("results/")[1].split("/manifest")[0] for line in dry.stdout.splitlines() if "(update)" in line}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A dataset with a network beside its map, one with a network alone, and a query that lands in that."""
    options = OPTIONS + "deep_diffusion_map: {n_components: 4, rounds: 1, prototypes: 30}\n"
    options += "overrides: {alone: {pseudotime: {roots: [time=min]}}}\n"
    folder = prepare(tmp_path_factory.mktemp("network") / "both", options)
    write_counts(folder / "config" / "new.h5ad", n_cells=60, seed=1)
    rows = ("toy\ttoy.h5ad\tcounts\tboth\t", "alone\ttoy.h5ad\tcounts\tneural\t", "new\tnew.h5ad\tcounts\t\talone")
    (folder / "config" / "datasets.tsv").write_text(ROWS + "\n".join(rows) + "\n")
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_network_stands_beside_the_map_in_atlas_and_report(both, finished):
    from heatwalk import networks

    atlas = anndata.read_h5ad(both / "results" / "toy" / "atlas" / "atlas.h5ad")
    place = both / "results" / "toy" / "deep_diffusion_map"
    network = networks.loaded((place / "network.safetensors").read_bytes(), (place / "network.json").read_text())
    found = networks.applied(network, atlas.obsm["X_pca"])
    np.testing.assert_allclose(atlas.obsm["X_deep_diffusion_map"], found, atol=1e-5)
    assert found.shape == (240, 4)
    assert 0 < atlas.uns["heatwalk"]["deep_diffusion_map"]["error"] < 0.5
    page = (both / "results" / "toy" / "report" / "report.html").read_text()
    assert "This was measured beside the exact map of these cells." in page
    assert re.search(r"differ by factors up to [\d.]+ by the map and [\d.]+ by the network", page)
    for folder, there in ((both, True), (finished, False)):
        results = folder / "results" / "toy"
        assert (results / "deep_diffusion_map").exists() == there
        assert ('<section id="network">' in (results / "report" / "report.html").read_text()) == there
        assert ("X_deep_diffusion_map" in anndata.read_zarr(results / "atlas" / "atlas.zarr").obsm) == there
    assert heatwalk(both, "verify", "results").returncode == 0


def test_an_option_of_the_network_reruns_it_and_what_shows_it(both):
    assert jobs(both) == set()
    changed = both / "changed.yaml"
    changed.write_text("deep_diffusion_map: {t: 2, n_components: 4, rounds: 1, prototypes: 30}\n")
    ran = jobs(both, "--configfile", "config/config.yaml", str(changed))
    shown = {f"{name}/{stage}" for name in ("toy", "alone") for stage in ("deep_diffusion_map", "atlas", "report")}
    assert ran == shown | {"alone/pseudotime", "new/extension", "new/atlas", "new/report"}


@pytest.fixture(scope="module")
def asked(finished, tmp_path_factory):
    """The finished run, and a query added to it: what a dry run would do then, and the query done."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("query") / "asked", symlinks=True)
    write_counts(folder / "config" / "new.h5ad", n_cells=150, seed=1)
    rows = ROWS + "toy\ttoy.h5ad\tcounts\t\t\nnew\tnew.h5ad\tcounts\t\ttoy\n"
    (folder / "config" / "datasets.tsv").write_text(rows)
    (folder / "config" / "config.yaml").write_text(OPTIONS + "extension: {transfer: [type]}\n")
    (folder / "planned").write_text(" ".join(jobs(folder)))
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_query_runs_its_own_stages_and_nothing_of_its_reference(asked, finished):
    assert set((asked / "planned").read_text().split()) == {f"new/{stage}" for stage in QUERY}
    assert roots(asked) == roots(finished)
    assert jobs(asked) == set()
    assert sorted(path.name for path in (asked / "results" / "new").iterdir()) == sorted(QUERY)
    assert heatwalk(asked, "verify", "results").returncode == 0
    used = manifest(asked, "extension", "new")["inputs"]
    assert used["toy/diffusion_map"] == roots(asked)["diffusion_map"]


def test_a_query_s_atlas_has_places_trust_and_labels(asked):
    atlas = anndata.read_zarr(asked / "results" / "new" / "atlas" / "atlas.zarr")
    same = anndata.read_h5ad(asked / "results" / "new" / "atlas" / "atlas.h5ad")
    assert atlas.shape == same.shape == (150, 90)
    assert atlas.obsm["X_diffusion_map"].shape == (150, 5)
    assert atlas.obsm["X_pca"].shape == (150, 10)
    assert not atlas.obsp
    assert ((atlas.obs["heatwalk_trust"] > 0) & (atlas.obs["heatwalk_trust"] <= 1)).all()
    assert set(atlas.obs["type_transferred"]) <= {"0", "1", "2", "unassigned"}
    assert atlas.obs["type_probability"].between(0, 1).all()
    page = (asked / "results" / "new" / "report" / "report.html").read_text()
    for part in ('<section id="trust">', '<section id="labels">', "trusted", "have the same"):
        assert part in page
    assert '<section id="spectrum">' not in page


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("extension: {transfer: [type], min_trust: 0.2}", {"new/extension", "new/atlas", "new/report"}),
        ("overrides: {new: {cells: {min_counts: 5}}}", {f"new/{stage}" for stage in QUERY}),
        (
            "diffusion_map: {n_components: 4}",
            {f"toy/{stage}" for stage in ("diffusion_map", "atlas", "report")}
            | {f"new/{stage}" for stage in ("extension", "atlas", "report")},
        ),
    ],
)
def test_a_changed_option_reruns_the_query_where_it_must(asked, tmp_path, change, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(change + "\n")
    assert jobs(asked, "--configfile", "config/config.yaml", str(path)) == expected


def test_a_query_that_does_not_fit_ends_with_2_and_the_reference_stands(asked, tmp_path):
    folder = shutil.copytree(asked, tmp_path / "bad", symlinks=True)
    write_counts(folder / "config" / "new.h5ad", n_cells=40, n_genes=30)
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 2
    assert "HW-CE-006" in done.stderr
    assert roots(folder) == roots(asked)
    assert manifest(folder, "extension", "new") == manifest(asked, "extension", "new")


def test_a_network_alone_makes_the_map_and_places_a_query(both):
    results = both / "results"
    assert not (results / "alone" / "diffusion_map").exists()
    atlases = [anndata.read_h5ad(results / name / "atlas" / "atlas.h5ad") for name in ("alone", "new")]
    assert all(set(atlas.obsm) == {"X_pca", "X_deep_diffusion_map"} for atlas in atlases)
    with_map = anndata.read_h5ad(results / "toy" / "atlas" / "atlas.h5ad").obsm["X_deep_diffusion_map"]
    np.testing.assert_array_equal(atlases[0].obsm["X_deep_diffusion_map"], with_map)
    page = (results / "alone" / "report" / "report.html").read_text()
    assert "by a network alone" in page
    places, root = atlases[0].obsm["X_deep_diffusion_map"].astype(float), atlases[0].obs["time"].argmin()
    expected = np.linalg.norm(places - places[root], axis=1)
    np.testing.assert_allclose(atlases[0].obs["heatwalk_pseudotime"], expected, rtol=1e-6, atol=1e-9)
    assert '<section id="pseudotime">' in page
    assert "A network stands for the pairs here" in page


ROOTS = "overrides: {toy: {pseudotime: {roots: [time=min]}}}\n"
NEW = "particles: {n_particles: 150}\ngeneration_metrics: {pairs: 2, label: type}\n"


@pytest.fixture(scope="module")
def rooted(finished, tmp_path_factory):
    """The finished run with roots, curvature and new cells added, what a dry run would do then, and the rest done."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("roots") / "rooted", symlinks=True)
    (folder / "config" / "config.yaml").write_text(OPTIONS + ROOTS + NEW)
    stages = "curvature,generation_metrics,atlas,report"
    rows = f"name\tsource\tkind\tstages\ntoy\ttoy.h5ad\tcounts\t{stages}\n"
    (folder / "config" / "datasets.tsv").write_text(rows)
    (folder / "planned").write_text(" ".join(jobs(folder)))
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_roots_and_stages_add_results_and_rerun_what_shows_them(rooted, finished):
    ran = set((rooted / "planned").read_text().split())
    new = {"toy/particles", "toy/generation_metrics"}
    assert ran == {"toy/pseudotime", "toy/curvature", "toy/atlas", "toy/report"} | new
    assert not (finished / "results" / "toy" / "pseudotime").exists()
    assert jobs(rooted) == set()
    assert heatwalk(rooted, "verify", "results").returncode == 0
    inputs = manifest(rooted, "pseudotime")["inputs"]
    assert inputs == {stage: roots(finished)[stage] for stage in ("cells", "affinity", "diffusion_map")}


def test_pseudotime_is_in_atlas_and_report(rooted, finished):
    from scipy.stats import spearmanr

    atlas = anndata.read_h5ad(rooted / "results" / "toy" / "atlas" / "atlas.h5ad")
    assert spearmanr(atlas.obs["heatwalk_pseudotime"], atlas.obs["time"]).statistic > 0.9
    assert set(atlas.obs["heatwalk_pseudotime_reason"]) == {"known"}
    assert set(atlas.obs["heatwalk_branch"]) <= {0, 1, 2, 3}
    assert list(atlas.uns["heatwalk"]["pseudotime"]["roots"]) == [atlas.obs["time"].idxmin()]
    for name in ("correlation", "p_value", "false_discovery_rate", "relevance"):
        assert atlas.varm[f"heatwalk_{name}"].shape == (90, 6)
        np.testing.assert_array_equal(atlas.var[f"heatwalk_pseudotime_{name}"], atlas.varm[f"heatwalk_{name}"][:, 0])
    r = np.corrcoef(atlas.X[:, [4]].toarray().ravel(), atlas.obs["heatwalk_pseudotime"])[0, 1]
    np.testing.assert_allclose(atlas.varm["heatwalk_correlation"][4, 0], r, atol=1e-5)
    page = (rooted / "results" / "toy" / "report" / "report.html").read_text()
    best = atlas.var["heatwalk_pseudotime_correlation"].abs().idxmax()
    assert f"<tr><td><bdi>{best}</bdi></td>" in page.partition('<section id="pseudotime">')[2]
    assert "(asked for as <bdi>time=min</bdi>)" in page
    assert 'id="pseudotime"' not in (finished / "results" / "toy" / "report" / "report.html").read_text()


def test_curvature_is_in_atlas_and_report(rooted, finished):
    atlas = anndata.read_h5ad(rooted / "results" / "toy" / "atlas" / "atlas.h5ad")
    pca, graph, map_ = (
        store.read(rooted / "results" / "toy" / stage) for stage in ("pca", "affinity", "diffusion_map")
    )
    given = pca["coordinates"], SimpleNamespace(**graph), SimpleNamespace(**map_)
    found = heatwalk_library.curvature(*given, block_cells=64)
    for name, column in (("curvature", ""), ("uncertainty", "_uncertainty"), ("quadric", "_quadric")):
        np.testing.assert_array_equal(atlas.obs[f"heatwalk_curvature{column}"], getattr(found, name))
    known = atlas.obs["heatwalk_curvature_reason"] == "known"
    assert known.mean() > 0.5
    assert (np.isfinite(atlas.obs["heatwalk_curvature"]) == known).all()
    assert list(atlas.uns["heatwalk"]["curvature"]["chosen"]) == list(found.chosen)
    r = np.corrcoef(atlas.X[:, [4]].toarray().ravel()[known], atlas.obs["heatwalk_curvature"][known])[0, 1]
    np.testing.assert_allclose(atlas.var["heatwalk_curvature_correlation"].iloc[4], r, atol=1e-5)
    page = (rooted / "results" / "toy" / "report" / "report.html").read_text()
    shown = page.partition('<section id="curvature">')[2].partition("</section>")[0]
    best = atlas.var["heatwalk_curvature_correlation"].abs().idxmax()
    assert f"<tr><td><bdi>{best}</bdi></td>" in shown
    assert f"what {found.chosen[1]} cells around each say" in shown
    assert 'id="curvature"' not in (finished / "results" / "toy" / "report" / "report.html").read_text()


def test_new_cells_are_an_anndata_of_their_own_and_in_the_report(rooted):
    results = rooted / "results" / "toy"
    new, atlas = (anndata.read_h5ad(results / stage / f"{stage}.h5ad") for stage in ("particles", "atlas"))
    cells, pca, made = (store.read(results / stage) for stage in ("cells", "pca", "particles"))
    train = np.asarray(cells["split"][:]) == 0
    samples, known = np.asarray(pca["coordinates"][:])[train], heatwalk_library.Pca(**pca)
    found = heatwalk_library.particles(samples, pca=known, n_particles=150, decode=False)
    assert (pca["unseen"][:] < 1).any()
    np.testing.assert_array_equal(new.obsm["X_pca"], found.points)
    np.testing.assert_array_equal(new.obs["heatwalk_flagged"], found.flagged)
    np.testing.assert_array_equal(new.obs["heatwalk_nearest"], atlas.obs_names[train][found.nearest])
    assert not {"X_particles"} & set(atlas.obsm)
    assert atlas.n_obs == 240
    assert list(new.var_names) == list(atlas.var_names[atlas.var["heatwalk_selected"]])
    values = pca["means"][:] + new.obsm["X_pca"] @ pca["loadings"][:].T
    np.testing.assert_allclose(new.X, np.maximum(values, 0), atol=1e-5)
    np.testing.assert_array_equal(new.X, made["expression"][:])
    about = new.uns["heatwalk"]["generated"]
    assert about["inputs"] == {stage: manifest(rooted, stage)["root"] for stage in ("cells", "pca")}
    assert json.loads(about["parameters"])["n_particles"] == 150
    assert 0 < about["share_of_variance"] < 1
    page = (results / "report" / "report.html").read_text()
    shown = page.partition('<section id="generated">')[2].partition("</section>")[0]
    assert "150 new cells by particles, drawn like the 216 cells" in shown
    assert '<tr><th scope="row">memorisation</th>' in shown
    assert "Labels that cells are taken for" in shown
    assert len(re.findall("<tr><td><bdi>[012]</bdi></td>", shown)) == 3


def test_new_cells_are_the_same_on_one_thread(rooted, tmp_path):
    folder = shutil.copytree(rooted, tmp_path / "one", symlinks=True)
    target = "results/toy/generation_metrics/manifest.json"
    before = {stage: manifest(folder, stage)["root"] for stage in ("particles", "generation_metrics")}
    for stage in before:
        shutil.rmtree(folder / "results" / "toy" / stage)
    done = heatwalk(folder, "run", "--cores", "1", target)
    assert done.returncode == 0, done.stderr
    assert {stage: manifest(folder, stage)["root"] for stage in before} == before


def test_new_cells_of_a_condition_and_too_few_to_compare_them_with(rooted, tmp_path):
    folder = shutil.copytree(rooted, tmp_path / "condition", symlinks=True)
    (folder / "more.yaml").write_text("particles: {n_particles: 60, condition: type=1, start: type=0, decode: false}\n")
    files = ("--configfile", "more.yaml")
    assert jobs(folder, *files) == {"toy/particles", "toy/generation_metrics", "toy/report"}
    done = heatwalk(folder, "run", "--cores", "2", *files)
    assert done.returncode == 0, done.stderr
    found = store.read(folder / "results" / "toy" / "generation_metrics")
    assert np.isnan(found["values"][:]).all()
    assert list(found["problems"].index) == ["HW-GM-001"]
    page = (folder / "results" / "toy" / "report" / "report.html").read_text()
    assert re.search(r"The generated cells were not measured: \d+ points are fewer than 20", page)
    assert jobs(folder, *files) == set()
    new = anndata.read_h5ad(folder / "results" / "toy" / "particles" / "particles.h5ad")
    assert new.X is None
    assert list(new.obs["type"]) == ["1"] * 60
    known = anndata.read_h5ad(folder / "results" / "toy" / "atlas" / "atlas.h5ad").obs
    assert set(known.loc[new.obs["heatwalk_nearest"], "type"]) == {"1"}
    assert set(known.loc[new.obs["heatwalk_nearest"], "heatwalk_split"]) == {"train"}


WALK = (
    "random_walk: {n_points: 60, seeds: SEEDS, steps: 2, kept: all, epochs: 1, n_components: 4, latent: 3, batch: 64}\n"
)


def test_walks_are_the_generator_where_stages_names_them(rooted, tmp_path):
    pytest.importorskip("torch")
    folder = shutil.copytree(rooted, tmp_path / "walk", symlinks=True)
    stages = "curvature,random_walk,generation_metrics,atlas,report"
    (folder / "config" / "datasets.tsv").write_text(f"name\tsource\tkind\tstages\ntoy\ttoy.h5ad\tcounts\t{stages}\n")
    (folder / "more.yaml").write_text(WALK.replace("SEEDS", "[cell3, cell200]"))
    files = ("--configfile", "more.yaml")
    assert jobs(folder, *files) == {"toy/random_walk", "toy/generation_metrics", "toy/report"}
    done = heatwalk(folder, "run", "--cores", "2", *files)
    assert done.returncode == 0, done.stderr
    assert jobs(folder, *files) == set()
    assert "random_walk: results/toy/random_walk/random_walk.h5ad" in done.stdout + done.stderr
    results = folder / "results" / "toy"
    new, made = anndata.read_h5ad(results / "random_walk" / "random_walk.h5ad"), store.read(results / "random_walk")
    assert list(new.obs["heatwalk_step"]) == [1] * 60 + [2] * 60
    assert list(new.obs["heatwalk_burst"]) == [*range(60), *range(60)]
    assert set(new.obs["heatwalk_seed"]) == {"cell3", "cell200"}
    np.testing.assert_array_equal(new.X, made["expression"][:])
    split = store.read(results / "cells")["split"][:]
    assert (split[made["nearest"][:]] == 0).all()
    assert json.loads(new.uns["heatwalk"]["generated"]["parameters"])["seeds"] == ["cell3", "cell200"]
    page = (results / "report" / "report.html").read_text()
    shown = page.partition('<section id="generated">')[2].partition("</section>")[0]
    assert "120 new cells by random_walk, drawn like the 216 cells" in shown
    assert re.search("Walkers began at .*2 cells named.* and went 2 steps, all of which are here; R is", shown)
    before = manifest(folder, "random_walk")["root"]
    shutil.rmtree(results / "random_walk")
    target = "results/toy/random_walk/manifest.json"
    assert heatwalk(folder, "run", "--cores", "1", *files, target).returncode == 0
    assert manifest(folder, "random_walk")["root"] == before
    (folder / "more.yaml").write_text(WALK.replace("SEEDS", "[cell3, nobody]"))
    done = heatwalk(folder, "run", "--cores", "1", *files, target)
    assert done.returncode == 2
    assert "HW-RW-009 results/toy/random_walk: seeds: 1 of 2 seeds are no cell of the data: nobody" in done.stderr
    assert manifest(folder, "random_walk")["root"] == before


DIFFUSION = "riemannian_diffusion: {n_points: 40, epochs: 1, prototypes: 16, width: 16, batch: 32, steps: 20}\n"


def test_cells_on_a_sphere_have_densities_and_so_has_a_query(rooted, tmp_path):
    pytest.importorskip("torch")
    folder = shutil.copytree(rooted, tmp_path / "space", symlinks=True)
    rows = (
        "name\tsource\tkind\treference\tstages",
        "toy\ttoy.h5ad\tcounts\t\tcurvature,riemannian_diffusion,generation_metrics,atlas,report",
        "new\ttoy.h5ad\tcounts\ttoy\triemannian_diffusion,atlas,report",
    )
    (folder / "config" / "datasets.tsv").write_text("\n".join(rows) + "\n")
    (folder / "more.yaml").write_text(DIFFUSION)
    files = ("--configfile", "more.yaml")
    done = heatwalk(folder, "run", "--cores", "2", *files)
    assert done.returncode == 0, done.stderr
    assert jobs(folder, *files) == set()
    assert (
        "riemannian_diffusion: results/toy/riemannian_diffusion/riemannian_diffusion.h5ad" in done.stdout + done.stderr
    )
    results = folder / "results"
    made, own = (store.read(results / name / "riemannian_diffusion") for name in ("toy", "new"))
    assert set(own) == {"log_density", "out_of_distribution"}
    new = anndata.read_h5ad(results / "toy" / "riemannian_diffusion" / "riemannian_diffusion.h5ad")
    np.testing.assert_allclose(np.linalg.norm(new.obsm["X_pca"], axis=1), 1)
    for name, found in (("toy", made), ("new", own)):
        obs = anndata.read_h5ad(results / name / "atlas" / "atlas.h5ad").obs
        np.testing.assert_array_equal(obs["heatwalk_log_density"], found["log_density"][:])
        np.testing.assert_array_equal(obs["heatwalk_out_of_distribution"], found["out_of_distribution"][:])
        page = (results / name / "report" / "report.html").read_text()
        assert "log-density on the space" in page
    assert "40 new cells by riemannian_diffusion" in (results / "toy" / "report" / "report.html").read_text()
    before = manifest(folder, "riemannian_diffusion")["root"]
    shutil.rmtree(results / "toy" / "riemannian_diffusion")
    target = "results/toy/riemannian_diffusion/manifest.json"
    assert heatwalk(folder, "run", "--cores", "1", *files, target).returncode == 0
    assert manifest(folder, "riemannian_diffusion")["root"] == before


def test_a_condition_that_no_cell_meets_ends_with_2_and_the_old_result_stands(rooted, tmp_path):
    folder = shutil.copytree(rooted, tmp_path / "bad", symlinks=True)
    before = manifest(folder, "particles")
    (folder / "bad.yaml").write_text("particles: {condition: type=9}\n")
    done = heatwalk(folder, "run", "--cores", "1", "--configfile", "bad.yaml")
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert "HW-PA-008 results/toy/particles: condition: no cell has 'type=9'; use one of its values: 0, 1, 2" in line
    assert manifest(folder, "particles") == before


def test_a_root_that_is_not_there_ends_with_2_and_the_old_result_stands(rooted, tmp_path):
    folder = shutil.copytree(rooted, tmp_path / "bad", symlinks=True)
    before = manifest(folder, "pseudotime")
    (folder / "bad.yaml").write_text(ROOTS.replace("time=min", "cell900"))
    done = heatwalk(folder, "run", "--cores", "1", "--configfile", "bad.yaml")
    assert done.returncode == 2
    assert "HW-PT-003" in done.stderr
    assert manifest(folder, "pseudotime") == before
