"""A run that has so many minutes: it ends in time, and the same command goes on."""

from pathlib import Path
from typing import Any

import pytest

from tests.composing import composed
from tests.same_run import assert_same_run
from tests.tiny import TINY, StartRun
from triptych import library
from triptych.config import Config
from triptych.runs import stopping
from triptych.runs.record import Record, hash_code
from triptych.runs.resume import resume_requeued_job

LATE = {stopping.STARTED: "0"}  # a command that began in 1970


def only_run(log_dir: Path) -> Record:
    [path] = log_dir.rglob("run.json")
    return Record.open(path.parent)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_stopped_by_its_minutes_is_the_same_as_one_that_was_not(
    start_run: StartRun, trained_run: Path, tmp_path: Path, devices: int
) -> None:
    typed = ["minutes=1000", f"log_dir={tmp_path}", f"++trainer.devices={devices}"]
    for _ in range(2):  # a step each
        assert start_run(*typed, env=LATE)["code"] == 0
        run = only_run(tmp_path)
        assert run.metadata["status"] == "interrupted"
        assert "minutes" in run.metadata["error"]
    before = run.metadata["seconds_total"]
    ended = start_run(*typed)
    assert ended["code"] == 0, ended["output"]
    run = only_run(tmp_path)
    assert run.metadata["status"] == "finished"
    assert run.metadata["seconds_total"] > before
    assert run.config.get("minutes") is None, "whoever resumes it says how long"
    if devices == 1:
        assert_same_run(run.folder, trained_run)
    ended = start_run(*typed)
    assert (ended["code"], str(run.folder) in ended["output"]) == (0, True)
    assert only_run(tmp_path).metadata == run.metadata, "finished before"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return composed("train", *TINY, f"log_dir={tmp_path}", "minutes=7.5")


def earlier(config: Config, **metadata: Any) -> Record:
    record = Record.create(config | {"minutes": None}, [])
    record.update(**metadata)
    return record


@pytest.mark.parametrize(
    ("metadata", "goes_on"),
    [
        ({"status": "interrupted"}, True),
        ({"status": "running"}, True),  # it was killed
        ({"status": "failed"}, False),
        ({"status": "interrupted", "code": {"triptych/module.py": "old"}}, False),
        ({"status": "interrupted", "config_hash": "another"}, False),
    ],
)
def test_the_unfinished_run_of_the_same_experiment_and_code_goes_on(
    config: Config, metadata: dict[str, Any], goes_on: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run = earlier(config, **metadata)
    with caplog.at_level("INFO"):
        requested, *_ = resume_requeued_job(config, list(TINY), print)
    assert ("code differs" in caplog.text) is ("code" in metadata), "it says what it does not use"
    assert requested["minutes"] is None
    assert requested["resume"] == (str(run.folder) if goes_on else None)
    assert hash_code(config) == Record.open(earlier(config).folder).metadata["code"]


def test_minutes_count_from_the_start_of_the_command_and_an_earlier_deadline_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(stopping.STARTED, "1000")
    stopping.set_deadline(None)
    assert stopping.read_deadline() == float("inf")
    for minutes, deadline in ((2.0, 1120), (5.0, 1120), (1.0, 1060)):
        stopping.set_deadline(minutes)
        assert stopping.read_deadline() == deadline


def test_a_deadline_ends_with_the_run_that_has_it_where_others_follow(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = []

    def train(config: Config) -> Record:
        resume_requeued_job(config, [], print)
        deadlines.append(stopping.read_deadline())
        raise stopping.OutOfTime(0)

    monkeypatch.setattr(library.training, "train", train)
    for minutes in (1, 5):
        with pytest.raises(SystemExit):
            library.train(config | {"minutes": minutes})
        assert stopping.read_deadline() == float("inf")
    assert deadlines[1] - deadlines[0] == pytest.approx(240, abs=9)
