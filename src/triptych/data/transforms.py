"""From stored pixels to what a network expects, on the device, a whole batch at a time.

Each image is augmented by its key (see rng.py), seed, epoch and index, on any number of devices.
More augmentations are in augment.py, mixing.py has what is done to a whole batch.

Shapes: B images of a batch; H, W stored pixels; S pixels a side of the network's input; C classes.
"""

import math
from collections.abc import Callable

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
