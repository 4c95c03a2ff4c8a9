"""What others install heatwalk with: conda files, container recipes, and what the Workflow Catalog reads."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workflow_runs import OPTIONS, ROOT, prepare, snakemake

from heatwalk import rules
from heatwalk.errors import BadInput

ENVIRONMENTS = ("base", "neural", "cluster", "dev")
# What Snakemake asks of conda, answered; the file that an environment would be made from is kept.
CONDA = """#!/bin/sh
case "$*" in
  "info --json") echo '{"conda_prefix": "/nowhere", "platform": "linux-64"}' ;;
  --version) echo "conda 25.9.1" ;;
  "config --get"*) echo '{"get": {"channel_priority": "strict"}}' ;;
  "env create"*)
    while [ "$1" ]; do
      case "$1" in --file) file=$2 ;; --prefix) prefix=$2 ;; esac
      shift
    done
    mkdir -p "$prefix/bin" && cp "$file" "$KEPT/" ;;
  clean*) ;;
  *) echo "unexpected: conda $*" >&2; exit 9 ;;
esac
"""


def pins(name: str) -> set[str]:
    lines = (ROOT / "envs" / f"{name}.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_conda_files_are_what_the_pip_files_say(name):
    spec = importlib.util.spec_from_file_location("conda_files", ROOT / "envs" / "conda.py")
    conda_files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conda_files)
    assert (ROOT / "envs" / f"{name}.yaml").read_text() == conda_files.rendered(name), "type: make environments"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_conda_files_have_the_form_that_conda_reads_and_stand_alone(name):
    content = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    assert set(content) == {"channels", "dependencies"}
    assert content["channels"][0] == "conda-forge"
    *packages, of_pip = content["dependencies"]
    assert {"python=3.11", "pip"} <= set(packages)
    assert set(of_pip) == {"pip"}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_]+", pin) for pin in of_pip["pip"])
    assert pins("base") <= set(of_pip["pip"])
    names = [re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in of_pip["pip"]]
    assert len(names) == len(set(names))


def test_every_package_of_the_project_is_pinned():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(pin for extra in project["optional-dependencies"].values() for pin in extra)]
    wanted = {re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in asked}
    pinned = {
        re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()
        for pin in pins("base") | pins("neural") | pins("cluster")
    }
    assert sorted(wanted - pinned) == []


def test_snakemake_makes_conda_environments_from_them(tmp_path):
    folder = prepare(tmp_path / "run", OPTIONS)
    (tmp_path / "bin").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "bin" / "conda").write_text(CONDA)
    (tmp_path / "bin" / "conda").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    arguments = ("--cores", "1", "--sdm", "conda", "--conda-create-envs-only", "--conda-frontend", "conda")
    done = snakemake(folder, *arguments, PATH=path, KEPT=str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout + done.stderr
    made = [yaml.safe_load(file.read_text()) for file in (tmp_path / "kept").iterdir()]
    assert yaml.safe_load((ROOT / "envs" / "base.yaml").read_text()) in made


# ---- containers ------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of every line of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def sections() -> dict[str, list[str]]:
    """Header and sections of the Apptainer definition."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in (ROOT / "deploy" / "heatwalk.def").read_text().splitlines():
        if line.startswith("%"):
            name = line[1:].split()[0]
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line)
    return found


def copied_by_docker() -> dict[str, str]:
    found = {}
    for name, arguments in instructions():
        *sources, target = arguments.split() if name == "COPY" else [""]
        for source in sources:
            found[source] = f"{target}{Path(source).name}" if target.endswith("/") else target
    return found


