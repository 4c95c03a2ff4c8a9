"""Results in an object store: the names of `store`, without its links, and the manifest written last.

    s3://bucket/prefix/{dataset}/{stage}/<root>.zarr/...          first, named by its content
                                         <root>.objects.json      second
                                         manifest.json            last: one put, which a reader sees whole or not at all

Until the manifest stands, what was written is no result. There is no lock in an object store: one folder of results
publishes to one prefix.
"""

import hashlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from heatwalk import remote, store
from heatwalk.config import Plan
from heatwalk.errors import BadInput, Problem, first_few

_REMEDY = "delete this folder of the store and publish again"
_BLOCK = 2**23


def publish(folder: Path, url: str) -> bool:
    """Copy a whole result to the store; False when it stands there already.

    Objects that are there in their size are not sent again: their names tell their content. BadInput when the result is
    damaged, OutOfResources when the store fails; then the store's old manifest and its data stand.
    """
    with store.lock(folder):
        problems = store.verify(folder)
        if problems:
            raise BadInput(*problems)
        system, top = remote.connect(url), url.removeprefix(remote.SCHEME).rstrip("/")
        content = (folder / "manifest.json").read_bytes()
        manifest, objects, _ = store.stated(lambda name: (folder / name).read_bytes(), f"{folder}")
        names, stem = sorted(store.places(manifest, objects).values()), store.stem(manifest)
        old, there = _content(system, top, "manifest.json"), remote.objects(system, url)
        missing = [name for name in names if there.get(name, (-1, ""))[0] != (folder / name).stat().st_size]
        if old == content and not missing and f"{stem}.objects.json" in there:
            return False
        _send(system, url, folder, missing)
        last = [f"{stem}.objects.json", *(["run.json"] if (folder / "run.json").exists() else []), "manifest.json"]
        for name in last:
            _send(system, url, folder, [name])
        previous = store.intact(old)
        if previous and store.stem(previous) != stem:
            _remove(system, url, [name for name in there if name.startswith(f"{store.stem(previous)}.")])
        return True


def _send(system, url: str, folder: Path, names: list[str]) -> None:
    top = url.removeprefix(remote.SCHEME).rstrip("/")

    def send(name: str) -> None:
        system.put_file(str(folder / name), f"{top}/{name}")

    with remote.explained(url), ThreadPoolExecutor(remote.THREADS) as pool:
        list(pool.map(send, names))


def _remove(system, url: str, names: list[str]) -> None:
    top = url.removeprefix(remote.SCHEME).rstrip("/")
    if names:
        with remote.explained(url):
            system.rm([f"{top}/{name}" for name in names])


def _content(system, top: str, name: str) -> bytes | None:
    with remote.explained(f"{remote.SCHEME}{top}"):
        try:
            return system.cat_file(f"{top}/{name}")
        except FileNotFoundError:
            return None


def publish_all(folders: Iterable[Path], results: Path, url: str) -> int:
    """Publish results to the same places below a URL; how many were written."""
    url = url.rstrip("/")
    return sum(publish(folder, f"{url}/{folder.relative_to(results).as_posix()}") for folder in folders)


def reach(plan: Plan) -> None:
    """Fail at once where a store of a source, or the one to publish to, cannot be reached."""
    sources = [part for row in plan.datasets.values() for part in re.findall(r"s3://[^;]+", row.source)]
    urls = {"/".join(url.split("/")[:3]): url for url in [*sources, *filter(None, [plan.config["publish"]])]}
    for url in urls.values():
        remote.connect(url)


def publish_plan(plan: Plan, results: Path) -> None:
    """Publish every result of the plan's datasets that stands, where the config says so."""
    if plan.config["publish"]:
        folders = [results / name / stage for name in plan.datasets for stage in plan.wanted(name)]
        publish_all([path for path in folders if (path / "manifest.json").exists()], results, plan.config["publish"])


def results_under(url: str) -> list[str]:
    """Every result at or below a URL, whole or not: also one that was being written when its writer died."""
    found = set()
    for key in remote.objects(remote.connect(url), url):
        parts = key.split("/")
        for place, part in enumerate(parts):
            if part == "manifest.json" or store.LEFTOVER.fullmatch(part):
                found.add("/".join([url.rstrip("/"), *parts[:place]]))
                break
    return sorted(found)


