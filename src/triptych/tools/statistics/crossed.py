"""Recipes on the same images: the scatter of images, of seeds, and of both together.

A value of seed s on image i is that of the image, of the seed (its skill on all images), and what
the two share: a flip. A recipe's variance of seeds' means has the flips in it, and so has that of
images' means; here they count once (balanced two-way analysis of variance). Two networks, one
training each, are compared by the images that only one of them gets right.

Shapes: n seeds of a recipe, N images, or groups of images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtr, stdtrit

from triptych.tools.statistics.inference import LEVEL, Interval

UNBOUNDED = Interval(-math.inf, math.inf)
PSEUDO_IMAGES = (1.0, -1.0)  # one that A alone gets right, one that B alone does


class Trainings(NamedTuple):
    """What the trainings of a recipe scored, image by image; of one the variances are NaN."""

    by_image: NDArray[np.float64]  # (N,), mean over seeds
    by_seed: NDArray[np.float64]  # (n,), mean over images
    seed_variance: float  # of `by_seed`: skill², and flips / N
    flips: float  # the mean square of images times seeds
    flips_by_image: NDArray[np.float64]  # (N,), its mean is `flips`

    @property
    def num_seeds(self) -> int:
        return len(self.by_seed)

    @property
    def num_images(self) -> int:
        return len(self.by_image)


def summarize_trainings(values: ArrayLike, groups: NDArray[np.int64] | None = None) -> Trainings:
    """Of values (n, N); of images that belong to `groups` (N,) by group."""
    x = np.asarray(values, dtype=np.float64)
    if groups is not None:
        x = sum_by_group(x, groups)
    by_image, by_seed = x.mean(axis=0), x.mean(axis=1)
    (n, num_images), mean = x.shape, x.mean()
    if n < 2:
        return Trainings(by_image, by_seed, math.nan, math.nan, np.full(num_images, math.nan))
    squares = ((x - by_image - by_seed[:, None] + mean) ** 2).sum(axis=0)
    flips = squares / (n - 1) * num_images / max(num_images - 1, 1)
    return Trainings(by_image, by_seed, float(by_seed.var(ddof=1)), float(flips.mean()), flips)


def sum_by_group(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values (n, G) whose means over groups are those of `values` (n, N) over images."""
    _, group = np.unique(groups, return_inverse=True)
    means, num_groups = values.mean(axis=1, keepdims=True), int(group.max()) + 1
    sums = [np.bincount(group, row, num_groups) for row in values - means]
    return np.asarray(np.stack(sums) * (num_groups / values.shape[1]) + means)


class Estimate(NamedTuple):
    """A mean, or a difference of two, with its variance and degrees of freedom.

    `centre` is that of the interval, `value` what is shown.
    """

    value: float
    centre: float
    variance: float
    df: float  # infinite: the normal law
    bounds: Interval = UNBOUNDED  # that no such value exceeds
    image: float = math.nan  # the part of the variance that is of images

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.variance)

    def interval(self, level: float = LEVEL) -> Interval:
        """NaN where it is open."""
        t = float(stdtrit(self.df, (1 + level) / 2))
        half = t * self.standard_error if self.variance else 0.0
        low = max(self.centre - half, self.bounds.low)
        high = min(self.centre + half, self.bounds.high)
        return Interval(low, high) if math.isfinite(high - low) else Interval(math.nan, math.nan)

    def p(self, null: float = 0.0) -> float:
        """Two-sided, of the hypothesis that the truth is `null`."""
        if not self.variance:
            return float(self.centre == null)
        return 2 * float(stdtr(self.df, -abs(self.centre - null) / self.standard_error))

    @property
    def p_value(self) -> float:
        return self.p()


def crossed_mean(trainings: Trainings, bounds: Interval = UNBOUNDED) -> Estimate:
    """The mean of a recipe's values; of one training, of that network. Two say too little."""
    assert trainings.num_seeds != 2
    repeated = [trainings] if trainings.num_seeds > 1 else []
    return _cross(trainings.by_image, repeated, bounds, ())


def crossed_difference(
    a: Trainings,
    b: Trainings,
    *,
    bounds: Interval = UNBOUNDED,
    pseudo_images: bool = False,
) -> Estimate:
    """The mean of A's values minus that of B's, on the same images.

    A recipe of one training is that network, whose scatter over seeds is left out. `pseudo_images`:
    of a difference of accuracies, the two that Bonett and Price (2012) add. Raises ValueError of
    two seeds, whose scatter says too little.
    """
    if 2 in (a.num_seeds, b.num_seeds):
        raise ValueError(f"seeds {a.num_seeds} and {b.num_seeds}: two say too little of scatter")
    repeated = [each for each in (a, b) if each.num_seeds > 1]
    added = PSEUDO_IMAGES if pseudo_images else ()
    return _cross(a.by_image - b.by_image, repeated, bounds, added)


def _cross(
    by_image: NDArray[np.float64],
    recipes: Sequence[Trainings],
    bounds: Interval,
    added: Sequence[float],
) -> Estimate:
    """The mean over images, with Satterthwaite's degrees of freedom over the mean squares."""
    if len(by_image) < 2:  # one group: nothing says how others would do
        value = float(by_image.mean())
        return Estimate(value, value, math.inf, math.inf, bounds)
    num_images, sample = len(by_image), np.concatenate([by_image, added])
    seed = tuple(each.seed_variance / each.num_seeds for each in recipes)
    flips = tuple(each.flips / (num_images * each.num_seeds) for each in recipes)
    among_images = float(sample.var(ddof=1)) / len(sample)
    image = max(among_images - sum(flips), 0.0)
    variance = image + sum(map(max, zip(seed, flips, strict=True)))
    squares = among_images**2 / (len(sample) - 1)
    squares += sum(s**2 / (each.num_seeds - 1) for s, each in zip(seed, recipes, strict=True))
    return Estimate(
        value=float(by_image.mean()),
        centre=float(sample.mean()),
        variance=variance,
        df=variance**2 / squares if squares > 0 else math.inf,
        bounds=bounds,
        image=image,
    )


def combine(value: float, variances: Sequence[float], df: Sequence[float]) -> Estimate:
    """A value whose variance is a sum of independent ones, each with its degrees of freedom."""
    parts, total = np.array(variances), float(np.sum(variances))
    df_total = total**2 / float((parts**2 / np.array(df)).sum()) if total else math.inf
    return Estimate(value, value, total, df_total)


class PairedDifference(Estimate):
    """Of the accuracies of two networks, by the images that only one of them gets right."""

    only_a: int
    only_b: int

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar test; 1 where the two agree on every image."""
        fewer, discordant = min(self.only_a, self.only_b), self.only_a + self.only_b
        return min(1.0, 2 * float(bdtr(fewer, discordant, 0.5)))


def paired_difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedDifference:
    """Of two networks' correctness (N,) on the same images."""
    return subtract_counts(int((a & ~b).sum()), int((b & ~a).sum()), len(a))


def subtract_counts(only_a: int, only_b: int, num_images: int) -> PairedDifference:
    """With the adjusted Wald interval of Bonett and Price (2012) for paired shares: as if each had
    got one image more right that the other does not."""
    n, more = num_images + 2, only_a - only_b
    variance = ((only_a + only_b + 2) / n - (more / n) ** 2) / n
    found = PairedDifference(more / num_images, more / n, variance, math.inf, Interval(-1, 1))
    found.only_a, found.only_b = only_a, only_b
    return found
