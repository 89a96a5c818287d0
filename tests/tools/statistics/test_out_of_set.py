"""Known images told from strange ones, against scikit-learn, the kernel's sum and a bootstrap."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from triptych.tools.statistics.abstention import Rejection
from triptych.tools.statistics.conformal import Array
from triptych.tools.statistics.out_of_set import DOUBTS, measure_auroc, separate


def draw(num_known: int, num_strange: int, gap: float, seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.normal(gap, 1, num_known), random.normal(0, 1, num_strange)


def draw_logits(num_images: int, skill: float, seed: int) -> Array:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(num_images, 4))
    logits[np.arange(num_images), random.integers(0, 4, num_images)] += skill
    return logits


def find_variance(known: Array, strange: Array) -> float:
    """DeLong's, from all pairs."""
    kernel = (known[:, None] > strange) + (known[:, None] == strange) / 2
    return float(sum(kernel.mean(axis=a).var(ddof=1) / kernel.shape[1 - a] for a in (0, 1)))


@pytest.mark.parametrize("digits", [0, 9])
def test_the_auroc_is_scikit_learns_and_its_interval_by_delongs_variance(digits: int) -> None:
    known, strange = (scores.round(digits) for scores in draw(90, 40, 0.8, 1))
    found = measure_auroc(known, strange)
    truth, scores = np.r_[np.ones(90), np.zeros(40)], np.r_[known, strange]
    assert found.value == pytest.approx(roc_auc_score(truth, scores))
    a, half = found.value, norm.ppf(0.975) * find_variance(known, strange) ** 0.5
    odds = a / (1 - a) * np.exp(np.array([-half, half]) / (a * (1 - a)))
    assert found[1:] == pytest.approx(odds / (1 + odds))


def test_a_bootstrap_scatters_as_much() -> None:
    known, strange = draw(300, 200, 1.0, 2)
    random = np.random.default_rng(0)
    values = [
        measure_auroc(random.choice(known, 300), random.choice(strange, 200)).value
        for _ in range(1000)
    ]
    found = measure_auroc(known, strange)
    assert found[1:] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.006)


@pytest.mark.parametrize("gap", [0.3, 3.0])
def test_its_interval_holds_the_truth_in_about_19_of_20_samples(gap: float) -> None:
    truth = norm.cdf(gap / 2**0.5)
    found = [measure_auroc(*draw(60, 40, gap, seed)) for seed in range(1000)]
    assert 0.93 < np.mean([low <= truth <= high for _, low, high in found]) < 0.98


def test_groups_of_equal_images_count_once() -> None:
    known, strange = draw(50, 40, 0.8, 3)
    once = measure_auroc(known, strange)
    groups = np.repeat(np.arange(50), 4)
    assert measure_auroc(known.repeat(4), strange, groups) == pytest.approx(once)
    assert measure_auroc(known.repeat(4), strange).low > once.low


def test_few_images_that_never_cross_leave_a_wide_interval() -> None:
    known, strange = draw(500, 10, 20, 4)
    assert measure_auroc(known, strange)[:2] == pytest.approx((1, 10 / (10 + 1.96**2)), abs=1e-3)
    assert measure_auroc(strange, known).high == pytest.approx(1 - 10 / (10 + 1.96**2), abs=1e-3)
    assert measure_auroc(known[:1], strange).low < 0.3
    assert measure_auroc(np.ones(9), np.ones(9)).value == 0.5


@pytest.mark.parametrize("score", DOUBTS)
def test_thresholds_are_of_validation_images_and_shares_have_exact_intervals(score: str) -> None:
    val, known = draw_logits(199, 4, 5), draw_logits(300, 4, 6)
    strange = draw_logits(250, 1, 7)
    found = separate(score, val, known, strange, keep=0.9)
    doubts = [
        1 - softmax(each, axis=1).max(axis=1)
        if score == "probability"
        else -np.log(np.exp(each).sum(axis=1))
        for each in (val, known, strange)
    ]
    most = np.sort(doubts[0])[179]  # of 200 x 0.9 the last
    for share, values in ((found.kept, doubts[1]), (found.accepted, doubts[2])):
        count = int((values <= most).sum())
        exact = binomtest(count, len(values)).proportion_ci(method="exact")
        assert share == pytest.approx((count / len(values), exact.low, exact.high))
    assert 0.8 < found.kept.value < 0.97
    assert found.accepted.value < 0.7


def test_what_is_answered_is_what_predict_answers() -> None:
    val, known, strange = draw_logits(150, 4, 8), draw_logits(80, 4, 9), draw_logits(70, 1, 10)
    found = separate("probability", val, known, strange)
    rejection = Rejection.calibrate(softmax(val, axis=1), 0.95)
    assert found.kept.value == rejection.accept(softmax(known, axis=1)).mean()
    assert found.accepted.value == rejection.accept(softmax(strange, axis=1)).mean()


def test_too_few_validation_images_accept_everything() -> None:
    found = separate("energy", draw_logits(10, 4, 1), draw_logits(9, 4, 2), draw_logits(9, 1, 3))
    assert found.kept.value == found.accepted.value == 1
