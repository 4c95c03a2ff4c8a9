"""What is written to a disk that fills says so itself, however its library would put it."""

import io
import logging
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from heatwalk import program
from heatwalk.errors import OutOfResources
from heatwalk.hdf5_file import hdf5_file

WRITING = """
import resource, signal, sys
from pathlib import Path
import numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most, path = int(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
{0}
try:
    write(path)
except OSError as error:
    print("errno", error.errno)
"""
HDF5 = """
from heatwalk.hdf5_file import hdf5_file
def write(path):
    with hdf5_file(path) as file:
        for name in "abcdefgh":
            group = file.create_group(name)
            group.attrs["words"] = ["one", "two"]
            values = np.random.default_rng(0).random((400, 10))
            group.create_dataset("values", data=values, chunks=(50, 10), compression="gzip")
"""
CHECKPOINT = """
import torch
from heatwalk import checkpoints
def write(path):
    checkpoints.keep(path, "key", {"weights": torch.ones(20_000)})
"""


def written(what: str, path, most: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WRITING.format(what), str(most), str(path)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("most", [0, 100, 2_000, 9_000, 40_000, 150_000])
def test_hdf5_on_a_full_disk_is_an_error_and_no_crash(tmp_path, most):
    done = written(HDF5, tmp_path / "a.h5ad", most)
    assert (done.returncode, done.stdout, done.stderr) == (0, "errno 27\n", "")


def test_hdf5_on_a_disk_with_room_is_what_h5py_writes(tmp_path):
    values = np.random.default_rng(1).random((300, 7))
    for name, opened in (
        ("ours", hdf5_file),
        ("theirs", lambda path: h5py.File(path, "w", libver=("earliest", "v110"))),
    ):
        with opened(tmp_path / name) as file:
            file.create_dataset("x", data=values, chunks=(40, 7), compression="gzip", track_times=False)
            file["names"] = ["a", "b"]
            del file["names"]
            file["names"] = ["c"]
    with h5py.File(tmp_path / "ours") as ours, h5py.File(tmp_path / "theirs") as theirs:
        np.testing.assert_array_equal(ours["x"][:], theirs["x"][:])
        assert list(ours["names"].asstr()) == ["c"]


def test_an_error_of_the_writer_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), hdf5_file(tmp_path / "a"):
        raise ZeroDivisionError


def test_a_checkpoint_on_a_full_disk_is_an_error_of_the_disk(tmp_path):
    pytest.importorskip("torch")
    done = written(CHECKPOINT, tmp_path / "a.checkpoint", 5_000)
    assert (done.returncode, done.stdout, done.stderr) == (0, "errno 27\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_costs_its_line_alone(tmp_path, capsys, monkeypatch):
    handler = program._Lines(tmp_path / "log")
    handler.emit(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    assert capsys.readouterr().err.count("--- Logging error ---") == 1  # a defect of ours is still told

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(handler, "stream", Full())
        handler.emit(logging.makeLogRecord({"msg": "lost"}))
    handler.close()
    assert capsys.readouterr().err == ""


def test_unfinished_work_goes_though_another_thread_still_writes(tmp_path, monkeypatch):
    removed = []

    def rmtree(folder, **options):
        removed.append(folder)
        shutil_rmtree(folder, **options)
        if len(removed) < 3:  # a thread that has not heard of the failure
            (folder / "c").mkdir(parents=True)

    shutil_rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    (tmp_path / "work").mkdir()
    program._remove(tmp_path / "work")
    assert len(removed) == 3
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_lack_of_memory_is_known_whoever_says_it(tmp_path, error):
    need = {"memory": 3e9, "result": 5e6, "scratch": 1e6}
    explained = program.explain(error, tmp_path / "results" / "toy" / "pca", need)
    assert isinstance(explained, OutOfResources)
    assert "HW-RS-001" in str(explained)
    assert "about 3,000 MB are needed, " in str(explained)


def test_a_full_disk_is_said_with_what_is_needed_and_what_is_free(tmp_path):
    need = {"memory": 3e9, "result": 5e6, "scratch": 1e6}
    explained = program.explain(OSError(28, "No space left on device"), tmp_path / "results" / "toy" / "pca", need)
    assert "about 6 MB are needed, " in str(explained)
    assert " MB are free; " in str(explained)
