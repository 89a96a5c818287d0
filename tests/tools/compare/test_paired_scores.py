"""The section of scores: values of each against scikit-learn, and what pairs say of them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss

from tests.run_folders import change_predictions, draw_labels, write_run
from triptych.runs.predictions import Predictions
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.paired_scores import (
    SCALED,
    ScorePair,
    ScoresSection,
    is_carried_by_few,
)
from triptych.tools.report.page import render_markdown
from triptych.tools.statistics.crossed import crossed_difference, summarize_trainings
from triptych.tools.statistics.scores import image_f1

LOSSES = arrays(np.float64, (3, 12), elements=st.floats(0, 20))


def get_section(comparison: Comparison) -> ScoresSection:
    section = comparison.sections["scores"]
    assert isinstance(section, ScoresSection)
    return section


def get_values(comparison: Comparison, metric: str) -> dict[str, tuple[float, float, float]]:
    return next(dict(v) for name, _, v in get_section(comparison).columns if name == metric)


def get_pair(comparison: Comparison, metric: str) -> ScorePair:
    [pair] = [pair for pair in get_section(comparison).pairs if pair.metric == metric]
    return pair


def test_values_are_means_over_seeds_of_scikit_learn_s_scores(
    comparison: Comparison, logits: dict[str, np.ndarray]
) -> None:
    labels = draw_labels(200)

    def brier(labels: np.ndarray, p: np.ndarray) -> float:
        return float(((p - np.eye(4)[labels]) ** 2).sum(axis=1).mean())

    scores: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "accuracy": lambda y, p: accuracy_score(y, p.argmax(axis=1)),
        "f1": lambda y, p: f1_score(y, p.argmax(axis=1), average="macro", zero_division=0),
        "nll": lambda y, p: log_loss(y, p, labels=range(4)),
        "brier": brier,
    }
    for metric, score in scores.items():
        for label, (value, low, high) in get_values(comparison, metric).items():
            seeds = [softmax(logits[f"{label} seed {seed}"], axis=1) for seed in range(3)]
            assert value == pytest.approx(np.mean([score(labels, p) for p in seeds]))
            assert low < value < high
    assert {*get_values(comparison, "nll")} == {"alexnet", "googlenet"}  # resnet50 has one seed


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_values_of_images_have_macro_f1_as_their_mean(num_classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, 9)
    test = Predictions(random.normal(size=(9, num_classes)), labels, np.arange(9))
    expected = f1_score(
        *(labels, test.classes), labels=range(num_classes), average="macro", zero_division=0
    )
    assert image_f1(test).mean() == pytest.approx(expected)


@given(LOSSES, LOSSES, st.floats(-5, 5))
def test_a_constant_on_both_losses_changes_nothing(a: Any, b: Any, constant: float) -> None:
    before, after = (
        crossed_difference(summarize_trainings(a + c), summarize_trainings(b + c))
        for c in (0, constant)
    )
    assert after.value == pytest.approx(before.value, abs=1e-9)
    assert after.interval() == pytest.approx(before.interval(), abs=1e-6)


def test_a_pair_differs_just_where_its_interval_excludes_zero(comparison: Comparison) -> None:
    for metric in ("f1", "nll", SCALED, "brier"):
        pair = get_pair(comparison, metric)
        low, high = pair.difference[1:]
        assert (pair.p_adjusted < 0.05) == (low > 0 or high < 0)
        assert pair.better == "googlenet"  # by a higher F1, and by lower losses
    assert [pair.metric for pair in get_section(comparison).pairs].count("accuracy") == 0


@pytest.fixture
def sharpened(root: Path, tmp_path: Path) -> Path:
    """The same runs, whose googlenets are three times as sure, in validation too."""
    shutil.copytree(root, tmp_path / "logs")
    for path in tmp_path.glob("logs/shapes/googlenet/*/*"):
        for split in ("test", "val"):
            with np.load(path / "predictions" / f"{split}.npz") as file:
                change_predictions(path, split, logits=6 * file["logits"])
        (path / "run.json").write_text((path / "run.json").read_text().replace("test/loss", "loss"))
    return tmp_path / "logs"


def test_after_the_temperature_only_discrimination_counts_and_contradictions_are_said(
    comparison: Comparison, sharpened: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    other = compare_below(sharpened)
    before, after = (get_pair(each, SCALED) for each in (comparison, other))
    assert after.difference == pytest.approx(before.difference, abs=1e-4)
    assert (get_pair(other, "nll").better, after.better) == ("alexnet", "googlenet")
    assert any("other way round, alexnet is better" in sentence for sentence in other.verdict)
    assert not any("other way round" in sentence for sentence in comparison.verdict)


def test_without_validation_or_probabilities_a_score_is_left_out(
    sharpened: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    for path in sharpened.glob("shapes/alexnet/seed1/*/predictions/val.npz"):
        path.write_bytes(b"")
    comparison = compare_below(sharpened)
    assert {*get_values(comparison, SCALED)} == {"googlenet"}
    assert [pair.metric for pair in get_section(comparison).pairs] == ["f1", "nll", "brier"]
    assert sum("val.npz" in problem.what for problem in comparison.problems) == 1
    assert "| – |" in render_markdown(comparison)


def test_a_few_images_that_carry_a_loss_are_said(comparison: Comparison) -> None:
    a, b, _ = (replace(recipe, _trainings={}) for recipe in comparison.recipes)
    values = np.random.default_rng(0).normal(size=(2, 3, 200))
    for recipe, losses in zip((a, b), values, strict=True):
        recipe.add_score("steady", [*losses])
        losses[:, 7] += 40.0 if recipe is b else 0.0
        recipe.add_score("spiked", [*losses])
    assert is_carried_by_few(a, b, "spiked")
    assert not is_carried_by_few(a, b, "steady")


def test_a_comparison_of_networks_alone_has_no_such_section(
    tmp_path: Path, compare_below: Callable[[Path], Comparison]
) -> None:
    write_run(tmp_path, "alexnet"), write_run(tmp_path, "googlenet", skill=3.0)
    assert "scores" not in compare_below(tmp_path).sections
