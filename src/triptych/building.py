"""The config's leaves, built; what they refuse is the input's fault."""

import inspect
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

from triptych import Refused, checkpoint
from triptych.checkpoint import AtomicCheckpointIO
from triptych.config import Config
from triptych.model.weights import first_line
from triptych.optim import Optim
from triptych.progress import progress
from triptych.record import Record


def built(key: str, node: dict[str, Any], **more: Any) -> Any:
    """What a `_target_` of the config makes; raises Refused where it does not take its settings."""
    try:
        return instantiate(node, **more)
    except HydraException as error:
        reason = first_line(error.__cause__ or error)
        raise Refused(f"{key}: {node.get('_target_')} refuses its settings ({reason})") from error


def build_optim(config: Config) -> Optim:
    """The recipe of learning; on a GPU the optimizer's fused kernels, where it has them."""
    settings = {name: value for name, value in config["optim"].items() if name != "name"}
    node = settings.pop("optimizer")
    takes = inspect.signature(get_object(node["_target_"]))
    try:
        takes.bind([], **{name: value for name, value in node.items() if name != "_target_"})
    except TypeError as error:
        raise Refused(f"optim.optimizer: {node['_target_']} has {error}") from error
    fused = {"fused": True} if "fused" in takes.parameters and torch.cuda.is_available() else {}
    return Optim(optimizer=built("optim.optimizer", node, **fused, _partial_=True), **settings)


def build_trainer(config: Config, record: Record, callbacks: list[Any]) -> pl.Trainer:
    """Lightning's Trainer with the config's callbacks and loggers, and ours behind them."""
    options = {key: value for key, value in config["trainer"].items() if value is not None}
    nodes = {name: options.pop(name, None) or [] for name in ("callbacks", "plugins", "logger")}
    theirs = [built("trainer.callbacks", node) for node in nodes["callbacks"]]
    plugins = [built("trainer.plugins", node) for node in nodes["plugins"]]
    loggers = [build_logger(node, record) for node in nodes["logger"]]
    if torch.cuda.is_available() and options.get("accelerator", "auto") in ("auto", "gpu", "cuda"):
        options.setdefault("precision", "bf16-mixed")
    if options.pop("enable_progress_bar", True):
        theirs.append(progress())
    options.setdefault("default_root_dir", record.folder)
    options.setdefault("use_distributed_sampler", False)  # ours pads nothing: data/images.py
    try:
        return pl.Trainer(
            **options,
            callbacks=[*theirs, *callbacks],
            logger=loggers,
            plugins=[AtomicCheckpointIO(), *plugins],
            enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in theirs),
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise Refused(f"trainer: {first_line(error)}") from error


def build_logger(node: dict[str, Any], record: Record) -> Any:
    """A logger that writes into the run folder; a resumed run's curves go on where it stopped."""
    last = record.checkpoint("last")
    more = {"save_dir": str(record.folder)}
    if last.exists() and node["_target_"].endswith("TensorBoardLogger"):
        more["purge_step"] = checkpoint.load(last)["global_step"] + 1
    return built("trainer.logger", node, **more)
