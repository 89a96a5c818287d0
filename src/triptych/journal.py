"""What a run keeps while it goes: loss lines, metrics, checkpoints, predictions."""

import logging
import signal
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from triptych.checkpoint import AtomicCheckpointIO, generator_states, restore_generators
from triptych.data.images import Batch
from triptych.record import Record
from triptych.task import Classification

log = logging.getLogger(__name__)


class NotFinite(ArithmeticError):
    """The training loss was NaN or infinite."""


class Journal(Checkpoint):
    """Keeps the record of a training as it goes.

    The best epoch is the one of the highest `val/accuracy`, the earlier on a tie; with
    `score="last"`, or where nothing was validated, it is the last. Lightning runs this callback
    behind all others, so that a checkpoint holds their last word (averaged weights, for one).

    `last.ckpt` is saved at the end of an epoch, behind its validation, and within an epoch where
    an optimizer step is complete; never on an epoch's last batch, or a run resumed there would
    skip the validation still to come. `best.ckpt` is written from what `last.ckpt` is about to
    hold, and before it.
    """

    def __init__(self, record: Record, score: str, every_n_steps: int | None) -> None:
        self.record = record
        self.score = score
        self.every_n_steps = every_n_steps
        self.best: dict[str, Any] = {"accuracy": -1.0, "epoch": 0, "metrics": {}}
        self.train_seconds = 0.0
        self.num_images = 0
        self.stopped_by: int | None = None
        self._train_loss = 0.0
        self._lr = 0.0
        self._unread_images = 0
        self._step = 0
        self._clock = 0.0
        self._validation_began = 0.0
        self._is_new_best = False
        self._generators: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("best", "train_seconds", "num_images")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    # The loss: read at the interval, never in between.

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = time.monotonic()  # behind the last epoch's pictures and checkpoint

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._lr = trainer.optimizers[0].param_groups[-1]["lr"]  # the head's, for this batch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._unread_images += len(batch.images) * trainer.world_size
        has_stepped, self._step = trainer.global_step != self._step, trainer.global_step
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        saves = has_stepped and not is_last and bool(due or self.stopped_by is not None)
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        ends = is_last or trainer.should_stop or trainer.global_step == trainer.max_steps
        if ends or saves or (batch_idx + 1) % interval == 0:
            self._read_loss(trainer, pl_module)
        if saves:
            self._save(trainer)

    def _read_loss(self, trainer: pl.Trainer, task: Classification) -> None:
        sums = trainer.strategy.reduce(task.epoch_loss.read(), reduce_op="sum")
        seconds, self._clock = time.monotonic() - self._clock, time.monotonic()
        bad_batch = task.epoch_loss.include(sums)
        epoch, batch = trainer.current_epoch + 1, task.epoch_loss.num_batches
        if bad_batch is not None:
            raise NotFinite(
                f"the training loss is {task.epoch_loss.mean} at epoch {epoch} batch {bad_batch}, "
                f"optim.lr={task.optim.lr:g}, learning rate by now {self._lr:g}\n"
                f"try optim.lr={task.optim.lr / 10:g}, optim.warmup_epochs=1 or "
                "trainer.gradient_clip_val=1"
            )
        self._train_loss = task.epoch_loss.mean
        speed = {"train/images_per_second": self._unread_images / seconds}
        self._keep(trainer, epoch, {"train/loss": self._train_loss, "lr": self._lr} | speed)
        self.train_seconds += seconds
        self.num_images += self._unread_images
        self._unread_images = 0
        log.info("epoch %d batch %d loss %.3f", epoch, batch, self._train_loss)

    # Validation: the best epoch, its predictions.

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.epoch_loss.unread:
            self._read_loss(trainer, pl_module)
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        self._clock += time.monotonic() - self._validation_began
        values = self._keep_scores(trainer, pl_module, "val", trainer.current_epoch + 1)
        if self.score == "last" or values["val/accuracy"] > self.best["accuracy"]:
            self._choose(trainer, values)
            self._keep_predictions(trainer, pl_module, "val")
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def _choose(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        """Make the weights of the next `_save` the ones to be scored."""
        self.best = {
            "accuracy": values.get("val/accuracy", -1.0),
            "epoch": trainer.current_epoch + 1,
            "metrics": {"train/loss": self._train_loss} | values,
        }
        self._is_new_best = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_unvalidated = self.best["epoch"] != trainer.current_epoch + 1
        if is_unvalidated and (self.score == "last" or self.best["accuracy"] < 0):
            self._choose(trainer, {})
            if trainer.is_global_zero:
                self.record.drop_predictions("val")
        self._save(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._keep_scores(trainer, pl_module, "test", self.record.facts["best_epoch"])
        self._keep_predictions(trainer, pl_module, "test")

    def _keep_scores(
        self, trainer: pl.Trainer, task: Classification, split: str, epoch: int
    ) -> dict[str, float]:
        values = {f"{split}/{name}": value for name, value in task.scores.values.items()}
        self._keep(trainer, epoch, values)
        shown = (f"{name} {values[f'{split}/{name}']:.4f}" for name in ("loss", "accuracy", "f1"))
        log.info("epoch %d %s %s", epoch, split, "  ".join(shown))
        return values

    def _keep(self, trainer: pl.Trainer, epoch: int, values: dict[str, float]) -> None:
        if trainer.is_global_zero:
            self.record.add_metrics({"epoch": epoch, "step": trainer.global_step, **values})
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)

    def _keep_predictions(self, trainer: pl.Trainer, task: Classification, split: str) -> None:
        if trainer.is_global_zero:
            logits, labels, index = (tensor.cpu().numpy() for tensor in task.predictions)
            self.record.add_predictions(split, logits=logits, labels=labels, index=index)

    # Checkpoints: `best` before `last`, so that `last` never promises a best that is not there.

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.record.checkpoint_path("last"), weights_only=False)
        if self.stopped_by is not None:
            raise SystemExit(130 if self.stopped_by == signal.SIGINT else 143)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["generators"] = generator_states(trainer.strategy.root_device)
        if self._is_new_best and trainer.is_global_zero:
            prefix = "backbone.network."
            weights = {name.removeprefix(prefix): v for name, v in checkpoint["state_dict"].items()}
            best = {"state_dict": weights, "config": self.record.config_yaml}
            AtomicCheckpointIO().save_checkpoint(best, self.record.checkpoint_path("best"))
        self._is_new_best = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._generators = checkpoint["generators"]
        if trainer.is_global_zero:
            self.record.cut_metrics(checkpoint["global_step"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = time.monotonic()  # a run resumed within an epoch does not start one
        self._step = trainer.global_step
        if self._generators is not None:
            restore_generators(self._generators, trainer.strategy.root_device)
        # Signals here, behind Lightning, which sets its own before training starts.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None:
            raise KeyboardInterrupt
        self.stopped_by = number
        log.info("stopping after this batch; once more to stop at once, without saving")
