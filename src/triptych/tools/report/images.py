"""Pictures of test images, small enough for a page that holds hundreds of them."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.tools.compare import formats
from triptych.tools.compare.pictures import Picture

MAX_BYTES = 500_000  # of all pictures of a page, as they stand in it
MAX_SIDE = 96  # pixels


def encode_pictures(pictures: Iterable[Picture]) -> list[tuple[Picture, str]]:
    """The first that fit together into `MAX_BYTES`, each with its data: URL."""
    encoded, size = [], 0
    for picture in pictures:
        url = encode_picture(picture.pixels)
        size += len(url)
        if size > MAX_BYTES:
            break
        encoded.append((picture, url))
    return encoded


def encode_picture(pixels: NDArray[np.uint8]) -> str:
    """An image (3, H, W), a large one made smaller."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return encode(image, "webp", quality=85, method=4)


def encode(image: Image.Image, kind: str = "png", **options: Any) -> str:
    """A data: URL."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return formats.data_uri(buffer.getvalue(), kind)
