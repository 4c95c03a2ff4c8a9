"""Results on disk: the order of publication, what verify notices, and one writer at a time."""

import json
import multiprocessing
import os
import random
import shutil
import threading

import numpy as np
import pandas as pd
import pytest

from heatwalk import store
from heatwalk.errors import BadInput, Locked


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results" / "toy" / "neighbors"


def publish(folder, value=1, parameters=None, inputs=None, files=None):
    draft = store.create(folder, folder.name, block_cells=4)
    if folder.name == "neighbors":
        draft["indices"] = np.full((10, 3), value, np.int32)
        draft["distances"] = np.linspace(0, 1, 30).reshape(10, 3)
    files = {name: draft.file(name) for name in files or ()}
    for path in files.values():
        path.write_text(f"file {value}")
    return store.publish(draft, parameters=parameters or {"k": 3}, code="c", inputs=inputs or {"pca": "r"}, files=files)


def test_what_was_published_is_read_back(folder):
    manifest = publish(folder)
    result = store.read(folder)
    assert result.root == manifest["root"]
    assert (result["indices"][:] == 1).all()
    assert set(result) == {"indices", "distances"}
    assert result["indices"].chunks == (4, 3)


def test_root_hash_is_that_of_the_sorted_object_lines(folder):
    import hashlib

    manifest = publish(folder)
    objects = json.loads((folder / f"{manifest['root']}.objects.json").read_text())
    lines = "".join(f"{key} {objects[key]}\n" for key in sorted(objects))
    assert hashlib.sha256(lines.encode()).hexdigest() == manifest["root"]
    for key, digest in objects.items():
        assert hashlib.sha256((folder / manifest["data"] / key).read_bytes()).hexdigest() == digest


def test_same_content_keeps_the_store_that_stands(folder):
    first = publish(folder)
    inode = (folder / first["data"]).stat().st_ino
    second = publish(folder, parameters={"k": 4})
    assert second["data"] == first["data"]
    assert (folder / second["data"]).stat().st_ino == inode
    assert store.verify(folder) == []


def test_same_content_over_a_damaged_store_gets_a_new_name(folder):
    first = publish(folder)
    (folder / first["data"] / "indices" / "c" / "0" / "0").write_bytes(b"damaged")
    second = publish(folder)
    assert second["data"] == f"{first['root']}-2.zarr"
    assert second["root"] == first["root"]
    assert store.verify(folder) == []
    store.sweep(folder)
    assert not (folder / first["data"]).exists()


def test_new_content_replaces_the_old_which_is_swept_away_later(folder, tmp_path):
    first = publish(folder, 1)
    publish(folder, 2)
    # Snakemake may still put the first manifest back: until the run has ended its data stands.
    assert (folder / first["data"]).exists()
    assert store.verify(folder) == []
    store.sweep_all(tmp_path / "results")
    assert not (folder / first["data"]).exists()
    assert (store.read(folder)["indices"][:] == 2).all()
    assert not list(store.work_folder(folder).parent.glob("neighbors/*"))


@pytest.mark.parametrize("broken", ["rename", "replace_file"])
def test_a_kill_before_the_manifest_leaves_the_old_result_whole(folder, monkeypatch, broken):
    publish(folder, 1)
    real = os.rename if broken == "rename" else store.replace_file

    def killed(path, *rest):
        real(path, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "rename") if broken == "rename" else (store, "replace_file")), killed)
        with pytest.raises(KeyboardInterrupt):
            publish(folder, 2)
    # What was being made lies beside it; the manifest still names the old, whole data.
    assert store.verify(folder) == []
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (store.Result(folder)["indices"][:] == 1).all()
    publish(folder, 2)
    assert store.verify(folder) == []
    assert manifest["root"] != store.read(folder).root


def test_a_kill_between_manifest_and_clean_up_leaves_the_new_result(folder, monkeypatch):
    publish(folder, 1)
    calls = []

    def killed(*_):
        calls.append("sweep" if not calls else "publish")
        if calls[-1] == "publish":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "_set_links", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(folder, 2)
    assert (store.Result(folder)["indices"][:] == 2).all()
    publish(folder, 2)
    assert store.verify(folder) == []


def test_a_manifest_that_was_put_back_finds_its_data_and_its_links(folder):
    publish(folder, 1, files=["atlas.h5ad"])
    first = (folder / "manifest.json").read_bytes()
    publish(folder, 2, files=["atlas.h5ad"])
    (folder / "manifest.json").write_bytes(first)
    assert "points elsewhere" in str(store.verify(folder)[0])
    store.sweep(folder)
    assert store.verify(folder) == []
    assert (store.read(folder)["indices"][:] == 1).all()
    assert (folder / "atlas.h5ad").read_text() == "file 1"


