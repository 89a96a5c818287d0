"""Images in, batches out: one DataModule for every source of images.

Shapes: N images, C classes, B images of a batch on one device.
"""

from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from triptych.data.mixing import mixer
from triptych.data.order import BatchOrder
from triptych.data.pipeline import Pipeline
from triptych.data.source import LabelledImages, Source
from triptych.data.splits import digest, num_per_class, parted
from triptych.model.backbone import Preprocessing


class Batch(NamedTuple):
    """Of a probe (probe.py), `images` are what the network's head takes of them: float (B, F)."""

    images: Tensor  # uint8 (B, 3, H, W) from the loader; float (B, 3, S, S) from the pipeline
    labels: Tensor  # int64 (B,), or probabilities (B, C) where images were mixed
    index: Tensor  # type: ignore[assignment]  # int64 (B,), place in the official set


class Part(Dataset[Batch]):
    """Some of a set's images, answering a whole batch of positions at once.

    Where it has `features`, float (N, F) by position, they stand for the images.
    """

    features: Tensor | None = None

    def __init__(self, data: LabelledImages, index: Tensor) -> None:
        self.data = data
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, positions: Tensor) -> Batch:
        index = self.index[positions]
        images = self.data.images[index] if self.features is None else self.features[positions]
        return Batch(images, self.data.labels[index], index)


@dataclass(eq=False, kw_only=True)
class ImageData(pl.LightningDataModule):
    """Training, validation and test images of one source, made ready on the device.

    Validation images are taken from the official training set, the test set is never touched.
    `num_train` and `num_test` take a stratified part; see `splits.parted` for what is not given.
    Call `expect` before the first batch.
    """

    source: Source
    batch_size: int
    augment: str
    mix: str
    num_train: int | None
    num_val: int | None
    num_test: int | None
    split_seed: int
    num_workers: int
    seed: int

    def __post_init__(self) -> None:
        super().__init__()
        self.classes: tuple[str, ...] = ()
        self._resume_at = {"epoch": 0, "batch": 0}

    def prepare_data(self) -> None:
        self.source.fetch()

    def setup(self, stage: str | None = None) -> None:
        if self.classes:
            return
        whole = self.source.read()
        sizes = {"train": self.num_train, "val": self.num_val, "test": self.num_test}
        index = parted(whole, sizes, self.split_seed)
        self.train, self.val = (Part(whole.train, index[name]) for name in ("train", "val"))
        self.test = Part(whole.test, index["test"])
        self.classes, self.notes = whole.classes, whole.notes

    def expect(self, expects: Preprocessing) -> None:
        """Make batches as the network expects them."""
        mix = mixer(self.mix, len(self.classes))
        self.pipeline = Pipeline(*expects, augment=self.augment == "standard", mix=mix)

    @property
    def split_hash(self) -> str:
        return digest([self.train.index, self.val.index])

    @property
    def num_per_class(self) -> list[int]:
        """Training images of each class."""
        return num_per_class(self.train.data.labels[self.train.index], len(self.classes))

    @property
    def test_hash(self) -> str:
        images, labels = self.test.data
        index = self.test.index
        pieces = (images[some] for some in torch.split(index, 256))  # all of them may exceed memory
        return digest(chain(pieces, [labels[index]]))

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, seed=self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def _loader(self, part: Part, seed: int | None = None) -> DataLoader[Batch]:
        rank = self.trainer.global_rank if self.trainer else 0
        world_size = self.trainer.world_size if self.trainer else 1
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        order = BatchOrder(len(part), self.batch_size, rank, world_size, seed)
        if seed is not None:
            order.epoch, order.skipped_batches = self._resume_at["epoch"], self._resume_at["batch"]
        return DataLoader(
            part,
            batch_sampler=order,  # type: ignore[arg-type]
            collate_fn=itself,  # type: ignore[arg-type]
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_cuda,
            generator=torch.Generator(),  # else every epoch draws from the generator of dropout
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        assert self.trainer is not None
        images, labels, index = batch
        if images.ndim == 2:
            return batch
        if not self.trainer.training:
            return Batch(self.pipeline.evaluation(images), labels, index)
        keys = (self.seed, self.trainer.current_epoch, index)
        batch_idx = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return Batch(*self.pipeline.training(images, labels, keys, batch_idx), index)

    def state_dict(self) -> dict[str, int]:
        """Where training goes on: the epoch and the batch in it."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch = loop.epoch_progress.current.ready - 1
        batch = loop.epoch_loop.batch_progress.current.ready
        per_epoch = self.trainer.num_training_batches  # as `trainer.limit_train_batches` leaves it
        return {"epoch": int(epoch + batch // per_epoch), "batch": int(batch % per_epoch)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_at = state


def itself(batch: Batch) -> Batch:
    """The collate function of batches that are whole already."""
    return batch
