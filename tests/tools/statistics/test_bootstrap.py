import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import f1_score

from triptych.tools.statistics import bootstrap
from triptych.tools.statistics.bootstrap import bootstrap_interval, bootstrap_macro_f1, weights


def guesses(
    random: np.random.Generator, num_networks: int, num_images: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) of unequal counts, and predicted classes (K, N), four of five right."""
    labels = random.integers(num_classes, size=(2, num_images)).min(axis=0)
    wrong = random.integers(num_classes, size=(num_networks, num_images))
    return labels, np.where(random.random(wrong.shape) < 0.8, labels, wrong)


def test_every_draw_holds_as_many_images_as_there_are() -> None:
    drawn = weights(300, 50, seed=1)
    assert drawn.shape == (50, 300)
    assert (drawn.sum(axis=1) == 300).all()
    # Each count is binomial: 15,000 shares scatter by at most 0.004.
    for times in range(4):
        assert (drawn == times).mean() == pytest.approx(binom.pmf(times, 300, 1 / 300), abs=0.016)


def test_one_draw_says_nothing_of_another() -> None:
    between = np.corrcoef(weights(300, 50, seed=1))[np.triu_indices(50, 1)]
    # 1,225 correlations of 300 images, each with a standard deviation of 0.058.
    assert np.abs(between).max() < 0.3
    assert between.std() == pytest.approx(300**-0.5, rel=0.1)


def test_draws_depend_on_the_seed_and_nobody_can_change_them() -> None:
    drawn = weights(20, 5, seed=1)
    copy = drawn.copy()
    assert not np.array_equal(drawn, weights(20, 5, seed=2))
    assert np.array_equal(copy, weights(20, 5, seed=1))
    with pytest.raises(ValueError, match="read-only"):
        drawn[0, 0] = 3


@pytest.mark.parametrize("num_images", [1, 3, 200])
def test_draws_of_macro_f1_equal_scikit_learn_s_with_the_draws_as_weights(num_images: int) -> None:
    labels, predicted = guesses(np.random.default_rng(0), 3, num_images, 6)
    draws = bootstrap_macro_f1(labels, predicted, 6, num_draws=8, seed=5)
    drawn = weights(num_images, 8, seed=5)
    expected = [
        [
            f1_score(
                *(labels, network),
                labels=range(6),
                average="macro",
                zero_division=0,
                sample_weight=weight,
            )
            for weight in drawn
        ]
        for network in predicted
    ]
    np.testing.assert_allclose(draws, expected, rtol=1e-6)


def test_draws_do_not_depend_on_the_size_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, predicted = guesses(np.random.default_rng(0), 2, 100, 4)
    whole = bootstrap_macro_f1(labels, predicted, 4, num_draws=20)
    for size in (1, 350):
        monkeypatch.setattr(bootstrap, "MAX_CHUNK", size)
        np.testing.assert_array_equal(bootstrap_macro_f1(labels, predicted, 4, num_draws=20), whole)


def test_networks_that_predict_alike_differ_by_nothing_in_every_draw() -> None:
    labels, predicted = guesses(np.random.default_rng(0), 1, 100, 4)
    a, b = bootstrap_macro_f1(labels, np.repeat(predicted, 2, axis=0), 4)
    assert bootstrap_interval(0.0, a - b) == (0, 0)


def test_draws_scatter_as_the_figure_does_on_new_images() -> None:
    random = np.random.default_rng(0)
    found = [bootstrap_macro_f1(*guesses(random, 2, 1500, 4), 4, num_draws=60) for _ in range(3)]
    scatter = np.mean([np.std(a - b) for a, b in found])
    fresh = np.array([macro_f1(*guesses(random, 2, 1500, 4)) for _ in range(300)])
    assert scatter == pytest.approx(np.std(fresh[:, 0] - fresh[:, 1]), rel=0.15)


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> list[float]:
    right = np.eye(4)[labels].T @ (predicted == labels).T
    both = np.bincount(labels) + [np.bincount(network) for network in predicted]
    return list((2 * right / both.T).mean(axis=0))


def test_an_interval_widens_with_its_level_around_the_figure() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.02, 5000)
    low, high = bootstrap_interval(0.3, draws)
    assert (low, high) == (
        pytest.approx(0.3 - 1.96 * 0.02, abs=0.002),
        pytest.approx(0.3 + 1.96 * 0.02, abs=0.002),
    )
    wider = bootstrap_interval(0.3, draws, 0.9999)
    assert wider.low < low < high < wider.high
