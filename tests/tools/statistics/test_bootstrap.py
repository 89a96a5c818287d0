import numpy as np
import pytest
from scipy.stats import binom

from triptych.tools.statistics.inference import (
    bootstrap_interval,
    resample_counts,
)


def test_every_resample_holds_as_many_images_as_there_are() -> None:
    counts = resample_counts(300, 50)
    assert counts.shape == (50, 300)
    assert (counts.sum(axis=1) == 300).all()
    # Each count is binomial: 15,000 shares scatter by at most 0.004.
    for times in range(4):
        assert (counts == times).mean() == pytest.approx(binom.pmf(times, 300, 1 / 300), abs=0.016)


def test_resamples_are_independent_the_same_every_time_and_read_only() -> None:
    counts = resample_counts(300, 50)
    between = np.corrcoef(counts)[np.triu_indices(50, 1)]
    # 1,225 correlations of 300 images, each with a standard deviation of 0.058.
    assert np.abs(between).max() < 0.3
    assert between.std() == pytest.approx(300**-0.5, rel=0.1)
    resample_counts.cache_clear()
    assert np.array_equal(counts, resample_counts(300, 50))
    with pytest.raises(ValueError, match="read-only"):
        counts[0, 0] = 3


def test_an_interval_widens_with_its_level_around_the_statistic() -> None:
    resampled = np.random.default_rng(0).normal(0.3, 0.02, 5000)
    low, high = bootstrap_interval(0.3, resampled)
    assert (low, high) == pytest.approx((0.3 - 1.96 * 0.02, 0.3 + 1.96 * 0.02), abs=0.002)
    wider = bootstrap_interval(0.3, resampled, 0.9999)
    assert wider.low < low < high < wider.high
