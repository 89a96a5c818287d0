"""Ranks, and chances of new trainings, against values worked out elsewhere and scipy."""

from itertools import combinations, compress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from triptych.tools.statistics import ranks
from triptych.tools.statistics.crossed import summarize_trainings
from triptych.tools.statistics.ranks import (
    estimate_best,
    estimate_win,
    find_noncentrality,
    find_rank_intervals,
    solve_noncentrality,
)

WINS = [
    (
        *([0.931, 0.934, 0.929], [0.925, 0.928, 0.921]),
        (0.938588675949308, 0.4735281659815532, 0.998887366364838),
    ),
    (
        *([0.9, 0.91, 0.905, 0.908, 0.902], [0.904, 0.906, 0.901, 0.903, 0.905]),
        (0.6040145611706217, 0.26222638977496904, 0.8732745948080824),
    ),
    (
        *([0.5, 0.6, 0.55], [0.9, 0.91, 0.905, 0.92]),
        (7.602908515993588e-13, 7.890025886463565e-42, 0.1401476700993904),
    ),
]


@pytest.mark.parametrize(("a", "b", "expected"), WINS)
def test_a_new_training_beats_another_with_a_chance_and_its_interval(
    a: list[float], b: list[float], expected: tuple[float, float, float]
) -> None:
    assert estimate_win(a, b) == pytest.approx(expected, abs=1e-6)
    value, low, high = expected
    assert estimate_win(b, a) == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-6)


def test_trainings_without_scatter_leave_the_chance_of_a_new_one_open() -> None:
    same, less = [0.5, 0.5, 0.5], [0.4, 0.4, 0.4]
    assert estimate_win(same, same) == (0.5, 0, 1)
    assert [estimate_win(same, less), estimate_win(less, same)] == [(1, 0, 1), (0, 0, 1)]


@pytest.mark.parametrize(("df", "t"), [(2.2, 0.4), (5.0, 3.0), (30.0, 1.0)])
def test_limits_by_integration_are_those_of_scipy(df: float, t: float) -> None:
    for p in (0.025, 0.975):
        noncentrality = solve_noncentrality(df, p, t)
        assert stats.nct.cdf(t, df, noncentrality) == pytest.approx(p, abs=1e-7)
        assert find_noncentrality(df, p, t) == pytest.approx(noncentrality, abs=1e-5)


def test_where_scipy_has_no_limit_it_is_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, expected = WINS[0]
    monkeypatch.setattr(ranks, "nctdtrinc", lambda df, p, t: np.nan)
    assert estimate_win(a, b) == pytest.approx(expected, abs=1e-6)


def test_ranks_follow_from_the_pairs_that_differ() -> None:
    wins = [(0, 1), (0, 3), (2, 3)]
    assert find_rank_intervals(4, wins) == [(1, 2), (2, 4), (1, 3), (3, 4)]
    assert find_rank_intervals(2, []) == [(1, 2), (1, 2)]


@given(st.permutations(range(4)), st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_true_order_is_inside_whichever_of_its_pairs_are_significant(
    order: list[int], significant: list[bool]
) -> None:
    pairs = ((a, b) if order[a] < order[b] else (b, a) for a, b in combinations(range(4), 2))
    wins = [*compress(pairs, significant)]
    for true, (best, worst) in zip(order, find_rank_intervals(4, wins), strict=True):
        assert best <= true + 1 <= worst


def test_the_share_of_draws_in_which_each_is_the_best() -> None:
    rng = np.random.default_rng(5)
    recipes = [summarize_trainings(rng.random((3, 400)) < p) for p in (0.80, 0.86, 0.87)]
    shares = estimate_best(recipes)
    assert shares == pytest.approx((0.001252, 0.288123, 0.710625), abs=0.003)
    assert estimate_best(recipes, -1).argmax() == 0, "of losses the lowest"
    single = [summarize_trainings(each.by_image[None]) for each in recipes]
    assert estimate_best(single).argmax() == 2
    assert estimate_best([recipes[0]] * 3) == pytest.approx([1 / 3] * 3), "none is known to differ"
    halves = summarize_trainings(np.repeat([[0.0] * 100 + [1.0] * 100], 3, axis=0))
    assert estimate_best([halves] * 3) == pytest.approx([1 / 3] * 3), "nor do any seeds"
    alone = [summarize_trainings(each.by_image[:1, None]) for each in recipes]
    assert estimate_best(alone) == pytest.approx([1 / 3] * 3), "of one image, or one group"
    large = [summarize_trainings(1e30 * each.by_image[None]) for each in recipes]
    assert estimate_best(large).sum() == pytest.approx(1)
