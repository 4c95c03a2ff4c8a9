"""The table of datasets, changed by one row at a time; everything else in it stays as a person wrote it."""

import os
from collections.abc import Mapping
from pathlib import Path

from heatwalk.files import replace_file


def with_row(path: Path, row: Mapping[str, str]) -> None:
    """Add a row at the end; columns that the table lacks and the row fills are added to the header."""
    lines, end = _lines(path)
    place = next(number for number, line in enumerate(lines) if _holds_a_row(line))
    header = lines[place].split("\t")
    names = [name.strip() for name in header]
    added = [name for name, value in row.items() if value and name not in names]
    if added:
        lines[place] = "\t".join([*header, *added])
    fields = [row.get(name, "") for name in [*names, *added]]
    _write(path, [*lines, "\t".join(fields)], end)


def without_row(path: Path, name: str) -> None:
    """Remove the row of a dataset."""
    lines, end = _lines(path)
    place = next(number for number, line in enumerate(lines) if _holds_a_row(line))
    column = [title.strip() for title in lines[place].split("\t")].index("name")
    kept = [
        line
        for number, line in enumerate(lines)
        if number <= place or not _holds_a_row(line) or (line + "\t" * column).split("\t")[column].strip() != name
    ]
    _write(path, kept, end)


def _lines(path: Path) -> tuple[list[str], str]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        text = file.read()
    return text.splitlines(), "\r\n" if "\r\n" in text else "\n"


def _holds_a_row(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _write(path: Path, lines: list[str], end: str) -> None:
    mode = os.stat(path).st_mode
    replace_file(path, "".join(f"{line}{end}" for line in lines).encode())
    os.chmod(path, mode)
