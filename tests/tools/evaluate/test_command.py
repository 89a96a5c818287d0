"""A finished run evaluated from its folder: everything that `evaluate.py` writes."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.composing import composed
from triptych.data.shapes import Shapes
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_predictions
from triptych.runs.record import Record
from triptych.tools.evaluate import command
from triptych.tools.evaluate.rebuild import RebuiltRun, rebuild_run


def evaluate_runs(run: str | list[str], *overrides: str) -> None:
    command.evaluate(
        composed("evaluate", "run=none", "device=cpu", "cost=false", *overrides, run=run), []
    )


def read(folder: Path, name: str = "evaluation.json") -> Any:
    return json.loads((folder / name).read_text())


def read_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, evaluated on both splits, with other random numbers."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "run"))
    torch.manual_seed(99)
    evaluate_runs(str(folder), "cost=true", "cost_seconds=0.02")
    evaluate_runs(str(folder), "split=val")
    return folder


@pytest.fixture(scope="module")
def saved(trained: Path) -> Predictions:
    return read_predictions(trained / "predictions" / "test.npz")


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


def test_what_training_left_is_not_touched(evaluated: Path, trained: Path) -> None:
    before, after = read_files(trained), read_files(evaluated)
    assert len(before) > 8
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {
        *("evaluation.json", "evaluation_val.json", "cost.json"),
        *("figures/evaluated_test_confusion.png", "figures/evaluated_test_reliability.png"),
        *("figures/evaluated_val_confusion.png", "figures/evaluated_val_reliability.png"),
    }


def test_further_metrics_are_those_of_the_saved_predictions(
    evaluated: Path, saved: Predictions
) -> None:
    evaluation = read(evaluated)
    metrics = {name.partition("/")[2]: value for name, value in evaluation["metrics"].items()}
    for name in ("f1", "precision", "recall"):
        assert evaluation["macro"][name] == pytest.approx(metrics[name], rel=1e-5)
    assert evaluation["undefined_classes"] == metrics["undefined_classes"]
    assert evaluation["nll"] == pytest.approx(metrics["loss"], rel=1e-5)
    best = np.argsort(-saved.logits, axis=1)
    hits = {k: np.mean((best[:, :k] == saved.labels[:, None]).any(axis=1)) for k in (1, 3, 5)}
    assert evaluation["top_k"] == {str(k): pytest.approx(share) for k, share in hits.items()}
    assert evaluation["calibration"]["temperature"] > 0
    assert evaluation["paper"]["num_images"] == 35
    assert "paper" not in read(evaluated, "evaluation_val.json"), "it is of the test set"


def test_an_undefined_value_of_a_class_is_null_and_not_0(
    evaluated: Path, saved: Predictions
) -> None:
    classes = read(evaluated)["per_class"]
    never = [number for number in range(10) if number not in saved.classes]
    assert never, "so short a training leaves classes out"
    assert len(classes) == 10
    assert [n for n in range(10) if classes[n]["precision"] is None] == never
    assert sum(each["num"] for each in classes) == 35


def test_the_rebuilt_network_answers_outside_of_the_trainer_as_within_it(
    trained: Path, saved: Predictions
) -> None:
    images = Shapes(70, 40, 0).read().test.images[torch.from_numpy(saved.index)]
    run = rebuild_run(trained)
    logits = torch.cat([run.logits(batch) for batch in images.split(8)])
    np.testing.assert_allclose(logits.numpy(), saved.logits, rtol=1e-5, atol=1e-6)


def test_cost_is_measured_on_the_device_that_scored(evaluated: Path) -> None:
    cost, metadata = read(evaluated, "cost.json"), read(evaluated, "run.json")
    assert (cost["device"], cost["precision"]) == ("cpu", "32-true")
    assert cost["num_params"] == metadata["num_params"]
    assert cost["checkpoint_bytes"] == (evaluated / "checkpoints/best.ckpt").stat().st_size


def test_image_types_stay_when_a_later_evaluation_leaves_them_out(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = read(copied, "run.json")["metrics"]
    metrics |= {"test/f1": metrics["test/f1"] + 0.25}
    Record.open(copied).update(device="NVIDIA H200", metrics=metrics)
    caplog.set_level(logging.INFO)
    types = ("image_types.types=[noise]", "image_types.num_images=20")
    evaluate_runs(str(copied), "protocol=paper", *types)
    first = read(copied)
    assert first["largest_difference"] == pytest.approx(0.25)
    assert "test/f1 by 0.25" in caplog.messages[0]
    assert "NVIDIA H200" in caplog.messages[0]
    assert "last 35 of 35 images" in caplog.messages[1]
    assert f"precision {first['paper']['precision']:.4f}" in caplog.messages[1]
    assert list(first["image_types"]["degradation"]) == ["noise", "all"]
    assert len((copied / "image_types.csv").read_text().splitlines()) == 1 + 4
    evaluate_runs(str(copied), "grad_cam.images=most_confused", "grad_cam.num_images=2")
    assert read(copied)["image_types"] == first["image_types"]
    for name in ("grad_cam", "image_types", "image_types_by_severity"):
        assert (copied / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_cannot_be_evaluated_are_named_and_the_rest_goes_on(
    copied: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, running = copied.parent / "cut", copied.parent / "running"
    for folder in (cut, running):
        shutil.copytree(copied, folder)
    (cut / "run.json").write_text('{"schema": 1,')
    Record.open(running).update(status="running")
    scored: list[Path] = []

    def score(run: RebuiltRun, *_: Any) -> list[str]:
        scored.append(run.record.folder)
        return []

    monkeypatch.setattr(command, "evaluate_split", score)
    evaluate_runs(str(copied.parent))
    assert scored == [copied]
    left_out = [text for text in caplog.messages if text.startswith("left out: ")]
    assert all(str(folder) in text for folder, text in zip((cut, running), left_out, strict=True))
    with pytest.raises(UserError, match="none could be evaluated"):
        evaluate_runs([str(cut), str(running)])
    with pytest.raises(UserError, match="not finished, its status is running"):
        evaluate_runs(str(running))
    with pytest.raises(UserError, match=f"run={cut}/there"):
        evaluate_runs(f"{cut}/there")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "evaluation.json"), r"evaluation\.json"),
        (torch.OutOfMemoryError(), "batch_size=16"),
    ],
)
def test_a_full_disk_and_a_full_memory_are_told_with_the_folder(
    trained: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(command, "evaluate_split", fail)
    with pytest.raises(UserError, match=f"^{trained}: .*{message}"):
        evaluate_runs(str(trained))


def test_a_place_that_is_not_among_the_images_is_refused_before_anything_is_scored(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(command, "rescore")
    with pytest.raises(UserError, match=r"grad_cam.images: 10000 is not among the 35 images"):
        evaluate_runs(str(trained), "grad_cam.images=[10000]")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("device=tpu", "device=tpu"),
        ("image_types.types=[noise]", "image_types"),
        ("protocol=paper", "protocol=paper"),
    ],
)
def test_settings_that_do_not_go_with_validation_or_do_not_exist_are_refused(
    override: str, key: str
) -> None:
    with pytest.raises(UserError, match=f"^{key}"):
        composed("evaluate", "run=x", "split=val", override)
