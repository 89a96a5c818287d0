"""A finished run evaluated from its folder: everything that `evaluate.py` writes."""

import csv
import json
import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from torch import Tensor
from torch.nn.functional import nll_loss

from tests.composing import composed
from tests.run_folders import change_record
from tests.tiny import TARGETS
from triptych.errors import UserError
from triptych.runs.predictions import read_predictions
from triptych.tools.evaluate import command, rebuild
from triptych.tools.statistics.inference import wilson

TRUSTED = f"trusted_targets=[{','.join(TARGETS)}]"


def evaluate_runs(run: Path | str | list[str], *overrides: str) -> None:
    options = ("run=none", "device=cpu", "cost=false", TRUSTED, *overrides)
    places = run if isinstance(run, list) else str(run)
    command.evaluate(composed("evaluate", *options, run=places), [*overrides])


def check_tta(entry: dict[str, Any], plain: Tensor, mirrored: Tensor, labels: Tensor) -> None:
    """The mean of both's probabilities by torch, its scores by scikit-learn."""
    mean = (plain.softmax(1) + mirrored.softmax(1)) / 2
    truth, predicted, alone = labels.numpy(), mean.argmax(1).numpy(), plain.argmax(1).numpy()
    assert not np.array_equal(predicted, alone)
    accuracy = accuracy_score(truth, predicted)
    assert entry["accuracy"] == pytest.approx(accuracy)
    assert entry["accuracy_low"] < accuracy < entry["accuracy_high"]
    assert entry["gain"] == pytest.approx(accuracy - accuracy_score(truth, alone))
    assert entry["gain_low"] < entry["gain"] < entry["gain_high"]
    assert entry["loss"] == pytest.approx(float(nll_loss(mean.log(), labels)), rel=1e-4)
    of_all: Any = {"labels": range(10), "average": "macro", "zero_division": 0}
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert entry[name] == pytest.approx(score(truth, predicted, **of_all))


def read(folder: Path, name: str = "evaluation.json") -> Any:
    return json.loads((folder / name).read_text())


