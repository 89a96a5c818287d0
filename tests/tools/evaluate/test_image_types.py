"""Test images made harder, against the definition of each type, and a network tried on them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from scipy.fft import dctn
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from triptych.data.shapes import Shapes
from triptych.data.source import LabelledImages
from triptych.tools.evaluate import image_types
from triptych.tools.evaluate.degradation import Outcomes
from triptych.tools.evaluate.image_types import (
    DISTORTIONS,
    HarderImages,
    SharedImages,
    choose_images,
    distort,
    make_examples,
    score_image_types,
)
from triptych.tools.evaluate.settings import LEVELS

CONFIGS = Path(__file__).parents[3] / "configs" / "image_types"
INDEX = torch.arange(40) * 7 + 3
names, severities = st.sampled_from(list(LEVELS)), st.integers(1, 3)
every_severity = pytest.mark.parametrize("severity", [1, 2, 3])


@pytest.fixture(scope="module")
def test_set() -> LabelledImages:
    return Shapes(num_train=10, num_test=40, seed=0).read().test


@pytest.fixture
def images(test_set: LabelledImages) -> Tensor:
    return test_set.images


def by_mean(images: Tensor) -> Tensor:
    """A network of ten classes that looks at the mean colour alone."""
    bins = images.float().mean(dim=(1, 2, 3)) // 26
    return torch.nn.functional.one_hot(bins.long(), 10).float()


def test_every_type_has_its_levels_its_distortion_and_its_place_in_the_config() -> None:
    every, none = (yaml.safe_load((CONFIGS / f"{n}.yaml").read_text()) for n in ("all", "none"))
    assert (every, none) == ({"types": list(LEVELS)}, {"types": []})
    assert list(DISTORTIONS) == list(LEVELS)


def score(
    test_set: LabelledImages, types: list[str], batch_size: int = 7, max_bytes: int = 0
) -> Outcomes:
    """Of every second image of a set, whose place in it is its index."""
    rows = torch.arange(0, 40, 2)
    harder = HarderImages(test_set.images, rows, max_bytes)
    return score_image_types(by_mean, harder, test_set.labels[rows], types, batch_size)


def test_what_is_right_is_counted_image_by_image(test_set: LabelledImages) -> None:
    types = ["noise", "low_contrast", "occlusion"]
    outcomes = score(test_set, types)
    assert outcomes.types.tolist() == ["unmodified", *np.repeat(types, 3)]
    assert outcomes.severities.tolist() == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3]
    rows = torch.from_numpy(outcomes.index)
    assert rows.tolist() == list(range(0, 40, 2))
    images, labels = (tensor[rows] for tensor in test_set)
    variants = zip(outcomes.types, outcomes.severities, outcomes.correct, strict=True)
    for name, severity, correct in variants:
        shown = distort(images, str(name), int(severity), rows) if severity else images
        assert correct.tolist() == (by_mean(shown).argmax(dim=1) == labels).tolist()
    assert 0 < outcomes.correct.sum() < outcomes.correct.size


@pytest.mark.parametrize(("batch_size", "part_bytes"), [(1, 2**20), (20, 1), (64, 10_000)])
def test_outcomes_are_the_same_in_any_batches_and_parts(
    test_set: LabelledImages, batch_size: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score(test_set, ["blur", "noise"])
    monkeypatch.setattr(image_types, "PART_BYTES", part_bytes)
    outcomes = score(test_set, ["blur", "noise"], batch_size, max_bytes=10**6)
    np.testing.assert_array_equal(outcomes.correct, expected.correct)


@pytest.mark.parametrize(
    ("num_kept", "num_made"),
    [(6, 6 + 0), (4, 6 + 2), (0, 6 + 6)],
    ids=["all fit", "some fit", "none is kept"],
)
def test_runs_on_the_same_images_share_what_was_made(
    test_set: LabelledImages, num_kept: int, num_made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int, int]] = []

    def count(images: Tensor, name: str, severity: int, index: Tensor) -> Tensor:
        made.extend((name, severity, place) for place in index.tolist() if severity)
        return distort(images, name, severity, index)

    monkeypatch.setattr(image_types, "distort", count)
    shared = SharedImages(max_bytes=num_kept * 40 * 3 * 32 * 32)
    every = torch.arange(40)
    scores = []
    for batch_size in (16, 9):
        harder = shared.find("a hash", test_set.images, every)
        types = ["noise", "blur"]
        scores.append(score_image_types(by_mean, harder, test_set.labels, types, batch_size))
    np.testing.assert_array_equal(scores[0].correct, scores[1].correct)
    assert len(made) == num_made * 40
    assert len(set(made)) == 6 * 40
    assert harder.bytes_kept <= shared.max_bytes


def test_a_long_evaluation_says_how_far_it_is(
    test_set: LabelledImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(image_types, "SILENCE_SECONDS", 0)
    caplog.set_level("INFO")
    score(test_set, ["noise"], batch_size=10)
    assert len(caplog.messages) == 4 * 2
    assert "batch 8 of 8, noise at severity 3" in caplog.messages[-1]
    monkeypatch.setattr(image_types, "SILENCE_SECONDS", 8)
    score(test_set, ["noise"])
    assert len(caplog.messages) == 4 * 2, "a short one says nothing"


def test_other_images_share_nothing_and_the_last_set_is_kept(test_set: LabelledImages) -> None:
    images, every = test_set.images, torch.arange(40)
    shared = SharedImages(max_bytes=3 * 40 * 3 * 32 * 32)
    first = shared.find("a hash", images, every)
    assert shared.find("a hash", images, torch.arange(20)) is not first
    assert shared.find("another", images, every) is not first
    assert shared.find("a hash", images, every.clone()) is first
    list(first.iterate([("noise", 1), ("noise", 2)], 40))
    assert first.bytes_kept == 2 * 40 * 3 * 32 * 32
    second = shared.find("a third", images, every)
    assert second.max_bytes == shared.max_bytes
    assert shared.find("a hash", images, every) is not first


def test_chosen_images_keep_the_classes_proportions_and_depend_on_labels_alone() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100)]
    chosen = choose_images(labels, 10).tolist()
    assert labels[chosen].bincount().tolist() == [5, 3, 2]
    assert chosen == sorted(chosen)
    for num_images in (1000, None):
        assert choose_images(labels, num_images).tolist() == list(range(100))
    # Runs of every version stay comparable.
    assert choose_images(torch.arange(200) % 10, 30)[:5].tolist() == [2, 8, 10, 11, 27]


def test_examples_are_what_the_network_sees(test_set: LabelledImages) -> None:
    images, labels = test_set
    shown = make_examples(HarderImages(images, torch.arange(40)), labels, ["noise", "rotation"])
    assert list(shown) == ["noise", "rotation"]
    assert shown["noise"].shape == (4, 5, 3, 32, 32)
    assert labels[:5].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(shown["rotation"][0], images[:5])
    for severity in (1, 2, 3):
        expected = distort(images[:5], "rotation", severity, torch.arange(5))
        np.testing.assert_array_equal(shown["rotation"][severity], expected)


def inset(scene: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The middle of 32x32 scenes, and which pixels (32, 32) lie around it."""
    side = round(32 * scale)
    first = (32 - side) // 2
    around = torch.ones(32, 32, dtype=torch.bool)
    around[first : first + side, first : first + side] = False
    return scene[..., first : first + side, first : first + side], around


