"""One training run, in the order the data travels.

Images and weights are made sure of; the backbone gets its head; the images are made ready as the
backbone expects them; the task learns; its best weights are scored once on the test set.
"""

import logging
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch

from triptych import building, checkpoint
from triptych.config import Config
from triptych.dashboard import Dashboard, show_hyperparameters
from triptych.data.images import ImageData
from triptych.data.source import Source
from triptych.data.splits import balance
from triptych.due import Due
from triptych.ending import kept
from triptych.files import size_of
from triptych.journal import Journal
from triptych.launch import launch, num_ranks
from triptych.model.backbone import Backbone
from triptych.model.own import Network
from triptych.needs import require
from triptych.probe import Probe
from triptych.progress import hush_lightning
from triptych.ranks import one_record
from triptych.record import Record
from triptych.requeued import gone_on_with
from triptych.resume import moved, reopen, require_same
from triptych.task import Classification

log = logging.getLogger(__name__)


def train(
    config: Config, overrides: list[str], started: Callable[[str], object] = lambda folder: None
) -> Record:
    """Take a checked config from the first image to a complete run folder.

    `started` is told the folder as soon as there is one.
    """
    hush_lightning()
    config, overrides = gone_on_with(config, overrides, started)
    resumed = one_record(lambda: reopen(config, overrides)) if config["resume"] else None
    asked, config = config, moved(resumed.config, config, overrides) if resumed else config
    goes_on = resumed is not None and resumed.checkpoint_path("last").exists()
    source: Source = building.built("data.source", config["data"]["source"])
    network: Network = building.built("model", config["model"])
    require([source] if goes_on else [source, network], overrides)
    if num_ranks(config) > 1:
        source.fetch()
        return launch(asked, overrides, num_ranks(config), started)

    pl.seed_everything(config["seed"], verbose=False)
    data, task = prepared(config, source, network, load=not goes_on)
    told = facts(data, task.backbone, network)
    record = resumed or one_record(lambda: Record.create(config, overrides))
    require_same(record, told)
    started(str(record.folder))
    with kept(record, resumed=resumed is not None):
        trainer, journal = trainer_for(config, record, task)
        record.begin(config, **told)
        log.info("%s", introduction(data, task.backbone, network))
        fit_and_test(config, record, trainer, journal, task, data)
        log.info("finished: %s (%s)", record.folder, size_of(record.folder))
    return record


def prepared(
    config: Config, source: Source, network: Network, *, load: bool = True
) -> tuple[ImageData, Classification]:
    """The images as the backbone expects them, and the task that learns from them."""
    data = building.build_data(config, source)
    data.prepare_data()
    data.setup()
    backbone = network.build(num_classes=len(data.classes), load=load)
    data.expect(backbone.expects)
    return data, Classification(
        backbone, building.build_optim(config), len(data.classes), data.num_per_class
    )


def facts(data: ImageData, backbone: Backbone, network: Network) -> dict[str, Any]:
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
        "input_size": backbone.expects.input_size,
        "num_threads": torch.get_num_threads(),
        "monitor": "val/accuracy",
    }


def introduction(data: ImageData, backbone: Backbone, network: Network) -> str:
    """What will be trained on what; the head as Fig. 2 of the reference study shows it."""
    size = backbone.expects.input_size
    trained = "the head alone" if backbone.frozen else "all layers"
    weights = network.weights_name or "random"
    return (
        f"{network.name}, weights {weights}, {trained}, input {size}x{size}\n"
        f"head {backbone.head_name}: {backbone.replaced} -> {backbone.head}\n"
        f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images\n"
        + "\n".join([balance(data.classes, data.num_per_class), *data.notes])
    )


def trainer_for(config: Config, record: Record, task: Classification) -> tuple[pl.Trainer, Journal]:
    """The trainer with its journal; raises Refused where it does not take its settings."""
    keeps = config["checkpoint"]
    due = Due(keeps["every_n_steps"], keeps.get("every_minutes"))  # older folders lack minutes
    journal = Journal(record, keeps["score"], due)
    ours = [Dashboard(record, str(task.backbone.head)), journal]
    if config.get("speed", {}).get("cache_features"):  # nor do they have this
        ours.insert(0, Probe(record))
    return building.build_trainer(config, record, ours), journal


def fit_and_test(
    config: Config,
    record: Record,
    trainer: pl.Trainer,
    journal: Journal,
    task: Classification,
    data: ImageData,
) -> None:
    device = trainer.strategy.root_device
    building.settle(task, device)  # before callbacks copy weights, or averages would lie on the CPU
    building.compile_network(task.backbone, config)
    record.update(device=building.device_name(device), precision=str(trainer.precision))

    last = record.checkpoint_path("last")
    path = last if last.exists() else None  # of a run stopped after its training: fit ends at once
    trainer.fit(task, datamodule=data, ckpt_path=path, weights_only=True)
    record.update(
        num_epochs=journal.num_epochs,
        best_epoch=journal.best["epoch"],
        train_seconds=journal.train_seconds,
        images_per_second=journal.num_images / max(journal.train_seconds, 1e-9),
        compile_seconds=building.compile_seconds(config),
        metrics=journal.best["metrics"],
    )
    checkpoint.load_into(task.backbone.network, record.checkpoint_path("best"))
    trainer.test(task, datamodule=data, verbose=False)

    tested = {f"test/{name}": value for name, value in task.scores.values.items()}
    record.update(metrics=record.facts["metrics"] | tested, num_test=len(task.predictions[1]))
    if trainer.is_global_zero:
        show_hyperparameters(trainer, record.facts, config["optim"])
    record.end("finished")
    if trainer.is_global_zero and not config["checkpoint"]["keep_last"]:
        last.unlink()
