"""How often the statistics of a comparison are wrong, on drawn trainings whose truth is known.

`python -m tests.trials.coverage [--repetitions 1000] [--seed 0]` prints what it counted beside the
bounds within which it has to lie (by three standard errors), and exits with 1 where it does not.
A thousand repetitions take minutes on one core.

An image is classified correctly where the training's ability exceeds the image's difficulty, a
standard normal: a share of it is `common` to all recipes, `FLIPS` are drawn anew by each training
and image, the rest is the recipe's own. Abilities scatter by `skill`, a standard deviation of
accuracy. Two trainings differ on 6 % of the images. A p value is below 0.05 exactly where the
interval excludes 0: it errs in what an interval lacks to 100 %.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from triptych.tools.compare.pairs import adjust_in_margin
from triptych.tools.statistics.crossed import (
    Estimate,
    crossed_difference,
    crossed_mean,
    summarize_trainings,
)
from triptych.tools.statistics.inference import holm
from triptych.tools.statistics.planning import look_weights, sequential_p

FLIPS = 0.1
ACCURACY, MARGIN, ALPHA = 0.9, 0.01, 0.05
LOOKS = (3, 5, 10, 20)


class Setting(NamedTuple):
    name: str
    num_images: int
    common: float
    skill: float
    flips: float = FLIPS


class Result(NamedTuple):
    """In how many repetitions it was so, and between which shares, in percent, the truth is."""

    name: str
    num_hits: int
    low: float
    high: float

    def is_within(self, repetitions: int) -> bool:
        """By three standard errors."""
        share, ends = self.num_hits / repetitions, (self.low / 100, self.high / 100)
        low, high = (3 * math.sqrt(p * (1 - p) / repetitions) for p in ends)
        return ends[0] - low <= share <= ends[1] + high


# With the least and the greatest share, in percent, of intervals of 3, 5 and 10 seeds that may hold
# the truth. Where images flip and recipes are alike, the interval is wider than it has to be.
COVERED = {
    Setting("no flips", 1000, 0.8, 0.0, 0.0): (94.5, 96.5),
    Setting("no flips, skill 0.5", 1000, 0.8, 0.005, 0.0): (94.5, 96.5),
    Setting("flips, half in common", 1000, 0.5, 0.0): (95.0, 96.6),
    Setting("flips, skill 0.2", 1000, 0.8, 0.002): (95.4, 97.4),
    Setting("flips, alike", 1000, 0.9, 0.0): (98.1, 99.5),
    Setting("no flips, skill 0.2", 10_000, 0.8, 0.002, 0.0): (94.4, 95.7),
    Setting("flips, skill 0.2", 10_000, 0.8, 0.002): (94.4, 96.5),
    Setting("flips, skill 0.5", 10_000, 0.8, 0.005): (94.7, 96.1),
    Setting("flips, alike", 10_000, 0.9, 0.0): (97.5, 98.8),
    Setting("flips, alike, skill 0.2", 10_000, 0.9, 0.002): (94.6, 96.9),
}
# Recipes, seeds, skill; the greatest share of errors over all pairs, in percent.
FAMILIES = {
    (3, 5, 0.002): 5.0,
    (5, 5, 0.002): 5.0,
    (10, 5, 0.002): 5.0,
    (5, 3, 0.005): 6.9,
    (10, 3, 0.005): 10.5,
}


def draw(
    random: np.random.Generator, setting: Setting, num_seeds: int, accuracies: Sequence[float]
) -> list[NDArray[np.bool_]]:
    """Of each recipe what was right, (n, N)."""
    num_images, common, skill, flips = setting[1:]
    shared = math.sqrt(common) * random.standard_normal(num_images, np.float32)
    recipes = []
    for accuracy in accuracies:
        own = math.sqrt(max(1 - common - flips, 0)) * random.standard_normal(num_images, np.float32)
        difficulty = np.broadcast_to(shared + own, (num_seeds, num_images))
        if flips:
            anew = random.standard_normal(difficulty.shape, np.float32)
            difficulty = difficulty + math.sqrt(flips) * anew
        abilities = ndtri(accuracy + skill * random.standard_normal((num_seeds, 1)))
        recipes.append(difficulty < abilities)
    return recipes


def compare(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Estimate:
    return crossed_difference(*map(summarize_trainings, (a, b)), pseudo_images=True)


def holds(estimate: Estimate, truth: float) -> bool:
    low, high = estimate.interval()
    return low <= truth <= high


def cover(random: np.random.Generator, repetitions: int) -> Iterator[Result]:
    """Intervals of a difference and of one recipe."""
    for setting, bounds in COVERED.items():
        hits, hits_of_one = dict.fromkeys((3, 5, 10), 0), 0
        for _ in range(repetitions):
            a, b = draw(random, setting, 10, (ACCURACY, ACCURACY))
            for n in hits:
                hits[n] += holds(compare(a[:n], b[:n]), 0.0)
            hits_of_one += holds(crossed_mean(summarize_trainings(a[:3])), ACCURACY)
        name = f"{setting.num_images:,} images, {setting.name}"
        for n, hit in hits.items():
            yield Result(f"interval holds, {n} seeds, {name}", hit, *bounds)
        yield Result(f"one recipe's interval holds, 3 seeds, {name}", hits_of_one, 93, 97)


def look(random: np.random.Generator, repetitions: int) -> Iterator[Result]:
    """Errors of tests at looks, with the shares of the level and without; of two equal recipes."""
    weights = look_weights(LOOKS)
    for setting in list(COVERED)[2:5]:
        planned, uncorrected = 0, 0
        for _ in range(repetitions):
            a, b = draw(random, setting, LOOKS[-1], (ACCURACY, ACCURACY))
            p = [compare(a[:n], b[:n]).p() for n in LOOKS]
            planned += sequential_p(p, weights)[-1] < ALPHA
            uncorrected += min(p) < ALPHA
        yield Result(f"error over looks, {setting.name}", planned, 0, 5)
        yield Result(f"the same, not adjusted, {setting.name}", uncorrected, 0, 14)


def err_in_families(random: np.random.Generator, repetitions: int) -> Iterator[Result]:
    """Any error over all pairs of equal recipes."""
    for (num_recipes, n, skill), most in FAMILIES.items():
        setting, wrong = Setting("", 10_000, 0.8, skill), 0
        for _ in range(repetitions):
            drawn = draw(random, setting, n, [ACCURACY] * num_recipes)
            pairs = combinations(map(summarize_trainings, drawn), 2)
            p = [crossed_difference(a, b, pseudo_images=True).p() for a, b in pairs]
            wrong += holm(p).min() < ALPHA
        name = f"any error of {math.comb(num_recipes, 2)} pairs, {n} seeds, skill {100 * skill:.1f}"
        yield Result(name, wrong, 0, most)


def err_at_margins(random: np.random.Generator, repetitions: int) -> Iterator[Result]:
    """Claims that a difference of the very margin is within it."""
    for setting in list(COVERED)[3:5] + list(COVERED)[6:8]:
        not_inferior, equivalent = 0, 0
        for _ in range(repetitions):
            estimate = compare(*draw(random, setting, 5, (ACCURACY - MARGIN, ACCURACY)))
            [p] = adjust_in_margin([estimate], MARGIN, 1)
            not_inferior += p[0] < ALPHA
            equivalent += max(p) < ALPHA
        name = f"5 seeds, {setting.num_images:,} images, {setting.name}"
        yield Result(f"not inferior at the margin, {name}", not_inferior, 0, 2.8)
        yield Result(f"equivalent at the margin, {name}", equivalent, 0, 2.8)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    num_outside, num_results, num_tries = 0, 0, options.repetitions
    for trial in (cover, look, err_in_families, err_at_margins):
        for result in trial(np.random.default_rng(options.seed), num_tries):
            is_within, share = result.is_within(num_tries), 100 * result.num_hits / num_tries
            line = f"{result.name:75} {share:6.2f} %   {result.low:5.1f} to {result.high:5.1f}"
            print(line if is_within else f"{line}  OUTSIDE", flush=True)
            num_outside += not is_within
            num_results += 1
    print(f"{num_results} shares of {num_tries} repetitions, {num_outside} out of bounds")
    return 1 if num_outside else 0


if __name__ == "__main__":
    sys.exit(main())
