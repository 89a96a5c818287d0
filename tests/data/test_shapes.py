from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from triptych.data.shapes import OUTLINES, SIDE, Shapes
from triptych.data.source import ImageSet
from triptych.errors import UserError


def num_equal(some: Tensor, others: Tensor) -> int:
    return int((some == others).flatten(1).all(1).sum())


def colour_means(images: Tensor) -> Tensor:
    """The mean of each channel (N, 3)."""
    return images.float().mean((2, 3)) / 255


def brightness_histogram(images: Tensor) -> Tensor:
    """The share of pixels in each of 16 levels of grey (N, 16)."""
    grey = images.float().mean(1).flatten(1)
    return torch.stack([image.histc(16, 0, 255) for image in grey]) / SIDE**2


def edge_directions(images: Tensor) -> Tensor:
    """A coarse histogram of edges by direction (N, 18), whichever side is the lighter."""
    grey = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True) / 255, 3, 1)
    down, right = torch.gradient(grey[:, 0], dim=(1, 2))
    strength = torch.hypot(down, right).flatten(1)
    direction = (torch.atan2(down, right) % torch.pi / torch.pi * 18).long().clamp(0, 17).flatten(1)
    histogram = torch.zeros(len(images), 18).scatter_add_(1, direction, strength)
    return histogram / histogram.sum(1, keepdim=True) * 18


@pytest.fixture(scope="module")
def drawings() -> ImageSet:
    return Shapes(num_train=2000, num_test=1000, seed=0).read()


def test_drawings_are_colour_images_of_ten_balanced_classes(drawings: ImageSet) -> None:
    assert drawings.train.images.shape == (2000, 3, 32, 32)
    assert drawings.test.images.shape == (1000, 3, 32, 32)
    assert drawings.train.images.dtype == torch.uint8
    assert drawings.train.labels.dtype == torch.int64
    assert drawings.train.labels.bincount().tolist() == [200] * 10
    assert drawings.test.labels.bincount().tolist() == [100] * 10
    assert len(set(drawings.classes)) == 10
    both = torch.cat((drawings.train.images, drawings.test.images)).flatten(1)
    assert len(both.unique(dim=0)) == len(both), "no drawing occurs twice"


def test_an_image_depends_on_the_seed_and_not_on_how_many_are_drawn(drawings: ImageSet) -> None:
    before = torch.get_rng_state()
    same, other = (Shapes(num_train=37, num_test=13, seed=seed).read() for seed in (0, 1))
    assert torch.equal(same.train.images, drawings.train.images[:37])
    assert torch.equal(same.train.labels, drawings.train.labels[:37])
    assert torch.equal(same.test.images, drawings.test.images[:13])
    assert num_equal(other.train.images, same.train.images) == 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("num_train", "num_test", "key"), [(9, 10, "train"), (10, -1, "test"), (9 * 10**6, 10, "train")]
)
def test_too_few_drawings_for_the_classes_and_too_many_for_memory_are_refused(
    num_train: int, num_test: int, key: str
) -> None:
    with pytest.raises(UserError, match=rf"data\.source\.num_{key}.*(9|-1)"):
        Shapes(num_train, num_test, seed=0)


@pytest.mark.parametrize(
    ("feature", "classifier", "least", "most"),
    [
        (colour_means, LogisticRegression(max_iter=1000), 0, 0.14),
        (brightness_histogram, LogisticRegression(max_iter=1000), 0, 0.14),
        (lambda images: images.flatten(1).float(), NearestCentroid(), 0, 0.2),  # mean images
        (edge_directions, LinearDiscriminantAnalysis(), 0.4, 1),
    ],
)
def test_outlines_tell_the_class_and_colours_brightness_and_mean_images_almost_nothing(
    drawings: ImageSet,
    feature: Callable[[Tensor], Tensor],
    classifier: Any,
    least: float,
    most: float,
) -> None:
    """Chance is 10 %; 14 % is four standard errors above it (n = 1000)."""
    features, fresh = (feature(split.images).numpy() for split in drawings[:2])
    classifier.fit(features, drawings.train.labels)
    assert least < classifier.score(fresh, drawings.test.labels) < most


def test_ink_is_as_often_lighter_than_its_ground_as_darker(drawings: ImageSet) -> None:
    squares = drawings.train.images[drawings.train.labels == drawings.classes.index("square")]
    grey = squares.float().mean(1)
    corners = grey[:, [0, 0, -1, -1], [0, -1, 0, -1]].median(1).values
    lighter = (grey[:, 16, 16] > corners).float().mean()
    assert 0.4 < lighter < 0.6


@pytest.mark.parametrize(("name", "area"), [("disc", torch.pi), ("square", 1.8**2)])
def test_an_outline_encloses_the_area_of_its_figure(name: str, area: float) -> None:
    axis = (torch.arange(400) + 0.5) / 200 - 1
    y, x = torch.meshgrid(1.2 * axis, 1.2 * axis, indexing="ij")
    inside = OUTLINES[name](x, y, torch.zeros(())) < 0
    assert inside.float().mean().item() * 2.4**2 == pytest.approx(area, rel=0.01)
