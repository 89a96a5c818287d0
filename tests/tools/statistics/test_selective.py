"""The risk of answering from some confidence on, against counts of every subset by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from triptych.tools.statistics.conformal import guarantee_coverage, selection_slack
from triptych.tools.statistics.selective import (
    choose_confidence,
    draw_uniform,
    exact_interval,
    trace_risk,
)

ANSWERS = st.lists(
    st.tuples(st.sampled_from([0.3, 0.5, 0.7, 0.9]), st.booleans()), min_size=1, max_size=12
)


@given(ANSWERS, st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5]))
def test_the_lowest_confidence_of_at_most_that_risk_is_chosen(
    answers: list[tuple[float, bool]], risk: float
) -> None:
    fit = []
    for least in {confidence for confidence, _ in answers}:
        right = [is_right for confidence, is_right in answers if confidence >= least]
        fit += [least] if right.count(False) / len(right) <= risk else []
    confidence, correct = map(np.array, zip(*answers, strict=True))
    assert choose_confidence(trace_risk(confidence, correct), risk) == min(fit, default=math.inf)


def test_a_risk_that_is_just_reached_is_allowed() -> None:
    """29 of 100 in floats is more than 0.29 times 100."""
    correct = np.arange(100) >= 29
    assert choose_confidence(trace_risk(np.full(100, 0.5), correct), 0.29) == 0.5
    assert choose_confidence(trace_risk(np.full(100, 0.5), correct), 0.28) == math.inf


def test_equal_confidences_are_answered_together() -> None:
    curve = trace_risk(np.array([0.5, 0.9, 0.5, 0.9, 0.4]), np.array([1, 1, 0, 0, 1], bool))
    assert curve.confidence.tolist() == [0.9, 0.5, 0.4]
    assert curve.num_answered.tolist() == [2, 4, 5]
    assert curve.num_errors.tolist() == [1, 2, 2]


def test_the_bound_errs_in_at_most_5_percent_where_the_plain_threshold_misses_half_the_time() -> (
    None
):
    random = np.random.default_rng(0)
    above_bound = above_risk = 0
    for _ in range(400):
        confidence = random.uniform(0.5, 1, 1400)
        correct = random.random(1400) < confidence
        least = choose_confidence(trace_risk(confidence[:400], correct[:400]), 0.1)
        answered = confidence[400:] >= least
        bound = exact_interval(~correct[400:][answered], None, 0.9).high
        true_risk = (1 - max(least, 0.5)) / 2  # the mean of 1 - confidence above the threshold
        above_bound += true_risk > bound
        above_risk += true_risk > 0.1
    assert above_bound <= stats.binom.ppf(0.999, 400, 0.05)
    assert above_risk > 120


def test_groups_of_images_widen_the_interval() -> None:
    right, groups = np.arange(200) % 20 < 10, np.arange(200) // 10
    alone, grouped = exact_interval(right, None), exact_interval(right, groups)
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_what_is_guaranteed_shrinks_with_choices_and_grows_with_images() -> None:
    assert guarantee_coverage(1000, 0.95, 1) == 0.95
    assert guarantee_coverage(18, 0.95, 1) == 1  # every class is in the set
    expected = 0.95 * (1 + 1 / 1000) - selection_slack(1000, 40)
    assert guarantee_coverage(1000, 0.95, 40) == pytest.approx(expected)
    assert guarantee_coverage(10_000, 0.95, 40) == pytest.approx(0.95 - 0.01804, abs=1e-5)
    assert guarantee_coverage(25, 0.95, 100) == pytest.approx(0.5958, abs=1e-4)


def test_drawn_numbers_are_uniform_and_belong_to_the_image() -> None:
    index = np.arange(20_000)
    drawn = draw_uniform(index, 0)
    assert stats.kstest(drawn, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn, draw_uniform(index, 1))[0, 1]) < 0.03
    assert np.array_equal(draw_uniform(index[::-7], 0), drawn[::-7])
    assert 0 <= drawn.min() < drawn.max() < 1
