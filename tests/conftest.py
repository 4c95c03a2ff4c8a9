"""What several test files share: where the real data lie, and a finished run."""

import os
from pathlib import Path

import pytest
from census import (  # noqa: F401 - hooks of pytest
    pytest_collection_modifyitems,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)

REAL_DATA = Path(os.environ.get("HEATWALK_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; a test that asks for it is skipped where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data in {REAL_DATA}; HEATWALK_DATA names another folder")
    return REAL_DATA


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """One finished run, by `heatwalk run` on two cores. Copy it before changing it."""
    from workflow_runs import heatwalk, prepare  # with AnnData and pandas, which few tests need

    folder = prepare(tmp_path_factory.mktemp("workflow") / "first")
    done = heatwalk(folder, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder
