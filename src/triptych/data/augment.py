"""Augmentations: `standard` and others a batch at a time on the device, or any of torchvision's.

An operation does to each image what that of `torchvision.transforms.v2.functional` does, within one
of 256 levels, whatever else is in the batch; of two pixels just as near, either is taken. All draws
are keyed by (seed, epoch, image): a resumed run, or one on more devices or with more workers, sees
the same images.

Shapes: B images of a batch, of which an operation takes b; H, W stored pixels; R operations, one
after the other.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from triptych.data.rng import hash64, uniform
from triptych.data.transforms import Augment
from triptych.errors import UserError, summarize_error

if TYPE_CHECKING:
    from triptych.data.datamodule import Batch, KeyedBatchSampler

PAD = 4  # pixels around an image for each 32 of its height: He et al. (2016) on CIFAR-10
ERASED_SHARE = 0.5  # of the images
ERASED_AREA = (0.02, 0.33)  # of the image; this and the aspect as in Zhong et al. (2017)
ERASED_ASPECT = (0.3, 3.3)
COLUMN = 1000  # the first key of draws here: `standard` has 0 to 7, mixing 8 to 10
BINS = 31  # magnitudes of an operation, as torchvision's
TRIES = 10  # to draw a box that lies within the image, as torchvision's

# Images uint8 (b, 3, H, W) and how strongly, float (b, 1, 1, 1), to images of the same kind.
Operation = Callable[[Tensor, Tensor], Tensor]
Range = tuple[float, float]


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
    wide, tall = draw_sides(area, aspect, ERASED_AREA, ERASED_ASPECT, images)
    tall, wide = tall.clamp(1, height), wide.clamp(1, width)
    top, left = (down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor()
    rows = torch.arange(height, device=images.device)[None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, :]
    top, tall, left, wide, chosen = (x.view(-1, 1, 1) for x in (top, tall, left, wide, chosen))
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return images.masked_fill((inside & chosen)[:, None], 0)


def draw_sides(
    area: Tensor, aspect: Tensor, areas: Range, aspects: Range, images: Tensor
) -> tuple[Tensor, Tensor]:
    """The sides of boxes, by draws in [0, 1): of a share of the images' area from `areas`, the
    second `aspects` times as long as the first."""
    least, most = areas
    area = (least + (most - least) * area) * images.shape[-2] * images.shape[-1]
    least, most = map(math.log, aspects)
    aspect = (least + (most - least) * aspect).exp()
    return (area / aspect).sqrt().round(), (area * aspect).sqrt().round()


def sample(images: Tensor, x: Tensor, y: Tensor, mode: str) -> Tensor:
    """The images at places (b, H, W), in pixels from their middle; black beyond the edges."""
    height, width = images.shape[-2:]
    shape = (len(images), height, width)
    grid = [(x / (0.5 * width)).expand(shape), (y / (0.5 * height)).expand(shape)]
    made = F.grid_sample(images.float(), torch.stack(grid, -1), mode, align_corners=False)
    return made.round_().byte()


def warp(images: Tensor, amount: Tensor, name: str) -> Tensor:
    """Sheared from the upper left corner, moved by whole pixels, or turned about the middle."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    amount = amount[:, 0]
    match name:
        case "ShearX":
            x = x + amount * (y + height / 2)
        case "ShearY":
            y = y + amount * (x + width / 2)
        case "TranslateX":
            x = x - amount.trunc()
        case "TranslateY":
            y = y - amount.trunc()
        case "Rotate":
            cos, sin = amount.deg2rad().cos(), amount.deg2rad().sin()
            x, y = x * cos - y * sin, x * sin + y * cos
    return sample(images, x, y, "nearest")


def blend(images: Tensor, other: Tensor | float, amount: Tensor) -> Tensor:
    """`other` at an amount of -1, the images at 0, and as far beyond them at 1."""
    factor = 1 + amount
    return (images * factor + other * (1 - factor)).clamp_(0, 255).byte()


