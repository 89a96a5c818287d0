import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import binomtest
from torch import Tensor

from triptych.tools.evaluate.slices import colourfulness, edge_density, slices, thirds


@pytest.fixture(scope="module")
def images() -> Tensor:
    drawn = torch.randint(256, (20, 3, 10, 14), generator=torch.Generator().manual_seed(0))
    return drawn.to(torch.uint8)


def test_edge_density_is_the_mean_gradient_by_scipys_sobel(images: Tensor) -> None:
    for image, ours in zip(images.double().numpy(), edge_density(images), strict=True):
        grey = np.tensordot([0.2989, 0.587, 0.114], image, 1)
        across, down = (ndimage.sobel(grey, axis=axis, mode="nearest") / 8 for axis in (1, 0))
        assert ours.item() == pytest.approx(np.hypot(across, down).mean(), rel=1e-4)


def test_a_ramp_of_one_grey_level_a_pixel_has_an_edge_density_of_one() -> None:
    ramp = torch.arange(100, dtype=torch.uint8).expand(1, 3, 5, 100)
    assert edge_density(ramp[..., :]).item() == pytest.approx(1, abs=0.02)  # half at two borders


def test_colourfulness_is_hasler_and_suesstrunks(images: Tensor) -> None:
    for image, ours in zip(images.double().numpy(), colourfulness(images), strict=True):
        red, green, blue = image
        rg, yb = red - green, 0.5 * (red + green) - blue
        deviation = np.sqrt(np.var(rg) + np.var(yb))
        mean = np.sqrt(np.mean(rg) ** 2 + np.mean(yb) ** 2)
        assert ours.item() == pytest.approx(deviation + 0.3 * mean, rel=1e-4)


def test_a_grey_image_has_no_colour() -> None:
    assert colourfulness(torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)).tolist() == [0]


@given(st.lists(st.integers(0, 5), min_size=3, max_size=50))
def test_thirds_are_ordered_and_hold_every_image_once(values: list[int]) -> None:
    measured = torch.tensor(values)
    low, middle, high = thirds(measured)
    assert sorted([*low.tolist(), *middle.tolist(), *high.tolist()]) == list(range(len(values)))
    assert max(map(len, (low, middle, high))) - min(map(len, (low, middle, high))) <= 1
    assert measured[low].max() <= measured[middle].min()
    assert measured[middle].max() <= measured[high].min()


def greys(values: list[int]) -> Tensor:
    """Images whose edges are the stronger the higher the value."""
    images = torch.zeros(len(values), 3, 4, 4, dtype=torch.uint8)
    images[..., 2:] = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    return images


def test_classes_weigh_alike_in_the_standardised_accuracy() -> None:
    """The low third holds four images of class 0, two of them right, and one of class 1, right."""
    images = greys([1, 2, 3, 4, 5, *range(50, 60)])
    labels = np.array([0, 0, 1, 0, 0, *[2] * 10])
    correct = np.array([True, False, True, True, False, *[True] * 10])
    low, middle, high, *of_colour = slices(images, labels, correct, num_classes=4)
    assert [part.measure for part in of_colour] == ["colourfulness"] * 3
    assert [part.third for part in (low, middle, high)] == ["low", "middle", "high"]
    assert low[:2] == ("edge_density", "low")
    assert (low.num_images, low.accuracy, low.standardised) == (5, 3 / 5, (2 / 4 + 1 / 1) / 2)
    assert low.class_mix == (4, 1, 0, 0)
    assert (middle.accuracy, middle.standardised, middle.class_mix) == (1, 1, (0, 0, 5, 0))


def test_the_interval_is_wilsons_where_classes_are_even_and_wider_where_not() -> None:
    images = greys(list(range(1, 121)))
    even, odd = np.tile([0, 1], 60), np.tile([0, 0, 0, 0, 0, 0, 0, 1], 15)
    correct = np.tile([True, True, False, False, True], 24)
    low = slices(images, even, correct, 2)[0]
    assert low.class_mix == (20, 20)
    expected = binomtest(int(correct[:40].sum()), 40).proportion_ci(method="wilson")
    assert (low.standardised_low, low.standardised_high) == pytest.approx(
        (expected.low, expected.high)
    )
    uneven = slices(images, odd, correct, 2)[0]
    assert uneven.class_mix == (35, 5)
    weights = np.repeat([1 / (2 * 35), 1 / (2 * 5)], [35, 5])  # of each image; they sum to 1
    for end in (uneven.standardised_low, uneven.standardised_high):
        variance = end * (1 - end) * (weights**2).sum()  # Wilson's ends are 1.96 of it away
        assert abs(end - uneven.standardised) == pytest.approx(1.959964 * variance**0.5, rel=1e-5)


def test_slices_are_plain_numbers() -> None:
    parts = slices(greys([1, 2, 3]), np.array([0, 1, 0]), np.array([True, True, False]), 2)
    kinds = [str, str, int, float, float, float, float, tuple]
    assert all([type(value) for value in part] == kinds for part in parts)
    assert {type(count) for part in parts for count in part.class_mix} == {int}
