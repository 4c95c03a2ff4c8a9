"""New cells, as they come: rows of the table and files of an inbox, judged, then mapped or quarantined.

    arrivals -> taken -> judged -> mapped
                           |-----> quarantined, with a report

What is new is read off the disk each time: a query whose results are not all there. So a run may be killed at any
moment, and the next one goes on. Sources are judged in a process of their own (`python -m heatwalk.batch`): one that
makes a reader crash is quarantined like any other bad one.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from heatwalk import store
from heatwalk.config import OF_A_QUERY, Plan
from heatwalk.errors import BadInput, HeatwalkError, Problem, first_few
from heatwalk.inbox import Inbox
from heatwalk.inputs import fingerprint, resolve
from heatwalk.lock import hold

LOG = Path("logs", "batch.log")
_RESULTS = Path("results")
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}


class Run(NamedTuple):
    """How Snakemake is started here: with arguments and a file for what it prints; its exit code."""

    plan: Callable[[], Plan]
    snakemake: Callable[[list[str], Path], int]


class Counts(NamedTuple):
    """What became of the batches of one run, by name."""

    mapped: list[str]
    quarantined: list[str]
    twice: list[str]
    writing: list[str]
    waiting: list[str]  # failed for another reason than what they hold; the next run tries again
    aside: list[str]  # rows quarantined before and not changed since

    def __str__(self) -> str:
        names = ("mapped", "quarantined", "delivered twice", "still being written", "failed", "quarantined before")
        found = dict(zip(names, map(len, self), strict=True))
        return ", ".join(f"{count} {name}" for name, count in found.items() if count or name in names[:2])


def batch(run: Run, inbox: Inbox | None, say: Callable[[str], None]) -> tuple[Counts, int]:
    """Map what is new; what became of it, and the exit code: 2 when anything was quarantined, 4 or 1 when it failed.

    say: takes each line for people. Hold `lock()` around it.
    """
    counts = Counts([], [], [], [], [], [])
    if inbox:
        _take(run.plan(), inbox, counts, say)
    plan = run.plan()
    new = [name for name in queries(plan) if not _finished(plan, name)]
    counts.aside.extend(name for name in new if _still_bad(plan, name, inbox))
    new = [name for name in new if name not in counts.aside]
    good, code = [], _leave(plan, new, _unfinished(plan, new), counts, say)
    for name, lines, exit_code in judged(plan, new):
        if not lines:
            good.append(name)
        elif exit_code == BadInput.exit_code:
            _quarantine(plan, name, lines, inbox, counts, say)
        else:
            counts.waiting.append(name)
            code = exit_code
            say("\n".join(lines))
    code = max(code, _map(run, plan, good, inbox, counts, say) if good else 0)
    return counts, BadInput.exit_code if counts.quarantined else code


def opened(plan: Plan, folder: Path, reference: str, stages: str, settle: float) -> Inbox:
    """The inbox, whose files are mapped onto `reference`, or onto the only one of the table."""
    known = [name for name, row in plan.datasets.items() if not row.reference]
    if not reference and len(known) == 1:
        reference = known[0]
    if reference not in known:
        cause = f"{reference!r} is no dataset that others can be mapped onto" if reference else "there are several"
        raise BadInput(Problem("HW-BA-001", "--reference", cause, f"use one of: {first_few(known)}"))
    unknown = [stage for stage in stages.split(",") if stages and stage.strip() not in OF_A_QUERY]
    if unknown:
        cause = f"a query has no stage {unknown[0].strip()!r}"
        raise BadInput(Problem("HW-BA-001", "--stages", cause, f"use some of: {', '.join(OF_A_QUERY)}"))
    return Inbox(folder, plan, reference, stages, settle)


def lock():
    """One run of `heatwalk batch` at a time in a working folder."""
    return hold(_RESULTS / ".work" / "batch.lock", "HW-LK-003", "heatwalk batch", "mapping batches in this folder")


def lock_inbox(folder: Path):
    """And one for an inbox, from whatever working folder."""
    return hold(folder / ".batch.lock", "HW-LK-003", f"inbox {folder}", "mapping the batches of this inbox")


def queries(plan: Plan) -> list[str]:
    return [name for name, row in plan.datasets.items() if row.reference]


def _finished(plan: Plan, name: str) -> bool:
    return all(path.exists() for path in _manifests(plan, name))


def _manifests(plan: Plan, name: str) -> list[Path]:
    return [_RESULTS / name / stage / "manifest.json" for stage in plan.wanted(name)]


def _take(plan: Plan, inbox: Inbox, counts: Counts, say) -> None:
    for problem in inbox.recover(plan):
        say(f"{problem}")
    settled, writing = inbox.arrivals()
    counts.writing.extend(path.name for path in writing)
    # Results of a dataset that left the table may still be there.
    used = {*plan.datasets, *(path.name for path in _RESULTS.glob("*"))}
    for path in settled:
        try:
            name = inbox.take(path, used)
        except BadInput as error:
            place = inbox.refuse(path, error.problems)
            counts.quarantined.append(path.name)
            say("\n".join([*map(str, error.problems), f"quarantined: {path.name}, see {place}/report.txt"]))
            continue
        except FileNotFoundError:  # taken back by who brought it
            continue
        if not name:
            (counts.writing if path.exists() else counts.twice).append(path.name)
        used.add(name)


def judged(plan: Plan, names: list[str]) -> Iterable[tuple[str, list[str], int]]:
    """Name, lines of problems and exit code of each, by a process that may crash over one of them."""
    waiting = list(names)
    while waiting:
        given = {"config": plan.config, "top": str(plan.top), "names": waiting}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-m", "heatwalk.batch"], text=True, **pipes) as child:
            with suppress(BrokenPipeError), child.stdin:  # it may have died already
                child.stdin.write(json.dumps(given))
            for line in child.stdout:
                name, lines, code = json.loads(line)
                waiting.remove(name)
                yield name, lines, code
        ended = child.returncode
        if not waiting:
            return
        name, crashed = waiting.pop(0), -ended in _CRASHES
        cause = f"the process that read it ended with {signal.Signals(-ended).name if ended < 0 else ended}"
        remedy = "the file is damaged or hostile: get it from its source again" if crashed else "run again"
        problem = Problem("HW-BA-003", f"{plan.datasets[name].source}", cause, remedy)
        yield name, [str(problem)], BadInput.exit_code if crashed else HeatwalkError.exit_code


def _judge_for_parent() -> None:
    """What `judged` asks a child: a JSON line for each name."""
    from heatwalk import asked
    from heatwalk.program import die_with_parent, explain

    die_with_parent()
    given, answers = json.load(sys.stdin), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    plan = Plan(given["config"], Path(given["top"]))
    for name in given["names"]:
        try:
            found, code = asked.everything(plan, name, _RESULTS), BadInput.exit_code
        except Exception as error:
            explained = explain(error, Path(plan.datasets[name].source))
            found, code = explained.problems, explained.exit_code
        print(json.dumps([name, list(map(str, found)), code if found else 0]), file=answers, flush=True)


def _map(run: Run, plan: Plan, names: list[str], inbox, counts: Counts, say) -> int:
    """Run the stages of these queries, and nothing of their references; the exit code of what failed."""
    code = _leave(plan, names, _stale(run, plan, names), counts, say)
    references, started = {plan.datasets[name].reference for name in names}, time.time_ns()
    with ExitStack() as held:
        for manifest in (path for name in sorted(references) for path in _RESULTS.glob(f"{name}/*/manifest.json")):
            held.enter_context(store.lock(manifest.parent))
        arguments = ["--rerun-incomplete", "--keep-going", *_targets(plan, names)]
        ended = run.snakemake(arguments, LOG.with_suffix(".snakemake.log")) if names else 0
    for name in names:
        failed = [failure for failure in _failures(name) if failure["time_ns"] >= started]
        if _finished(plan, name) and not failed:
            counts.mapped.append(name)
        elif failed and failed[0]["exit_code"] == BadInput.exit_code:
            _quarantine(plan, name, failed[0]["lines"], inbox, counts, say)
        else:
            counts.waiting.append(name)
            cause = f"Snakemake ended with {ended} before it was mapped"
            remedy = f"see {LOG.with_suffix('.snakemake.log')}; the next run tries again"
            lines = failed[0]["lines"] if failed else [str(Problem("HW-BA-006", name, cause, remedy))]
            code = max(code, failed[0]["exit_code"] if failed else HeatwalkError.exit_code)
            say("\n".join(lines))
    return code


def _failures(name: str) -> list[dict]:
    found = [store.read_json(path) for path in (_RESULTS / ".work" / name).glob("*.failure.json")]
    return sorted(filter(None, found), key=lambda failure: failure["time_ns"])


def _leave(plan: Plan, names: list[str], problems: dict[str, Problem], counts: Counts, say) -> int:
    """Take out of `names` the batches of references that have a problem; the exit code of that."""
    left = [name for name in names if plan.datasets[name].reference in problems]
    names[:] = [name for name in names if name not in left]
    counts.waiting.extend(left)
    for problem in problems.values():
        say(f"{problem}")
    return BadInput.exit_code if problems else 0


def _unfinished(plan: Plan, names: list[str]) -> dict[str, Problem]:
    """References whose results are not all there."""
    found = {}
    for reference in sorted({plan.datasets[name].reference for name in names}):
        missing = [str(path) for path in _manifests(plan, reference) if not path.exists()]
        if missing:
            cause = f"{len(missing)} of its results are not there ({first_few(missing, 2)}); a batch makes none of them"
            remedy = f"type: heatwalk run {' '.join(missing)}"
            found[reference] = Problem("HW-BA-005", f"reference {reference}", cause, remedy)
    return found


def _stale(run: Run, plan: Plan, names: list[str]) -> dict[str, Problem]:
    """References of which something would be made again, by a dry run."""
    log, found = LOG.with_suffix(".plan.log"), {}
    if run.snakemake(["-n", "--rerun-incomplete", *_targets(plan, names)], log):
        raise HeatwalkError(Problem("HW-BA-006", "heatwalk batch", "Snakemake cannot plan the run", f"see {log}"))
    said = log.read_text(errors="replace")
    for reference in sorted({plan.datasets[name].reference for name in names}):
        stages = re.findall(rf"output: results/{re.escape(reference)}/(\w+)/manifest\.json", said)
        if stages:
            cause = f"{first_few(stages)} would be made again: its source, options or heatwalk changed"
            remedy = "type: heatwalk run, which makes it and its queries anew, or put the change back"
            found[reference] = Problem("HW-BA-005", f"reference {reference}", cause, remedy)
    return found


def _targets(plan: Plan, names: list[str]) -> list[str]:
    return [str(path) for name in names for path in _manifests(plan, name)]


def _quarantine(plan: Plan, name: str, lines: list[str], inbox: Inbox | None, counts: Counts, say) -> None:
    """Put a bad batch away with its report: a delivery leaves the table, a row that a person wrote is left alone."""
    if inbox and inbox.holds(plan, name):
        place = inbox.quarantine(name, lines)
        for folder in (_RESULTS / name, _RESULTS / ".work" / name):
            shutil.rmtree(folder, ignore_errors=True)
    else:
        place = _reports(name)
        place.mkdir(parents=True, exist_ok=True)
        text = [f"{name}, {plan.datasets[name].source}, judged {_now()}", *lines, ""]
        store.replace_file(place / "report.txt", "\n".join(text).encode())
        store.replace_file(place / "judged.json", json.dumps(_judged(plan, name)).encode())
    counts.quarantined.append(name)
    say("\n".join([*lines, f"quarantined: {name}, see {place}/report.txt"]))


def _reports(name: str) -> Path:
    return Path("quarantine") / name


def _still_bad(plan: Plan, name: str, inbox: Inbox | None) -> bool:
    """Was this row quarantined, and are its source, its options and its reference what they were then?"""
    if inbox and inbox.holds(plan, name):
        return False
    known = store.read_json(_reports(name) / "judged.json")
    if known == _judged(plan, name):
        return True
    shutil.rmtree(_reports(name), ignore_errors=True)
    return False


def _judged(plan: Plan, name: str) -> str:
    row = plan.datasets[name]
    try:
        source = fingerprint(place for _, place in resolve(row.source, base=plan.base, roots=plan.roots))
    except BadInput as error:
        source = str(error)
    stages = plan.wanted(name)
    lent = sorted({lent for stage in stages for lent in plan.borrowed(name, stage)})
    manifests = [store.read_json(_RESULTS.joinpath(*names, "manifest.json")) or {} for names in lent]
    options = {stage: plan.options(name, stage) for stage in stages}
    state = [row, source, options, [manifest.get("root") for manifest in manifests]]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def note(line: str) -> None:
    """Keep the summary line of a run in logs/batch.log."""
    LOG.parent.mkdir(exist_ok=True)
    with open(LOG, "a", encoding="utf-8") as file:
        file.write(f"{_now()} {line}\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    _judge_for_parent()
