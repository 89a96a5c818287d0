"""Intervals and tests: of trained networks, of many pairs at once, and of recipes.

Shapes: N images, C classes, K networks, R resamples, n seeds of a recipe.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri, stdtr, stdtrit

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


def wilson(correct: int, num_images: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval for a share; without images it is 0 to 1."""
    k, n, z2 = correct, num_images, float(ndtri((1 + level) / 2)) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (k * (n - k) / max(n, 1) + z2 / 4)) / (n + z2)
    return Interval(centre - half if k else 0.0, centre + half if k < n else 1.0)


class PairedDifference(NamedTuple):
    """Two trained networks A and B on the same images: how many only one of them gets right."""

    only_a: int
    only_b: int
    num_images: int

    @property
    def value(self) -> float:
        """Accuracy of A less that of B."""
        return (self.only_a - self.only_b) / self.num_images

    def interval(self, level: float = LEVEL) -> Interval:
        """The adjusted Wald interval of Bonett and Price (2012) for paired shares."""
        n = self.num_images + 2
        a, b = (self.only_a + 1) / n, (self.only_b + 1) / n
        half = float(ndtri((1 + level) / 2)) * math.sqrt((a + b - (a - b) ** 2) / n)
        return Interval(max(a - b - half, -1.0), min(a - b + half, 1.0))

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar test; 1 where the two agree on every image."""
        fewer, discordant = min(self.only_a, self.only_b), self.only_a + self.only_b
        return min(1.0, 2 * float(bdtr(fewer, discordant, 0.5)))


def paired_difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedDifference:
    """Of two networks' correctness (N,) on the same images."""
    return PairedDifference(int((a & ~b).sum()), int((b & ~a).sum()), len(a))


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's adjusted p values, in the given order."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1)


def bonferroni_level(num_pairs: int, level: float = LEVEL) -> float:
    """The level of each interval at which all `num_pairs` hold together at `level`."""
    return 1 - (1 - level) / max(num_pairs, 1)


class Estimate(NamedTuple):
    """An accuracy, or a difference of two, and its scatter over trainings and images."""

    value: float
    standard_error: float
    df: float  # degrees of freedom, infinite where nothing scatters

    def interval(self, level: float = LEVEL) -> Interval:
        half = self.standard_error * float(stdtrit(self.df, (1 + level) / 2))
        return Interval(self.value - half, self.value + half)

    @property
    def p_value(self) -> float:
        """Two-sided, of the hypothesis that the value is 0."""
        if self.standard_error == 0:
            return float(self.value == 0)
        return 2 * float(stdtr(self.df, -abs(self.value) / self.standard_error))


def recipe_accuracy(correct: NDArray[np.bool_]) -> Estimate:
    """Mean accuracy of a recipe from correctness (n, N), SE² = s²/n + Var_i(mean correctness)/N.

    It takes 3 seeds and 2 images.
    """
    return _estimate(correct.mean(axis=0), correct)


def recipe_difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Estimate:
    """Accuracy of recipe A less that of B, from correctness (n_A, N) and (n_B, N) by image.

    SE² = s²_A/n_A + s²_B/n_B + Var_i(d_i)/N: s² is the variance of accuracy over seeds, d_i the
    difference of mean correctness at image i. It takes 3 seeds of each, and 2 images.
    """
    return _estimate(a.mean(axis=0) - b.mean(axis=0), a, b)


def _estimate(by_image: NDArray[np.float64], *recipes: NDArray[np.bool_]) -> Estimate:
    """The mean over images, with the degrees of freedom of Welch and Satterthwaite."""
    assert min(map(len, recipes)) >= MIN_SEEDS
    assert len(by_image) > 1
    samples = [*(correct.mean(axis=1) for correct in recipes), by_image]
    variances = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    return combine(float(by_image.mean()), variances, [len(sample) - 1 for sample in samples])


def combine(value: float, variances: Sequence[float], df: Sequence[int]) -> Estimate:
    """A value whose variance is a sum, each with its degrees of freedom."""
    parts, total = np.array(variances), float(np.sum(variances))
    df_total = total**2 / float((parts**2 / np.array(df)).sum()) if total else math.inf
    return Estimate(value, math.sqrt(total), df_total)


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
