"""Balanced sampling: every class as often in an epoch, however few images it has.

An epoch has as many images as train. Each class gives the same number of them, or one more: all its
images in turn as often as that goes, then a part of them, keyed by seed and epoch as the order is.

Shapes: n training images, M draws, B images of a batch.
"""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from triptych.data.rng import permutation

if TYPE_CHECKING:
    from triptych.data.datamodule import Batch, ImageSubset, KeyedBatchSampler

REPEAT = 2**40  # above every index: what the key of an image's draws differs by within an epoch


class RepeatedImages(Dataset["Batch"]):
    """The images of a split at positions that count on: `position + n * repeat`.

    `index` of a batch is a key, by which a repeated image is augmented anew.
    """

    def __init__(self, subset: "ImageSubset") -> None:
        self.subset = subset

    def __len__(self) -> int:
        return len(self.subset)

    def __getitems__(self, positions: Tensor) -> "Batch":
        batch = self.subset.__getitems__(positions % len(self))
        return batch._replace(index=batch.index + positions // len(self) * REPEAT)


def balance(subset: "ImageSubset", sampler: "KeyedBatchSampler") -> RepeatedImages:
    """Have a sampler draw the classes of its images alike; the images as it then names them."""
    sampler.draw = partial(draw_balanced, subset.data.labels[subset.index])
    return RepeatedImages(subset)


def draw_balanced(labels: Tensor, n: int, seed: int, epoch: int) -> Tensor:
    """The epoch's order, int64 (n,): `position + n * repeat` of the images with labels (n,)."""
    order = permutation(n, seed, epoch)
    images = order[labels[order].argsort(stable=True)]  # by class, in each in the epoch's order
    num_images = torch.bincount(labels)
    trained = num_images > 0
    least, rest = divmod(n, int(trained.sum()))
    num_draws = torch.zeros_like(num_images)
    num_draws[trained] = least + (permutation(int(trained.sum()), seed, epoch, n) < rest).long()
    of_class, some = labels[images], num_images.clamp(min=1)
    rank = torch.arange(n) - (num_images.cumsum(0) - num_images)[of_class]  # within its class
    times = (num_draws // some)[of_class] + (rank < (num_draws % some)[of_class])
    repeat = torch.arange(n) - (times.cumsum(0) - times).repeat_interleave(times)
    drawn: Tensor = images.repeat_interleave(times) + n * repeat
    return drawn[permutation(n, seed, epoch, 1)]
