"""Object stores: sources fetched whole, results published with the manifest last, no hang where there is no store."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from s3_server import s3_server, without_keys
from workflow_runs import OPTIONS, ROOT, STAGES, heatwalk, manifest, prepare, roots, stages_to_run, write_counts

from heatwalk import inputs, remote, remote_store, store
from heatwalk.errors import BadInput, OutOfResources

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto", reason="moto is not installed")


@pytest.fixture(scope="module")
def keys():
    """The environment of clients of a server that runs as long as this module's tests."""
    with s3_server() as environment:
        yield environment


@pytest.fixture
def bucket(keys, monkeypatch):
    """A new bucket; its URL."""
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    system().mkdir(name)
    return f"s3://{name}"


def system():
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


def put(url: str, content: bytes) -> None:
    system().pipe_file(url.removeprefix("s3://"), content)


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_a_source_is_fetched_once_for_each_state_of_it(bucket, tmp_path, monkeypatch):
    put(f"{bucket}/a/points.csv", b"x,y\n1,2\n")
    path = remote.fetch(f"{bucket}/a/points.csv", tmp_path)
    assert (path.name, path.read_bytes()) == ("points.csv", b"x,y\n1,2\n")
    monkeypatch.setattr(remote, "download", None)
    assert remote.fetch(f"{bucket}/a/points.csv", tmp_path) == path


def test_a_folder_is_fetched_whole_and_a_changed_source_anew(bucket, tmp_path):
    for name in ("matrix.mtx", "sub/barcodes.tsv"):
        put(f"{bucket}/a/sample/{name}", name.encode())
    put(f"{bucket}/a/sample2/other", b"no part of it")
    path = remote.fetch(f"{bucket}/a/sample", tmp_path)
    found = {file.relative_to(path).as_posix(): file.read_text() for file in path.rglob("*") if file.is_file()}
    assert found == {"matrix.mtx": "matrix.mtx", "sub/barcodes.tsv": "sub/barcodes.tsv"}
    before = inputs.fingerprint([f"{bucket}/a/sample"])
    put(f"{bucket}/a/sample/matrix.mtx", b"MATRIX.mtx")
    assert inputs.fingerprint([f"{bucket}/a/sample"]) != before
    again = remote.fetch(f"{bucket}/a/sample/", tmp_path)
    assert (again / "matrix.mtx").read_text() == "MATRIX.mtx"
    assert remote.fetch(f"{bucket}/a/sample", tmp_path) != path
    assert not path.exists()


@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_samples_in_a_store_are_one_input_in_any_format(bucket, tmp_path, monkeypatch):
    import anndata

    monkeypatch.chdir(tmp_path)
    write_counts(tmp_path / "day0.h5ad", n_cells=20, seed=1)
    write_counts(tmp_path / "day3.h5ad", n_cells=30, seed=2)
    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        anndata.read_h5ad(tmp_path / "day3.h5ad").write_zarr(tmp_path / "day3.zarr")
    place = bucket.removeprefix("s3://")
    system().put_file(str(tmp_path / "day0.h5ad"), f"{place}/in/day0.h5ad")
    system().put(str(tmp_path / "day3.zarr") + "/", f"{place}/in/day3.zarr", recursive=True)
    asked = {"kind": "counts", "base": tmp_path, "roots": [f"{bucket}/in"]}
    source = f"day0={bucket}/in/day0.h5ad;day3={bucket}/in/day3.zarr"
    assert inputs.validate(source, **asked) == []
    with inputs.open_input(source, **asked) as cells:
        assert cells.obs["sample"].value_counts().to_dict() == {"day0": 20, "day3": 30}
        assert sum(block.shape[0] for block in cells.blocks(16)) == 50