@settings(deadline=None, max_examples=15)
@given(names, severities, st.permutations(range(12)), st.integers(1, 12))
def test_an_image_gets_the_same_pixels_in_any_order_and_batch(
    name: str, severity: int, order: list[int], batch_size: int
) -> None:
    images = torch.randint(256, (12, 3, 9, 9), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    together = distort(images, name, severity, INDEX[:12])
    for batch in torch.tensor(order).split(batch_size):
        assert torch.equal(distort(images[batch], name, severity, INDEX[batch]), together[batch])


@settings(deadline=None, max_examples=20)
@given(names, severities, st.integers(4, 40), st.integers(4, 40), st.integers(0, 3))
def test_bytes_and_size_are_kept_and_the_images_left_alone(
    name: str, severity: int, height: int, width: int, num: int
) -> None:
    images = torch.full((1 + num, 3, height, width), 90, dtype=torch.uint8)
    distorted = distort(images, name, severity, INDEX[: 1 + num])
    assert distorted.dtype == torch.uint8
    assert distorted.shape == images.shape
    assert (images == 90).all()


def test_the_pixels_of_drawn_types_stay_what_they_were() -> None:
    """Accuracies of two versions can be compared only while these sums stand."""
    grey = torch.full((4, 3, 8, 8), 127, dtype=torch.uint8)
    sums = {
        name: distort(grey, name, 2, torch.arange(4)).sum().item()
        for name in ("complex_scene", "noise", "brightness")
    }
    assert sums == {"complex_scene": 94103, "noise": 97684, "brightness": 84672}


@every_severity
@pytest.mark.parametrize("name", ["small_object_plain", "small_object_blurred", "complex_scene"])
def test_the_middle_is_the_image_resized_with_antialiasing(
    name: str, severity: int, images: Tensor
) -> None:
    scale = 3 / 4 if name == "complex_scene" else [3 / 4, 1 / 2, 1 / 3][severity - 1]
    middle, _ = inset(distort(images, name, severity, INDEX), scale)
    side = round(32 * scale)
    assert torch.equal(middle, F.resize(images.float(), [side, side], antialias=True).round())


@every_severity
def test_around_a_small_object_is_grey_or_the_blurred_image(severity: int, images: Tensor) -> None:
    scale = [3 / 4, 1 / 2, 1 / 3][severity - 1]
    _, around = inset(images, scale)
    assert (distort(images, "small_object_plain", severity, INDEX)[..., around] == 127).all()
    blurred = distort(images, "small_object_blurred", severity, INDEX)[..., around]
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, 6, 6), mode="mirror")
    # A gaussian cut off at three deviations is a little narrower than scipy's, cut off at four.
    assert np.abs(blurred.numpy() - expected[..., around.numpy()]).max() < 4