def read_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def evaluated(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, evaluated on both splits, with other random numbers."""
    folder = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "run"))
    torch.manual_seed(99)
    evaluate_runs(str(folder), "cost=true", "cost_seconds=0.02")
    evaluate_runs(str(folder), "split=val")
    return folder


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_logged_metrics_are_reproduced_exactly(evaluated: Path, split: str) -> None:
    evaluation = read(evaluated, "evaluation.json" if split == "test" else "evaluation_val.json")
    recorded = read(evaluated, "run.json")
    metrics = evaluation["metrics"]
    assert evaluation["split"] == split
    assert len(metrics) == 6
    assert metrics == evaluation["logged"] == {name: recorded["metrics"][name] for name in metrics}
    assert evaluation["largest_difference"] == 0
    for name in ("device", "precision", "num_threads", "versions"):
        assert evaluation[name] == recorded[name]


def test_what_training_left_is_not_touched(evaluated: Path, trained_run: Path) -> None:
    before, after = read_files(trained_run), read_files(evaluated)
    assert len(before) > 8
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {
        *("evaluation.json", "evaluation_val.json", "cost.json"),
        *("figures/evaluated_test_confusion.png", "figures/evaluated_test_reliability.png"),
        *("figures/evaluated_val_confusion.png", "figures/evaluated_val_reliability.png"),
    }


def test_further_metrics_are_those_of_the_saved_predictions(evaluated: Path) -> None:
    evaluation = read(evaluated)
    saved = read_predictions(evaluated / "predictions" / "test.npz")
    metrics = {name.partition("/")[2]: value for name, value in evaluation["metrics"].items()}
    for name in ("f1", "precision", "recall"):
        assert evaluation["macro"][name] == pytest.approx(metrics[name], rel=1e-5)
    assert evaluation["undefined_classes"] == metrics["undefined_classes"]
    assert evaluation["nll"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert evaluation["calibration"]["temperature"] > 0
    assert evaluation["paper"]["num_images"] == 25
    assert "paper" not in read(evaluated, "evaluation_val.json"), "it is of the test set"
    classes = evaluation["per_class"]
    never = [number for number in range(10) if number not in saved.classes]
    assert never, "so short a training leaves classes out"
    assert [n for n in range(10) if classes[n]["precision"] is None] == never
    assert sum(each["num"] for each in classes) == 25
    cost, metadata = read(evaluated, "cost.json"), read(evaluated, "run.json")
    assert (cost["device"], cost["num_params"]) == ("cpu", metadata["num_params"])
    assert cost["checkpoint_bytes"] == (evaluated / "checkpoints/best.ckpt").stat().st_size


def test_tables_of_predictions_are_written_where_they_are_missing(copied: Path) -> None:
    tables = [copied / "predictions" / f"{name}.csv" for name in ("val", "test", "mistakes")]
    before = [table.read_bytes() for table in tables]
    saved = read_predictions(copied / "predictions" / "test.npz")
    rows = list(csv.DictReader(tables[1].read_text().splitlines()))
    assert [int(row["id"]) for row in rows] == saved.index.tolist()
    classes = read(copied, "run.json")["classes"]
    assert [row["prediction"] for row in rows] == [classes[n] for n in saved.classes]
    num_wrong = len(tables[2].read_text().splitlines()) - 1
    assert 0 < num_wrong == (~saved.correct).sum()
    for table in tables:
        table.unlink()
    evaluate_runs(str(copied))
    assert [table.read_bytes() for table in tables] == before


def test_image_types_and_mirrored_scores_stay_when_a_later_evaluation_leaves_them_out(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = read(copied, "run.json")["metrics"]
    metrics |= {"test/f1": metrics["test/f1"] + 0.25, "test/loss": 10**400, "test/recall": None}
    change_record(copied, device="NVIDIA H200", metrics=metrics)
    caplog.set_level(logging.INFO)
    types = ("image_types.types=[noise]", "image_types.num_images=20")
    evaluate_runs(str(copied), "protocol=paper", "tta=flip", *types)
    first = read(copied)
    run = rebuild.rebuild_run(copied, TARGETS)
    rebuild.build_scorer(run, torch.device("cpu"))
    data = rebuild.read_data(run)
    stored, labels = (part[data.test.index] for part in data.test.data)
    check_tta(first["tta"], run.logits(stored), run.logits(stored.flip(-1)), labels)
    assert first["largest_difference"] == pytest.approx(0.25)
    assert not {"test/loss", "test/recall"} & first["logged"].keys(), "no run measures those"
    assert "test/f1 by 0.25" in caplog.text
    assert "NVIDIA H200" in caplog.text
    assert "last 25 of 25 images" in caplog.text
    assert f"precision {first['paper']['precision']:.4f}" in caplog.text
    assert list(first["image_types"]["degradation"]) == ["noise", "all"]
    assert len((copied / "image_types.csv").read_text().splitlines()) == 1 + 4
    evaluate_runs(str(copied), "grad_cam.images=most_confused", "grad_cam.num_images=2")
    later = read(copied)
    for name in ("image_types", "tta", "metrics"):
        assert later[name] == first[name]
    for name in ("grad_cam", "image_types", "image_types_by_severity"):
        assert (copied / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_screen_has_a_line_a_run_by_the_figures_of_its_evaluation(
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "80")
    evaluate_runs(str(copied))
    found, correct = read(copied), read_predictions(copied / "predictions" / "test.npz").correct
    shown = capsys.readouterr().out
    assert ("\x1b" in shown) == terminal
    head, row = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()[-2:]
    assert max(len(head), len(row)) <= 80
    cells = dict(zip(*(re.split(r"  +", line.strip()) for line in (head, row)), strict=True))
    low, high = wilson(int(correct.sum()), len(correct))
    assert cells["accuracy"] == f"{100 * correct.mean():.2f} %"
    assert cells["95 % interval"] == f"({100 * low:.2f} to {100 * high:.2f})"
    assert cells["F1"] == f"{100 * found['macro']['f1']:.2f} %"
    assert cells["loss"] == f"{found['nll']:.4f}"
    assert cells["ECE"] == f"{found['calibration']['ece']:.4f}"
    assert cells["as logged"] == "exactly"


def test_the_largest_difference_is_of_metrics_not_counts_and_nan_is_the_largest() -> None:
    metrics = {"test/loss": 0.5, "test/accuracy": 0.9, "test/undefined_classes": 2}
    logged = {"test/accuracy": 0.8, "test/undefined_classes": 7}
    for more, largest in (({}, "test/accuracy"), ({"test/loss": math.nan}, "test/loss")):
        name, _ = command.find_largest_difference(metrics, logged | more)
        assert name == largest
    assert command.find_largest_difference(metrics, {}) is None


def test_runs_that_cannot_be_evaluated_are_named_and_the_rest_goes_on(
    copied: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, running = copied.parent / "cut", copied.parent / "running"
    for folder in (cut, running):
        shutil.copytree(copied, folder)
    (cut / "run.json").write_text('{"schema": 1,')
    change_record(running, status="running")
    scored: list[Path] = []

    def score(run: rebuild.RebuiltRun, *_: Any) -> dict[str, str]:
        scored.append(run.record.folder)
        return {"run": "of a stand-in", "loss": "0.5"}

    monkeypatch.setattr(command, "evaluate_split", score)
    evaluate_runs(str(copied.parent))
    assert scored == [copied]
    left_out = [text for text in caplog.messages if text.startswith("left out: ")]
    assert all(str(folder) in text for folder, text in zip((cut, running), left_out, strict=True))
    for places, message in (
        ([str(cut), str(running)], "run: "),
        (str(running), "status is running"),
        (f"{cut}/there", f"run={cut}/there"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_runs(places)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "evaluation.json"), r"evaluation\.json"),
        (torch.OutOfMemoryError(), "batch_size=16"),
    ],
)
def test_a_full_disk_and_a_full_memory_are_told_with_the_folder(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(command, "evaluate_split", fail)
    with pytest.raises(UserError, match=f"^{trained_run}: .*{message}"):
        evaluate_runs(str(trained_run))


def test_a_place_that_is_not_among_the_images_is_refused_before_anything_is_scored(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(command, "rescore")
    with pytest.raises(UserError, match=r"grad_cam.images: 10000 is not among the 25 images"):
        evaluate_runs(str(trained_run), "grad_cam.images=[10000]")


def test_a_run_is_scored_with_as_many_threads_as_in_training_where_there_are_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    before = torch.get_num_threads()
    for recorded, expected in ((3, 3), (4, before), (None, before)):
        with rebuild.use_threads(recorded) as num_threads:
            assert num_threads == torch.get_num_threads() == expected
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device=tpu"], "^device=tpu"),
        (["split=val", "image_types.types=[noise]"], "^image_types"),
        (["split=val", "protocol=paper"], "^protocol=paper"),
        (["image_types.types=[noise,oclusion]"], "^image_types.types=oclusion.* occlusion"),
        (["image_types.types=[noise,noise]"], "^image_types.types.* once"),
    ],
)
def test_settings_that_contradict_each_other_or_do_not_exist_are_refused(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        composed("evaluate", "run=x", *overrides)
