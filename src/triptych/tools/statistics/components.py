"""What the uncertainty of recipes is made of, and what more seeds or images would make of it.

A value is that of its image, of its training (skill: good or bad on all images), and a flip, what
both share. Shapes: n seeds of a recipe, N images, or groups of images. Variances are of the values
of one image, in fractions squared.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, chdtri, ndtri

from triptych.tools.statistics.crossed import Estimate, Trainings, summarize_trainings
from triptych.tools.statistics.inference import LEVEL, WithInterval
from triptych.tools.statistics.planning import Scatter

TAIL = (1 - LEVEL) / 2
ROUNDING = 1e-24  # a variance of trainings that agree, by floats


class Jackknife(NamedTuple):
    """What a recipe's trainings scored, and the same without each of its seeds."""

    trainings: Trainings
    without: tuple[Trainings, ...]


class Components(NamedTuple):
    """Variances of a recipe's values, each with its 95 % interval."""

    image: WithInterval
    skill: WithInterval
    flips: WithInterval
    p_flips_alone: float  # of trainings that scatter by flips and nothing else


def leave_out_seeds(values: ArrayLike, groups: NDArray[np.int64] | None = None) -> Jackknife:
    """Of values (n, N), three seeds at least; of images that belong to `groups` by group."""
    x = np.asarray(values, dtype=np.float64)
    without = (np.delete(x, seed, axis=0) for seed in range(len(x)))
    return Jackknife(
        summarize_trainings(x, groups), tuple(summarize_trainings(each, groups) for each in without)
    )


def split_variance(recipe: Jackknife) -> Components:
    """Of one recipe: images, skill, flips, and whether there is more than flips."""
    trainings, df = recipe.trainings, recipe.trainings.num_seeds - 1
    num_images, spread = trainings.num_images, (trainings.flips, trainings.seed_variance)
    flips, seed_variance = (each if each > ROUNDING else 0.0 for each in spread)
    scatter = trainings.flips_by_image.var(ddof=1) / num_images
    scatter += _jackknife([each.flips for each in recipe.without])
    skill, squares = seed_variance - flips / num_images, df * seed_variance
    # chdtri is of the upper tail
    limits = [squares / float(chdtri(df, p)) - flips / num_images for p in (TAIL, 1 - TAIL)]
    p = float(chdtrc(df, squares * num_images / flips)) if flips else float(squares == 0)
    return Components(
        image=estimate_image(recipe),
        skill=WithInterval(*(max(each, 0.0) for each in (skill, *limits))),
        flips=_add_interval(flips, scatter),
        p_flips_alone=p,
    )


def estimate_image(*recipes: Jackknife) -> WithInterval:
    """The variance over images of a recipe's expected values, or of two recipes' difference.

    Its interval has the scatter of images and, by leaving out one at a time, that of seeds.
    """
    trainings = [each.trainings for each in recipes]
    by_image = _image_variances(*trainings)
    scatter = float(by_image.var(ddof=1)) / len(by_image)
    for k, recipe in enumerate(recipes):
        without = ([*trainings[:k], each, *trainings[k + 1 :]] for each in recipe.without)
        scatter += _jackknife([_image_variances(*each).mean() for each in without])
    return _add_interval(float(by_image.mean()), scatter)


def _image_variances(*recipes: Trainings) -> NDArray[np.float64]:
    """(N,), whose mean is the variance over images, beyond the flips that means have in them."""
    means = [each.by_image for each in recipes]
    by_image = means[0] if len(means) == 1 else means[0] - means[1]
    squares = (by_image - by_image.mean()) ** 2 * len(by_image) / (len(by_image) - 1)
    return np.asarray(squares - sum(each.flips_by_image / each.num_seeds for each in recipes))


def _jackknife(without: Sequence[float]) -> float:
    """The variance of a statistic, from its values without each seed."""
    return float(np.var(without)) * (len(without) - 1)


def _add_interval(value: float, variance: float) -> WithInterval:
    half = float(ndtri(1 - TAIL)) * math.sqrt(variance)
    return WithInterval(*(max(each, 0.0) for each in (value, value - half, value + half)))


def expect_estimate(scatter: Scatter, num_seeds: Sequence[float], num_images: float) -> Estimate:
    """A difference of 0 as so many seeds of each and so many images would estimate it.

    Of infinitely many images only skill is left, of infinitely many seeds only images.
    """
    image = scatter.image / num_images
    flips = [f / num_images / n for f, n in zip(scatter.flips, num_seeds, strict=True)]
    seed = [s / n + f for s, n, f in zip(scatter.skill, num_seeds, flips, strict=True)]
    variance = image + sum(seed)
    squares = (image + sum(flips)) ** 2 / (num_images - 1)
    squares += sum(s**2 / (n - 1) for s, n in zip(seed, num_seeds, strict=True))
    return Estimate(0.0, 0.0, variance, variance**2 / squares if squares > 0 else math.inf)
