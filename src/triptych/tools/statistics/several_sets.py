"""A pair on several data sets: how many show one better, and the mean over exactly these.

No test is over sets: of three to eight that nobody drew, the smallest p of a rank test is 0.03.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.tools.statistics.crossed import Estimate, combine
from triptych.tools.statistics.inference import LEVEL, holm


class Count(NamedTuple):
    """Of sets, at least so many."""

    better: int
    worse: int


def count_better(
    p_values: Sequence[float], differences: Sequence[float], level: float = LEVEL
) -> Count:
    """On how many sets A is better than B, and on how many worse: lower limits that hold together
    at `level` (Dror et al., 2017)."""
    is_certain = holm(p_values) < 1 - level
    signs = np.sign(differences)[is_certain]
    return Count(int((signs > 0).sum()), int((signs < 0).sum()))


def mean_over_sets(estimates: Sequence[Estimate]) -> Estimate:
    """The mean difference over these sets, of independent images and of trainings for each."""
    variances = [each.variance / len(estimates) ** 2 for each in estimates]
    value = float(np.mean([each.value for each in estimates]))
    return combine(value, variances, [each.df for each in estimates])


def join_sets(sets: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Values (n, all images) of the same n trainings on several sets (n, N each), whose mean is the
    mean of the sets'.

    So a seed's skill, which is that of a network on every set, is not counted as if it were many.
    """
    num_images = sum(x.shape[1] for x in sets)
    means = np.mean([x.mean(axis=1, keepdims=True) for x in sets], axis=0)
    parts = []
    for x in sets:
        weight = num_images / (len(sets) * x.shape[1])
        parts.append((x - x.mean(axis=1, keepdims=True)) * weight + means)
    return np.concatenate(parts, axis=1)
