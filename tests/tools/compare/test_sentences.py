import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from triptych.tools.compare.content import Pair, Setting
from triptych.tools.compare.exhibits import LostMore, WithInterval
from triptych.tools.compare.sentences import (
    how_networks_were_paired,
    how_recipes_were_paired,
    listed,
    loses_more,
    p_value,
    percent,
    points,
    setting_in_words,
    which_pairs,
    worded,
)
from triptych.tools.evaluate.degradation import Degradation


def a_pair(difference: float, p_holm: float, *, recipes: bool = False) -> Pair:
    """Networks, or recipes, A and B, with an interval that knows nothing of the p value."""
    return Pair(
        a="A",
        b="B",
        num_images=10_000,
        num_seeds=(3, 4) if recipes else (1, 1),
        difference=WithInterval(difference, difference - 0.01, difference + 0.02),
        p=p_holm / 2,
        p_holm=p_holm,
        only_a=None if recipes else 120,
        only_b=None if recipes else 80,
        f1_difference=None,
        sentence="",
    )


DIFFERENCES = st.floats(-1, 1).filter(lambda value: abs(value) > 1e-6)


@given(DIFFERENCES, st.floats(0, 1), st.booleans(), st.integers(1, 45))
def test_the_words_follow_holms_p_alone_and_always_carry_the_interval(
    difference: float, p_holm: float, recipes: bool, num_pairs: int
) -> None:
    sentence = worded(a_pair(difference, p_holm, recipes=recipes), num_pairs).sentence
    assert ("cannot be told apart" in sentence) == (p_holm >= 0.05)
    assert a_pair(difference, p_holm, recipes=recipes).is_told == (p_holm < 0.05)
    low, high = difference - 0.01, difference + 0.02
    if difference < 0:
        low, high = -high, -low
    assert f"{points(low)} to {points(high)}" in sentence
    assert f"{points(abs(difference))} percentage points" in sentence
    assert "10,000 test images" in sentence
    assert ("simultaneous over" in sentence) == ("Holm" in sentence) == (num_pairs > 1)


@given(DIFFERENCES, st.floats(0, 1), st.booleans())
def test_only_recipes_are_better_and_only_networks_are_these_trained_ones(
    difference: float, p_holm: float, recipes: bool
) -> None:
    sentence = worded(a_pair(difference, p_holm, recipes=recipes), 3).sentence
    assert ("is better than" in sentence) == (recipes and p_holm < 0.05)
    assert ("one seed each, so nothing is said about training again" in sentence) != recipes
    assert ("This trained" in sentence) != recipes


def test_a_p_value_too_small_to_write_is_a_bound() -> None:
    assert "t test p < 0.0001 (" in worded(a_pair(0.1, 1e-9, recipes=True), 1).sentence
    assert "t test p = 0.0310 (" in worded(a_pair(0.1, 0.031, recipes=True), 1).sentence


def test_the_better_stands_first_whichever_way_the_pair_is_turned() -> None:
    assert worded(a_pair(0.1, 0.001, recipes=True), 1).sentence.startswith("A is better than B: 10")
    turned = worded(a_pair(-0.1, 0.001, recipes=True), 1)
    assert turned.sentence.startswith("B is better than A: 10.00 percentage points")
    assert "(4 and 3 seeds, 10,000 test images)" in turned.sentence
    assert turned == dataclasses.replace(
        a_pair(-0.1, 0.001, recipes=True), sentence=turned.sentence
    )


def test_a_difference_of_nothing_is_never_a_difference() -> None:
    assert "cannot be told apart" in worded(a_pair(0, 0.0), 1).sentence
    assert not a_pair(0, 0.0).is_told


def test_numbers_are_written_with_their_units() -> None:
    assert percent(0.91554) == "91.55 %"
    assert points(-0.0351) == "−3.51"
    assert p_value(0.00001) == "< 0.0001"
    assert p_value(0.0312) == "0.0312"
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        *("a", "a and b", "a, b and c")
    ]


def test_who_loses_more_stands_first_with_the_interval_turned() -> None:
    lost = Degradation(-0.031, -0.05, -0.012)
    pair = LostMore("A", "B", 1000, {"all": lost})
    assert loses_more(pair) == (
        "In the mean over image types B loses 3.10 points of accuracy more than A (95 % bootstrap "
        "interval of this pair 1.20 to 5.00; the same 1,000 images, untested)."
    )


def test_a_setting_is_said_with_who_has_it() -> None:
    setting = Setting("optim.lr", ("0.1", "0.01", "0.01"))
    assert setting_in_words(setting, "abc") == "optim.lr: 0.1 (a), 0.01 (b and c)"


def test_a_table_says_how_its_pairs_were_chosen_and_adjusted() -> None:
    few = how_networks_were_paired(3, 3, which_pairs(None, True))
    assert "All pairs that can be compared are tested." in few
    assert "Holm over these 3 pairs" in few
    assert "The exact test is conservative" in few
    assert "of the highest validation accuracy, so that the test" in which_pairs(10, True)
    assert "the first by name (no validation accuracy is known)" in which_pairs(10, False)
    assert "no adjustment" in how_recipes_were_paired(2, 2, 1, "")
    assert "1 recipe of fewer seeds" in how_recipes_were_paired(3, 2, 1, "")


def test_a_table_without_pairs_says_why() -> None:
    assert how_networks_were_paired(1, 0, "") == "One recipe: there is nothing to compare it with."
    assert "no pair is tested" in how_networks_were_paired(2, 0, "")
    assert "Of 2 recipes here 1 is such." in how_recipes_were_paired(2, 1, 0, "")