def to_grey(images: Tensor) -> Tensor:
    """Whole levels, float (b, 1, H, W)."""
    grey: Tensor = v2.functional.rgb_to_grayscale_image(images.float())
    return grey.floor_()


def change_contrast(images: Tensor, amount: Tensor) -> Tensor:
    total = to_grey(images).long().sum((1, 2, 3), keepdim=True)  # exact, in any order
    return blend(images, total / (images.shape[-2] * images.shape[-1]), amount)


def change_sharpness(images: Tensor, amount: Tensor) -> Tensor:
    """Against a mean of five times each pixel and its eight neighbours; the edges stay."""
    pixels = images.float()
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * pixels[..., 1:-1, 1:-1]
    pixels[..., 1:-1, 1:-1] = (total / 13).round_()
    return blend(images, pixels, amount)


def change_hue(images: Tensor, amount: Tensor) -> Tensor:
    """By a share of the circle of colours."""
    red, green, blue = images.float().unbind(1)
    most = images.amax(1).float()
    span = most - images.amin(1)
    divisor = span.clamp(min=1)  # of whole levels; where it is 0 there is no hue
    sixth = torch.where(most == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixth = torch.where(most == red, (green - blue) / divisor, sixth) + 6 * amount[:, 0]
    places = torch.stack([(sixth + start) % 6 for start in (5, 3, 1)], 1)
    shares = torch.minimum(places, 4 - places).clamp_(0, 1)
    return ((most[:, None] - span[:, None] * shares) * (255.999 / 255)).byte()


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    step = 2 ** (8 - bits.round())
    return (images / step).floor_().mul_(step).byte()


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda images, _: images,
    **{
        name: partial(warp, name=name)
        for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
    },
    "Brightness": lambda images, amount: blend(images, 0, amount),
    "Color": lambda images, amount: blend(images, to_grey(images), amount),
    "Contrast": change_contrast,
    "Sharpness": change_sharpness,
    "Posterize": posterize,
    "Solarize": lambda images, share: torch.where(images >= 255 * share, 255 - images, images),
    "AutoContrast": lambda images, _: v2.functional.autocontrast_image(images),
    "Equalize": lambda images, _: v2.functional.equalize_image(images),
    "Hue": change_hue,
}
SPACE = [*OPERATIONS][:14]  # of RandAugment and TrivialAugment
SIGNED = slice(1, 10)  # of these, both directions are drawn


def apply_operations(images: Tensor, names: list[str], chosen: Tensor, amounts: Tensor) -> Tensor:
    """Each image by its own operations in turn, those of a kind together.

    `chosen`, places in `names`, and `amounts` are (R, B), on the host.
    """
    images = images.clone()
    for places, strengths in zip(chosen, amounts, strict=True):
        for place in places.unique().tolist():
            rows = (places == place).nonzero()[:, 0]
            amount = strengths[rows].view(-1, 1, 1, 1).to(images.device, non_blocking=True)
            rows = rows.to(images.device, non_blocking=True)
            images.index_copy_(0, rows, OPERATIONS[names[place]](images[rows], amount))
    return images


def check_settings(augment: object, **ranges: tuple[float, float]) -> None:
    """Raise ValueError at a number out of its range, or not whole as that is, and at another
    setting that is neither true nor false; null is for the operations to refuse."""
    for name, value in vars(augment).items():
        least, most = ranges.get(name, (False, True))
        kinds = (int, float) if isinstance(most, float) else (type(most),)
        if value is not None and (type(value) not in kinds or not least <= value <= most):
            kind = {int: "a whole number", float: "a number"}.get(type(most), "true or false")
            bounds = "" if isinstance(most, bool) else f" from {least} to {most}"
            raise ValueError(f"{name}={value}: must be {kind}{bounds}")


