"""From stored pixels to what a network expects, on the device, a whole batch at a time.

Each image is augmented by its key (see rng.py), seed, epoch and index, on any number of devices.
Augmentations are in augment.py, mixing.py has what is done to a whole batch.

Shapes: B images of a batch; H, W stored pixels; S pixels a side of the network's input; C classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from triptych.models.backbone import Preprocessing

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
