"""Recipes on other test sets, computed once more from the predictions by scipy and by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from tests.run_folders import draw_labels, draw_logits, write_run
from tests.verdict_schema import check_verdict
from triptych.runs.reader import find_run_folders
from triptych.runs.record import write_arrays
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.runs import read_runs
from triptych.tools.compare.shifts import OtherSet, Shifts
from triptych.tools.evaluate.shifts import CORRUPTIONS
from triptych.tools.report.page import render_markdown, render_page
from triptych.tools.statistics.crossed import crossed_difference, summarize_trainings

NUM = {"cifar10_1": 120, "cifar10_c": 40, "svhn": 90}
SKILLS = {"alexnet": 0.5, "googlenet": 3.0, "resnet50": 3.1}


def write_shifted(folder: Path, name: str, skill: float, key: int, md5: str = "0" * 32) -> None:
    """Predictions of a set, as `evaluate` leaves them."""
    num_versions = 75 if name == "cifar10_c" else 1
    labels = np.tile(draw_labels(NUM[name]), num_versions)
    logits = draw_logits(labels, skill, key, 4)
    (folder / "shifts").mkdir(exist_ok=True)
    arrays = {"logits": logits, "labels": labels, "index": np.arange(len(labels))}
    write_arrays(folder / "shifts" / f"{name}.npz", md5=np.array([md5]), **arrays)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes of three seeds and one of a single seed, on all sets."""
    root = tmp_path_factory.mktemp("logs")
    for place, (model, skill) in enumerate(SKILLS.items()):
        for seed in (0,) if model == "resnet50" else range(3):
            folder = write_run(root, model, seed, skill=skill)
            for name in NUM:
                write_shifted(folder, name, skill, 10 * place + seed)
    return root


@pytest.fixture(scope="module")
def comparison(root: Path, compare_below: Callable[[Path], Comparison]) -> Comparison:
    return compare_below(root)


@pytest.fixture
def sets(comparison: Comparison) -> dict[str, OtherSet]:
    section = comparison.sections["shifts"]
    assert isinstance(section, Shifts)
    return {each.name: each for each in section.sets}


def read_right(root: Path, model: str, name: str) -> np.ndarray:
    """Right or rejected, (seeds, V, N), from the files."""
    rows = []
    for path in sorted(root.glob(f"shapes/{model}/seed*/*/shifts/{name}.npz")):
        with np.load(path) as file:
            logits, labels = file["logits"].astype(float), file["labels"]
        if name == "svhn":
            with np.load(path.parents[1] / "predictions" / "val.npz") as file:
                val = np.sort(softmax(file["logits"].astype(float), axis=1).max(axis=1))
            rows.append(softmax(logits, axis=1).max(axis=1) < val[10])  # of 200
        else:
            rows.append(logits.argmax(axis=1) == labels)
    return np.stack(rows).reshape(len(rows), -1, NUM[name])


@pytest.mark.parametrize("name", NUM)
def test_recipes_have_their_shares_and_crossed_differences(
    root: Path, sets: dict[str, OtherSet], name: str
) -> None:
    a, b = (read_right(root, model, name) for model in ("alexnet", "googlenet"))
    shares = {each.recipe.label: each.share for each in sets[name].scored}
    assert shares["alexnet"].value == pytest.approx(a.mean())
    assert shares["alexnet"].low < a.mean() < shares["alexnet"].high
    assert sets[name].num_images == NUM[name]
    [pair] = sets[name].recipe_pairs
    values = [summarize_trainings(x.mean(axis=1)) for x in (a, b)]
    oracle = crossed_difference(*values, pseudo_images=name != "cifar10_c")
    assert (pair.a, pair.b, pair.num_seeds) == ("alexnet", "googlenet", (3, 3))
    assert pair.difference == pytest.approx((a.mean() - b.mean(), *oracle.interval()))
    assert pair.p == pair.p_holm == pytest.approx(oracle.p())


