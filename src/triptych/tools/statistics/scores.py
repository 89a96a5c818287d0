"""Scores of one network on one split, from its predictions.

Shapes: N images, C classes. Fractions are in [0, 1], losses in nats.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from triptych.tools.statistics.predictions import Predictions

TOP_K = (1, 3, 5)


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
    brier: float
    per_class: PerClass
    confusion: NDArray[np.int64]  # (C, C), a row for each true class


def score_predictions(predicted: Predictions) -> Scores:
    confusion = confusion_matrix(predicted)
    num_true, num_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    values = per_class(confusion)
    defined = [np.nan_to_num(each) for each in values]
    return Scores(
        accuracy=float(predicted.correct.mean()),
        macro=Averages(*(float(each.mean()) for each in defined)),
        weighted=Averages(*(float(np.average(each, weights=num_true)) for each in defined)),
        undefined_classes=int(((num_true == 0) | (num_predicted == 0)).sum()),
        nll=nll(predicted),
        brier=brier(predicted),
        per_class=values,
        confusion=confusion,
    )


def confusion_matrix(predicted: Predictions) -> NDArray[np.int64]:
    """Counts (C, C): a row for each true class, a column for each predicted one."""
    num_classes = predicted.num_classes
    pairs = predicted.labels * num_classes + predicted.classes
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(confusion: NDArray[np.int64]) -> PerClass:
    right = confusion.diagonal()
    num_true, num_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is wanted
        f1 = 2 * right / (num_true + num_predicted)
        return PerClass(f1=f1, precision=right / num_predicted, recall=right / num_true)


def top_k(predicted: Predictions, k: int) -> float:
    """The share of images whose class is among the k most probable; top 1 is the accuracy.

    Of equal logits the first class comes first, as in `Predictions.classes`.
    """
    logits, labels = predicted.logits, predicted.labels[:, None]
    own = np.take_along_axis(logits, labels, axis=1)
    earlier = np.arange(predicted.num_classes) < labels
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return float((rank < k).mean())


def top_k_accuracies(predicted: Predictions) -> dict[int, float]:
    """`top_k` by each k of `TOP_K` that there are classes for."""
    return {k: top_k(predicted, k) for k in TOP_K if k <= predicted.num_classes}


def nll(predicted: Predictions) -> float:
    """Mean negative log-likelihood of the true classes."""
    return float(-log_softmax(predicted.logits.astype(np.float64), axis=1)[_true(predicted)].mean())


def brier(predicted: Predictions) -> float:
    """Mean over images of the sum over classes of (probability - truth)², from 0 to 2."""
    p = predicted.probabilities
    return float(((p**2).sum(axis=1) - 2 * p[_true(predicted)] + 1).mean())


def _true(predicted: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in an array (N, C) the true classes stand."""
    return np.arange(len(predicted.labels)), predicted.labels
