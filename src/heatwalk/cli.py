"""The command `heatwalk`: run, resume, batch, doctor, plan, validate, verify."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import click

from heatwalk import config as configuration
from heatwalk import doctor as examination
from heatwalk import other_runs, profiles, remote, remote_commands, slurm, store
from heatwalk.compute import available_threads
from heatwalk.ending import end as _end
from heatwalk.ending import explained as _explained
from heatwalk.errors import BadInput, HeatwalkError, OutOfResources, Problem, first_few
from heatwalk.program import die_with_parent
from heatwalk.rules import failures

_EVERYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}
_LOOK_SECONDS = 15  # between two looks at the jobs of a cluster


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="heatwalk")
def main() -> None:
    """Diffusion geometry for cell atlases. Exit codes: 2 bad input, 3 locked, 4 resources."""


for _command in (remote_commands.publish, remote_commands.fetch):
    main.add_command(_command)


def _workflow_options(command):
    configfile = click.option(
        "--configfile",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Options that differ from config/config.yaml.",
    )
    cores = click.option(
        "--cores", default="all", show_default=True, callback=_cores, help="Cores to use: a number or all."
    )
    folder = click.option(
        "--directory",
        type=click.Path(exists=True, file_okay=False),
        callback=_enter,
        expose_value=False,
        is_eager=True,
        help="Folder to work in.",
    )
    extra = click.argument("snakemake_arguments", nargs=-1, type=click.UNPROCESSED)
    return folder(configfile(cores(extra(command))))


def _cores(context, option, value: str) -> str:
    if value != "all" and not (value.isdecimal() and int(value) > 0):
        raise click.BadParameter("write a number from 1 on, or all")
    return value


def _enter(context, option, value: str | None) -> None:
    if value:
        os.chdir(value)


@main.command(context_settings=_EVERYTHING)
@_workflow_options
def run(configfile: tuple[Path, ...], cores: str, snakemake_arguments: tuple[str, ...]) -> None:
    """Make every result that config and datasets ask for; other arguments go to Snakemake (-n shows what would run)."""
    _end(_run(configfile, cores, snakemake_arguments))


@main.command(context_settings=_EVERYTHING)
@_workflow_options
def resume(configfile: tuple[Path, ...], cores: str, snakemake_arguments: tuple[str, ...]) -> None:
    """Clear the lock that a killed run left, and go on where it stopped."""
    with _explained():
        other_runs.refuse_jobs()
        other_runs.wait_for_orphans()
        _unlock(configfile)
    _end(_run(configfile, cores, ("--rerun-incomplete", *snakemake_arguments)))


@main.command(context_settings=_EVERYTHING)
@_workflow_options
def doctor(configfile: tuple[Path, ...], cores: str, snakemake_arguments: tuple[str, ...]) -> None:
    """Check what a run needs, within a minute and without running it; with a Slurm profile, the cluster and a node too.

    The arguments are those of the run, such as --workflow-profile workflow/profiles/slurm.
    """
    with _explained():
        checked = configuration.Plan(_config(configfile), _top())
        cluster, failed = profiles.of_arguments(snakemake_arguments), 0
        for finding in examination.examine(checked, _threads(checked, cores), cluster, _top()):
            if not finding.problems:
                click.echo(f"ok   {finding.name}: {finding.said}")
            for problem in finding.problems:
                click.echo(f"{problem}", err=True)
            failed = failed or finding.exit_code
    sys.exit(failed)


@main.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--configfile", type=click.Path(path_type=Path), multiple=True, help="The same as CONFIG.")
@click.option("--cores", default="all", show_default=True, callback=_cores, help="Cores that will be used.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(config: Path | None, configfile: tuple[Path, ...], cores: str, as_json: bool) -> None:
    """Print time, peak memory and disk that every stage of CONFIG will need; exit 4 when something does not fit."""
    from heatwalk import needs

    with _explained():
        checked = configuration.Plan(_config((*((config,) if config else ()), *configfile)), _top())
        threads, memory = _threads(checked, cores), configuration.memory_bytes(checked.config["memory"])
        rows, bad = needs.of_config(checked, threads)
        too_much = needs.check(rows, memory, Path("results"))
    if as_json:
        stages = [{**row._asdict(), "need": row.need._asdict()} for row in rows]
        found = [problem._asdict() for problem in (*bad, *too_much)]
        click.echo(json.dumps({"threads": threads, "memory": memory, "stages": stages, "problems": found}, indent=1))
    else:
        click.echo(needs.table(rows, threads, memory))
        click.echo("\n".join(map(str, (*bad, *too_much))), err=True, nl=bool(bad or too_much))
    sys.exit(BadInput.exit_code if bad else OutOfResources.exit_code if too_much else 0)


def _threads(plan: configuration.Plan, cores: str) -> int:
    available = available_threads() if cores == "all" else int(cores)
    return min(available, plan.config["threads"])


@main.command()
@click.argument("input_source", metavar="INPUT")
@click.option(
    "--kind", default="counts", show_default=True, help="counts, logged, intensities, points, images, sequences."
)
@click.option("--layer", default="", help="Layer, 'raw', or 'obsm:KEY'; of an .npz the name of the array.")
@click.option("--columns", default="", help="Columns to use, separated by commas.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--configfile", type=click.Path(path_type=Path), multiple=True)
def validate(input_source: str, kind: str, layer: str, columns: str, as_json: bool, configfile) -> None:
    """Print every problem of an input: a path, or the name of a dataset of the config.

    Of a query, also the features of its reference that it lacks, and columns of `transfer` that are no labels. Of a
    dataset with new cells, a condition or a start that no cell meets, and too few held-out cells to compare them with.
    """
    from heatwalk import asked, inputs

    with _explained():
        plan = _planned(input_source, configfile)
        request = _of_row(plan, input_source) if plan else _request(input_source, kind, layer, columns)
        problems = inputs.validate(**request)
        if plan and not problems:
            problems = asked.problems(plan, input_source, Path("results"))
    if as_json:
        found = [problem._asdict() for problem in problems]
        click.echo(json.dumps({"valid": not problems, "problems": found}, indent=1))
    else:
        click.echo("\n".join(map(str, problems)) or f"{input_source}: no problems")
    sys.exit(BadInput.exit_code if problems else 0)


@main.command()
@click.argument("path", default="results")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(path: str, as_json: bool) -> None:
    """Check every result at or under PATH against its own hashes; exit 0 when all is whole, 2 otherwise.

    PATH is a folder, or s3://BUCKET/FOLDER.
    """
    from heatwalk import remote_store

    place = remote_store if remote.is_remote(path) else store
    with _explained():
        folders = place.results_under(path) if place is remote_store or Path(path).exists() else []
        if not folders:
            raise BadInput(Problem("HW-ST-006", path, "there are no results here", "name a results folder"))
        problems = [problem for folder in folders for problem in place.verify(folder)]
    if as_json:
        found = [problem._asdict() for problem in problems]
        click.echo(json.dumps({"results": len(folders), "whole": not problems, "problems": found}, indent=1))
    else:
        click.echo("\n".join(map(str, problems)) or f"{path}: all {len(folders)} results are whole")
    sys.exit(BadInput.exit_code if problems else 0)


@main.command(context_settings=_EVERYTHING)
@_workflow_options
@click.option("--inbox", type=click.Path(path_type=Path), help="Folder whose new files become rows of the table.")
@click.option("--reference", default="", help="Dataset that files of the inbox are mapped onto.")
@click.option("--stages", default="", help="What is made of each file; empty: atlas,report.")
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds without a change after which a file of the inbox has arrived.",
)
def batch(configfile, cores, snakemake_arguments, inbox, reference, stages, settle) -> None:
    """Map new queries onto their references: rows of the table, and files of an inbox; bad ones are quarantined.

    Prints one summary line. Exit code 2 when anything was quarantined, 3 when another run is at work.
    """
    from heatwalk import batch as batches
    from heatwalk import remote_store

    if {"-n", "--dry-run", "--dryrun"} & set(snakemake_arguments):
        raise click.UsageError("a batch takes files and cannot be tried out; `heatwalk validate FILE` looks at one")

    def snakemake(arguments: list[str], log: Path) -> int:
        log.parent.mkdir(exist_ok=True)
        command = [*_snakemake(configfile), "--cores", cores, *arguments]
        command += [] if "-n" in arguments else snakemake_arguments
        with open(log, "w") as printed:
            done = subprocess.run(command, check=False, stdout=printed, stderr=printed, preexec_fn=die_with_parent)
        if done.returncode:
            other_runs.refuse_lock()  # another run was a moment faster
        return done.returncode

    with _explained(), ExitStack() as held:
        other_runs.refuse_folder()
        held.enter_context(batches.lock())
        other_runs.wait_for_orphans()
        _unlock(configfile)
        run = batches.Run(lambda: configuration.Plan(_config(configfile), _top()), snakemake)
        given = batches.opened(run.plan(), inbox, reference, stages, settle) if inbox else None
        if given:
            held.enter_context(batches.lock_inbox(inbox))
        remote_store.reach(run.plan())
        counts, code = batches.batch(run, given, lambda line: click.echo(line, err=True))
        summary = f"heatwalk batch: {counts}"
        batches.note(summary)
        click.echo(summary)
        remote_store.publish_plan(run.plan(), Path("results"))
        sys.exit(code)


def _run(configfile: tuple[Path, ...], cores: str, arguments: tuple[str, ...]) -> HeatwalkError | int:
    """Check the configuration, run Snakemake, and find out what a failed stage ended with."""
    from heatwalk import remote_store

    try:
        plan = configuration.Plan(_config(configfile), _top())
        cluster = profiles.of_arguments(arguments)
        _refuse_targets(plan, arguments)
        remote_store.reach(plan)
        other_runs.refuse_lock()
        other_runs.refuse_jobs()
        other_runs.refuse_folder()
        _refuse_what_cannot_fit(plan, plan.config["threads"] if cluster else _threads(plan, cores))
        started, command = time.time_ns(), [*_snakemake(configfile), *_cores_of(cluster, cores), *arguments]
        if cluster and not {"-n", "--dry-run", "--dryrun"} & {*arguments}:
            _say(examination.before_a_run(plan, cluster))
            code = _watched(command)
        else:
            code = subprocess.run(command, check=False).returncode
        new = [failure for failure in failures() if failure["time_ns"] >= started]
        if code and not new:
            other_runs.refuse_lock()  # another run was a moment faster
        if not code and not {"-n", "--dry-run", "--dryrun"} & set(arguments):
            remote_store.publish_plan(plan, Path("results"))
    except HeatwalkError as error:
        return error
    by_slurm = OutOfResources.exit_code if cluster and slurm.ended(started, _newest_log()) else code
    return new[0]["exit_code"] if code and new else by_slurm if code else 0


def _cores_of(cluster: profiles.Cluster | None, cores: str) -> list[str]:
    """Of this machine; jobs of a cluster are not bound by them."""
    return [] if cluster and cores == "all" else ["--cores", cores]


def _watched(command: list[str]) -> int:
    """Run Snakemake, and say what its jobs wait for; its own Ctrl-C cancels them, which takes a moment."""
    watch = slurm.Watch(Path.cwd())
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            try:
                process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                _say(watch.look())
    return process.returncode


def _say(problems: Iterable[Problem]) -> None:
    for problem in problems:
        click.echo(f"{problem}", err=True)


def _newest_log() -> Path | None:
    return max(Path(".snakemake", "log").glob("*.log"), key=lambda path: path.stat().st_mtime_ns, default=None)


def _refuse_targets(plan: configuration.Plan, arguments: tuple[str, ...]) -> None:
    """What is named below results/ must be the manifest of a stage of a dataset: Snakemake makes nothing else there."""
    for target in arguments:
        if not target.startswith("results/"):
            continue
        dataset, _, rest = target.removeprefix("results/").partition("/")
        stage = rest.partition("/")[0]
        stage = stage if stage in configuration.STAGES else "report"
        wanted = f"results/{dataset}/{stage}/manifest.json"
        if dataset not in plan.datasets:
            remedy = f"use one of: {first_few(plan.datasets)}"
            raise BadInput(Problem("HW-CF-011", target, f"there is no dataset {dataset!r}", remedy))
        if target != wanted:
            raise BadInput(
                Problem("HW-CF-011", target, "is no target: a stage is made with its manifest", f"type {wanted}")
            )


def _refuse_what_cannot_fit(plan: configuration.Plan, threads: int) -> None:
    """Say which stage will need more than it may use, before any has begun."""
    from heatwalk import needs

    rows, _ = needs.of_config(plan, threads, missing_in=Path("results"))  # bad inputs speak for themselves
    problems = needs.check(rows, configuration.memory_bytes(plan.config["memory"]), Path("results"))
    if problems:
        raise OutOfResources(*problems)


def _snakemake(configfile: tuple[Path, ...]) -> list[str]:
    files = [str(path) for path in configfile if configuration.load(path)]  # Snakemake refuses an empty one
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(_top() / "Snakefile")]
    return [*command, *(["--configfile", *files] if files else [])]


def _config(configfile: tuple[Path, ...]) -> dict:
    """The working folder's config/config.yaml with the given files on top, as Snakemake merges them."""
    merged: dict = {}
    standard = Path("config/config.yaml")
    for path in (*([standard] if standard.exists() else []), *configfile):
        merged = configuration.complete(configuration.load(path), merged)
    return merged


