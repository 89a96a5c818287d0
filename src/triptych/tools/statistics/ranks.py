"""Ranks of recipes with their intervals, which may be the best, and who beats whom when trained
once more.

Shapes: K recipes, n seeds of a recipe, N images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import chdtri, gammaincinv, nctdtrinc, ndtr

from triptych.tools.statistics.crossed import Trainings
from triptych.tools.statistics.inference import LEVEL, WithInterval

FAR = 100.0  # a t beyond which every chance is next to 0 or 1
NUM_DRAWS = 100_000  # a share of draws is known to 0.003


class RankInterval(NamedTuple):
    best: int  # 1 is the best of all
    worst: int


def find_rank_intervals(num_recipes: int, wins: Sequence[tuple[int, int]]) -> list[RankInterval]:
    """From the pairs, of all, that differ significantly, each the better and the worse one.

    All ranks are inside at the level at which the pairs were adjusted (Mohamad, Goeman and van
    Zwet, 2022).
    """
    better, worse = np.array(wins, dtype=np.int64).reshape(-1, 2).T
    won, lost = (np.bincount(each, minlength=num_recipes) for each in (better, worse))
    return [
        RankInterval(1 + n, num_recipes - m)
        for n, m in zip(lost.tolist(), won.tolist(), strict=True)
    ]


def estimate_best(recipes: Sequence[Trainings], sign: int = 1) -> NDArray[np.float64]:
    """The share (K,) of draws in which each is the best, its mean shrunk to that of all by as much
    as they scatter by chance. Of one training each, of these networks over other images.

    Descriptive: it overstates the first where recipes hardly differ. `sign` is -1 of losses.
    """
    k, rng = len(recipes), np.random.default_rng(0)
    means = sign * np.stack([each.by_image for each in recipes])
    if means.shape[1] < 2:  # nothing says how they would do on others
        return np.full(k, 1 / k)
    y, covariance = means.mean(axis=1), np.cov(means) / means.shape[1]
    skill, df = np.array([_skill_variance(each) for each in recipes]).T
    total = covariance + np.diag(skill)
    own = np.trace(total) / k - (total.sum() - np.trace(total)) / (k * (k - 1))
    # equal means may have a variance by rounding
    spread = max(float(y.var(ddof=1)) - own, 0.0) if np.ptp(y) else 0.0
    if not spread:
        return np.full(k, 1 / k)
    # no check: of large losses it takes rounding for a fault
    noise = rng.multivariate_normal(
        np.zeros(k), covariance, NUM_DRAWS, check_valid="ignore", method="eigh"
    )
    noise += np.sqrt(skill) * rng.standard_t(df, (NUM_DRAWS, k))
    shrink = spread / (spread + own)
    drawn = y.mean() + shrink * (y - y.mean()) + math.sqrt(shrink) * noise
    return np.bincount(drawn.argmax(axis=1), minlength=k) / NUM_DRAWS


def _skill_variance(recipe: Trainings) -> tuple[float, int]:
    """Of its mean over seeds, beyond the flips that images' means have in them already, and its
    degrees of freedom; none of one training."""
    if recipe.num_seeds == 1:
        return 0.0, 1
    flips = recipe.flips / recipe.num_images
    return max(recipe.seed_variance - flips, 0.0) / recipe.num_seeds, recipe.num_seeds - 1


def estimate_win(a: ArrayLike, b: ArrayLike) -> WithInterval:
    """The chance that one new training of A scores higher than one of B on these very images, from
    scores of seeds (n,): normal, with limits by the noncentral t."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    # equal scores may have a variance by rounding
    variances = [float(each.var(ddof=1)) if np.ptp(each) else 0.0 for each in (x, y)]
    total, difference = sum(variances), float(x.mean() - y.mean())
    if not total:
        return WithInterval((1 + float(np.sign(difference))) / 2, 0.0, 1.0)
    by_seed = [v / len(each) for v, each in zip(variances, (x, y), strict=True)]
    df = total**2 / sum(v**2 / (len(e) - 1) for v, e in zip(variances, (x, y), strict=True))
    scale, d = math.sqrt(total / sum(by_seed)), difference / math.sqrt(total)
    tail = (1 - LEVEL) / 2
    limits = [find_noncentrality(df, p, scale * d) / scale for p in (1 - tail, tail)]
    return WithInterval(*(float(ndtr(each)) for each in (d, *limits)))


def find_noncentrality(df: float, p: float, t: float) -> float:
    """That at which a noncentral t is t or less with probability p."""
    if t < 0:
        return -find_noncentrality(df, 1 - p, -t)
    if t > FAR:  # scipy does not come to an end at 1e6; here chi is all that scatters
        return t * math.sqrt(float(chdtri(df, p)) / df)
    found = float(nctdtrinc(df, p, t))
    return found if math.isfinite(found) else solve_noncentrality(df, p, t)


def solve_noncentrality(df: float, p: float, t: float) -> float:
    """The same by integration, slower, for t from 0: where scipy has none."""

    def excess(noncentrality: float) -> float:
        def below(u: float) -> float:
            return float(ndtr(t * math.sqrt(2 * gammaincinv(df / 2, u) / df) - noncentrality))

        return float(quad(below, 0, 1, limit=400)[0]) - p

    half = 10 + 3 * t  # wide enough from two degrees of freedom on
    return float(brentq(excess, -half, half))
