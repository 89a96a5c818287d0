"""Every callback of Lightning and every argument of its Trainer works here, or is refused by name.

The two tables are the specification: `works`, and how it is told, or the refusal and what it
offers instead. A name that a later Lightning adds fails the tests until it has a line.
"""

import inspect
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import callbacks
from lightning.pytorch.loggers import Logger

import triptych
from tests.composing import composed
from tests.tiny import TARGETS, TINY
from triptych.build import build_trainer
from triptych.callbacks.configured import fill_mode
from triptych.config import MONITORS, Config, check_config, load_trainer_rules
from triptych.data.datamodule import KeyedBatchSampler
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.training import train

LIGHTNING = "lightning.pytorch.callbacks."
pytestmark = pytest.mark.usefixtures("no_figures")
# Settings of a callback that works; a text: refused, and what the message names instead.
CALLBACKS: dict[str, dict[str, Any] | str] = {
    "BackboneFinetuning": {"unfreeze_backbone_at_epoch": 1},  # layers join the optimizer
    "BaseFinetuning": "BackboneFinetuning",
    "BasePredictionWriter": "triptych predict",
    "BatchSizeFinder": "triptych tune search=batch",
    "Callback": {},
    "Checkpoint": {},
    "DeviceStatsMonitor": {},  # into the loggers
    "EarlyStopping": {"monitor": "val/loss"},  # a name that nothing logs: before the first epoch
    "EMAWeightAveraging": {},
    "GradientAccumulationScheduler": {"scheduling": {0: 2, 1: 1}},  # schedules count its steps
    "LambdaCallback": {
        "on_fit_end": {"_target_": "hydra.utils.get_method", "path": "operator.is_"}
    },
    "LearningRateFinder": "triptych tune search=range",
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"monitor": "val/loss"},  # into model_checkpoints/ of the run's folder
    "ModelPruning": "prune the network of a finished run",
    "ModelSummary": {},  # on the screen and in train.log
    "OnExceptionCheckpoint": {},  # into model_checkpoints/, too
    "ProgressBar": {},  # in place of ours, as the next two
    "RichModelSummary": {},
    "RichProgressBar": {},
    "SpikeDetection": {},  # exit code 1 at a spike; skip_batches.json in the run's folder
    "StochasticWeightAveraging": {"swa_lrs": 0.01},
    "ThroughputMonitor": {
        "batch_size_fn": {"_target_": "hydra.utils.get_method", "path": "builtins.len"}
    },
    "Timer": {"duration": {"hours": 1}},  # Lightning wants a dict of Python's own
    "TQDMProgressBar": {},
    "WeightAveraging": {},
}
# A value that works, and one that is refused with what the message offers.
ARGUMENTS: dict[str, tuple[Any, Any, str]] = {
    "accelerator": ("cpu", "abacus", "auto, cpu, gpu, cuda, mps"),
    "strategy": ("auto", "fsdp", "ddp"),
    "devices": (1, 0, "at least 1"),
    "num_nodes": (1, "two", "at least 1"),
    "precision": ("bf16-mixed", 17, "16-mixed"),
    "logger": (False, True, "left out, it is TensorBoard"),
    "callbacks": ({"_target_": LIGHTNING + "Callback"}, "EarlyStopping", "_target_"),
    "fast_dev_run": (2, -1, "a number of batches"),
    "max_epochs": (2, None, "at least 1, or -1"),
    "min_epochs": (1, 0, "at least 1"),
    "max_steps": (3, 0, "at least 1, or -1"),
    "min_steps": (1, True, "at least 1"),
    "max_time": ({"minutes": 90}, 5400, '"00:01:30:00"'),
    "limit_train_batches": (0.5, 0, "a part as 0.5"),
    "limit_val_batches": (0, 1.5, "a part as 0.5"),
    "limit_test_batches": (2, 0, "a part as 0.5"),
    "limit_predict_batches": (None, 2, "triptych predict"),
    "overfit_batches": (2, True, "0 for none"),
    "val_check_interval": ("00:00:10:00", 0, "a part as 0.5"),
    "check_val_every_n_epoch": (1, 0, "at least 1"),
    "num_sanity_val_steps": (-1, -2, "-1 for all"),
    "log_every_n_steps": (1, 0, "at least 1"),
    "enable_checkpointing": (True, False, "checkpoints"),
    "enable_progress_bar": (None, "yes", "true or false"),
    "enable_model_summary": (True, 1, "true or false"),
    "accumulate_grad_batches": (2, {0: 2}, "at least 1"),
    "gradient_clip_val": (0.5, 0, "above 0"),
    "gradient_clip_algorithm": ("value", "max", "norm, value"),
    "deterministic": ("warn", "error", "warn"),
    "benchmark": (True, "yes", "true or false"),
    "inference_mode": (False, 0, "true or false"),
    "use_distributed_sampler": (False, True, "its share"),
    "profiler": ("simple", 1, "simple, advanced, pytorch"),
    "detect_anomaly": (True, 1, "true or false"),
    "barebones": (False, True, "triptych benchmark"),
    "plugins": (None, "slurm", "_target_"),
    "sync_batchnorm": (False, "auto", "true or false"),
    "reload_dataloaders_every_n_epochs": (1, -1, "at least 0"),
    "default_root_dir": (None, "elsewhere", "log_dir="),
    "enable_autolog_hparams": (False, "no", "true or false"),
    "model_registry": (None, "hub", "triptych export"),
}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return Record.create(tiny(tmp_path_factory.mktemp("logs")), [])


