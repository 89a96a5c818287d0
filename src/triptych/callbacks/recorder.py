"""What a run records while it goes: loss lines, metrics, predictions."""

import logging
import math
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from triptych.callbacks.loop import current_step, is_accumulating, is_last_batch
from triptych.callbacks.time_left import describe_left
from triptych.data.datamodule import Batch
from triptych.data.source import ImageSet
from triptych.errors import RunFailed
from triptych.module import ImageClassifier
from triptych.runs.record import Record

log = logging.getLogger(__name__)
COUNTED = "num_epochs num_images train_seconds _new_images _new_seconds".split()


class RunRecorder(Callback):
    """Writes losses and scores to the log, `metrics.csv` and the loggers; predictions at the end.

    The loss stays on the device from step to step. It is read at `trainer.log_every_n_steps`, at
    the end of an epoch, before a validation and before a checkpoint.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.num_epochs = 0
        self.num_images, self.train_seconds = 0, 0.0  # up to the last loss line
        self.train_loss = 0.0  # mean of the epoch so far
        self._new_images, self._new_seconds = 0, 0.0  # since the last loss line
        self._lr = 0.0
        self._step = 0
        self._clock, self._is_paused = 0.0, False

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in COUNTED}
        return state | {"seconds_total": self.record.seconds_total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update({name: state[name] for name in COUNTED})
        spent, known = state.get("seconds_total"), self.record.metadata.get("seconds_total")
        if isinstance(spent, float) and spent > (known or 0.0):  # what saved it was killed
            self.record.update(seconds_total=spent)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = time.monotonic()  # a run resumed within an epoch does not start one
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = time.monotonic()  # leaves out the last epoch's figures and checkpoint

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._is_paused:
            self._clock, self._is_paused = time.monotonic(), False
        groups = reversed(trainer.optimizers[0].param_groups)
        self._lr = next(g["lr"] for g in groups if "joined_as" not in g)  # the head's

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        has_stepped, self._step = trainer.global_step != self._step, trainer.global_step
        stops = trainer.should_stop or trainer.global_step == trainer.max_steps
        is_last = is_last_batch(trainer) or stops
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_time = (batch_idx + 1) % interval < trainer.accumulate_grad_batches
        # After whole steps only: a resumed run keeps the lines up to its checkpoint's step.
        if is_last or (has_stepped and is_time):
            self._log_loss(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.read_loss(trainer, pl_module)
        if self._new_images and not is_accumulating(trainer):
            self._log_loss(trainer, pl_module)
        self.pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._log_scores(trainer, pl_module, "val", trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.num_epochs = trainer.current_epoch + 1

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record.update(
            num_epochs=self.num_epochs,
            train_seconds=self.train_seconds,
            images_per_second=self.num_images / max(self.train_seconds, 1e-9),
        )

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._log_scores(trainer, pl_module, "test", self.record.metadata["best_epoch"])
        logits, labels, index = (tensor.cpu().numpy() for tensor in pl_module.predictions)
        data: ImageSet = trainer.datamodule.image_set  # type: ignore[attr-defined]
        groups = {"groups": data.groups[1].numpy()[index]} if data.groups else {}
        self.record.add_predictions("test", logits=logits, labels=labels, index=index, **groups)
        self.record.write_prediction_tables(data.files, pl_module.write_table)
        metrics = self.record.metadata["metrics"] | pl_module.scores.named("test")
        self.record.update(metrics=metrics, num_test=len(labels))

    def pause(self) -> None:
        """Leave what follows, until the next training batch, out of the training's seconds."""
        self._is_paused = True

    def read_loss(self, trainer: pl.Trainer, module: ImageClassifier) -> None:
        """Bring the epoch's mean loss up to date, from every rank.

        Raises RunFailed where a batch's loss is NaN or infinite.
        """
        if not module.epoch_loss.unread:
            return
        sums = trainer.strategy.reduce(module.epoch_loss.take_unread(), reduce_op="sum")
        self._new_images += int(sums[:, 1].sum())  # waits for the device
        self._new_seconds += time.monotonic() - self._clock
        self._clock = time.monotonic()
        bad_batch = module.epoch_loss.add(sums)
        self.train_loss = module.epoch_loss.mean
        if bad_batch is not None:
            lr = module.optim.lr
            raise RunFailed(
                f"the training loss is {self.train_loss} at epoch {trainer.current_epoch + 1} "
                f"batch {bad_batch}, optim.lr={lr:g}, learning rate by now {self._lr:g}\n"
                f"try optim.lr={lr / 10:g}, optim.warmup_epochs=1 or trainer.gradient_clip_val=1"
            )

    def _log_loss(self, trainer: pl.Trainer, module: ImageClassifier) -> None:
        self.read_loss(trainer, module)
        values = {"train/loss": self.train_loss, "lr": self._lr}
        if not math.isnan(module.epoch_loss.correct):
            values["train/accuracy"] = module.epoch_loss.correct / module.epoch_loss.num_images
        values["train/images_per_second"] = self._new_images / self._new_seconds
        epoch, batch = trainer.current_epoch + 1, module.epoch_loss.num_batches
        self._log_metrics(trainer, epoch, values)
        self.train_seconds += self._new_seconds
        self.num_images += self._new_images
        self._new_images, self._new_seconds = 0, 0.0
        left = describe_left(trainer)
        log.info("epoch %d batch %d loss %.3f%s", epoch, batch, self.train_loss, left)

    def _log_scores(
        self, trainer: pl.Trainer, module: ImageClassifier, split: str, epoch: int
    ) -> None:
        values = module.scores.named(split)
        self._log_metrics(trainer, epoch, values)
        names = (*module.summary, *module.more_metrics)
        shown = (f"{name} {values[f'{split}/{name}']:.4f}" for name in names)
        left = describe_left(trainer) if split == "val" else ""
        log.info("epoch %d %s %s%s", epoch, split, "  ".join(shown), left)

    def _log_metrics(self, trainer: pl.Trainer, epoch: int, values: dict[str, float]) -> None:
        step = current_step(trainer)
        self.record.add_metrics({"epoch": epoch, "step": step, **values})
        for logger in trainer.loggers:
            # TensorBoard would draw a chart of a single dot: its HPARAMS tab has them.
            if not (trainer.testing and isinstance(logger, TensorBoardLogger)):
                logger.log_metrics(values, step)