@dataclass(kw_only=True)
class Augmentation:
    """Called with images uint8 (B, 3, H, W), seed, epoch and index (B,), gives images of that kind.

    With `standard`, the flip and crop of `augment=standard` come before and its erasing after.
    """

    standard: bool = True

    def __call__(self, images: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        if self.standard:
            return standard(images, seed, epoch, index, self.transform)
        return self.transform(images, seed, epoch, index)

    def transform(self, images: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(kw_only=True)
class RandAugment(Augmentation):
    """`num_ops` operations in turn, each drawn from fourteen, of a magnitude from 0 to 30: Cubuk et
    al. (2020).

    Without a magnitude each has one of its own; so one operation, in the `wide` ranges, is
    TrivialAugment of Müller & Hutter (2021). A GPU tells the host once a batch which images it has.
    """

    num_ops: int = 2
    magnitude: int | None = 9
    wide: bool = False

    def __post_init__(self) -> None:
        check_settings(self, num_ops=(1, 14), magnitude=(0, BINS - 1))

    def transform(self, images: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        columns = COLUMN + torch.arange(3 * self.num_ops).view(3, -1, 1)
        kind, size, sign = uniform(seed, epoch, index.cpu(), columns)  # each (R, B)
        chosen = (kind * len(SPACE)).long()
        bins = (size * BINS).long() if self.magnitude is None else self.magnitude
        amounts = self.list_amounts(*images.shape[-2:])[chosen, bins]
        is_signed = torch.zeros(len(SPACE), dtype=torch.bool)
        is_signed[SIGNED] = True
        amounts = torch.where(is_signed[chosen] & (sign < 0.5), -amounts, amounts)
        return apply_operations(images, SPACE, chosen, amounts)

    def list_amounts(self, height: int, width: int) -> Tensor:
        """Of each operation of `SPACE` at each magnitude, float (14, 31)."""
        shear, degrees, colour, bits = (0.99, 135, 0.99, 2) if self.wide else (0.3, 30, 0.9, 4)
        down, right = (32 if self.wide else 150 / 331 * side for side in (height, width))
        most = [0, shear, shear, right, down, degrees, *[colour] * 4]
        ranges = [*((0, m) for m in most), (8, bits), (1, 0), (0, 0), (0, 0)]
        return torch.stack([torch.linspace(*ends, BINS) for ends in ranges])


@dataclass(kw_only=True)
class ColorJitter(Augmentation):
    """Brightness, contrast and saturation times a factor from 1 - x to 1 + x, hue moved by up to
    `hue` of the circle either way, in an order of each image's own; 0 leaves one out."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __post_init__(self) -> None:
        factors = dict.fromkeys(("brightness", "contrast", "saturation"), (0, 1.0))
        check_settings(self, **factors, hue=(0, 0.5))

    def transform(self, images: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        values = self.brightness, self.contrast, self.saturation, self.hue
        names = ["Brightness", "Contrast", "Color", "Hue"]
        columns = COLUMN + torch.arange(8).view(2, -1, 1)
        order, size = uniform(seed, epoch, index.cpu(), columns)  # each (4, B)
        amounts = torch.tensor(values)[:, None] * (2 * size - 1)
        chosen = order.argsort(0)
        return apply_operations(images, names, chosen, amounts.gather(0, chosen))


@dataclass(kw_only=True)
class RandomResizedCrop:
    """A box with a share of the area, `scale`, and an aspect (width by height), `ratio`, blown up
    to the whole; half of the images are mirrored: Szegedy et al. (2015)."""

    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, most in (("scale", 1), ("ratio", 100)):
            pair = getattr(self, name)
            are_numbers = isinstance(pair, list | tuple) and {*map(type, pair)} <= {int, float}
            if not are_numbers or len(pair) != 2 or not 0.01 <= pair[0] <= pair[1] <= most:
                said = f"two numbers from 0.01 to {most}, the smaller first"
                raise ValueError(f"{name}={pair}: must be {said}")

    def __call__(self, images: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        columns = COLUMN + torch.arange(3 + 2 * TRIES, device=images.device)[:, None]
        mirror, down, right, *draws = uniform(seed, epoch, index, columns)
        tall, wide = self.draw_sizes(torch.stack(draws).view(2, TRIES, -1), images)
        return resize_boxes(flip(images, mirror < 0.5), down, right, tall, wide)

    def draw_sizes(self, draws: Tensor, images: Tensor) -> list[Tensor]:
        """Height and width (B,) of the first box that lies within an image, else of the last, cut
        to the image; from draws (2, tries, B) in [0, 1) of area and aspect."""
        sizes = draw_sides(draws[0], draws[1], self.scale, self.ratio, images)
        sides = images.shape[-2:]
        fits = (sizes[0] <= sides[0]) & (sizes[1] <= sides[1])
        tries = torch.arange(TRIES, device=images.device)[:, None]
        first = torch.where(fits, tries, TRIES - 1).amin(0, keepdim=True)
        return [x.gather(0, first)[0].clamp(1, side) for x, side in zip(sizes, sides, strict=True)]


def resize_boxes(images: Tensor, down: Tensor, right: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """A box of each image, of these sizes (B,), as large as the image; offsets (B,) in [0, 1)."""
    places = []
    for offset, size, side in zip((right, down), (wide, tall), (-1, -2), strict=True):
        whole = images.shape[side]
        start = (offset * (whole - size + 1)).floor()[:, None]
        pixels = torch.arange(whole, device=images.device) + 0.5
        inside = (pixels * size[:, None] / whole - 0.5).clamp_(min=0)
        places.append(start + torch.minimum(inside, size[:, None] - 1) - (whole - 1) / 2)
    return sample(images, places[0][:, None, :], places[1][:, :, None], "bilinear")


class PerImage:
    """A transform of torchvision's, applied to an image at a time with a generator of its own."""

    def __init__(self, transform: v2.Transform) -> None:
        self.transform = transform

    def __call__(self, images: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        made = []
        with torch.random.fork_rng(devices=[]):
            for image, key in zip(images, hash64(seed, epoch, index).tolist(), strict=True):
                torch.default_generator.manual_seed(key)
                made.append(self.transform(image))
        return torch.stack(made)

    def load_augmented(
        self, subset: Any, sampler: "KeyedBatchSampler", seed: int
    ) -> tuple[Any, Any]:
        """A data set and a sampler of it whose images are augmented where they are loaded."""
        return AugmentedSubset(subset, self, seed), EpochBatches(sampler)


@dataclass(eq=False)
class AugmentedSubset(Dataset["Batch"]):
    subset: Any
    augment: Augment
    seed: int

    def __len__(self) -> int:
        return len(self.subset)

    def __getitems__(self, place: tuple[int, Tensor]) -> "Batch":
        epoch, positions = place
        batch: Batch = self.subset.__getitems__(positions)
        return batch._replace(inputs=self.augment(batch.inputs, self.seed, epoch, batch.index))


@dataclass(eq=False)
class EpochBatches(Sampler[tuple[int, Tensor]]):
    """The epoch and the positions of each batch: workers know no epoch."""

    sampler: "KeyedBatchSampler"  # where Lightning looks for `set_epoch`

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        return ((self.sampler.epoch, positions) for positions in self.sampler)


def prepare_augment(augment: Any, images: Tensor) -> Augment:
    """What `data.augment` made, ready for an ImageDataModule.

    Raises UserError unless it makes of these images as many of the same kind.
    """
    name = type(augment).__name__
    ready: Augment = PerImage(augment) if isinstance(augment, v2.Transform) else augment
    try:
        with torch.random.fork_rng(devices=[]):
            made = ready(images.clone(), 0, 0, torch.arange(len(images)))
    except Exception as error:  # anybody's code
        raise UserError(f"data.augment: {name} fails ({summarize_error(error)})") from error
    is_tensor = isinstance(made, Tensor)
    if is_tensor and made.dtype == images.dtype and made.shape[:-2] == images.shape[:-2]:
        return ready
    found = f"{made.dtype} {tuple(made.shape)}" if is_tensor else type(made).__name__
    expected = f"{images.dtype} {tuple(images.shape)}"
    raise UserError(f"data.augment: {name} makes {found} of {expected}: the kind must stay")
