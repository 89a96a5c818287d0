"""One training run, in the order the data travels.

Images and weights are made sure of; the backbone gets its head; the images are made ready as the
backbone expects them; the task learns; its best weights are scored once on the test set.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from triptych import build
from triptych.build import check_available
from triptych.callbacks import checkpoint
from triptych.callbacks.checkpoint import CheckpointSchedule
from triptych.callbacks.feature_cache import FeatureCache
from triptych.callbacks.progress import silence_lightning
from triptych.callbacks.recorder import Journal
from triptych.callbacks.tensorboard import TensorBoardCallback, log_hyperparameters
from triptych.config import Config
from triptych.data.datamodule import ImageDataModule
from triptych.data.source import Source, describe_balance
from triptych.distributed.launch import launch_ranks, num_ranks
from triptych.distributed.ranks import create_on_rank_zero
from triptych.errors import RunFailed, UserError, summarize_error
from triptych.models.backbone import Backbone, BackboneFactory
from triptych.module import ImageClassifier
from triptych.runs.lifecycle import is_out_of_memory, run_lifecycle
from triptych.runs.record import Record
from triptych.runs.resume import (
    apply_resume_overrides,
    check_same_data,
    reopen_run,
    resume_requeued_job,
)
from triptych.runs.storage import format_size

log = logging.getLogger(__name__)


def train(
    config: Config, overrides: list[str], started: Callable[[str], object] = lambda folder: None
) -> Record:
    """Take a checked config from the first image to a complete run folder.

    `started` is told the folder as soon as there is one.
    """
    silence_lightning()
    config, overrides = resume_requeued_job(config, overrides, started)
    resumed = (
        create_on_rank_zero(lambda: reopen_run(config, overrides)) if config["resume"] else None
    )
    asked, config = (
        config,
        apply_resume_overrides(resumed.config, config, overrides) if resumed else config,
    )
    goes_on = resumed is not None and resumed.checkpoint_path("last").exists()
    source: Source = build.instantiate("data.source", config["data"]["source"])
    network: BackboneFactory = build.instantiate("model", config["model"])
    check_available([source] if goes_on else [source, network], overrides)
    if num_ranks(config) > 1:
        source.download()
        return launch_ranks(asked, overrides, num_ranks(config), started)

    pl.seed_everything(config["seed"], verbose=False)
    data, task = prepare(config, source, network, load=not goes_on)
    told = collect_metadata(data, task.backbone, network)
    record = resumed or create_on_rank_zero(lambda: Record.create(config, overrides))
    check_same_data(record, told)
    started(str(record.folder))
    with run_lifecycle(record, resumed=resumed is not None):
        trainer, journal = make_trainer(config, record, task)
        record.begin(config, **told)
        log.info("%s", describe_run(data, task.backbone, network))
        fit_and_test(config, record, trainer, journal, task, data)
        log.info("finished: %s (%s)", record.folder, format_size(record.folder))
    return record


def prepare(
    config: Config, source: Source, network: BackboneFactory, *, load: bool = True
) -> tuple[ImageDataModule, ImageClassifier]:
    """The images as the backbone expects them, and the task that learns from them."""
    source.download()
    images = source.read()
    backbone = network.build(num_classes=len(images.classes), load=load)
    data = build.build_datamodule(config, images, backbone.preprocessing)
    return data, ImageClassifier(
        backbone, build.build_optim(config), len(data.classes), data.num_per_class
    )


def collect_metadata(
    data: ImageDataModule, backbone: Backbone, network: BackboneFactory
) -> dict[str, Any]:
    """What the record says of data and network before training."""
    return {
        "weights": network.weights_name,
        "classes": data.classes,
        "num_per_class": data.num_per_class,
        "notes": data.notes,
        "split_hash": data.split_hash,
        "test_hash": data.test_hash,
        "num_params": sum(p.numel() for p in backbone.parameters()),
        "num_train": len(data.train),
        "num_val": len(data.val),
        "num_test": len(data.test),
        "input_size": backbone.preprocessing.input_size,
        "num_threads": torch.get_num_threads(),
        "monitor": "val/accuracy",
    }


def describe_run(data: ImageDataModule, backbone: Backbone, network: BackboneFactory) -> str:
    """What will be trained on what; the head as Fig. 2 of the reference study shows it."""
    size = backbone.preprocessing.input_size
    trained = "the head alone" if backbone.frozen else "all layers"
    weights = network.weights_name or "random"
    return (
        f"{network.name}, weights {weights}, {trained}, input {size}x{size}\n"
        f"head {backbone.head_name}: {backbone.replaced} -> {backbone.head}\n"
        f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images\n"
        + "\n".join([describe_balance(data.classes, data.num_per_class), *data.notes])
    )


def make_trainer(
    config: Config, record: Record, task: ImageClassifier
) -> tuple[pl.Trainer, Journal]:
    """The trainer with its journal; raises UserError where it does not take its settings."""
    keeps = config["checkpoint"]
    due = CheckpointSchedule(
        keeps["every_n_steps"], keeps.get("every_minutes")
    )  # older folders lack minutes
    journal = Journal(record, keeps["score"], due)
    ours = [TensorBoardCallback(record, str(task.backbone.head)), journal]
    if config.get("speed", {}).get("cache_features"):  # nor do they have this
        ours.insert(0, FeatureCache(record))
    return build.build_trainer(config, record, ours), journal


def fit_and_test(
    config: Config,
    record: Record,
    trainer: pl.Trainer,
    journal: Journal,
    task: ImageClassifier,
    data: ImageDataModule,
) -> None:
    device = trainer.strategy.root_device
    build.move_to_device(
        task, device
    )  # before callbacks copy weights, or averages would lie on the CPU
    build.compile_network(task.backbone, config)
    record.update(device=build.device_name(device), precision=str(trainer.precision))

    last = record.checkpoint_path("last")
    fit(trainer, journal, task, data, last if last.exists() else None)
    record.update(
        num_epochs=journal.num_epochs,
        best_epoch=journal.best["epoch"],
        train_seconds=journal.train_seconds,
        images_per_second=journal.num_images / max(journal.train_seconds, 1e-9),
        compile_seconds=build.compile_seconds(config),
        metrics=journal.best["metrics"],
    )
    checkpoint.load_weights_into(task.backbone.network, record.checkpoint_path("best"))
    trainer.test(task, datamodule=data, verbose=False)

    tested = {f"test/{name}": value for name, value in task.scores.values.items()}
    record.update(metrics=record.metadata["metrics"] | tested, num_test=len(task.predictions[1]))
    if trainer.is_global_zero:
        log_hyperparameters(trainer, record.metadata, config["optim"])
    record.end("finished")
    if trainer.is_global_zero and not config["checkpoint"]["keep_last"]:
        last.unlink()


def fit(
    trainer: pl.Trainer,
    journal: Journal,
    task: ImageClassifier,
    data: ImageDataModule,
    path: Path | None,
) -> None:
    """Train, from the checkpoint at `path` if any: one saved after training ends at once.

    Raises UserError where Lightning refuses a setting, or the checkpoint does not fit.
    """
    try:
        trainer.fit(task, datamodule=data, ckpt_path=path, weights_only=True)
    except Exception as error:
        is_known = isinstance(error, OSError | UserError | RunFailed) or is_out_of_memory(error)
        if journal.has_started or is_known:
            raise
        if path:
            reason = summarize_error(error)
            raise UserError(f"{path}: of another run, or damaged ({reason})") from error
        if isinstance(error, ValueError):
            raise UserError(f"trainer: {summarize_error(error)}") from error
        raise
