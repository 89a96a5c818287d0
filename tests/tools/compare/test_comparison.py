"""The figures of a comparison, computed once more by scikit-learn and scipy from the same files."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from tests.run_folders import change_predictions, change_record, draw_labels, write_run
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders
from triptych.runs.record import Record
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.recipes import require_comparable
from triptych.tools.compare.runs import read_runs
from triptych.tools.evaluate.degradation import Outcomes, write_outcomes
from triptych.tools.report.page import render_page
from triptych.tools.statistics.crossed import crossed_difference, summarize_trainings

Compare = Callable[[Path], Comparison]
NUM_IMAGES = 200
LABELS = draw_labels(NUM_IMAGES)
FIRST = ["resnet50 seed 5", "googlenet seed 0", "alexnet seed 0"]  # best first


def test_every_network_has_the_figures_of_its_own_predictions(
    comparison: Comparison, logits: dict[str, np.ndarray]
) -> None:
    assert {network.label for network in comparison.networks} == set(logits)
    assert len(comparison.networks) == 7
    for network in comparison.networks:
        answers = logits[network.label].argmax(axis=1)
        macro = {"average": "macro", "labels": range(4), "zero_division": 0}
        last = slice(-8, None)  # of 200 images in batches of 64
        union = {"average": "macro", "zero_division": 1}
        recall = recall_score(LABELS[last], answers[last], **union)
        scores = network.scores
        assert (network.num_test, network.accuracy.value) == (200, accuracy_score(LABELS, answers))
        assert scores.macro.f1 == pytest.approx(f1_score(LABELS, answers, **macro))
        assert scores.macro.precision == pytest.approx(precision_score(LABELS, answers, **macro))
        assert scores.macro.recall == pytest.approx(recall_score(LABELS, answers, **macro))
        assert scores.weighted.f1 == pytest.approx(f1_score(LABELS, answers, average="weighted"))
        probabilities = softmax(logits[network.label], axis=1)
        errors = (probabilities - np.eye(4)[LABELS]) ** 2
        assert scores.brier == pytest.approx(errors.sum(axis=1).mean())
        assert scores.top_k == {
            k: pytest.approx(top_k_accuracy_score(LABELS, logits[network.label], k=k))
            for k in (1, 3)
        }
        assert network.costs["seconds_per_epoch"] == 6.0
        assert scores.nll == pytest.approx(log_loss(LABELS, probabilities))
        assert scores.paper.recall == pytest.approx(recall)
        right = int((answers == LABELS).sum())
        interval = stats.binomtest(right, 200).proportion_ci(method="wilson")
        assert network.accuracy[1:] == pytest.approx((interval.low, interval.high))


def test_networks_are_paired_by_image_one_a_recipe_and_adjusted_over_the_table(
    comparison: Comparison, logits: dict[str, np.ndarray]
) -> None:
    answers = {label: values.argmax(axis=1) for label, values in logits.items()}
    pairs = comparison.network_pairs.pairs
    assert [(pair.a, pair.b) for pair in pairs] == [*combinations(sorted(FIRST), 2)]
    for pair in pairs:
        a, b = (answers[label] == LABELS for label in (pair.a, pair.b))
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        assert (pair.only_a, pair.only_b, pair.num_images) == (only_a, only_b, 200)
        assert pair.difference.value == pytest.approx(a.mean() - b.mean())
        assert pair.p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
        f1 = [f1_score(LABELS, answers[label], average="macro") for label in (pair.a, pair.b)]
        assert pair.f1_difference is not None
        assert pair.f1_difference.value == pytest.approx(f1[0] - f1[1])
    order = sorted(pairs, key=lambda pair: pair.p)
    holm = np.maximum.accumulate([(3 - rank) * pair.p for rank, pair in enumerate(order)])
    assert [pair.p_holm for pair in order] == pytest.approx(np.minimum(holm, 1).tolist())


def test_recipes_are_compared_over_seeds_and_images_where_they_have_three_seeds(
    comparison: Comparison, logits: dict[str, np.ndarray]
) -> None:
    a, b = (
        np.stack([logits[f"{model} seed {seed}"].argmax(axis=1) == LABELS for seed in range(3)])
        for model in ("alexnet", "googlenet")
    )
    [pair] = comparison.recipe_pairs.pairs
    assert (pair.a, pair.b, pair.num_seeds) == ("alexnet", "googlenet", (3, 3))
    oracle = crossed_difference(*map(summarize_trainings, (a, b)), pseudo_images=True)
    low, high = oracle.interval()
    assert pair.p == oracle.p_value
    assert pair.difference == (pytest.approx(a.mean() - b.mean()), low, high)


def test_images_are_counted_by_the_networks_that_are_right(
    comparison: Comparison, logits: dict[str, np.ndarray]
) -> None:
    right = np.stack([logits[label].argmax(axis=1) == LABELS for label in FIRST])
    counts = comparison.images
    assert counts is not None
    assert counts.num_images == 200
    assert counts.num_all_right == int(right.all(axis=0).sum())
    assert counts.num_all_wrong == int((right.sum(axis=0) == 0).sum())
    alone = [int((row & (right.sum(axis=0) == 1)).sum()) for row in right]
    assert list(counts.num_only_right) == alone
    crossed = [[int((row & ~other).sum()) for other in right] for row in right]
    np.testing.assert_array_equal(counts.num_right_where_wrong, crossed)


def test_a_recipe_sums_its_confusions_and_averages_f1_and_accuracy_over_seeds(
    comparison: Comparison, logits: dict[str, np.ndarray]
) -> None:
    for recipe in comparison.recipes:
        answers = [logits[each.label].argmax(axis=1) for each in recipe.networks]
        summed = sum(confusion_matrix(LABELS, each, labels=range(4)) for each in answers)
        np.testing.assert_array_equal(recipe.confusion, summed)
        f1 = np.mean([f1_score(LABELS, each, average=None) for each in answers], axis=0)
        np.testing.assert_allclose(recipe.f1, f1)
        assert recipe.accuracy.value == pytest.approx(np.mean([each == LABELS for each in answers]))


def test_curves_hold_the_last_loss_and_the_validation_of_each_epoch(comparison: Comparison) -> None:
    assert len(comparison.curves) == 7
    curve = comparison.curves[0]
    assert curve.epochs.tolist() == [1, 2]
    assert curve.metrics["train/loss"].tolist() == [1.5, 0.75]
    assert curve.metrics["val/loss"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("is_validated", [True, False])
def test_of_more_than_twenty_recipes_each_is_tested_against_the_best_on_validation_data(
    tmp_path: Path, is_validated: bool, compare_below: Compare
) -> None:
    for n in range(21):
        folder = write_run(tmp_path, f"net{n:02}", num_images=20, skill=n / 3)
        accuracy = json.loads((folder / "run.json").read_text())["metrics"]["test/accuracy"]
        metrics = {"test/accuracy": accuracy}
        if is_validated:
            metrics["val/accuracy"] = 0.9 if n == 3 else 0.1
        change_record(folder, metrics=metrics)
    found = compare_below(tmp_path)
    reference = "net03 seed 0" if is_validated else "net00 seed 0"  # the first by name
    assert {pair.a for pair in found.network_pairs.pairs} == {reference}
    assert len(found.network_pairs.pairs) == 20
    assert sum(recipe.calibration is not None for recipe in found.recipes) == 10


def test_one_run_without_optional_files_is_shown_without_pairs(
    tmp_path: Path, compare_below: Compare
) -> None:
    folder = write_run(tmp_path)
    (folder / "metrics.csv").unlink()
    (folder / "predictions" / "val.npz").unlink()
    found = compare_below(tmp_path)
    assert found.network_pairs.pairs == found.recipe_pairs.pairs == ()
    assert found.images is not None
    assert found.images.pictures == ()
    assert found.verdict[-1] == "One recipe: there is nothing to compare it with."
    assert found.problems == found.curves == found.image_types == found.grad_cams == ()
    calibration = found.recipes[0].calibration
    assert calibration is not None
    assert calibration.temperature is None


def test_a_class_without_images_or_predictions_is_undefined_and_mentioned(
    tmp_path: Path, compare_below: Compare
) -> None:
    folder = write_run(tmp_path)
    labels = np.where(LABELS == 3, 2, LABELS)
    logits = np.eye(4, dtype=np.float32)[labels]
    change_predictions(folder, labels=labels, logits=logits)
    change_record(folder, metrics={"test/accuracy": 1.0})
    found = compare_below(tmp_path)
    assert np.isnan(found.recipes[0].f1[3])
    assert found.networks[0].scores.macro.f1 == pytest.approx(0.75)
    assert any("googlenet seed 0 (1)" in sentence for sentence in found.cautions)


@pytest.mark.parametrize("name", ["data", "test_hash", "split_hash", "classes"])
def test_runs_that_cannot_be_compared_are_named(comparison: Comparison, name: str) -> None:
    one, other = comparison.networks[:2]
    other = replace(other, metadata=other.metadata | {name: "abcd"})
    with pytest.raises(UserError, match=f"{name}: .*{other.folder}") as error:
        require_comparable([one, other])
    assert len(str(error.value).splitlines()) <= 3


def test_pairs_that_cannot_be_compared_are_never_tested(
    tmp_path: Path, compare_below: Compare
) -> None:
    for seed in range(3):
        for model in ("alexnet", "googlenet"):
            write_run(tmp_path, model, seed, num_images=40)
        write_run(tmp_path, "vgg11", seed, num_images=40, num_classes=5)
    found = compare_below(tmp_path)
    assert found.banner is not None
    assert "number of classes: " in found.banner
    networks, recipes = found.network_pairs.pairs, found.recipe_pairs.pairs
    assert [(pair.a, pair.b) for pair in recipes] == [("alexnet", "googlenet")]
    assert [(pair.a, pair.b) for pair in networks] == [("alexnet seed 0", "googlenet seed 0")]
    assert found.images is None
    assert not any("highest accuracy" in sentence for sentence in found.verdict)


def test_runs_without_names_of_classes_are_comparable_and_take_those_of_others(
    tmp_path: Path,
) -> None:
    change_record(write_run(tmp_path, seed=0), classes=None)
    write_run(tmp_path, seed=1)
    runs, _ = read_runs(find_run_folders([str(tmp_path)]))
    require_comparable(runs)
    assert build_comparison(runs, []).recipes[0].classes[0] == "class 0"


def test_seeds_on_other_images_are_no_recipe_together(
    tmp_path: Path, compare_below: Compare
) -> None:
    folders = [write_run(tmp_path / "a", seed=0), write_run(tmp_path / "b", seed=1, num_images=90)]
    for folder in folders:
        change_record(folder, group_hash="the same")
    labels = [recipe.label for recipe in compare_below(tmp_path).recipes]
    assert sorted(labels) == ["googlenet", "googlenet (2)"]


def test_settings_that_differ_besides_the_model_are_listed_by_recipe(
    tmp_path: Path, compare_below: Compare
) -> None:
    first = write_run(tmp_path, "alexnet", settings={"data.augment": "standard", "data.root": "/a"})
    change_record(first, versions={"torch": "2.13.0"}, weights="IMAGENET1K_V1")
    write_run(tmp_path, "googlenet", settings={"data.root": "/b", "model.known_weights": ["x"]})
    assert compare_below(tmp_path).differing == {
        "weights": ("IMAGENET1K_V1", "null"),
        "data.augment": ("standard", "none"),
        "version of torch": ("2.13.0", "2.14.1"),
    }


def test_a_class_that_research_chose_stands_where_a_word_would(
    tmp_path: Path, compare_below: Compare
) -> None:
    for target in ("mine.Darken", "triptych.data.augment.RandAugment"):
        node = {"_target_": target, "share": 0.3}
        write_run(tmp_path, settings={"data.augment": node})
    write_run(tmp_path, settings={"data.augment": "standard"})
    compared = compare_below(tmp_path)
    names = ["RandAugment", "mine.Darken", "standard"]
    assert [each.label for each in compared.recipes] == [f"googlenet augment={n}" for n in names]
    assert compared.differing == {
        "data.augment": ("RandAugment", "mine.Darken", "standard"),
        "data.augment.share": ("0.3", "0.3", "not set"),
    }


def test_what_differs_is_in_the_order_of_the_config_weights_first_arguments_behind_their_class(
    tmp_path: Path, compare_below: Compare
) -> None:
    later = {"data.mix": "mixup", "optim.lr": 0.1}
    change_record(write_run(tmp_path, settings=later), weights="IMAGENET1K_V1")
    node = {"_target_": "mine.Darken", "share": 0.3}
    write_run(tmp_path, settings={"data.mix": "none", "data.augment": node})
    assert [*compare_below(tmp_path).differing] == [
        *("weights", "data.augment", "data.augment.share", "data.mix", "optim.lr")
    ]


def test_a_class_of_ours_is_called_by_its_name_and_a_metric_by_the_users(
    tmp_path: Path, compare_below: Compare
) -> None:
    focal = {"_target_": "triptych.losses.FocalLoss", "gamma": 2}
    kappa = {"kappa": {"_target_": "mine.Kappa"}}
    write_run(tmp_path, settings={"loss": focal, "metrics": kappa})
    write_run(tmp_path)
    compared = compare_below(tmp_path)
    assert "googlenet loss=FocalLoss" in [each.label for each in compared.recipes]
    values = {name: set(each) for name, each in compared.differing.items()}
    assert values.pop("loss") == {"FocalLoss", "not set"}
    assert values == {"loss.gamma": {"2", "not set"}, "metrics.kappa": {"mine.Kappa", "not set"}}


def test_arguments_of_a_network_name_its_recipes_unless_models_differ(
    tmp_path: Path, compare_below: Compare
) -> None:
    for width in (8, 32):
        node = {"_target_": "mine.Net", "width": width, "_partial_": True}
        write_run(tmp_path, "mine", settings={"model.network": node})
    compared = compare_below(tmp_path)
    labels = {f"mine width={width}" for width in (32, 8)}
    assert {each.label for each in compared.recipes} == labels
    assert compared.differing.keys() == {"model.network.width"}
    write_run(tmp_path, "alexnet")
    compared = compare_below(tmp_path)
    assert {each.label for each in compared.recipes} == {"alexnet", *labels}
    assert compared.differing == {}


def test_seeds_of_one_recipe_in_several_precisions_are_named(
    tmp_path: Path, compare_below: Compare
) -> None:
    for seed, precision in enumerate(("32-true", "bf16-mixed")):
        change_record(write_run(tmp_path, seed=seed), precision=precision)
    assert compare_below(tmp_path).differing == {"precision": ("32-true or bf16-mixed",)}


def test_what_evaluation_measured_is_shown(tmp_path: Path, compare_below: Compare) -> None:
    folder = write_run(tmp_path)
    cost = {"macs": 7, "latency_ms_p50": 1.5, "device": "H200", "precision": "bf16", "more": [1]}
    (folder / "cost.json").write_text(json.dumps(cost))
    with (folder / "image_types.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("type severity num_images accuracy accuracy_low accuracy_high".split())
        writer.writerow(["noise", 1, 50, 0.5, 0.4, 0.6])
    pictures = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    with np.load(folder / "predictions" / "test.npz") as file:
        wrong = np.flatnonzero(file["logits"].argmax(axis=1) != file["labels"])[:2]
        true = file["labels"][wrong]
    np.savez(folder / "predictions" / "test_images.npz", index=wrong, images=pictures)
    (folder / "figures").mkdir()
    (folder / "figures" / "grad_cam.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    found = compare_below(tmp_path)
    [network] = found.networks
    assert found.problems == ()
    expected = {"macs": 7, "latency_ms_p50": 1.5, "num_params": 1009}
    assert {name: network.costs[name] for name in expected} == expected
    assert (network.trained_on, network.measured_on) == ("cpu, 32-true, 1 thread", "H200, bf16")
    assert found.image_types[0].rows[0].accuracy == 0.5
    assert found.grad_cams[0][1].endswith(b"rest")
    assert found.images is not None
    shown = {picture.name: picture for picture in found.images.pictures}
    assert set(shown) == {f"no. {place}" for place in wrong}
    np.testing.assert_array_equal(shown[f"no. {wrong[1]}"].pixels, pictures[1])
    assert shown[f"no. {wrong[0]}"].true == f"class {true[0]}"
    confidences = [p.predictions[0].confidence for p in found.images.pictures]
    assert confidences == sorted(confidences, reverse=True)


def write_image_types(folder: Path, lost: float, num_images: int = 60) -> Outcomes:
    """Leave what `evaluate.py image_types=[blur,noise]` does; `noise` costs twice as much."""
    ease = np.random.default_rng(0).random(num_images)
    shares = 0.9 - lost * np.array([[0], [1], [2]])
    types, severities = np.array(["unmodified", "blur", "noise"]), np.array([0, 1, 1])
    outcomes = Outcomes(types, severities, np.arange(num_images), ease < shares)
    write_outcomes(outcomes, folder)
    return outcomes


def test_losses_on_image_types_are_compared_over_the_same_images(
    tmp_path: Path, compare_below: Compare
) -> None:
    models = ("alexnet", "googlenet", "vgg11")
    folders = [write_run(tmp_path, model, num_images=90) for model in models]
    right = [write_image_types(folders[n], lost).correct for n, lost in enumerate((0.1, 0.3))]
    write_image_types(folders[2], 0.1, num_images=50)
    found = compare_below(tmp_path)
    [pair] = found.losses
    assert (pair.a, pair.b, pair.num_images) == ("alexnet seed 0", "googlenet seed 0", 60)
    lost = [each[0].mean() - each[1:].mean(axis=1) for each in right]
    expected = dict(zip(("blur", "noise"), lost[0] - lost[1], strict=True))
    assert {name: pair.by_type[name].value for name in expected} == pytest.approx(expected)
    assert pair.by_type["all"].value == pytest.approx(np.mean([*expected.values()]))
    assert [*found.num_degraded.values()] == [60, 60, 50]


BROKEN_FILES = {
    "cost.json": '{"macs": "many"}',
    "metrics.csv": "epoch,step\nx,y\n",
    "image_types.csv": "type,severity\nnoise,1\n",
    "predictions/val.npz": "no archive",
    "predictions/test_images.npz": "no archive",
    "predictions/test.csv": "file,label,prediction,probability\na.jpg,cat,cat,0.5\n",
}


def test_images_are_named_by_their_files_where_any_run_names_them(
    tmp_path: Path, compare_below: Compare
) -> None:
    folders = [write_run(tmp_path, model, skill=0.0) for model in ("alexnet", "googlenet")]
    # The first is of an earlier version, without a table; a name may hold anything.
    names = [f'=cat/{n},"<b>`*$.jpg' for n in range(NUM_IMAGES)]
    record = Record.open(folders[1])
    record.write_prediction_tables(names)
    pictures = np.zeros((NUM_IMAGES, 3, 4, 4), dtype=np.uint8)
    path = folders[0] / "predictions" / "test_images.npz"
    np.savez(path, index=np.arange(NUM_IMAGES), images=pictures)
    found = compare_below(tmp_path)
    assert found.images is not None
    assert found.problems == ()
    assert found.images.num_kept == len(found.images.pictures) == NUM_IMAGES
    assert {picture.name for picture in found.images.pictures} == set(names)
    page = render_page(found)
    name = found.images.pictures[0].name
    assert f"<small>{escape(name)}</small>" in page
    assert "<b>" not in page


def test_a_table_that_somebody_sorted_names_no_image(
    tmp_path: Path, compare_below: Compare
) -> None:
    folder = write_run(tmp_path)
    Record.open(folder).write_prediction_tables([f"{n}.jpg" for n in range(NUM_IMAGES)])
    path = folder / "predictions" / "test.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *sorted(lines, key=lambda line: line.split(",")[3])]))
    found = compare_below(tmp_path)
    [problem] = found.problems
    assert problem.what.startswith("predictions/test.csv: not of test.npz")


def test_broken_optional_files_are_named_and_end_nothing(
    tmp_path: Path, compare_below: Compare
) -> None:
    folder = write_run(tmp_path)
    for name, text in BROKEN_FILES.items():
        (folder / name).write_text(text)
    found = compare_below(tmp_path)
    assert len(found.networks) == 1
    assert {problem.folder for problem in found.problems} == {str(folder)}
    for name in BROKEN_FILES:
        assert sum(problem.what.startswith(name) for problem in found.problems) == 1, name


def test_recipes_of_one_model_are_called_by_what_is_not_its_default(
    tmp_path: Path, compare_below: Compare
) -> None:
    """Defaults are those of the installed configs, for the optimizer that a run has."""
    sgd = {"optim.name": "sgd", "optim.lr": 0.01}
    soup = {"_target_": "triptych.callbacks.soup.Soup", "k": 3, "by": "val/accuracy"}
    for settings in ({}, {"optim.lr": 0.01}, sgd, {"trainer.callbacks": [soup]}):
        write_run(tmp_path, "alexnet", num_images=20, settings=settings)
    write_run(tmp_path, "vgg11", num_images=20, name="my own")
    labels = {recipe.label for recipe in compare_below(tmp_path).recipes}
    variants = {"alexnet lr=0.01", "alexnet optim=sgd", "alexnet callbacks=Soup"}
    assert labels == {"alexnet", *variants, "my own"}
