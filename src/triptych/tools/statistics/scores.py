"""Scores of one network on one split, from its predictions.

Shapes: N images, C classes. Fractions are in [0, 1], losses in nats.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from triptych.runs.predictions import Predictions

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


def score_predictions(predictions: Predictions) -> Scores:
    confusion = confusion_matrix(predictions)
    num_true, num_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    values = per_class(confusion)
    defined = [np.nan_to_num(value) for value in values]
    return Scores(
        accuracy=float(predictions.correct.mean()),
        macro=Averages(*(float(value.mean()) for value in defined)),
        weighted=Averages(*(float(np.average(value, weights=num_true)) for value in defined)),
        undefined_classes=int(((num_true == 0) | (num_predicted == 0)).sum()),
        nll=nll(predictions),
        brier=brier(predictions),
        per_class=values,
        confusion=confusion,
    )


def confusion_matrix(predictions: Predictions) -> NDArray[np.int64]:
    """Counts (C, C): a row for each true class, a column for each predicted one."""
    num_classes = predictions.num_classes
    pairs = predictions.labels * num_classes + predictions.classes
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(confusion: NDArray[np.int64]) -> PerClass:
    right, num_true, num_predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an undefined value
        f1 = 2 * right / (num_true + num_predicted)
        return PerClass(f1=f1, precision=right / num_predicted, recall=right / num_true)


def top_k_accuracies(predictions: Predictions) -> dict[int, float]:
    """The share of images whose class is among the k most probable, by k of `TOP_K` up to C.

    Of equal logits the first class comes first, as in `Predictions.classes`.
    """
    logits, labels = predictions.logits, predictions.labels[:, None]
    true_logit = np.take_along_axis(logits, labels, axis=1)
    earlier = np.arange(predictions.num_classes) < labels
    rank = ((logits > true_logit) | ((logits == true_logit) & earlier)).sum(axis=1)
    return {k: float((rank < k).mean()) for k in TOP_K if k <= predictions.num_classes}


def nll(predictions: Predictions) -> float:
    """Mean negative log-likelihood of the true classes."""
    log_p = log_softmax(predictions.logits.astype(np.float64), axis=1)
    return float(-log_p[np.arange(len(log_p)), predictions.labels].mean())


def brier(predictions: Predictions) -> float:
    """Mean over images of the sum over classes of (probability - truth)², from 0 to 2."""
    p = predictions.probabilities
    true_p = p[np.arange(len(p)), predictions.labels]
    return float(((p**2).sum(axis=1) - 2 * true_p + 1).mean())
