"""One training run, in the order the data travels.

Images and weights are found or downloaded; the backbone gets a new head; images are prepared as it
expects them; the module learns; its best weights are scored once on the test set.
"""

import logging
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import lightning.pytorch as pl
import torch

from triptych import build
from triptych.callbacks.checkpoint import CheckpointCallback, SaveSchedule
from triptych.callbacks.progress import describe_end, silence_lightning
from triptych.callbacks.recorder import RunRecorder
from triptych.callbacks.tensorboard import TensorBoardCallback, describe_balance
from triptych.callbacks.time_left import RunClock
from triptych.config import MONITOR, MONITORS, Config
from triptych.data.datamodule import ImageDataModule
from triptych.data.source import Source
from triptych.distributed import ranks
from triptych.models.backbone import BackboneFactory
from triptych.module import ImageClassifier
from triptych.runs.checkpoint_files import load_weights_into
from triptych.runs.lifecycle import run_lifecycle
from triptych.runs.record import Record
from triptych.runs.stopping import is_requeued, read_deadline

log = logging.getLogger(__name__)


def train(
    config: Config,
    overrides: Sequence[str] = (),
    report: Callable[[str], object] = lambda folder: None,
) -> Record:
    """Take a checked config from the first image to a complete run folder.

    `overrides` are what was typed, for the record; `report` is called with the folder's path as
    soon as it exists. Raises UserError where data, weights, settings or folders do not allow it.
    """
    if config["trainer"].get("on_oom"):
        from triptych.runs.retry import train_or_halve

        return train_or_halve(train, config, overrides, report)
    silence_lightning()
    requested, overrides, resumed = config, list(overrides), None
    if config["resume"] or config.get("minutes") or is_requeued():
        from triptych.runs import resume  # a new run needs nothing of it

        config, overrides, finished = resume.resume_requeued_job(config, overrides, report)
        if finished:
            return finished
        requested = config
        resumed, config = resume.open_resumed(config, overrides)
    has_checkpoint = resumed is not None and resumed.checkpoint_path("last").exists()
    source, factory = build.find_parts(config, overrides, has_weights=has_checkpoint)
    if (num_ranks := build.count_ranks(config)) > 1:
        from triptych.distributed.launch import launch_ranks

        source.download()
        return launch_ranks(requested, overrides, num_ranks, report)
    pl.seed_everything(config["seed"], verbose=False)
    data, module = prepare(config, source, factory, resumed if has_checkpoint else None)
    metadata = collect_metadata(config, data, module, factory)
    record = resumed or ranks.create_on_rank_zero(lambda: Record.create(config, overrides))
    report(str(record.folder))
    with run_lifecycle(record, resumed=resumed is not None):
        trainer = make_trainer(config, record, module)
        if resumed:
            resume.prepare_resumed_run(record, config, metadata, data, trainer)
        record.begin(config, **metadata)
        log.info("%s", describe_run(data, module, factory))
        fit(config, record, trainer, module, data)
        test(config, record, trainer, module, data)
    return record


def prepare(
    config: Config, source: Source, factory: BackboneFactory, resumed: Record | None = None
) -> tuple[ImageDataModule, ImageClassifier]:
    """The images as the backbone expects them, and the module that learns from them.

    It has its weights, but of a run that is `resumed`: those follow, from the checkpoint.
    """
    ranks.broadcast_from_rank_zero("started", str)  # they meet before any of them waits for data
    source.download()
    images = source.read()
    names, num_classes = images.classes, len(images.classes)
    recorded = resumed.metadata.get("preprocessing") if resumed else None
    backbone = factory.build(num_classes, load=resumed is None, classes=names, recorded=recorded)
    data = build.build_datamodule(config, images, backbone.preprocessing)
    module = build.build_module(config, backbone, num_classes, data.num_per_class)
    module.check_labels(images.train.labels)
    if config.keys() & {"loss", "metrics"}:
        from triptych import slots

        slots.try_parts(module, num_classes, images.train.labels, data.mix != "none")
    build.check_step(module.optim)
    return data, module


def make_trainer(config: Config, record: Record, module: ImageClassifier) -> pl.Trainer:
    """Lightning's Trainer, with callbacks that record the run, show it and save it."""
    settings = config["checkpoint"]
    clock, recorder = RunClock(record), RunRecorder(record)
    schedule = SaveSchedule(settings["every_n_steps"], settings["every_minutes"], clock)
    monitor = settings.get("monitor", MONITOR) if settings["score"] == "best" else None
    mode = module.monitors.get(monitor, "") if monitor else "max"
    if monitor and not mode:
        from triptych.slots import find_mode

        mode = find_mode(monitor, module.monitors)
    checkpoints = CheckpointCallback(record, recorder, schedule, monitor, mode)
    callbacks = [clock, recorder, TensorBoardCallback(record, module), checkpoints]
    if config["speed"]["cache_features"] and module.backbone.frozen:
        from triptych.callbacks.feature_cache import FeatureCache  # for probes alone

        callbacks.insert(1, FeatureCache(record))
    if not config["trainer"].get("callbacks"):
        return build.build_trainer(config, record, callbacks, module)
    from triptych.callbacks.averages import amend_averages  # for callbacks of the user's alone
    from triptych.callbacks.unfreezing import UnfrozenLayers

    trainer = build.build_trainer(config, record, [UnfrozenLayers(), *callbacks], module)
    amend_averages(trainer)
    checkpoints.captures_at_once = True
    return trainer


