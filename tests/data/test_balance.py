from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.composing import composed
from tests.data.test_datamodule import Toy, make, noise, trainer
from triptych.data.augment import standard
from triptych.data.balance import draw_balanced
from triptych.data.datamodule import KeyedBatchSampler
from triptych.data.transforms import DeviceTransforms
from triptych.errors import UserError

SOME_OF_EACH = [0] + [1] * 5 + [3] * 58  # no image of class 2


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=150),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 50),
)
def test_classes_come_alike_in_an_epoch_and_so_do_the_images_of_a_class(
    labels: list[int], seed: int, epoch: int
) -> None:
    of_images, n = torch.tensor(labels), len(labels)
    drawn = draw_balanced(of_images, n, seed, epoch)
    assert drawn.equal(draw_balanced(of_images, n, seed, epoch))
    assert drawn.unique().numel() == n  # no key of an image comes twice
    per_class = of_images[drawn % n].bincount()[of_images.unique()]
    assert per_class.sum() == n
    assert per_class.max() - per_class.min() <= 1
    for label in set(labels):
        per_image = (drawn % n).bincount(minlength=n)[of_images == label]
        assert per_image.max() - per_image.min() <= 1
    repeats = [(drawn // n)[drawn % n == i].sort().values for i in range(n)]
    assert all(each.equal(torch.arange(len(each))) for each in repeats)


def test_every_image_of_a_common_class_comes_in_some_epoch_and_each_epoch_has_others() -> None:
    labels, n = torch.tensor(SOME_OF_EACH), len(SOME_OF_EACH)
    epochs = [draw_balanced(labels, n, 0, epoch) for epoch in range(20)]
    assert {i for drawn in epochs for i in (drawn % n).tolist()} == set(range(n))
    assert len({tuple(drawn.tolist()) for drawn in epochs}) == 20
    share = sum((labels[drawn % n] == 0).sum().item() for drawn in epochs) / (20 * n)
    assert share == pytest.approx(1 / 3, abs=0.01)
    places = torch.stack([(labels[drawn % n] == 0).float() for drawn in epochs]).mean(0)
    assert abs(places[: n // 2].mean() - places[n // 2 :].mean()) < 0.1  # all over the epoch


@pytest.mark.parametrize("world_size", [2, 4])
def test_devices_share_the_balanced_batches_of_one(world_size: int) -> None:
    labels, n = torch.tensor(SOME_OF_EACH), len(SOME_OF_EACH)
    alone, *ranks = (
        KeyedBatchSampler(n, 8, rank, size, seed=0)
        for rank, size in [(0, 1), *((rank, world_size) for rank in range(world_size))]
    )
    for sampler in (alone, *ranks):
        sampler.draw = partial(draw_balanced, labels)
        sampler.set_epoch(3)
    for batch, *parts in zip(alone, *ranks, strict=True):
        assert sorted(batch.tolist()) == sorted(torch.cat(parts).tolist())


def test_a_training_draws_rare_classes_as_often_and_augments_each_draw_anew() -> None:
    images = noise()
    labels = torch.tensor([0] * 5 + [1] * 15 + [2] * 30 + [3] * 30)
    images = images._replace(train=images.train._replace(labels=labels))
    data, toy = make(image_set=images, num_val=8, augment="standard", sampler="balanced"), Toy()
    trainer(max_epochs=1).fit(toy, datamodule=data)
    arrived = toy.arrived["train"]
    assert torch.cat([labels for *_, labels in arrived]).bincount().tolist() == [18] * 4
    keys = torch.cat([key for _, key, *_ in arrived])
    index, position = keys % 2**40, data.train.index
    assert set(index.tolist()) <= set(position.tolist())
    seen = torch.cat([inputs for *_, inputs, _ in arrived])
    augmenting = DeviceTransforms(data.preprocessing, standard)
    stored = images.train.images[index]
    assert seen.equal(augmenting.training(stored, labels[index], (0, 0, keys))[0])
    rarest = seen[index == index[labels[index] == 0][0]]
    assert len(rarest) in (3, 4, 5)
    assert len(rarest.flatten(1).unique(dim=0)) == len(rarest)
    assert "balanced" in data.notes[-1]
    validated = torch.cat([index for _, index, *_ in toy.arrived["validate"]])
    assert validated.tolist() == data.val.index.tolist()


def test_weights_of_classes_beside_it_are_refused_and_without_it_a_config_has_none() -> None:
    assert "sampler" not in composed("train")["data"]
    with pytest.raises(UserError, match=r"data\.sampler=balanced.*class_weights"):
        composed("train", "data.sampler=balanced", "optim.class_weights=balanced")
    with pytest.raises(UserError, match=r"data\.sampler=uniform"):
        composed("train", "data.sampler=uniform")
