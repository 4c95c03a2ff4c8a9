"""The workflow as its users run it: results, reruns, failures, and what each ends with."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import anndata
import numpy as np
import pytest
from workflow_runs import (
    OPTIONS,
    ROOT,
    STAGES,
    heatwalk,
    manifest,
    prepare,
    roots,
    snakemake,
    stages_to_run,
)

from heatwalk import store


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy", symlinks=True)


def test_a_run_prints_where_the_report_and_the_atlas_are(finished):
    printed = (finished / "printed").read_text()
    for line in ("report: results/toy/report/report.html", "atlas: results/toy/atlas/atlas.zarr"):
        assert line in printed
        assert (finished / line.partition(": ")[2]).exists()


def test_every_result_is_whole(finished):
    done = heatwalk(finished, "verify", "results")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 7 results are whole" in done.stdout


def test_a_second_run_has_nothing_to_do(finished):
    assert stages_to_run(finished) == set()


def test_the_atlas_opens_with_plain_anndata(finished):
    atlas = anndata.read_zarr(finished / "results" / "toy" / "atlas" / "atlas.zarr")
    same = anndata.read_h5ad(finished / "results" / "toy" / "atlas" / "atlas.h5ad")
    assert atlas.shape == same.shape == (240, 90)
    assert atlas.obsm["X_diffusion_map"].shape == (240, 5)


def test_a_manifest_is_small_and_holds_no_absolute_path(finished):
    for stage in STAGES:
        text = (finished / "results" / "toy" / stage / "manifest.json").read_text()
        assert len(text) < 100_000
        assert str(finished) not in text
        assert str(ROOT) not in text


def test_a_manifest_names_the_roots_of_its_inputs(finished):
    made = roots(finished)
    assert manifest(finished, "affinity")["inputs"] == {"pca": made["pca"], "neighbors": made["neighbors"]}


def test_logs_are_plain_lines_outside_of_the_results(finished):
    assert "published, root hash" in (finished / "logs" / "toy" / "pca.log").read_text()
    run = json.loads((finished / "results" / "toy" / "pca" / "run.json").read_text())
    assert run["seconds"] > 0
    assert run["peak_memory_bytes"] > 2**20


def test_same_hashes_on_one_core_in_another_folder_and_locale(finished, tmp_path):
    folder = prepare(tmp_path / "ünd er")
    surroundings = {"LC_ALL": "C", "TZ": "Pacific/Auckland", "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}
    done = snakemake(folder, "--cores", "1", **surroundings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert roots(folder) == roots(finished)


def test_another_block_size_gives_the_same_values_to_the_stated_tolerance(finished, tmp_path):
    folder = prepare(tmp_path / "blocks", OPTIONS.replace("block_cells: 64", "block_cells: 100"))
    done = snakemake(folder, "--cores", "2", "results/toy/diffusion_map/manifest.json")
    assert done.returncode == 0, done.stdout + done.stderr
    here, there = (store.read(path / "results" / "toy" / "diffusion_map") for path in (folder, finished))
    np.testing.assert_allclose(here["eigenvalues"][:], there["eigenvalues"][:], rtol=1e-6)
    np.testing.assert_allclose(here["eigenvectors"][:], there["eigenvectors"][:], atol=1e-3)
    assert here.manifest["parameters"]["block_cells"] == 100


def test_a_config_that_says_nothing_is_as_good_as_none(tmp_path):
    folder = prepare(tmp_path / "silent", "# nothing is changed yet\n")
    assert stages_to_run(folder) == set(STAGES)


AFTER = {stage: set(STAGES[STAGES.index(stage) :]) for stage in STAGES}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("cells: {n_top_genes: 50}", AFTER["cells"]),
        ("pca: {n_components: 9}", AFTER["pca"]),
        ("neighbors: {n_neighbors: 11}", AFTER["neighbors"]),
        ("affinity: {alpha: 0.5}", AFTER["affinity"]),
        ("diffusion_map: {n_components: 4}", AFTER["diffusion_map"]),
        ("atlas: {t: 2}", AFTER["atlas"]),
        ("report: {color_by: [type]}", {"report"}),
        ("overrides: {toy: {affinity: {alpha: 0.5}}}", AFTER["affinity"]),
        ("seed: 1", AFTER["cells"]),
        ("threads: 1", set()),
        ("memory: 2GB", set()),
    ],
)
def test_a_changed_option_reruns_exactly_what_depends_on_it(finished, tmp_path, change, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(change + "\n")
    assert stages_to_run(finished, "--configfile", str(path)) == expected


def test_a_changed_source_is_noticed_whatever_its_time_says(copy):
    source = copy / "config" / "toy.h5ad"
    with stored_counts(source) as data:
        data[0] += 1
    os.utime(source, (1, 1))
    assert stages_to_run(copy) == set(STAGES)


def test_a_touched_source_reruns_nothing(copy):
    os.utime(copy / "config" / "toy.h5ad")
    assert stages_to_run(copy) == set()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("results/toy/report/report.html", "type results/toy/report/manifest.json"),
        ("results/toy/affinity", "type results/toy/affinity/manifest.json"),
        ("results/toy", "type results/toy/report/manifest.json"),
        ("results/other/report/manifest.json", "there is no dataset 'other'; use one of: toy"),
    ],
)
def test_a_target_that_no_rule_makes_is_refused_with_the_one_meant(finished, target, said):
    done = heatwalk(finished, "run", "--cores", "1", target)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"HW-CF-011 {target}: ")
    assert said in done.stderr


def test_a_source_that_turned_bad_fails_in_every_run(copy):
    with stored_counts(copy / "config" / "toy.h5ad") as data:
        data[0] = float("nan")
    assert heatwalk(copy, "run", "--cores", "1").returncode == 2
    assert heatwalk(copy, "run", "--cores", "1").returncode == 2
    assert heatwalk(copy, "verify").returncode == 0


def test_a_job_that_dies_after_it_published_leaves_the_old_result(copy, tmp_path):
    before = roots(copy)
    # Python reads sitecustomize at its start: here it makes a program end badly when everything is done.
    (tmp_path / "sitecustomize.py").write_text("import atexit, os\natexit.register(os._exit, 9)\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    done = program(copy, "pca", "--options", '{"n_components": 8}', env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 9
    assert manifest(copy, "pca")["root"] != before["pca"]
    data = copy / "results" / "toy" / "pca" / f"{before['pca']}.zarr"
    assert data.exists()  # for the manifest that Snakemake puts back


@contextlib.contextmanager
def stored_counts(path):
    """The stored counts of an .h5ad, to change in place."""
    import h5py

    with h5py.File(path, "r+") as file:
        yield file["X"]["data"]


def test_a_comment_reruns_nothing_and_a_line_reruns_its_users(finished, tmp_path):
    top = tmp_path / "heatwalk"
    for name in ("src", "scripts", "workflow", "config", "envs"):
        shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", top / "Snakefile")
    folder = shutil.copytree(finished, tmp_path / "work", symlinks=True)
    library = {"top": top, "PYTHONPATH": str(top / "src")}
    assert stages_to_run(folder, **library) == set()
    module = top / "src" / "heatwalk" / "affinity.py"
    text = module.read_text()
    module.write_text(
        text.replace("import numpy as np", "# why\nimport numpy as np").replace('"""Gaussian', '"""A Gaussian')
    )
    assert stages_to_run(folder, **library) == set()
    module.write_text(text.replace("density**-alpha", "1 / density**alpha"))
    assert stages_to_run(folder, **library) == {"affinity", "diffusion_map", "atlas", "report"} & AFTER["affinity"]
    module.write_text(text)
    solver = top / "src" / "heatwalk" / "krylov.py"
    solver.write_text(solver.read_text() + "\n_MORE = 1\n")
    assert stages_to_run(folder, **library) == {"diffusion_map", "atlas", "report"}


def test_a_failing_rerun_leaves_the_old_results_standing(copy):
    before = roots(copy)
    bad = copy / "bad.yaml"
    bad.write_text("neighbors: {n_neighbors: 500}\n")
    done = heatwalk(copy, "run", "--cores", "1", "--configfile", str(bad))
    assert done.returncode == 2
    assert "HW-NB-003" in done.stderr
    assert roots(copy) == before
    assert heatwalk(copy, "verify").returncode == 0
    # It is not forgotten: the same call fails again, and the old options need nothing but this stage's check.
    assert heatwalk(copy, "run", "--cores", "1", "--configfile", str(bad)).returncode == 2
    assert heatwalk(copy, "run", "--cores", "1").returncode == 0
    assert roots(copy) == before
    assert stages_to_run(copy) == set()


def test_a_deleted_result_in_between_is_made_again(copy):
    before = roots(copy)
    shutil.rmtree(copy / "results" / "toy" / "pca")
    assert heatwalk(copy, "run", "--cores", "1").returncode == 0
    assert roots(copy) == before


def test_plain_snakemake_prints_the_line_of_the_stage_last(copy):
    bad = copy / "bad.yaml"
    bad.write_text("neighbors: {n_neighbors: 500}\n")
    done = snakemake(copy, "--cores", "1", "--configfile", str(bad))
    assert done.returncode == 1
    assert re.match(
        r"HW-NB-003 .*n_neighbors is 500, .*239.*; set n_neighbors between 1 and 239", done.stderr.splitlines()[-1]
    )


def test_bad_values_end_with_2_and_publish_nothing(tmp_path):
    folder = prepare(tmp_path / "bad")
    with stored_counts(folder / "config" / "toy.h5ad") as data:
        data[3], data[7] = float("nan"), -1
    done = heatwalk(folder, "run", "--cores", "1")
    assert done.returncode == 2
    assert "HW-IN-040" in done.stderr or "NaN" in done.stderr
    assert "Traceback" not in done.stderr.replace("RuleException", "")
    assert not (folder / "results" / "toy").exists() or not list((folder / "results" / "toy").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("options", "rows", "code"),
    [
        ("neighbours: {}\n", "toy\ttoy.h5ad\tcounts\n", "HW-CF-002"),
        ("seed: 1\nseed: 2\n", "toy\ttoy.h5ad\tcounts\n", "HW-CF-001"),
        (OPTIONS, "../toy\ttoy.h5ad\tcounts\n", "HW-CF-002"),
        (OPTIONS, "toy\ttoy.h5ad\tcounts\ntoy\ttoy.h5ad\tcounts\n", "HW-CF-005"),
    ],
)
def test_a_bad_configuration_ends_with_2_before_anything_runs(tmp_path, options, rows, code):
    folder = prepare(tmp_path / "bad", options, rows)
    done = heatwalk(folder, "run", "--cores", "1")
    assert done.returncode == 2
    assert done.stderr.startswith(code)
    assert not (folder / "results").exists()
    plain = snakemake(folder, "-n", "--cores", "1")
    assert plain.returncode == 1


@pytest.mark.parametrize("source", ["/etc/hostname", "../../outside.h5ad", "missing.h5ad"])
def test_a_source_outside_the_roots_or_missing_ends_with_2(tmp_path, source):
    (tmp_path / "outside.h5ad").write_text("x")
    folder = prepare(tmp_path / "bad", rows=f"toy\t{source}\tcounts\n")
    done = heatwalk(folder, "run", "--cores", "1")
    assert done.returncode == 2
    assert re.search(r"HW-IN-0\d\d ", done.stderr)


def test_a_damaged_input_is_refused_by_the_next_stage(copy):
    made = manifest(copy, "pca")
    chunk = next((copy / "results" / "toy" / "pca" / made["data"] / "coordinates" / "c").rglob("0"))
    chunk = chunk if chunk.is_file() else next(path for path in chunk.rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[10] ^= 4
    chunk.write_bytes(content)
    changed = copy / "mine.yaml"
    changed.write_text("neighbors: {n_neighbors: 11}\n")
    done = heatwalk(copy, "run", "--cores", "1", "--configfile", str(changed))
    assert done.returncode == 2
    assert "HW-ST-005" in done.stderr
    assert heatwalk(copy, "verify", "results").returncode == 2


def program(folder, stage, *arguments, **limits):
    """A stage program as its rule calls it, on the finished results in `folder`."""
    inputs = {"neighbors": ["pca"], "pca": ["cells"], "affinity": ["pca", "neighbors"]}[stage]
    given = ["--inputs", *(f"results/toy/{name}/manifest.json" for name in inputs)]
    command = [sys.executable, str(ROOT / "scripts" / f"{stage}.py"), "--result", f"results/toy/{stage}", *given]
    command += ["--block-cells", "64", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, **limits)


def test_a_second_writer_ends_with_3_and_names_the_holder(copy):
    with store.lock(copy / "results" / "toy" / "neighbors"):
        done = program(copy, "neighbors")
    assert done.returncode == 3
    assert f"process {os.getpid()} on" in done.stderr


@pytest.mark.parametrize(("stage", "options"), [("pca", '{"n_components": 9}'), ("affinity", '{"alpha": 0.5}')])
def test_a_full_disk_ends_with_4_and_the_old_result_stands(copy, stage, options):
    import resource

    before = roots(copy)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = program(copy, stage, "--options", options, preexec_fn=limit)
    assert done.returncode == 4, done.stderr
    assert "HW-RS-002" in done.stderr
    assert roots(copy) == before
    assert heatwalk(copy, "verify").returncode == 0


def test_an_unexpected_failure_is_one_line_and_the_traceback_is_in_the_log(copy):
    done = program(copy, "pca", "--options", '{"no_such_option": 1}', "--log", "pca.log")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "HW-00-000" in done.stderr
    assert "Traceback" in (copy / "pca.log").read_text()


@pytest.mark.parametrize("victim", ["job", "snakemake", "both"])
def test_a_killed_run_resumes_to_the_same_hashes(finished, copy, tmp_path, victim):
    whole = victim == "both"  # from the source to the report; otherwise the stages beside the kill
    folder, target = copy, ["results/toy/affinity/manifest.json"]
    if whole:
        folder, target = prepare(tmp_path / "killed"), []
    else:
        for stage in ("neighbors", "affinity"):
            shutil.rmtree(folder / "results" / "toy" / stage)
    kill_during(folder, victim, "neighbors")
    done = heatwalk(folder, "resume", "--cores", "2", *target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert roots(folder) == roots(finished)
    assert heatwalk(folder, "verify").returncode == 0


def kill_during(folder, victim: str, stage: str) -> None:
    """Start the workflow, wait until a stage's program runs, and kill -9 the victim."""
    import psutil

    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    with open(folder / "killed.log", "w") as log:
        run = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        job = None
        deadline = time.monotonic() + 60
        while job is None and time.monotonic() < deadline and run.poll() is None:
            with contextlib.suppress(psutil.Error):  # children come and go
                for child in psutil.Process(run.pid).children(recursive=True):
                    if f"{stage}.py" in " ".join(child.cmdline()):
                        job = child
            time.sleep(0.02)
        assert job, (folder / "killed.log").read_text()
        if victim in ("snakemake", "both"):
            run.kill()
        if victim in ("job", "both"):
            job.kill()
        run.wait(60)
        job.wait(10)  # a program dies with its Snakemake


def test_a_lock_left_by_a_killed_run_is_said_with_what_to_type(copy):
    locks = copy / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.input.lock").write_text("x")
    done = heatwalk(copy, "run", "--cores", "1")
    assert done.returncode == 3
    assert "type: heatwalk resume" in done.stderr
    assert heatwalk(copy, "resume", "--cores", "1").returncode == 0


def test_another_workflow_can_use_it_as_a_module(tmp_path):
    folder = prepare(tmp_path / "theirs", options="")
    (folder / "config" / "config.yaml").unlink()
    (folder / "Snakefile").write_text(
        f"""
module heatwalk:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: {{"datasets": "config/datasets.tsv", "neighbors": {{"n_neighbors": 12}}}}
    prefix: "geometry"

use rule * from heatwalk as heatwalk_*

rule mine:
    default_target: True
    input: "geometry/results/toy/neighbors/manifest.json"
    output: touch("done")
"""
    )
    done = snakemake(folder, "--cores", "2", top=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "done").exists()
    made = folder / "geometry" / "results" / "toy" / "neighbors"
    assert store.verify(made) == []
    assert store.read(made).manifest["parameters"]["n_neighbors"] == 12
