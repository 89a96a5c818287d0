from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from triptych.tools.statistics.crossed import paired_difference, subtract_counts
from triptych.tools.statistics.inference import (
    bonferroni_level,
    holm,
    wilson,
)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_s_interval_equals_scipy_s(counts: tuple[int, int]) -> None:
    assert wilson(0, 0) == (0, 1), "nothing is known without images"
    for level in (0.9, 0.999):
        interval = wilson(*counts, level)
        expected = binomtest(*counts).proportion_ci(level, method="wilson")
        assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert interval.low <= counts[0] / counts[1] <= interval.high


def test_a_pair_counts_the_images_that_only_one_gets_right() -> None:
    a = np.array([True, True, True, False, False, True])
    b = np.array([True, False, False, True, False, True])
    pair, reversed_pair = paired_difference(a, b), paired_difference(b, a)
    assert pair == subtract_counts(only_a=2, only_b=1, num_images=6)
    assert pair.value == -reversed_pair.value == pytest.approx(a.mean() - b.mean())
    assert pair.p_value == reversed_pair.p_value


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test_of_the_images_they_disagree_on(a: int, b: int) -> None:
    expected = binomtest(a, a + b).pvalue if a + b else 1
    assert subtract_counts(a, b, 1000).p_value == pytest.approx(expected)


@pytest.mark.parametrize("num_images", [1_000, 10_000])
@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0.05, 0.05), (0.01, 0.01), (0.06, 0.03), (0.02, 0.005)]
)
def test_a_paired_95_percent_interval_holds_the_difference_in_93_to_97_percent(
    only_a: float, only_b: float, num_images: int
) -> None:
    shares = [only_a, only_b, 1 - only_a - only_b]
    samples = np.random.default_rng(0).multinomial(num_images, shares, size=5000)
    intervals = [subtract_counts(int(a), int(b), num_images).interval() for a, b, _ in samples]
    assert 0.93 <= np.mean([low <= only_a - only_b <= high for low, high in intervals]) <= 0.97


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_a_paired_interval_widens_with_its_level_and_stays_a_difference(
    only_a: int, only_b: int, both_or_none: int
) -> None:
    pair = subtract_counts(only_a, only_b, only_a + only_b + both_or_none + 1)
    narrow, wide = pair.interval(0.9), pair.interval(0.9999)
    assert -1 <= wide.low <= narrow.low < narrow.high <= wide.high <= 1


def test_networks_that_agree_on_every_image_have_an_interval_around_zero() -> None:
    pair = subtract_counts(0, 0, 1000)
    assert (pair.value, pair.p_value) == (0, 1)
    assert pair.interval() == pytest.approx((-0.0028, 0.0028), abs=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """By definition: the largest of the Bonferroni tests of every set that holds the hypothesis."""
    tests = range(len(p_values))
    sets = [chosen for size in tests for chosen in combinations(tests, size + 1)]
    bonferroni = {chosen: min(1, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets}
    expected = [max(p for chosen, p in bonferroni.items() if i in chosen) for i in tests]
    np.testing.assert_allclose(holm(p_values), expected)


def test_intervals_of_several_pairs_hold_together() -> None:
    assert bonferroni_level(1) == bonferroni_level(0) == pytest.approx(0.95)
    assert bonferroni_level(10) == pytest.approx(0.995)
    assert bonferroni_level(3, 0.9) == pytest.approx(1 - 0.1 / 3)
