"""The best of k trials of a random search, from the scores of B: what tuning of that budget gives.

Trials must be independent draws, so neither those of a sampler that learns nor one that was chosen
beforehand. Higher scores are better: give losses negated.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc

from triptych.tools.statistics.inference import LEVEL, WithInterval

Numbers = NDArray[np.float64]


class Order(NamedTuple):
    """Places of sorted scores, the lowest 1, that bound a quantile; None where it is open."""

    low: int | None
    high: int | None


def weigh_best(num_trials: int, k: int) -> Numbers:
    """(B - k + 1,) the chance that each of the k-th lowest score to the highest is the best of k
    trials, drawn without replacement: C(i - 1, k - 1) / C(B, k)."""
    if not 1 <= k <= num_trials:
        raise ValueError(f"the best of {k} takes as many trials, there are {num_trials}")
    below = np.arange(num_trials, k, -1, dtype=np.float64)
    chances = np.cumprod([k / num_trials, *((below - k) / (below - 1))])
    return np.asarray(chances[::-1], dtype=np.float64)


def expected_best(scores: ArrayLike, k: int) -> float:
    """Without bias: the mean over all choices of k of the scores."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    return float(weigh_best(len(ordered), k) @ ordered[k - 1 :])


def bound_quantile(num_trials: int, k: int, level: float = LEVEL) -> Order:
    """Which scores hold the median of the best of k between them, whatever their distribution
    (Lourie, Cho and He 2024). The upper end is open beyond k = B / 5.3."""
    quantile, tail = 2 ** (-1 / k), (1 - level) / 2
    numbers = np.arange(num_trials)  # of scores below the quantile
    low = int((bdtr(numbers, num_trials, quantile) <= tail).sum())
    high = 1 + int((bdtrc(numbers, num_trials, quantile) > tail).sum())
    return Order(low or None, high if high <= num_trials else None)


def median_best(scores: ArrayLike, k: int, level: float = LEVEL) -> WithInterval:
    """The median of the best of k, with its exact interval: infinite where it is open."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    low, high = bound_quantile(len(ordered), k, level)
    place = min(math.ceil(2 ** (-1 / k) * len(ordered)), len(ordered))
    return WithInterval(
        float(ordered[place - 1]),
        float(ordered[low - 1]) if low else -math.inf,
        float(ordered[high - 1]) if high else math.inf,
    )


def best_beats(a: ArrayLike, b: ArrayLike, k: int) -> float:
    """The chance that the best of k trials of A is better than that of k of B, ties by half."""
    a, b = np.sort(np.asarray(a, dtype=np.float64)), np.sort(np.asarray(b, dtype=np.float64))
    x, y = a[k - 1 :, None], b[k - 1 :]
    wins = (x > y) + 0.5 * (x == y)
    return float(weigh_best(len(a), k) @ wins @ weigh_best(len(b), k))
