"""Nothing of an input, a configuration or a result is run, followed or believed: what has no test of its own elsewhere.

Elsewhere: codecs, links, declared sizes, pickles in sources (test_inputs), duplicate keys and Python objects in YAML
(test_config), quoting of shell values (test_layout), names of cells in the report (test_report), links in results
(test_store), who Dask listens to (test_cluster).
"""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import yaml
from workflow_runs import ROOT, heatwalk, prepare

from heatwalk import config, store
from heatwalk.errors import BadInput

SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])
RUNS_WHAT_IT_READS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}


def calls(path):
    """Names of what a module calls, with the keyword arguments."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_nothing_is_imported_that_runs_what_it_reads():
    found = []
    for path in SOURCES:
        if path.name == "cluster.py":  # tasks travel between heatwalk's own processes, as everything of Dask does
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] in RUNS_WHAT_IT_READS]
    assert found == []


def test_numpy_torch_and_yaml_read_data_only():
    wrong = []
    for path in SOURCES:
        for name, words in calls(path):
            if name in ("np.load", "numpy.load", "np.lib.format.read_array") and words.get("allow_pickle") != "False":
                wrong.append(f"{path.name}: {name} without allow_pickle=False")
            if name in ("torch.load", "eval", "exec", "os.system", "os.popen") or words.get("shell") == "True":
                wrong.append(f"{path.name}: {name}")
            if name.endswith("yaml.load") or name == "yaml.unsafe_load":
                wrong += [] if path.name == "config.py" else [f"{path.name}: {name}"]
    assert wrong == []
    assert issubclass(config._StrictLoader, yaml.SafeLoader)


def test_ruff_looks_for_pickles_shells_and_unsafe_yaml(tmp_path):
    chosen = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in chosen["select"]
    assert not {"S301", "S302", "S307", "S506", "S602", "S605", "S614"} & {*chosen["ignore"]}
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle\npickle.loads(b'')\nimport yaml\nyaml.load('', yaml.Loader)\neval('1')\n")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "S", bad]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert all(code in said for code in ("S301", "S506", "S307"))


@pytest.mark.parametrize(
    "name", ["../x", "/etc", "a/b", ".hidden", "-rf", "a b", "a;touch x", "$(touch x)", "a\\b", "x" * 65, "é"]
)
def test_a_name_of_a_dataset_reaches_no_other_folder_and_no_shell(tmp_path, name):
    folder = prepare(tmp_path / "run", rows=f"{name}\ttoy.h5ad\tcounts\n")
    rows, problems = config.datasets(folder / "config" / "datasets.tsv", ROOT / "workflow" / "schemas")
    assert rows == {}
    assert problems[0].code == "HW-CF-002"


def test_values_of_the_configuration_are_words_to_the_shell(tmp_path):
    """Quotes, dollars and semicolons of a source, a layer and an option arrive as they are, and run nothing."""
    hostile = "a'b\"; touch INJECTED; $(touch INJECTED) `touch INJECTED` #.h5ad"
    folder = prepare(tmp_path / "run", "report: {color_by: ['; touch INJECTED #']}\n", rows=f"toy\t{hostile}\tcounts\n")
    done = heatwalk(folder, "run", "--cores", "1")
    assert done.returncode == 2
    assert "HW-IN-002" in done.stderr  # semicolons separate samples
    assert not list(folder.rglob("INJECTED"))


def test_a_result_that_names_files_elsewhere_is_not_read(tmp_path):
    """A manifest with a right hash of its own may still name what lies outside of its folder."""
    draft = store.create(tmp_path / "results" / "toy" / "pca", "pca")
    draft["coordinates"] = np.ones((4, 2))
    manifest = store.publish(draft, parameters={}, code="", inputs={})
    folder = tmp_path / "results" / "toy" / "pca"
    (folder / manifest["data"]).rename(tmp_path / "elsewhere.zarr")
    (folder / f"{manifest['root']}.objects.json").rename(folder / "elsewhere.objects.json")
    for change in ({"data": "../../../elsewhere.zarr"}, {"links": {"x": "../../../elsewhere.zarr"}}):
        changed = {**manifest, **change}
        changed.pop("sha256")
        changed["sha256"] = store._digest(changed)
        store.replace_file(folder / "manifest.json", store._canonical(changed))
        with pytest.raises(BadInput, match="HW-ST-00"):
            store.read(folder)


@pytest.mark.parametrize("key", ["../../stolen", "/etc/passwd", "coordinates/../../stolen"])
def test_a_list_of_objects_that_names_files_elsewhere_is_not_read(tmp_path, key):
    """As it might come from an object store, whose keys may be anything."""
    draft = store.create(tmp_path / "pca", "pca")
    draft["coordinates"] = np.ones((4, 2))
    manifest = dict(store.publish(draft, parameters={}, code="", inputs={}))
    objects = store.read_json(tmp_path / "pca" / f"{manifest['root']}.objects.json") | {key: "0" * 64}
    manifest["objects"] = hashlib.sha256(store._canonical(objects)).hexdigest()
    manifest.pop("sha256", None)
    manifest["sha256"] = store._digest(manifest)
    contents = {"manifest.json": store._canonical(manifest)}
    contents[f"{store.stem(manifest)}.objects.json"] = store._canonical(objects)
    _, named, problems = store.stated(contents.get, "s3://bucket/pca")
    assert named == {}
    assert [problem.code for problem in problems] == ["HW-ST-004"]
    assert "names files elsewhere" in problems[0].cause


def test_every_dependency_has_one_exact_version():
    for path in sorted((ROOT / "envs").glob("*.txt")):
        lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
        loose = [line for line in filter(None, lines) if not re.fullmatch(r"[\w.-]+==[\w.+]+( ;.*)?", line)]
        assert loose == [], path.name
