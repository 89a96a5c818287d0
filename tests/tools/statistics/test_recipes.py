import math
from statistics import fmean, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ttest_1samp, ttest_ind

from triptych.tools.statistics.inference import Estimate, recipe_accuracy, recipe_difference

Correct = NDArray[np.bool_]


@st.composite
def correctness(draw: st.DrawFn) -> tuple[Correct, Correct]:
    num_images = draw(st.integers(2, 30))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    share = draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    sizes = draw(st.tuples(st.integers(3, 6), st.integers(3, 6)))
    a, b = (random.random((n, num_images)) < share for n in sizes)
    return a, b


@settings(deadline=None, max_examples=40)
@given(correctness())
def test_the_difference_of_recipes_follows_its_formula(recipes: tuple[Correct, Correct]) -> None:
    a, b = recipes
    seeds = [[sum(row) / len(row) for row in recipe.tolist()] for recipe in recipes]
    by_image = [fmean(x) - fmean(y) for x, y in zip(a.T.tolist(), b.T.tolist(), strict=True)]
    parts = [variance(sample) / len(sample) for sample in (*seeds, by_image)]
    result, exchanged = recipe_difference(a, b), recipe_difference(b, a)
    assert result.value == pytest.approx(fmean(seeds[0]) - fmean(seeds[1]), abs=1e-12)
    assert result.standard_error == pytest.approx(math.sqrt(sum(parts)), abs=1e-12)
    if sum(parts) > 1e-12:
        weights = (len(a) - 1, len(b) - 1, len(by_image) - 1)
        df = sum(parts) ** 2 / sum(p**2 / n for p, n in zip(parts, weights, strict=True))
        assert result.df == pytest.approx(df)
    assert exchanged.value == -result.value
    assert exchanged.interval() == pytest.approx((-result.interval().high, -result.interval().low))
    assert exchanged.p_value == pytest.approx(result.p_value)


def test_with_seeds_that_agree_it_is_the_paired_t_test_over_images() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((2, 1, 400)) < [[[0.9]], [[0.8]]]
    result = recipe_difference(a.repeat(3, axis=0), b.repeat(4, axis=0))
    oracle = ttest_1samp(a[0].astype(float) - b[0], 0)
    assert result.df == pytest.approx(399)
    assert result.p_value == pytest.approx(oracle.pvalue)
    assert result.interval(0.9) == pytest.approx(tuple(oracle.confidence_interval(0.9)))


def test_with_images_that_agree_it_is_welch_s_t_test_over_seeds() -> None:
    """Every image is got wrong by just one network of each recipe, the seeds differ in how many."""
    a = np.arange(3)[:, None] != np.repeat([0, 1, 2], [20, 40, 40])
    b = np.arange(4)[:, None] != np.repeat([0, 1, 2, 3], [10, 25, 40, 25])
    result = recipe_difference(a, b)
    oracle = ttest_ind(a.mean(axis=1), b.mean(axis=1), equal_var=False)
    assert result.df == pytest.approx(oracle.df)
    assert result.p_value == pytest.approx(oracle.pvalue)
    assert result.interval() == pytest.approx(tuple(oracle.confidence_interval()))


def test_the_accuracy_of_a_recipe_has_the_scatter_of_seeds_and_of_images() -> None:
    correct = np.random.default_rng(0).random((4, 50)) < 0.7
    result = recipe_accuracy(correct)
    over_seeds, over_images = correct.mean(axis=1), correct.mean(axis=0)
    assert result.value == pytest.approx(correct.mean())
    assert result.standard_error**2 == pytest.approx(
        variance(over_seeds.tolist()) / 4 + variance(over_images.tolist()) / 50
    )
    assert 3 < result.df < 52
    assert recipe_difference(correct, np.zeros_like(correct)) == pytest.approx(result)


@pytest.mark.parametrize(("a", "b", "p_value"), [(True, True, 1), (True, False, 0)])
def test_where_nothing_scatters_the_interval_is_the_value(a: bool, b: bool, p_value: int) -> None:
    result = recipe_difference(np.full((3, 7), a), np.full((5, 7), b))
    assert result.interval() == (result.value, result.value) == (int(a) - int(b),) * 2
    assert result.df == math.inf
    assert result.p_value == p_value


def test_an_estimate_s_p_value_agrees_with_its_interval() -> None:
    estimate = Estimate(0.02, 0.008, 7.3)
    assert estimate.interval(1 - estimate.p_value).low == pytest.approx(0, abs=1e-12)
