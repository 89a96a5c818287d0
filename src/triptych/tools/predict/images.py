"""Decode image files to tensors in threads, a batch ahead of their use.

Shapes: H, W pixels of an image; S pixels a side of a network's input.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from triptych.build import instantiate
from triptych.data.decoder import read_image
from triptych.data.photos import Unreadable, square
from triptych.tools.evaluate.rebuild import RebuiltRun

ReadImage = Callable[..., Image.Image]
STRIPE = 256  # rows of a large image that are converted to float at a time, to stay in the cache
SUPPORT = {"bilinear": 1, "bicubic": 2}  # of the filters, in pixels of the coarser grid
LEAST_SIDE = 240  # a JPEG is not reduced below twice that, so that it can be looked at


class View(NamedTuple):
    """How a network sees an image: S, the interpolation, and how training stored its images."""

    input_size: int
    interpolation: str
    stored: tuple[int, str] | None  # pixels a side and the fit, as squares
    max_value: float | None = None  # white in images of more than 8 bits, where that is set

    @classmethod
    def from_run(cls, run: RebuiltRun) -> "View":
        """Raises UserError where the run's data source refuses its settings."""
        source = instantiate("data.source", run.config["data"]["source"])
        form = getattr(source, "square", None)  # of sources that store squares of images
        stored = (form.side, form.fit) if form else None
        preprocessing = run.backbone.preprocessing
        max_value = form.max_value if form else None
        return cls(preprocessing.input_size, preprocessing.interpolation, stored, max_value)

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, S, S) in [0, 255]: uint8 of the stored size, or float of the network's.

        `DeviceTransforms.evaluation` makes the same of it as of the whole image.
        """
        if self.stored:
            return torch.from_numpy(square(image, *self.stored))
        size, interpolation = self.input_size, self.interpolation
        pixels = torch.from_numpy(np.array(image))
        if interpolation not in SUPPORT:  # nearest, which has no filter
            mode = v2.InterpolationMode(interpolation)
            taken: Tensor = v2.functional.resize_image(pixels.permute(2, 0, 1), [size] * 2, mode)
            return taken.float()
        rows = resample(pixels.flatten(1), size, interpolation).view(size, image.width, 3)
        columns = resample(rows.transpose(0, 1).flatten(1), size, interpolation)
        return columns.view(size, size, 3).permute(2, 1, 0).contiguous()


def resample(rows: Tensor, size: int, interpolation: str) -> Tensor:
    """Of rows (L, D), or to more of them, float (S, D): `F.interpolate` with antialias along L.

    As sums of whole rows, which the processor adds many numbers at a time: three times as fast.
    """
    places, weights = filter_weights(len(rows), size, interpolation)
    num_parts = -(-len(rows) // STRIPE)
    parts = zip(places.chunk(num_parts), weights.chunk(num_parts), strict=True)
    return torch.cat([sum_rows(rows, *part) for part in parts])


def sum_rows(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    first, last = int(places.min()), int(places.max())
    stripe = rows[first : last + 1].float()
    return F.embedding_bag(places - first, stripe, mode="sum", per_sample_weights=weights)


def filter_weights(length: int, size: int, interpolation: str) -> tuple[Tensor, Tensor]:
    """For each of S pixels those of L it is made of, and how much of each: (S, K), float32.

    In the arithmetic of torch's antialiased kernels, whose rounding a double would not share.
    """
    scale = torch.tensor(length) / size
    stretch = scale.clamp(min=1)
    support = stretch * SUPPORT[interpolation]
    centers = scale * (torch.arange(size) + 0.5)
    first = (centers - support + 0.5).floor().clamp(min=0)
    places = first[:, None] + torch.arange(int(2 * support) + 2)
    distance = (places - centers[:, None] + 0.5).abs() / stretch
    weights = (1 - distance).clamp(min=0) if interpolation == "bilinear" else cubic(distance)
    weights = weights * (places < length)
    return places.clamp(max=length - 1).long(), weights / weights.sum(1, keepdim=True)


def cubic(distance: Tensor) -> Tensor:
    """Keys' kernel (1981) at distances of 0 and more, with Pillow's and torch's sharpness."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def read_views(
    source: Path | bytes, views: Iterable[View], read: ReadImage = read_image, **options: Any
) -> dict[View, Image.Image]:
    """The image for each view, a JPEG reduced as in training, or as such runs' whose training had
    no photos; `options` are those of `read_image`.

    `read` stands in for it. Raises Unreadable.
    """
    kinds = {
        view: (
            view.stored[0] if view.stored else max(view.input_size, LEAST_SIDE),
            view.max_value,
        )
        for view in views
    }
    images = {
        (side, white): read(source, side=side, max_value=white, **options)
        for side, white in {*kinds.values()}
    }
    return {view: images[kind] for view, kind in kinds.items()}


class DecodedImage(NamedTuple):
    """A file's pixels, one tensor a view, or the error that left it without."""

    path: str
    pixels: tuple[Tensor, ...] = ()
    error: str | None = None


def decode_image(path: str, views: Sequence[View], max_pixels: int) -> DecodedImage:
    try:
        images = read_views(Path(path), views, max_pixels=max_pixels)
        return DecodedImage(path, tuple(view(images[view]) for view in views))
    except (Unreadable, MemoryError) as error:
        return DecodedImage(path, error=str(error) or type(error).__name__)


def decode_batches(
    decode: Callable[[str], DecodedImage], paths: Iterable[str], batch_size: int, num_threads: int
) -> Iterator[list[DecodedImage]]:
    """Batches in the order of the paths; while one is in use, the next is decoded."""
    remaining = iter(paths)
    # Freed images are kept for the next: their memory anew is up to a third of decoding.
    Image.core.set_blocks_max(2 * num_threads)  # type: ignore[attr-defined]
    # One torch thread in each, as in torch's own data workers.
    with ThreadPoolExecutor(num_threads, "decoder", lambda: torch.set_num_threads(1)) as pool:
        ahead = pool.map(decode, [*islice(remaining, batch_size)])
        while batch := [*ahead]:
            ahead = pool.map(decode, [*islice(remaining, batch_size)])
            yield batch
