"""What an earlier run of the same experiment means for a job."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triptych.errors import UserError
from triptych.tools.sweep.earlier import lock_job, newest, settles, unlock_job
from triptych.tools.sweep.jobs import Job
from triptych.tools.sweep.table import cells


def job(log_dir: Path, **asked: bool) -> Job:
    return Job(["seed=0"], {"log_dir": str(log_dir), "seed": 0}, "5eed" * 16, **asked)


METRICS = {"test/accuracy": 0.5, "test/f1": 0.5, "test/loss": None}
FINISHED = {
    **{"schema": 1, "status": "finished", "config_hash": "5eed" * 16, "seed": 0, "num_test": 10},
    **dict.fromkeys(("model", "data", "split_hash", "test_hash", "group_hash"), "a"),
    **dict.fromkeys(("started_at", "finished_at"), "2026-01-01T00:00:00+00:00"),
    **{"train_seconds": 1.0, "metrics": METRICS},
}


def leave(folder: Path, **metadata: Any) -> Path:
    """A run folder with that record."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(FINISHED | metadata))
    return folder


@pytest.mark.parametrize(
    "forged",
    [
        {"metrics": {}},
        {"metrics": METRICS | {"test/accuracy": 5}},
        {"metrics": METRICS | {"test/f1": "high"}},
        {"num_test": None},
        {"train_seconds": None},
        {"status": None},
        {"status": ["finished"]},
        {"status": "interrupted"},
        {"status": "failed"},
    ],
)
def test_a_finished_run_counts_before_later_ones_that_are_not_or_cannot_be_trusted(
    tmp_path: Path, forged: dict[str, Any]
) -> None:
    ours = leave(tmp_path / "ours")
    leave(tmp_path / "z", started_at="2099", **forged)
    found = newest(job(tmp_path))
    assert found
    assert found.folder == ours
    assert cells(found.metadata)[0] == "50.00%"


def test_a_run_behind_a_link_is_not_done_twice(tmp_path: Path) -> None:
    leave(tmp_path / "elsewhere" / "run")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "link").symlink_to(tmp_path / "elsewhere")
    assert newest(job(tmp_path / "logs"))


def test_a_fifo_is_no_record(tmp_path: Path) -> None:
    (leave(tmp_path / "a") / "run.json").unlink()
    os.mkfifo(tmp_path / "a" / "run.json")
    assert newest(job(tmp_path)) is None


def test_the_newest_run_of_the_same_config_counts_wherever_it_lies(tmp_path: Path) -> None:
    assert newest(job(tmp_path)) is None
    leave(tmp_path / "shapes" / "old", started_at="2026-01-01T00:00:00+00:00")
    latest = leave(tmp_path / "kept" / "by" / "hand", started_at="2026-01-03T00:00:00+00:00")
    leave(tmp_path / "z", started_at="2026-01-02T00:00:00+00:00")
    leave(tmp_path / "other", started_at="2026-01-04T00:00:00+00:00", config_hash="0" * 64)
    found = newest(job(tmp_path))
    assert found
    assert found.folder == latest


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', '{"config_hash": "'])
def test_a_record_that_cannot_be_read_is_no_jobs(tmp_path: Path, content: str) -> None:
    (leave(tmp_path / "a") / "run.json").write_text(content)
    assert newest(job(tmp_path)) is None


@pytest.mark.parametrize(
    ("status", "settled", "settled_when_retried"),
    [
        ("finished", True, True),
        ("failed", True, False),
        ("interrupted", False, False),
        ("running", False, False),
    ],
)
def test_what_is_left_to_do(
    tmp_path: Path, status: str, settled: bool, settled_when_retried: bool
) -> None:
    leave(tmp_path / "a", status=status)
    run = newest(job(tmp_path))
    assert run
    assert settles(run, job(tmp_path)) is settled
    assert settles(run, job(tmp_path, retry_failed=True)) is settled_when_retried


def test_an_experiment_is_claimed_once_and_again_when_given_up(tmp_path: Path) -> None:
    first = lock_job(job(tmp_path))
    assert first
    assert lock_job(job(tmp_path)) is None
    unlock_job(first)
    again = lock_job(job(tmp_path))
    assert again
    unlock_job(again)
    assert list((tmp_path / ".sweep").iterdir()) == []


def test_a_child_keeps_the_claim_when_the_sweep_is_gone(tmp_path: Path) -> None:
    mine = lock_job(job(tmp_path))
    assert mine
    waits = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(waits, stdin=subprocess.PIPE, pass_fds=[mine.fileno()])
    mine.close()  # as the system does with a sweep that is killed
    assert lock_job(job(tmp_path)) is None
    child.communicate(b"\n")
    again = lock_job(job(tmp_path))
    assert again
    unlock_job(again)


def test_where_nothing_can_be_locked_every_claim_is_granted(tmp_path: Path) -> None:
    (tmp_path / ".sweep").write_text("in the way")
    for _ in range(2):
        granted = lock_job(job(tmp_path))
        assert granted
        unlock_job(granted)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("plant", [fifo, Path.mkdir, dangling])
def test_what_lies_in_a_claims_place_is_named_and_waited_for_by_nobody(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    path = tmp_path / ".sweep" / ("5eed" * 4)
    path.parent.mkdir()
    plant(path)
    with pytest.raises(UserError, match=f"{path}: in the way of the sweep") as refused:
        lock_job(job(tmp_path))
    assert len(str(refused.value).splitlines()) == 1
    assert os.path.lexists(path)
