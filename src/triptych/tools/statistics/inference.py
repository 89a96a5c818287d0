"""Intervals of shares and of resamples, and tests of many pairs at once.

Shapes: N images, R resamples.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

LEVEL = 0.95
MIN_SEEDS = 3
NUM_RESAMPLES = 1000


class Interval(NamedTuple):
    low: float
    high: float


class WithInterval(NamedTuple):
    """A value and its interval, 95 % unless its owner says otherwise; NaN without an interval."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def includes_zero(self) -> bool:
        return self.low <= 0 <= self.high

    def negate(self) -> "WithInterval":
        return WithInterval(-self.value, -self.high, -self.low)


def wilson(correct: float, num_images: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval for a share; without images it is 0 to 1."""
    k, n, z2 = correct, num_images, float(ndtri((1 + level) / 2)) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (k * (n - k) / max(n, 1) + z2 / 4)) / (n + z2)
    return Interval(centre - half if k else 0.0, centre + half if k < n else 1.0)


def holm(p_values: Sequence[float], num_tests: int = 0) -> NDArray[np.float64]:
    """Holm's adjusted p values, in the given order; of more tests if not all have a p yet."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    most = max(num_tests, len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(most, most - len(p), -1))
    return np.minimum(adjusted, 1)


def bonferroni_level(num_pairs: int, level: float = LEVEL) -> float:
    """The level of each interval at which all `num_pairs` hold together at `level`."""
    return 1 - (1 - level) / max(num_pairs, 1)


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


def bootstrap_interval(
    value: float, resampled: NDArray[np.float64], level: float = LEVEL
) -> Interval:
    """A normal interval around a statistic, with the standard deviation of its resamples (R,).

    At a level that holds for many pairs at once, a percentile would be an extreme resample.
    """
    half = float(ndtri((1 + level) / 2) * resampled.std(ddof=1))
    return Interval(value - half, value + half)