def _top() -> Path:
    """The folder that holds workflow/: the working folder or the nearest above, or that of this installation."""
    places = [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2]]
    for place in places:
        if (place / "workflow" / "Snakefile").is_file() and (place / "scripts" / "diffusion_map.py").is_file():
            return place
    cause = "there is no heatwalk workflow here, nor in any folder above"
    raise BadInput(Problem("HW-CF-009", f"{Path.cwd()}", cause, "change to a clone of the heatwalk repository"))


def _planned(source: str, configfile: tuple[Path, ...]) -> configuration.Plan | None:
    """The plan, where INPUT is the name of one of its datasets."""
    if Path(source).exists() or any(mark in source for mark in "=:/"):
        return None
    plan = configuration.Plan(_config(configfile), _top())
    return plan if source in plan.datasets else None


def _of_row(plan: configuration.Plan, name: str) -> dict:
    """How to open the source of a dataset."""
    row, memory = plan.datasets[name], configuration.memory_bytes(plan.config["memory"])
    chosen = {"source": row.source, "kind": row.kind, "layer": row.layer, "columns": row.columns}
    return {**chosen, "memory": memory, "base": plan.base, "roots": plan.roots}


def _request(source: str, kind: str, layer: str, columns: str) -> dict:
    """How to open a path of the working folder."""
    path = Path(source)
    parts = [source] if path.exists() else [part.partition("=")[2] or part for part in source.split(";")]
    roots = {_beside(part) for part in parts}
    chosen = tuple(name.strip() for name in columns.split(",") if name.strip())
    installed = filter(None, [configuration.installed_data()])
    return {
        "source": source,
        "kind": kind,
        "layer": layer,
        "columns": chosen,
        "base": Path(),
        "roots": [*roots, *installed],
    }


def _beside(part: str) -> Path | str:
    """The folder, or the URL, that a source lies in."""
    return part.rpartition("/")[0] if remote.is_remote(part) else Path(os.path.abspath(part)).parent


def _unlock(configfile: tuple[Path, ...]) -> None:
    """Remove the workflow's lock, whose holder is dead."""
    if any(Path(".snakemake/locks").glob("*")):
        subprocess.run([*_snakemake(configfile), "--cores", "1", "--unlock"], check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
