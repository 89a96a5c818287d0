"""Loggers of the user's: settings once, links of their own, faults, and a run that is resumed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import triptych
from tests.composing import composed
from tests.tiny import TARGETS, TINY
from triptych.callbacks.checkpoint import CheckpointCallback
from triptych.callbacks.loggers import find_arguments
from triptych.callbacks.trainer_rules import check_packages
from triptych.cli import prepare
from triptych.errors import UserError, hide_secrets
from triptych.runs.record import Record
from triptych.runs.storage import format_size
from triptych.training import train

SERVICE, PASSING = "tests.services.Service", "tests.services.Passing"
LIGHTNING = "lightning.pytorch.loggers"
SHORT = [*TINY, "trainer.max_epochs=2"]
pytestmark = pytest.mark.usefixtures("no_figures")


def train_with(log_dir: Path, *loggers: dict[str, Any]) -> Record:
    config = composed("train", *SHORT, log_dir=str(log_dir))
    config["trainer"]["logger"] = [*loggers]
    return train(config, SHORT)


def stop_and_resume(log_dir: Path, *loggers: dict[str, Any]) -> Record:
    """A run that is stopped after its first epoch, and then resumed."""

    def stop(self: object, trainer: Any, _: object) -> None:
        if trainer.current_epoch == 1:
            raise SystemExit(143)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointCallback, "on_train_epoch_start", stop)
        with pytest.raises(SystemExit):
            train_with(log_dir, *loggers)
    folder = next(log_dir.rglob("run.json")).parent
    trusted = [*TARGETS, SERVICE, PASSING, f"{LIGHTNING}.CSVLogger"]
    return train(composed("train", resume=str(folder), trusted_targets=trusted), [])


def read_calls(folder: Path) -> list[list[Any]]:
    lines = (folder / "service" / "calls.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def read_values(path: Path) -> list[tuple[str, str, float]]:
    """Every value by its step and name, in the order in which they were logged."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    names = sorted({*rows[0]} - {"epoch", "step"})
    return [(row["step"], n, float(row[n])) for row in rows for n in names if row[n]]


def read_scores(path: Path) -> list[tuple[str, float]]:
    """Step and validation accuracy of every epoch."""
    rows = csv.DictReader(path.read_text().splitlines())
    return [(row["step"], float(row["val/accuracy"])) for row in rows if row.get("val/accuracy")]


def test_a_logger_gets_settings_once_without_secrets_and_keeps_its_links(tmp_path: Path) -> None:
    node = {"_target_": SERVICE, "api_key": "hush", "tags": ["a", {"b": None}]}
    record = stop_and_resume(tmp_path, node)
    assert record.metadata["status"] == "finished"
    calls = read_calls(record.folder)
    [(_, _, settings)] = [call for call in calls if call[1] == "settings"]
    [logger] = settings["trainer"].pop("logger")
    assert logger == node | {"api_key": "(hidden)"}
    own = record.config
    own["trainer"].pop("logger")
    assert settings == own, "and the run's own settings are not the logger's to change"
    names = {name for call in calls if call[1] == "metrics" for name in call[2]}
    assert {"train/loss", "lr", "val/accuracy", "test/accuracy"} <= names
    assert {call[0] for call in calls} == {"first-run"}
    pictures = [("train/images", 0), ("train/images_as_seen", 0)]
    pictures += [("val/confusion", 5), ("val/confusion", 10), ("test/confusion", 10)]
    assert [(call[2][0], call[2][2]) for call in calls if call[1] == "pictures"] == pictures
    tables = {call[2][0]: call[2][1:] for call in calls if call[1] == "table"}
    assert [*tables] == ["about/run", "about/scores", "test/per_class"]
    assert tables["test/per_class"] == [["class", "f1", "precision", "recall"], 10, 10]
    assert (record.folder / "service" / "debug.log").is_symlink()
    assert format_size(record.folder).endswith("kB")
    assert triptych.load_run(record.folder).network(TARGETS)


def test_no_key_or_password_of_a_logger_is_written(tmp_path: Path) -> None:
    node = {"_target_": SERVICE, "api_key": "hush", "host": "https://me:hush@there", "key": ""}
    typed = ["logger.a.api_key=hush", "trainer.logger=[{host: 'https://me:hush@there'}]", "seed=0"]
    config = composed("train", *TINY, log_dir=str(tmp_path))
    config["trainer"] |= {"logger": [node], "max_epochs": 1}
    record = train(config, typed)
    assert record.config["trainer"]["logger"] == [
        node | {"api_key": "(hidden)", "host": "(hidden)"}
    ]
    assert record.metadata["overrides"] == [*map(hide_secrets, typed)]
    assert hide_secrets(typed[-1]) == typed[-1]
    files = [path for path in record.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"hush" in path.read_bytes()]


