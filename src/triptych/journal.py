"""What a run keeps while it goes: loss lines, metrics, checkpoints, predictions."""

import logging
import signal
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from triptych.checkpoint import AtomicCheckpointIO
from triptych.data.images import Batch
from triptych.record import Record
from triptych.task import Classification

log = logging.getLogger(__name__)


class NotFinite(ArithmeticError):
    """The training loss was NaN or infinite."""


class Journal(Checkpoint):
    """Keeps the record of a training as it goes.

    The best epoch is the one of the highest `val/accuracy`, the earlier on a tie; with
    `score="last"` it is the last. Lightning runs this callback behind all others, so that a
    checkpoint holds their last word (averaged weights, for one).
    """

    def __init__(
        self, record: Record, config_yaml: str, score: str, every_n_steps: int | None
    ) -> None:
        self.record = record
        self.config_yaml = config_yaml
        self.score = score
        self.every_n_steps = every_n_steps
        self.best: dict[str, Any] = {"accuracy": -1.0, "epoch": 0, "metrics": {}}
        self.train_seconds = 0.0
        self.num_images = 0
        self.stopped_by: int | None = None
        self._train_loss = 0.0
        self._unread_images = 0
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

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._unread_images += len(batch.images) * trainer.world_size
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        # A run resumed behind an epoch's last batch would skip the validation still to come.
        saves = not is_last and (due or self.stopped_by is not None)
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        ends = is_last or trainer.global_step == trainer.max_steps
        if ends or saves or (batch_idx + 1) % interval == 0:
            self._read_loss(trainer, pl_module)
        if saves:
            self._save(trainer)

    def _read_loss(self, trainer: pl.Trainer, task: Classification) -> None:
        sums = trainer.strategy.reduce(task.epoch_loss.read(), reduce_op="sum")
        seconds, self._clock = time.monotonic() - self._clock, time.monotonic()
        lr = trainer.optimizers[0].param_groups[-1]["lr"]  # the head's
        bad_batch = task.epoch_loss.include(sums)
        epoch, batch = trainer.current_epoch + 1, task.epoch_loss.num_batches
        if bad_batch is not None:
            raise NotFinite(
                f"the training loss is {task.epoch_loss.mean} at epoch {epoch} batch {bad_batch}, "
                f"optim.lr={task.optim.lr:g}, learning rate by now {lr:g}\n"
                f"try optim.lr={task.optim.lr / 10:g}, optim.warmup_epochs=1 or "
                "trainer.gradient_clip_val=1; last.ckpt holds the state before"
            )
        self._train_loss = task.epoch_loss.mean
        images_per_second = self._unread_images / seconds
        self.train_seconds += seconds
        self.num_images += self._unread_images
        self._unread_images = 0
        values = {"train/loss": self._train_loss, "lr": lr}
        self._keep(trainer, epoch, values | {"train/images_per_second": images_per_second})
        log.info("epoch %d batch %d loss %.3f", epoch, batch, self._train_loss)

    # Validation: the best epoch, its predictions.

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not trainer.fit_loop.epoch_loop.batch_progress.current.ready:
            return
        self._clock += time.monotonic() - self._validation_began
        values = self._keep_scores(trainer, pl_module, "val", trainer.current_epoch + 1)
        if self.score == "last" or values["val/accuracy"] > self.best["accuracy"]:
            self._choose(trainer, {"train/loss": self._train_loss} | values)
            self._keep_predictions(trainer, pl_module, "val")
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            if pl_module.epoch_loss.unread:
                self._read_loss(trainer, pl_module)
            self._save(trainer)

    def _choose(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        """Make the present weights the ones to be scored."""
        accuracy = metrics.get("val/accuracy", -1.0)
        self.best = {"accuracy": accuracy, "epoch": trainer.current_epoch + 1, "metrics": metrics}
        self._is_new_best = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.score == "last" or self.best["epoch"] == 0:  # a validation need not end every epoch
            self._choose(trainer, {"train/loss": self._train_loss} | self.best["metrics"])
        self._save(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.best["metrics"] |= self._keep_scores(trainer, pl_module, "test", self.best["epoch"])
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
        trainer.save_checkpoint(self.record.checkpoint("last"), weights_only=False)
        if self.stopped_by is not None:
            raise SystemExit(130 if self.stopped_by == signal.SIGINT else 143)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["generators"] = {"cpu": torch.get_rng_state(), "cuda": cuda}
        if self._is_new_best and trainer.is_global_zero:
            prefix = "backbone.network."
            weights = {name.removeprefix(prefix): v for name, v in checkpoint["state_dict"].items()}
            best = {"state_dict": weights, "config": self.config_yaml}
            AtomicCheckpointIO().save_checkpoint(best, self.record.checkpoint("best"))
        self._is_new_best = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._generators = checkpoint["generators"]
        if trainer.is_global_zero:
            self.record.cut_metrics(checkpoint["global_step"])

    def on_train_batch_start(self, *_: Any) -> None:
        if self._generators is not None:
            torch.set_rng_state(self._generators["cpu"])
            if self._generators["cuda"]:
                torch.cuda.set_rng_state_all(self._generators["cuda"])
            self._generators = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = time.monotonic()  # a run resumed within an epoch does not start one
        # Signals here, behind Lightning, which sets its own before training starts.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None:
            raise KeyboardInterrupt
        self.stopped_by = number
        log.info("stopping after this batch; once more to stop at once, without saving")
