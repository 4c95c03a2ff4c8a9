"""What the rules of the workflow ask: targets, sources, parameters, and the command line of a stage program."""

import atexit
import functools
import json
import os
import shlex
import sys
import time
from pathlib import Path

from heatwalk import jobs, needs, slurm, store, worker_jobs
from heatwalk.code import code_hash
from heatwalk.config import ON_DEVICE, SCHEDULED, SEEDED, Plan, depends, load, memory_bytes, needed
from heatwalk.errors import BadInput, Problem
from heatwalk.forecast import Need
from heatwalk.inputs import fingerprint, resolve
from heatwalk.program import process_names
from heatwalk.remote import is_remote


class Rules(Plan):
    """The plan as Snakemake's rules use it. Functions of `wildcards` are evaluated for each job."""

    def __init__(self, config: dict, folder, workflow):
        from snakemake.exceptions import WorkflowError

        try:
            self.top = _clone(Path(folder.get_path_or_uri(secret_free=False)).resolve().parent)
            for path in workflow.configfiles:
                load(Path(path))  # Snakemake read it already, but takes a key that stands twice
            super().__init__(config, self.top)
        except BadInput as error:
            raise WorkflowError(str(error)) from None
        self.seed, self.threads, self.block_cells = (self.config[key] for key in ("seed", "threads", "block_cells"))
        self._workflow = workflow
        self._size = functools.cache(functools.partial(needs.size_of, self))
        self._needs = functools.cache(self._foreseen)
        # One value for this run and for the jobs that it sends to a cluster.
        self.session = os.environ.setdefault("HEATWALK_SESSION", str(time.time_ns()))
        # A program that finds this process gone when it begins is nobody's.
        os.environ["HEATWALK_STARTER"] = f"{os.getpid()} {process_names()}"
        # As a module with a prefix, Snakemake would look for a relative source below that prefix.
        self.prefix = workflow.modifier.path_modifier.prefix or ""
        # A conda environment puts its own Python first on the path; otherwise the one that runs Snakemake is used.
        self.python = "python" if workflow.deployment_settings.deployment_method else sys.executable

    def targets(self) -> list[str]:
        """The manifest of every stage that a row of datasets.tsv asks for, and of all that it is made from.

        Were only the last ones named, Snakemake would not remake one in between that somebody deleted.
        """
        wanted = ((name, stage) for name in self.datasets for stage in self.wanted(name))
        return [f"results/{name}/{stage}/manifest.json" for name, stage in wanted]

    def source_files(self, wildcards) -> list[str]:
        """Files and folders of a dataset's source, for Snakemake to wait for."""
        here = Path.cwd()
        # Snakemake would take braces for wildcards; such a source is watched by its fingerprint alone.
        # So is an object of a store.
        places = [place for place in self._places(wildcards) if not is_remote(place)]
        paths = [path for path in places if not {"{", "}"} & set(str(path))]
        if self.prefix:
            return [str(path) for path in paths]
        return [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in paths]

    def fingerprint(self, wildcards) -> str:
        """Notices a source whose content changed, also when its time of change did not."""
        return fingerprint(place for place in self._places(wildcards) if is_remote(place) or place.exists())

    def source(self, wildcards) -> str:
        """The row of a dataset as the stage `cells` takes it, JSON."""
        row = self._row(wildcards)
        chosen = {"source": row.source, "kind": row.kind, "layer": row.layer, "columns": row.columns}
        return json.dumps({**chosen, "space": row.space, "reference": row.reference}, sort_keys=True)

    def options_of(self, stage: str):
        """Options of a stage as JSON: a changed option reruns exactly the stages that use it."""
        return lambda wildcards: json.dumps(self.options(wildcards.dataset, stage), sort_keys=True)

    def code(self, stage: str) -> str:
        return code_hash(self.top / "scripts" / f"{stage}.py")

    def request(self, stage: str):
        """What makes a stage run again although Snakemake thinks it is done.

        Snakemake keeps the parameters of the last job, also of one that failed and left the old result standing, so by
        itself it would forget the failure. The published manifest knows what it was made from: while that is what is
        asked for, the value is the one its run was started with; otherwise it is new in every run.
        """

        def value(wildcards) -> str:
            # Of wildcards alone: Snakemake keeps no record of parameters that depend on outputs.
            folder = Path(self.prefix, "results", wildcards.dataset, stage)
            manifest, run = (store.read_json(folder / name) or {} for name in ("manifest.json", "run.json"))
            wanted = {**self.options(wildcards.dataset, stage), "block_cells": self.block_cells}
            wanted |= {"seed": self.seed} if stage in SEEDED else {}
            wanted |= json.loads(self.source(wildcards)) if stage == "cells" else {}
            parameters, inputs = manifest.get("parameters", {}), manifest.get("inputs", {})
            made_from = {name: folder.parent / name for name in depends(stage, self._row(wildcards))}
            borrowed = self.borrowed(wildcards.dataset, stage)
            made_from |= {"/".join(names): folder.parents[1].joinpath(*names) for names in borrowed}
            roots = {name: store.read_json(path / "manifest.json") or {} for name, path in made_from.items()}
            current = (
                manifest.get("code") == self.code(stage)
                and all(name in parameters and parameters[name] == wanted[name] for name in wanted)
                and all(inputs.get(name) == roots[name].get("root", "") for name in roots)
            )
            # A source that changed and then failed is no longer news to Snakemake either.
            current = current and (stage != "cells" or run.get("fingerprint", "") == self.fingerprint(wildcards))
            return run.get("request", "") if current else self.session

        return value

    def inputs(self, stage: str):
        """The manifests of what a stage is made from, by name; those of a query's reference together."""

        def named(wildcards) -> dict[str, str | list[str]]:
            made_from = depends(stage, self._row(wildcards))
            own = {name: f"results/{wildcards.dataset}/{name}/manifest.json" for name in made_from}
            borrowed = self.borrowed(wildcards.dataset, stage)
            return own | {"reference": [f"results/{name}/{other}/manifest.json" for name, other in borrowed]}

        return named

    def resources(self, stage: str) -> dict:
        """What a job asks of a cluster, and what lies where: unlike commands and params these change without a rerun.

        Memory (mem_mb) and time (runtime) are those of the plan, and grow with every attempt. `memory` is what the
        program may use where it has a choice: whatever a cluster gives, results are the same.
        """

        def mem_mb(wildcards, threads, attempt) -> int:
            return jobs.megabytes(self._need(wildcards.dataset, stage, threads), attempt)

        def runtime(wildcards, threads, attempt) -> int:
            return jobs.minutes(self._need(wildcards.dataset, stage, threads), attempt)

        compute = self.config["compute"]
        given = {"mem_mb": mem_mb, "runtime": runtime, "memory": str(memory_bytes(self.config["memory"]))}
        given |= {"home": str(self.top), "python": self.python}
        given |= {"scheduler": self._scheduler()} if stage in SCHEDULED else {}
        given |= {"device": compute["device"], "gpu": int(compute["device"] != "cpu")} if stage in ON_DEVICE else {}
        return given | ({"places": self._allowed()} if stage == "cells" else {})

    def _scheduler(self) -> str:
        """Who computes, in one word."""
        compute = self.config["compute"]
        return worker_jobs.written(compute["slurm"]) if compute["scheduler"] == "slurm" else compute["scheduler"]

    def group(self, stage: str):
        """The job that a stage shares with others where all of them are small; local runs have none."""

        def shared(wildcards) -> str | None:
            if not self._workflow.non_local_exec:  # a dry run would show groups that a run here does not have
                return None
            return jobs.together(wildcards.dataset, self._needs(wildcards.dataset, self.threads)).get(stage)

        return shared

    def _need(self, dataset: str, stage: str, threads: int) -> Need:
        return self._needs(dataset, threads).get(stage) or self._unforeseen()

    def _unforeseen(self) -> Need:
        return Need(3600, memory_bytes(self.config["memory"]), 0, 0)

    def _foreseen(self, dataset: str, threads: int) -> dict[str, Need]:
        """What every stage of a dataset will need, by its source."""
        stages = self.wanted(dataset)
        try:
            return needs.of_dataset(self, self._size(dataset), stages, threads)
        except BadInput:  # the program of the stage says why, with the exit code of bad input
            return dict.fromkeys(stages, self._unforeseen())

    def command(self, stage: str) -> str:
        """Shell command of a stage program, for Snakemake to fill in; every value is quoted.

        `exec` makes the program a child of Snakemake itself, so that it ends with it.
        """
        fixed = (
            f"PYTHONPATH={{resources.home:q}}/src exec {{resources.python:q}} {{resources.home:q}}/scripts/{stage}.py"
        )
        options = "--options {params.options:q} --code {params.code:q} --block-cells {params.block_cells:q}"
        options += " --request={params.request:q}"
        machine = "--threads {threads} --memory {resources.memory} --log {log:q} --result {output:q}"
        machine += " --scheduler {resources.scheduler:q}" if stage in SCHEDULED else ""
        machine += " --device {resources.device:q}" if stage in ON_DEVICE else ""
        # Sources are no results.
        given = " --inputs {input.reference:q}" if stage == "cells" else " --inputs {input:q}"
        return f"{fixed} {options} {machine}{given}"

    def _allowed(self) -> str:
        """Where sources may lie, as arguments of the program of `cells`, quoted."""
        return shlex.join(["--base", str(self.base), *(part for root in self.roots for part in ("--root", str(root)))])

    def where_results_are(self) -> str:
        """Paths of the report and the atlas of every dataset, for people."""
        names = {"report": "report.html", "atlas": "atlas.zarr", "particles": "particles.h5ad"}
        names |= {name: f"{name}.h5ad" for name in ("random_walk", "riemannian_diffusion")}
        return "\n".join(
            f"{stage}: results/{name}/{stage}/{file}"
            for name, row in self.datasets.items()
            for stage, file in names.items()
            if stage in needed(row) and not (row.reference and stage == "riemannian_diffusion")
        )

    def _row(self, wildcards):
        if wildcards.dataset not in self.datasets:
            from snakemake.exceptions import WorkflowError

            raise WorkflowError(
                f"there is no dataset {wildcards.dataset!r} in {self.base}; known: {list(self.datasets)}"
            )
        return self.datasets[wildcards.dataset]

    def _places(self, wildcards) -> list[Path | str]:
        try:
            return [place for _, place in resolve(self._row(wildcards).source, base=self.base, roots=self.roots)]
        except BadInput:
            return []  # the program of the stage says why, with the exit code of bad input


