"""The mean average precision of a network with any number of labels an image, by bootstrap.

Shapes: N images, C classes, R resamples.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from triptych.runs.multilabel import average_precision
from triptych.runs.predictions import MultilabelPredictions
from triptych.tools.statistics.crossed import Estimate, combine
from triptych.tools.statistics.groups import resample_images
from triptych.tools.statistics.inference import NUM_RESAMPLES


def bootstrap_ap(
    predictions: MultilabelPredictions, num_resamples: int = NUM_RESAMPLES
) -> NDArray[np.float64]:
    """The mean over classes of average precision (R,), the same resamples for every network, of
    whole groups where images have any.

    A class that a resample has no image of is left out of its mean.
    """
    counts = resample_images(len(predictions.index), predictions.groups, num_resamples)
    total, num = np.zeros(num_resamples), np.zeros(num_resamples)
    for logits, labels in zip(predictions.logits.T, predictions.labels.T, strict=True):
        ap = average_precision(logits, labels > 0, counts)
        total += np.nan_to_num(ap)
        num += ~np.isnan(ap)
    return total / np.maximum(num, 1)


def estimate_ap(
    value: float,
    draws: NDArray[np.float64],
    num_images: int,
    seeds: Sequence[NDArray[np.float64]] = (),
) -> Estimate:
    """A mean average precision, or a difference of two, with its values on resamples (R,).

    Its SE² is their variance, and s²/n of each recipe that has several `seeds` (n,). Where nothing
    scatters, as in a perfect ranking, it is infinite: nothing says how sure the value is.
    """
    variances = [float(each.var(ddof=1)) / len(each) for each in seeds]
    df = [len(each) - 1 for each in seeds]
    image = float(draws.var(ddof=1))
    if not image:
        return Estimate(value, value, math.inf, math.inf)
    return combine(value, [*variances, image], [*df, num_images - 1])
