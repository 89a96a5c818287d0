import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from triptych.metrics import EpochLoss, SplitPredictions, build_metrics, compute_scores
from triptych.module import ImageClassifier

NUM_CLASSES = 5
shared_collection = build_metrics(NUM_CLASSES)  # as one task uses it, epoch after epoch


@st.composite
def splits(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits and labels of a split: unequal counts, some classes absent, some never predicted."""
    n = draw(st.integers(1, 60))
    present = draw(st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=NUM_CLASSES))
    labels = draw(st.lists(st.sampled_from(present), min_size=n, max_size=n))
    favoured = draw(st.sets(st.integers(0, NUM_CLASSES - 1)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = 3 * torch.randn(n, NUM_CLASSES, generator=generator)
    logits[:, sorted(favoured)] += 5
    return logits, torch.tensor(labels)


@settings(deadline=None, max_examples=30)
@given(splits())
def test_scores_equal_those_of_scikit_learn(split: tuple[Tensor, Tensor]) -> None:
    logits, labels = split
    values, per_class, confusion = compute_scores(shared_collection, logits, labels)

    predicted = logits.argmax(1)
    classes = list(range(NUM_CLASSES))
    over_all = {"labels": classes, "zero_division": 0}
    assert values["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=classes)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == expected.tolist()
    probabilities = logits.double().softmax(1)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # sums of 1 - 1e-16
        loss = sklearn_metrics.log_loss(labels, probabilities, labels=classes)
    assert values["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)  # 1 - p in float32
    for name in ("f1", "precision", "recall"):
        oracle = getattr(sklearn_metrics, f"{name}_score")
        each = oracle(labels, predicted, average=None, **over_all)
        mean = oracle(labels, predicted, average="macro", **over_all)
        np.testing.assert_allclose(per_class[name].numpy(), each, atol=1e-6)
        assert values[name] == pytest.approx(mean, abs=1e-6)
    both = set(labels.tolist()) & set(predicted.tolist())
    assert values["undefined_classes"] == NUM_CLASSES - len(both)


def test_a_loss_that_is_not_finite_is_reported_as_such() -> None:
    scores = compute_scores(
        build_metrics(2), torch.tensor([[math.nan, 0.0], [1.0, 0.0]]), torch.tensor([0, 0])
    )
    assert math.isnan(scores.values["loss"])


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(17)), st.lists(st.integers(1, 16), max_size=4))
def test_predictions_do_not_depend_on_order_or_batches(order: list[int], cuts: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(17, 3, generator=generator)
    labels = torch.randint(3, (17,), generator=generator)
    index = 5 * torch.arange(17)
    gathered = SplitPredictions()
    for part in torch.tensor_split(torch.tensor(order), sorted(cuts)):
        gathered.update(logits[part], labels[part], index[part])
    assert all(map(torch.equal, gathered.compute(), (logits, labels, index)))


def test_predictions_are_float32_and_forgotten_on_reset() -> None:
    gathered = SplitPredictions()
    gathered.update(torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(2).long(), torch.arange(2))
    assert gathered.compute()[0].dtype == torch.float32
    gathered.reset()
    gathered.update(torch.zeros(1, 3), torch.zeros(1).long(), torch.arange(1))
    assert len(gathered.compute()[0]) == 1


def test_the_epoch_loss_is_the_mean_over_images_of_several_readings_and_processes() -> None:
    loss, other = EpochLoss(), EpochLoss()
    for value, num_images in ((1.0, 64), (2.0, 2)):
        loss.append(torch.tensor(value, requires_grad=True) * 1, num_images, torch.tensor(2))
        other.append(torch.tensor(3 * value), 1, torch.tensor(0))
        sums = loss.take_unread()
        assert not sums.requires_grad
        assert loss.add(sums + other.take_unread()) is None
    assert loss.mean == pytest.approx((64 + 3 + 4 + 6) / 68)
    assert (loss.num_batches, loss.correct) == (2, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_batch_that_is_not_finite_is_named_by_its_number_in_the_epoch(bad: float) -> None:
    loss = EpochLoss()
    loss.append(torch.tensor(1.0), 4)
    assert loss.add(loss.take_unread()) is None
    for value in (1.0, bad, 1.0, bad):
        loss.append(torch.tensor(value), 4)
    assert loss.add(loss.take_unread()) == 3


def test_an_epoch_loss_goes_on_from_its_state() -> None:
    loss = EpochLoss()
    loss.append(torch.tensor(1.0), 3)
    loss.add(loss.take_unread())
    resumed = EpochLoss(*loss.state())
    assert math.isnan(resumed.correct), "where a task does not count what is right"
    for each in (loss, resumed):
        each.correct = 2.0
        each.append(torch.tensor(2.0), 1, torch.tensor(1))
        each.add(each.take_unread())
    assert resumed.state() == loss.state()
    assert resumed.mean == 1.25
    assert EpochLoss().correct == 0
    assert math.isnan(EpochLoss(4.0, 3, 1).correct), "a checkpoint from before it was counted"


def test_a_training_image_is_right_by_its_label_a_mixed_one_by_its_larger_part() -> None:
    logits = torch.tensor([[2.0, 1, 0], [0, 3, 1], [0, 1, 2]])
    module = object.__new__(ImageClassifier)
    assert module.count_correct(logits, torch.tensor([0, 2, 2])) == 2
    mixed = torch.tensor([[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0, 1]])
    assert module.count_correct(logits, mixed) == 2