def fit(
    config: Config,
    record: Record,
    trainer: pl.Trainer,
    module: ImageClassifier,
    data: ImageDataModule,
) -> None:
    """Train from the start, or from the last checkpoint where the run has one."""
    device = trainer.strategy.root_device
    build.move_to_device(module, device)  # callbacks copy weights, averages lie where these do
    is_compiled = config["speed"]["compile"] != "none"
    if is_compiled:
        from triptych.models import compilation

        compilation.compile_network(module.backbone, config["speed"]["compile"])
    record.update(device=build.device_name(device), precision=str(trainer.precision))
    record.update(world_size=trainer.world_size, num_nodes=trainer.num_nodes)

    if trainer.is_global_zero and config["trainer"].get("enable_autolog_hparams", True):
        for logger in trainer.loggers:
            logger.log_hyperparams(config)
    # That of a run stopped after its training has nothing left to do.
    last = record.checkpoint_path("last")
    checkpoint = last if last.exists() else None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Exception as error:
        from triptych.runs.failures import explain_start_error

        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        has_started = any(c.has_started for c in callbacks if isinstance(c, CheckpointCallback))
        if not has_started and (known := explain_start_error(error, checkpoint)):
            raise known from error
        raise
    record.update(compile_seconds=compilation.compile_seconds() if is_compiled else None)
    has_batchnorm = any(name.endswith("running_var") for name, _ in module.named_buffers())
    if has_batchnorm and not any(map(record.metadata.get, ("weights", "averaged_epochs"))):
        from triptych.callbacks.batchnorm import note_few_batches

        note_few_batches(module.backbone)


def test(
    config: Config,
    record: Record,
    trainer: pl.Trainer,
    module: ImageClassifier,
    data: ImageDataModule,
) -> None:
    """Score the best weights on the test set, once; raises OutOfTime where there is no time."""
    if read_deadline() < inf:
        from triptych.callbacks.deadline import check_time_for_test

        check_time_for_test(trainer)
    load_weights_into(module.backbone.network, record.checkpoint_path("best"))
    trainer.test(module, datamodule=data, verbose=False)
    record.end("finished")
    if trainer.is_global_zero and config["checkpoint"]["keep_last"] is False:
        record.checkpoint_path("last").unlink()
    has_groups = data.image_set.groups is not None
    log.info("%s", describe_end(record, config, has_groups=has_groups))


def collect_metadata(
    config: Config, data: ImageDataModule, module: ImageClassifier, factory: BackboneFactory
) -> dict[str, Any]:
    """What `run.json` says of data and network, and of how the best epoch is told."""
    names = [name.removeprefix("val/") for name in module.monitors if name not in MONITORS]
    origin: dict[str, Any] = {}
    if module.backbone.head_origin:  # its weights have been read from a file
        from triptych.runs.weights_origin import describe_weights

        origin = describe_weights(factory)
    return origin | {
        "monitor": config["checkpoint"].get("monitor", MONITOR),
        "weights": factory.weights_name,
        "classes": data.classes,
        "num_per_class": data.num_per_class,
        "notes": data.notes,
        "split_hash": data.split_hash,
        "test_hash": data.test_hash,
        "num_params": sum(p.numel() for p in module.backbone.parameters()),
        "num_train": len(data.train),
        "num_val": len(data.val),
        "num_test": len(data.test),
        "input_size": module.backbone.preprocessing.input_size,
        "preprocessing": module.backbone.expectations,
        "num_threads": torch.get_num_threads(),
        **({"more_metrics": names} if names else {}),
        **({"task": module.task} if module.task != ImageClassifier.task else {}),
    }


def describe_run(data: ImageDataModule, module: ImageClassifier, factory: BackboneFactory) -> str:
    """What will be trained on what; the head as Fig. 2 of the reference study shows it."""
    backbone = module.backbone
    size = backbone.preprocessing.input_size
    trained = "the head alone" if backbone.frozen else "all layers"
    head = f"{backbone.replaced}\n  -> {backbone.head}"
    if backbone.head_origin:
        head = f"{backbone.head}, {backbone.head_origin}"
    lines = [
        f"{factory.name}, weights {factory.weights_name or 'random'}, {trained} trained, "
        f"input {size}x{size}",
        f"head {backbone.head_name}: {head}",
        *backbone.notes,
        f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images",
        describe_balance(data.classes, data.num_per_class),
        *data.notes,
    ]
    return "\n".join(lines)
