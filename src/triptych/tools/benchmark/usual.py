"""The usual way of templates, for comparison: written for the benchmark and used nowhere else.

PIL images, `Resize`, `ToTensor` and `Normalize` one image at a time in a loader's workers, fp32,
loss and metrics computed and logged in every step.
"""

import copy
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchvision import transforms

from triptych.data.datamodule import ImageSubset
from triptych.models.backbone import Preprocessing
from triptych.tools.benchmark.clock import Enough, StepClock, Stopwatch
from triptych.tools.benchmark.subject import Subject

MOST_WORKERS = 16


class Pictures(Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's data sets give them."""

    def __init__(self, part: ImageSubset, preprocessing: Preprocessing) -> None:
        images, labels = part.data
        self.images = images[part.index].permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels[part.index].tolist()
        side = preprocessing.input_size
        self.transform = transforms.Compose(
            [
                transforms.Resize((side, side)),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[place])), self.labels[place]


class UsualModule(pl.LightningModule):
    def __init__(self, network: nn.Module, num_classes: int, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "f1": MulticlassF1Score(num_classes),
                "precision": MulticlassPrecision(num_classes),
                "recall": MulticlassRecall(num_classes),
            }
        )
        self.train_scores = metrics.clone(prefix="train/")
        self.test_scores = metrics.clone(prefix="test/")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train", self.train_scores)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "test", self.test_scores)

    def _step(self, batch: tuple[Tensor, Tensor], split: str, scores: MetricCollection) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        scores.update(logits, labels)
        self.log(f"{split}/loss", loss, on_step=split == "train", on_epoch=True)
        self.log_dict(scores, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@contextmanager
def torch_defaults() -> Iterator[None]:
    """float32 products as torch has them by itself: a run of ours sets them for the process."""
    precision, search = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = search


class Usual:
    """A Trainer as people write it, cut off after some steps."""

    def __init__(self, subject: Subject, folder: Path, num_workers: int | None) -> None:
        self.subject, self.folder = subject, folder
        data, task = subject.data, subject.task
        network = copy.deepcopy(task.backbone.network)
        self.module = UsualModule(network, len(data.classes), task.optim.lr)
        preprocessing = task.backbone.preprocessing
        self.pictures = {
            "train": Pictures(data.train, preprocessing),
            "inference": Pictures(data.test, preprocessing),
        }
        found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.num_workers = min(found or 1, MOST_WORKERS) if num_workers is None else num_workers

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float:
        """What `steps` steps take; `mode` is train or inference."""
        # Workers have two batches each ready before the clock starts, and finish the next together:
        # those are not counted, and what is comes in whole turns of theirs.
        turn = max(1, self.num_workers)
        counted = math.ceil(steps / turn) * turn
        first = math.ceil(max(warm_up_steps, 2 * turn) / turn) * turn
        stopwatch = Stopwatch(self.subject.device, first, first + counted)
        with torch_defaults(), suppress(Enough):
            trainer = self._trainer(stopwatch.last, StepClock(stopwatch))
            run = trainer.fit if mode == "train" else trainer.test
            run(self.module, self._loader(mode, stopwatch.last))
        return stopwatch.seconds * steps / counted

    def _trainer(self, steps: int, clock: StepClock) -> pl.Trainer:
        return pl.Trainer(
            accelerator=self.subject.config["trainer"]["accelerator"],
            devices=1,
            max_steps=steps,
            limit_test_batches=steps,
            benchmark=False,
            logger=TensorBoardLogger(self.folder, "usual"),
            callbacks=[clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def _loader(self, mode: str, num_batches: int) -> DataLoader[tuple[Tensor, int]]:
        """An epoch of at least so many batches."""
        pictures = self.pictures[mode]
        repeats = math.ceil(num_batches * self.subject.batch_size / len(pictures))
        return DataLoader(
            ConcatDataset([pictures] * repeats),
            batch_size=self.subject.batch_size,
            shuffle=mode == "train",
            num_workers=self.num_workers,
            pin_memory=self.subject.device.type == "cuda",
            persistent_workers=self.num_workers > 0,
        )
