"""The fixed cost of a step: what a run's own path adds to an empty LightningModule.

Both train a network that is next to nothing on stored images as large as they are.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.utils.data import DataLoader

from triptych.data.datamodule import Batch, collate_batch
from triptych.models.backbone import Backbone, Preprocessing
from triptych.module import ImageClassifier
from triptych.tools.benchmark.clock import Enough, StepClock, Stopwatch
from triptych.tools.benchmark.subject import Subject


def tiny(subject: Subject) -> Subject:
    """The same images and settings, with a network that is next to nothing."""
    num_classes = len(subject.data.classes)
    side = subject.data.train.data.images.shape[-1]
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
    backbone = Backbone(network, num_classes, Preprocessing(side, (0.5,) * 3, (0.5,) * 3))
    data = replace(subject.data, preprocessing=backbone.preprocessing)
    data.trainer = subject.data.trainer
    task = ImageClassifier(backbone, subject.task.optim, num_classes, data.num_per_class)
    return replace(subject, data=data, task=task)


class EmptyModule(pl.LightningModule):
    """A network, its loss and its optimizer."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.backbone = subject.network(compiled=False)
        self.criterion = subject.task.criterion
        self.optim = subject.task.optim

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss: Tensor = self.criterion(self.backbone(batch.inputs), batch.labels)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer, _ = self.optim.build(self.backbone, 1, 1)
        return optimizer


class Empty:
    """A Trainer with nothing to it, over one ready batch on the device."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.module = EmptyModule(subject)
        images, labels, index = subject.batch()
        keys = (subject.data.seed, 0, index)
        self.batch = Batch(*subject.data.transforms.training(images, labels, keys), index)

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float:
        """What `steps` training steps take."""
        stopwatch = Stopwatch(self.subject.device, warm_up_steps, warm_up_steps + steps)
        batches: Any = [self.batch] * stopwatch.last
        ready: Any = DataLoader(batches, batch_size=None, collate_fn=collate_batch)  # type: ignore[arg-type]
        trainer = pl.Trainer(
            accelerator=self.subject.config["trainer"]["accelerator"],
            devices=1,
            precision=self.subject.precision,  # type: ignore[arg-type]
            max_steps=stopwatch.last,
            logger=False,
            callbacks=[StepClock(stopwatch)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with suppress(Enough):
            trainer.fit(self.module, ready)
        return stopwatch.seconds