def test_the_dockerfile_has_known_instructions_a_pinned_base_and_no_root():
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM"
    assert set(names) <= {"FROM", "ENV", "COPY", "RUN", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    given = dict(instructions())
    assert re.fullmatch(r"python:3\.11-slim-\w+", given["FROM"])
    assert given["USER"] == "1000:1000"
    assert json.loads(given["ENTRYPOINT"]) == ["heatwalk"]
    for name, arguments in instructions():
        if name == "RUN":
            assert subprocess.run(["sh", "-nc", arguments]).returncode == 0


def test_the_apptainer_definition_has_known_sections_and_the_docker_image_s_commands():
    found = sections()
    assert set(found) == {"", "files", "post", "environment", "runscript", "test"}
    assert found[""] == ["Bootstrap: docker", f"From: {dict(instructions())['FROM']}"]
    for name in ("post", "environment", "runscript", "test"):
        assert subprocess.run(["sh", "-nc", "\n".join(found[name])]).returncode == 0
    runs = [re.sub(r"\s+", " ", arguments) for name, arguments in instructions() if name == "RUN"]
    post = re.sub(r"\s+", " ", re.sub(r"\\\n", " ", "\n".join(found["post"])))
    assert all(run in post for run in runs)


def test_both_take_the_same_files_and_docker_s_context_has_them():
    by_apptainer = dict(line.split() for line in sections()["files"])
    by_docker = copied_by_docker()
    covered = {name if not name.startswith("envs/") else "envs" for name in by_docker}
    assert covered == set(by_apptainer)
    assert all(target == f"/opt/heatwalk/{source}" for source, target in (by_apptainer | by_docker).items())
    assert all((ROOT / source).exists() for source in by_docker)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == covered


def test_what_an_image_holds_is_enough_to_plan_a_run(tmp_path):
    """The files that the recipes copy, and nothing else of the clone; Python's packages are those of the tests."""
    image = tmp_path / "opt" / "heatwalk"
    for source, target in copied_by_docker().items():
        place = tmp_path / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / source, place) if (ROOT / source).is_dir() else shutil.copy(ROOT / source, place)
    folder = prepare(tmp_path / "data", OPTIONS)
    environment = {**os.environ, "PYTHONPATH": str(image / "src"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "heatwalk.cli", "run", "--cores", "1", "-n"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule diffusion_map:" in done.stdout


# ---- the Workflow Catalog --------------------------------------------------------------------------------------------


def test_the_catalog_finds_what_it_looks_for():
    readme = (ROOT / "README.md").read_text().lower()
    assert all(word in readme for word in ("snakemake", "workflow"))
    assert (ROOT / "workflow" / "Snakefile").is_file()
    assert list((ROOT / "workflow" / "rules").glob("*.smk"))
    assert re.search(r"^# \S", (ROOT / "config" / "README.md").read_text(), re.MULTILINE)


def test_the_catalog_s_settings_have_the_form_that_it_reads():
    content = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert set(content) == {"usage"}
    usage = content["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert all(isinstance(text, str) for text in usage["mandatory-flags"].values())
    deployment = usage["software-stack-deployment"]
    assert set(deployment) == {"conda", "apptainer", "apptainer+conda"}
    assert all(isinstance(value, bool) for value in [*deployment.values(), usage["report"]])
    # Every rule names a conda file that is there; no rule names a container.
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    named = set(re.findall(r'"\.\./\.\./(envs/\w+\.yaml)"', text))
    assert named
    assert all((ROOT / name).is_file() for name in named)
    assert deployment["conda"]
    assert deployment["apptainer"] is ("container:" in text)


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git here")
def test_a_workflow_read_from_a_git_repository_runs_with_the_installed_programs(tmp_path):
    """As `snakedeploy deploy-workflow` writes it: a module whose Snakefile Snakemake takes from a git server."""
    served = tmp_path / "served"
    for name in ("workflow", "config", "envs"):
        shutil.copytree(ROOT / name, served / name)
    git = ["git", "-C", str(served), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "served"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    folder = prepare(tmp_path / "theirs", OPTIONS)
    (folder / "Snakefile").write_text(
        f"""
configfile: "config/config.yaml"

module heatwalk:
    snakefile: "git+file://{served}/workflow/Snakefile@v1"
    config: config

use rule * from heatwalk
"""
    )
    done = snakemake(folder, "--cores", "1", "results/toy/cells/manifest.json", top=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "results" / "toy" / "cells" / "manifest.json").exists()


def test_without_a_clone_the_line_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "__file__", str(tmp_path / "site-packages" / "heatwalk" / "rules.py"))
    with pytest.raises(BadInput, match="HW-CF-023 .* type: pip install --editable CLONE"):
        rules._clone(tmp_path)
    assert rules._clone(ROOT) == ROOT
