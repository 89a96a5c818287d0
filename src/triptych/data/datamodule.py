"""Images in, batches out: one DataModule for every set of images.

Shapes: N images, C classes, B images of a batch on one device; H, W stored pixels; S pixels a side
of the network's input; F features of an image.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from triptych.data.rng import count_classes, permutation
from triptych.data.source import ImageSet, LabelledImages, hash_tensors, split_indices
from triptych.data.transforms import Augment, DeviceTransforms, Mix
from triptych.models.backbone import Preprocessing


class Batch(NamedTuple):
    """What a step works on.

    The loader gives images as they are stored, a step gets them as the network expects them. If
    the feature cache has run a frozen backbone before, both have the features that its head takes.
    """

    inputs: Tensor  # stored: uint8 (B, 3, H, W); in a step: float (B, 3, S, S); features: (B, F)
    labels: Tensor  # as in `LabelledImages`, or probabilities (B, C) of mixed images
    index: Tensor  # type: ignore[assignment]  # int64 (B,), in the official set


class ImageSubset(Dataset[Batch]):
    """The images of one split, a whole batch of positions at once.

    If `features`, float (N, F) by position, is set (by the feature cache), they replace the images.
    """

    features: Tensor | None = None

    def __init__(self, data: LabelledImages, index: Tensor) -> None:
        self.data = data
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, positions: Tensor) -> Batch:
        index = self.index[positions]
        inputs = self.data.images[index] if self.features is None else self.features[positions]
        return Batch(inputs, self.data.labels[index], index)


class KeyedBatchSampler(Sampler[Tensor]):
    """The positions of every batch on this device: `order[b * B : (b + 1) * B][rank::world_size]`.

    A global batch, of `batch_size` images, holds the same ones on any number of devices. With a
    seed, for training, the order is keyed by seed and epoch, and a last batch of fewer than two
    images a device is left out: BatchNorm cannot normalise one image. Without, for evaluation,
    every image comes once, in order.
    """

    def __init__(
        self, n: int, batch_size: int, rank: int, world_size: int, seed: int | None
    ) -> None:
        self.n, self.batch_size, self.rank, self.world_size = n, batch_size, rank, world_size
        self.seed = seed
        self.epoch = 0
        self.skipped_batches = 0  # of the next epoch: those before a resumed run's checkpoint
        self.shuffles, self.draw = True, permutation
        self.sampler = self  # where Lightning looks for `set_epoch`

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:  # of a loader made anew after the epoch of the checkpoint
            self.skipped_batches = 0
        self.epoch = epoch

    def __len__(self) -> int:
        rest = self.n % self.batch_size
        too_few = self.seed is not None and 0 < rest < 2 * self.world_size and rest < self.n
        return math.ceil(self.n / self.batch_size) - too_few

    def __iter__(self) -> Iterator[Tensor]:
        # A generator, because a loader with workers calls iter() twice and uses the second.
        order = torch.arange(self.n)
        if self.seed is not None and self.shuffles:
            order = self.draw(self.n, self.seed, self.epoch)
        first, self.skipped_batches = self.skipped_batches, 0
        for batch in torch.split(order, self.batch_size)[first : len(self)]:
            yield batch[self.rank :: self.world_size]


@dataclass(eq=False, kw_only=True)
class ImageDataModule(pl.LightningDataModule):
    """Training, validation and test images of one set, made ready for one network on its device.

    `source.split_indices` says what `num_train`, `num_val`, `num_test` and `split_seed` do.
    Validation images come from the training images; the test set never chooses anything.
    """

    image_set: ImageSet
    preprocessing: Preprocessing
    batch_size: int
    augment: str | Augment  # none, standard, or one's own
    mix: str
    num_train: int | None
    num_val: int | None
    num_test: int | None
    split_seed: int
    num_workers: int
    seed: int
    sampler: str | None = None  # balanced, or each image once an epoch

    def __post_init__(self) -> None:
        super().__init__()
        data = self.image_set
        self.classes, self.notes = data.classes, data.notes
        sizes = {"train": self.num_train, "val": self.num_val, "test": self.num_test}
        index = split_indices(data, sizes, self.split_seed)
        self.train, self.val = (ImageSubset(data.train, index[name]) for name in ("train", "val"))
        self.test = ImageSubset(data.test, index["test"])
        mix: Mix | None = None
        if self.mix != "none":
            from triptych.data.mixing import make_mix  # a default run needs nothing of it

            mix = make_mix(self.mix, len(self.classes))
        augment: Any = None if self.augment == "none" else self.augment
        if augment == "standard":
            from triptych.data.augment import standard

            augment = standard
        # Of augment.PerImage alone, which works where images are loaded, instead of on the device.
        self.per_image: Any = augment if hasattr(augment, "load_augmented") else None
        on_device = None if self.per_image else augment
        self.transforms = DeviceTransforms(self.preprocessing, on_device, mix)
        self._resume_at = {"epoch": 0, "batch": 0}
        if data.groups or self.sampler:
            from triptych.data.notes import describe_splits  # a default run needs nothing of it

            self.notes = (*self.notes, *describe_splits(data, index, self.sampler))

    @property
    def split_hash(self) -> str:
        return hash_tensors([self.train.index, self.val.index])

    @property
    def test_hash(self) -> str:
        (images, labels), index = self.test.data, self.test.index
        chunks = (images[some] for some in torch.split(index, 256))  # the set may exceed memory
        return hash_tensors(chain(chunks, [labels[index]]))

    @property
    def num_per_class(self) -> list[int]:
        """Training images of each class."""
        labels = self.train.data.labels[self.train.index]
        return count_classes(labels, len(self.classes)).tolist()

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, seed=self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def _loader(self, subset: ImageSubset, seed: int | None = None) -> DataLoader[Batch]:
        rank = self.trainer.global_rank if self.trainer else 0
        world_size = self.trainer.world_size if self.trainer else 1
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        sampler = KeyedBatchSampler(len(subset), self.batch_size, rank, world_size, seed)
        if seed is not None:
            sampler.epoch = self._resume_at["epoch"]
            sampler.skipped_batches = self._resume_at["batch"]
            sampler.shuffles = not getattr(self.trainer, "overfit_batches", 0)
        images: Dataset[Batch] = subset
        if seed is not None and self.sampler:
            from triptych.data.balance import balance

            images = balance(subset, sampler)
        if seed is not None and self.per_image:
            images, sampler = self.per_image.load_augmented(images, sampler, seed)
        return DataLoader(
            images,
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=nn.Identity(),  # `__getitems__` gives whole batches
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_cuda,
            generator=torch.Generator(),  # else every epoch draws from the generator of dropout
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        assert self.trainer is not None
        images, labels, index = batch
        if images.ndim == 2:  # features, which the head takes as they are
            return batch
        if not self.trainer.training:
            return Batch(self.transforms.evaluation(images), labels, index)
        keys = (self.seed, self.trainer.current_epoch, index)
        batch_idx = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return Batch(*self.transforms.training(images, labels, keys, batch_idx), index)

    def state_dict(self) -> dict[str, int]:
        """Where a resumed run goes on: the epoch, and the batch in it."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch = loop.epoch_progress.current.ready - 1
        batch = loop.epoch_loop.batch_progress.current.ready
        per_epoch = self.trainer.num_training_batches  # as `trainer.limit_train_batches` leaves it
        return {"epoch": int(epoch + batch // per_epoch), "batch": int(batch % per_epoch)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_at = state