def test_a_manifest_that_is_being_put_back_is_waited_for_and_an_empty_one_is_damage(folder, monkeypatch):
    """Snakemake copies it over the one that stands, which is empty until the copy is written."""
    manifest = publish(folder)
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(b"")
    copying = threading.Timer(0.2, (folder / "manifest.json").write_bytes, [content])
    copying.start()
    assert store.read(folder).root == manifest["root"]
    copying.join()
    monkeypatch.setattr(store, "_PUT_BACK", 0.05)
    (folder / "manifest.json").write_bytes(b"")
    assert [problem.code for problem in store.verify(folder)] == ["HW-ST-001"]


def test_a_damaged_manifest_costs_no_data(folder, tmp_path):
    made = publish(folder)
    whole = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(whole.replace(b'"format":1', b'"format":3'))
    store.sweep_all(tmp_path / "results")
    assert (folder / made["data"]).exists()
    (folder / "manifest.json").write_bytes(whole)
    assert store.verify(folder) == []


def test_copies_in_place_of_links_are_checked_too(folder, tmp_path):
    publish(folder, files=["atlas.h5ad"])
    copy = shutil.copytree(folder, tmp_path / "copy")  # follows links
    assert not (copy / "atlas.h5ad").is_symlink()
    assert store.verify(copy) == []
    (copy / "atlas.h5ad").write_text("junk")
    assert "atlas.h5ad (changed)" in str(store.verify(copy)[0])


def test_files_beside_the_data_are_linked_and_verified(tmp_path):
    folder = tmp_path / "results" / "toy" / "neighbors"
    manifest = publish(folder, files=["atlas.h5ad"])
    link = folder / "atlas.h5ad"
    assert os.readlink(link) == f"{manifest['root']}.h5ad"
    assert link.read_text() == "file 1"
    (folder / f"{manifest['root']}.h5ad").write_text("file 2")
    assert "atlas.h5ad (changed)" in str(store.verify(folder)[0])


@pytest.mark.parametrize("suffix", ["h5ad", "html", "json", "safetensors"])
def test_files_of_the_result_before_are_no_damage_and_are_swept_away(folder, tmp_path, suffix):
    publish(folder, 1, files=[f"network.{suffix}"])
    publish(folder, 2, files=[f"network.{suffix}"])
    assert store.verify(folder) == []
    store.sweep_all(tmp_path / "results")
    assert len(list(folder.glob(f"*.{suffix}"))) == 2 + 2 * (suffix == "json")  # file and link; manifest and list
    assert store.verify(folder) == []


def test_the_data_itself_may_have_a_link(folder):
    draft = store.create(folder, "neighbors")
    draft["indices"] = np.ones((4, 2), np.int32)
    manifest = store.publish(draft, parameters={}, code="", inputs={}, link="atlas.zarr")
    assert os.readlink(folder / "atlas.zarr") == manifest["data"]
    assert store.verify(folder) == []


def test_a_link_that_points_elsewhere_is_noticed(folder):
    publish(folder, files=["atlas.h5ad"])
    (folder / "atlas.h5ad").unlink()
    assert "atlas.h5ad (missing)" in str(store.verify(folder)[0])
    (folder / "atlas.h5ad").symlink_to("manifest.json")
    assert "points elsewhere" in str(store.verify(folder)[0])


def test_a_result_without_arrays_takes_its_root_from_parameters_and_inputs(tmp_path):
    folder = tmp_path / "results" / "toy" / "report"
    first = publish(folder, 1, files=["report.html"])
    second = publish(folder, 2, files=["report.html"])
    assert first["root"] == second["root"]
    assert (folder / "report.html").read_text() == "file 2"
    assert store.verify(folder) == []
    assert publish(folder, 2, inputs={"pca": "other"}, files=["report.html"])["root"] != first["root"]


def test_verify_works_on_a_copy_from_another_folder(folder, tmp_path, monkeypatch):
    publish(folder, files=["atlas.h5ad"])
    shutil.copytree(tmp_path / "results", tmp_path / "elsewhere", symlinks=True)
    shutil.rmtree(tmp_path / "results")
    monkeypatch.chdir("/")
    assert store.results_under(tmp_path / "elsewhere") == [tmp_path / "elsewhere" / "toy" / "neighbors"]
    assert store.verify(tmp_path / "elsewhere" / "toy" / "neighbors") == []


def objects_of(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.name != "run.json"]


def test_every_flipped_bit_is_noticed(folder):
    publish(folder, files=["atlas.h5ad"])
    generator, paths = random.Random(0), objects_of(folder)
    missed = []
    for trial in range(120):
        path = generator.choice(paths)
        whole = path.read_bytes()
        bit = generator.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        if not store.verify(folder):
            missed.append((trial, path.name, bit))
        path.write_bytes(whole)
    assert missed == []
    assert store.verify(folder) == []


def test_every_deleted_object_is_noticed(folder):
    publish(folder)
    for path in objects_of(folder):
        whole = path.read_bytes()
        path.unlink()
        assert store.verify(folder) != [], path
        path.write_bytes(whole)


def test_a_deleted_manifest_is_found_by_the_data_that_it_leaves(folder, tmp_path):
    publish(folder)
    (folder / "manifest.json").unlink()
    assert [store.verify(found) != [] for found in store.results_under(tmp_path)] == [True]