def tiny(log_dir: Path, **trainer: Any) -> Config:
    """A config of `tests.tiny.Tiny`, not checked."""
    config = composed("train", *TINY) | {"log_dir": str(log_dir)}
    return config | {"trainer": config["trainer"] | trainer}


def build(record: Record, **trainer: Any) -> pl.Trainer:
    config = tiny(record.folder, **trainer)
    check_config(config)
    return build_trainer(config, record, [])


def run(log_dir: Path, **trainer: Any) -> Record:
    config = tiny(log_dir, **{"max_epochs": 1, "num_sanity_val_steps": 0} | trainer)
    check_config(config)
    return train(config)


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": LIGHTNING + name, **arguments}


def test_the_tables_have_every_callback_and_every_argument() -> None:
    rules = {name.removeprefix("trainer.") for name in load_trainer_rules().RULES}
    assert set(CALLBACKS) == set(callbacks.__all__)
    assert set(ARGUMENTS) == set(inspect.signature(pl.Trainer).parameters) == rules
    refused = [name for name, told in CALLBACKS.items() if isinstance(told, str)]
    assert (len(CALLBACKS), len(refused), len(ARGUMENTS)) == (26, 5, 41)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_is_built_or_refused_with_what_to_take_instead(
    name: str, record: Record
) -> None:
    told = CALLBACKS[name]
    if isinstance(told, str):
        with pytest.raises(UserError, match=rf"trainer\.callbacks: {name}.*{told}"):
            build(record, callbacks=[callback(name)])
    else:
        trainer = build(record, callbacks=[callback(name, **told)])
        assert name in {type(c).__name__ for c in trainer.callbacks}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_is_taken_or_refused_with_what_it_may_be(name: str, record: Record) -> None:
    good, bad, may_be = ARGUMENTS[name]
    if name != "max_epochs":
        build(record, **{name: good})
    with pytest.raises(UserError) as refused:
        build(record, **{name: bad})
    assert f"trainer.{name}=" in str(refused.value)
    assert may_be in str(refused.value)


PLAUSIBLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 100),
    st.floats(-1, 3),
    st.sampled_from(["", "yes", "auto", "1", "0,1", "[0]", "1:30:00", "none", "simple", "16"]),
    st.lists(st.integers(0, 2), max_size=2),
    st.dictionaries(st.sampled_from(["_target_", "minutes", "0"]), st.integers(0, 2), max_size=2),
    st.just([{"_target_": "no.such.thing"}]),
    st.just({"_target_": "builtins.dict"}),
)


@pytest.mark.filterwarnings("ignore:.*precision=")  # 16 is taken, and another one named
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(ARGUMENTS)), value=PLAUSIBLE)
def test_whatever_an_argument_is_it_is_taken_or_named(
    name: str, value: Any, record: Record
) -> None:
    said = ""
    try:
        build(record, **{name: value})
    except UserError as error:
        said = str(error)
    assert not said or name in said or "trainer.m" in said or "devices" in said
    assert len(said.splitlines()) <= 3


@pytest.mark.parametrize("none", ["00:00:00:00", {"seconds": 0}, {"days": 0, "minutes": 0.0}])
def test_no_time_to_train_is_refused(record: Record, none: Any) -> None:
    with pytest.raises(UserError, match=r"trainer\.max_time="):
        build(record, max_time=none)


