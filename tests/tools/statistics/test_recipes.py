"""Run as a program, it prints how often intervals hold and tests err when nothing differs."""

import itertools
import math
from collections.abc import Iterator
from functools import cache
from statistics import fmean, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import multivariate_normal, norm, ttest_1samp, ttest_ind

from triptych.errors import UserError
from triptych.tools.statistics.intervals import paired_difference
from triptych.tools.statistics.recipes import Estimate, recipe_accuracy, recipe_difference

ACCURACY, NUM_IMAGES = 0.9, 10_000
THRESHOLD = ndtri(ACCURACY)
DENSITY = norm.pdf(THRESHOLD)
SEED_SDS = (0.0, 0.003, 0.006)  # of accuracy
Correct = NDArray[np.bool_]


def equal_recipes(
    random: np.random.Generator, num_seeds: int, *, overlap: float, flips: float = 0.0
) -> Iterator[tuple[Correct, Correct]]:
    """Correctness of two recipes of equal expected accuracy on fresh images, for each seed sd.

    A network is right where its ability exceeds the image's difficulty for its recipe. Difficulties
    correlate by `overlap` between recipes. A share `flips` of their variance is drawn anew for
    every network, and accounts for part of the standard deviation over seeds.
    """
    flipped = variance_of_flips(flips) if flips else 0.0
    shared, *own = random.standard_normal((3, 1, NUM_IMAGES), dtype=np.float32)
    recipes = []
    for each in own:
        difficulty = math.sqrt(overlap) * shared + math.sqrt(1 - flips - overlap) * each
        if flips:
            anew = random.standard_normal((num_seeds, NUM_IMAGES), dtype=np.float32)
            difficulty = difficulty + math.sqrt(flips) * anew
        recipes.append((difficulty, random.standard_normal((num_seeds, 1))))
    for sd in SEED_SDS:
        ability_sd = math.sqrt(max(sd**2 - flipped, 0)) / DENSITY
        a, b = (difficulty < THRESHOLD + ability_sd * skill for difficulty, skill in recipes)
        yield a, b


@cache
def variance_of_flips(flips: float) -> float:
    """Of the accuracy of one network over trainings that differ in nothing else."""
    twice_right = multivariate_normal(cov=[[1, 1 - flips], [1 - flips, 1]])
    return (ACCURACY - twice_right.cdf([THRESHOLD] * 2)) / NUM_IMAGES


def share_covered(num_seeds: int, repetitions: int, **how: float) -> list[float]:
    """How often the 95 % interval of the difference holds 0, for each of `SEED_SDS`."""
    random = np.random.default_rng(0)
    covered = np.zeros(len(SEED_SDS))
    for _ in range(repetitions):
        for i, (a, b) in enumerate(equal_recipes(random, num_seeds, **how)):
            low, high = recipe_difference(a, b).interval()
            covered[i] += low <= 0 <= high
    return [float(share) for share in covered / repetitions]


def share_found_by_mcnemar(repetitions: int, **how: float) -> list[float]:
    """How often one training of each differs at the 5 % level, for each of `SEED_SDS`."""
    random = np.random.default_rng(0)
    found = np.zeros(len(SEED_SDS))
    for _ in range(repetitions):
        for i, (a, b) in enumerate(equal_recipes(random, 1, **how)):
            found[i] += paired_difference(a[0], b[0]).p_value < 0.05
    return [float(share) for share in found / repetitions]


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_a_95_percent_interval_of_equal_recipes_holds_zero_in_93_to_97_percent(
    num_seeds: int,
) -> None:
    for covered in share_covered(num_seeds, 700, overlap=0.5):
        assert 0.93 <= covered <= 0.97


def test_one_training_each_finds_differences_that_training_again_would_not() -> None:
    stable, _, scattered = share_found_by_mcnemar(300, overlap=0.8)
    assert stable < 0.08
    assert scattered > 0.4


@st.composite
def correctness(draw: st.DrawFn) -> tuple[Correct, Correct]:
    num_images = draw(st.integers(2, 30))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    share = draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    sizes = draw(st.tuples(st.integers(3, 6), st.integers(3, 6)))
    a, b = (random.random((n, num_images)) < share for n in sizes)
    return a, b


