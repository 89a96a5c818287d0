"""From stored pixels to probabilities in one program, against Pillow and the pipeline."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from triptych.data.photos import FITS, square
from triptych.data.transforms import DeviceTransforms
from triptych.models.backbone import Backbone, Preprocessing
from triptych.tools.export.program import Portable, fit_square
from triptych.tools.export.writers import WRITERS, Export

SIZE = 12
SHAPES = [(61, 83), (480, 640), (19, 23), (1, 300), (64, 64), (24, 47), (100, 37), (300, 1)]


def backbone(interpolation: str) -> Backbone:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 7))
    preprocessing = Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation)
    return Backbone(layers, num_classes=5, preprocessing=preprocessing)


BACKBONES = {each: backbone(each) for each in ("bilinear", "bicubic")}


@settings(max_examples=25, deadline=None)
@given(
    interpolation=st.sampled_from(sorted(BACKBONES)),
    num=st.integers(1, 3),
    height=st.one_of(st.just(SIZE), st.integers(1, 90)),
    width=st.one_of(st.just(SIZE), st.integers(1, 90)),
)
def test_the_module_does_exactly_what_the_pipeline_does(
    interpolation: str, num: int, height: int, width: int
) -> None:
    network = BACKBONES[interpolation]
    generator = torch.Generator().manual_seed(num + 10 * height + 1000 * width)
    size = (num, 3, height, width)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    pipeline = DeviceTransforms(network.preprocessing)
    with torch.no_grad():
        expected = network(pipeline.evaluation(images)).softmax(dim=1)
        torch.testing.assert_close(Portable(network)(images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("side", [16, 64])
def test_squares_are_those_of_pillow_but_for_ties(side: int, fit: str) -> None:
    for height, width in SHAPES:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        fitted = fit_square(torch.from_numpy(pixels).permute(2, 0, 1)[None], side, fit)[0]
        gaps = np.abs(fitted.numpy() - square(Image.fromarray(pixels), side, fit))
        assert gaps.max() <= 1
        assert gaps.mean() < 0.005


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process() -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    export = SimpleNamespace(program=program, metadata={})
    with pytest.raises(OSError, match="No space left"):
        WRITERS["torch"](cast(Export, export), Path("/dev/full"))
