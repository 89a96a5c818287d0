"""Images that belong together: intervals and resamples count groups of them, not images.

Shapes: N images, R resamples. `groups` (N,) are equal within one; with None each image is one.
"""

import numpy as np
from numpy.typing import NDArray

from triptych.tools.statistics.crossed import (
    Estimate,
    Trainings,
    crossed_difference,
    paired_difference,
    sum_by_group,
    summarize_trainings,
)
from triptych.tools.statistics.inference import (
    LEVEL,
    NUM_RESAMPLES,
    Interval,
    resample_counts,
    wilson,
)

Groups = NDArray[np.int64] | None


def count_groups(groups: Groups) -> int | None:
    return None if groups is None else len(np.unique(groups))


def share_interval(right: NDArray[np.bool_], groups: Groups, level: float = LEVEL) -> Interval:
    """Of the share of images that are right, (N,): Wilson's, or a t interval over groups.

    Where groups do not scatter, it is Wilson's of as many images as there are groups.
    """
    if groups is None or not len(right):
        return wilson(int(right.sum()), len(right), level)
    by_group = sum_by_group(right[None].astype(np.float64), groups)[0]
    num, share, scatter = len(by_group), float(right.mean()), float(np.ptp(by_group))
    if num < 2 or scatter < 1e-9:
        return wilson(share * num, num, level)
    variance = float(by_group.var(ddof=1)) / num
    return Estimate(share, share, variance, num - 1, Interval(0, 1)).interval(level)


def network_difference(a: NDArray[np.bool_], b: NDArray[np.bool_], groups: Groups) -> Estimate:
    """Of two networks' correctness (N,) on the same images."""
    if groups is None:
        return paired_difference(a, b)
    return difference_over_groups(*(summarize_trainings(each[None], groups) for each in (a, b)))


def difference_over_groups(a: Trainings, b: Trainings) -> Estimate:
    """Of accuracies by group, with two pseudo-groups only where nothing scatters else: few groups
    that agree would be certain to be all."""
    found = crossed_difference(a, b, bounds=Interval(-1, 1))
    if found.variance:
        return found
    return crossed_difference(a, b, bounds=found.bounds, pseudo_images=True)


def resample_images(
    num_images: int, groups: Groups, num_resamples: int = NUM_RESAMPLES
) -> NDArray[np.uint8]:
    """How often each resample of whole groups holds each image, (R, N)."""
    if groups is None:
        return resample_counts(num_images, num_resamples)
    names, group = np.unique(groups, return_inverse=True)
    return resample_counts(len(names), num_resamples)[:, group]