@every_severity
def test_occlusion_hides_one_patch_and_nothing_else(severity: int) -> None:
    white = torch.full((40, 3, 32, 24), 255, dtype=torch.uint8)
    hidden = (distort(white, "occlusion", severity, INDEX) == 127).all(dim=1)
    share = [1 / 4, 3 / 8, 1 / 2][severity - 1]
    rows, columns = hidden.any(dim=2).sum(dim=1), hidden.any(dim=1).sum(dim=1)
    assert set(rows.tolist()) == {32 * share}
    assert set(columns.tolist()) == {24 * share}
    assert torch.equal(hidden.sum(dim=(1, 2)), rows * columns)
    tops, lefts = hidden.any(dim=2).int().argmax(dim=1), hidden.any(dim=1).int().argmax(dim=1)
    assert len(tops.unique()) > 6
    assert len(lefts.unique()) > 6


@every_severity
def test_noise_is_gaussian_and_independent_between_pixels_and_channels(severity: int) -> None:
    grey = torch.full((40, 3, 32, 32), 127, dtype=torch.uint8)
    added = distort(grey, "noise", severity, INDEX).double() - 127
    deviation = 255 * [0.04, 0.08, 0.10][severity - 1]
    smooth = (added + torch.rand(added.shape, generator=torch.Generator().manual_seed(0)) - 0.5) / (
        deviation**2 + 1 / 12  # rounding, and what undoes it
    ) ** 0.5
    assert stats.kstest(smooth.flatten()[:20_000].numpy(), "norm").pvalue > 0.001
    columns = smooth.flatten(1).T.reshape(3, -1)
    assert np.abs(np.corrcoef(columns) - np.eye(3)).max() < 0.02
    assert abs(np.corrcoef(smooth[..., :-1].flatten(), smooth[..., 1:].flatten())[0, 1]) < 0.02


