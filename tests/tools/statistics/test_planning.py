"""Plans against an independent program's values, and each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from triptych.tools.statistics.crossed import Estimate, summarize_trainings
from triptych.tools.statistics.planning import (
    DrawnLooks,
    Scatter,
    count_seeds,
    draw_looks,
    estimate_scatter,
    guess_scatter,
    join_looks,
    look_weights,
    sequential_p,
    smallest_difference,
)

LOOKS = [3, 5, 10, 20]


@pytest.mark.parametrize(
    ("scatter", "n", "num_images", "num_pairs", "expected"),
    [
        (Scatter(0.01, (4e-6,) * 2, (0.021,) * 2), 10, 10_000, 1, 0.00425377085),
        (Scatter(0.01, (4e-6,) * 2, (0.021,) * 2), 20, 10_000, 1, 0.00356778667),
        (Scatter(0.06, (4e-6,) * 2, (0.026,) * 2), 10, 1_000, 10, 0.02982322099),
        (Scatter(0.06, (2.5e-5,) * 2, (0.005,) * 2), 5, 10_000, 1, 0.01199946511),
        (Scatter(0.06, (2.5e-5,) * 2, (0.005,) * 2), 3, 10_000, 1, 0.01680684211),
        (Scatter(0.005, (3.6e-7,) * 2, (0.025,) * 2), 3, 10_000, 1, 0.00562305160),
    ],
)
def test_detectable_differences_are_those_of_an_independent_program(
    scatter: Scatter, n: int, num_images: int, num_pairs: int, expected: float
) -> None:
    drawn = draw_looks(scatter, [n], num_images, num_pairs)
    assert drawn.detectable == pytest.approx(expected, rel=0.03)
    assert drawn.power(drawn.detectable) == pytest.approx(0.8, abs=1e-3)


def test_weights_of_looks_and_sequential_p_have_published_values() -> None:
    weights = look_weights(LOOKS)
    expected = [0.22931826786901977, 0.12805575163976873, 0.262740487449489, 0.3798854930417225]
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    np.testing.assert_allclose(look_weights([3]), [1])
    p = sequential_p([0.04, 0.002, 0.03, 0.0001], weights)
    expected = [0.17443006338617076, 0.015618197342874243, 0.015618197342874243]
    np.testing.assert_allclose(p, [*expected, 0.00026323721708693175], rtol=1e-12)


@given(
    looks=st.lists(st.integers(3, 100), min_size=1, max_size=5, unique=True).map(sorted),
    p=st.lists(st.floats(0, 1), min_size=5, max_size=5),
)
def test_weights_sum_to_one_and_sequential_p_never_rises(looks: list[int], p: list[float]) -> None:
    weights = look_weights(looks)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    running = sequential_p(p[: len(looks)], weights)
    assert (np.diff(running) <= 0).all()


def test_an_estimate_after_looks_has_their_p_and_the_interval_of_the_last() -> None:
    weights = look_weights(LOOKS)
    looks = [Estimate(c, c, v, 30) for c, v in ((2.0, 1.0), (3.0, 1.0), (-0.1, 0.5))]
    two = join_looks(looks[1], looks[:2], weights)
    p = [each.p() for each in looks[:2]]
    assert two.p_value == pytest.approx(min(p[0] / weights[0], p[1] / weights[1]))
    assert two.interval(1 - 0.05 / 3) == looks[1].interval(1 - 0.05 * weights[1] / 3)
    other_side = join_looks(looks[2], looks, weights)
    assert other_side.p_value == 1, "what was found before is not what it shows"
    none = join_looks(looks[0], [], weights)
    assert (none.p_value, none.interval()) == (1, looks[0].interval())


@pytest.fixture(scope="module")
def looked() -> DrawnLooks:
    return draw_looks(Scatter(0.04, (4e-6,) * 2, (0.0,) * 2), LOOKS, 10_000)


def test_looks_keep_the_error_and_stop_early_where_the_difference_is_large(
    looked: DrawnLooks,
) -> None:
    assert 2 * looked.power(0.0) < 0.05  # both directions
    assert looked.mean_seeds(0.0) > 19
    assert looked.mean_seeds(0.013) < 4
    fixed = draw_looks(Scatter(0.04, (4e-6,) * 2, (0.0,) * 2), [20], 10_000)
    assert fixed.detectable < looked.detectable < 1.2 * fixed.detectable


def test_looks_draw_the_seeds_one_after_another() -> None:
    """At the last look errors scatter as those of a design with so many seeds."""
    scatter = Scatter(0.01, (4e-6, 1e-5), (0.02, 0.05))
    drawn = draw_looks(scatter, [3, 4, 10], 10_000)
    for n, error in zip(drawn.looks, drawn.error, strict=True):
        expected = 0.01 / 1e4 + (4e-6 + 1e-5 + (0.02 + 0.05) / 1e4) / n
        assert error.var() == pytest.approx(expected, rel=0.04)
    alone = draw_looks(scatter, [10], 10_000).half_width
    ratio = stats.norm.ppf(1 - 0.05 * look_weights([3, 4, 10])[2] / 2) / stats.norm.ppf(0.975)
    assert np.median(drawn.half_width[2]) == pytest.approx(np.median(alone) * ratio, rel=0.03)


def test_equal_recipes_are_shown_equivalent_as_often_as_measured() -> None:
    alike = guess_scatter(churn=0.05, disagreement=0.055, skill_sd=0.0006)
    three = draw_looks(alike, [3], 10_000)
    assert three.equivalence_power(0.005) == pytest.approx(0.49, abs=0.04)
    assert three.non_inferiority_power(0.005) == pytest.approx(0.71, abs=0.03)
    assert three.equivalence_power(three.smallest_margin) == pytest.approx(0.8, abs=1e-3)


def test_seeds_are_counted_up_to_where_the_images_are_the_limit() -> None:
    different = guess_scatter(churn=0.06, disagreement=0.12, skill_sd=0.005)
    n = count_seeds(different, 0.01, 10_000)
    assert n is not None
    assert draw_looks(different, [n], 10_000).power(0.01) >= 0.8
    assert draw_looks(different, [n - 1], 10_000).power(0.01) < 0.8
    limit = smallest_difference(different, 10_000)
    assert limit == pytest.approx(0.0069, abs=5e-5)
    assert count_seeds(different, 0.99 * limit, 10_000) is None
    assert count_seeds(different, 0.1, 10_000) == 3


def test_a_pilot_gives_back_what_its_trainings_were_drawn_from() -> None:
    rng = np.random.default_rng(1)
    ability, num_images = rng.normal(size=(2, 1, 4000)) * [[[0.3]], [[0.4]]], 4000

    def train(image: np.ndarray, n: int) -> np.ndarray:
        return image + rng.normal(0, 0.03, (n, 1)) + rng.normal(0, 0.5, (n, num_images))

    a, b = (summarize_trainings(train(image, 40)) for image in ability)
    scatter = estimate_scatter(a, b)
    assert scatter.image == pytest.approx(0.3**2 + 0.4**2, rel=0.06)
    assert scatter.skill[0] == scatter.skill[1] == pytest.approx(0.03**2, rel=0.4)
    assert scatter.flips == pytest.approx((0.25, 0.25), rel=0.02)
    upper = estimate_scatter(a, b, skill_limit=0.8)
    assert upper.skill[0] / scatter.skill[0] == pytest.approx(78 / stats.chi2.ppf(0.2, 78), rel=0.1)