def _clone(beside: Path) -> Path:
    """The folder with scripts/ and config/: that of the Snakefile; or, where Snakemake reads that from a git server (as
    `snakedeploy` has it), the clone that this heatwalk is installed from.
    """
    for place in (beside, Path(__file__).resolve().parents[2]):
        if (place / "scripts" / "cells.py").is_file():
            return place
    cause = "the programs of the stages are neither beside the Snakefile nor beside the installed heatwalk"
    remedy = "clone the repository, and type: pip install --editable CLONE"
    raise BadInput(Problem("HW-CF-023", f"{beside}", cause, remedy))


def say_why_it_failed(session: str, logs: list[str], results: Path = Path("results")) -> None:
    """Print what the stages that failed in this run said, one line each, after everything that Snakemake has to say.

    And what Slurm ended, with its reason; logs: Snakemake's own.
    """
    new = [failure for failure in failures(results) if failure["time_ns"] >= int(session)]
    lines = [line for failure in new for line in failure["lines"]]
    lines += [f"{job.problem}" for job in slurm.ended(int(session), Path(logs[0]) if logs else None)]
    atexit.register(lambda: print(*lines, sep="\n", file=sys.stderr, flush=True) if lines else None)


def failures(results: Path = Path("results")) -> list[dict]:
    """Explanations that failed stages left: exit_code, time_ns and lines, the earliest first."""
    found = [store.read_json(path) for path in results.glob(".work/*/*.failure.json")]
    return sorted(filter(None, found), key=lambda failure: failure["time_ns"])