def test_a_source_must_lie_below_a_url_of_roots(bucket, tmp_path):
    put(f"{bucket}/a/x.csv", b"x,y\n1,2\n")
    for roots_, name in (([tmp_path], "a/x.csv"), ([f"{bucket}/ab"], "a/x.csv"), ([f"{bucket}/a"], "a/../b/x.csv")):
        with pytest.raises(BadInput, match="HW-IN-003 source .* lies outside the stores that may be read"):
            inputs.resolve(f"{bucket}/{name}", base=tmp_path, roots=roots_)
    source = f"day0={bucket}/a/x.csv;day1={bucket}/a/y.csv"
    parts = inputs.resolve(source, base=tmp_path, roots=[f"{bucket}/a/"])
    assert parts == [("day0", f"{bucket}/a/x.csv"), ("day1", f"{bucket}/a/y.csv")]


def test_what_is_not_there_or_would_leave_the_folder_or_changes_is_refused(bucket, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="HW-IN-001 source .* there is no such object"):
        remote.fetch(f"{bucket}/nothing.h5ad", tmp_path)
    put(f"{bucket}/a/x.csv", b"1")
    found = [{"../x": (1, "t")}, {"x": (1, "a")}, {"x": (1, "b")}]
    monkeypatch.setattr(remote, "objects", lambda *_: found.pop(0))
    with pytest.raises(BadInput, match=r"HW-IN-004 source .* 1 keys point out of the folder \(\.\./x\)"):
        remote.fetch(f"{bucket}/a", tmp_path)
    monkeypatch.setattr(remote, "download", lambda *_: None)
    with pytest.raises(BadInput, match="HW-IN-006 source .* changed while it was fetched"):
        remote.fetch(f"{bucket}/a", tmp_path)
    assert list(tmp_path.rglob("x*")) == []


# ---- results ---------------------------------------------------------------------------------------------------------


def made(folder: Path, value: int, stage: str = "neighbors") -> Path:
    """A small result with a file beside its data."""
    with store.lock(folder):
        draft = store.create(folder, stage)
        draft["indices"] = np.full((300, 4), value, np.int32)
        draft["distances"] = np.full((300, 4), float(value), np.float32)
        draft.file("extra.h5ad").write_bytes(bytes([value] * 10))
        store.publish(
            draft, parameters={}, code="c", inputs={}, files={"extra.h5ad": draft.file("extra.h5ad")}, link="data.zarr"
        )
    return folder


@pytest.fixture
def result(tmp_path):
    return made(tmp_path / "results" / "toy" / "neighbors", 1)


class Killed(BaseException):
    """A kill, as far as the test can tell."""


def test_what_is_published_verifies_is_read_and_fetched_back(bucket, result, tmp_path):
    url = f"{bucket}/atlas/toy/neighbors"
    assert remote_store.publish(result, url)
    assert not remote_store.publish(result, url)
    assert remote_store.results_under(bucket) == remote_store.results_under(url) == [url]
    assert remote_store.verify(url) == []
    program = f"from heatwalk import remote_store\nfound = remote_store.read({url!r})\n"
    program += "print(found.root, found['indices'][:].sum(), sorted(found))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == [store.Result(result).root, "1200", "['distances',", "'indices']"], done.stderr
    other = tmp_path / "other" / "toy" / "neighbors"
    assert remote_store.fetch(url, other)
    assert not remote_store.fetch(url, other)
    assert store.verify(other) == []
    assert (other / "manifest.json").read_bytes() == (result / "manifest.json").read_bytes()
    assert os.readlink(other / "extra.h5ad") == os.readlink(result / "extra.h5ad")
    (other / store.Result(other).manifest["data"] / "zarr.json").write_text("{}")
    assert remote_store.fetch(url, other)  # a damaged one is replaced
    assert store.verify(other) == []