def test_swapped_chunks_and_stray_objects_are_noticed(folder):
    manifest = publish(folder)
    chunks = folder / manifest["data"] / "distances" / "c"
    first, second = (chunks / "0" / "0"), (chunks / "1" / "0")
    a, b = first.read_bytes(), second.read_bytes()
    assert a != b
    first.write_bytes(b), second.write_bytes(a)
    assert "2 of" in str(store.verify(folder)[0])
    first.write_bytes(a), second.write_bytes(b)
    (chunks / "9").mkdir()
    (chunks / "9" / "0").write_bytes(a)
    assert "not part of the result" in str(store.verify(folder)[0])


def test_a_linked_chunk_is_refused(folder, tmp_path):
    manifest = publish(folder)
    chunk = folder / manifest["data"] / "indices" / "c" / "0" / "0"
    (tmp_path / "same").write_bytes(chunk.read_bytes())
    chunk.unlink()
    chunk.symlink_to(tmp_path / "same")
    assert "(changed)" in str(store.verify(folder)[0])


@pytest.mark.parametrize("name", ["manifest.json", "*.objects.json"])
def test_a_manifest_or_a_list_that_is_a_link_is_refused(folder, tmp_path, name):
    publish(folder)
    path = next(folder.glob(name))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "is a link to a file elsewhere" in str(store.verify(folder)[0])


def test_a_flipped_bit_is_an_error_even_when_nobody_verified(folder):
    manifest = publish(folder)
    chunk = folder / manifest["data"] / "distances" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"(?i)zstd|checksum|corrupt"):
        store.Result(folder)["distances"][:]


def test_a_missing_chunk_of_floats_never_reads_as_zero(folder):
    manifest = publish(folder)
    (folder / manifest["data"] / "distances" / "c" / "0" / "0").unlink()
    assert np.isnan(store.Result(folder)["distances"][:4]).all()


def test_a_damaged_result_is_not_read(folder):
    manifest = publish(folder)
    (folder / manifest["data"] / "zarr.json").write_text("{}")
    with pytest.raises(BadInput, match=r"HW-ST-005 .*1 of \d+ objects .*zarr.json \(changed\)"):
        store.read(folder)


def test_a_manifest_of_a_later_format_says_so(folder):
    manifest = publish(folder)
    manifest["format"] = 99
    del manifest["sha256"]
    manifest["sha256"] = store._digest(manifest)
    (folder / "manifest.json").write_bytes(store._canonical(manifest))
    with pytest.raises(BadInput, match="HW-ST-003 .*format 99"):
        store.read(folder)


def test_misaligned_writes_are_refused(folder):
    draft = store.create(folder, "neighbors", block_cells=4)
    indices = draft.make("indices", (10, 3), np.int32)
    with pytest.raises(ValueError, match="rows 2 to 6 of /indices do not fill whole chunks of 4 rows"):
        indices[2:6] = 1
    indices[4:10] = 1


def test_arrays_outside_the_contract_are_refused(folder):
    draft = store.create(folder, "neighbors")
    with pytest.raises(ValueError, match="neighbors has no array 'weights'"):
        draft.make("weights", (3,), np.float64)
    with pytest.raises(ValueError, match="indices has dtype float64"):
        draft.make("indices", (3, 3), np.float64)
    with pytest.raises(ValueError, match="indices has 1 dimensions"):
        draft.make("indices", (3,), np.int32)


def test_tables_and_embeddings_come_back_as_they_were(tmp_path):
    folder = tmp_path / "results" / "toy" / "cells"
    draft = store.create(folder, "cells", block_cells=16)
    obs = pd.DataFrame({"type": pd.Categorical(["a", None, "b"]), "depth": [1.0, 2.0, np.nan]}, index=["x", "y", "ü"])
    draft["obs"], draft["obsm"] = obs, {"X_pca": np.arange(6.0).reshape(3, 2)}
    store.publish(draft, parameters={}, code="", inputs={})
    result = store.read(folder)
    pd.testing.assert_frame_equal(result["obs"], obs)
    assert result["obsm"]["X_pca"][:].tolist() == [[0, 1], [2, 3], [4, 5]]


def hold(folder, held, release):
    with store.lock(folder):
        held.set()
        release.wait(30)


def test_a_second_writer_is_told_who_holds_the_lock(folder):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(folder, held, release))
    holder.start()
    try:
        assert held.wait(30)
        with pytest.raises(Locked, match=f"HW-LK-001 .*process {holder.pid} on "), store.lock(folder):
            pass
        holder.kill()
        holder.join()
        with store.lock(folder):  # a dead holder holds nothing
            pass
    finally:
        holder.kill()
        holder.join()


def test_a_draft_of_a_killed_writer_is_removed_by_the_next(folder):
    old = store.create(folder, "neighbors")
    store.create(folder, "neighbors")
    assert not old.path.exists()
