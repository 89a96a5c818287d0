"""The section on sets of classes and on answering only when sure, by hand and by its rates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from tests.run_folders import change_predictions, write_run
from tests.verdict_schema import check_verdict
from triptych.config import check_config
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_predictions
from triptych.runs.reader import find_run_folders
from triptych.runs.record import Record
from triptych.tools.compare import abstention, content
from triptych.tools.compare.abstention import Abstention, Measured
from triptych.tools.compare.content import Pairs, Question
from triptych.tools.compare.recipes import group_by_recipe, name_classes
from triptych.tools.compare.runs import read_runs
from triptych.tools.report import charts
from triptych.tools.report.curves import draw_risks
from triptych.tools.report.page import make_environment
from triptych.tools.statistics.conformal import selection_slack

LAST = {"checkpoint.score": "last"}
NUM_VAL = 150


def write(root: Path, model: str = "googlenet", *, num_val: int = NUM_VAL, **more: Any) -> Path:
    """A run of four unequal classes, whose validation images are others than its test images."""
    folder = write_run(root, model, **({"settings": LAST, "skill": 3.0} | more))
    val = draw(num_val, 0, more.get("skill", 3.0))
    change_predictions(folder, "val", logits=val.logits, labels=val.labels, index=val.index)
    return folder


def draw(num_images: int, seed: int, skill: float = 3.0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = random.choice(4, num_images, p=[0.1, 0.2, 0.3, 0.4]).astype(np.int64)
    logits = random.normal(0, 2**0.5, (num_images, 4)) + skill * np.eye(4)[labels]
    return Predictions(logits.astype(np.float32), labels, np.arange(num_images))


def build(root: Path, **question: Any) -> Abstention | None:
    runs, problems = read_runs(find_run_folders([str(root)]))
    recipes, none = name_classes(group_by_recipe(runs)), Pairs((), 0, None, False)
    return abstention.build(content.Tested(recipes, none, none, Question(**question), problems))


def measure(root: Path, **question: Any) -> Measured:
    section = build(root, **question)
    assert section
    check_verdict(section.describe(), "abstention")
    return section.measured[0]


def test_sets_and_answers_are_those_of_their_definitions(tmp_path: Path) -> None:
    folder = write(tmp_path)
    val, test = (read_predictions(folder / "predictions" / f"{n}.npz") for n in ("val", "test"))
    q, p = (softmax(each.logits.astype(float), axis=1) for each in (val, test))
    of_label = np.sort([1 - row[c] for row, c in zip(q, val.labels, strict=True)])
    sets = 1 - p <= of_label[-(-151 * 9 // 10) - 1]  # ceil(151 * 0.9), from 1
    covered = sum(bool(row[c]) for row, c in zip(sets, test.labels, strict=True))
    found = measure(tmp_path, coverage=0.9, risk=0.1)
    lac = found.sets[0]
    exact = stats.binomtest(covered, 200).proportion_ci(method="exact")
    assert lac.coverage == pytest.approx((covered / 200, *exact))
    assert lac.size == pytest.approx(sets.sum() / 200)
    assert [each.coverage.value for each in found.sets] == pytest.approx([0.9] * 3, abs=0.07)
    sizes = sets.sum(axis=1)
    shares = [(sizes == 0).mean(), (sizes == 1).mean(), (sizes > 1).mean()]
    assert [lac.empty, lac.single, lac.larger] == pytest.approx(shares)
    right = q.argmax(axis=1) == val.labels
    fit = [t for t in q.max(axis=1) if (~right[q.max(axis=1) >= t]).mean() <= 0.1]
    answered = p.max(axis=1) >= min(fit)
    errors = int((p.argmax(axis=1) != test.labels)[answered].sum())
    risk, kept = found.answers
    assert (risk.num_errors, risk.num_answered) == (errors, answered.sum())
    assert risk.confidence == pytest.approx(min(fit))
    assert risk.bound == pytest.approx(stats.beta.ppf(0.95, errors + 1, answered.sum() - errors))
    assert kept.confidence == pytest.approx(np.sort(q.max(axis=1))[-136])
    assert kept.num_answered == (p.max(axis=1) >= kept.confidence - 1e-12).sum()


def test_by_class_intervals_hold_at_once_and_few_validation_images_are_named(
    tmp_path: Path,
) -> None:
    found = measure(write(tmp_path).parents[3], coverage=0.95)
    assert sum(each.num_test for each in found.classes) == 200
    ends = [each.coverage.high for each in found.classes]
    assert ends == sorted(ends)
    for each in found.classes:
        count = round(each.coverage.value * each.num_test)
        test = stats.binomtest(count, each.num_test)
        exact = test.proportion_ci(1 - 0.05 / 4, method="exact")
        assert each.coverage[1:] == pytest.approx(exact, abs=1e-6)
    assert found.without_threshold == [e.name for e in found.classes if e.num_val < 19]
    assert found.without_threshold == ["class 0"]
    [few] = (each for each in found.classes if not each.has_threshold)
    assert few.classwise.value == 1
    marginal, classwise = found.sets[0], found.sets[2]
    assert classwise.size > marginal.size
    assert sum(e.coverage.value * e.num_test for e in found.classes) / 200 == pytest.approx(
        marginal.coverage.value
    )


@pytest.mark.parametrize(
    ("settings", "num_networks"), [(LAST, 1), ({"checkpoint.score": "best"}, 2)]
)
def test_the_guarantee_is_less_where_validation_chose_the_epoch(
    settings: dict[str, Any], num_networks: int, tmp_path: Path
) -> None:
    write(tmp_path, num_val=2000, settings=settings)
    found = measure(tmp_path)
    assert found.num_candidates == num_networks
    n = min(each.num_val for each in found.classes)
    expected = [0.95 if num_networks == 1 else 0.95 * (1 + 1 / m) for m in (2000, 2000, n)]
    losses = [selection_slack(m, num_networks) for m in (2000, 2000, n)]
    exact = [a - b for a, b in zip(expected, losses, strict=True)]
    assert [each.guarantee for each in found.sets] == pytest.approx(exact)


def test_nothing_is_guaranteed_of_validation_images_in_groups(tmp_path: Path) -> None:
    folder = write(tmp_path)
    alone = measure(tmp_path).sets[0].coverage
    test = read_predictions(folder / "predictions" / "test.npz")
    change_predictions(folder, groups=test.labels)
    section = build(tmp_path)
    assert section
    assert [each.guarantee for each in section.measured[0].sets] == [None] * 3
    grouped = section.measured[0].sets[0].coverage
    assert grouped.high - grouped.low > alone.high - alone.low  # four groups
    notes: Any = make_environment("report").get_template("notes.jinja").module
    assert "googlenet seed 0 come in groups" in notes.guarantee(section)


def test_where_no_validation_image_is_right_nothing_is_answered(tmp_path: Path) -> None:
    folder = write(tmp_path)
    val = read_predictions(folder / "predictions" / "val.npz")
    change_predictions(folder, "val", labels=(val.classes + 1) % 4)
    section = build(tmp_path)
    assert section
    risk = section.measured[0].answers[0]
    assert (risk.num_answered, risk.num_errors, risk.bound, risk.risk) == (0, 0, None, None)
    assert "no test image" in section.sentences[1]
    described = check_verdict(section.describe(), "abstention")
    assert described["networks"][0]["answers"][0]["confidence"] is None


def test_too_few_validation_images_put_every_class_in_every_set(tmp_path: Path) -> None:
    write(tmp_path, num_val=18)
    section = build(tmp_path)
    assert section
    for sets in section.measured[0].sets:
        assert (sets.coverage.value, sets.size, sets.guarantee) == (1, 4, 1)
    assert "18 validation images of googlenet seed 0 are too few" in section.sentences[0]
    assert "19" in section.sentences[0]


def test_runs_without_validation_predictions_are_named_and_many_recipes_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("alexnet", "googlenet", "resnet50"):
        folder = write(tmp_path, model)
        if model == "alexnet":
            (folder / "predictions" / "val.npz").unlink()
    monkeypatch.setattr(abstention, "MAX_RECIPES", 2)
    section = build(tmp_path)
    assert section
    assert [each.label for each in section.measured] == ["googlenet seed 0"]
    assert (section.missing, section.num_more) == (["alexnet seed 0"], 1)
    monkeypatch.setattr(abstention, "MAX_RECIPES", 1)
    assert build(tmp_path) is None


def test_the_network_of_the_sentences_is_the_best_in_validation(tmp_path: Path) -> None:
    for model, skill, score in (("alexnet", 2.0, 0.9), ("googlenet", 4.0, 0.8)):
        record = Record.open(write(tmp_path, model, skill=skill))
        record.update(metrics=record.metadata["metrics"] | {"val/accuracy": score})
    section = build(tmp_path)
    assert section
    assert all("alexnet" in sentence for sentence in section.sentences)


def test_the_curve_ends_at_the_errors_among_all_and_marks_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    section = build(tmp_path, risk=0.1)
    assert section
    drawn: list[charts.Series] = []
    monkeypatch.setattr(charts, "draw_sizes", lambda *_: None)
    monkeypatch.setattr(charts, "write_data", lambda series, *_: drawn.extend(series) or "")
    runs, _ = read_runs(find_run_folders([str(tmp_path)]))
    draw_risks(section, charts.Key(group_by_recipe(runs)))
    [line], chosen = drawn, section.measured[0].answers[0]
    assert (line.x[-1], line.y[-1]) == (1, pytest.approx(1 - runs[0].scores.accuracy))
    assert line.marked is not None
    assert line.high is not None
    assert line.y[line.marked] == pytest.approx([chosen.num_errors / chosen.num_answered])
    assert line.high[line.marked] == pytest.approx([chosen.bound])


@pytest.mark.parametrize("name", ["coverage", "risk"])
@pytest.mark.parametrize("value", [0, 1, 1.5, "most"])
def test_a_rate_is_between_0_and_1(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name}={value}"):
        check_config({name: value}, "compare")
