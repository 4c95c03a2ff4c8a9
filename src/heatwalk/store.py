"""How results lie on disk: create, publish, read, verify. No other module knows; `remote_store` copies its names.

    results/{dataset}/{stage}/manifest.json           the only name that ever changes, and the last to change
                              <root>.zarr/            the data; named by its content, so that nothing is overwritten
                              <root>.objects.json     SHA-256 of every object of the data
                              run.json                time, memory, host: what varies between runs, outside every hash
    results/.work/{dataset}/{stage}.lock              names its holder
    results/.work/{dataset}/{stage}/                  drafts and scratch, removed on publication

The root hash is the SHA-256 of the sorted lines "key sha256" of all objects. Who finds a manifest finds everything that
it names whole, or `verify` says what is not.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from heatwalk import schema
from heatwalk.compute import BLOCK_CELLS
from heatwalk.draft import Draft
from heatwalk.errors import BadInput, Locked, Problem, first_few
from heatwalk.files import hash_and_sync, hash_file, hash_tree, replace_file, replace_link
from heatwalk.lock import hold

FORMAT = 1
# Names that publication gives: data under its hash, and a file on its way to its name.
LEFTOVER = re.compile(r"[0-9a-f]{64}(-\d+)?(\.\w+)+|\..+\.[0-9a-f]{32}")
_PUT_BACK = 1.0  # second: Snakemake copies the manifest of before a failed job over that which stands, empty meanwhile
_REMEDY = "delete this folder and run the workflow again: it remakes exactly what is missing"


# ---- create ----------------------------------------------------------------------------------------------------------


def work_folder(folder: Path) -> Path:
    """Where the unfinished work of the result `folder` lies, on the same file system."""
    folder = Path(folder)
    return folder.parent.parent / ".work" / folder.parent.name / folder.name


def create(folder: Path, stage: str, *, block_cells: int = BLOCK_CELLS) -> Draft:
    """A new, empty draft of a result; what earlier writers left is removed. Hold the `lock` while you do."""
    work = work_folder(folder)
    sweep(folder)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return Draft(Path(folder), stage, work / f"{uuid.uuid4().hex}.zarr", block_cells)


# ---- publish ---------------------------------------------------------------------------------------------------------


def publish(
    draft: Draft,
    *,
    parameters: dict,
    code: str,
    inputs: Mapping[str, str],
    files: Mapping[str, Path] | None = None,
    link: str = "",
) -> dict:
    """Make a draft the result: data and `objects.json` first, the manifest last. The previous data stays for `sweep`:
    should the job still fail, Snakemake puts the previous manifest back.

    files: link name -> finished file beside the Zarr data (atlas.h5ad, report.html). link: name of a link to the Zarr
    data itself. Returns the manifest.
    A result without arrays (the report, which shows times) takes its root hash from its parameters and inputs.
    """
    folder, files = draft.folder, dict(files or {})
    shutil.rmtree(draft.scratch, ignore_errors=True)
    has_data = any(draft.group.keys())
    objects = hash_tree(draft.path) if has_data else {}
    objects |= {name: hash_and_sync(path) for name, path in files.items()}
    root = _root(objects) if has_data else _root({"inputs": _digest(inputs), "parameters": _digest(parameters)})
    folder.mkdir(parents=True, exist_ok=True)
    stem, links = _place(draft.path if has_data else None, files, folder, root, objects)
    if link:
        links[link] = f"{stem}.zarr"
    manifest = {
        "format": FORMAT,
        "stage": draft.stage,
        "root": root,
        "data": f"{stem}.zarr" if has_data else None,
        "links": links,
        "objects": hashlib.sha256(_canonical(objects)).hexdigest(),
        "parameters": parameters,
        "code": code,
        "inputs": dict(inputs),
    }
    manifest["sha256"] = _digest(manifest)
    replace_file(folder / "manifest.json", _canonical(manifest))
    _set_links(folder, manifest)
    shutil.rmtree(draft.path.parent, ignore_errors=True)
    return manifest


def _place(data: Path | None, files: Mapping[str, Path], folder: Path, root: str, objects: dict) -> tuple[str, dict]:
    """Rename the data to its own name, unless the same data stands there whole; the name's stem, and the links."""
    number, stem = 1, root
    while True:
        listing = folder / f"{stem}.objects.json"
        names = {name: f"{stem}{Path(name).suffix}" for name in files}
        target = folder / f"{stem}.zarr"
        if not any(path.exists() for path in (listing, target, *(folder / name for name in names.values()))):
            break
        standing = read_json(listing)
        if standing == objects and not _differences(target if data else None, names, folder, objects):
            return stem, names
        number += 1
        stem = f"{root}-{number}"
    if data:
        os.rename(data, target)
    for name, path in files.items():
        os.rename(path, folder / names[name])
    replace_file(listing, _canonical(objects))
    return stem, names


