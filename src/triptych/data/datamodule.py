"""Images in, batches out: one DataModule for every source of images.

Shapes: N images, C classes, B images of a batch on one device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from triptych.data.rng import permutation
from triptych.data.source import LabelledImages, Source, hash_tensors, num_per_class, split_indices
from triptych.data.transforms import DeviceTransforms, make_mix
from triptych.models.backbone import Preprocessing

# Which images come in which batch, on which device.


class KeyedBatchSampler(Sampler[Tensor]):
    """Positions of every batch on this device: `order[b * B : (b + 1) * B][rank::world_size]`.

    The images of a global batch are the same on any number of devices. In training, the order is
    keyed by seed and epoch, and a last batch of fewer than two images a device is left out:
    BatchNorm cannot normalise one image. In evaluation every image comes once.
    """

    def __init__(
        self, n: int, batch_size: int, rank: int, world_size: int, seed: int | None
    ) -> None:
        self.n, self.batch_size, self.rank, self.world_size = n, batch_size, rank, world_size
        self.seed = seed
        self.epoch = 0
        self.skipped_batches = 0
        self.sampler = self  # where Lightning looks for `set_epoch`

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        rest = self.n % self.batch_size
        too_few = self.seed is not None and 0 < rest < 2 * self.world_size and rest < self.n
        return math.ceil(self.n / self.batch_size) - too_few

    def __iter__(self) -> Iterator[Tensor]:
        # A generator, for a loader with workers calls iter() twice and draws from the second.
        order = torch.arange(self.n)
        if self.seed is not None:
            order = permutation(self.n, self.seed, self.epoch)
        first, self.skipped_batches = self.skipped_batches, 0
        for batch in torch.split(order, self.batch_size)[first : len(self)]:
            yield batch[self.rank :: self.world_size]


class Batch(NamedTuple):
    """Of a probe (probe.py), `images` are what the network's head takes of them: float (B, F)."""

    images: Tensor  # uint8 (B, 3, H, W) from the loader; float (B, 3, S, S) from the pipeline
    labels: Tensor  # int64 (B,), or probabilities (B, C) where images were mixed
    index: Tensor  # type: ignore[assignment]  # int64 (B,), place in the official set


class ImageSubset(Dataset[Batch]):
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
class ImageDataModule(pl.LightningDataModule):
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
        index = split_indices(whole, sizes, self.split_seed)
        self.train, self.val = (ImageSubset(whole.train, index[name]) for name in ("train", "val"))
        self.test = ImageSubset(whole.test, index["test"])
        self.classes, self.notes = whole.classes, whole.notes

    def expect(self, preprocessing: Preprocessing) -> None:
        """Make batches as the network expects them."""
        mix = make_mix(self.mix, len(self.classes))
        self.pipeline = DeviceTransforms(
            *preprocessing, augment=self.augment == "standard", mix=mix
        )

    @property
    def split_hash(self) -> str:
        return hash_tensors([self.train.index, self.val.index])

    @property
    def num_per_class(self) -> list[int]:
        """Training images of each class."""
        return num_per_class(self.train.data.labels[self.train.index], len(self.classes))

    @property
    def test_hash(self) -> str:
        images, labels = self.test.data
        index = self.test.index
        pieces = (images[some] for some in torch.split(index, 256))  # all of them may exceed memory
        return hash_tensors(chain(pieces, [labels[index]]))

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, seed=self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def _loader(self, part: ImageSubset, seed: int | None = None) -> DataLoader[Batch]:
        rank = self.trainer.global_rank if self.trainer else 0
        world_size = self.trainer.world_size if self.trainer else 1
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        order = KeyedBatchSampler(len(part), self.batch_size, rank, world_size, seed)
        if seed is not None:
            order.epoch, order.skipped_batches = self._resume_at["epoch"], self._resume_at["batch"]
        return DataLoader(
            part,
            batch_sampler=order,  # type: ignore[arg-type]
            collate_fn=collate_batch,  # type: ignore[arg-type]
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


def collate_batch(batch: Batch) -> Batch:
    """The collate function of batches that are whole already."""
    return batch
