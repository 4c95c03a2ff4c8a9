"""What the qualification works on: a small workflow with every stage that there is, found from the workflow itself.

No list of stages stands here. Rules with a wildcard are stages; what each runs, reads and makes is asked of Snakemake.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import anndata
import psutil
from workflow_runs import ROOT, dry_run, heatwalk, snakemake, write_counts

from heatwalk import config
from heatwalk.errors import BadInput

KEPT = Path(os.environ.get("HEATWALK_QUALIFIED", ROOT / ".qualification"))
TRIALS = int(os.environ.get("TRIALS", "2"))  # of each kind of kill, for each stage; other kinds follow it
N_CELLS = 200
# Options that make work, wherever a stage has one of that name: so a stage that is new is small as well.
SMALL = {
    "n_top_genes": 60,
    "n_components": 4,
    "latent": 3,
    "n_neighbors": 12,
    "bandwidth_neighbor": 12,
    "n_particles": 60,
    "n_points": 60,
    "epochs": 2,
    "rounds": 2,
    "steps": 2,
    "max_steps": 5,
    "batch": 64,
    "prototypes": 24,
    "null_points": 200,
    "pairs": 2,
    "most": 60,
    "landmarks": {"particles": 100},
    "roots": ["time=min"],
    "transfer": ["type"],
}
HEADER = "name\tsource\tkind\tmap\treference\tstages\n"


class Job(NamedTuple):
    """One stage of one dataset: its shell command, and the results it is made from."""

    dataset: str
    stage: str
    command: str
    inputs: tuple[str, ...]  # "dataset/stage"

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.stage}"

    @property
    def target(self) -> str:
        return f"results/{self.name}/manifest.json"


@functools.cache
def code_of(*more: Path) -> str:
    """Hash of the product and of these files: what passed for it need not run again."""
    digest, names = hashlib.sha256(), ("src/**/*.py", "src/**/*.j2", "scripts/*", "workflow/**/*", "config/config.yaml")
    for path in [*sorted({path for name in names for path in ROOT.glob(name) if path.is_file()}), *more]:
        digest.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


# ---- the workflow, asked ---------------------------------------------------------------------------------------------


def kept(name: str, ask) -> list:
    """What Snakemake answers, asked once for this code in this place: it takes seconds to start."""
    digest = hashlib.sha256(f"{ROOT} {name}".encode()).hexdigest()[:8]
    place = KEPT / "asked" / f"{code_of(Path(__file__))}-{digest}.json"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(ask()))
        partial.replace(place)
    return json.loads(place.read_text())


@functools.cache
def stages() -> tuple[str, ...]:
    """Every rule that makes a result: those that are no targets themselves, by name."""
    return tuple(kept("stages", _stages))


def _stages() -> list[str]:
    done = [snakemake(ROOT, option) for option in ("--list-rules", "--list-target-rules")]
    assert all(each.returncode == 0 for each in done), done
    everything, targets = ([line.strip() for line in each.stdout.splitlines()] for each in done)
    return [name for name in everything if re.fullmatch(r"\w+", name) and name not in targets]


def options() -> dict:
    """The smallest options of every section of the shipped configuration."""
    shipped, chosen = config.load(ROOT / "config" / "config.yaml"), {"block_cells": 64, "threads": 2}
    for section in stages():
        known = shipped.get(section, {})
        small = {key: SMALL[key] for key in SMALL if key in known and not isinstance(SMALL[key], dict)}
        small |= {key: value[section] for key, value in SMALL.items() if isinstance(value, dict) and section in value}
        chosen |= {section: small} if small else {}
    return chosen


def datasets() -> list[str]:
    """Rows of a table in which every stage of the workflow is asked for, by one dataset or another."""
    rows = [["toy", "toy.h5ad", "counts", "both", "", "atlas,report"]]
    for stage in stages():
        if stage in planned(rows):
            continue
        tries = [[*rows[:n], [*row[:5], f"{row[5]},{stage}"], *rows[n + 1 :]] for n, row in enumerate(rows)]
        tries.append([*rows, [stage, "toy.h5ad", "counts", "", "", f"{stage}"]])
        tries.append([*rows, [stage, "new.h5ad", "counts", "", "toy", f"{stage},atlas,report"]])
        rows = next((found for found in tries if {stage, *planned(rows)} <= planned(found)), None)
        assert rows, f"no dataset can be given the stage {stage!r}: teach tests/qualified.py how"
    return ["\t".join(row) + "\n" for row in rows]


def planned(rows: list[list[str]]) -> set[str]:
    """The stages that such a table asks for; none of a table that is refused."""
    table = KEPT / f"{os.getpid()}.tsv"
    KEPT.mkdir(exist_ok=True)
    table.write_text(HEADER + "".join("\t".join(row) + "\n" for row in rows))
    try:
        plan = config.Plan({**options(), "datasets": str(table)}, ROOT)
        return {stage for name in plan.datasets for stage in plan.wanted(name)}
    except BadInput:
        return set()
    finally:
        table.unlink()


def prepare(folder: Path, table: list[str] | None = None, chosen: dict | None = None) -> Path:
    """A working folder with the small workflow, or with another table and options, in which nothing has run."""
    (folder / "config").mkdir(parents=True)
    write_counts(folder / "config" / "toy.h5ad", n_cells=N_CELLS)
    new = anndata.read_h5ad(folder / "config" / "toy.h5ad")[::4].copy()
    new.obs_names = [f"new{number}" for number in range(new.n_obs)]
    new.write_h5ad(folder / "config" / "new.h5ad")
    (folder / "config" / "datasets.tsv").write_text(HEADER + "".join(table or datasets()))
    (folder / "config" / "config.yaml").write_text(json.dumps(chosen or options()))
    return folder


def jobs(folder: Path) -> dict[str, Job]:
    """Every job of the workflow in a folder, by "dataset/stage", in the order in which they can run."""
    asked = kept(f"jobs {folder} {sys.executable}", lambda: list(_jobs(folder).values()))
    found = {job.name: job for job in (Job(*fields[:3], tuple(fields[3])) for fields in asked)}
    return {name: found[name] for name in ordered(found)}


def _jobs(folder: Path) -> dict[str, Job]:
    done = dry_run(folder, "--forceall", "--printshellcmds")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", done.stdout):
        stage, output = (re.search(form, block) for form in (r"^(?:local)?rule (\w+):", r"\n    output: (\S+)"))
        if stage and output:
            command = re.search(r"PYTHONPATH=.* exec .*", block).group()
            given = re.search(r"\n    input: (.+)", block).group(1).split(", ")
            inputs = tuple("/".join(Path(one).parts[-3:-1]) for one in given if one.endswith("/manifest.json"))
            job = Job(Path(output.group(1)).parts[-3], stage.group(1), command, inputs)
            found[job.name] = job
    return found


def ordered(found: dict[str, Job]) -> list[str]:
    done: list[str] = []
    while len(done) < len(found):
        done += [name for name in found if name not in done and {*found[name].inputs} <= {*done}]
    return done


# ---- one whole run, shared -------------------------------------------------------------------------------------------


class Whole(NamedTuple):
    """An uninterrupted run: never changed, only copied."""

    folder: Path
    jobs: dict[str, Job]

    def __hash__(self) -> int:
        return hash(self.folder)

    def of_stage(self, stage: str) -> Job:
        return next(job for job in self.jobs.values() if job.stage == stage)

    def root(self, name: str) -> str:
        return root(self.folder, name)

    def readers(self, job: Job) -> list[Job]:
        return [other for other in self.jobs.values() if job.name in other.inputs]

    def copy(self, folder: Path) -> Path:
        """A copy to work in. Its results share their files with this one: `own` them before one is written to."""
        left_out = shutil.ignore_patterns("results", ".work")
        shutil.copytree(self.folder, folder, symlinks=True, ignore=left_out)
        for part in (self.folder / "results").iterdir():
            if part.is_dir() and part.name != ".work":
                shutil.copytree(part, folder / "results" / part.name, symlinks=True, copy_function=os.link)
        (folder / "results" / ".work").mkdir()
        return folder


def root(folder: Path, name: str) -> str:
    return json.loads((folder / "results" / name / "manifest.json").read_text())["root"]


def roots(folder: Path) -> dict[str, str]:
    """Root hashes of all results in a folder."""
    found = sorted((folder / "results").glob("*/*/manifest.json"))
    return {f"{path.parts[-3]}/{path.parts[-2]}": json.loads(path.read_bytes())["root"] for path in found}


@functools.cache
def whole() -> Whole:
    """The uninterrupted run of this code, made once and kept under .qualification/."""
    made = made_once(code_of(Path(__file__)), prepare)
    assert {job.stage for job in made.jobs.values()} == {*stages()}
    return made


@functools.cache
def part() -> Whole:
    """The same of the stages up to the affinity and one that reads it, which takes seconds: for `make test`."""
    table, chosen = ["toy\ttoy.h5ad\tcounts\t\t\tdiffusion_map\n"], {"block_cells": 64, "threads": 2}
    chosen |= {"cells": {"n_top_genes": 60}, "neighbors": {"n_neighbors": 12}, "diffusion_map": {"n_components": 4}}
    return made_once(f"{code_of(Path(__file__))}-part", lambda place: prepare(place, table, chosen))


def made_once(name: str, prepared) -> Whole:
    place = KEPT / name
    KEPT.mkdir(exist_ok=True)
    with open(KEPT / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "seconds.json").exists():
            shutil.rmtree(place, ignore_errors=True)
            prepared(place)
            started = time.monotonic()
            done = heatwalk(place, "run", "--cores", "2")
            assert done.returncode == 0, done.stdout + done.stderr
            records = (place / "results").glob("*/*/run.json")
            seconds = {"/".join(path.parts[-3:-1]): json.loads(path.read_bytes())["seconds"] for path in records}
            (place / "seconds.json").write_text(json.dumps({"": time.monotonic() - started, **seconds}))
    made = Whole(place, jobs(place))
    assert roots(place).keys() == made.jobs.keys()
    return made


# ---- programs --------------------------------------------------------------------------------------------------------


def start(job: Job, folder: Path, *, limit=None, **environment: str) -> subprocess.Popen:
    """The stage program of a job, as its rule starts it, but by itself."""
    return subprocess.Popen(
        ["bash", "-c", f"cd {shlex.quote(str(folder))} && {job.command}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def run(job: Job, folder: Path, *, limit=None, timeout: float = 1200, **environment: str):
    program = start(job, folder, limit=limit, **environment)
    try:
        said, errors = program.communicate(timeout=timeout)
    finally:
        program.kill()
    return subprocess.CompletedProcess(job.command, program.returncode, said, errors)


def programs(folder: Path) -> list[psutil.Process]:
    """Stage programs, and what they started, that run in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                line = " ".join(process.cmdline())
                found += [process] if "--block-cells" in line or "multiprocessing" in line else []
    return found


def own(folder: Path, job: Job) -> Path:
    """The result of a job in a folder, with files of its own."""
    result = folder / "results" / job.name
    shared = result.rename(result.with_suffix(".shared"))
    shutil.copytree(shared, result, symlinks=True)
    shutil.rmtree(shared)
    return result


def without(folder: Path, job: Job) -> None:
    """Remove the result of a job."""
    shutil.rmtree(folder / "results" / job.name)
