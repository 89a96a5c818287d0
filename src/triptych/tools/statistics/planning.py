"""What a comparison of two recipes will see before it is run, and tests at planned looks.

The very interval of `crossed_difference` is drawn, by normal theory: the closed form by the
noncentral t is too hopeful by up to a fifth at three seeds. Shapes: R draws, N images, n seeds of
each recipe, K looks, m pairs. Variances are of the values of one image.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, ndtri, stdtrit

from triptych.tools.statistics.crossed import Estimate, Trainings, crossed_difference
from triptych.tools.statistics.inference import LEVEL, MIN_SEEDS, Interval

ALPHA = 1 - LEVEL
POWER = 0.8  # that a difference which "can be seen" has of being found
NUM_DRAWS = 20_000
MAX_SEEDS = 10_000  # of a recipe, that anybody is told to train
SKILL_LIMIT = 0.8  # of the upper limit at which a pilot's plan is shown, too


class Scatter(NamedTuple):
    """What two recipes' difference scatters by: fractions squared, a tuple for A and B."""

    image: float  # of the expected difference, over images
    skill: tuple[float, float]  # of a training's mean, over trainings, without flips
    flips: tuple[float, float]  # images times trainings


def guess_scatter(
    churn: float, disagreement: float, skill_sd: float, difference: float = 0.0
) -> Scatter:
    """From shares of test images on which two trainings differ in being right.

    `churn`: two of one recipe; `disagreement`: one of each recipe. `skill_sd`: a fraction.
    """
    flips = max(churn / 2 - skill_sd**2, 0.0)
    image = max(disagreement - churn - difference**2, 0.0)
    return Scatter(image, (skill_sd**2,) * 2, (flips,) * 2)


def estimate_scatter(a: Trainings, b: Trainings, skill_limit: float | None = None) -> Scatter:
    """From trainings of both, the skills pooled; at the upper limit of skill where that is given.

    Three seeds of each at least, on the same images.
    """
    num_images, num_seeds = a.num_images, (a.num_seeds, b.num_seeds)
    image = crossed_difference(a, b).image * num_images
    df = sum(num_seeds) - len(num_seeds)
    pooled = float(np.average([a.seed_variance, b.seed_variance], weights=np.array(num_seeds) - 1))
    if skill_limit is not None:  # chdtri is of the upper tail
        pooled *= df / float(chdtri(df, skill_limit))
    skill = max(pooled - (a.flips + b.flips) / 2 / num_images, 0.0)
    return Scatter(image, (skill, skill), (a.flips, b.flips))


def look_weights(looks: Sequence[int]) -> NDArray[np.float64]:
    """The share (K,) of the level that each look spends, by Lan and DeMets' Pocock-type function of
    the planned seeds; of one look 1."""
    spent = np.log1p((math.e - 1) * np.asarray(looks) / looks[-1])
    return np.diff(spent, prepend=0.0)


