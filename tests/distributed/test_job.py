"""A training in a process of its own: its errors, and its end with the process that started it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.composing import composed
from triptych import training
from triptych.config import Config
from triptych.distributed.job import work
from triptych.errors import UserError
from triptych.runs.record import Record


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return composed("train", "data=shapes", log_dir=str(tmp_path / "logs"))


def test_a_bug_before_there_is_a_run_folder_is_recorded_in_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(RuntimeError, match="a bug"):
        work(config, ["seed=0"], tmp_path / "folder")
    record = Record.open(Path((tmp_path / "folder").read_text()))
    assert (record.metadata["status"], record.metadata["error"]) == (
        "failed",
        "RuntimeError: a bug",
    )
    assert "a bug" in (record.folder / "traceback.txt").read_text()


def test_a_user_error_before_there_is_a_run_folder_makes_none(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise UserError("data.root: not there")

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(UserError, match="not there"):
        work(config, ["seed=0"], tmp_path / "folder")
    assert not (tmp_path / "logs").exists()


ENDLESS = """
import signal, sys, time
from pathlib import Path
from triptych.distributed import job
signal.signal(signal.SIGTERM, signal.SIG_IGN)
job.SAVE_SECONDS = 0.2
job.work = lambda *_: print("working", flush=True) or time.sleep(300)
job.main(Path(sys.argv[1]))
"""


def test_a_job_that_cannot_stop_is_killed_some_time_after_its_sweep_is_gone(
    tmp_path: Path,
) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"config": {}, "overrides": []}))
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as job:  # type: ignore[call-overload]
        assert job.stdout.readline() == b"working\n"
        job.stdin.close()
        assert job.wait(60) == -signal.SIGKILL
