"""A pair on several data sets."""

import numpy as np
import pytest
from scipy.special import ndtr

from triptych.tools.statistics.crossed import combine
from triptych.tools.statistics.several_sets import count_better, mean_over_sets


def test_sets_are_counted_after_holm_and_each_direction_by_itself() -> None:
    p, differences = [0.001, 0.02, 0.3, 0.004, 0.04], [0.01, 0.02, -0.001, -0.02, 0.01]
    assert count_better([p], [differences]) == [(1, 1)]
    assert count_better([[0.04, 0.04]], [[0.1, 0.1]]) == [(0, 0)]
    assert count_better([[0.0, 1.0]], [[0.0, 0.0]]) == [(0, 0)]  # certain, but no difference


def test_of_several_pairs_each_is_counted_after_holm_over_all_of_them() -> None:
    assert count_better([[0.02, 0.9]], [[0.1, 0.1]]) == [(1, 0)]
    rows = [[0.02, 0.9], [0.001, 0.5, 0.6]]
    assert count_better(rows, [[0.1, 0.1], [-0.1, 0.1, 0.1]]) == [(0, 0), (0, 1)]


def test_the_count_seldom_exceeds_the_truth() -> None:
    random = np.random.default_rng(0)
    truth = np.array([0.0, 0.0, 0.0, 2.0, 5.0])
    z = truth + random.normal(size=(2000, 5))
    p = 2 * ndtr(-np.abs(z))
    counts = [count_better([each], [d])[0] for each, d in zip(p, z, strict=True)]
    too_many = np.mean([each.better > 2 or each.worse > 0 for each in counts])
    assert too_many <= 0.055
    assert 1.2 < np.mean([each.better for each in counts]) < 2


def test_the_mean_over_sets_has_their_summed_variance() -> None:
    sets = [(0.01, 4e-6, 5), (0.02, 9e-6, 8), (-0.004, 1e-6, 12)]
    mean = mean_over_sets([combine(value, [v], [df]) for value, v, df in sets])
    assert mean.value == pytest.approx(0.026 / 3)
    assert mean.variance == pytest.approx(14e-6 / 9, rel=1e-12)
    assert mean.df == pytest.approx(14e-6**2 / (16e-12 / 5 + 81e-12 / 8 + 1e-12 / 12), rel=1e-9)