@pytest.mark.parametrize("over", [False, True])
def test_a_writer_killed_at_any_put_leaves_nothing_that_verify_accepts(bucket, result, tmp_path, monkeypatch, over):
    """Or the old result, whole, where there was one."""
    real, left = remote_store._send, [1000]
    new = made(tmp_path / "new" / "toy" / "neighbors", 2)

    def send(there, place, folder, names):
        for name in names:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            real(there, place, folder, [name])

    monkeypatch.setattr(remote_store, "_send", send)
    moment, ended = 0, False
    while not ended:
        top = f"{bucket}/{moment}"
        url, left[0] = f"{top}/toy/neighbors", 1000
        if over:
            remote_store.publish(result, url)
        left[0] = moment
        try:
            ended = remote_store.publish(new, url)
        except Killed:
            found = remote_store.results_under(top)
            assert found == ([url] if over or moment else [])
            assert [each for each in found if not remote_store.verify(each)] == ([url] if over else []), moment
            if over:
                stands = json.loads(system().cat_file(f"{url}/manifest.json"))
                assert stands["root"] == store.Result(result).root
            moment, left[0] = moment + 1, 1000
            remote_store.publish(new, url)
        assert remote_store.verify(url) == []
        assert json.loads(system().cat_file(f"{url}/manifest.json"))["root"] == store.Result(new).root
    assert moment > 5


@pytest.mark.parametrize("kind", ["flip", "delete", "stray", "manifest", "list"])
def test_damage_in_the_store_is_noticed(bucket, result, kind):
    url = f"{bucket}/toy/neighbors"
    remote_store.publish(result, url)
    data, top = store.Result(result).manifest["data"], url.removeprefix("s3://")
    chunk = next(name for name in system().find(f"{top}/{data}") if "/c/" in name)
    if kind == "flip":
        content = bytearray(system().cat_file(chunk))
        content[5] ^= 1
        system().pipe_file(chunk, bytes(content))
    elif kind == "delete":
        system().rm(chunk)
    elif kind == "stray":
        system().pipe_file(f"{top}/{data}/stray", b"x")
    else:
        name = "manifest.json" if kind == "manifest" else data.replace(".zarr", ".objects.json")
        system().pipe_file(f"{top}/{name}", system().cat_file(f"{top}/{name}") + b" ")
    (problem,) = remote_store.verify(url)
    said = {"flip": "(changed)", "delete": "(missing)", "stray": "stray (not part", "manifest": "changed after"}
    assert said.get(kind, "the list of objects was changed") in problem.cause
    with pytest.raises(BadInput):
        remote_store.read(url)
    if kind == "delete":
        assert remote_store.publish(result, url)
        assert remote_store.verify(url) == []


def test_a_damaged_result_is_not_published_and_an_older_one_is_removed(bucket, result):
    url = f"{bucket}/toy/neighbors"
    remote_store.publish(result, url)
    old = store.Result(result).root
    put(f"{url}/{'0' * 64}.zarr/c", b"of a killed writer")
    made(result, 2)
    remote_store.publish(result, url)
    names = system().find(url)
    assert not [name for name in names if old in name]
    assert remote_store.verify(url) == []
    (result / "extra.h5ad").resolve().write_bytes(b"x")
    with pytest.raises(BadInput, match="HW-ST-005"):
        remote_store.publish(result, url)


