"""Does a network that is 80 % sure get 80 % right?

Top-label calibration: the confidence is the probability of the predicted class.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from triptych.runs.predictions import Predictions
from triptych.tools.statistics.groups import resample_images, share_interval
from triptych.tools.statistics.inference import LEVEL, Interval
from triptych.tools.statistics.scores import nll

NUM_BINS = 15
NUM_NULL_DRAWS = 200
TEMPERATURES = (0.05, 20.0)  # bounds: a validation set that is all right has no best one


class Bin(NamedTuple):
    confidence: float  # mean
    accuracy: float
    interval: Interval  # of the accuracy
    num_images: int


class Reliability(NamedTuple):
    """`error` is the calibration error over 15 equal-mass bins, `interval` its 95 % bootstrap.

    That interval is a little narrow: it held the truth of 88 in 100 networks at 1,500 images, and
    of 92 and more at 10,000.
    `expected` and `expected_high` are the mean and the 95 % quantile of what a perfectly calibrated
    network with these confidences would show at this number of images. Where images have groups,
    resamples are of whole ones, and that network is wrong about a group as this one is, up or down.
    """

    error: float
    interval: Interval
    expected: float
    expected_high: float
    nll: float
    bins: list[Bin]


class Calibration(NamedTuple):
    """As trained, and with logits divided by the temperature that suits validation best."""

    before: Reliability
    temperature: float | None
    after: Reliability | None


def calibrate(test: Predictions, val: Predictions | None) -> Calibration:
    """The calibration on `test`, and after the best temperature on `val` where that is given.

    Validation chose the checkpoint too, so its temperature may come out a little too small.
    """
    before = reliability(test)
    if val is None:
        return Calibration(before, None, None)
    temperature = best_temperature(val)
    return Calibration(before, temperature, reliability(scale(test, temperature)))


def scale(test: Predictions, temperature: float) -> Predictions:
    """With logits divided by it."""
    return replace(test, logits=test.logits.astype(np.float64) / temperature)


def calibration_error(predictions: Predictions) -> float:
    """`reliability(predictions).error` alone, forty times as fast."""
    order, bins = _equal_mass_bins(predictions)
    gaps = (predictions.confidence - predictions.correct)[order]
    return float(sum(abs(gaps[bin].sum()) for bin in bins)) / len(order)


def reliability(predictions: Predictions) -> Reliability:
    """The calibration error, with what it is to be measured against."""
    order, bins = _equal_mass_bins(predictions)
    confidence, correct = predictions.confidence[order], predictions.correct[order]
    groups = predictions.groups
    gaps, num_images, starts = confidence - correct, len(order), [bin[0] for bin in bins]

    def error(gap_sums: NDArray[np.floating], num: Any = num_images) -> NDArray[np.float64]:
        """The calibration error, from sums of gaps by bin along the last axis."""
        total: NDArray[np.float64] = np.abs(gap_sums).sum(axis=-1, dtype=np.float64)
        return np.asarray(total / num)

    value = float(error(np.add.reduceat(gaps, starts)))
    gaps_by_bin = np.zeros((num_images, len(bins)), dtype=np.float32)
    for i, bin in enumerate(bins):
        gaps_by_bin[order[bin], i] = gaps[bin]
    counts = resample_images(num_images, groups)
    parts = np.array_split(counts, 20)  # a product makes floats of a part
    resampled = np.concatenate([error(part @ gaps_by_bin, part.sum(axis=1)) for part in parts])
    random = np.random.default_rng(0)
    if groups is None:
        hits = random.random((NUM_NULL_DRAWS, num_images), np.float32) < confidence
        null = error(np.add.reduceat(hits - confidence, starts, axis=1))
    else:
        names, group = np.unique(groups, return_inverse=True)
        null = error(random.choice([-1, 1], (NUM_NULL_DRAWS, len(names)))[:, group] @ gaps_by_bin)
    null_high = float(np.quantile(null, LEVEL))
    # The basic bootstrap interval: resampled errors exceed `value` as much as it the truth; down
    # to 0 where a perfectly calibrated network may well show `value`, always up to `value`.
    low, high = 2 * value - np.quantile(resampled, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    low = 0.0 if value <= null_high else max(float(low), 0.0)
    return Reliability(
        error=value,
        interval=Interval(low, max(float(high), value)),
        expected=float(null.mean()),
        expected_high=null_high,
        nll=nll(predictions),
        bins=[_summarize_bin(predictions, order[bin]) for bin in bins],
    )


def _equal_mass_bins(predictions: Predictions) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Places (N,) by rising confidence (equal ones by index), and bins that differ by one."""
    order = np.argsort(predictions.confidence, kind="stable")
    return order, np.array_split(np.arange(len(order)), min(NUM_BINS, len(order)))


def _summarize_bin(predictions: Predictions, places: NDArray[np.int64]) -> Bin:
    confidence, correct = predictions.confidence[places], predictions.correct[places]
    groups = None if predictions.groups is None else predictions.groups[places]
    interval = share_interval(correct, groups)
    return Bin(float(confidence.mean()), float(correct.mean()), interval, len(correct))


def best_temperature(val: Predictions) -> float:
    """The temperature that minimises the mean negative log-likelihood, over its logarithm."""
    logits = val.logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    true_logit = float(np.take_along_axis(logits, val.labels[:, None], axis=1).mean())

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.log(np.exp(logits * scale).sum(axis=1)).mean()) - true_logit * scale

    bounds = tuple(map(math.log, TEMPERATURES))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)
