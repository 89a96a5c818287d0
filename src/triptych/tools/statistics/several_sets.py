"""A pair on several data sets: how many show one better, and the mean over exactly these.

No test is over sets: of three to eight that nobody drew, the smallest p of a rank test is 0.03.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from triptych.tools.statistics.crossed import Estimate, combine
from triptych.tools.statistics.inference import LEVEL, holm


class Count(NamedTuple):
    """Of sets, at least so many."""

    better: int
    worse: int


def count_better(
    p_values: Sequence[Sequence[float]], differences: Sequence[Sequence[float]]
) -> list[Count]:
    """Of each pair, a row, on how many sets A is better than B, and on how many worse: lower limits
    that all hold together at 95 % (Dror et al., 2017)."""
    ends = np.cumsum([len(row) for row in p_values])[:-1]
    adjusted = np.split(holm(np.concatenate(p_values).tolist()), ends)
    signs = [np.sign(d)[p < 1 - LEVEL] for p, d in zip(adjusted, differences, strict=True)]
    return [Count(int((each > 0).sum()), int((each < 0).sum())) for each in signs]


def mean_over_sets(estimates: Sequence[Estimate]) -> Estimate:
    """The mean difference over these sets, whose images and trainings are independent."""
    variances = [each.variance / len(estimates) ** 2 for each in estimates]
    value = float(np.mean([each.value for each in estimates]))
    return combine(value, variances, [each.df for each in estimates])