def sequential_p(p_values: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """After each look done, from the p values of the looks so far: a union bound, so valid
    whatever stops. `p_values` (K', ...) for K' <= K looks; weights (K,)."""
    p = np.asarray(p_values, dtype=np.float64)
    shares = np.asarray(weights)[: len(p)].reshape(-1, *[1] * (p.ndim - 1))
    return np.minimum(np.minimum.accumulate(p / shares, axis=0), 1.0)


class LookedEstimate(Estimate):
    """An estimate at the last of its looks, whose p values and intervals keep the level over all.

    Where no look was done its interval is as usual, and every p is 1. A look on the other side of
    the hypothesis counts for nothing: what it found is not what would be said.
    """

    looks: Sequence[Estimate] = ()
    weights: NDArray[np.float64] = look_weights([1])

    def level_at_look(self, level: float) -> float:
        """Of an interval by itself, at which those of all looks hold together."""
        share = float(self.weights[len(self.looks) - 1]) if self.looks else 1.0
        return 1 - (1 - level) * share

    def interval(self, level: float = LEVEL) -> Interval:
        return super().interval(self.level_at_look(level))

    def p(self, null: float = 0.0) -> float:
        is_above = self.centre > null
        each = [e.p(null) if (e.centre > null) == is_above else 1.0 for e in self.looks]
        return float(min(sequential_p(each, self.weights), default=1.0))


def join_looks(shown: Estimate, looks: Sequence[Estimate], weights: ArrayLike) -> LookedEstimate:
    """What is shown, tested by the looks done so far; weights (K,) are of all that are planned."""
    joined = LookedEstimate(*shown)
    joined.looks, joined.weights = looks, np.asarray(weights)
    return joined


class DrawnLooks(NamedTuple):
    """At each look, R times, the estimate less the truth and the half-width of its interval."""

    looks: tuple[int, ...]
    error: NDArray[np.float64]  # (K, R)
    half_width: NDArray[np.float64]  # (K, R)

    @property
    def detectable_by_look(self) -> list[float]:
        """The smallest difference that each look, or one before it, finds with 80 % chance."""
        found = np.minimum.accumulate(self.half_width - self.error, axis=0)
        return [float(each) for each in np.quantile(found, POWER, axis=1)]

    @property
    def detectable(self) -> float:
        return self.detectable_by_look[-1]

    @property
    def smallest_margin(self) -> float:
        """Within which two equal recipes are shown to be with 80 % chance."""
        return float(np.quantile((np.abs(self.error) + self.half_width).min(axis=0), POWER))

    def power(self, difference: float) -> float:
        """The chance to find a difference, in its direction."""
        return self._share(self.error + difference > self.half_width)

    def equivalence_power(self, margin: float) -> float:
        """The chance that two equal recipes are shown to be within a margin."""
        return self._share(np.abs(self.error) + self.half_width < margin)

    def non_inferiority_power(self, margin: float) -> float:
        """The chance that one of two equal recipes is shown not to be worse by it."""
        return self._share(self.error - self.half_width > -margin)

    def mean_seeds(self, difference: float) -> float:
        """Of each recipe, until a difference is found or the last look is over."""
        found = np.abs(self.error + difference) > self.half_width
        found[-1] = True
        return float(np.asarray(self.looks)[found.argmax(axis=0)].mean())

    @staticmethod
    def _share(is_shown: NDArray[np.bool_]) -> float:
        return float(is_shown.any(axis=0).mean())


def draw_looks(
    scatter: Scatter,
    looks: Sequence[int],
    num_images: int,
    num_pairs: int = 1,
    num_draws: int = NUM_DRAWS,
) -> DrawnLooks:
    """Intervals at each look, at its share of the level over the pairs (Holm's first step).

    One look is a design of so many seeds. The same draws every time.
    """
    rng = np.random.default_rng(0)
    flips = [each / num_images for each in scatter.flips]
    totals = [s + f for s, f in zip(scatter.skill, flips, strict=True)]
    image = rng.normal(0, math.sqrt(scatter.image / num_images), num_draws)
    means = np.zeros((2, num_draws))
    squares = np.zeros((2, num_draws))  # around the mean of the seeds so far
    alphas, seen = ALPHA * look_weights(looks) / max(num_pairs, 1), 0
    errors, half_widths = [], []
    for n, alpha in zip(looks, alphas, strict=True):
        for i, total in enumerate(totals):  # of the new seeds, joined to those before
            new, block = n - seen, rng.normal(0, math.sqrt(total / (n - seen)), num_draws)
            within = rng.chisquare(new - 1, num_draws) if new > 1 else 0.0
            squares[i] += total * within + (block - means[i]) ** 2 * seen * new / n
            means[i] += (block - means[i]) * new / n
        seen, seed = n, squares / (n - 1) / n
        flip = np.array(flips)[:, None] / n
        variance = scatter.image / num_images + np.maximum(seed, flip).sum(axis=0)
        among_images = scatter.image / num_images + flip.sum()
        squared = (seed**2).sum(axis=0) / (n - 1) + among_images**2 / (num_images - 1)
        df = np.divide(variance**2, squared, out=np.full(num_draws, np.inf), where=squared > 0)
        errors.append(image + means[0] - means[1])
        half_widths.append(np.sqrt(variance) * stdtrit(df, 1 - alpha / 2))
    return DrawnLooks(tuple(looks), np.array(errors), np.array(half_widths))


def smallest_difference(scatter: Scatter, num_images: int, num_pairs: int = 1) -> float:
    """That any number of seeds finds with 80 % chance: the limit that test images set."""
    z = ndtri(1 - ALPHA / max(num_pairs, 1) / 2) + ndtri(POWER)
    return float(z * math.sqrt(scatter.image / num_images))


def count_seeds(
    scatter: Scatter, difference: float, num_images: int, num_pairs: int = 1
) -> int | None:
    """The fewest seeds of each, 3 at least, at which one test finds a difference with 80 % chance.

    None where no number does, or more than anybody trains.
    """

    def suffice(n: int) -> bool:
        return draw_looks(scatter, [n], num_images, num_pairs).power(difference) >= POWER

    if smallest_difference(scatter, num_images, num_pairs) >= difference:
        return None
    numbers = range(MIN_SEEDS, MAX_SEEDS + 1)
    place = bisect_left(numbers, True, key=suffice)
    return numbers[place] if place < len(numbers) else None
