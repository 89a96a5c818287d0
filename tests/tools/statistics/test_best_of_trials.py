"""The best of some trials: against enumeration of all choices of them, and simulated coverage."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from triptych.tools.statistics.best_of_trials import (
    best_beats,
    bound_median,
    expected_best,
    median_best,
    weigh_best,
)

EIGHT = [0.71, 0.74, 0.69, 0.80, 0.78, 0.74, 0.60, 0.83]
OTHERS = [0.7, 0.77, 0.75, 0.79, 0.66, 0.81]
THIRTY = [round(0.9 - (30 - n) ** 2 / 4500, 6) for n in range(1, 31)]
few_scores = st.lists(st.integers(0, 5), min_size=1, max_size=7)


@given(few_scores, few_scores, st.integers(1, 7))
def test_the_best_of_k_is_that_of_every_choice_of_k(a: list[int], b: list[int], k: int) -> None:
    k = min(k, len(a), len(b))
    best_a, best_b = ([max(chosen) for chosen in combinations(each, k)] for each in (a, b))
    assert expected_best(a, k) == pytest.approx(np.mean(best_a), rel=1e-12)
    wins = [(x > y) + 0.5 * (x == y) for x in best_a for y in best_b]
    assert best_beats(a, b, k) == pytest.approx(np.mean(wins), rel=1e-12)
    assert best_beats(a, b, k) + best_beats(b, a, k) == pytest.approx(1)


def test_of_one_the_expected_best_is_the_mean_and_of_all_the_best() -> None:
    known = {1: 0.7362499999999998, 2: 0.7785714285714284, 5: 0.8158928571428572, 8: 0.83}
    for k, expected in known.items():
        assert expected_best(EIGHT, k) == pytest.approx(expected, abs=1e-10)
    assert best_beats(EIGHT, OTHERS, 3) == pytest.approx(0.5446428571428561, abs=1e-10)
    assert weigh_best(5000, 300).sum() == pytest.approx(1, rel=1e-11)


@pytest.mark.parametrize(
    ("k", "places", "value"),
    [
        (1, (10, 21), (0.85, 0.811111, 0.882)),
        (2, (16, 27), (0.885778, 0.856444, 0.898)),
        (5, (22, 30), (0.898, 0.885778, 0.9)),
        (6, (23, 31), (0.898, 0.889111, np.inf)),
        (10, (25, 31), (0.899111, 0.894444, np.inf)),
    ],
)
def test_the_median_of_the_best_lies_between_two_of_the_scores(
    k: int, places: tuple[int, int], value: tuple[float, ...]
) -> None:
    assert bound_median(30, k) == places
    assert median_best(THIRTY, k) == pytest.approx(value, abs=1e-10)
    assert median_best(THIRTY[::-1], k) == median_best(THIRTY, k)


@given(st.integers(1, 80), st.integers(1, 30))
def test_the_places_are_the_innermost_that_the_binomial_law_allows(n: int, k: int) -> None:
    quantile = 2 ** (-1 / k)
    lows = [place for place in range(1, n + 1) if binom.cdf(place - 1, n, quantile) <= 0.025]
    highs = [place for place in range(1, n + 1) if binom.sf(place - 1, n, quantile) <= 0.025]
    assert bound_median(n, k) == (max(lows, default=0), min(highs, default=n + 1))
    assert bool(highs) == (n / k >= np.log2(40))


def test_the_interval_holds_the_median_at_least_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).random((2000, 40))
    truth = 2 ** (-1 / 4)
    intervals = [median_best(scores, 4) for scores in draws]
    assert 0.95 <= np.mean([each.low <= truth <= each.high for each in intervals]) < 0.985
