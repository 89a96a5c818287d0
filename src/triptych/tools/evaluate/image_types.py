"""Test images made harder on the CPU, at the size they are stored in, and a network tried on them.

Every draw is keyed by (type, severity, place in the official set): whatever the batch, whatever
network or device is tried, image `i` gets the same pixels. Another kind of processor may round a
few to the neighbouring value.

Shapes: N images of H x W pixels, B of a batch, C classes; a distortion takes uint8 (N, 3, H, W),
its level and a key (N,).
"""

import io
import math
import zlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from triptych.data.rng import hash64, split_stratified, uniform
from triptych.tools.evaluate.degradation import UNMODIFIED, Outcomes
from triptych.tools.evaluate.settings import LEVELS

CHOICE_SEED = 0  # not the run's: every run is tried on the same images
SEVERITIES = (1, 2, 3)
NUM_EXAMPLES = 5  # classes on the sheet of examples
GREY = 127  # a plain ground, and what hides a part
GROUND_BLUR = 6.0  # pixels where a side has 32: colours stay, outlines do not
AMID_CLUTTER = 3 / 4  # of the sides, as in the mildest small_object, so that clutter alone differs
PIECE = (1 / 32, 1 / 8)  # half the width or height of a piece of clutter, of that of the image


def score_image_types(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    index: Tensor,
    types: list[str],
    num_images: int | None,
    batch_size: int,
) -> Outcomes:
    """Which images a network gets right, unmodified and at every severity of types.

    `images` are uint8 (N, 3, H, W) on the CPU, `index` (N,) their places in the official set;
    `predict` takes uint8 (B, 3, H, W) to logits (B, C) on any device. Of more than `num_images`, so
    many are chosen in the classes' proportions, the same for the same labels.
    """
    num = min(num_images or len(labels), len(labels))
    [chosen] = split_stratified(labels, [num], CHOICE_SEED)
    images, labels, index = images[chosen], labels[chosen], index[chosen]
    variants = [(UNMODIFIED, 0), *((name, s) for name in types for s in SEVERITIES)]
    correct = torch.empty(len(variants), num, dtype=torch.bool)
    for variant, (name, severity) in enumerate(variants):
        for batch in torch.split(torch.arange(num), batch_size):
            shown = distort(images[batch], name, severity, index[batch])
            correct[variant, batch] = predict(shown).argmax(dim=1).cpu() == labels[batch]
    names, severities = zip(*variants, strict=True)
    return Outcomes(np.array(names), np.array(severities), index.numpy(), correct.numpy())


def make_examples(
    images: Tensor, labels: Tensor, index: Tensor, types: list[str]
) -> dict[str, NDArray[np.uint8]]:
    """The first image of each of the first K classes in every type, uint8 (4, K, 3, H, W).

    Unmodified first, then by severity; arguments as of `score_image_types`.
    """
    classes = sorted(set(labels.tolist()))[:NUM_EXAMPLES]
    first = torch.stack([torch.nonzero(labels == c)[0, 0] for c in classes])
    shown, places = images[first], index[first]
    return {
        name: torch.stack([distort(shown, name, s, places) for s in (0, *SEVERITIES)]).numpy()
        for name in types
    }


def distort(images: Tensor, name: str, severity: int, index: Tensor) -> Tensor:
    """The images as `name` of `LEVELS` makes them at severity 1 to 3, unmodified at 0."""
    if severity == 0:
        return images
    key = hash64(zlib.crc32(name.encode()), severity, index)
    return DISTORTIONS[name](images, LEVELS[name][severity - 1], key)


def occlusion(images: Tensor, share: float, key: Tensor) -> Tensor:
    """A grey patch of that share of either side, anywhere in the image."""
    height, width = images.shape[-2:]
    tall, wide = round(share * height), round(share * width)
    top = (uniform(key, 0) * (height - tall + 1)).floor().view(-1, 1, 1, 1)
    left = (uniform(key, 1) * (width - wide + 1)).floor().view(-1, 1, 1, 1)
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    hidden = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return images.masked_fill(hidden, GREY)


def noise(images: Tensor, deviation: float, key: Tensor) -> Tensor:
    """Gaussian, independent for every pixel and channel."""
    place = torch.arange(images[0].numel()).view(images.shape[1:])
    draws = uniform(key.view(-1, 1, 1, 1), place).double() + 2**-25  # amid their steps: never 0
    return _to_bytes(images + 255 * deviation * torch.special.ndtri(draws))