def adopt(draft: Path, folder: Path, manifest: dict) -> None:
    """Make a complete copy of a result, brought from elsewhere, the result of `folder`. Hold the `lock`."""
    _set_links(draft, manifest)
    problems = verify(draft)
    if problems:
        raise BadInput(*problems)
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(path.name for path in draft.iterdir() if not path.is_symlink() and path.name != "manifest.json"):
        target = folder / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        os.rename(draft / name, target)
    replace_file(folder / "manifest.json", (draft / "manifest.json").read_bytes())
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove the data that the manifest does not name, and point the links where it says. Hold the `lock`.

    A damaged manifest names nothing that could be relied on: then nothing is removed.
    """
    folder, manifest = Path(folder), _intact_manifest(Path(folder))
    if manifest:
        _set_links(folder, manifest)
    elif (folder / "manifest.json").exists():
        return
    keep = _names(manifest) if manifest else set()
    for path in folder.glob("*") if folder.is_dir() else ():
        if LEFTOVER.fullmatch(path.name) and path.name not in keep:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def sweep_all(results: Path) -> None:
    """`sweep` every result that nobody is writing."""
    for manifest in Path(results).glob("*/*/manifest.json"):
        with contextlib.suppress(Locked, OSError), lock(manifest.parent):
            sweep(manifest.parent)


def _set_links(folder: Path, manifest: dict) -> None:
    for name, target in manifest["links"].items():
        link = folder / name
        if not (link.is_symlink() and os.readlink(link) == target):
            replace_link(link, target)


def _names(manifest: dict) -> set[str]:
    """Every name in the folder that a manifest answers for, itself apart."""
    links = manifest["links"]
    names = {*links, *links.values()} | ({manifest["data"]} if manifest["data"] else set())
    return names | {f"{stem(manifest)}.objects.json"}


def stem(manifest: dict) -> str:
    """What the names of a result's data begin with."""
    return Path(manifest["data"] or next(iter(manifest["links"].values()))).stem


