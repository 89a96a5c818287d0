"""One trial: a training that sees training and validation images, and leaves no files."""

import gc
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from optuna import TrialPruned
from optuna.trial import BaseTrial

from triptych.build import build_trainer, instantiate, move_to_device
from triptych.config import Config
from triptych.errors import UserError, summarize_error
from triptych.runs.lifecycle import is_out_of_memory
from triptych.runs.record import Record
from triptych.runs.stopping import exit_on_signal, install_handlers
from triptych.training import prepare

log = logging.getLogger(__name__)

WITHOUT_FILES = {"logger": None, "enable_checkpointing": False}


class PruningCallback(Callback):
    """Reports each validation's accuracy; raises TrialPruned where training diverged, or is to be
    pruned while epochs are left."""

    def __init__(self, trial: BaseTrial) -> None:
        self.trial = trial
        self.accuracies: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        install_handlers(exit_on_signal)  # Lightning's own would finish the epoch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        accuracy, epoch = pl_module.scores.values["accuracy"], trainer.current_epoch + 1
        self.accuracies.append(accuracy)
        log.info("epoch %d val accuracy %.4f", epoch, accuracy)
        self.trial.report(accuracy, len(self.accuracies))
        loss = pl_module.epoch_loss
        if loss.unread and loss.add(loss.take_unread()) is not None:
            raise TrialPruned(f"the training loss is {loss.mean} in epoch {epoch}")
        if self.trial.should_prune() and epoch != trainer.max_epochs:
            raise TrialPruned


def train_trial(config: Config, folder: Path, trial: BaseTrial) -> float:
    """Train as the config says; the accuracy of the validation that `checkpoint.score` names.

    The test images are not used. Raises TrialPruned, also where a training diverges or lacks
    memory, which the trial's attribute `error` then says; UserError at wrong settings.
    """
    callback = PruningCallback(trial)
    try:
        fit(config, folder, callback)
    except TrialPruned as pruned:
        if str(pruned):
            trial.set_user_attr("error", str(pruned))
        raise
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        if is_out_of_memory(error):
            trial.set_user_attr("error", "out of memory")
            raise TrialPruned("out of memory") from None
        is_refused = isinstance(error, ValueError | MisconfigurationException)
        if is_refused and not isinstance(error, UserError):
            raise UserError(f"trainer: {summarize_error(error)}") from error
        raise
    finally:
        gc.collect()  # the trainer and its parts refer to each other
    if not callback.accuracies:
        raise UserError("trainer: no validation in the whole training, so nothing to go by")
    best = config["checkpoint"]["score"] == "best"
    return max(callback.accuracies) if best else callback.accuracies[-1]


def fit(config: Config, folder: Path, callback: Callback) -> None:
    pl.seed_everything(config["seed"], verbose=False)
    source = instantiate("data.source", config["data"]["source"])
    network = instantiate("model", config["model"])
    data, task = prepare(config, source, network)
    settings = config | {"trainer": config["trainer"] | WITHOUT_FILES}
    trainer = build_trainer(settings, Record(folder, {}), [callback])
    move_to_device(task, trainer.strategy.root_device)
    trainer.fit(task, datamodule=data)
