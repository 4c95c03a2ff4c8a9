"""Files of an inbox: told apart from those still being written, known by content, taken, or quarantined with a report.

    inbox/                     where files and folders appear
    inbox/taken/NAME/          the source of dataset NAME, and delivery.json: its content's SHA-256 and its row
    inbox/quarantine/NAME/     one that cannot be mapped, and report.txt
    inbox/duplicates/          those whose content was taken before

All moves are renames within the inbox, and `delivery.json` stands before the file arrives beside it: wherever a process
is killed, `recover` puts the rest in order.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from heatwalk.config import Plan
from heatwalk.errors import BadInput, Problem
from heatwalk.files import hash_file, replace_file
from heatwalk.remote import is_remote
from heatwalk.store import read_json
from heatwalk.table import with_row, without_row

FOLDERS = ("taken", "quarantine", "duplicates")
UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".filepart", ".crdownload", ".download", ".lock")
_FORMATS = re.compile(r"(\.(h5ad|h5|zarr|npy|npz|csv|tsv))?(\.gz)?$", re.IGNORECASE)
_MEANING_IN_A_SOURCE = re.compile(r"[\t\r\n;={}]")


class Delivery(NamedTuple):
    """One file or folder of the inbox that was taken."""

    name: str  # of its dataset
    file: str  # its name when it arrived
    sha256: str  # of its content
    received: str
    row: dict[str, str]  # its row of datasets.tsv


class Inbox:
    """An inbox, and the row that its files get."""

    def __init__(self, folder: Path, plan: Plan, reference: str, stages: str, settle: float):
        self.folder, self.table, self.settle = folder, plan.table.resolve(), settle
        self.taken = folder / "taken"
        _check_folder(folder, plan)
        row = plan.datasets[reference]
        chosen = {"kind": row.kind, "layer": row.layer, "columns": ",".join(row.columns), "space": row.space}
        self.row = {**chosen, "reference": reference, "stages": stages}
        self.row |= {"space": "" if row.space == "euclidean" else row.space}

    def arrivals(self) -> tuple[list[Path], list[Path]]:
        """Files and folders that have arrived whole, and those still being written."""
        now, settled, writing = self._clock(), [], []
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(".") or path.name in FOLDERS:
                continue
            unfinished = path.name.lower().endswith(UNFINISHED)
            (writing if unfinished or not self._settled(path, now) else settled).append(path)
        return settled, writing

    def _clock(self) -> float:
        """The time by the inbox's own file system, which may not be that of this machine."""
        probe = self.folder / f".clock.{uuid.uuid4().hex}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()

    def _settled(self, path: Path, now: float) -> bool:
        """Nothing in it changed for `settle` seconds, and no process of this machine has it open for writing.

        The time of change of the entry (ctime) counts too: copies that keep times set the other one back.
        """
        try:
            latest = max(max(state.st_mtime, state.st_ctime) for state in map(os.lstat, [path, *path.rglob("*")]))
            return now - latest >= self.settle and not any(_has_writer(file) for file in _files(path))
        except OSError:  # it vanished or was renamed
            return False

    def take(self, path: Path, taken_names: Iterable[str]) -> str:
        """Make an arrival the source of a new dataset; its name.

        "" when it was still changing, and when its content was taken before: then it lies in `duplicates`.
        """
        before = _state(path)
        digest = content(path)
        if _state(path) != before:
            return ""
        if digest in (delivery.sha256 for delivery in self.deliveries()):
            self._set_aside(path)
            return ""
        name = _free_name(path.name, {*taken_names, *(home.name for home in self.taken.glob("*"))})
        file = _plain(path.name)
        source = os.path.relpath((self.taken / name / file).resolve(), self.table.parent)
        delivery = Delivery(name, path.name, digest, _now(), {"name": name, "source": source, **self.row})
        draft = self.taken / f".{name}.{uuid.uuid4().hex}"
        draft.mkdir(parents=True)
        replace_file(draft / "delivery.json", json.dumps(delivery._asdict(), indent=1).encode())
        draft.rename(self.taken / name)
        path.rename(self.taken / name / file)
        with_row(self.table, delivery.row)
        return name

    def _set_aside(self, path: Path) -> None:
        folder = self.folder / "duplicates"
        folder.mkdir(exist_ok=True)
        path.rename(folder / _free_name(path.name, {other.name for other in folder.iterdir()}, keep=True))

    def deliveries(self) -> list[Delivery]:
        """What was taken, in no order; a folder whose file has not arrived is none."""
        found = [read_json(path) for path in self.taken.glob("[!.]*/delivery.json") if len(os.listdir(path.parent)) > 1]
        return [Delivery(**content) for content in found if isinstance(content, dict) and "sha256" in content]

    def recover(self, plan: Plan) -> list[Problem]:
        """Put in order what a killed process left. A delivery without a row gets it back, if its reference stands."""
        for home in self.taken.glob("*"):
            with suppress(FileNotFoundError):
                if home.name.startswith(".") or os.listdir(home) in ([], ["delivery.json"]):
                    shutil.rmtree(home)
        lost = [delivery for delivery in self.deliveries() if delivery.name not in plan.datasets]
        problems = []
        for delivery in lost:
            if delivery.row["reference"] in plan.datasets:
                with_row(self.table, delivery.row)
                continue
            cause = f"has no row in {plan.table}, and its reference {delivery.row['reference']!r} is not there either"
            remedy = "write the rows again, or delete this folder"
            problems.append(Problem("HW-BA-004", f"{self.taken / delivery.name}", cause, remedy))
        return problems

    def quarantine(self, name: str, lines: list[str]) -> Path:
        """Take a delivery's row away, and move it to `quarantine` with its report; where it is then."""
        (delivery,) = (delivery for delivery in self.deliveries() if delivery.name == name)
        home = self.taken / name
        text = f"{delivery.file}, received {delivery.received}, SHA-256 {delivery.sha256}"
        lines = [line.replace(f"{home.resolve()}{os.sep}", "") for line in lines]  # where it will no longer lie
        replace_file(home / "report.txt", _bytes("\n".join([text, *lines, ""])))
        without_row(self.table, name)
        target = self._place(name)
        home.rename(target)
        return target

    def refuse(self, path: Path, problems: Iterable[Problem]) -> Path:
        """Move an arrival that is not even read to `quarantine`, with its report; where it is then."""
        target = self._place(_free_name(path.name, ()))
        target.mkdir()
        lines = [f"{path.name}, seen {_now()}", *map(str, problems), ""]
        replace_file(target / "report.txt", _bytes("\n".join(lines)))
        path.rename(target / _plain(path.name))
        return target

    def _place(self, name: str) -> Path:
        folder = self.folder / "quarantine"
        folder.mkdir(exist_ok=True)
        return folder / _free_name(name, {other.name for other in folder.iterdir()}, keep=True)

    def holds(self, plan: Plan, name: str) -> bool:
        """Was this dataset delivered here?"""
        return name in plan.datasets and (self.taken / name / "delivery.json").exists()


