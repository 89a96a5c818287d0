"""Test images made harder on the CPU, at the size they are stored in, and a network tried on them.

Every draw is keyed by (type, severity, place in the official set): whatever the batch, whatever
network or device is tried, image `i` gets the same pixels. Another kind of processor may round a
few to the neighbouring value.

Shapes: N images of H x W pixels, M of them shown, B of a batch, C classes; a distortion takes uint8
(N, 3, H, W), its level and a key (N,).
"""

import io
import logging
import math
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from triptych.callbacks.progress import SILENCE_SECONDS
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
MAX_THREADS = 16
PART_BYTES = 2**20  # of images that a thread makes at a time: it needs 30 times as much memory
MAX_BYTES_KEPT = 2**30  # the variants of 10,000 images of CIFAR-10

Variant = tuple[str, int]  # type and severity
Batch = tuple[Variant, Tensor, Tensor]  # rows (B,) and images (B, 3, H, W)

log = logging.getLogger(__name__)


class HarderImages:
    """The test images of a set in every variant, made in threads ahead of their use.

    `images` are uint8 (N, 3, H, W) on the CPU; `index` (M,) are the places, in the official set, of
    those that are shown. What was made is kept, up to `max_bytes`, for the next network.
    """

    def __init__(self, images: Tensor, index: Tensor, max_bytes: int = 0) -> None:
        self.images, self.index, self.max_bytes = images, index, max_bytes
        self.bytes_each = images[0].numel()
        self.kept: dict[Variant, tuple[Tensor, Tensor]] = {}  # images (M, ...), which exist (M,)

    @property
    def bytes_kept(self) -> int:
        return len(self.kept) * len(self.index) * self.bytes_each

    def make(self, variant: Variant, rows: Tensor) -> Tensor:
        """Those at `rows` (B,) of the index, uint8 (B, 3, H, W)."""
        index = self.index[rows]
        if variant not in self.kept:
            return distort(self.images[index], *variant, index)
        images, exists = self.kept[variant]
        if not exists[rows].all():
            images[rows], exists[rows] = distort(self.images[index], *variant, index), True
        return images[rows]

    def iterate(self, variants: Sequence[Variant], batch_size: int) -> Iterator[Batch]:
        """Every variant in turn, a batch at a time: its rows (B,) and images (B, 3, H, W)."""
        ahead: deque[tuple[Variant, Tensor, list[Future[Tensor]]]] = deque()
        num_threads = min(os.cpu_count() or 1, MAX_THREADS)
        part_size = max(1, PART_BYTES // self.bytes_each)
        # One torch thread in each, as in torch's own data workers.
        with ThreadPoolExecutor(num_threads, "images", torch.set_num_threads, (1,)) as pool:
            for variant in variants:
                self.make_room(variant)
                for rows in torch.split(torch.arange(len(self.index)), batch_size):
                    pieces = torch.split(rows, part_size)
                    parts = [pool.submit(self.make, variant, piece) for piece in pieces]
                    ahead.append((variant, rows, parts))
                    while len(ahead) > 1 and sum(len(p) for *_, p in ahead) > 2 * num_threads:
                        yield await_parts(*ahead.popleft())
            while ahead:
                yield await_parts(*ahead.popleft())

    def make_room(self, variant: Variant) -> None:
        """Keep what will be made of the variant, where that fits."""
        num_bytes = len(self.index) * self.bytes_each
        is_made = variant[1] > 0 and variant not in self.kept
        if not is_made or self.bytes_kept + num_bytes > self.max_bytes:
            return
        exists = torch.zeros(len(self.index), dtype=torch.bool)
        images = torch.empty(len(self.index), *self.images.shape[1:], dtype=torch.uint8)
        self.kept[variant] = images, exists


def await_parts(variant: Variant, rows: Tensor, parts: list[Future[Tensor]]) -> Batch:
    return variant, rows, torch.cat([part.result() for part in parts])


def track_variants(batches: Iterable[Batch], num_batches: int) -> Iterator[Batch]:
    """The batches, with a bar on a terminal, elsewhere with a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(batches, "Image types", total=num_batches, console=console)
        return
    last = time.monotonic()
    for number, batch in enumerate(batches):
        if time.monotonic() - last >= SILENCE_SECONDS:
            last = time.monotonic()
            progress = (number + 1, num_batches, *batch[0])
            log.info("image types: batch %d of %d, %s at severity %d", *progress)
        yield batch


class SharedImages:
    """The harder images of all runs of a command: those with the same test images share them.

    Of so many sets that they exceed `max_bytes` only the last is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.sets: dict[tuple[str, bytes], HarderImages] = {}

    def find(self, test_hash: str, images: Tensor, index: Tensor) -> HarderImages:
        """Those of the images at `index` of a test set with that hash."""
        key = test_hash, index.numpy().tobytes()
        if key not in self.sets:
            if sum(each.bytes_kept for each in self.sets.values()) > self.max_bytes / 2:
                self.sets.clear()
            kept = sum(each.bytes_kept for each in self.sets.values())
            self.sets[key] = HarderImages(images, index, self.max_bytes - kept)
        return self.sets[key]


def choose_images(labels: Tensor, num_images: int | None) -> Tensor:
    """Of more than `num_images` so many rows, in the classes' proportions; ascending.

    The same for the same labels.
    """
    num = min(num_images or len(labels), len(labels))
    [chosen] = split_stratified(labels, [num], CHOICE_SEED)
    return chosen


def score_image_types(
    predict: Callable[[Tensor], Tensor],
    harder: HarderImages,
    labels: Tensor,
    types: Sequence[str],
    batch_size: int,
) -> Outcomes:
    """Which images, with `labels` (M,), a network gets right, as they are and in every variant.

    `predict` takes uint8 (B, 3, H, W) on the CPU to logits (B, C) on any device.
    """
    variants = [(UNMODIFIED, 0), *((name, severity) for name in types for severity in SEVERITIES)]
    correct = torch.empty(len(variants), len(labels), dtype=torch.bool)
    row_of = {variant: row for row, variant in enumerate(variants)}
    num_batches = len(variants) * math.ceil(len(labels) / batch_size)
    batches = harder.iterate(variants, batch_size)
    for variant, rows, images in track_variants(batches, num_batches):
        correct[row_of[variant], rows] = predict(images).argmax(dim=1).cpu() == labels[rows]
    names, severities = zip(*variants, strict=True)
    index = harder.index.numpy()
    return Outcomes(np.array(names), np.array(severities), index, correct.numpy())


def make_examples(
    harder: HarderImages, labels: Tensor, types: Sequence[str]
) -> dict[str, NDArray[np.uint8]]:
    """The first image of each of the first K classes in every type, uint8 (4, K, 3, H, W).

    Unmodified first, then by severity; arguments as of `score_image_types`.
    """
    classes = sorted(set(labels.tolist()))[:NUM_EXAMPLES]
    first = torch.stack([torch.nonzero(labels == c)[0, 0] for c in classes])
    return {
        name: torch.stack([harder.make((name, s), first) for s in (0, *SEVERITIES)]).numpy()
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
    # Two products instead of a convolution in two dimensions: of 256 pixels in 1 % of its time.
    # In doubles, so that no rounding depends on the number of images.
    rows, columns = (_gaussian_matrix(side, sigma) for side in images.shape[-2:])
    return _to_bytes(rows @ images.double() @ columns.T)


def _gaussian_matrix(side: int, sigma: float) -> Tensor:
    """Weights (side, side) that blur one dimension; cut off at three deviations, edges mirrored."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma).double().square())
    sources = (torch.arange(side).view(-1, 1) + offsets).abs()
    sources = side - 1 - (side - 1 - sources).abs()
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(
        1, sources, (weights / weights.sum()).expand(side, -1)
    )


def brightness(images: Tensor, stops: float, key: Tensor) -> Tensor:
    """Half of the images that many stops brighter, the others darker."""
    factor = 2.0**stops  # never an int, with which torchvision's bytes wrap around
    return _change_halves(F.adjust_brightness, images, factor, 1 / factor, key)


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
    turn = partial(F.rotate, interpolation=InterpolationMode.BILINEAR)
    turned = _change_halves(turn, wider, degrees, -degrees, key)
    middle: Tensor = F.center_crop(turned, [height, width])
    return middle


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


def _change_halves(
    change: Callable[[Tensor, float], Tensor], images: Tensor, one: float, other: float, key: Tensor
) -> Tensor:
    """Half of the images changed by `one`, the others by `other`."""
    changed, is_one = torch.empty_like(images), uniform(key, 0) < 0.5
    for half, value in ((is_one, one), (~is_one, other)):
        if half.any():
            changed[half] = change(images[half], value)
    return changed


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