def verify(url: str) -> list[Problem]:
    """Everything that is wrong with one result of a store: each of its bytes is read."""
    system, top = remote.connect(url), url.removeprefix(remote.SCHEME).rstrip("/")
    manifest, objects, problems = store.stated(lambda name: _content(system, top, name), url)
    if problems:
        return [problem._replace(remedy=_REMEDY) for problem in problems]
    there, names = remote.objects(system, url), store.places(manifest, objects)
    listing, data = f"{store.stem(manifest)}.objects.json", f"{manifest['data']}/"
    known = {*names.values(), listing, "manifest.json", "run.json"}
    # What a killed writer left beside the result is no damage.
    strays = [name for name in there if name not in known]
    strays = [name for name in strays if name.startswith(data) or not store.LEFTOVER.fullmatch(name.split("/")[0])]
    bad = [f"{name} (not part of the result)" for name in strays]
    bad += [f"{key} (missing)" for key, name in names.items() if name not in there]
    shared = [key for key, name in names.items() if name in there]
    with remote.explained(url), ThreadPoolExecutor(remote.THREADS) as pool:
        hashes = pool.map(lambda key: _hash(system, f"{top}/{names[key]}", there[names[key]][0]), shared)
        bad += [f"{key} (changed)" for key, found in zip(shared, hashes, strict=True) if found != objects[key]]
    if not bad:
        return []
    cause = f"{len(bad)} of {len(objects)} objects are not what was written: {first_few(sorted(bad))}"
    return [Problem("HW-ST-005", url, cause, _REMEDY)]


def _hash(system, path: str, size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, _BLOCK):
        digest.update(system.cat_file(path, start=start, end=min(start + _BLOCK, size)))
    return digest.hexdigest()


def read(url: str) -> store.Result:
    """A result of a store, verified first, its arrays read from there when they are asked for."""
    import zarr

    problems = verify(url)
    if problems:
        raise BadInput(*problems)
    system, top = remote.connect(url), url.removeprefix(remote.SCHEME).rstrip("/")
    manifest, _, _ = store.stated(lambda name: _content(system, top, name), url)
    group: object = {}
    if manifest["data"]:
        place = zarr.storage.FsspecStore.from_mapper(system.get_mapper(f"{top}/{manifest['data']}"), read_only=True)
        group = zarr.open_group(place, mode="r", use_consolidated=False)
    return store.Result(Path(top), manifest, group)


def fetch(url: str, folder: Path) -> bool:
    """Bring a result of a store to this disk, verified before it is one; False when it stands here already."""
    system, top = remote.connect(url), url.removeprefix(remote.SCHEME).rstrip("/")
    manifest, objects, problems = store.stated(lambda name: _content(system, top, name), url)
    if problems:
        raise BadInput(*problems)
    with store.lock(folder):
        same = (folder / "manifest.json").exists() and store.read_json(folder / "manifest.json").get("root")
        if same == manifest["root"] and not store.verify(folder):
            return False
        names = [*store.places(manifest, objects).values(), f"{store.stem(manifest)}.objects.json", "manifest.json"]
        there = remote.objects(system, url)
        draft = store.work_folder(folder) / uuid.uuid4().hex
        try:
            wanted = {name: there[name] for name in [*names, "run.json"] if name in there}
            remote.download(system, url, wanted, draft)
            store.adopt(draft, folder, manifest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return True


def fetch_all(url: str, results: Path, order: Callable[[str], int]) -> int:
    """Bring every result at or below a URL to the same place below `results`; how many were brought.

    order: of the stages, so that what is made from another is the younger file.
    """
    url = url.rstrip("/")
    found = results_under(url)
    if found == [url]:  # one result, or all of one dataset below `url`
        return int(fetch(url, results.joinpath(*url.split("/")[-2:])))
    deep = [each.removeprefix(url).strip("/").split("/") for each in found]
    dataset = [url.split("/")[-1]] if deep and all(len(parts) == 1 for parts in deep) else []
    places = sorted((*dataset, *parts) for parts in deep)
    places.sort(key=lambda parts: order(parts[-1]))
    return sum(fetch("/".join([url, *parts[len(dataset) :]]), results.joinpath(*parts)) for parts in places)