def _canonical(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(value) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _root(objects: Mapping[str, str]) -> str:
    lines = "".join(f"{key} {digest}\n" for key, digest in sorted(objects.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


# ---- read ------------------------------------------------------------------------------------------------------------


def read(folder: Path) -> "Result":
    """A result, verified first; raises BadInput that names what is damaged."""
    problems = verify(folder)
    if problems:
        raise BadInput(*problems)
    return Result(Path(folder))


class Result(Mapping):
    """A published result: a mapping from array name to a Zarr array, a data frame, or a mapping of arrays."""

    def __init__(self, folder: Path, manifest: dict | None = None, group=None):
        """A result on this disk; or, of another place, what its manifest says and its opened Zarr group."""
        self.folder = folder
        self.manifest = manifest or read_json(folder / "manifest.json")
        self.root, self.stage = self.manifest["root"], self.manifest["stage"]
        self.path = folder / self.manifest["data"] if self.manifest["data"] and not manifest else None
        self.group = group if manifest else self._opened()

    def _opened(self):
        import zarr

        # Absolute: workers elsewhere read it too, and what is not where they look would read as fill values.
        return zarr.open_group(self.path.absolute(), mode="r", use_consolidated=False) if self.path else {}

    def __getitem__(self, name: str):
        kind = schema.SCHEMAS[self.stage][name].kind
        element = self.group[name]
        if kind == "table":
            import anndata

            return anndata.io.read_elem(element)
        return dict(element.arrays()) if kind == "arrays" else element

    def __iter__(self) -> Iterator[str]:
        return iter(name for name in schema.SCHEMAS[self.stage] if name in self.group)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def run(self) -> dict:
        """Time, peak memory and host of the run that made it; empty when that was not kept."""
        return read_json(self.folder / "run.json") or {}


# ---- verify ----------------------------------------------------------------------------------------------------------


def verify(folder: Path) -> list[Problem]:
    """Everything that is wrong with one result: each object, the manifest itself, names missing or unknown."""
    folder = Path(folder)
    manifest, objects, problems = stated(lambda name: _bytes(folder / name), f"{folder}")
    if problems:
        return problems
    linked = [name for name in ("manifest.json", f"{stem(manifest)}.objects.json") if (folder / name).is_symlink()]
    if linked:
        return [Problem("HW-ST-002", f"{folder}", f"{linked[0]} is a link to a file elsewhere", _REMEDY)]
    return _verify_objects(folder, manifest, objects)


def stated(content: Callable[[str], bytes | None], where: str) -> tuple[dict, dict[str, str], list[Problem]]:
    """What a result says of itself, wherever it lies: its manifest, its list of objects, and what is wrong with these.

    content: the bytes of a name in the result's folder, None when there is none.
    """
    found = content("manifest.json")
    if not isinstance(parsed(found), dict):
        return {}, {}, [Problem("HW-ST-001", where, "manifest.json is missing or cannot be read", _REMEDY)]
    manifest = intact(found)
    if not manifest:
        return {}, {}, [Problem("HW-ST-002", where, "manifest.json was changed after it was written", _REMEDY)]
    if manifest.get("format") != FORMAT:
        cause = f"it has format {manifest.get('format')}, this heatwalk reads format {FORMAT}"
        remedy = "use the heatwalk that wrote it, or delete it and run again"
        return {}, {}, [Problem("HW-ST-003", where, cause, remedy)]
    listed = content(f"{stem(manifest)}.objects.json")
    objects = parsed(listed)
    if objects is None or hashlib.sha256(_canonical(objects)).hexdigest() != manifest["objects"]:
        return {}, {}, [Problem("HW-ST-004", where, "the list of objects is missing or was changed", _REMEDY)]
    if listed != _canonical(objects):
        return {}, {}, [Problem("HW-ST-004", where, "the list of objects was changed", _REMEDY)]
    if any({"", ".", ".."} & set(key.split("/")) for key in objects):
        return {}, {}, [Problem("HW-ST-004", where, "the list of objects names files elsewhere", _REMEDY)]
    return manifest, objects, []


def places(manifest: dict, objects: Mapping[str, str]) -> dict[str, str]:
    """The name below the result's folder that each object has."""
    files = {name: target for name, target in manifest["links"].items() if target != manifest["data"]}
    return {key: files.get(key, f"{manifest['data']}/{key}") for key in objects}


def _verify_objects(folder: Path, manifest: dict, objects: dict) -> list[Problem]:
    data = folder / manifest["data"] if manifest["data"] else None
    files = {name: target for name, target in manifest["links"].items() if target != manifest["data"]}
    bad = _differences(data, files, folder, objects)
    known = {"manifest.json", "run.json", *_names(manifest)}
    # What an interrupted run left beside the result is no damage; the next run sweeps it away.
    strays = (path.name for path in folder.iterdir() if not LEFTOVER.fullmatch(path.name))
    bad += [f"{name} (not part of the result)" for name in strays if name not in known]
    inside = {key: digest for key, digest in objects.items() if key not in files}
    for name, target in manifest["links"].items():
        link = folder / name
        if not link.exists():
            bad.append(f"{name} (missing)")
        elif link.is_symlink():
            bad += [f"{name} (points elsewhere)"] if os.readlink(link) != target else []
        # A copy made by a tool that follows links has the data twice: as good as a link when it is the same.
        elif name in files:
            bad += [f"{name} (changed)"] if not link.is_file() or hash_file(link) != objects[name] else []
        else:
            bad += [f"{name}/{key}" for key in _differences(link, {}, folder, inside)]
    if not bad:
        return []
    cause = f"{len(bad)} of {len(objects)} objects are not what was written: {first_few(sorted(bad))}"
    return [Problem("HW-ST-005", f"{folder}", cause, _REMEDY)]


def _differences(data: Path | None, files: Mapping[str, str], folder: Path, objects: Mapping[str, str]) -> list[str]:
    """Keys whose object is missing, changed, a link, or unknown."""
    paths = {name: folder / target for name, target in files.items()}
    if data:
        found = {
            path.relative_to(data).as_posix(): path
            for path in data.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
        paths |= found
    bad = [f"{key} (missing)" for key in objects if key not in paths]
    bad += [f"{key} (not part of the result)" for key in paths if key not in objects]
    shared = [key for key in objects if key in paths]

    def whole(key: str) -> bool:
        path = paths[key]
        return path.is_file() and not path.is_symlink() and hash_file(path) == objects[key]

    with ThreadPoolExecutor(4) as pool:
        bad += [f"{key} (changed)" for key, good in zip(shared, pool.map(whole, shared), strict=True) if not good]
    return bad


def results_under(path: Path) -> list[Path]:
    """Every result folder at or below `path`, whole or not."""
    path = Path(path)
    if (path / "manifest.json").exists() or any(path.glob("*.objects.json")):
        return [path]
    found = {manifest.parent for pattern in ("manifest.json", "*.objects.json") for manifest in path.rglob(pattern)}
    return sorted(folder for folder in found if ".work" not in folder.relative_to(path).parts)


def _intact_manifest(folder: Path) -> dict | None:
    return intact(_bytes(folder / "manifest.json"))


def intact(content: bytes | None) -> dict | None:
    """The manifest without its own hash, if that hash is right and every byte is as it was written."""
    manifest = parsed(content)
    if not isinstance(manifest, dict):
        return None
    written = _canonical(manifest)
    claimed = manifest.pop("sha256", None)
    whole = claimed == _digest(manifest) and content == written
    whole = whole and {"links", "data", "objects"} <= manifest.keys()
    # Whoever writes a manifest can hash it too: what it names must lie beside it.
    return manifest if whole and all(Path(name).name == name for name in _names(manifest)) else None


def _bytes(path: Path) -> bytes | None:
    until = time.monotonic() + _PUT_BACK
    try:
        while not (content := Path(path).read_bytes()) and time.monotonic() < until:
            time.sleep(0.01)
        return content
    except OSError:
        return None


def parsed(content: bytes | None):
    """The content of a JSON file, None when there is none or it cannot be read."""
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        return None


def read_json(path: Path):
    """The content of a JSON file, None when there is none or it cannot be read."""
    return parsed(_bytes(path))


# ---- one writer at a time --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the right to write one result, or raise Locked that names the holder; the kernel frees a dead one's lock."""
    path = work_folder(folder).with_suffix(".lock")
    with hold(path, "HW-LK-001", f"{folder}", "writing this result"):
        yield
