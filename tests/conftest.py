"""What several test files share: where the real data lie."""

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
