"""Without suspects, and with any labels of them: against literal values and all labels in turn."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from triptych.tools.statistics.crossed import Estimate, crossed_difference, summarize_trainings
from triptych.tools.statistics.suspects import bound_by_labels, spread_over_all

A = np.array(["111011011101", "110011011111", "111010011111"])
B = np.array(["101011010101", "101001011101", "111011010001"])
KEEP = np.ones(12, bool)
KEEP[[2, 5]] = False


def read(rows: NDArray[np.str_]) -> NDArray[np.float64]:
    return np.array([[float(sign) for sign in row] for row in rows])


def without(values: NDArray[np.float64], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    return spread_over_all(values[:, keep], keep)


def estimate(a: NDArray[np.float64], b: NDArray[np.float64]) -> Estimate:
    return crossed_difference(summarize_trainings(a), summarize_trainings(b))


def test_a_difference_without_suspects_and_its_shift_are_those_worked_out_elsewhere() -> None:
    a, b = read(A), read(B)
    left = estimate(without(a, KEEP), without(b, KEEP))
    expected = (0.2666666666666666, 0.009232323232323234, 10.229786684537583)
    assert (left.value, left.variance, left.df) == pytest.approx(expected, rel=1e-10)
    shift = estimate(without(a, KEEP) - a, without(b, KEEP) - b)
    expected = (0.1, 0.004801346801346801, 8.497194603001185)
    assert (shift.value, shift.variance, shift.df) == pytest.approx(expected, rel=1e-10)
    expected_bounds = (-0.05817417884791086, 0.25817417884791083)
    assert shift.interval() == pytest.approx(expected_bounds, rel=1e-10)
    assert left.value - estimate(a, b).value == pytest.approx(shift.value)


def test_without_any_suspect_nothing_shifts() -> None:
    a, b, everything = read(A), read(B), np.ones(12, bool)
    assert np.allclose(without(a, everything), a)
    shift = estimate(without(a, everything) - a, without(b, everything) - b)
    assert shift.interval() == pytest.approx((0, 0), abs=1e-12)


def test_labels_of_suspects_bound_a_difference_as_worked_out_elsewhere() -> None:
    a = np.array([[0, 1, 2, 0], [0, 1, 1, 0], [0, 2, 2, 0]])
    b = np.array([[0, 1, 2, 1], [1, 1, 2, 0], [0, 1, 2, 2]])
    suspect = np.array([False, True, False, True])
    limits = bound_by_labels(a, b, np.array([0, 1, 2, 0]), suspect, 3)
    assert limits == pytest.approx((-0.16666666666666669, 0.25), rel=1e-10)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_no_labels_of_suspects_give_more_or_less_than_the_limits(
    key: int, num_a: int, num_b: int, num_suspects: int
) -> None:
    random, num_images, num_classes = np.random.default_rng(key), 6, 3
    a, b = (random.integers(num_classes, size=(n, num_images)) for n in (num_a, num_b))
    labels = random.integers(num_classes, size=num_images)
    suspect = random.permutation(num_images) < num_suspects
    differences = []
    for given_labels in product(range(num_classes), repeat=num_suspects):
        labels[suspect] = given_labels
        differences.append(np.mean(a == labels) - np.mean(b == labels))
    limits = bound_by_labels(a, b, labels, suspect, num_classes)
    assert limits == pytest.approx((min(differences), max(differences)), abs=1e-12)