@every_severity
def test_blur_is_a_gaussian_of_the_published_width(severity: int, images: Tensor) -> None:
    sigma = [0.4, 0.7, 1.0][severity - 1]
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="mirror")
    assert np.abs(distort(images, "blur", severity, INDEX).numpy() - expected).max() < 2.5


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (33, 70), (7, 5)])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 6.0])
def test_two_passes_blur_as_one_kernel_in_two_dimensions(
    height: int, width: int, sigma: float
) -> None:
    images = torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(0))
    images, wide = images.to(torch.uint8), sigma * min(height, width) / 32
    expected = F.gaussian_blur(images, 2 * math.ceil(3 * wide) + 1, wide)
    difference = image_types.blur(images, sigma, INDEX[:2]).int() - expected.int()
    assert difference.abs().max() <= 1
    assert difference.count_nonzero() < 0.001 * difference.numel() + 1


@every_severity
def test_low_contrast_shrinks_the_deviation_and_keeps_the_mean(
    severity: int, images: Tensor
) -> None:
    factor = [0.75, 0.4, 0.15][severity - 1]
    distorted = distort(images, "low_contrast", severity, INDEX).float()
    grey = F.rgb_to_grayscale(images.float())
    middle = grey.floor().mean(dim=(1, 2, 3), keepdim=True)
    expected = middle + factor * (images.float() - middle)
    assert (distorted - expected).abs().max() <= 1


@every_severity
def test_half_of_the_images_are_brighter_and_the_others_darker(
    severity: int, images: Tensor
) -> None:
    distorted = distort(images, "brightness", severity, INDEX).float()
    factor = 2 ** (severity / 3)
    brighter, darker = (images * factor).clamp(max=255), images / factor
    is_brighter = ((distorted - brighter).abs() <= 1).flatten(1).all(dim=1)
    is_darker = ((distorted - darker).abs() <= 1).flatten(1).all(dim=1)
    assert (is_brighter ^ is_darker).all()
    assert 10 < is_brighter.sum() < 30


@every_severity
def test_jpeg_keeps_multiples_of_the_standards_steps(severity: int) -> None:
    """The luminance steps of the standard's example, first row, in the IJG's scaling by quality."""
    percent = {80: 40, 58: 84, 40: 125}[[80, 58, 40][severity - 1]]
    steps = (np.array([16, 11, 10, 16, 24, 40, 51, 61]) * percent + 50) // 100
    soft = torch.randint(64, 192, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    compressed = distort(soft.expand(40, 3, 8, 8).to(torch.uint8), "jpeg", severity, INDEX)
    assert (compressed == compressed[:, :1]).all()
    frequencies = dctn(compressed[:, 0].double().numpy() - 128, axes=(1, 2), norm="ortho")[:, 0]
    beside = frequencies - steps * np.round(frequencies / steps)
    assert np.abs(beside).mean() < 0.5  # pixels are rounded once more; by chance, it were steps / 4
    assert np.abs(frequencies).max(axis=0).min() > steps.min()


@every_severity
def test_a_rotation_turns_either_way_by_the_degrees(severity: int, images: Tensor) -> None:
    distorted = distort(images, "rotation", severity, INDEX)
    rows, columns = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    disc = rows.square() + columns.square() < 15**2  # what no corner reaches
    turned = [
        F.rotate(images, angle, F.InterpolationMode.BILINEAR)
        for angle in (15 * severity, -15 * severity)
    ]
    left, right = (
        ((distorted.int() - t.int())[..., disc].abs() <= 1).flatten(1).all(dim=1) for t in turned
    )
    assert (left | right).all()
    assert 10 < left.sum() < 30
    assert distorted[(distorted == 0).all(dim=1)[:, None].expand_as(distorted)].numel() == 0
