"""Sets of classes that hold the true one with a promised chance; exact bounds of shares.

A threshold is calibrated on images that the network did not learn from. What it promises of new
ones holds where these are exchangeable with them; of shifted images nothing is promised.

Shapes: N images, C classes.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from triptych.tools.statistics.inference import LEVEL, Interval

PENALTY, FREE_RANKS = 0.01, 5  # of RAPS (Angelopoulos et al., 2021): fixed, not tuned
Array = NDArray[np.float64]


def find_rank(num_images: int, alpha: float) -> int:
    """Which smallest score of so many is the threshold; above `num_images` there is none.

    Of `alpha` as it is written: as floats, 100 (1 - 0.1) could be above 90.
    """
    return math.ceil((num_images + 1) * (1 - Fraction(str(alpha))))


def find_threshold(scores: Array, alpha: float) -> float:
    """The score up to which a class is in the set; infinite of too few images."""
    rank = find_rank(len(scores), alpha)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def lac_scores(probabilities: Array) -> Array:
    """By the probability of each class, (N, C): the smallest sets (Sadinle, Lei, Wasserman 2019).

    Where 1 - alpha is below the accuracy some sets are empty.
    """
    return 1 - probabilities


def raps_scores(
    probabilities: Array, u: Array, penalty: float = PENALTY, free_ranks: int = FREE_RANKS
) -> Array:
    """By the probability of likelier classes, `u` (N,) of each class's own, and a penalty of late
    ranks, (N, C): sets that grow on hard images. Of equal classes the first is likelier."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, axis=1)
    ranks = np.arange(1, order.shape[1] + 1)
    scores = np.cumsum(ordered, axis=1) - (1 - u[:, None]) * ordered
    scores += penalty * np.maximum(ranks - free_ranks, 0)
    result = np.empty_like(scores)
    np.put_along_axis(result, order, scores, axis=1)
    return result


def take_labels(scores: Array, labels: NDArray[np.int64]) -> Array:
    """The scores of the true classes, (N,)."""
    return np.asarray(scores[np.arange(len(labels)), labels])


class CoverageLaw(NamedTuple):
    """Beta(a, b), of the coverages that thresholds have; their mean is at least 1 - alpha."""

    a: int
    b: int

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    def quantile(self, share: float) -> float:
        """What the coverage of this share of calibrations stays below."""
        return float(betaincinv(self.a, self.b, share))


def coverage_law(num_images: int, alpha: float) -> CoverageLaw:
    """Of so many images that chose nothing else; they have to be enough for a threshold."""
    rank = find_rank(num_images, alpha)
    assert rank <= num_images
    return CoverageLaw(rank, num_images + 1 - rank)


def selection_slack(num_images: int, num_networks: int) -> float:
    """How far the chance of coverage may lie below (1 - alpha)(1 + 1/N) where the same images chose
    one of these networks before (Yang and Kuchibhotla, 2025)."""
    if num_networks < 2:
        return 0.0
    return (math.sqrt(math.log(2 * num_networks) / 2) + 1 / 3) / math.sqrt(num_images)


def clopper_pearson(count: int, total: int, level: float = LEVEL) -> Interval:
    """The exact interval of a share."""
    tail = (1 - level) / 2
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    return Interval(low, bound_share(count, total, 1 - tail))


def bound_share(count: int, total: int, level: float = LEVEL) -> float:
    """The exact one-sided upper bound of a share: of the errors among test images that a network
    answers for, however validation chose the confidence that it answers from."""
    return float(betaincinv(count + 1, total - count, level)) if count < total else 1.0
