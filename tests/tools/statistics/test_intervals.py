from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from triptych.tools.statistics.intervals import (
    PairedDifference,
    bonferroni_level,
    holm,
    paired_difference,
    wilson,
)


@settings(deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_s_interval_equals_scipy_s(counts: tuple[int, int]) -> None:
    for level in (0.9, 0.95, 0.999):
        found = wilson(*counts, level)
        expected = binomtest(*counts).proportion_ci(level, method="wilson")
        assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found.low <= counts[0] / counts[1] <= found.high


def test_wilson_s_interval_says_nothing_without_images() -> None:
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("num_images", [1_000, 10_000])
def test_wilson_s_95_percent_interval_holds_the_accuracy_in_93_to_97_percent(
    num_images: int,
) -> None:
    """Exactly: the probabilities of the counts whose interval holds it."""
    low, high = np.array([wilson(k, num_images) for k in range(num_images + 1)]).T
    accuracies = np.concatenate([np.linspace(0.02, 0.98, 49), [0.9155, 0.7514, 0.8806, 0.99]])
    for accuracy in accuracies:
        chances = binom.pmf(np.arange(num_images + 1), num_images, accuracy)
        assert 0.93 <= chances[(low <= accuracy) & (accuracy <= high)].sum() <= 0.97


def test_a_pair_counts_the_images_that_only_one_gets_right() -> None:
    a = np.array([True, True, True, False, False, True])
    b = np.array([True, False, False, True, False, True])
    assert paired_difference(a, b) == PairedDifference(only_a=2, only_b=1, num_images=6)
    assert paired_difference(a, b).value == pytest.approx(a.mean() - b.mean())
    assert paired_difference(b, a).value == -paired_difference(a, b).value
    assert paired_difference(b, a).p_value == paired_difference(a, b).p_value


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test_of_the_images_they_disagree_on(a: int, b: int) -> None:
    expected = binomtest(a, a + b).pvalue if a + b else 1
    assert PairedDifference(a, b, 1000).p_value == pytest.approx(expected)


def test_whatever_the_overlap_the_study_s_two_networks_are_told_apart() -> None:
    """91.55 against 88.06 % of the same 10,000 images: at least 349 are right for one alone."""
    for overlapping in (0, 400, 845):
        pair = PairedDifference(1194 - overlapping, 845 - overlapping, 10_000)
        assert pair.value == pytest.approx(0.0349)
        assert pair.p_value < 1e-13
        assert pair.interval(0.999).low > 0


@pytest.mark.parametrize("num_images", [1_000, 10_000])
@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0.05, 0.05), (0.01, 0.01), (0.06, 0.03), (0.2, 0.1), (0.02, 0.005)]
)
def test_a_paired_95_percent_interval_holds_the_difference_in_93_to_97_percent(
    only_a: float, only_b: float, num_images: int
) -> None:
    random = np.random.default_rng(0)
    shares = [only_a, only_b, 1 - only_a - only_b]
    counts, repeats = np.unique(
        random.multinomial(num_images, shares, size=20_000)[:, :2], axis=0, return_counts=True
    )
    intervals = [PairedDifference(int(a), int(b), num_images).interval() for a, b in counts]
    holds = [low <= only_a - only_b <= high for low, high in intervals]
    assert 0.93 <= np.average(holds, weights=repeats) <= 0.97


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_a_paired_interval_widens_with_its_level_and_stays_a_difference(
    only_a: int, only_b: int, same: int
) -> None:
    pair = PairedDifference(only_a, only_b, only_a + only_b + same + 1)
    narrow, wide = pair.interval(0.9), pair.interval(0.9999)
    assert -1 <= wide.low <= narrow.low < narrow.high <= wide.high <= 1


def test_networks_that_agree_on_every_image_have_an_interval_around_zero() -> None:
    pair = PairedDifference(0, 0, 1000)
    assert (pair.value, pair.p_value) == (0, 1)
    assert pair.interval() == pytest.approx((-0.0028, 0.0028), abs=1e-4)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """By definition: the largest of the Bonferroni tests of every set that holds the hypothesis."""
    tests = range(len(p_values))
    sets = [each for size in tests for each in combinations(tests, size + 1)]
    bonferroni = {each: min(1, len(each) * min(p_values[i] for i in each)) for each in sets}
    expected = [max(p for each, p in bonferroni.items() if i in each) for i in tests]
    np.testing.assert_allclose(holm(p_values), expected)


def test_holm_of_no_test_is_empty() -> None:
    assert holm([]).tolist() == []


def test_intervals_of_several_pairs_hold_together() -> None:
    assert bonferroni_level(1) == bonferroni_level(0) == pytest.approx(0.95)
    assert bonferroni_level(10) == pytest.approx(0.995)
    assert bonferroni_level(3, 0.9) == pytest.approx(1 - 0.1 / 3)
