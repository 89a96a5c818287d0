"""Statements about a recipe that was trained several times, all runs on the same test images.

Shapes: n seeds of a recipe, N images.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from triptych.tools.statistics.intervals import LEVEL, Interval

MIN_SEEDS = 3


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
    variances = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    df = np.array([len(sample) - 1 for sample in samples])
    total = float(variances.sum())
    df_total = total**2 / float((variances**2 / df).sum()) if total else math.inf
    return Estimate(float(by_image.mean()), math.sqrt(total), df_total)
