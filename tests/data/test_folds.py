"""Cross-validation: folds of every kind of set, and runs on them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.composing import composed
from tests.data.test_datamodule import PREPROCESSING
from tests.data.test_splits import ALL, folder
from triptych.build import build_datamodule
from triptych.data.folds import hold_out_fold, number_folds
from triptych.data.source import ImageSet, LabelledImages, split_indices
from triptych.errors import UserError

GIVEN = [["train"], ["train", "val"], ["train", "test"], ["train", "val", "test"]]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 1), min_size=40, max_size=60).filter(lambda x: 20 < sum(x) < 35),
    st.sampled_from(GIVEN),
    st.integers(2, 7),
    st.integers(0, 3),
)
def test_every_image_that_is_not_given_as_test_is_held_out_by_one_fold(
    labels: list[int], given_parts: list[str], folds: int, seed: int
) -> None:
    names = [given_parts[i % len(given_parts)] for i in range(len(labels))]
    data = folder(torch.tensor(labels), names)
    held_out = "val" if "test" in given_parts else "test"
    shared = [i for i, n in enumerate(names) if n == "train" or (n, held_out) == ("val", "val")]
    seen = []
    for fold in range(folds):
        held, as_split = hold_out_fold(data, folds, fold, seed)
        assert as_split == held_out
        parts = split_indices(held, ALL, seed)
        assert sorted(i for index in parts.values() for i in index.tolist()) == [*range(len(names))]
        for name in {"test", "val"} & {*given_parts} - {held_out}:
            assert data.splits
            assert parts[name].equal(data.splits[name])
        seen.append(parts[held_out].tolist())
        ones = data.train.labels[parts[held_out]].sum().item()
        assert abs(ones - sum(labels[i] for i in shared) / folds) < 1
        assert abs(len(seen[-1]) - len(shared) / folds) < 1
    assert sorted(i for index in seen for i in index) == shared


def test_the_folds_are_keyed_by_the_seed_and_an_images_index() -> None:
    labels = torch.tensor([0, 1] * 50)
    numbers = number_folds(torch.arange(100), labels, 5, seed=0)
    assert numbers.equal(number_folds(torch.arange(100), labels, 5, seed=0))
    assert not numbers.equal(number_folds(torch.arange(100), labels, 5, seed=1))
    assert numbers.bincount().tolist() == [20] * 5
    order = torch.arange(99, -1, -1)
    assert numbers.flip(0).equal(number_folds(order, labels[order], 5, seed=0))


def test_an_official_test_set_stays_and_the_fold_replaces_the_number_that_validates() -> None:
    images = torch.zeros(20, 3, 1, 1, dtype=torch.uint8)
    labels = torch.tensor([0, 1] * 10)
    train, test = LabelledImages(images, labels), LabelledImages(images[:6], labels[:6])
    config = composed("train", "data=cifar10", "data.folds=5", "data.fold=4", "data.num_train=8")
    data = build_datamodule(config, ImageSet(train, test, ("a", "b")), PREPROCESSING)
    assert [*map(len, (data.train, data.val, data.test))] == [8, 4, 6]
    assert data.notes == ("fold 4 of 5 validates: 4 of 20 images, in place of data.num_val",)
    with pytest.raises(UserError, match=r"^data\.folds=21: there are 20 images"):
        hold_out_fold(ImageSet(train, test, ("a", "b")), 21, 0, 0)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["data.folds=5", "data.fold=5"], r"data\.fold=5: of data\.folds=5 must be 0 to 4"),
        (["data.folds=5"], r"data\.fold=null: of data\.folds=5 must be 0 to 4"),
        (["data.fold=1"], r"data\.folds=null: must be given"),
        (["data.folds=1", "data.fold=0"], r"data\.folds=1: must be a whole number of at least 2"),
    ],
)
def test_a_fold_out_of_range_is_refused(typed: list[str], words: str) -> None:
    with pytest.raises(UserError, match=f"^{words}"):
        composed("train", "data=shapes", *typed)


def test_folds_are_in_the_config_of_a_run_that_has_them_alone() -> None:
    assert not {"folds", "fold"} & composed("train", "data=shapes")["data"].keys()
    few = "data.source.num_train=60"  # fewer than data.num_val, of which the fold takes the place
    data = composed("train", "data=shapes", few, "data.folds=5", "data.fold=0")["data"]
    assert (data["folds"], data["fold"]) == (5, 0)
