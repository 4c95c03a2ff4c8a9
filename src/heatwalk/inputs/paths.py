"""Where a source may lie: relative to the folder of datasets.tsv or absolute, inside the folders allowed."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from heatwalk import remote
from heatwalk.errors import BadInput, Problem
from heatwalk.inputs.problems import raise_all, suggestion

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
EXAMPLE = "day0=path/a;day3=path/b"
_HASHED_BYTES = 2**25  # sources up to this size are known by content, larger ones by size and time of change


def resolve(source: str, *, base: Path, roots: Sequence[Path | str]) -> list[tuple[str, Path | str]]:
    """Label and place of every part of a source: a path, or a URL of an object store. A single part has no label."""
    if not source.strip():
        raise BadInput(Problem("HW-IN-002", "source", "is empty", f"write a path, or {EXAMPLE}"))
    plain = _exists(source, base)  # a name may hold ; and = itself
    labelled = not plain and (";" in source or re.match(rf"{LABEL.pattern}=", source.strip()))
    problems: list[Problem] = []
    parts: list[tuple[str, str]] = []
    for part in source.split(";") if labelled else [source]:
        label, found, name = part.partition("=") if labelled else ("", "=", part)
        label, name = label.strip(), name if plain else name.strip()
        if labelled and not part.strip():
            continue  # a trailing semicolon
        if labelled and (not found or not LABEL.fullmatch(label) or not name):
            cause = f"{part.strip()!r} is no label=path (labels: letters, digits, _ . + -)"
            problems.append(Problem("HW-IN-002", f"source {source!r}", cause, f"write {EXAMPLE}"))
            continue
        parts.append((label, name))
    labels = [label for label, _ in parts]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        problems.append(Problem("HW-IN-002", f"source {source!r}", f"label {label!r} stands twice", f"write {EXAMPLE}"))
    found_parts = []
    for label, name in parts:
        path, problem = _locate(name, base, roots)
        if problem is not None:
            problems.append(problem)
        elif path in [other for _, other in found_parts]:
            remedy = "name every file once"
            problems.append(Problem("HW-IN-002", f"source {source!r}", f"{name} is listed twice", remedy))
        else:
            found_parts.append((label, path))
    raise_all(problems)
    return found_parts


def _exists(source: str, base: Path) -> bool:
    try:
        return Path(base, source).exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _locate(name: str, base: Path, roots: Sequence[Path | str]) -> tuple[Path | str, Problem | None]:
    """The real path, links in the name followed, or the URL, and what is wrong with it."""
    if remote.is_remote(name):
        return name, _outside(name, [root.rstrip("/") for root in roots if remote.is_remote(root)])
    roots = [root for root in roots if not remote.is_remote(root)]
    if name.startswith("scanpy:"):
        folder = _scanpy_datasets()
        if folder is None:
            remedy = "pip install scanpy, or name a file of your own"
            return Path(), Problem("HW-IN-001", f"source {name!r}", "scanpy is not installed", remedy)
        place, roots = folder / name.removeprefix("scanpy:"), [folder]
    else:
        place = Path(base, name)
    try:
        real = place.resolve()
        if not any(real.is_relative_to(Path(root).resolve()) for root in roots):
            allowed = ", ".join(str(root) for root in roots) or "none"
            cause = f"lies at {real}, outside the folders that may be read ({allowed})"
            remedy = f"move it there, or add {real.parent} to the folders that may be read (`roots`)"
            return real, Problem("HW-IN-003", f"source {name!r}", cause, remedy)
        if real.exists():
            return real, None
        beside = [entry.name for entry in real.parent.glob("[!.]*")] if real.parent.is_dir() else []
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links, a null byte
        return Path(), Problem("HW-IN-002", f"source {name!r}", f"is no path ({error})", "correct the path")
    remedy = f"{suggestion(real.name, sorted(beside))}; paths are relative to {base}" if beside else "correct the path"
    return real, Problem("HW-IN-001", f"source {name!r}", f"there is no {real}", remedy)


def _outside(url: str, roots: list[str]) -> Problem | None:
    """A URL must lie below one that `roots` lists."""
    if any(url.startswith(f"{root}/") for root in roots) and not {".", ".."} & set(url.split("/")):
        return None
    cause = f"lies outside the stores that may be read ({', '.join(roots) or 'none'})"
    return Problem("HW-IN-003", f"source {url!r}", cause, f"add {url.rpartition('/')[0]} to `roots`")


def _scanpy_datasets() -> Path | None:
    found = importlib.util.find_spec("scanpy")  # finds the package without importing it, which takes seconds
    if found is None or not found.submodule_search_locations:
        return None
    return (Path(found.submodule_search_locations[0]) / "datasets").resolve()


def fingerprint(places: Iterable[Path | str]) -> str:
    """Short hash by which a changed source is noticed, whatever its time of change says; of a URL by its tags."""
    places = list(places)
    urls = [place for place in places if remote.is_remote(place)]
    paths = [place for place in places if not remote.is_remote(place)]
    files = sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    small = sum(file.stat().st_size for file in files) <= _HASHED_BYTES
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file.name} {state.st_size}\n".encode())
        digest.update(file.read_bytes() if small else str(state.st_mtime_ns).encode())
    for url in urls:
        digest.update(f"{url} {remote.state(url)}\n".encode())
    return digest.hexdigest()[:16] if files or urls else ""
