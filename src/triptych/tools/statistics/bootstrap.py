"""The bootstrap over images: how far a statistic would scatter on other images.

Shapes: N images, C classes, K networks, R resamples.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from triptych.tools.statistics.intervals import LEVEL, Interval

NUM_RESAMPLES = 1000


@lru_cache(maxsize=1)  # for 10,000 images 10 MB and 0.1 s
def resample_counts(num_images: int, num_resamples: int = NUM_RESAMPLES) -> NDArray[np.uint8]:
    """How often each resample holds each image, (R, N): the same for everything compared."""
    random = np.random.default_rng(0)
    counts = np.empty((num_resamples, num_images), dtype=np.uint8)  # none comes near 256
    for row in counts:
        places = random.integers(num_images, size=num_images)
        row[:] = np.bincount(places, minlength=num_images)
    counts.flags.writeable = False
    return counts


def bootstrap_macro_f1(
    labels: NDArray[np.int64],
    classes: NDArray[np.int64],
    num_classes: int,
    num_resamples: int = NUM_RESAMPLES,
) -> NDArray[np.float64]:
    """Macro F1 (K, R) of predicted classes (K, N), every network on the same resamples.

    A class that a resample has neither as a label nor as a prediction counts as 0.
    """
    counts = resample_counts(len(labels), num_resamples)

    def count_by_class(values: NDArray[np.int64], weights: NDArray[np.uint8]) -> NDArray[Any]:
        """Sums (C, R) of the weights (R, N) of images with each value."""
        sums = [np.bincount(values, of_images, num_classes) for of_images in weights]
        return np.stack(sums, axis=1, dtype=np.float32, casting="same_kind")

    num_true = count_by_class(labels, counts)
    f1 = np.empty((len(classes), num_resamples))
    for i, predicted in enumerate(classes):
        right = count_by_class(labels, counts * (predicted == labels))
        total = num_true + count_by_class(predicted, counts)
        by_class = np.divide(2 * right, total, out=np.zeros_like(total), where=total > 0)
        f1[i] = by_class.mean(axis=0, dtype=np.float64)
    return f1


def bootstrap_interval(
    value: float, resampled: NDArray[np.float64], level: float = LEVEL
) -> Interval:
    """A normal interval around a statistic, with the standard deviation of its resamples (R,).

    At a level that holds for many pairs at once, a percentile would be an extreme resample.
    """
    half = float(ndtri((1 + level) / 2) * resampled.std(ddof=1))
    return Interval(value - half, value + half)