def test_networks_are_tested_by_mcnemar_and_holm_and_means_over_versions_by_t(
    root: Path, sets: dict[str, OtherSet]
) -> None:
    first = {model: read_right(root, model, "cifar10_1")[0, 0] for model in SKILLS}
    p_values = []
    for pair in sets["cifar10_1"].network_pairs:
        a, b = (first[name.split()[0]] for name in (pair.a, pair.b))
        discordant = int((a & ~b).sum()), int((b & ~a).sum())
        assert pair.p == pytest.approx(stats.binomtest(discordant[0], sum(discordant)).pvalue)
        p_values.append(pair.p)
    order = np.argsort(p_values)
    holm = np.minimum(np.maximum.accumulate(np.sort(p_values) * [3, 2, 1]), 1)
    assert [sets["cifar10_1"].network_pairs[n].p_holm for n in order] == pytest.approx(holm)
    means = {model: read_right(root, model, "cifar10_c")[0].mean(axis=0) for model in SKILLS}
    pair = sets["cifar10_c"].network_pairs[0]
    assert pair.p == pytest.approx(stats.ttest_rel(means["alexnet"], means["googlenet"]).pvalue)
    [single] = [e for e in sets["cifar10_c"].scored if e.recipe.label == "resnet50"]
    x = means["resnet50"]
    interval = stats.t.interval(0.95, 39, x.mean(), stats.sem(x))
    assert single.share == pytest.approx((x.mean(), *interval))


def test_corruptions_are_averaged_over_severities_and_seeds_and_changes_are_from_the_test_set(
    root: Path, sets: dict[str, OtherSet], comparison: Comparison
) -> None:
    scored = {each.recipe.label: each for each in sets["cifar10_c"].scored}
    right = read_right(root, "googlenet", "cifar10_c").reshape(3, 15, 5, -1)
    expected = right.mean(axis=(0, 2, 3)).tolist()
    assert [*scored["googlenet"].by_corruption] == list(CORRUPTIONS)
    assert [*scored["googlenet"].by_corruption.values()] == pytest.approx(expected)
    of_test = {recipe.label: recipe.accuracy.value for recipe in comparison.recipes}
    assert scored["googlenet"].change == pytest.approx(right.mean() - of_test["googlenet"])


def test_sets_on_which_one_is_better_are_counted_without_the_digits(
    comparison: Comparison,
) -> None:
    section = comparison.sections["shifts"]
    assert isinstance(section, Shifts)
    [counted] = section.counted
    assert (counted.a, counted.b) == ("alexnet", "googlenet")
    assert counted[2:] == (3, 0, 3)
    assert counted.sentence in comparison.verdict
    assert "googlenet is better than alexnet on at least 3 of 3" in counted.sentence


def test_page_text_and_json_show_every_set(comparison: Comparison) -> None:
    described = check_verdict(comparison.sections["shifts"].describe(), "shifts")
    page, text = render_page(comparison), render_markdown(comparison)
    for shown in (page, text):
        for word in ("Other test sets", "CIFAR-10.1", "CIFAR-10-C", "SVHN", "zoom blur"):
            assert word in shown
    assert [each["name"] for each in described["sets"]] == list(NUM)
    assert [each["measure"] for each in described["sets"]] == ["accuracy", "accuracy", "rejected"]
    changes = [each["recipes"][0]["change"] for each in described["sets"]]
    assert [change is None for change in changes] == [False, False, True]
    assert len(described["sets"][1]["recipes"][0]["by_corruption"]) == 15


def test_networks_scored_on_other_images_or_on_none_are_left_out_and_named(tmp_path: Path) -> None:
    for model, seeds in (("alexnet", 1), ("googlenet", 1), ("resnet50", 2), ("vgg16", 1)):
        for seed in range(seeds):
            folder = write_run(tmp_path, model, seed)
            if (model, seed) not in (("resnet50", 1), ("vgg16", 0)):
                md5 = "1" * 32 if model == "googlenet" else "0" * 32
                write_shifted(folder, "cifar10_1", 1.0, seed, md5)
    comparison = build_comparison(*read_runs(find_run_folders([str(tmp_path)])))
    section = comparison.sections["shifts"]
    assert isinstance(section, Shifts)
    assert [each.recipe.label for each in section.sets[0].scored] == ["alexnet"]
    named = [problem.what for problem in comparison.problems]
    assert len(named) == 2
    assert any("googlenet" in each for each in named)
    assert any("1 of 2 runs of resnet50" in each for each in named)


def test_without_other_sets_the_page_has_no_section(
    tmp_path: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    write_run(tmp_path)
    assert "shifts" not in compare_below(tmp_path).sections


def test_a_broken_file_is_a_problem_and_no_more(
    tmp_path: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    folder = write_run(tmp_path)
    write_shifted(folder, "cifar10_c", 1.0, 0)
    with np.load(folder / "shifts" / "cifar10_c.npz") as file:
        arrays = {name: file[name][:2999] for name in file.files}
    write_arrays(folder / "shifts" / "cifar10_c.npz", **arrays)
    comparison = compare_below(tmp_path)
    assert "shifts" not in comparison.sections
    assert "cifar10_c.npz" in comparison.problems[0].what
