"""Sentences claim what the statistics allow; the numbers in them are those of the tables."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.run_folders import change_record, write_run
from triptych.tools.compare.content import MEASURES, Comparison, Pair
from triptych.tools.compare.formats import (
    fixed,
    interval,
    join_words,
    p_value,
    percent,
    pluralize,
    points,
    thousands,
)
from triptych.tools.compare.sentences import write_sentence
from triptych.tools.report.page import render_markdown, render_page
from triptych.tools.statistics.inference import WithInterval

Compare = Callable[[Path], Comparison]


def make_pair(difference: float, p_holm: float, *, recipes: bool = False) -> Pair:
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
    )


DIFFERENCES = st.floats(-1, 1).filter(lambda value: abs(value) > 1e-6)


@given(DIFFERENCES, st.floats(0, 1), st.booleans(), st.integers(1, 45))
def test_claims_follow_holms_p_alone_and_always_carry_the_interval(
    difference: float, p_holm: float, recipes: bool, num_pairs: int
) -> None:
    pair = make_pair(difference, p_holm, recipes=recipes)
    sentence = write_sentence(pair, num_pairs)
    assert ("do not differ significantly" in sentence) == (p_holm >= 0.05)
    assert pair.is_significant == (p_holm < 0.05)
    low, high = difference - 0.01, difference + 0.02
    if difference < 0:
        low, high = -high, -low
    assert interval(low, high, points).replace("+", "") in sentence
    assert f"{points(abs(difference))} points" in sentence
    assert ("10,000 test images" in sentence) != recipes
    assert ("is more accurate than" in sentence) == (p_holm < 0.05)
    assert ("says nothing about retraining" in sentence) != recipes
    assert ("after Holm" in sentence) == (num_pairs > 1)


def test_the_better_comes_first_whichever_way_the_pair_is_turned() -> None:
    before = make_pair(-0.1, 0.031, recipes=True)
    turned = write_sentence(before, 1)
    assert turned.startswith("B is more accurate than A: +10.00 points (95 % CI 8.00 to 11.00; ")
    assert "p = 0.0310; 4 and 3 seeds)" in turned


def test_a_difference_without_an_interval_says_so_in_place_of_its_bounds() -> None:
    pair = replace(make_pair(0.0, 1.0), difference=WithInterval(0.0))
    assert "+0.00 points (no interval; " in write_sentence(pair, 3)


def test_numbers_and_words_are_written_as_people_read_them() -> None:
    assert [percent(0.91554), percent(0.5, 0), percent(None), percent(float("nan"))] == [
        *("91.55", "50", "–", "–")
    ]
    assert [points(0.0349), points(-0.0005), points(-1e-9)] == ["+3.49", "−0.05", "+0.00"]
    assert [thousands(12345.6), thousands(None)] == ["12,346", "–"]
    assert [fixed(0.12345), fixed(None)] == ["0.123", "–"]
    assert [interval(0.5, 0.75), interval(float("nan"), 1)] == ["50.00 to 75.00", "–"]
    assert [p_value(0.03123), p_value(1e-9)] == ["0.0312", "< 0.0001"]
    assert [pluralize(1, "seed"), pluralize(10_000, "image")] == ["1 seed", "10,000 images"]
    assert [join_words("a"), join_words("ab"), join_words("abc")] == ["a", "a and b", "a, b and c"]
    assert join_words("abcd", most=2) == "a, b and 2 more"
    margins = (("accuracy", 0.005), ("accuracy", 0.01), ("nll", 1), ("brier", 0.1))
    written = [MEASURES[metric].write_margin(margin) for metric, margin in margins]
    assert written == ["0.5 points", "1 point", "1 nat", "0.1"]


def test_the_verdict_compares_recipes_of_three_seeds_and_networks_of_the_others(
    comparison: Comparison,
) -> None:
    head, accuracies, recipes, *networks = comparison.verdict
    assert head.startswith("7 trained networks of 3 recipes, on 200 test images")
    assert accuracies.startswith("Accuracy with its 95 % CI over seeds and images or, of one seed,")
    places = [accuracies.index(f"{model} ") for model in ("resnet50", "googlenet", "alexnet")]
    assert places == sorted(places), "the best stands first"
    assert accuracies.count("; 3 seeds)") == 2
    assert recipes.startswith("googlenet is more accurate than alexnet: ")
    pairs = [sentence for sentence in networks if "on these 200 test images" in sentence]
    assert len(pairs) == 2
    assert sum("One seed each" in sentence for sentence in networks) == 1
    assert all("resnet50 seed 5" in sentence for sentence in pairs)


def test_costs_are_described_untested_and_only_where_measured_alike(
    tmp_path: Path, compare_below: Compare
) -> None:
    for n, model in enumerate(("alexnet", "googlenet", "vgg11")):
        folder = write_run(tmp_path, model, num_images=30, skill=99)
        cost = {"device": "cpu", "latency_ms_p50": 5.0 - n, "macs": 2_000_000}
        (folder / "cost.json").write_text(json.dumps(cost))
    sentence = compare_below(tmp_path).verdict[-1]
    assert sentence.startswith("Described, not tested: ")
    assert "fewest parameters, vgg11 (1,005)" in sentence
    assert "shortest median latency at batch 1, vgg11 (3.0 ms)" in sentence
    assert "multiply-accumulates" not in sentence  # all need the same
    assert "highest accuracy" not in sentence  # all tie

    second = write_run(tmp_path, "vgg11", 1, num_images=30, skill=99)
    (second / "cost.json").write_text(json.dumps(cost | {"latency_ms_p50": 9.0}))
    sentence = compare_below(tmp_path).verdict[-1]
    assert "googlenet (4.0 ms)" in sentence, "of vgg11's seeds the mean counts, 6 ms"

    change_record(folder, device="NVIDIA H200")
    sentence = compare_below(tmp_path).verdict[-1]
    assert "latency" in sentence, "where a network was trained is not where it was measured"

    (folder / "cost.json").write_text(json.dumps(cost | {"device": "NVIDIA H200"}))
    assert "latency" not in compare_below(tmp_path).verdict[-1]


OLD, NEW = ({"triptych/module.py": each, "triptych/optim.py": "o"} for each in ("old", "new"))


def write_seeds(root: Path, model: str, *codes: dict[str, str] | None) -> None:
    for seed, code in enumerate(codes):
        write_run(root, model, seed, code=code)


def code_cautions(comparison: Comparison) -> list[str]:
    return [sentence for sentence in comparison.cautions if " code" in sentence]


def test_runs_of_the_same_code_need_no_caution_nor_do_files_that_only_some_have(
    tmp_path: Path, compare_below: Compare
) -> None:
    write_seeds(tmp_path, "alexnet", OLD, OLD)
    write_seeds(tmp_path, "googlenet", OLD | {"mynet.py": "a"})
    write_seeds(tmp_path, "resnet50", OLD | {"triptych/data/cifar.py": "b"})
    assert code_cautions(compare_below(tmp_path)) == []


def test_a_recipe_whose_runs_other_code_trained_is_named_with_the_files(
    tmp_path: Path, compare_below: Compare
) -> None:
    write_seeds(tmp_path, "alexnet", OLD, NEW)
    write_seeds(tmp_path, "googlenet", NEW, NEW)
    comparison = compare_below(tmp_path)
    [sentence] = code_cautions(comparison)
    assert "alexnet" in sentence
    assert "googlenet" not in sentence
    assert "triptych/module.py" in sentence
    assert "optim.py" not in sentence
    assert sentence in render_markdown(comparison)
    assert sentence in render_page(comparison)


def test_recipes_that_other_code_trained_are_told_from_runs_of_one(
    tmp_path: Path, compare_below: Compare
) -> None:
    write_seeds(tmp_path, "alexnet", OLD, OLD)
    write_seeds(tmp_path, "googlenet", NEW | {"mynet.py": "a"})
    [sentence] = code_cautions(compare_below(tmp_path))
    assert "Recipes were" in sentence
    assert "triptych/module.py" in sentence
    assert "mynet.py" not in sentence


def test_a_run_that_was_resumed_with_other_code_and_code_that_is_not_known_are_said(
    tmp_path: Path, compare_below: Compare
) -> None:
    write_seeds(tmp_path, "alexnet", None, OLD | {"triptych/module.py": "old, new"}, None)
    within, unknown = code_cautions(compare_below(tmp_path))
    assert "triptych/module.py" in within
    assert "2 of 3 runs" in unknown


def test_where_no_run_says_what_trained_it_nothing_is_said(
    tmp_path: Path, compare_below: Compare
) -> None:
    write_seeds(tmp_path, "alexnet", None, None)
    assert code_cautions(compare_below(tmp_path)) == []


def test_the_page_begins_with_the_question_and_an_answer_a_pair_the_best_first(
    tmp_path: Path, compare_below: Compare, comparison: Comparison
) -> None:
    assert (
        comparison.asked == "Which of alexnet, googlenet and resnet50 is most accurate on shapes?"
    )
    pair, few = comparison.answers
    assert (
        pair.text == "googlenet is more accurate than alexnet: +21.7 points, 95 % CI 15.1 to 27.8."
    )
    assert "t test p < 0.0001" in pair.detail
    assert few.text.startswith("resnet50: too few seeds")

    for number, model in enumerate(("vgg11", "vgg13", "vgg16", "vgg19"), 1):
        write_run(tmp_path, model, skill=number)
    compared = compare_below(tmp_path)
    best, *shown, more, _ = [answer.text for answer in compared.answers]
    assert best.startswith("vgg19 has the best accuracy of 4 recipes; all 3 others tested")
    assert [text.partition(" seed 0 is more accurate than ")[0] for text in shown] == ["vgg19"] * 3
    assert more.startswith("3 more pairs: ")


def test_of_one_recipe_the_answer_is_how_good_it_is(tmp_path: Path, compare_below: Compare) -> None:
    write_run(tmp_path, "vgg11")
    compared = compare_below(tmp_path)
    assert compared.asked == "How accurate is vgg11 on shapes?"
    [answer] = compared.answers
    assert "one seed; 95 %" in answer.text
    assert "nothing to compare it with" in answer.detail
