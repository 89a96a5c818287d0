"""Sets of classes and bounds of shares, against exact fractions, enumeration and scipy."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from triptych.tools.statistics import conformal
from triptych.tools.statistics.conformal import (
    clopper_pearson,
    find_rank,
    find_threshold,
    raps_scores,
    selection_slack,
)


@given(st.integers(1, 20_000), st.integers(1, 99))
def test_the_rank_is_exact_in_the_decimal_that_was_written(n: int, percent: int) -> None:
    exact = (n + 1) * Fraction(percent, 100)
    assert find_rank(n, percent / 100) == -(-exact.numerator // exact.denominator)


def test_too_few_images_put_every_class_in_the_set() -> None:
    assert find_threshold(np.full(18, 0.5), 0.95) == math.inf
    assert find_threshold(np.full(19, 0.5), 0.95) == 0.5


def score_by_definition(row: list[float], u: float, penalty: float, free_ranks: int) -> list[float]:
    scores = []
    for c, own in enumerate(row):
        likelier = [p for j, p in enumerate(row) if (-p, j) < (-own, c)]
        late = max(len(likelier) + 1 - free_ranks, 0)
        scores.append(sum(likelier) + u * own + penalty * late)
    return scores


@given(
    st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=4, max_size=4), min_size=1),
    st.floats(0, 0.99),
    st.integers(0, 4),
)
def test_scores_of_raps_are_those_of_its_definition(
    rows: list[list[float]], u: float, free_ranks: int
) -> None:
    p = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    expected = [score_by_definition(row, u, 0.1, free_ranks) for row in p.tolist()]
    scores = raps_scores(p, np.full(len(p), u), 0.1, free_ranks)
    np.testing.assert_allclose(scores, expected, atol=1e-12)


def test_scores_of_many_images_are_those_of_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    p, u = random.dirichlet(np.ones(5), size=30), random.random(30)
    together = raps_scores(p, u)
    monkeypatch.setattr(conformal, "AT_ONCE", 35)
    np.testing.assert_array_equal(raps_scores(p, u), together)


@pytest.mark.parametrize("kind", ["lac", "raps"])
def test_coverage_follows_its_law(kind: str) -> None:
    """Of many calibrations: the mean, and how far one in twenty stays below."""
    random = np.random.default_rng(0)
    n, level, covered = 99, 0.9, []
    for _ in range(400):
        p = random.dirichlet([0.5, 0.4, 0.3], size=n + 400)
        labels = (p.cumsum(axis=1) < random.random((len(p), 1))).sum(axis=1).clip(max=2)
        scores = 1 - p if kind == "lac" else raps_scores(p, random.random(len(p)), 0.0)
        of_label = scores[np.arange(len(p)), labels]
        covered.append((of_label[n:] <= find_threshold(of_label[:n], level)).mean())
    law = stats.beta(find_rank(n, level), n + 1 - find_rank(n, level))
    assert np.mean(covered) == pytest.approx(law.mean(), abs=0.006)
    assert np.quantile(covered, 0.05) == pytest.approx(law.ppf(0.05), abs=0.015)


def test_choosing_among_networks_costs_coverage_as_stated() -> None:
    assert selection_slack(10_000, 1) == 0
    assert selection_slack(10_000, 40) == pytest.approx(0.0181354052, abs=1e-10)
    assert selection_slack(1000, 40) == pytest.approx(0.0573491867, abs=1e-10)


@given(st.integers(0, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n + 1))))
def test_intervals_of_a_share_are_exact(counts: tuple[int, int]) -> None:
    count, total = counts
    exact = stats.binomtest(count, total).proportion_ci(method="exact")
    assert clopper_pearson(count, total) == pytest.approx(exact, abs=1e-6)
    low, high = clopper_pearson(count, total)
    if count:
        assert stats.binom.sf(count - 1, total, low) == pytest.approx(0.025, rel=1e-9)
    assert stats.binom.cdf(count, total, high) == pytest.approx(0.025, rel=1e-9)


def test_of_nothing_but_errors_the_risk_is_not_bounded() -> None:
    assert clopper_pearson(5, 5).high == 1
    assert clopper_pearson(0, 1) == pytest.approx((0, 0.975))
