from pathlib import Path

import numpy as np
import pytest
import torchvision

from triptych.runs.predictions import Predictions
from triptych.tools.statistics.scores import (
    LAST_CORRECT,
    TABLE_1,
    last_batch,
    paper_averages,
    score_predictions,
)

CLASSES = [0, 1, 2, 3, 4, 5, 7, 8, 9]
MATRICES = {  # as the study prints them, a row for each of `CLASSES`
    "googlenet": "20000000 01000000 00001000 00030000 00000000 00010200 00000030 00000003",
    "alexnet": "200000000 010000000 000010000 000300000 000000000 000002001 000000300 000100020 "
    "000000000",
    "resnet50": "20000000 01000000 00001000 00030000 00000000 00000300 00000030 00000003",
}


def published_matrix(model: str) -> np.ndarray:
    return np.array([[int(count) for count in row] for row in MATRICES[model].split()])


@pytest.mark.parametrize("model", TABLE_1)
def test_the_published_matrices_give_the_published_figures_to_their_last_digit(model: str) -> None:
    matrix = published_matrix(model)
    averages = paper_averages(matrix)
    for name in ("f1", "precision", "recall"):
        published = getattr(TABLE_1[model], name)
        digits = len(str(published).partition(".")[2])
        assert round(getattr(averages, name), max(digits, 4)) == published
    assert (matrix.sum(), matrix.trace()) == (last_batch(10_000), LAST_CORRECT[model])


def test_the_matrices_hold_the_last_images_of_the_official_test_set(real_cifar10: Path) -> None:
    labels = torchvision.datasets.CIFAR10(real_cifar10, train=False).targets
    counts = np.bincount(labels[-last_batch(len(labels)) :], minlength=10)[CLASSES]
    for model in MATRICES:
        by_class = published_matrix(model).sum(axis=1)
        np.testing.assert_array_equal(counts[: len(by_class)], by_class)


@pytest.mark.parametrize(
    ("num_images", "last"), [(1, 1), (64, 64), (65, 1), (128, 64), (1000, 40), (10_000, 16)]
)
def test_the_study_s_protocol_takes_the_last_images_by_official_order(
    num_images: int, last: int
) -> None:
    random = np.random.default_rng(0)
    labels, logits = random.integers(7, size=num_images), random.standard_normal((num_images, 10))
    counts = np.zeros((10, 10), dtype=np.int64)
    np.add.at(counts, (labels[-last:], logits[-last:].argmax(axis=1)), 1)
    predictions = Predictions(logits, labels, np.arange(num_images))
    assert last_batch(num_images) == last
    assert score_predictions(predictions).paper == paper_averages(counts)