def test_a_resumed_run_may_have_other_loggers(tmp_path: Path) -> None:
    folder = stop_and_resume(tmp_path, {"_target_": SERVICE, "id": "a"}).folder
    typed = [f"resume={folder}", "logger=csv", "trainer.max_epochs=3"]
    config = composed("train", *map(prepare, typed), f"trusted_targets={[*TARGETS, SERVICE]}")
    record = train(config, typed)
    assert {each[0] for each in read_calls(folder)} == {"a"}
    targets = [node["_target_"] for node in record.config["trainer"]["logger"]]
    assert targets == [f"{LIGHTNING}.CSVLogger"]
    own = [row for row in read_values(folder / "metrics.csv") if int(row[0]) > 10]
    assert read_values(folder / "csv" / "metrics.csv") == own


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_package_of_a_logger_is_asked_for_before_anything_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("train", f"logger={name}")
    monkeypatch.setattr("triptych.callbacks.trainer_rules.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"^logger={name}: .*pip install -e '\.\[{name}\]'$"):
        check_packages(config)


def test_a_resumed_run_goes_on_with_the_loggers_own_run(tmp_path: Path) -> None:
    record = train_with(tmp_path, {"_target_": SERVICE})
    assert [*record.metadata["logger_ids"].values()] == ["first-run"]
    folder = str(record.folder)
    assert find_arguments({"_target_": SERVICE}, record) == {"dir": folder, "id": "first-run"}
    mine = {"_target_": SERVICE, "id": "mine"}
    assert find_arguments(mine, record) == {"dir": folder}


def test_nothing_that_files_had_before_is_lost_or_doubled(tmp_path: Path) -> None:
    loggers: list[dict[str, Any]] = [
        {"_target_": f"{LIGHTNING}.CSVLogger", "name": "rows", "version": "one"},
        {"_target_": f"{LIGHTNING}.TensorBoardLogger", "name": "events", "version": "one"},
        {"_target_": PASSING, "name": "passed", "version": 3},
    ]
    folder = stop_and_resume(tmp_path, *loggers).folder
    assert read_values(folder / "rows/one/metrics.csv") == read_values(folder / "metrics.csv")
    for place in ("events/one", "passed/version_3"):
        events = EventAccumulator(str(folder / place))
        events.Reload()
        assert [str(event.step) for event in events.Scalars("val/accuracy")] == ["5", "10"]


@pytest.mark.parametrize("fails", ["metrics", "pictures", "end"])
def test_a_logger_that_fails_on_its_way_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    record = train_with(tmp_path, {"_target_": SERVICE, "fails": fails})
    assert record.metadata["status"] == "finished"
    assert caplog.text.count("the network is down") == 1
    assert len(read_scores(record.folder / "metrics.csv")) == 2


@pytest.mark.parametrize(
    ("node", "named"),
    [
        ({"_target_": SERVICE, "fails": "settings"}, "the network is down"),
        ({"_target_": f"{LIGHTNING}.CSVLogger", "name": None, "version": ""}, r"metrics\.csv"),
        ({"_target_": f"{LIGHTNING}.CSVLogger", "save_dir": "../.."}, "not in the run's folder"),
        ({"_target_": PASSING, "save_dir": "/tmp"}, "not in the run's folder"),
        ({"_target_": f"{LIGHTNING}.TensorBoardLogger", "filename_suffix": "/../.."}, "suffix"),
        ({"_target_": f"{LIGHTNING}.TensorBoardLogger", "flush_secs": "x"}, "flush_secs=x"),
        ({"_target_": f"{LIGHTNING}.CSVLogger", "names": "a"}, "nearest: name"),
        ({"_target_": "builtins.dict"}, "a Logger"),
    ],
)
def test_a_logger_that_cannot_start_is_refused_and_leaves_nothing(
    tmp_path: Path, node: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named) as refused:
        train_with(tmp_path / "logs", node)
    assert str(refused.value).startswith("trainer.logger")
    assert not [*(tmp_path / "logs").rglob("*.json")]
