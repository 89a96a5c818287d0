from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from triptych.data.shapes import Shapes
from triptych.data.source import LabelledImages
from triptych.errors import UserError
from triptych.tools.evaluate.degradation import Outcomes
from triptych.tools.evaluate.distortions import distort
from triptych.tools.evaluate.image_types import choose, examples, score_image_types, summary
from triptych.tools.evaluate.levels import LEVELS

CONFIGS = Path(__file__).parents[3] / "configs" / "image_types"
INDEX = torch.arange(60) * 2 + 5


@pytest.fixture(scope="module")
def test_set() -> LabelledImages:
    return Shapes(num_train=10, num_test=60, seed=0).read().test


def by_mean(images: Tensor) -> Tensor:
    """A network of ten classes that looks at the mean colour alone."""
    bins = images.float().mean(dim=(1, 2, 3)) // 26
    return torch.nn.functional.one_hot(bins.long(), 10).float()


def score(test_set: LabelledImages, num_images: int | None, batch_size: int) -> Outcomes:
    types = ["noise", "low_contrast", "occlusion"]
    return score_image_types(by_mean, *test_set, INDEX, types, num_images, batch_size)


def test_the_config_has_every_type_and_none_has_none() -> None:
    every, none = (yaml.safe_load((CONFIGS / f"{n}.yaml").read_text()) for n in ("all", "none"))
    assert (every, none) == ({"types": list(LEVELS)}, {"types": []})


def test_what_is_right_is_counted_image_by_image(test_set: LabelledImages) -> None:
    scored = score(test_set, None, 60)
    assert scored.types.tolist() == [
        "unmodified",
        *np.repeat(["noise", "low_contrast", "occlusion"], 3),
    ]
    assert scored.severities.tolist() == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3]
    assert scored.index.tolist() == INDEX.tolist()
    images, labels = test_set
    for name, severity, correct in zip(
        scored.types, scored.severities, scored.correct, strict=True
    ):
        shown = distort(images, str(name), int(severity), INDEX) if severity else images
        assert correct.tolist() == (by_mean(shown).argmax(dim=1) == labels).tolist()
    assert 0 < scored.correct.sum() < scored.correct.size


@pytest.mark.parametrize("num_images", [None, 25])
def test_the_size_of_a_batch_changes_nothing(
    test_set: LabelledImages, num_images: int | None
) -> None:
    for whole, parts in zip(
        score(test_set, num_images, 60), score(test_set, num_images, 7), strict=True
    ):
        np.testing.assert_array_equal(whole, parts)


def test_of_fewer_images_each_is_scored_as_among_all(test_set: LabelledImages) -> None:
    some, every = score(test_set, 20, 64), score(test_set, None, 64)
    places = np.searchsorted(every.index, some.index)
    assert len(some.index) == 20
    np.testing.assert_array_equal(some.index, every.index[places])
    np.testing.assert_array_equal(some.correct, every.correct[:, places])


def test_chosen_images_keep_the_classes_proportions_and_ascend() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100)]
    chosen = choose(labels, 10)
    assert labels[chosen].bincount().tolist() == [5, 3, 2]
    assert (chosen.diff() > 0).all()


def test_the_choice_depends_on_the_labels_alone() -> None:
    labels = torch.arange(200) % 10
    torch.manual_seed(1)
    first = choose(labels, 30)
    torch.manual_seed(2)
    assert torch.equal(choose(labels, 30), first)
    assert first[:5].tolist() == [2, 8, 10, 11, 27]  # as in every version before


def test_where_there_are_fewer_images_all_are_chosen() -> None:
    assert choose(torch.arange(7) % 2, 1000).tolist() == list(range(7))
    assert choose(torch.arange(7) % 2, None).tolist() == list(range(7))


def test_an_unknown_type_is_refused_before_anything_is_scored(test_set: LabelledImages) -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(UserError, match="'nose', which is no type of images"):
        score_image_types(never, *test_set, INDEX, ["noise", "nose"], 10, 10)


def test_examples_are_what_the_network_sees(test_set: LabelledImages) -> None:
    shown = examples(*test_set, INDEX, ["noise", "rotation"], num_classes=3)
    assert list(shown) == ["noise", "rotation"]
    assert shown["noise"].shape == (4, 3, 3, 32, 32)
    images, labels = test_set
    assert labels[:3].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(shown["rotation"][0], images[:3])
    for severity in (1, 2, 3):
        expected = distort(images[:3], "rotation", severity, INDEX[:3])
        np.testing.assert_array_equal(shown["rotation"][severity], expected)


def test_the_summary_is_the_accuracy_lost_by_type(test_set: LabelledImages) -> None:
    kept = summary(score(test_set, 30, 30))
    assert kept["num_images"] == 30
    assert list(kept["degradation"]) == ["noise", "low_contrast", "occlusion", "all"]
    assert list(kept["degradation"]["all"]) == ["value", "low", "high"]
