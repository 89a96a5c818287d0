"""What the uncertainty is made of, against values worked out elsewhere and known limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from triptych.tools.statistics.components import (
    estimate_image,
    expect_estimate,
    leave_out_seeds,
    split_variance,
)
from triptych.tools.statistics.crossed import crossed_difference
from triptych.tools.statistics.planning import Scatter


def read(*rows: str) -> np.ndarray:
    return np.array([[int(right) for right in row] for row in rows])


A = read("111011011101", "110011011111", "111010011111")
B = read("101011010101", "101001011101", "111011010001", "111111010101", "011011010101")


def test_components_of_a_recipe_and_their_intervals() -> None:
    parts = split_variance(leave_out_seeds(B))
    assert parts.image == pytest.approx(
        (0.1409090909090909, 0.037106678391744835, 0.24471150342643697), rel=1e-10
    )
    assert parts.skill == pytest.approx((0.0, 0.0, 0.036530576668469365), rel=1e-10)
    assert parts.flips == pytest.approx(
        (0.11212121212121212, 0.023031940096664205, 0.20121048414576004), rel=1e-10
    )
    assert parts.p_flips_alone == pytest.approx(0.6665381196929632, rel=1e-10)


def test_components_of_a_pair() -> None:
    a, b = leave_out_seeds(A), leave_out_seeds(B)
    image = estimate_image(a, b)
    assert image.value == pytest.approx(0.07575757575757577, rel=1e-10)
    assert split_variance(a).flips.value == pytest.approx(0.09090909090909088, rel=1e-10)
    assert split_variance(a).skill.value == split_variance(b).skill.value == 0
    found = crossed_difference(a.trainings, b.trainings)
    assert image.value == pytest.approx(found.image * 12), "as in the interval of the difference"


BOUGHT = [
    (0.02, (4e-6, 4e-6), (0.025, 0.025), (3, 3), 10_000, 8.541932125077278, 0.005739849373128043),
    (0.02, (4e-6, 4e-6), (0.025, 0.025), (10, 10), 10_000, 115.2210847102519, 0.003598242184338225),
    (0.02, (4e-6, 9e-6), (0.025, 0.03), (3, 10), 1000, 22.810436367056475, 0.011990643000285621),
    (0.06, (0.0, 0.0), (0.0, 0.0), (5, 5), 500, 499.0, 0.021522532136746885),
]


@pytest.mark.parametrize(("image", "skill", "flips", "seeds", "images", "df", "half"), BOUGHT)
def test_half_widths_of_other_designs(
    image: float, skill: tuple, flips: tuple, seeds: tuple, images: int, df: float, half: float
) -> None:
    found = expect_estimate(Scatter(image, skill, flips), seeds, images)
    assert found.df == pytest.approx(df, rel=1e-9)
    assert found.interval().high == pytest.approx(half, rel=1e-10)


VARIANCES = st.floats(0, 0.1)


@given(VARIANCES, VARIANCES, VARIANCES, st.integers(3, 20), st.integers(10, 10_000))
def test_neither_seeds_nor_images_pass_their_floors(
    image: float, skill: float, flips: float, n: int, num_images: int
) -> None:
    scatter = Scatter(image, (skill, skill), (flips, flips))

    def error(num_seeds: float, images: float) -> float:
        return expect_estimate(scatter, (num_seeds, num_seeds), images).standard_error

    floors = error(math.inf, num_images), error(n, math.inf)
    assert floors == pytest.approx((math.sqrt(image / num_images), math.sqrt(2 * skill / n)))
    assert error(n, num_images) >= max(floors) - 1e-12
    assert error(n, num_images) >= error(n, 4 * num_images)


def test_where_skill_scatters_it_is_seen_and_its_interval_holds_it() -> None:
    rng, skill, inside, p_values = np.random.default_rng(0), 0.05, [], []
    for _ in range(200):
        noise = rng.normal(0, 0.3, (4, 100)) + rng.normal(0, 0.5, 100)
        skilled = split_variance(leave_out_seeds(noise + rng.normal(0, skill, (4, 1))))
        inside.append(skilled.skill.low <= skill**2 <= skilled.skill.high)
        p_values.append(split_variance(leave_out_seeds(noise)).p_flips_alone)
    assert 0.9 <= np.mean(inside) <= 0.99
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_trainings_that_agree_have_neither_skill_nor_flips() -> None:
    for num_seeds, images in ((3, B[0]), (7, np.random.default_rng(0).random(999))):
        parts = split_variance(leave_out_seeds(np.tile(images, (num_seeds, 1))))
        assert parts.skill == (0, 0, 0)
        assert parts.flips == pytest.approx((0, 0, 0), abs=1e-24)
        assert parts.p_flips_alone == 1
        assert parts.image.value == pytest.approx(images.var(ddof=1))
