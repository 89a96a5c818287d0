"""From stored pixels to what a network expects, on the device, a whole batch at a time.

All randomness is keyed (see rng.py): each image is augmented by (seed, epoch, index), each batch is
mixed by (seed, epoch, batch), whatever the number of devices.

Shapes: B images of a batch; H, W stored pixels; S pixels a side of the network's input; C classes.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from triptych.data.rng import uniform
from triptych.models.backbone import Preprocessing

PAD = 4  # pixels around an image for each 32 of its height: He et al. (2016) on CIFAR-10
ERASED_SHARE = 0.5  # of the images
ERASED_AREA = (0.02, 0.33)  # of the image; this and the aspect as in Zhong et al. (2017)
ERASED_ASPECT = (0.3, 3.3)
MIX_COLUMNS = {"share": 8, "down": 9, "right": 10}  # keys of draws; augmentation has 0 to 7

# Images uint8 (B, 3, H, W), seed, epoch and index (B,) to images of the same kind.
Augment = Callable[[Tensor, int, int, Tensor], Tensor]
Mix = Callable[[Tensor, Tensor, int, int, int], tuple[Tensor, Tensor]]


class DeviceTransforms:
    """uint8 (B, 3, H, W) to float (B, 3, S, S): augment in training, resize, scale, normalise.

    `mix(images, labels, seed, epoch, batch)` takes a whole training batch; it makes labels
    probabilities (B, C).
    """

    def __init__(
        self, preprocessing: Preprocessing, augment: Augment | None = None, mix: Mix | None = None
    ) -> None:
        self.input_size = preprocessing.input_size
        self.mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
        self.std = torch.tensor(preprocessing.std).view(3, 1, 1)
        self.interpolation = v2.InterpolationMode(preprocessing.interpolation)
        self.augment = augment
        self.mix = mix

    def training(
        self, images: Tensor, labels: Tensor, keys: tuple[int, int, Tensor], batch: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Images and labels of the epoch's batch; `keys` are seed, epoch and image index (B,)."""
        if self.augment:
            images = self.augment(images, *keys)
        images = self.evaluation(images)
        return self.mix(images, labels, *keys[:2], batch) if self.mix else (images, labels)

    def evaluation(self, images: Tensor) -> Tensor:
        """Images as the network expects them, without augmentation."""
        pixels = images.float() / 255
        size = [self.input_size, self.input_size]
        if list(pixels.shape[-2:]) != size:
            pixels = v2.functional.resize_image(pixels, size, self.interpolation, antialias=True)
        self.mean, self.std = self.mean.to(pixels), self.std.to(pixels)
        # Normalising the small stored images would be cheaper, but rounds otherwise: a deep network
        # makes gradients of it that differ in their second digit (NOTES.md, 2026-11-25).
        return pixels.sub_(self.mean).div_(self.std)


def standard(
    images: Tensor, seed: int, epoch: int, index: Tensor, inner: Augment | None = None
) -> Tensor:
    """Flip, crop from a padded image and erase, each image by its own key; uint8 (B, 3, H, W).

    `inner` comes before the erasing.
    """
    draws = [uniform(seed, epoch, index, column) for column in range(8)]
    images = flip(images, draws[0] < 0.5)
    images = crop(images, draws[1], draws[2])
    images = inner(images, seed, epoch, index) if inner else images
    return erase(images, draws[3] < ERASED_SHARE, *draws[4:])


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen images; `chosen` is bool (B,)."""
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)


def crop(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """A window of the original size from images padded with black; offsets (B,) in [0, 1)."""
    batch, channels, height, width = images.shape
    pad = PAD * max(1, height // 32)
    padded = F.pad(images, [pad] * 4)
    rows = (down * (2 * pad + 1)).long()[:, None] + torch.arange(height, device=images.device)
    columns = (right * (2 * pad + 1)).long()[:, None] + torch.arange(width, device=images.device)
    rows = rows[:, None, :, None].expand(batch, channels, height, width + 2 * pad)
    columns = columns[:, None, None, :].expand(batch, channels, height, width)
    return padded.gather(2, rows).gather(3, columns)


def erase(
    images: Tensor, chosen: Tensor, area: Tensor, aspect: Tensor, down: Tensor, right: Tensor
) -> Tensor:
    """Black out a rectangle in the chosen images; the other draws are (B,) in [0, 1)."""
    height, width = images.shape[-2:]
    least, most = ERASED_AREA
    area = (least + (most - least) * area) * height * width
    least, most = map(math.log, ERASED_ASPECT)
    aspect = (least + (most - least) * aspect).exp()
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top, left = (down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor()
    rows = torch.arange(height, device=images.device)[None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, :]
    top, tall, left, wide, chosen = (x.view(-1, 1, 1) for x in (top, tall, left, wide, chosen))
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return images.masked_fill((inside & chosen)[:, None], 0)


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
    return float(uniform(*keys, MIX_COLUMNS[column]))
