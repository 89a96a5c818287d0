"""What loggers hold of a run that was stopped and resumed, by their own readers."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.callbacks.test_loggers import SHORT, read_values, stop_and_resume
from tests.composing import composed
from tests.tiny import TINY
from triptych.cli import prepare
from triptych.metrics import PER_CLASS
from triptych.runs.record import Record
from triptych.training import train

PICTURES = {"train/images", "train/images_as_seen", "val/confusion", "test/confusion"}
TABLE = "test/per_class"
# The libraries of services warn of each other.
pytestmark = pytest.mark.filterwarnings("default")
Values = dict[tuple[int, str], float]


def flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            is_plain = isinstance(value, str | int | float)
            yield f"{prefix}{name}", value if is_plain else json.dumps(value)


def train_with_words(log_dir: Path, *typed: str) -> tuple[Record, Values]:
    """A run with loggers that words choose, stopped after its first epoch and resumed; and every
    value of its curves by step and name."""
    nodes = composed("train", *SHORT, *map(prepare, typed))["trainer"]["logger"]
    record = stop_and_resume(log_dir, *nodes)
    rows = read_values(record.folder / "metrics.csv")
    return record, {(int(step), name): value for step, name, value in rows}


def read_rows(path: Path) -> list[list[Any]]:
    return [*csv.reader(path.read_text().splitlines())][1:]


def check_table(rows: list[list[Any]], record: Record) -> None:
    """Whether the table has every class, and means that are the scores of the test."""
    assert [row[0] for row in rows] == record.metadata["classes"]
    for column, name in enumerate(PER_CLASS, 1):
        mean = sum(float(row[column]) for row in rows) / len(rows)
        assert mean == pytest.approx(record.metadata["metrics"][f"test/{name}"])


def test_csv_and_tensorboard_have_all_of_a_resumed_run(tmp_path: Path) -> None:
    record, values = train_with_words(tmp_path, "logger=[csv,tensorboard]")
    place = record.folder / "csv"
    logged = read_values(place / "metrics.csv")
    assert {(int(step), name): value for step, name, value in logged} == values
    assert yaml.safe_load((place / "hparams.yaml").read_text()) == record.config
    names = {name.replace("/", "_") for name in PICTURES}
    assert {path.stem for path in place.glob("*.png")} == names
    assert imread(place / "test_confusion.png").shape[2] >= 3
    check_table(read_rows(place / "test_per_class.csv"), record)

    events = EventAccumulator(str(record.folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    scalars = {(e.step, n): e.value for n in events.Tags()["scalars"] for e in events.Scalars(n)}
    several = {key: value for key, value in values.items() if not key[1].startswith("test/")}
    assert scalars == pytest.approx(several), "no chart of a single dot"
    assert {*events.Tags()["images"]} == PICTURES
    [text], [card], [scores] = (
        [
            event.tensor_proto.string_val[0].decode()
            for event in events.Tensors(f"{tag}/text_summary")
        ]
        for tag in ("config", "about/run", "about/scores")
    )
    assert yaml.safe_load(text.strip("`").removeprefix("yaml")) == record.config
    assert f"| {record.metadata['num_train']} |" in card
    assert f"{record.metadata['metrics']['test/accuracy']:.4f}".replace(".", "&#46;") in scores


def read_session(folder: Path) -> Any:
    """What the table of hyperparameters has of a run."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert "_hparams_/experiment" not in events.summary_metadata, "of one run, and used for all"
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return HParamsPluginData.FromString(content).session_start_info


def test_the_table_of_hyperparameters_has_what_people_vary_and_the_scores(tmp_path: Path) -> None:
    typed = [*TINY, "data.sampler=balanced", "loss=focal", "trainer.max_epochs=1"]
    record = train(composed("train", *typed, log_dir=str(tmp_path)), typed)
    session = read_session(record.folder)
    values = {n: getattr(v, v.WhichOneof("kind")) for n, v in session.hparams.items()}
    assert values.items() >= {"optim.lr": 0.01, "optim.name": "adam", "seed": 0.0}.items()
    assert values.items() >= {"loss": "FocalLoss", "model.weights": "null"}.items()
    assert values["data.sampler"] == "balanced", "whatever was typed"
    assert not {"log_dir", "trainer.accelerator"} & values.keys(), "no part of the experiment"
    scores = {values["accuracy, test"], values["accuracy, validation"]}
    assert scores == {record.metadata["metrics"][f"{n}/accuracy"] for n in ("test", "val")}
    assert session.group_name == f"tiny seed0 {record.metadata['config_hash'][:6]}"


def test_wandb_has_all_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    for name in ("DATA", "CONFIG", "CACHE"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb"))
    record, values = train_with_words(tmp_path, "logger=wandb", "logger.wandb.offline=true")
    entries: list[dict[str, Any]] = []
    runs = sorted((record.folder / "wandb").glob("offline-run-*/*.wandb"))
    for path in runs:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        entries += map(json.loads, printed.splitlines())
    assert len(runs) == 2
    [run_id] = record.metadata["logger_ids"].values()
    assert {e["run"]["run_id"] for e in entries if e["type"] == "run"} == {run_id}
    assert [e["exit"].get("exit_code", 0) for e in entries if e["type"] == "exit"] == [1, 0]
    for settings in [e["config"]["update"] for e in entries if e["type"] == "config"]:
        assert settings == record.config
    history = [e["history"]["item"] for e in entries if e["type"] == "history"]
    logged = {(i["trainer/global_step"], name): i[name] for i in history for name in i}
    assert values.items() <= logged.items()
    assert {n.removesuffix(".count") for i in history for n in i if n.endswith("count")} == PICTURES
    [table] = record.folder.glob(f"wandb/offline-*/files/media/table/{TABLE}_*.json")
    check_table(json.loads(table.read_text())["data"], record)


def test_mlflow_has_all_of_a_resumed_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    record, values = train_with_words(tmp_path, "logger=mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("triptych")
    [run] = client.search_runs([experiment.experiment_id])
    assert [run.info.run_id] == [*record.metadata["logger_ids"].values()]
    assert run.info.status == "FINISHED"
    for name, value in flatten(record.config):
        if name != "trainer.logger":  # Lightning numbers what a list has
            param = run.data.params.get(name.replace(".", "/"), "[]")  # it has no empty ones
            assert param == {"null": "None"}.get(str(value), str(value).replace('"', "'"))[:250]
    histories = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    logged = [((m.step, m.key), m.value) for history in histories for m in history]
    assert dict(logged) == values
    assert len(logged) == len(values)
    place = Path(client.download_artifacts(run.info.run_id, ""))
    assert yaml.safe_load((place / "config.yaml").read_text()) == record.config
    assert {p.name.partition("+")[0].replace("~", "/") for p in place.glob("images/*")} == PICTURES
    check_table(read_rows(place / f"{TABLE}.csv"), record)
