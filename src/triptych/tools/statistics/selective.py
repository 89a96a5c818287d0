"""To answer only from some confidence on: the risk is the share of errors among what is answered.

Shapes: N images, T confidences that differ.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.tools.statistics.conformal import Array, clopper_pearson
from triptych.tools.statistics.groups import Groups, share_interval
from triptych.tools.statistics.inference import LEVEL, Interval


class RiskCurve(NamedTuple):
    """By falling confidence (T,): the images of at least that much, and the errors among them."""

    confidence: Array
    num_answered: NDArray[np.int64]
    num_errors: NDArray[np.int64]


def trace_risk(confidence: Array, correct: NDArray[np.bool_]) -> RiskCurve:
    """Of (N,) images; equal confidences are answered together."""
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    last = np.flatnonzero(np.append(np.diff(falling) != 0, True))
    return RiskCurve(falling[last], last + 1, np.cumsum(~correct[order], dtype=np.int64)[last])


def choose_confidence(curve: RiskCurve, risk: float) -> float:
    """The lowest one of at most that risk; infinite where there is none.

    On other images the risk is above it about as often as not: only images that had no part in
    the choice bound it.
    """
    [places] = np.nonzero(curve.num_errors / curve.num_answered <= risk)
    return float(curve.confidence[places[-1]]) if len(places) else math.inf


def exact_interval(right: NDArray[np.bool_], groups: Groups, level: float = LEVEL) -> Interval:
    """Of a share of images (N,): Clopper and Pearson's, or a t interval over groups."""
    if groups is None:
        return clopper_pearson(int(right.sum()), len(right), level)
    return share_interval(right, groups, level)


def draw_uniform(index: NDArray[np.int64], stream: int) -> Array:
    """A number in [0, 1) for each image (N,), the same wherever its index is drawn in a stream
    (SplitMix64: Steele, Lea and Flood, 2014)."""
    start = np.uint64(stream) << np.uint64(56)
    z = (index.astype(np.uint64) + start + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)
