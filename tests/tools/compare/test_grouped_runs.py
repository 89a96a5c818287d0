"""Runs whose test images belong together: every interval counts groups, and sentences say so."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.run_folders import change_predictions, change_record, write_run
from triptych.data.group_names import LEAK
from triptych.errors import UserError
from triptych.runs.predictions import read_predictions
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.content import Comparison, write_csv
from triptych.tools.compare.runs import read_runs
from triptych.tools.report.page import render_markdown, render_page

GROUPS = np.arange(200) // 5


@pytest.fixture(scope="module")
def grouped(
    tmp_path_factory: pytest.TempPathFactory, compare_below: Callable[[Path], Comparison]
) -> Comparison:
    root = tmp_path_factory.mktemp("grouped")
    for model, skill in {"alexnet": 1.0, "googlenet": 2.0}.items():
        for seed in range(3):
            folder = write_run(root, model, seed, skill=skill)
            if seed:  # the first knows its groups from the others
                change_predictions(folder, groups=GROUPS)
                change_record(folder, notes=["2 classes", f"{LEAK}3 groups, with 9 of 200 images"])
    return compare_below(root)


def test_networks_are_compared_over_groups_and_not_by_mcnemar(grouped: Comparison) -> None:
    a, b = (recipe.first.test.correct.reshape(40, 5).mean(axis=1) for recipe in grouped.recipes)
    pair = grouped.network_pairs.pairs[0].better_first
    expected = stats.ttest_rel(a, b)
    assert (pair.p, pair.only_a) == (pytest.approx(expected.pvalue), None)
    assert pair.difference[1:] == pytest.approx(tuple(expected.confidence_interval()))
    assert "200 test images of 40 groups" in pair.sentence
    assert "McNemar" not in pair.sentence
    half = stats.t.ppf(0.975, 39) * a.std(ddof=1) / 40**0.5
    accuracy = grouped.networks[0].accuracy
    assert accuracy.high - accuracy.value == pytest.approx(half)


def test_recipes_are_compared_over_groups(grouped: Comparison) -> None:
    [pair] = grouped.recipe_pairs.pairs
    assert pair.num_groups == 40
    assert pair.difference.low < pair.difference.value < pair.difference.high
    middle = (pair.difference.low + pair.difference.high) / 2
    assert middle == pytest.approx(pair.difference.value)  # without pseudo-images
    assert "over groups" in pair.sentence


def test_page_and_table_count_groups(grouped: Comparison) -> None:
    text, page = render_markdown(grouped), render_page(grouped)
    assert "200 test images of 40 groups" in text
    assert text.count("in train and in test: 3 groups, with 9 of 200 images") == 1
    assert "95 % Wilson interval |" not in text
    assert "with Wilson's" not in page
    rows = [*csv.DictReader(io.StringIO(write_csv(grouped)))]
    assert [row["num_groups"] for row in rows] == ["40"] * 6


def test_a_comparison_without_groups_has_no_column_of_them(comparison: Comparison) -> None:
    assert "num_groups" not in write_csv(comparison).partition("\n")[0]


def test_one_group_of_all_images_makes_no_claim(
    tmp_path: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    for model in ("alexnet", "googlenet"):
        for seed in range(3):
            change_predictions(write_run(tmp_path, model, seed), groups=np.zeros(200, np.int64))
    comparison = compare_below(tmp_path)
    assert not comparison.recipe_pairs.pairs
    [pair] = comparison.network_pairs.pairs
    assert (pair.p, pair.difference[1:]) == (1, (-1, 1))
    render_page(comparison)


def test_other_groups_of_the_same_images_leave_a_run_out(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, seed=seed) for seed in range(3)]
    for folder in folders:
        change_predictions(folder, groups=GROUPS if folder is not folders[0] else GROUPS // 2)
    runs, [problem] = read_runs(find_run_folders([str(tmp_path)]))
    assert {run.folder for run in runs} == {*folders[1:]}
    assert "groups differ" in problem.what


@pytest.mark.parametrize("groups", [GROUPS.astype(np.int32), GROUPS[:9]])
def test_groups_that_are_none_are_refused(tmp_path: Path, groups: np.ndarray) -> None:
    folder = write_run(tmp_path)
    change_predictions(folder, groups=groups)
    with pytest.raises(UserError, match="groups must be int64"):
        read_predictions(folder / "predictions" / "test.npz")


def test_networks_that_agree_on_every_image_of_few_groups_are_not_certainly_equal(
    tmp_path: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    arrays = dict(np.load(write_run(tmp_path, "alexnet") / "predictions" / "test.npz"))
    folder = write_run(tmp_path, "googlenet")
    change_predictions(folder, **arrays, groups=np.arange(200) // 20)
    right = float((arrays["logits"].argmax(axis=1) == arrays["labels"]).mean())
    change_record(folder, metrics={"test/accuracy": right})
    [pair] = compare_below(tmp_path).network_pairs.pairs
    half = stats.t.ppf(0.975, 11) * np.sqrt(2 / 11 / 12)  # of ten groups and two
    assert (pair.p, pair.difference.high) == (1, pytest.approx(half))
