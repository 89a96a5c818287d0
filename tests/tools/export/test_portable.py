"""The way from stored pixels to probabilities, in one module, against the pipeline's."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from triptych.data.transforms import DeviceTransforms
from triptych.models.backbone import Backbone, Preprocessing
from triptych.tools.export.portable import Portable

SIZE = 12


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