@settings(deadline=None)
@given(correctness())
def test_the_difference_of_recipes_follows_its_formula(recipes: tuple[Correct, Correct]) -> None:
    a, b = recipes
    seeds = [[sum(row) / len(row) for row in recipe.tolist()] for recipe in recipes]
    by_image = [fmean(x) - fmean(y) for x, y in zip(a.T.tolist(), b.T.tolist(), strict=True)]
    parts = [variance(sample) / len(sample) for sample in (*seeds, by_image)]
    found = recipe_difference(a, b)
    assert found.value == pytest.approx(fmean(seeds[0]) - fmean(seeds[1]), abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(sum(parts)), abs=1e-12)
    if sum(parts) > 1e-12:
        weights = (len(a) - 1, len(b) - 1, len(by_image) - 1)
        df = sum(parts) ** 2 / sum(p**2 / n for p, n in zip(parts, weights, strict=True))
        assert found.df == pytest.approx(df)


@settings(deadline=None)
@given(correctness())
def test_exchanging_two_recipes_changes_the_sign_alone(recipes: tuple[Correct, Correct]) -> None:
    a, b = recipes
    there, back = recipe_difference(a, b), recipe_difference(b, a)
    assert back.value == -there.value
    assert back.interval() == pytest.approx((-there.interval().high, -there.interval().low))
    assert back.p_value == pytest.approx(there.p_value)


def test_with_seeds_that_agree_it_is_the_paired_t_test_over_images() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((2, 1, 400)) < [[[0.9]], [[0.8]]]
    found = recipe_difference(a.repeat(3, axis=0), b.repeat(4, axis=0))
    oracle = ttest_1samp(a[0].astype(float) - b[0], 0)
    assert found.df == pytest.approx(399)
    assert found.p_value == pytest.approx(oracle.pvalue)
    assert found.interval(0.9) == pytest.approx(tuple(oracle.confidence_interval(0.9)))


def test_with_images_that_agree_it_is_welch_s_t_test_over_seeds() -> None:
    """Every image is got wrong by just one network of each recipe, the seeds differ in how many."""
    a = np.arange(3)[:, None] != np.repeat([0, 1, 2], [20, 40, 40])
    b = np.arange(4)[:, None] != np.repeat([0, 1, 2, 3], [10, 25, 40, 25])
    found = recipe_difference(a, b)
    oracle = ttest_ind(a.mean(axis=1), b.mean(axis=1), equal_var=False)
    assert found.df == pytest.approx(oracle.df)
    assert found.p_value == pytest.approx(oracle.pvalue)
    assert found.interval() == pytest.approx(tuple(oracle.confidence_interval()))


def test_the_accuracy_of_a_recipe_has_the_scatter_of_seeds_and_of_images() -> None:
    random = np.random.default_rng(0)
    correct = random.random((4, 50)) < 0.7
    found = recipe_accuracy(correct)
    over_seeds, over_images = correct.mean(axis=1), correct.mean(axis=0)
    assert found.value == pytest.approx(correct.mean())
    assert found.standard_error**2 == pytest.approx(
        variance(over_seeds.tolist()) / 4 + variance(over_images.tolist()) / 50
    )
    assert 3 < found.df < 52
    assert recipe_difference(correct, np.zeros_like(correct)) == pytest.approx(found)


@pytest.mark.parametrize(("a", "b", "p_value"), [(True, True, 1), (True, False, 0)])
def test_where_nothing_scatters_the_interval_is_the_value(a: bool, b: bool, p_value: int) -> None:
    found = recipe_difference(np.full((3, 7), a), np.full((5, 7), b))
    assert found.interval() == (found.value, found.value) == (int(a) - int(b),) * 2
    assert found.df == math.inf
    assert found.p_value == p_value


@pytest.mark.parametrize(("num_seeds", "num_images"), [(2, 100), (1, 100), (3, 1)])
def test_too_few_seeds_or_images_are_refused(num_seeds: int, num_images: int) -> None:
    few, enough = (np.zeros((n, num_images), dtype=bool) for n in (num_seeds, 3))
    for a, b in ((few, enough), (enough, few)):
        with pytest.raises(UserError, match=rf"3 seeds .* {num_seeds} and {num_images}"):
            recipe_difference(a, b)
    with pytest.raises(UserError):
        recipe_accuracy(few)


def test_an_estimate_s_p_value_agrees_with_its_interval() -> None:
    found = Estimate(0.02, 0.008, 7.3)
    level = 1 - found.p_value
    assert found.interval(level).low == pytest.approx(0, abs=1e-12)


if __name__ == "__main__":
    print(f"standard deviations over seeds: {SEED_SDS}")
    for overlap in (0.3, 0.6, 0.9):
        print(f"overlap {overlap}: found by McNemar", share_found_by_mcnemar(2000, overlap=overlap))
    for num_seeds, overlap, flips in itertools.product((3, 5), (0.5, 0.8), (0.0, 0.1)):
        covered = share_covered(num_seeds, 2000, overlap=overlap, flips=flips)
        print(f"{num_seeds} seeds, overlap {overlap}, flips {flips}: covered", covered)