def content(path: Path) -> str:
    """SHA-256 of a file, or of the sorted lines "name SHA-256" of a folder's files; BadInput of what is not read."""
    odd = [other for other in [path, *path.rglob("*")] if other.is_symlink() or not (other.is_dir() or other.is_file())]
    if odd:
        remedy = "deliver a copy with its files: cp -rL"
        raise BadInput(Problem("HW-IN-004", f"{path}", f"{odd[0].name} is a link or a special file", remedy))
    try:
        hashes = {file: hash_file(file) for file in sorted(_files(path))}
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = "make it readable for the user that runs `heatwalk batch`, and put it into the inbox again"
        raise BadInput(Problem("HW-BA-002", f"{path}", f"cannot be read ({error})", remedy)) from None
    if path in hashes:
        return hashes[path]
    lines = "".join(f"{file.relative_to(path)} {digest}\n" for file, digest in hashes.items())
    return hashlib.sha256(_bytes(lines)).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # names of files need not be UTF-8


def _files(path: Path) -> list[Path]:
    return [file for file in [path, *path.rglob("*")] if file.is_file() and not file.is_symlink()]


def _state(path: Path) -> list[tuple]:
    return [(file, state.st_size, state.st_mtime_ns) for file in sorted(_files(path)) for state in [file.stat()]]


def _has_writer(file: Path) -> bool:
    """Does a process of this machine have the file open for writing? Asked of the kernel, by a lease for reading."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent to who holds a lease that another process breaks
    try:
        with open(file, "rb") as opened:
            fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    except BlockingIOError:
        return True
    except (OSError, AttributeError):  # another's file, a file system or a system without leases: times alone tell
        return False
    finally:
        signal.signal(signal.SIGIO, before)


def _check_folder(folder: Path, plan: Plan) -> None:
    where = f"inbox {folder}"
    if not folder.is_dir():
        raise BadInput(
            Problem("HW-BA-001", where, "there is no such folder", "create it, or name another with --inbox")
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(Problem("HW-BA-001", where, "cannot be written", "files are moved within it: allow that"))
    real = folder.resolve()
    if not any(real.is_relative_to(Path(root).resolve()) for root in plan.roots if not is_remote(root)):
        cause = "lies outside the folders that may be read"
        raise BadInput(Problem("HW-BA-001", where, cause, f"add {real} to `roots`, or move it below {plan.base}"))
    if _MEANING_IN_A_SOURCE.search(os.path.relpath(real, plan.table.resolve().parent)):
        cause = "its path has a character that means something in the column source (a tab, ; = { })"
        raise BadInput(Problem("HW-BA-001", where, cause, "rename the folder"))


def _plain(file: str) -> str:
    """The name of a file without what means something in a table or in a source, and not one of ours."""
    plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", file).lstrip(".-") or "file"
    return f"file-{plain}" if plain in ("delivery.json", "report.txt") else plain


def _free_name(file: str, used: Iterable[str], keep: bool = False) -> str:
    """A dataset's name after its file: `patient 7.h5ad` -> patient_7, and patient_7-2 where that is used.

    >>> _free_name("patient 7.h5ad", []), _free_name("a.csv.gz", ["a"]), _free_name("a.csv", ["a.csv"], keep=True)
    ('patient_7', 'a-2', 'a.csv-2')
    """
    plain = _plain(file)
    stem = plain if keep else re.sub(r"[^A-Za-z0-9_.-]", "_", _FORMATS.sub("", plain)).lstrip("_.-")[:58] or "batch"
    used, name, number = set(used), stem, 1
    while name in used:
        number += 1
        name = f"{stem}-{number}"
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
