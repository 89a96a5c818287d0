"""Sets of classes that hold the true one with a promised chance; the exact interval of a share.

A threshold is calibrated on images that the network did not learn from. What it promises of new
ones holds where these are exchangeable with them; of shifted images nothing is promised.

Shapes: N images, C classes.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from triptych.tools.statistics.inference import LEVEL, Interval

PENALTY, FREE_RANKS = 0.01, 5  # of RAPS (Angelopoulos et al., 2021): fixed, not tuned
AT_ONCE = 2_000_000  # probabilities that are sorted, for their memory
Array = NDArray[np.float64]


def raps_scores(
    probabilities: Array, u: Array, penalty: float = PENALTY, free_ranks: int = FREE_RANKS
) -> Array:
    """By the probability of likelier classes, `u` (N,) of each class's own, and a penalty of late
    ranks, (N, C): sets that grow on hard images. Of equal classes the first is likelier.

    The smallest sets are those by `1 - probabilities` (LAC: Sadinle, Lei, Wasserman 2019), some of
    them empty where the level is below the accuracy.
    """
    ranks = np.arange(1, probabilities.shape[1] + 1)
    late = penalty * np.maximum(ranks - free_ranks, 0)
    scores = np.empty_like(probabilities)
    step = max(1, AT_ONCE // len(ranks))
    for start in range(0, len(probabilities), step):
        p = probabilities[start : start + step]
        order = np.argsort(-p, axis=1, kind="stable")
        ordered = np.take_along_axis(p, order, axis=1)
        above = np.cumsum(ordered, axis=1) - (1 - u[start : start + step, None]) * ordered
        np.put_along_axis(scores[start : start + step], order, above + late, axis=1)
    return scores


def find_threshold(scores: Array, level: float) -> float:
    """The score up to which a class is in the set, by those of true classes (N,); infinite of too
    few images."""
    rank = find_rank(len(scores), level)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def find_rank(num_images: int, level: float) -> int:
    """Which smallest score of so many is the threshold; above `num_images` there is none.

    The coverages of thresholds are Beta(rank, num_images + 1 - rank): at least `level` on average,
    where the images chose nothing else. Of `level` as it is written: as a float, 100 x 0.07 is
    above 7.
    """
    return math.ceil((num_images + 1) * Fraction(str(level)))


def find_least_images(level: float) -> int:
    """The fewest images that give a threshold."""
    share = Fraction(str(level))
    return math.ceil(share / (1 - share))


def selection_slack(num_images: int, num_networks: int) -> float:
    """How far the chance of coverage may lie below level (1 + 1/N) where the same images chose
    one of these networks before (Yang and Kuchibhotla, 2025)."""
    if num_networks < 2:
        return 0.0
    return (math.sqrt(math.log(2 * num_networks) / 2) + 1 / 3) / math.sqrt(num_images)


def guarantee_coverage(num_images: int, level: float, num_networks: int) -> float:
    """The chance of coverage, over validation sets and new images, is at least this: where these
    images chose one of so many networks before, 1 where they chose nothing. Sets of too few images
    have every class."""
    if find_rank(num_images, level) > num_images:
        return 1.0
    if num_networks < 2:
        return level
    return max(level * (1 + 1 / num_images) - selection_slack(num_images, num_networks), 0.0)


def clopper_pearson(count: int, total: int, level: float = LEVEL) -> Interval:
    """The exact interval of a share. Its upper end at 0.90 is the one-sided bound at 0.95: of the
    errors among test images that a network answers for, say, however validation chose the
    confidence that it answers from."""
    tail = (1 - level) / 2
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return Interval(low, high)
