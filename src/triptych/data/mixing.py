"""Two images mixed into one, with their labels, of a batch that is ready for the network.

A batch is mixed by its key (see rng.py), seed, epoch and batch, whatever the number of devices.

Shapes: B images of a batch, C classes.
"""

import math
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from triptych.data.rng import uniform
from triptych.data.transforms import Mix

COLUMNS = {"share": 8, "down": 9, "right": 10}  # keys of draws; `standard` has 0 to 7


def make_mix(kind: str, num_classes: int) -> Mix | None:
    """What `data.mix` names: MixUp (Zhang et al., 2018), CutMix (Yun et al., 2019) or none.

    As torchvision's with alpha 1, but keyed, in one proportion for all images of a batch, and with
    the image half a batch away as partner: of a global batch dealt out evenly, both lie on the same
    device.
    """
    mixes = {"mixup": mixup, "cutmix": cutmix}
    return partial(mixes[kind], num_classes=num_classes) if kind in mixes else None


def mixup(images: Tensor, labels: Tensor, *keys: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weighted means of two images, and of their labels: probabilities (B, C)."""
    share = 1 - draw_number("share", keys)
    return images.lerp(roll_half(images), share), mix_labels(labels, share, num_classes)


def cutmix(images: Tensor, labels: Tensor, *keys: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """A box of the partner laid over the image; labels, as probabilities (B, C), by area."""
    height, width = images.shape[-2:]
    half = math.sqrt(1 - draw_number("share", keys)) / 2  # of a side
    top, bottom = box_span(draw_number("down", keys), half, height)
    left, right = box_span(draw_number("right", keys), half, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = roll_half(images)[..., top:bottom, left:right]
    covered = (bottom - top) * (right - left) / (height * width)
    return mixed, mix_labels(labels, covered, num_classes)


def mix_labels(labels: Tensor, share: float, num_classes: int) -> Tensor:
    """Probabilities (B, C) of which the partner has `share`."""
    certain = (F.one_hot(labels, num_classes) if labels.ndim == 1 else labels).float()
    return certain.lerp(roll_half(certain), share)


def roll_half(batch: Tensor) -> Tensor:
    return batch.roll(len(batch) // 2, 0)


def box_span(centre: float, half: float, size: int) -> tuple[int, int]:
    """Start and stop of the box along a side of `size` pixels; centre and half are shares of it."""
    middle, reach = int(centre * size), int(half * size)
    return max(0, middle - reach), min(size, middle + reach)


def draw_number(column: str, keys: tuple[int, ...]) -> float:
    """A number in [0, 1), on the host: no batch waits for the device."""
    return float(uniform(*keys, COLUMNS[column]))
