"""Results that earlier versions wrote are read, or refused with what to do: one archive of each is in tests/data.

An archive is the folders `config` and `results` of a small run, without run.json. It is made once and never again: on a
new version of the format or of the schemas add one, and let this test say of the older ones what becomes of them.
"""

import re
import tarfile

import numpy as np
import pytest
from workflow_runs import ROOT, heatwalk

from heatwalk import schema, store
from heatwalk.cells import Cells

ARCHIVES = sorted((ROOT / "tests" / "data").glob("results-*.tar.gz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def old(request, tmp_path):
    careful = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and later
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, **careful)
    return tmp_path


def refused(folder) -> bool:
    """Whether results of this version are refused, with the line that says why and what to do."""
    problems = [str(problem) for path in store.results_under(folder / "results") for problem in store.verify(path)]
    assert all(re.match("HW-ST-003 .*use the heatwalk that wrote it, or delete it and run again", p) for p in problems)
    return bool(problems)


def test_there_is_an_archive():
    assert ARCHIVES


def test_results_of_an_earlier_version_are_read_with_all_that_was_in_them(old):
    if refused(old):
        return
    for path in store.results_under(old / "results"):
        result = store.read(path)
        assert {*result} == {*result.group.keys()}, "an array that an older version wrote has no place in the schema"
        for name in result:
            if schema.SCHEMAS[result.stage][name].kind not in ("table", "arrays"):
                assert np.asarray(result[name][...]).dtype == result[name].dtype
    assert Cells(**store.read(old / "results" / "circle" / "cells")).values.shape == (60, 2)
    eigenvalues = store.read(old / "results" / "circle" / "diffusion_map")["eigenvalues"][:]
    assert np.ptp(eigenvalues[:2]) < 1e-9  # waves of a circle come in pairs
    assert 0.5 < eigenvalues[0] < 1


def test_a_run_over_results_of_an_earlier_version_ends_well(old):
    done = heatwalk(old, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert heatwalk(old, "verify").returncode == 0


def test_results_of_a_later_format_are_refused_with_what_to_do(old, monkeypatch):
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert refused(old)
