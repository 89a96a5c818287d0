"""Image files to tensors, several at a time, in order, and no more of them than will be used soon.

Shapes: H, W pixels of a photo; S pixels a side of what a network is given.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from triptych.build import instantiate
from triptych.data.folder import Folder
from triptych.data.photos import Unreadable, read_image, square
from triptych.tools.evaluate.rebuild import RebuiltRun

STRIPE = 256  # rows of a large photo that are floats at a time: all of them fit no cache
THUMBNAIL = 192  # pixels of a thumbnail's longer side

Item = TypeVar("Item")
Result = TypeVar("Result")


class View(NamedTuple):
    """How a network sees a photo: S, how it is resized, and how it was stored in training."""

    input_size: int
    interpolation: str
    stored: tuple[int, str] | None  # pixels a side and the fit, of `data=folder`

    @classmethod
    def of(cls, run: RebuiltRun) -> "View":
        """Raises UserError where the source of its images does not take its settings."""
        source = instantiate("data.source", run.config["data"]["source"])
        stored = (source.square.side, source.square.fit) if isinstance(source, Folder) else None
        return cls(
            run.backbone.preprocessing.input_size, run.backbone.preprocessing.interpolation, stored
        )

    @property
    def side(self) -> int | None:
        """What a decoder is told of the size that is wanted, as in training."""
        return self.stored and self.stored[0]

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, S, S) in [0, 255], uint8 of the stored size or float of the network's.

        What `Pipeline.evaluation` makes of it is what it would make of the whole photo.
        """
        if self.stored:
            return torch.from_numpy(square(image, *self.stored))
        mode = v2.InterpolationMode(self.interpolation)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if image.height > 2 * STRIPE:  # the resize is separable, and torch takes the rows first
            stripes = torch.split(pixels, STRIPE, 1)
            pixels = torch.cat([resized(s, s.shape[1], self.input_size, mode) for s in stripes], 1)
        return resized(pixels.contiguous(), self.input_size, self.input_size, mode)


def resized(pixels: Tensor, height: int, width: int, mode: v2.InterpolationMode) -> Tensor:
    image: Tensor = v2.functional.resize_image(
        pixels.float(), [height, width], mode, antialias=True
    )
    return image


class Photo(NamedTuple):
    """A file as decoded: `seen` by every view, or why it could not be."""

    path: str
    seen: tuple[Tensor, ...] = ()
    thumbnail: Image.Image | None = None  # of the first files
    error: str | None = None


@dataclass(frozen=True)
class Decoder:
    views: Sequence[View]
    max_pixels: int
    num_thumbnails: int

    def __call__(self, numbered: tuple[int, str]) -> Photo:
        place, path = numbered
        try:
            images = {side: self._read(path, side) for side in {v.side for v in self.views}}
            seen = tuple(view(images[view.side]) for view in self.views)
        except (Unreadable, MemoryError) as error:
            return Photo(path, error=str(error) or type(error).__name__)
        if place >= self.num_thumbnails:
            return Photo(path, seen)
        thumbnail = images[self.views[0].side]
        thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
        return Photo(path, seen, thumbnail)

    def _read(self, path: str, side: int | None) -> Image.Image:
        return read_image(Path(path), max_pixels=self.max_pixels, side=side)


def in_order(
    call: Callable[[Item], Result], items: Iterable[Item], num_threads: int, num_ahead: int
) -> Generator[Result]:
    """`map`, in threads, that begins no item more than `num_ahead` before it is asked for."""
    # As torch's own loaders do; this setting is a thread's own.
    pool = ThreadPoolExecutor(num_threads, "decoder", lambda: torch.set_num_threads(1))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) > num_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
