"""Images that belong together: groups count, not images."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tests.run_folders import draw_labels, draw_logits
from triptych.runs.predictions import MultilabelPredictions, Predictions
from triptych.tools.evaluate.degradation import Outcomes, accuracy_by_variant, degradations
from triptych.tools.statistics.average_precision import bootstrap_ap
from triptych.tools.statistics.calibration import reliability
from triptych.tools.statistics.crossed import (
    PairedDifference,
    crossed_difference,
    summarize_trainings,
)
from triptych.tools.statistics.groups import (
    count_groups,
    network_difference,
    resample_images,
    share_interval,
)
from triptych.tools.statistics.inference import resample_counts, wilson

GROUPS = np.arange(2000) // 10  # 200 of 10


def draw_right(rng: np.random.Generator, common: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Three trainings of a recipe (3, 2000): images of a group are much alike."""
    own = np.repeat(rng.normal(size=200), 10)
    ease = 0.8 * common + 0.5 * own + 0.3 * rng.normal(size=2000)
    return np.asarray(1 + ease + 0.3 * rng.normal(size=(3, 2000)) > 0)


def test_intervals_hold_the_truth_by_group_and_not_by_image() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(0.8**2 + 0.5**2 + 0.3**2 + 0.3**2))
    covers = np.zeros((4, 500), np.bool_)
    for n in range(500):
        common = np.repeat(rng.normal(size=200), 10)
        a, b = (draw_right(rng, common) for _ in range(2))
        for place, groups in enumerate((None, GROUPS)):
            low, high = share_interval(a[0], groups)
            covers[place, n] = low <= truth <= high
            one, other = (summarize_trainings(each, groups) for each in (a, b))
            low, high = crossed_difference(one, other, pseudo_images=groups is None).interval()
            covers[2 + place, n] = low <= 0 <= high
    by_image, by_group, pair_by_image, pair_by_group = covers.mean(axis=1)
    assert max(by_image, pair_by_image) < 0.7
    assert min(by_group, pair_by_group) >= 0.93
    assert max(by_group, pair_by_group) <= 0.97


def test_two_networks_are_compared_by_a_paired_t_test_over_groups() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 60)) < [[0.9], [0.6]]
    groups = np.repeat(np.arange(12), 5)
    sums = [each.reshape(12, 5).mean(axis=1) for each in (a, b)]
    expected = stats.ttest_rel(*sums)
    found = network_difference(a, b, groups)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()), rel=1e-10)
    assert isinstance(network_difference(a, b, None), PairedDifference)
    interval = stats.ttest_1samp(sums[0], 0).confidence_interval()
    assert share_interval(a, groups) == pytest.approx((interval.low, min(interval.high, 1)))


def test_without_groups_and_without_scatter_an_interval_is_wilsons() -> None:
    right = np.arange(50) < 40
    assert share_interval(right, None) == wilson(40, 50)
    assert share_interval(np.ones(50, np.bool_), np.arange(50) // 5) == wilson(10, 10)
    assert share_interval(right, np.zeros(50, np.int64)) == wilson(0.8, 1)
    assert count_groups(None) is None
    assert count_groups(np.array([7, 7, 3])) == 2


def test_one_group_says_nothing_of_others() -> None:
    a, b = np.arange(8) < 6, np.arange(8) < 4
    found = network_difference(a, b, np.zeros(8, np.int64))
    assert found.value == 0.25
    assert found.interval() == (-1, 1)
    assert found.p_value == 1


def test_a_resample_takes_whole_groups() -> None:
    groups = np.array([5, 5, 5, 2, 2, 9])
    counts = resample_images(6, groups, 50)
    assert (counts[:, [0, 1, 2]] == counts[:, [0]]).all()
    assert (counts[:, 0] + counts[:, 3] + counts[:, 5] == 3).all()
    assert np.array_equal(resample_images(6, None, 50), resample_counts(6, 50))


@pytest.mark.parametrize("copies", [1, 20])
def test_copies_of_images_in_their_groups_widen_no_interval_and_narrow_none(copies: int) -> None:
    """A group of copies is one image: what is said of 300 images, and of 6,000 copies of them."""
    labels = draw_labels(300)
    logits = draw_logits(labels, 1.5, 3, 4)
    groups = np.repeat(np.arange(300), copies)
    many = Predictions(logits[groups], labels[groups], np.arange(len(groups)), groups)
    one = Predictions(logits, labels, np.arange(300))
    found, expected = reliability(many), reliability(one)
    assert found.error == pytest.approx(expected.error, abs=0.01)
    assert np.ptp(found.interval) == pytest.approx(np.ptp(expected.interval), abs=0.02)
    assert found.expected_high == pytest.approx(expected.expected_high, abs=0.02)
    marked = (labels[:, None] == np.arange(4)).astype(np.uint8)
    ap, again = (
        bootstrap_ap(
            MultilabelPredictions(logits[rows], marked[rows], np.arange(len(rows)), each), 50
        )
        for rows, each in ((np.arange(300), None), (groups, groups))
    )
    assert again == pytest.approx(ap)
    right = np.stack([one.correct, one.correct & (np.arange(300) % 3 > 0)])
    names = (np.array(["unmodified", "noise"]), np.array([0, 1]))
    lost = [
        degradations(Outcomes(*names, np.arange(r.shape[1]), r, g))["noise"]
        for r, g in ((right, None), (right[:, groups], groups))
    ]
    assert lost[0] == pytest.approx(lost[1])
    row = accuracy_by_variant(Outcomes(*names, np.arange(len(groups)), right[:, groups], groups))[1]
    half = stats.t.ppf(0.975, 299) * right[1].std(ddof=1) / 300**0.5
    assert row.accuracy_high - row.accuracy == pytest.approx(half)
