"""One trial: a training that sees training and validation images, and leaves no files."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from triptych.build import build_trainer, instantiate, move_to_device
from triptych.config import Config
from triptych.errors import UserError, summarize_error
from triptych.runs.lifecycle import is_out_of_memory
from triptych.runs.record import Record
from triptych.runs.stopping import exit_on_signal, install_handlers
from triptych.training import prepare

log = logging.getLogger(__name__)

GoesOn = Callable[[int, float], bool]  # told the number of a validation and its accuracy
WITHOUT_FILES = {"logger": None, "enable_checkpointing": False}


class Trained(NamedTuple):
    accuracy: float  # of the validation that `checkpoint.score` names; 0 where there was none
    error: str = ""  # why it could not be trained to its end
    is_pruned: bool = False


class Watch(Callback):
    """Reports each validation's accuracy; ends a training that diverged or is to be pruned."""

    def __init__(self, goes_on: GoesOn) -> None:
        self.goes_on = goes_on
        self.accuracies: list[float] = []
        self.error = ""
        self.is_pruned = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        install_handlers(
            exit_on_signal
        )  # in place of Lightning's handlers, which would finish the epoch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        accuracy = pl_module.scores.values["accuracy"]
        self.accuracies.append(accuracy)
        log.info("epoch %d val accuracy %.4f", trainer.current_epoch + 1, accuracy)
        loss = pl_module.epoch_loss
        if loss.unread and loss.add(loss.take_unread()) is not None:
            self.error = f"the training loss is {loss.mean} in epoch {trainer.current_epoch + 1}"
        if not self.goes_on(len(self.accuracies), accuracy) or self.error:
            self.is_pruned = trainer.should_stop = True


def train_trial(config: Config, folder: Path, goes_on: GoesOn) -> Trained:
    """Train as the config says, until `goes_on` says no; the test images are not looked at.

    A training that diverges or lacks memory has an error. Raises UserError at wrong settings.
    """
    watch = Watch(goes_on)
    try:
        fit(config, folder, watch)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        if is_out_of_memory(error):
            return Trained(0.0, "out of memory", is_pruned=True)
        is_refused = isinstance(error, ValueError | MisconfigurationException)
        if is_refused and not isinstance(error, UserError):
            raise UserError(f"trainer: {summarize_error(error)}") from error
        raise
    finally:
        gc.collect()  # the trainer and its parts refer to each other
    if not watch.accuracies:
        raise UserError("trainer: no validation in the whole training, so nothing to go by")
    best = config["checkpoint"]["score"] == "best"
    accuracy = max(watch.accuracies) if best else watch.accuracies[-1]
    return Trained(accuracy, watch.error, watch.is_pruned)


def fit(config: Config, folder: Path, watch: Watch) -> None:
    pl.seed_everything(config["seed"], verbose=False)
    source = instantiate("data.source", config["data"]["source"])
    network = instantiate("model", config["model"])
    data, task = prepare(config, source, network)
    settings = config | {"trainer": config["trainer"] | WITHOUT_FILES}
    trainer = build_trainer(settings, Record(folder, {}), [watch])
    move_to_device(task, trainer.strategy.root_device)
    trainer.fit(task, datamodule=data)
    # Stopped in its last epoch, it is complete all the same.
    watch.is_pruned &= bool(watch.error) or trainer.current_epoch != trainer.max_epochs
