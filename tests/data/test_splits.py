import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from triptych.callbacks.tensorboard import describe_balance
from triptych.data.source import (
    ImageSet,
    LabelledImages,
    split_indices,
)
from triptych.errors import UserError

ALL = dict.fromkeys(("train", "val", "test"))


def folder(labels: Tensor, parts: list[str]) -> ImageSet:
    """One table of images, of which `parts` names each one's."""
    table = LabelledImages(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels)
    splits = {
        part: torch.tensor([i for i, name in enumerate(parts) if name == part])
        for part in dict.fromkeys(parts)
    }
    return ImageSet(table, table, ("a", "b"), splits)


def counts(data: ImageSet, parts: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: data.train.labels[i].bincount(minlength=2).tolist() for name, i in parts.items()}


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 1), min_size=40, max_size=60).filter(lambda x: 20 < sum(x) < 35),
    st.sampled_from([["train"], ["train", "val"], ["train", "test"], ["train", "val", "test"]]),
    st.integers(0, 3),
)
def test_every_image_is_in_one_part_and_given_parts_stay(
    labels: list[int], given_parts: list[str], seed: int
) -> None:
    names = [given_parts[i % len(given_parts)] for i in range(len(labels))]
    data = folder(torch.tensor(labels), names)
    parts = split_indices(data, ALL, seed)
    covered = [i for index in parts.values() for i in index.tolist()]
    assert sorted(covered) == list(range(len(labels)))
    for part in set(given_parts) - {"train"}:
        assert data.splits
        assert parts[part].equal(data.splits[part])
    split_off = [len(parts[name]) for name in ("val", "test") if name not in given_parts]
    assert split_off == [round(0.15 * names.count("train"))] * len(split_off)


def test_what_is_split_off_keeps_the_classes_proportions_and_is_keyed() -> None:
    data = folder(torch.tensor([0] * 80 + [1] * 20), ["train"] * 100)
    sizes = ALL | {"val": 10, "test": 20}
    parts = split_indices(data, sizes, 0)
    assert counts(data, parts) == {"train": [56, 14], "val": [8, 2], "test": [16, 4]}
    assert all(parts[name].equal(index) for name, index in split_indices(data, sizes, 0).items())
    assert not parts["test"].equal(split_indices(data, sizes, 1)["test"])


def test_a_size_takes_a_stratified_part_of_what_is_given() -> None:
    data = folder(torch.tensor([0, 1] * 45), ["train", "train", "val", "val", "test", "test"] * 15)
    parts = split_indices(data, {"train": 6, "val": 4, "test": 8}, 0)
    assert counts(data, parts) == {"train": [3, 3], "val": [2, 2], "test": [4, 4]}
    assert data.splits
    for name, index in parts.items():
        assert set(index.tolist()) < set(data.splits[name].tolist())


def test_a_class_of_which_nothing_is_left_to_learn_from_is_refused() -> None:
    data = folder(torch.tensor([0] * 30 + [1]), ["train"] * 31)
    with pytest.raises(UserError, match=r"^b: no image of this class is left for training"):
        split_indices(data, ALL | {"val": 15, "test": 14}, 0)
    split_indices(data, {"train": 1, "val": 15, "test": 14}, 0)  # a quick run


def test_how_many_images_the_classes_have_is_said_in_a_line() -> None:
    assert describe_balance("abc", [5, 5, 5]) == "3 classes, 5 training images each"
    line = describe_balance("abc", [10, 40, 0])
    assert line == "3 classes, from 0 training images (c) to 40 (b)"
