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
from torchvision.transforms import v2

from triptych.build import instantiate
from triptych.data.decoder import read_image
from triptych.data.photos import Unreadable, square
from triptych.tools.evaluate.rebuild import RebuiltRun

ReadImage = Callable[..., Image.Image]
STRIPE = 256  # rows of a large image that are converted to float at a time, to stay in the cache


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
        mode = v2.InterpolationMode(self.interpolation)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if image.height > 2 * STRIPE:  # the resize is separable, and torch shrinks rows first
            stripes = torch.split(pixels, STRIPE, 1)
            pixels = torch.cat([resize(s, s.shape[1], self.input_size, mode) for s in stripes], 1)
        return resize(pixels.contiguous(), self.input_size, self.input_size, mode)


def resize(pixels: Tensor, height: int, width: int, mode: v2.InterpolationMode) -> Tensor:
    image: Tensor = v2.functional.resize_image(
        pixels.float(), [height, width], mode, antialias=True
    )
    return image


def read_views(
    source: Path | bytes, views: Iterable[View], read: ReadImage = read_image, **options: Any
) -> dict[View, Image.Image]:
    """The image for each view, a JPEG reduced as in training; `options` are those of `read_image`.

    `read` stands in for it. Raises Unreadable.
    """
    kinds = {view: (view.stored and view.stored[0], view.max_value) for view in views}
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
    # One torch thread in each, as in torch's own data workers.
    with ThreadPoolExecutor(num_threads, "decoder", lambda: torch.set_num_threads(1)) as pool:
        ahead = pool.map(decode, [*islice(remaining, batch_size)])
        while batch := [*ahead]:
            ahead = pool.map(decode, [*islice(remaining, batch_size)])
            yield batch