def read_rates(record: Record) -> list[float]:
    rows = np.genfromtxt(record.folder / "metrics.csv", delimiter=",", names=True)
    return [float(rate) for rate in rows["lr"] if rate == rate]


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({}, 20),
        ({"accumulate_grad_batches": 4}, 8),
        ({"callbacks": [callback("GradientAccumulationScheduler", scheduling={0: 4, 2: 1})]}, 14),
        ({"callbacks": [callback("GradientAccumulationScheduler", scheduling={1: 2})]}, 14),
        ({"max_epochs": 9, "max_steps": 7}, 7),
        ({"overfit_batches": 2}, 8),
    ],
)
def test_a_cosine_ends_with_the_training(
    tmp_path: Path, trainer: dict[str, Any], steps: int
) -> None:
    config = tiny(tmp_path, **{"max_epochs": 4, "log_every_n_steps": 1} | trainer)
    config["optim"] |= {"schedule": "cosine"}
    record = train(config)
    last = torch.load(record.checkpoint_path("last"), weights_only=True)
    assert last["global_step"] == steps
    expected = [0.01 * (1 + np.cos(np.pi * step / steps)) / 2 for step in range(steps)]
    np.testing.assert_allclose(read_rates(record), expected, atol=1e-9)


def test_overfitting_repeats_the_same_batches_in_the_order_on_disk(tmp_path: Path) -> None:
    seen = tmp_path / "seen.txt"
    watcher = {"_target_": "tests.test_lightning_parts.Watcher", "path": str(seen)}
    run(tmp_path, overfit_batches=2, max_epochs=2, callbacks=[watcher])
    first, second = (json.loads(line) for line in seen.read_text().splitlines())
    assert first == second == sorted(first)
    assert len(first) == 16


class Watcher(callbacks.Callback):
    """Writes which images each epoch trained on."""

    def __init__(self, path: str) -> None:
        self.path, self.seen = Path(path), list[int]()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.seen += _[3].index.tolist()

    def on_train_epoch_end(self, *_: Any) -> None:
        with self.path.open("a") as file:
            file.write(f"{self.seen}\n")
        self.seen = []


def test_a_loader_made_anew_after_the_epoch_of_a_checkpoint_skips_nothing() -> None:
    sampler = KeyedBatchSampler(40, 8, 0, 1, seed=0)
    sampler.epoch, sampler.skipped_batches = 1, 3
    sampler.set_epoch(1)
    assert len(list(sampler)) == 2
    sampler.skipped_batches = 3
    sampler.set_epoch(2)
    assert len(list(sampler)) == 5


class Kept(Logger):
    """Stands in for a logger of others: no folder of its own as an argument, links in ours."""

    def __init__(self, links: str) -> None:
        super().__init__()
        self.links = Path(links)
        self.settings: list[Any] = []
        self.logged: list[str] = []

    name = property(lambda self: "kept")
    version = property(lambda self: 0)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged += metrics

    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        with self.links.open("a") as file:
            file.write(json.dumps(params) + "\n")


def test_any_logger_gets_the_settings_once_and_scores(tmp_path: Path) -> None:
    told = tmp_path / "told.txt"
    loggers = [
        {"_target_": "tests.test_lightning_parts.Kept", "links": str(told)},
        {"_target_": "lightning.pytorch.loggers.CSVLogger"},
        {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "other"},
    ]
    record = run(tmp_path, logger=loggers)
    [line] = told.read_text().splitlines()
    assert json.loads(line)["optim"]["lr"] == 0.01
    assert "val/accuracy" in (record.folder / "lightning_logs/version_0/metrics.csv").read_text()
    assert "lr: 0.01" in (record.folder / "lightning_logs/version_0/hparams.yaml").read_text()
    assert list((record.folder / "other").rglob("events.out*"))


@pytest.mark.parametrize("place", ["/elsewhere", "../elsewhere"])
def test_a_logger_or_callback_that_would_write_elsewhere_is_refused(
    record: Record, place: str
) -> None:
    csv = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": place}
    with pytest.raises(UserError, match=r"trainer\.logger: writes to .*not in the run's folder"):
        build(record, logger=[csv])
    with pytest.raises(UserError, match=r"trainer\.callbacks: dirpath=.*not in the run's folder"):
        build(record, callbacks=[callback("ModelCheckpoint", dirpath=place)])


