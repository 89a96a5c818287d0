"""What a run keeps while it goes: loss lines, metrics, checkpoints, predictions."""

import logging
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from triptych.callbacks.checkpoint import (
    CheckpointSchedule,
    Chosen,
    accumulates,
    captured,
    generator_states,
    include,
    keep,
    logged_step,
    restore_generators,
)
from triptych.data.datamodule import Batch
from triptych.errors import RunFailed
from triptych.module import ImageClassifier
from triptych.runs.record import Record

log = logging.getLogger(__name__)


class NotFinite(RunFailed):
    """The training loss was NaN or infinite."""


class Journal(Checkpoint):
    """Keeps the record of a training as it goes.

    The best epoch is the one of the highest `val/accuracy`, the earlier on a tie; with
    `score="last"`, or without validation, it is the last. Lightning runs this callback after all
    others, so that a checkpoint holds their last word (averaged weights, for one).

    `last.ckpt` is saved at the end of an epoch, after its validation, and within an epoch where
    an optimizer step is complete; never on a batch that a validation follows, or a run resumed
    there would skip it. `checkpoint.ckpt` is written after it, from what it holds.
    """

    def __init__(self, record: Record, score: str, due: CheckpointSchedule) -> None:
        self.record = record
        self.score = score
        self.due = due
        self.best: dict[str, Any] = {"accuracy": -1.0, "epoch": 0, "metrics": {}}
        self.train_seconds, self.num_images, self.num_epochs = 0.0, 0, 0
        self._train_loss = 0.0
        self._lr = 0.0
        self._unread_images, self._unread_seconds = 0, 0.0
        self._step = 0
        self._clock = self._validation_began = 0.0
        self._chosen: Chosen | None = None
        self._generators: list[dict[str, Any]] = []
        self.has_started = False  # then the settings and the checkpoint have been accepted

    def state_dict(self) -> dict[str, Any]:
        kept = "best train_seconds num_images num_epochs _unread_images _unread_seconds".split()
        return {name: getattr(self, name) for name in kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update({name: state[name] for name in self.state_dict()})

    # The loss, read at the interval and before a checkpoint.

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = time.monotonic()  # after the last epoch's figures and checkpoint

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._lr = trainer.optimizers[0].param_groups[-1]["lr"]  # the head's, for this batch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        has_stepped, self._step = trainer.global_step != self._step, trainer.global_step
        loop: Any = trainer.fit_loop
        is_last = loop.epoch_loop.batch_progress.is_last_batch
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        ends = is_last or trainer.should_stop or trainer.global_step == trainer.max_steps
        # After whole steps only: a resumed run keeps the lines up to its checkpoint's step.
        if ends or (has_stepped and (batch_idx + 1) % interval < trainer.accumulate_grad_batches):
            self._keep_loss(trainer, pl_module)
        goes_on = not is_last and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        if has_stepped and goes_on and self.due.now(trainer):
            self._read_loss(trainer, pl_module)
            self._save(trainer)

    def _read_loss(self, trainer: pl.Trainer, task: ImageClassifier) -> None:
        """Bring the epoch's mean loss up to date; it must be finite."""
        if not task.epoch_loss.unread:
            return
        sums = trainer.strategy.reduce(task.epoch_loss.read(), reduce_op="sum")
        self._unread_seconds += time.monotonic() - self._clock
        self._clock = time.monotonic()
        self._unread_images += int(sums[:, 1].sum())
        if (bad_batch := task.epoch_loss.include(sums)) is not None:
            place = f"epoch {trainer.current_epoch + 1} batch {bad_batch}"
            raise NotFinite(
                f"the training loss is {task.epoch_loss.mean} at {place}, "
                f"optim.lr={task.optim.lr:g}, learning rate by now {self._lr:g}\n"
                f"try optim.lr={task.optim.lr / 10:g}, optim.warmup_epochs=1 or "
                "trainer.gradient_clip_val=1"
            )
        self._train_loss = task.epoch_loss.mean

    def _keep_loss(self, trainer: pl.Trainer, task: ImageClassifier) -> None:
        self._read_loss(trainer, task)
        speed = {"train/images_per_second": self._unread_images / self._unread_seconds}
        epoch, batch = trainer.current_epoch + 1, task.epoch_loss.num_batches
        self._keep(trainer, epoch, {"train/loss": self._train_loss, "lr": self._lr} | speed)
        self.train_seconds += self._unread_seconds
        self.num_images += self._unread_images
        self._unread_images, self._unread_seconds = 0, 0.0
        log.info("epoch %d batch %d loss %.3f", epoch, batch, self._train_loss)

    # Validation: the best epoch, its predictions.

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._read_loss(trainer, pl_module)
        if self._unread_images and not accumulates(trainer):
            self._keep_loss(trainer, pl_module)
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        self._clock += time.monotonic() - self._validation_began
        values = self._keep_scores(trainer, pl_module, "val", trainer.current_epoch + 1)
        if self.score == "last" or values["val/accuracy"] > self.best["accuracy"]:
            self._choose(trainer, values, [tensor.cpu() for tensor in pl_module.predictions])
        if accumulates(trainer):
            self.due.is_owed = True
        elif not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def _choose(self, trainer: pl.Trainer, values: dict[str, float], answers: Any = None) -> None:
        """Make the present weights the ones to be scored, from the next `_save` on."""
        self.best = {
            "accuracy": values.get("val/accuracy", -1.0),
            "epoch": trainer.current_epoch + 1,
            "metrics": {"train/loss": self._train_loss} | values,
        }
        self._chosen = {"val": answers}
        self._chosen = captured(self._chosen, trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.num_epochs = trainer.current_epoch + 1
        is_unvalidated = self.best["epoch"] != trainer.current_epoch + 1
        if is_unvalidated and (self.score == "last" or self.best["accuracy"] < 0):
            self._choose(trainer, {})
        self._save(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._keep_scores(trainer, pl_module, "test", self.record.metadata["best_epoch"])
        logits, labels, index = (tensor.cpu().numpy() for tensor in pl_module.predictions)
        self.record.add_predictions("test", logits=logits, labels=labels, index=index)

    def _keep_scores(
        self, trainer: pl.Trainer, task: ImageClassifier, split: str, epoch: int
    ) -> dict[str, float]:
        values = {f"{split}/{name}": value for name, value in task.scores.values.items()}
        self._keep(trainer, epoch, values)
        shown = (f"{name} {values[f'{split}/{name}']:.4f}" for name in ("loss", "accuracy", "f1"))
        log.info("epoch %d %s %s", epoch, split, "  ".join(shown))
        return values

    def _keep(self, trainer: pl.Trainer, epoch: int, values: dict[str, float]) -> None:
        step = logged_step(trainer)
        self.record.add_metrics({"epoch": epoch, "step": step, **values})
        for logger in trainer.loggers:
            logger.log_metrics(values, step)

    # Checkpoints.

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # curves must reach as far as the checkpoint
        trainer.save_checkpoint(self.record.checkpoint_path("last"), weights_only=False)
        keep(self._chosen, self.record, trainer)
        self._chosen = None
        self.due.saved(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["generators"] = generator_states(trainer.strategy.root_device)
        checkpoint["should_stop"] = trainer.should_stop  # an early stop, which Lightning forgets
        include(self._chosen, checkpoint, pl_module.backbone.network)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        self._generators = checkpoint["generators"]
        trainer.should_stop = checkpoint["should_stop"]
        keep(checkpoint.get("chosen"), self.record, trainer)  # older folders have none

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = time.monotonic()  # a run resumed within an epoch does not start one
        self._step = trainer.global_step
        restore_generators(self._generators, trainer.strategy.root_device)
        self.due.listen()
        self.has_started = True
