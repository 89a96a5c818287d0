"""Intervals of recipes: images and seeds both count, flips once."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ttest_1samp, ttest_ind

from triptych.tools.statistics.crossed import (
    Estimate,
    Trainings,
    combine,
    crossed_difference,
    crossed_mean,
    summarize_trainings,
)
from triptych.tools.statistics.inference import Interval

Values = NDArray[np.float64]


@st.composite
def correctness(draw: st.DrawFn) -> tuple[Values, Values]:
    num_images = draw(st.integers(2, 30))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    share = draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    sizes = draw(st.tuples(st.integers(3, 6), st.integers(3, 6)))
    a, b = (1.0 * (random.random((n, num_images)) < share) for n in sizes)
    return a, b


def estimate(a: Values, b: Values, pseudo_images: bool = False) -> Estimate:
    each = (summarize_trainings(values) for values in (a, b))
    return crossed_difference(*each, pseudo_images=pseudo_images)


@settings(deadline=None, max_examples=60)
@given(correctness(), st.booleans())
def test_the_order_of_two_recipes_changes_the_sign_alone(
    recipes: tuple[Values, Values], pseudo_images: bool
) -> None:
    a, b = recipes
    result, exchanged = estimate(a, b, pseudo_images), estimate(b, a, pseudo_images)
    assert exchanged.value == pytest.approx(-result.value)
    assert exchanged.interval() == pytest.approx((-result.interval().high, -result.interval().low))
    assert exchanged.p_value == pytest.approx(result.p_value)
    assert exchanged.df == pytest.approx(result.df)


def estimate_unbiased(by_image: Values, *recipes: Trainings) -> float:
    parts = [(r.seed_variance - r.flips / r.num_images) / r.num_seeds for r in recipes]
    return float(by_image.var(ddof=1)) / len(by_image) + sum(parts)


@settings(deadline=None, max_examples=60)
@given(correctness())
def test_the_variance_is_at_least_that_of_images_and_the_unbiased_one(
    recipes: tuple[Values, Values],
) -> None:
    a, b = map(summarize_trainings, recipes)
    by_image = a.by_image - b.by_image
    least = max(by_image.var(ddof=1) / len(by_image), estimate_unbiased(by_image, a, b))
    assert crossed_difference(a, b).variance >= least - 1e-12


def test_the_unbiased_variance_is_right_over_every_sample_of_a_small_population() -> None:
    """Three seeds and three images, of which every two and two are drawn, with replacement."""
    population = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    pairs = [*product(range(3), repeat=2)]
    samples = [population[np.ix_(seeds, images)] for seeds in pairs for images in pairs]
    drawn = [summarize_trainings(each) for each in samples]
    variance = np.mean([estimate_unbiased(each.by_image, each) for each in drawn])
    assert variance == pytest.approx(np.var([each.mean() for each in samples]))


def test_with_seeds_that_agree_it_is_the_paired_t_test_over_images() -> None:
    random = np.random.default_rng(0)
    a, b = 1.0 * (random.random((2, 1, 400)) < [[[0.9]], [[0.8]]])
    result = estimate(a.repeat(3, axis=0), b.repeat(4, axis=0))
    oracle = ttest_1samp(a[0] - b[0], 0)
    assert result.df == pytest.approx(399)
    assert result.p_value == pytest.approx(oracle.pvalue)
    assert result.interval(0.9) == pytest.approx(tuple(oracle.confidence_interval(0.9)))


def test_with_images_that_agree_it_is_welch_s_t_test_over_seeds() -> None:
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(n, 1)).repeat(50, axis=1) for n in (3, 4))
    result = estimate(a, b)
    oracle = ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    assert result.df == pytest.approx(oracle.df)
    assert result.p_value == pytest.approx(oracle.pvalue)
    assert result.interval() == pytest.approx(tuple(oracle.confidence_interval()))


def test_a_recipe_against_itself_with_flips_has_a_narrower_interval_than_flips_counted_twice() -> (
    None
):
    """A recipe whose trainings differ in flips alone, against itself, 400 times."""
    random, held, ratios = np.random.default_rng(0), 0, []
    for _ in range(400):
        chance = random.beta(4, 1, size=1000)
        a, b = 1.0 * (random.random((2, 5, 1000)) < chance)
        result = estimate(a, b, pseudo_images=True)
        low, high = result.interval()
        held += low <= 0 <= high
        twice = a.mean(axis=0) - b.mean(axis=0), a.mean(axis=1), b.mean(axis=1)
        ratios.append(math.sqrt(result.variance / sum(x.var(ddof=1) / len(x) for x in twice)))
    assert 0.965 <= held / 400 <= 1
    assert np.mean(ratios) <= 0.92


def test_two_pseudo_images_keep_the_interval_open_where_nothing_scatters() -> None:
    right = np.ones((3, 30))
    result = estimate(right, right, pseudo_images=True)
    assert result.value == 0
    assert result.interval().low < 0 < result.interval().high
    assert estimate(right, right).interval() == (0, 0)
    assert (estimate(right, right).p_value, estimate(right, 0 * right).p_value) == (1, 0)


def test_a_recipe_against_one_network_leaves_out_the_network_s_seeds() -> None:
    random = np.random.default_rng(0)
    a, b = 1.0 * (random.random((4, 300)) < 0.9), 1.0 * (random.random((1, 300)) < 0.8)
    result = estimate(a, b)
    recipe, one = map(summarize_trainings, (a, b))
    among = (recipe.by_image - one.by_image).var(ddof=1) / 300
    flips = recipe.flips / 4 / 300
    seeds = max(recipe.seed_variance / 4, flips)
    assert result.variance == pytest.approx(max(among - flips, 0) + seeds)
    assert result.value == pytest.approx(a.mean() - b.mean())
    with pytest.raises(ValueError, match="2"):
        estimate(a, a[:2])


def test_images_of_one_group_count_as_one() -> None:
    """Ten copies of each of 40 images: the interval is that of the 40."""
    random = np.random.default_rng(0)
    a, b = (1.0 * (random.random((n, 40)) < 0.8) for n in (3, 5))
    groups = np.arange(40).repeat(10)
    copies = [summarize_trainings(each.repeat(10, axis=1), groups) for each in (a, b)]
    result, plain = crossed_difference(*copies), estimate(a, b)
    assert result.interval() == pytest.approx(plain.interval())
    uneven = summarize_trainings(a, np.array([0] * 3 + [*range(1, 38)]))
    assert uneven.by_image.mean() == pytest.approx(a.mean())
    assert uneven.by_seed == pytest.approx(a.mean(axis=1))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_of_a_single_image_or_group_an_interval_is_its_bounds_or_open() -> None:
    alone = [summarize_trainings(values) for values in ([[0.2], [0.4], [0.9]], [[0.1], [0.1], [0]])]
    assert alone[0].flips == 0, "nothing tells it from skill"
    found = crossed_difference(*alone, bounds=Interval(-1, 1))
    assert (found.interval(), found.p_value) == ((-1, 1), 1)
    assert np.isnan(crossed_difference(*alone).interval()).all()


def test_bounds_cut_an_interval() -> None:
    right = summarize_trainings(np.random.default_rng(0).random((3, 12)) < 0.97)
    assert crossed_mean(right, Interval(0, 1)).interval().high == 1
    assert crossed_mean(right).interval().high > 1


def test_an_estimate_s_p_value_agrees_with_its_interval() -> None:
    result = Estimate(0.02, 0.02, 0.008**2, 7.3)
    assert result.interval(1 - result.p_value).low == pytest.approx(0, abs=1e-12)
    assert result.interval(1 - result.p(0.01)).low == pytest.approx(0.01, abs=1e-12)
    assert combine(0.1, [0.0, 0.0], [3, 4]).df == math.inf
