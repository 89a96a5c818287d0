"""MixUp (Zhang et al., 2018) and CutMix (Yun et al., 2019), the same on any number of devices.

What torchvision's transforms do with alpha 1, but keyed, and with the image half a batch away as
partner: of a global batch dealt out evenly, both lie on the same device. All images of a batch are
mixed in the same proportion.

Shapes: B images of a batch (an even number has pairs), C classes.
"""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from triptych.data.randomness import uniform

Mix = Callable[[Tensor, Tensor, int, int, int], tuple[Tensor, Tensor]]
COLUMNS = {"share": 8, "down": 9, "right": 10}  # those of augmentation end at 7


def mixup(images: Tensor, labels: Tensor, *keys: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weighted means of two images, and of their labels: probabilities (B, C)."""
    share = 1 - drawn("share", keys)
    return images.lerp(partners(images), share), mixed_labels(labels, share, num_classes)


def cutmix(images: Tensor, labels: Tensor, *keys: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """A box of the partner laid over the image; labels, as probabilities (B, C), by area."""
    height, width = images.shape[-2:]
    half = math.sqrt(1 - drawn("share", keys)) / 2  # of a side
    top, bottom = ends(drawn("down", keys), half, height)
    left, right = ends(drawn("right", keys), half, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = partners(images)[..., top:bottom, left:right]
    covered = (bottom - top) * (right - left) / (height * width)
    return mixed, mixed_labels(labels, covered, num_classes)


def mixer(kind: str, num_classes: int) -> Mix | None:
    """What `data.mix` names; None for none."""
    mixes = {"mixup": mixup, "cutmix": cutmix}
    return partial(mixes[kind], num_classes=num_classes) if kind in mixes else None


def mixed_labels(labels: Tensor, share: float, num_classes: int) -> Tensor:
    """Probabilities (B, C) of which the partner has `share`."""
    certain = F.one_hot(labels, num_classes).float()
    return certain.lerp(partners(certain), share)


def partners(batch: Tensor) -> Tensor:
    return batch.roll(len(batch) // 2, 0)


def ends(centre: float, half: float, size: int) -> tuple[int, int]:
    """Start and stop of the box along a side of `size` pixels; centre and half are shares of it."""
    middle, reach = int(centre * size), int(half * size)
    return max(0, middle - reach), min(size, middle + reach)


def drawn(column: str, keys: tuple[int, ...]) -> float:
    """A number in [0, 1), on the host: no batch waits for the device."""
    return float(uniform(*keys, COLUMNS[column]))
