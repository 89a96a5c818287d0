"""The best of k trials of a random search, from the scores of B: what tuning of that budget gives.

Trials must be independent draws, so neither those of a sampler that learns nor one that was chosen
beforehand. Higher scores are better: give losses negated.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc

from triptych.tools.statistics.inference import LEVEL, WithInterval

TAIL = (1 - LEVEL) / 2


def expected_best(scores: ArrayLike, k: int) -> float:
    """Without bias: the mean over all choices of k of the scores."""
    ordered = np.sort(scores)
    return float(weigh_best(len(ordered), k) @ ordered[k - 1 :])


def best_beats(a: ArrayLike, b: ArrayLike, k: int) -> float:
    """The chance that the best of k trials of A is better than that of k of B, ties by half."""
    a, b = np.sort(a), np.sort(b)
    x, y = a[k - 1 :, None], b[k - 1 :]
    wins = (x > y) + 0.5 * (x == y)
    return float(weigh_best(len(a), k) @ wins @ weigh_best(len(b), k))


def weigh_best(num_trials: int, k: int) -> NDArray[np.float64]:
    """(B - k + 1,) the chance that each of the k-th lowest score to the highest is the best of k
    trials, drawn without replacement: C(i - 1, k - 1) / C(B, k)."""
    assert 1 <= k <= num_trials
    below = np.arange(num_trials, k, -1.0)
    return np.cumprod([k / num_trials, *((below - k) / (below - 1))])[::-1]


def median_best(scores: ArrayLike, k: int) -> WithInterval:
    """The median of the best of k, with its exact interval: infinite where it is open."""
    ordered = np.array([-math.inf, *np.sort(scores), math.inf])
    num_trials = len(ordered) - 2
    place = min(math.ceil(2 ** (-1 / k) * num_trials), num_trials)
    low, high = bound_median(num_trials, k)
    return WithInterval(*ordered[[place, low, high]].tolist())


def bound_median(num_trials: int, k: int) -> tuple[int, int]:
    """Which scores, the lowest 1, hold the median of the best of k between them, whatever their
    distribution (Lourie, Cho and He 2024); 0 and B + 1 are none.

    The upper end is open beyond k = B / 5.3.
    """
    quantile, num_below = 2 ** (-1 / k), np.arange(num_trials)
    low = int((bdtr(num_below, num_trials, quantile) <= TAIL).sum())
    high = 1 + int((bdtrc(num_below, num_trials, quantile) > TAIL).sum())
    return low, high
