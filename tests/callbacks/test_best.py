"""The weights to be scored, as they come back from the disk."""

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from torchvision.models import mnasnet0_5

from tests.composing import composed
from tests.same_run import table
from tests.tiny import TINY
from triptych.callbacks import checkpoint
from triptych.cli import prepare
from triptych.config import MONITORS
from triptych.errors import UserError
from triptych.models.weight_files import WeightsFile
from triptych.runs import checkpoint_files
from triptych.runs.record import Record, config_hash
from triptych.training import train


@pytest.fixture(scope="module")
def module() -> Any:
    module: Any = LightningModule()
    module.backbone = torch.nn.Module()
    module.backbone.network = mnasnet0_5(num_classes=3)  # which asks weights for their version
    return module


@pytest.mark.parametrize("averaged", [False, True])
def test_weights_of_both_checkpoints_keep_what_their_modules_ask_for(
    module: Any, tmp_path: Path, averaged: bool
) -> None:
    (tmp_path / "config.yaml").write_text("")
    state = module.state_dict()
    state = dict(state) if averaged else state  # as Lightning averages them
    best = checkpoint.BestWeights()
    best.unwritten = {"val": None}
    best.capture(state, module.backbone.network)
    best.save(Record(tmp_path, {}))
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    path = tmp_path / "checkpoints" / "best.ckpt"
    scored, taken, resumed = (mnasnet0_5(num_classes=num) for num in (3, 5, 3))
    checkpoint_files.load_weights_into(scored, path)
    WeightsFile.read(path).load_into(taken, "classifier.1")
    WeightsFile.read(tmp_path / "last.ckpt").load_into(resumed, "classifier.1")
    for name, value in module.backbone.network.state_dict().items():
        assert torch.equal(scored.state_dict()[name], value)
        assert torch.equal(taken.state_dict()[name], value) or name.startswith("classifier")
        assert torch.equal(resumed.state_dict()[name], value)


# Which epoch is the best.

RISING = ("val/accuracy", "val/f1", "val/precision", "val/recall")


@given(st.sampled_from([*MONITORS]), st.lists(st.sampled_from([0.0, 0.5, 0.7, 2.5, math.nan])))
def test_the_best_is_the_first_of_the_best_values_and_never_nan(
    monitor: str, seen: list[float]
) -> None:
    assert (MONITORS[monitor] == "max") is (monitor in RISING)
    best = checkpoint.CheckpointCallback(*cast(Any, (None,) * 3), monitor, MONITORS[monitor])
    chosen = None
    for place, value in enumerate(seen):
        if best._is_best({monitor: value}):
            chosen, best.best.metrics = place, {monitor: value}
    numbers = [value for value in seen if not math.isnan(value)]
    expected = (max if monitor in RISING else min)(numbers, default=None)
    assert chosen == (None if expected is None else seen.index(expected))


@pytest.mark.parametrize(
    ("monitor", "choose"),
    [("val/loss", min), ("val/recall", max)],
)
def test_a_run_scores_the_epoch_that_its_monitor_names(
    tmp_path: Path, no_figures: None, monitor: str, choose: Any
) -> None:
    config = composed("train", *TINY, f"checkpoint.monitor={monitor}", log_dir=str(tmp_path))
    run = train(config, [])
    values = [float(row[monitor]) for row in table(run.folder) if row["val/accuracy"]]
    assert len(values) == 3
    assert run.metadata["best_epoch"] == values.index(choose(values)) + 1
    assert run.metadata["metrics"][monitor] == pytest.approx(choose(values))
    assert run.metadata["monitor"] == monitor


@pytest.mark.parametrize(
    ("target", "choose"), [("MulticlassCalibrationError", min), ("MulticlassAUROC", max)]
)
def test_a_metric_of_one_s_own_chooses_the_epoch_and_ends_the_training_in_its_direction(
    tmp_path: Path, no_figures: None, target: str, choose: Any
) -> None:
    typed = [f"metrics.mine._target_=torchmetrics.classification.{target}"]
    typed += ["callbacks=[early_stopping]", "callbacks.early_stopping.patience=1"]
    typed += ["checkpoint.monitor=val/mine", "trainer.max_epochs=6"]
    config = composed("train", *TINY, *map(prepare, typed), log_dir=str(tmp_path))
    run = train(config, [])
    values = [float(row["val/mine"]) for row in table(run.folder) if row["val/accuracy"]]
    assert run.metadata["best_epoch"] == values.index(choose(values)) + 1
    *before, last = values
    assert before == sorted(before, reverse=choose is min), "each better than the one before"
    assert len(values) == 6 or choose(before[-1], last) == before[-1]


def test_a_metric_that_does_not_say_what_is_best_of_it_is_no_monitor(tmp_path: Path) -> None:
    typed = ["metrics.mine._target_=torchmetrics.classification.MulticlassSpecificity"]
    typed += ["checkpoint.monitor=val/mine"]
    config = composed("train", *TINY, *map(prepare, typed), log_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"checkpoint\.monitor=val/mine: .*higher_is_better"):
        train(config, [])
    assert not [*tmp_path.rglob("run.json")]


def test_a_metric_that_is_not_there_is_refused_with_those_that_are() -> None:
    for wrong in ("val/auroc", "f1", "test/accuracy", "val/F1"):
        with pytest.raises(UserError, match=rf"checkpoint\.monitor={wrong}: .*val/loss, val/f1"):
            composed("train", *TINY, f"checkpoint.monitor={wrong}")


def test_a_run_by_accuracy_is_the_one_of_before_there_was_a_choice() -> None:
    config, other = composed("train", *TINY), composed("train", *TINY, "checkpoint.monitor=val/f1")
    hashed = config_hash(config)
    assert config["checkpoint"].pop("monitor") == "val/accuracy"
    assert hashed == config_hash(config) != config_hash(other)
