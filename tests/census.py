"""The census of the qualification: what was tried and what failed, by stage and kind, kept from one run to the next.

Tests of the qualification are marked `qualification(kind)`. What passed is written to
.qualification/census.jsonl and left out of the next run of the same code; a changed line starts it anew.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
import qualified

_BOOK = qualified.KEPT / "census.jsonl"


def _entries() -> list[dict]:
    """What was tried with the code that stands here now, tests included."""
    entries = [json.loads(line) for line in _BOOK.read_text().splitlines()] if _BOOK.exists() else []
    return [entry for entry in entries if entry["code"] == _code(entry["file"])]


def _code(file: str) -> str:
    return qualified.code_of(Path(qualified.__file__), qualified.ROOT / file)


def pytest_collection_modifyitems(config, items) -> None:
    """Leave out what has passed, where the qualification alone is run, and mix the rest."""
    if config.option.markexpr != "qualification" or not any(item.get_closest_marker("qualification") for item in items):
        return
    passed = {entry["test"] for entry in _entries() if not entry["failures"]}
    done = [item for item in items if item.nodeid in passed]
    if done:
        items[:] = [item for item in items if item.nodeid not in passed]
        config.hook.pytest_deselected(items=done)
    items.sort(key=_place)


def _place(item) -> tuple:
    """All kinds and stages in one random order, always the same; files with fixtures of their own come last."""
    if item.path.name.startswith("test_qualification_"):
        return 0, hashlib.sha256(item.nodeid.encode()).hexdigest()
    return 1, item.path.name


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report, marker = outcome.get_result(), item.get_closest_marker("qualification")
    if not marker or item.config.option.markexpr != "qualification":
        return
    if not (report.when == "call" or report.failed) or report.skipped:
        return
    kind = marker.args[0] if marker.args else "other"
    stage = (hasattr(item, "callspec") and item.callspec.params.get("stage")) or "all"
    noted = dict(report.user_properties)
    entry = {
        "test": item.nodeid,
        "file": str(item.path.relative_to(qualified.ROOT)),
        "code": _code(str(item.path.relative_to(qualified.ROOT))),
        "kind": kind,
        "stage": stage,
        "trials": noted.get("trials", {stage: 1}),
        "failures": noted.get("failures", 1) if report.failed else 0,
        "seconds": round(report.duration, 1),
        "said": noted.get("said", ""),
    }
    qualified.KEPT.mkdir(exist_ok=True)
    with open(_BOOK, "a") as book:
        book.write(json.dumps(entry) + "\n")


def pytest_terminal_summary(terminalreporter, config) -> None:
    if config.option.markexpr == "qualification" and _entries():
        terminalreporter.section("census of the qualification")
        terminalreporter.write_line(table(_entries()))


def table(entries: list[dict]) -> str:
    """Trials and failures by stage and kind, as Markdown; of a test that ran twice the later run counts."""
    trials, failures, seconds = Counter(), Counter(), Counter()
    for entry in {entry["test"]: entry for entry in entries}.values():
        for stage, number in entry["trials"].items():
            trials[stage, entry["kind"]] += number
        failures[entry["stage"], entry["kind"]] += entry["failures"]
        seconds[entry["kind"]] += entry["seconds"]
    kinds = list(dict.fromkeys(kind for _, kind in trials))
    order = [*qualified.stages(), "all"]
    rows = sorted(
        {stage for stage, _ in trials}, key=lambda stage: order.index(stage) if stage in order else len(order)
    )
    lines = ["| stage | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for stage in rows:
        cells = (_cell(trials[stage, kind], failures[stage, kind]) for kind in kinds)
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    sums = (_cell(sum(trials[row, kind] for row in rows), sum(failures[row, kind] for row in rows)) for kind in kinds)
    lines.append("| sum | " + " | ".join(sums) + " |")
    lines.append("| minutes | " + " | ".join(f"{seconds[kind] / 60:.1f}" for kind in kinds) + " |")
    lines.append(f"\n{sum(trials.values())} trials, {sum(failures.values())} failures")
    return "\n".join(lines)


def _cell(trials: int, failures: int) -> str:
    return f"{trials}, **{failures} failed**" if failures else f"{trials}" if trials else ""


if __name__ == "__main__":
    print(table(_entries()))
