"""Squares made in a file, against those that Pillow makes of a photo."""

import numpy as np
import pytest
import torch
from PIL import Image

from triptych.data.photos import FITS, square
from triptych.tools.export.fitted import fitted

SHAPES = [
    *((61, 83), (480, 640), (19, 23), (1, 300), (64, 64), (24, 24), (33, 64), (24, 47), (40, 39)),
    *((100, 37), (300, 1), (640, 360), (200, 50), (64, 33)),
]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("side", [16, 24, 64])
def test_the_squares_are_those_of_pillow_but_for_ties(side: int, fit: str) -> None:
    for height, width in SHAPES:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        found = fitted(torch.from_numpy(pixels).permute(2, 0, 1)[None], side, fit)[0]
        off = np.abs(found.numpy() - square(Image.fromarray(pixels), side, fit))
        assert off.max() <= 1
        assert off.mean() < 0.005
