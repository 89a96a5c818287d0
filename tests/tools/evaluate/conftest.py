"""Copies of the tiny run that all tests share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(trained_run: Path, tmp_path: Path) -> Path:
    """A copy to change, alone below `runs`."""
    return Path(shutil.copytree(trained_run, tmp_path / "runs" / "good"))
