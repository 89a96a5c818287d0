"""Scores of one network on one split, from its predictions; also by the reference study's protocol.

The study printed accuracy over all test images, and F1, precision and recall over the last batch.
Shapes: N images, C classes. Fractions are in [0, 1], losses in nats.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from triptych.runs.predictions import Predictions

TOP_K = (1, 3, 5)
PAPER_BATCH_SIZE = 64


class PerClass(NamedTuple):
    """Values (C,), NaN where undefined.

    A precision is undefined where the class is never predicted, a recall where it has no image, an
    F1 where both: zeros in their place give scikit-learn's `zero_division=0`.
    """

    f1: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


class Averages(NamedTuple):
    f1: float
    precision: float
    recall: float


class Scores(NamedTuple):
    """`macro` weighs all C classes alike, `weighted` by their images; undefined values count as 0.

    `undefined_classes` counts those without an image or never predicted.
    """

    accuracy: float
    macro: Averages
    weighted: Averages
    undefined_classes: int
    nll: float
    brier: float  # mean over images of the sum over classes of (probability - truth)², 0 to 2
    top_k: dict[int, float]
    paper: Averages  # by the study's protocol
    per_class: PerClass
    confusion: NDArray[np.int64]  # (C, C), a row for each true class


def score_predictions(predictions: Predictions) -> Scores:
    confusion = confusion_matrix(predictions)
    last = slice(-last_batch(len(predictions.labels)), None)  # in the official order
    num_true, num_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    values = per_class(confusion)
    defined = [np.nan_to_num(value) for value in values]
    return Scores(
        accuracy=float(predictions.correct.mean()),
        macro=Averages(*(float(value.mean()) for value in defined)),
        weighted=Averages(*(float(np.average(value, weights=num_true)) for value in defined)),
        undefined_classes=int(((num_true == 0) | (num_predicted == 0)).sum()),
        nll=nll(predictions),
        brier=float(image_brier(predictions).mean()),
        top_k=top_k_accuracies(predictions),
        paper=paper_averages(confusion_matrix(predictions, last)),
        per_class=values,
        confusion=confusion,
    )


def confusion_matrix(predictions: Predictions, part: slice = slice(None)) -> NDArray[np.int64]:
    """Counts (C, C) in a part of the images: a row for each true class, a column for each
    predicted one."""
    num_classes = predictions.num_classes
    pairs = predictions.labels[part] * num_classes + predictions.classes[part]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(confusion: NDArray[np.int64]) -> PerClass:
    right, num_true, num_predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an undefined value
        f1 = 2 * right / (num_true + num_predicted)
        return PerClass(f1=f1, precision=right / num_predicted, recall=right / num_true)


def average_present(scores: Scores) -> Averages:
    """Means over the classes that have images, an undefined value counted as 0."""
    present = scores.confusion.sum(axis=1) > 0
    return Averages(*(float(np.nan_to_num(each)[present].mean()) for each in scores.per_class))


def top_k_accuracies(predictions: Predictions) -> dict[int, float]:
    """The share of images whose class is among the k most probable, by k of `TOP_K` up to C.

    Of equal logits the first class comes first, as in `Predictions.classes`. Of classes alone the
    first of them is known.
    """
    if not predictions.has_probabilities:
        return {1: float(predictions.correct.mean())}
    logits, labels = predictions.logits, predictions.labels[:, None]
    true_logit = np.take_along_axis(logits, labels, axis=1)
    earlier = np.arange(predictions.num_classes) < labels
    rank = ((logits > true_logit) | ((logits == true_logit) & earlier)).sum(axis=1)
    return {k: float((rank < k).mean()) for k in TOP_K if k <= predictions.num_classes}


def nll(predictions: Predictions) -> float:
    """Mean negative log-likelihood of the true classes."""
    return float(image_nll(predictions).mean())


def image_nll(predictions: Predictions) -> NDArray[np.float64]:
    """Negative log-likelihood of the true class, (N,), in nats, not clipped; NaN without logits."""
    if not predictions.has_probabilities:
        return np.full(len(predictions.labels), np.nan)
    log_p = log_softmax(predictions.logits.astype(np.float64), axis=1)
    return np.asarray(-log_p[np.arange(len(log_p)), predictions.labels])


def image_brier(predictions: Predictions) -> NDArray[np.float64]:
    """The sum over classes of (probability - truth)², (N,), 0 to 2; NaN without logits."""
    if not predictions.has_probabilities:
        return np.full(len(predictions.labels), np.nan)
    p, rows = predictions.probabilities, np.arange(len(predictions.labels))
    return np.asarray((p**2).sum(axis=1) - 2 * p[rows, predictions.labels] + 1)


def image_f1(predictions: Predictions) -> NDArray[np.float64]:
    """Values (N,) whose mean is macro F1: it, and the influence of each image on it."""
    confusion = confusion_matrix(predictions)
    f1 = np.nan_to_num(per_class(confusion).f1)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    weight = len(predictions.labels) / np.maximum(total, 1) / len(f1)  # of an image in its class
    loss, labels, classes = weight * f1, predictions.labels, predictions.classes
    right = predictions.correct * 2 * weight[labels]
    return np.asarray(f1.mean() - loss[labels] - loss[classes] + right)


# What recipes can be compared by: a value an image, (N,).
METRICS: dict[str, Callable[[Predictions], NDArray[Any]]] = {
    "accuracy": lambda predictions: predictions.correct,
    **{"f1": image_f1, "nll": image_nll, "brier": image_brier},
}


class Published(NamedTuple):
    """A row of Table 1; fractions."""

    accuracy: float
    f1: float
    precision: float
    recall: float


TABLE_1 = {
    "googlenet": Published(0.9155, 0.7071, 0.84375, 0.8333),
    "alexnet": Published(0.7514, 0.6063, 0.75, 0.8148),
    "resnet50": Published(0.8806, 0.75, 0.875, 0.875),
}
# How many of the last 16 test images its three confusion matrices show as classified correctly.
LAST_CORRECT = {"googlenet": 14, "alexnet": 13, "resnet50": 15}
WHY_THEY_DIFFER = (
    "The study's accuracy is over all 10,000 test images, its F1, precision and recall over the "
    "last 16 alone: the last batch of 64, with an undefined precision or recall counted as 1."
)


def paper_averages(confusion: NDArray[np.int64]) -> Averages:
    """Means over classes that are true or predicted; an undefined precision or recall counts as 1.

    An F1 is never undefined among these classes.
    """
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    means = (np.nan_to_num(each[present], nan=1.0).mean() for each in per_class(confusion))
    return Averages(*map(float, means))


def last_batch(num_images: int) -> int:
    """How many images an unshuffled loader leaves for its last batch."""
    return (num_images - 1) % PAPER_BATCH_SIZE + 1
