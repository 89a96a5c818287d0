"""Verdicts within a margin, and by other scores than accuracy, follow p values and contradict no
interval."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.run_folders import write_run
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import MEASURES, Comparison, Pair, Question
from triptych.tools.compare.pairs import adjust, adjust_in_margin
from triptych.tools.compare.runs import read_runs
from triptych.tools.statistics.crossed import Estimate, PairedDifference, subtract_counts


def estimate(centre: float, variance: float, df: float) -> Estimate:
    return Estimate(centre, centre, variance, df)


# centre, variance, df; then p of not being worse by 0.005, p of equivalence
ORACLE = [
    (0.001, 4e-6, 8.0, 0.01707168123378265, 0.08051623795726262),
    (0.0002, 4e-6, 8.0, 0.03161781156452982, 0.043176727827846664),
    (-0.003, 1e-6, 20.0, 0.05926553544657044, 0.05926553544657044),
    (0.012, 4e-6, 8.0, 2.8153691205733044e-05, 1.0),
]


@pytest.mark.parametrize(("centre", "variance", "df", "not_worse", "equivalent"), ORACLE)
def test_p_values_of_a_margin_are_those_of_t_on_each_side(
    centre: float, variance: float, df: float, not_worse: float, equivalent: float
) -> None:
    [(a, b)] = adjust_in_margin([estimate(centre, variance, df)], 0.005, 1)
    assert a == pytest.approx(not_worse, rel=1e-9)
    assert max(a, b) == pytest.approx(equivalent, rel=1e-9)


ESTIMATES = st.builds(
    estimate, st.floats(-0.03, 0.03), st.floats(1e-9, 1e-4), st.floats(2, 10_000)
) | st.builds(subtract_counts, st.integers(0, 60), st.integers(0, 60), st.integers(121, 2000))
MARGINS = st.floats(0.001, 0.05)
STRENGTH = {"undecided": 0, "a_not_inferior": 1, "b_not_inferior": 1, "equivalent": 2}


def judge(
    differences: list[Estimate], margin: float | None, metric: str = "accuracy"
) -> list[Pair]:
    measure = MEASURES[metric]
    tests = zip(
        adjust(differences), adjust_in_margin(differences, margin, measure.sign), strict=True
    )
    return [
        Pair("A", "B", 1000, (3, 3), *test, measure=measure, margin=margin, p_not_inferior=p)
        for test, p in tests
    ]


@given(st.lists(ESTIMATES, min_size=1, max_size=6), MARGINS)
def test_a_verdict_never_contradicts_its_simultaneous_interval(
    differences: list[Estimate], margin: float
) -> None:
    for pair, found in zip(judge(differences, margin), differences, strict=True):
        _, low, high = pair.difference
        is_exact = isinstance(found, PairedDifference)  # McNemar's
        if low > 0 and not is_exact:
            assert pair.verdict == "a_better"
        if high < 0 and not is_exact:
            assert pair.verdict == "b_better"
        if -margin < low and high < margin:
            assert pair.is_equivalent
        if low > -margin:
            assert pair.p_not_inferior[0] < 0.05
        if high < -margin or low > margin:
            assert pair.verdict in ("a_better", "b_better", "a_not_inferior", "b_not_inferior")
            assert not pair.is_equivalent
        if pair.exceeds_margin:
            assert abs(pair.difference.value) > margin


@given(st.lists(ESTIMATES, min_size=1, max_size=6), MARGINS, MARGINS, st.sampled_from([*MEASURES]))
def test_a_wider_margin_never_weakens_a_verdict_and_no_margin_changes_a_difference(
    differences: list[Estimate], one: float, other: float, metric: str
) -> None:
    margins = None, *sorted((one, other))
    for none, narrow, wide in zip(*(judge(differences, m, metric) for m in margins), strict=True):
        if none.is_significant:
            assert none.verdict == narrow.verdict == wide.verdict
        else:
            assert none.verdict == "undecided"
            assert STRENGTH[narrow.verdict] <= STRENGTH[wide.verdict]


@given(st.lists(ESTIMATES, min_size=1, max_size=6), MARGINS)
def test_swapping_a_and_b_swaps_the_verdict_alone(
    differences: list[Estimate], margin: float
) -> None:
    turned = [each._replace(value=-each.value, centre=-each.centre) for each in differences]
    for one, other in zip(differences, turned, strict=True):
        if isinstance(one, PairedDifference) and isinstance(other, PairedDifference):
            other.only_a, other.only_b = one.only_b, one.only_a
    for pair, swapped in zip(judge(differences, margin), judge(turned, margin), strict=True):
        assert pair.p_not_inferior == swapped.p_not_inferior[::-1]
        verdict = {"a": "b", "b": "a"}.get(pair.verdict[0], pair.verdict[0]) + pair.verdict[1:]
        if pair.difference.value:
            assert swapped.verdict == verdict


@given(st.lists(ESTIMATES, min_size=1, max_size=6), MARGINS)
def test_of_losses_the_lower_is_better(differences: list[Estimate], margin: float) -> None:
    for more, less in zip(
        judge(differences, margin), judge(differences, margin, "nll"), strict=True
    ):
        assert more.p_not_inferior == less.p_not_inferior[::-1]
        if more.is_significant:
            assert {more.verdict, less.verdict} == {"a_better", "b_better"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes alike, of which one is trained in a quarter of the time, and a better one."""
    root = tmp_path_factory.mktemp("margin")
    for model, skill, seconds in (("alexnet", 2.0, 10), ("googlenet", 2.0, 40), ("vgg11", 3.0, 40)):
        for seed in range(3):
            write_run(root, model, seed, skill=skill, num_images=300, train_seconds=seconds)
    return root


def compare(root: Path, metric: str, margin: float | None) -> Comparison:
    runs, problems = read_runs(find_run_folders([str(root)]))
    return build_comparison(runs, problems, Question(metric, margin))


def test_a_cheaper_recipe_that_is_good_enough_comes_first_with_its_cost(drawn: Path) -> None:
    comparison = compare(drawn, "accuracy", 0.2)
    pair = comparison.recipe_pairs.pairs[0]
    assert pair.verdict == "equivalent"
    assert pair.sentence.startswith("alexnet is as good as googlenet within ±20 points at 25 %")
    assert "differ significantly" not in json.dumps(comparison.verdict)
    assert any("not declared before" in sentence for sentence in comparison.verdict)
    assert compare(drawn, "accuracy", None).recipe_pairs.pairs[0].verdict == "undecided"


@pytest.mark.parametrize("metric", ["nll", "brier", "f1"])
def test_another_metric_decides_the_words_of_recipes_and_of_networks(
    drawn: Path, metric: str
) -> None:
    comparison = compare(drawn, metric, None)
    sign = -1 if metric == "f1" else 1
    for table in (comparison.recipe_pairs, comparison.network_pairs):
        assert [pair.verdict for pair in table.pairs[1:]] == ["b_better", "b_better"]
        assert all(math.copysign(1, pair.difference.value) == sign for pair in table.pairs[1:])
        assert all("vgg11" in pair.sentence.split(" than ")[0] for pair in table.pairs[1:])


def test_networks_are_compared_by_losses_with_a_paired_t_test_over_images(drawn: Path) -> None:
    comparison = compare(drawn, "nll", None)
    a, _, b = (recipe.first for recipe in comparison.recipes)
    losses = [-np.log(each.test.probabilities[np.arange(300), each.test.labels]) for each in (a, b)]
    pair = comparison.network_pairs.pairs[1]
    assert pair.p == pytest.approx(stats.ttest_rel(*losses).pvalue, rel=1e-6)
    assert pair.only_a is None
