from pathlib import Path

import numpy as np
import pytest
import torchvision

from triptych.runs.predictions import Predictions
from triptych.tools.evaluate.paper import (
    LAST_LABELS,
    TABLE_1,
    last_batch,
    paper_averages,
    paper_scores,
    published_matrix,
)

CLASSES = [0, 1, 2, 3, 4, 5, 7, 8]
MATRICES = {
    "googlenet": (
        CLASSES,
        "20000000 01000000 00001000 00030000 00000000 00010200 00000030 00000003",
    ),
    "alexnet": (
        [*CLASSES, 9],
        "200000000 010000000 000010000 000300000 000000000 000002001 000000300 000100020 000000000",
    ),
    "resnet50": (
        CLASSES,
        "20000000 01000000 00001000 00030000 00000000 00000300 00000030 00000003",
    ),
}


def shown(model: str) -> np.ndarray:
    """The matrix as the study prints it, rows and columns its classes."""
    return np.array([[int(count) for count in row] for row in MATRICES[model][1].split()])


@pytest.mark.parametrize("model", TABLE_1)
def test_the_published_matrices_give_the_published_figures_to_their_last_digit(model: str) -> None:
    found = paper_averages(shown(model))
    for name in ("f1", "precision", "recall"):
        published = getattr(TABLE_1[model], name)
        digits = len(str(published).partition(".")[2])
        assert round(getattr(found, name), max(digits, 4)) == published
    assert paper_averages(published_matrix(model)) == found


@pytest.mark.parametrize("model", TABLE_1)
def test_the_matrix_over_ten_classes_is_the_one_that_the_study_shows(model: str) -> None:
    classes = MATRICES[model][0]
    counts = published_matrix(model)
    assert counts.shape == (10, 10)
    assert counts.sum() == 16
    np.testing.assert_array_equal(counts[np.ix_(classes, classes)], shown(model))


def test_the_last_labels_are_those_of_the_official_test_set(real_cifar10: Path) -> None:
    labels = torchvision.datasets.CIFAR10(real_cifar10, train=False).targets
    assert tuple(labels[-last_batch(len(labels)) :]) == LAST_LABELS


@pytest.mark.parametrize(("num_images", "last"), [(1, 1), (64, 64), (65, 1), (1000, 40)])
def test_the_study_s_protocol_takes_the_last_images_by_official_order(
    num_images: int, last: int
) -> None:
    random = np.random.default_rng(0)
    labels, logits = random.integers(7, size=num_images), random.standard_normal((num_images, 10))
    counts = np.zeros((10, 10), dtype=np.int64)
    np.add.at(counts, (labels[-last:], logits[-last:].argmax(axis=1)), 1)
    predictions = Predictions(logits, labels, np.arange(num_images))
    assert paper_scores(predictions) == paper_averages(counts)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "last"),
    [(10_000, 64, 16), (64, 64, 64), (65, 64, 1), (1, 64, 1), (128, 64, 64), (10, 4, 2)],
)
def test_the_last_batch_is_what_is_left_and_never_empty(
    num_images: int, batch_size: int, last: int
) -> None:
    assert last_batch(num_images, batch_size) == last
