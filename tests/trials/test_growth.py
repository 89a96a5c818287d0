"""The short form of `make growth`: its arithmetic; nothing is trained."""

import pytest

from tests.trials.growth import Held, check_flat, describe_growth


@pytest.mark.parametrize(
    ("figures", "description"),
    [
        ([5.0, 6.0, 8.0, 12.0], "1.0"),  # linear, on top of a start
        ([6.0, 9.0, 21.0, 69.0], "2.4"),  # quadratic
        ([5.0, 5.3, 5.1, 5.2], "flat"),
        ([5.0, 5.0, 5.0, 25.0], "30.0"),  # a jump at the end is no noise
    ],
)
def test_growth_is_told_by_what_each_half_of_the_work_adds_whatever_the_start_costs(
    figures: list[float], description: str
) -> None:
    assert describe_growth(figures, noise=1.0) == description


def test_a_long_training_may_swing_but_neither_grow_nor_open_more() -> None:
    first = [Held(500 + 80 * n, 5 + n, 2) for n in range(5)]
    assert "+0.000 MB an epoch" in check_flat([*first, *([Held(900, 9, 2)] * 55)])
    for later in (
        [Held(900 + n, 9, 2) for n in range(55)],
        [Held(900, 9 + n // 20, 2) for n in range(55)],
        [Held(900, 9, 2 + n // 50) for n in range(55)],
    ):
        with pytest.raises(AssertionError, match="60 epochs"):
            check_flat([*first, *later])