# ---- the workflow ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(keys, tmp_path_factory):
    """A run whose source and whose results lie in the store, and one of the same data on disk."""
    local = prepare(tmp_path_factory.mktemp("local") / "run", rows="toy\ttoy.h5ad\tcounts\t\n")
    (local / "config" / "datasets.tsv").write_text("name\tsource\tkind\tstages\ntoy\ttoy.h5ad\tcounts\tdiffusion_map\n")
    assert heatwalk(local, "run", "--cores", "2").returncode == 0
    options = OPTIONS + "roots: ['s3://workflow/in']\npublish: s3://workflow/out\n"
    folder = prepare(tmp_path_factory.mktemp("remote") / "run", options, "toy\ts3://workflow/in/toy.h5ad\tcounts\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        system().mkdir("workflow")
        system().put_file(str(folder / "config" / "toy.h5ad"), "workflow/in/toy.h5ad")
        (folder / "config" / "toy.h5ad").unlink()
        done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, local


def test_a_run_on_a_store_has_the_hashes_of_one_on_disk(stored, keys):
    folder, local = stored
    for stage in ("cells", "pca", "neighbors", "affinity", "diffusion_map"):
        assert manifest(folder, stage)["root"] == manifest(local, stage)["root"]
    done = heatwalk(folder, "verify", "s3://workflow/out", "--json", **keys)
    assert json.loads(done.stdout) == {"results": len(STAGES), "whole": True, "problems": []}
    assert heatwalk(folder, "publish", "s3://workflow/out", **keys).stdout == (
        f"s3://workflow/out: 0 of {len(STAGES)} results written, the others stood there\n"
    )


def test_fetched_results_are_as_good_as_made_here(stored, keys, tmp_path):
    folder = shutil.copytree(stored[0] / "config", tmp_path / "elsewhere" / "config").parent
    done = heatwalk(folder, "fetch", "s3://workflow/out", **keys)
    assert (done.returncode, done.stdout) == (0, f"results: {len(STAGES)} results fetched\n"), done.stderr
    assert roots(folder) == roots(stored[0])
    assert heatwalk(folder, "verify").returncode == 0
    assert stages_to_run(folder, **keys) == set()
    shutil.rmtree(folder / "results" / "toy")
    assert heatwalk(folder, "fetch", "s3://workflow/out/toy", **keys).returncode == 0
    assert roots(folder) == roots(stored[0])
    shutil.rmtree(folder / "results" / "toy" / "pca")
    assert heatwalk(folder, "fetch", "s3://workflow/out/toy/pca", **keys).stdout == "results: 1 results fetched\n"


def test_a_changed_object_reruns_what_is_made_from_it(stored, keys, tmp_path, monkeypatch):
    folder = shutil.copytree(stored[0], tmp_path / "changed", symlinks=True)
    assert stages_to_run(folder, **keys) == set()
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    before = system().cat_file("workflow/in/toy.h5ad")
    write_counts(tmp_path / "toy.h5ad", seed=5)
    try:
        system().put_file(str(tmp_path / "toy.h5ad"), "workflow/in/toy.h5ad")
        assert stages_to_run(folder, **keys) == set(STAGES)
    finally:
        system().pipe_file("workflow/in/toy.h5ad", before)


def test_an_object_is_validated_by_its_url(stored, keys, tmp_path):
    done = heatwalk(tmp_path, "validate", "s3://workflow/in/toy.h5ad", **keys)
    assert (done.returncode, done.stdout) == (0, "s3://workflow/in/toy.h5ad: no problems\n"), done.stderr


def test_batches_are_published_too_and_nothing_moves_without_credentials(stored, keys, tmp_path):
    folder = shutil.copytree(stored[0], tmp_path / "batches", symlinks=True)
    options = (folder / "config" / "config.yaml").read_text().replace("s3://workflow/out", "s3://workflow/batches")
    (folder / "config" / "config.yaml").write_text(options.replace("roots: [", "roots: [., "))
    (folder / "config" / "inbox").mkdir()
    write_counts(folder / "config" / "inbox" / "new.h5ad", n_cells=40, seed=1)
    batch = ("batch", "--inbox", "config/inbox", "--stages", "extension", "--settle", "0", "--cores", "2")
    code, lines, _ = said(folder, *batch, AWS_ENDPOINT_URL=keys["AWS_ENDPOINT_URL"])
    assert (code, lines.count("\n")) == (4, 1)
    assert "HW-RM-001" in lines
    assert (folder / "config" / "inbox" / "new.h5ad").exists()
    done = heatwalk(folder, *batch, **keys)
    assert (done.returncode, done.stdout) == (0, "heatwalk batch: 1 mapped, 0 quarantined\n"), done.stderr
    assert heatwalk(folder, "verify", "s3://workflow/batches/new", **keys).stdout == (
        "s3://workflow/batches/new: all 3 results are whole\n"
    )


@pytest.mark.parametrize("seconds", [1.0, 1.6, 2.2, 2.8])
def test_a_publisher_that_is_killed_leaves_no_torn_result(stored, keys, bucket, seconds):
    folder, url = stored[0], f"{bucket}/out"
    command = [sys.executable, "-m", "heatwalk.cli", "publish", url]
    killed = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    found = remote_store.results_under(url)
    torn = {problem.code for each in found for problem in remote_store.verify(each)}
    assert torn <= {"HW-ST-001"}  # no manifest, so no result
    done = heatwalk(folder, "publish", url, **keys)
    assert done.returncode == 0
    assert heatwalk(folder, "verify", url, **keys).returncode == 0


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def said(folder, *arguments, **environment) -> tuple[int, str, float]:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "heatwalk.cli", *arguments],
        cwd=folder,
        env={**without_keys(), **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr, time.monotonic() - started


def test_missing_credentials_are_one_line_before_anything_runs(keys, tmp_path):
    folder = prepare(tmp_path / "run", OPTIONS + "publish: s3://workflow/out\n")
    endpoint = {"AWS_ENDPOINT_URL": keys["AWS_ENDPOINT_URL"]}
    for arguments in (("run",), ("verify", "s3://workflow/out"), ("fetch", "s3://workflow/out")):
        code, lines, seconds = said(folder, *arguments, **endpoint)
        assert (code, lines.count("\n")) == (4, 1)
        assert re.match("HW-RM-001 s3://workflow/out: there are no credentials .* set AWS_ACCESS_KEY_ID and", lines)
        assert seconds < 60
    assert not (folder / "results" / "toy").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "line"),
    [
        (("verify", "s3://no-such-bucket/x"), {}, 2, "HW-RM-003 s3://no-such-bucket/x: is not there"),
        (("verify", "s3://"), {}, 2, "HW-RM-003 s3://: names no bucket"),
        (("publish", "/somewhere"), {}, 2, "HW-RM-003 /somewhere: is no address of an object store"),
        (
            ("verify", "s3://b/x"),
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            4,
            "HW-RM-004 s3://b/x: the store does not",
        ),
        (("verify", "s3://b/x"), {"AWS_ENDPOINT_URL": "nonsense"}, 4, "HW-RM-004 s3://b/x: the store does not"),
        (("verify", "s3://b/x"), {"AWS_PROFILE": "nobody"}, 4, "HW-RM-001 s3://b/x: there are no credentials"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(keys, tmp_path, arguments, environment, code, line):
    found, lines, seconds = said(tmp_path, *arguments, **{**keys, **environment})
    assert (found, lines.count("\n")) == (code, 1), lines
    assert lines.startswith(line)
    assert seconds < 60


@pytest.mark.qualification("object stores")
def test_a_store_that_never_answers_is_said_within_a_minute(keys, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, lines, seconds = said(tmp_path, "verify", "s3://b/x", **{**keys, "AWS_ENDPOINT_URL": endpoint})
    assert code == 4
    assert lines.startswith("HW-RM-004 s3://b/x: the store does not answer as it should")
    assert seconds < 60


def test_a_refusal_is_said_and_a_full_disk_is_no_failure_of_the_store():
    import errno

    with (
        pytest.raises(OutOfResources, match="HW-RM-002 s3://b: the store refuses .*Access Denied"),
        remote.explained("s3://b"),
    ):
        raise PermissionError("Access Denied")
    with pytest.raises(OSError, match="full"), remote.explained("s3://b"):
        raise OSError(errno.ENOSPC, "full")


def test_without_s3fs_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(OutOfResources, match="HW-RM-005 .* pip install 'heatwalk"):
        remote.connect("s3://b/x")


def test_importing_heatwalk_loads_nothing_of_stores():
    program = "import sys, heatwalk, heatwalk.inputs, heatwalk.cli\n"
    program += "print([name for name in sys.modules if name.split('.')[0] in ('s3fs', 'botocore', 'aiohttp')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
