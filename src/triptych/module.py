"""The one LightningModule: a backbone learns to classify images.

Shapes: B images of a batch, N of a split, C classes.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from triptych.config import MONITORS
from triptych.data.datamodule import Batch
from triptych.errors import UserError
from triptych.metrics import EpochLoss, Scores, SplitPredictions, build_metrics, compute_scores
from triptych.models.backbone import Backbone
from triptych.optim import Optim
from triptych.runs.record import write_prediction_table


class ImageClassifier(pl.LightningModule):
    """Learns by a loss of the backbone's logits; is scored over whole splits.

    `loss(logits, labels)` takes labels (B,), or probabilities (B, C) of mixed images; `metrics` are
    beside the five, by name, each a number of probabilities (N, C) and labels (N,). After a
    validation or test epoch, `scores` and `predictions` hold its results on every rank.

    Another task is a subclass with a `task` of its own, which `run.json` has: what reads a run
    calls its `probabilities`, shows its scores, and refuses by the task's name what it cannot do.
    """

    task = "classification"
    default_loss = "torch.nn.CrossEntropyLoss"
    summary = ("loss", "accuracy", "f1")  # of the scores, what a line of the log shows
    write_table = staticmethod(write_prediction_table)  # predictions/<split>.csv, for people
    scores: Scores
    predictions: tuple[Tensor, Tensor, Tensor]  # logits (N, C), labels (N,), index (N,)

    def __init__(
        self,
        backbone: Backbone,
        optim: Optim,
        num_classes: int,
        loss: nn.Module | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.optim = optim
        self.loss = loss or nn.CrossEntropyLoss()
        self.metrics = build_metrics(num_classes)
        self.more_metrics = nn.ModuleDict(metrics or {})
        self.split_predictions = SplitPredictions()
        self.epoch_loss = EpochLoss()

    @property
    def monitors(self) -> dict[str, str]:
        """What is logged after every validation, and what is best of it: `max`, `min`, or empty
        where the metric does not say. A subclass that logs more lists it here."""
        modes, metrics = {True: "max", False: "min", None: ""}, dict[str, Any](self.more_metrics)
        return MONITORS | {f"val/{n}": modes[m.higher_is_better] for n, m in metrics.items()}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.backbone(images.to(self.dtype))
        return logits

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        """Float (N, C), of the classes as they are shown; also traced, for an exported file."""
        return logits.softmax(dim=1)

    def check_labels(self, labels: Tensor) -> None:
        """Raise UserError where it cannot learn from a set with labels like these."""
        if labels.ndim > 1:
            raise UserError("data: an image has any number of labels; add module=multilabel")

    def score(self, logits: Tensor, labels: Tensor) -> Scores:
        """The scores of a whole split."""
        more = dict(self.more_metrics.items())
        return compute_scores(self.metrics, logits, labels, more)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch.inputs)
        loss: Tensor = self.loss(logits, batch.labels)
        self.epoch_loss.append(loss, len(logits), self.count_correct(logits, batch.labels))
        return loss

    def count_correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many images of a training batch are right, mixed ones by their larger part."""
        return (logits.argmax(1) == (labels if labels.ndim == 1 else labels.argmax(1))).sum()

    def on_train_epoch_start(self) -> None:
        self.epoch_loss = EpochLoss()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.split_predictions.update(self(batch.inputs), batch.labels, batch.index)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._score("val")

    def on_test_epoch_end(self) -> None:
        self._score("test")

    def _score(self, split: str) -> None:
        self.predictions = self.split_predictions.gather()
        self.split_predictions.reset()
        logits, labels, _ = self.predictions
        self.scores = self.score(logits, labels)
        self.log_dict(self.scores.named(split), logger=False)  # for callbacks as EarlyStopping

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        more = [p for name, p in self.named_parameters() if not name.startswith("backbone.")]
        optimizer, schedule = self.optim.build(self.backbone, *self.count_steps(), more)
        settings: Any = {"scheduler": schedule, "interval": self.optim.interval}
        if isinstance(schedule, ReduceLROnPlateau):
            default = "val/accuracy" if schedule.mode == "max" else "val/loss"
            settings |= {"monitor": self.optim.monitor or default}
            settings |= {"frequency": sys.maxsize}  # Lightning's own step comes after a checkpoint
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def on_train_epoch_end(self) -> None:
        is_validated = (self.current_epoch + 1) % (self.trainer.check_val_every_n_epoch or 1) == 0
        for each in self.trainer.lr_scheduler_configs:
            if isinstance(each.scheduler, ReduceLROnPlateau) and is_validated:
                if each.monitor not in self.trainer.callback_metrics:
                    raise UserError(f"optim.schedule.monitor={each.monitor}: is not logged")
                each.scheduler.step(self.trainer.callback_metrics[each.monitor])

    def accumulated_batches(self, epoch: int) -> int:
        """Batches of an optimizer step in an epoch, from 0."""
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, GradientAccumulationScheduler):
                return callback.get_accumulate_grad_batches(epoch)
        return int(trainer.accumulate_grad_batches)

    def on_train_start(self) -> None:
        """Accumulate as the epoch does that a run was resumed in: Lightning starts it anew."""
        epoch = self.trainer.current_epoch
        self.trainer.accumulate_grad_batches = self.accumulated_batches(epoch)

    def count_steps(self) -> tuple[float, int]:
        """Optimizer steps of an epoch, and of the whole training.

        Not Lightning's own estimate: it sets the loader up before a resumed run knows its place.
        """
        trainer: Any = self.trainer
        batches = len(trainer.datamodule.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        num_epochs = max(trainer.max_epochs or 0, 0)
        every = [math.ceil(batches / self.accumulated_batches(n)) for n in range(num_epochs or 1)]
        # A warmup counts in epochs, whose steps a callback may change.
        warmup = every[: max(1, math.ceil(self.optim.warmup_epochs))]
        steps = sum(warmup) / len(warmup)
        total = sum(every) if num_epochs else 0
        if trainer.max_steps > 0:
            total = min(total, trainer.max_steps) if total > 0 else trainer.max_steps
        return steps, total

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_loss"] = self.epoch_loss.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.epoch_loss = EpochLoss(*checkpoint["epoch_loss"])