def test_a_run_goes_on_beside_the_links_and_folders_of_a_logger(
    tmp_path: Path, trained_run: Path
) -> None:
    folder = shutil.copytree(trained_run, tmp_path / "run")
    (folder / "wandb" / "run-1").mkdir(parents=True)
    (folder / "wandb" / "latest-run").symlink_to("run-1")
    (folder / "wandb" / "debug.log").symlink_to("/nowhere/debug.log")
    (folder / "latest-run").symlink_to("wandb/run-1")
    assert triptych.load_run(folder).network(TARGETS)
    overrides = [f"resume={folder}", f"trusted_targets=[{','.join(TARGETS)}]"]
    config = composed("train", *overrides, "++trainer.max_epochs=4")
    assert train(config, [*overrides, "trainer.max_epochs=4"]).metadata["num_epochs"] == 4


def test_a_run_is_read_without_the_parts_of_its_training(tmp_path: Path, trained_run: Path) -> None:
    folder = shutil.copytree(trained_run, tmp_path / "run")
    record = Record.open(folder)
    config = record.config
    gone = {"_target_": "no.longer.There", "secret": "${oc.env:HOME}"}
    for name in ("callbacks", "logger", "plugins"):
        config["trainer"][name] = [gone]
    config["trainer"] |= {"profiler": gone, "strategy": gone}
    record.write_config(config)
    assert triptych.load_run(folder).network(TARGETS)


@pytest.mark.parametrize(
    "name",
    ["EarlyStopping", "ModelCheckpoint"],
)
def test_a_monitor_that_nothing_logs_is_named_before_training(record: Record, name: str) -> None:
    with pytest.raises(UserError, match=r"val/acc\b.*nearest: val/accuracy"):
        build(record, callbacks=[callback(name, monitor="val/acc")])
    with pytest.raises(UserError, match="limit_val_batches=0"):
        build(record, callbacks=[callback(name, monitor="val/loss")], limit_val_batches=0)


def test_contradictions_between_arguments_are_named(record: Record) -> None:
    with pytest.raises(UserError, match=r"trainer\.min_epochs=5"):
        build(record, min_epochs=5, max_epochs=3)
    with pytest.raises(UserError, match="indices are of GPUs"):
        build(record, devices="0,1")


def test_what_a_user_asks_to_see_is_said_and_saved_in_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        names = ["ModelCheckpoint", "LearningRateMonitor", "ModelSummary", "Timer"]
        parts = [callback(name, **CALLBACKS[name]) for name in names]  # type: ignore[arg-type]
        record = run(tmp_path, profiler="simple", callbacks=parts, num_sanity_val_steps=-1)
    assert "Profiler Report" in caplog.text
    assert "Trainable params" in caplog.text
    assert "Profiler Report" in (record.folder / "train.log").read_text()
    assert list((record.folder / "model_checkpoints").glob("*.ckpt"))


@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule")
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
@pytest.mark.parametrize("profiler", ["advanced", "pytorch"])
def test_a_long_profile_is_a_file_of_the_run(tmp_path: Path, profiler: str) -> None:
    record = run(tmp_path, profiler=profiler)
    assert (record.folder / "fit-profile.txt").stat().st_size > 100


@pytest.mark.filterwarnings("ignore:When using the `ThroughputMonitor`")
@pytest.mark.parametrize(
    "names",
    [
        ["DeviceStatsMonitor", "SpikeDetection", "ThroughputMonitor", "RichModelSummary"],
        ["RichProgressBar", "LambdaCallback", "EarlyStopping", "Timer"],
    ],
)
def test_callbacks_that_work_go_through_a_run(tmp_path: Path, names: list[str]) -> None:
    parts = [callback(name, **CALLBACKS[name]) for name in names]  # type: ignore[arg-type]
    logger = [{"_target_": "lightning.pytorch.loggers.CSVLogger"}]
    record = run(tmp_path, callbacks=parts, logger=logger, log_every_n_steps=1)
    assert record.metadata["status"] == "finished"


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint"])
@pytest.mark.parametrize(
    ("monitor", "mode", "is_right"),
    [
        *[("val/loss", {}, True), ("val/accuracy", {"mode": "max"}, True)],
        *[("val/accuracy", {}, True), ("val/f1", {"mode": "min"}, False)],
        ("val/loss", {"mode": "max"}, False),
    ],
)
def test_a_callback_that_would_look_for_the_worst_epoch_is_refused(
    name: str, monitor: str, mode: dict[str, str], is_right: bool
) -> None:
    config = composed("train")
    config["trainer"]["callbacks"] = [callback(name, monitor=monitor, **mode)]
    if is_right:
        check_config(config)
        [node] = config["trainer"]["callbacks"]
        assert fill_mode(node, MONITORS)["mode"] == MONITORS[monitor]
    else:
        with pytest.raises(UserError, match=monitor):
            check_config(config)
