"""The command `heatwalk`: run, resume, plan, validate, verify."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from heatwalk import config as configuration
from heatwalk import store
from heatwalk.compute import available_threads
from heatwalk.errors import BadInput, HeatwalkError, Locked, OutOfResources, Problem, first_few
from heatwalk.program import explain
from heatwalk.rules import failures

_EVERYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}
_GRACE_SECONDS = 60  # that a program without its Snakemake may take to be loaded and to end


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="heatwalk")
def main() -> None:
    """Diffusion geometry for cell atlases. Exit codes: 2 bad input, 3 locked, 4 resources."""


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
        _wait_for_orphans()
        if any(Path(".snakemake/locks").glob("*")):
            subprocess.run(
                [*_snakemake(configfile), "--cores", "1", "--unlock"], check=False, stderr=subprocess.DEVNULL
            )
    _end(_run(configfile, cores, ("--rerun-incomplete", *snakemake_arguments)))


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
@click.argument("path", type=click.Path(path_type=Path), default=Path("results"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(path: Path, as_json: bool) -> None:
    """Check every result at or under PATH against its own hashes; exit 0 when all is whole, 2 otherwise."""
    folders = store.results_under(path) if path.exists() else []
    if not folders:
        _end(BadInput(Problem("HW-ST-006", f"{path}", "there are no results here", "name a results folder")))
    problems = [problem for folder in folders for problem in store.verify(folder)]
    if as_json:
        found = [problem._asdict() for problem in problems]
        click.echo(json.dumps({"results": len(folders), "whole": not problems, "problems": found}, indent=1))
    else:
        click.echo("\n".join(map(str, problems)) or f"{path}: all {len(folders)} results are whole")
    sys.exit(BadInput.exit_code if problems else 0)


def _run(configfile: tuple[Path, ...], cores: str, arguments: tuple[str, ...]) -> HeatwalkError | int:
    """Check the configuration, run Snakemake, and find out what a failed stage ended with."""
    try:
        plan = configuration.Plan(_config(configfile), _top())
        _refuse_targets(plan, arguments)
        _refuse_lock()
        _refuse_folder()
        _refuse_what_cannot_fit(plan, cores)
        started = time.time_ns()
        code = subprocess.run([*_snakemake(configfile), "--cores", cores, *arguments], check=False).returncode
        new = [failure for failure in failures() if failure["time_ns"] >= started]
        if code and not new:
            _refuse_lock()  # another run was a moment faster
    except HeatwalkError as error:
        return error
    return new[0]["exit_code"] if code and new else code


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


def _refuse_what_cannot_fit(plan: configuration.Plan, cores: str) -> None:
    """Say which stage will need more than it may use, before any has begun."""
    from heatwalk import needs

    rows, _ = needs.of_config(
        plan, _threads(plan, cores), missing_in=Path("results")
    )  # bad inputs speak for themselves
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
    roots = {Path(os.path.abspath(part)).parent for part in parts}
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


def _others(*, programs: bool = True) -> list[int]:
    """Processes of another Snakemake run in the working folder, with the stage programs or without."""
    import psutil

    mine, found = {process.pid for process in [psutil.Process(), *psutil.Process().parents()]}, []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        line = process.info["cmdline"] or []
        runs = any(Path(part).name == "snakemake" for part in line[:3]) or (programs and "--block-cells" in line)
        if runs and process.info["cwd"] == os.getcwd() and process.pid not in mine:
            found.append(process.pid)
    return found


def _refuse_folder() -> None:
    """Say that nothing can be written here, before Snakemake fails over it."""
    try:
        Path("results", ".work").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path("results", ".work")):
            pass
    except OSError as error:
        raise explain(error, Path("results")) from None


def _refuse_lock() -> None:
    """Say who holds the workflow's lock, or that its holder is dead."""
    if not any(Path(".snakemake/locks").glob("*")):
        return
    others = _others()
    if others:
        cause, remedy = f"process {others[0]} is running the workflow in this folder", "wait until it ends"
    else:
        cause, remedy = "a run that was killed left its lock", "type: heatwalk resume"
    raise Locked(Problem("HW-LK-002", ".snakemake/locks", cause, remedy))


def _wait_for_orphans() -> None:
    """Stage programs end with the Snakemake that started them; give them a moment, and refuse a run that lives."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while _others():
        if _others(programs=False) or time.monotonic() > deadline:
            _refuse_lock()
            return
        time.sleep(0.2)


@contextmanager
def _explained() -> Iterator[None]:
    """A failure within the block is printed as its lines, and ends the command with its exit code."""
    try:
        yield
    except HeatwalkError as error:
        _end(error)


def _end(outcome: HeatwalkError | int) -> None:
    if isinstance(outcome, HeatwalkError):
        click.echo("\n".join(map(str, outcome.problems)), err=True)
        sys.exit(outcome.exit_code)
    sys.exit(outcome)


if __name__ == "__main__":
    main()