def blur(images: Tensor, deviation: float, key: Tensor) -> Tensor:
    """Gaussian; the deviation is in pixels of an image whose shorter side has 32."""
    sigma = deviation * min(images.shape[-2:]) / 32
    blurred: Tensor = F.gaussian_blur(images, 2 * math.ceil(3 * sigma) + 1, sigma)
    return blurred


def brightness(images: Tensor, stops: float, key: Tensor) -> Tensor:
    """Half of the images that many stops brighter, the others darker."""
    factor = 2.0**stops  # never an int, with which torchvision's bytes wrap around
    brighter, darker = (F.adjust_brightness(images, by) for by in (factor, 1 / factor))
    return _choose_half(key, brighter, darker)


def jpeg(images: Tensor, quality: float, key: Tensor) -> Tensor:
    """As Pillow compresses: torchvision's own encoder is deprecated."""
    compressed = torch.empty_like(images)
    for image, target in zip(images, compressed, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=int(quality))
        target[:] = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    return compressed


def rotation(images: Tensor, degrees: float, key: Tensor) -> Tensor:
    """Turned to the left or the right; the corners mirror the image."""
    height, width = images.shape[-2:]
    wider = F.pad(images, [width // 2, height // 2], padding_mode="reflect")
    left, right = (
        F.center_crop(F.rotate(wider, angle, InterpolationMode.BILINEAR), [height, width])
        for angle in (degrees, -degrees)
    )
    return _choose_half(key, left, right)


def _inset(images: Tensor, scale: float, ground: Tensor) -> Tensor:
    """The images at `scale` of their size, in the middle of a ground of their old size."""
    height, width = images.shape[-2:]
    tall, wide = max(1, round(scale * height)), max(1, round(scale * width))
    top, left = (height - tall) // 2, (width - wide) // 2
    # As floats: on bytes, torchvision's arithmetic differs between processors.
    small = F.resize_image(images.float(), [tall, wide], InterpolationMode.BILINEAR, antialias=True)
    scene = ground.clone()
    scene[..., top : top + tall, left : left + wide] = _to_bytes(small)
    return scene


def _draw_clutter(like: Tensor, num_pieces: int, key: Tensor) -> Tensor:
    """A ground of ellipses and rectangles, one over the other, in any colour."""
    height, width = like.shape[-2:]
    down = ((torch.arange(height) + 0.5) / height).view(-1, 1)
    right = (torch.arange(width) + 0.5) / width
    ground = torch.empty_like(like)
    for piece in range(num_pieces + 1):
        draws = uniform(key.view(-1, 1), piece, torch.arange(8))
        top, left, tall, wide, square = draws[:, :5].T.reshape(5, -1, 1, 1)
        rows = (down - top) / (PIECE[0] + (PIECE[1] - PIECE[0]) * tall)
        columns = (right - left) / (PIECE[0] + (PIECE[1] - PIECE[0]) * wide)
        ellipse = rows.square() + columns.square() < 1
        rectangle = (rows.abs() < 1) & (columns.abs() < 1)
        covered = torch.where(square < 0.5, rectangle, ellipse) | (piece == 0)  # 0: all of it
        colour = (256 * draws[:, 5:]).to(torch.uint8).view(-1, 3, 1, 1)
        ground = torch.where(covered[:, None], colour, ground)
    return ground


def _choose_half(key: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where((uniform(key, 0) < 0.5).view(-1, 1, 1, 1), one, other)


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


DISTORTIONS: dict[str, Callable[[Tensor, float, Tensor], Tensor]] = {
    "small_object_plain": lambda x, scale, _: _inset(x, scale, torch.full_like(x, GREY)),
    "small_object_blurred": lambda x, scale, key: _inset(x, scale, blur(x, GROUND_BLUR, key)),
    "complex_scene": lambda x, num, key: _inset(x, AMID_CLUTTER, _draw_clutter(x, int(num), key)),
    "occlusion": occlusion,
    "noise": noise,
    "blur": blur,
    "low_contrast": lambda images, factor, _: F.adjust_contrast(images, factor),
    "brightness": brightness,
    "jpeg": jpeg,
    "rotation": rotation,
}
