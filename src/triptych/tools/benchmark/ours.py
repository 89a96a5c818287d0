"""A run's own path: its loader, pipeline, Trainer, callbacks, loggers and checkpoints."""

import io
import logging
from contextlib import redirect_stdout, suppress
from statistics import median
from typing import Any

import lightning.pytorch as pl

from triptych.module import ImageClassifier
from triptych.runs.record import Record
from triptych.tools.benchmark.clock import Enough, PartsProfiler, StepClock, Stopwatch
from triptych.tools.benchmark.subject import Subject
from triptych.training import make_trainer

# Parts of a step, by the names that Lightning's profiler gives them.
PARTS = {
    "load": "[_TrainingEpochLoop].train_dataloader_next",
    "transfer": "[LightningModule]Classification.transfer_batch_to_device",
    "pipeline": "[LightningDataModule]ImageDataModule.on_after_batch_transfer",
    "forward": "[Strategy]SingleDeviceStrategy.training_step",
    "backward": "[Strategy]SingleDeviceStrategy.backward",
}
OPTIMIZER_STEP = "[LightningModule]Classification.optimizer_step"  # forward and backward in it
EPOCH_END = "[Callback]CheckpointCallback.on_train_epoch_end"  # saves


class Ours:
    """What `train.py` does, cut off after some steps of its first epoch, without validation.

    The loss is read, logged and written at the run's own interval, and after the last step.
    """

    def __init__(self, subject: Subject, record: Record) -> None:
        self.subject, self.record = subject, record
        task, data = subject.task, subject.data
        self.task = ImageClassifier(
            subject.network(), task.optim, len(data.classes), data.num_per_class
        ).to(subject.device)

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float:
        """What `steps` steps take; `mode` is train or inference."""
        stopwatch = Stopwatch(self.subject.device, warm_up_steps, warm_up_steps + steps)
        self._run(mode, warm_up_steps + steps, StepClock(stopwatch))
        return stopwatch.seconds

    def parts(self, warm_up_steps: int, steps: int) -> dict[str, float]:
        """Median milliseconds of each part of a training step, each awaited.

        Waiting keeps the parts from overlapping: their sum may exceed a step's time. Besides, what
        a reading of the loss takes at the interval, with its logs, and a checkpoint.
        """
        profiler = PartsProfiler(self.subject.device)
        self._run("train", warm_up_steps + steps, profiler=profiler)
        taken = profiler.recorded_durations
        each = {part: median(taken[name][warm_up_steps:]) for part, name in PARTS.items()}
        each["optimizer"] = median(taken[OPTIMIZER_STEP][warm_up_steps:])
        each["optimizer"] -= each["forward"] + each["backward"]
        callbacks = [name for name in taken if name.startswith("[Callback]") and "batch" in name]
        turns = zip(*(taken[name][warm_up_steps:] for name in callbacks), strict=True)
        *usually, last = map(sum, turns)
        each["callbacks"] = median(usually)
        each["reading the loss"] = last - each["callbacks"]
        each["checkpoint"] = median(taken[EPOCH_END])
        return {part: 1000 * seconds for part, seconds in each.items()}

    def _run(self, mode: str, steps: int, *last: pl.Callback, **more: Any) -> None:
        limits = {"max_steps": steps, "limit_val_batches": 0, "limit_test_batches": steps}
        config = self.subject.config
        # Kept features would leave the head alone to be trained, and the bound trains the network.
        config = config | {"speed": config["speed"] | {"cache_features": False}}
        config = config | {"trainer": config["trainer"] | limits | more}
        said = logging.getLogger("triptych")
        level = said.level
        said.setLevel(logging.WARNING)
        try:
            with redirect_stdout(io.StringIO()), suppress(Enough):
                trainer = make_trainer(config, self.record, self.task)
                trainer.callbacks.extend(last)  # type: ignore[attr-defined]
                run = trainer.fit if mode == "train" else trainer.test
                run(self.task, datamodule=self.subject.data)
            # Task and data keep the trainer until the next; its moments would lie beside those.
            trainer.strategy.optimizers, trainer.strategy.lr_scheduler_configs = [], []
        finally:
            said.setLevel(level)
