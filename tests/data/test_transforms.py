import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from triptych.data import augment
from triptych.data.augment import crop, erase, flip, standard
from triptych.data.transforms import DeviceTransforms
from triptych.models.backbone import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEYS = (3, 5, torch.arange(100, 108))  # seed, epoch, index


def random_images(n: int = 8, height: int = 32, width: int = 32) -> Tensor:
    """Without a black pixel, so that black is what was padded or erased."""
    generator = torch.Generator().manual_seed(n)
    return torch.randint(1, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def draws(n: int, column: int = 0) -> Tensor:
    """Random numbers in [0, 1), the ends first."""
    drawn = torch.rand(n - 2, generator=torch.Generator().manual_seed(column))
    return torch.cat([torch.tensor([0.0, 1 - 2**-24]), drawn])


def make(input_size: int = 32, augment: bool = False, **options: Any) -> DeviceTransforms:
    mix, chosen = options.pop("mix", None), standard if augment else None
    return DeviceTransforms(Preprocessing(input_size, MEAN, STD, **options), chosen, mix)


@pytest.mark.parametrize("input_size", [32, 75, 20])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_arrive_as_torchvision_would_make_them_one_by_one(
    interpolation: str, input_size: int
) -> None:
    oracle = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((input_size, input_size), v2.InterpolationMode(interpolation)),
            v2.Normalize(MEAN, STD),
        ]
    )
    images = random_images()
    made = make(input_size, interpolation=interpolation).evaluation(images)
    torch.testing.assert_close(made, torch.stack([oracle(image) for image in images]))


@pytest.mark.parametrize("n", [0, 2])
def test_an_image_that_is_not_square_becomes_square_and_a_batch_may_have_none(n: int) -> None:
    """One of several devices may get none of the last images of an evaluation."""
    assert make(24).evaluation(random_images(n, 20, 40)).shape == (n, 3, 24, 24)


def test_without_augmentation_training_sees_what_evaluation_sees() -> None:
    images, labels = random_images(), torch.arange(8)
    made, same = make(40).training(images, labels, KEYS)
    assert made.equal(make(40).evaluation(images))
    assert same.equal(labels)


def test_an_augmented_image_depends_on_seed_epoch_and_its_own_index_alone() -> None:
    images = random_images()
    whole = standard(images, *KEYS)
    alone = [standard(images[i : i + 1], 3, 5, KEYS[2][i : i + 1]) for i in range(8)]
    assert torch.cat(alone).equal(whole)
    shuffled = torch.tensor([5, 2, 7])
    assert standard(images[shuffled], 3, 5, KEYS[2][shuffled]).equal(whole[shuffled])


def test_another_seed_epoch_or_index_augments_otherwise_and_nothing_is_drawn_globally() -> None:
    images, before = random_images(), torch.get_rng_state()
    made = standard(images, *KEYS)
    for keys in ((4, 5, KEYS[2]), (3, 6, KEYS[2]), (3, 5, KEYS[2] + 8)):
        assert not (standard(images, *keys) == made).flatten(1).all(1).any()
    assert torch.get_rng_state().equal(before)
    assert images.equal(random_images())


def test_chosen_images_are_mirrored_left_to_right_and_others_are_not() -> None:
    images = random_images(2)
    mirrored = flip(images, torch.tensor([True, False]))
    assert mirrored[0].equal(v2.functional.horizontal_flip(images[0]))
    assert mirrored[1].equal(images[1])


@pytest.mark.parametrize(("height", "width", "pad"), [(32, 32, 4), (20, 36, 4), (70, 64, 8)])
def test_a_crop_is_a_window_of_the_image_padded_with_black(
    height: int, width: int, pad: int
) -> None:
    images = random_images(200, height, width)
    down, right = draws(200, 1), draws(200, 2)
    seen = set()
    places = 2 * pad + 1
    offsets = zip((places * down).tolist(), (places * right).tolist(), strict=True)
    for image, place, made in zip(images, offsets, crop(images, down, right), strict=True):
        y, x = map(math.floor, place)
        seen.add((y, x))
        assert made.equal(F.pad(image, [pad] * 4)[:, y : y + height, x : x + width])
    assert {y for y, _ in seen} == {x for _, x in seen} == set(range(places))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (12, 40)])
def test_a_chosen_image_loses_one_rectangle_of_the_area_and_aspect_drawn(
    height: int, width: int
) -> None:
    n = 200
    images, chosen = random_images(n, height, width), draws(n) < 0.5
    chosen[1] = True
    area, aspect, down, right = (draws(n, column) for column in range(1, 5))
    erased = erase(images, chosen, area, aspect, down, right)
    assert chosen.any()
    for i in range(n):
        pixels = (0.02 + 0.31 * area[i].item()) * height * width
        ratio = 0.3 * (3.3 / 0.3) ** aspect[i].item()
        tall = min(max(round((pixels * ratio) ** 0.5), 1), height)
        wide = min(max(round((pixels / ratio) ** 0.5), 1), width)
        top = math.floor(down[i].item() * (height - tall + 1))
        left = math.floor(right[i].item() * (width - wide + 1))
        expected = images[i].clone()
        if chosen[i]:
            expected[:, top : top + tall, left : left + wide] = 0
        assert erased[i].equal(expected)


@pytest.fixture
def uncropped(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """2,000 augmented images that were dark to the left and light to the right, not cropped."""
    monkeypatch.setattr(augment, "PAD", 0)
    ramp = torch.arange(1, 33, dtype=torch.uint8).expand(2000, 3, 32, 32)
    return standard(ramp, 0, 0, torch.arange(2000))


def test_half_of_the_images_are_mirrored_and_half_lose_2_to_33_percent_independently(
    uncropped: Tensor,
) -> None:
    """Four standard errors are 4.5 % (n = 2,000)."""
    mirrored = uncropped[:, 0].amax(1).argmax(1) < 16
    lost = (uncropped == 0).all(1).float().mean((1, 2))
    for half in (mirrored, lost > 0, mirrored == (lost > 0)):
        assert 0.455 < half.float().mean() < 0.545
    shares = lost[lost > 0]
    assert shares.min() >= 0.015  # sides are rounded to whole pixels
    assert shares.max() < 0.35
    assert shares.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.015)
