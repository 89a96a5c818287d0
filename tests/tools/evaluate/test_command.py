"""A run evaluated from its folder: a short training, then everything that `evaluate.py` writes."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from sklearn.metrics import f1_score, precision_score, top_k_accuracy_score

from triptych.config import CONFIGS, check_config, resolve_config
from triptych.data.shapes import Shapes
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_predictions
from triptych.runs.record import Record
from triptych.tools.evaluate.command import evaluate
from triptych.tools.evaluate.rebuild import rebuild_run
from triptych.tools.evaluate.rescore import find_device
from triptych.training import train

TINY = [
    *("model=torchvision", "model.name=shufflenet_v2_x0_5", "model.input_size=32"),
    *("model.weights=null", "data=shapes", "data.batch_size=8", "data.num_train=32"),
    *("data.num_val=30", "data.num_test=35", "data.source.num_train=70"),
    *("data.source.num_test=40", "++trainer.max_epochs=1", "trainer.accelerator=cpu"),
    *("trainer.logger=null", "++trainer.enable_progress_bar=false"),
]
QUICK = ("device=cpu", "cost=false")


def composed(verb: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = resolve_config(compose(verb, [*overrides]))
    check_config(config, verb)
    return config


def evaluated(*overrides: str) -> None:
    evaluate(composed("evaluate", *QUICK, *overrides), [*overrides])


def read(folder: Path, name: str = "evaluation.json") -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def trained(logs: Path) -> Record:
    return train(composed("train", *TINY, f"log_dir={logs}"), [])


@pytest.fixture(scope="module")
def before(trained: Record) -> dict[str, bytes]:
    files = (path for path in trained.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(trained.folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(trained: Record, before: dict[str, bytes]) -> Path:
    """The run, evaluated on both splits, with other threads and other random numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    torch.manual_seed(99)
    try:
        evaluated(f"run={trained.folder}", "cost=true", "cost_seconds=0.02")
        evaluated(f"run={trained.folder}", "split=val")
    finally:
        torch.set_num_threads(threads)
    return trained.folder


@pytest.fixture
def copied(before: dict[str, bytes], tmp_path: Path) -> Path:
    """The run as training left it, below a folder of its own."""
    for name, content in before.items():
        path = tmp_path / "runs" / "good" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "runs" / "good"


def scored(folder: Path) -> Predictions:
    return read_predictions(folder / "predictions" / "test.npz")


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_logged_metrics_are_reproduced_exactly(finished: Path, split: str) -> None:
    found = read(finished, "evaluation.json" if split == "test" else "evaluation_val.json")
    logged = read(finished, "run.json")["metrics"]
    assert found["split"] == split
    assert len(found["metrics"]) == 6
    assert found["metrics"] == {name: logged[name] for name in found["metrics"]}
    assert found["metrics"] == found["logged"]
    assert found["largest_difference"] == 0
    recorded = read(finished, "run.json")
    for name in ("device", "precision", "num_threads", "versions"):
        assert found[name] == recorded[name]


def test_what_training_left_is_not_touched(finished: Path, before: dict[str, bytes]) -> None:
    assert len(before) > 8
    assert {name: (finished / name).read_bytes() for name in before} == before
    left = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert left - before.keys() == {
        *("evaluation.json", "evaluation_val.json", "cost.json"),
        *("figures/evaluated_test_confusion.png", "figures/evaluated_test_reliability.png"),
        *("figures/evaluated_val_confusion.png", "figures/evaluated_val_reliability.png"),
    }


def test_further_metrics_are_those_of_the_saved_predictions(finished: Path) -> None:
    found, saved = read(finished), scored(finished)
    truth, guess = saved.labels, saved.logits.argmax(1)
    every = {"labels": range(10), "zero_division": 0}
    assert found["weighted"]["f1"] == pytest.approx(f1_score(truth, guess, average="weighted"))
    assert found["macro"]["precision"] == pytest.approx(
        precision_score(truth, guess, average="macro", **every)
    )
    assert list(found["top_k"]) == ["1", "3", "5"]
    assert found["top_k"]["3"] == pytest.approx(
        top_k_accuracy_score(truth, saved.logits, k=3, labels=range(10))
    )
    assert found["nll"] == pytest.approx(found["metrics"]["test/loss"], rel=1e-5)
    assert found["calibration"]["temperature"] > 0
    assert found["paper"]["num_images"] == 35
    assert "paper" not in read(finished, "evaluation_val.json"), "it is of the test set"


def test_an_undefined_value_of_a_class_is_null_and_not_0(finished: Path) -> None:
    classes = read(finished)["per_class"]
    guesses = scored(finished).logits.argmax(1)
    never = [number for number in range(10) if number not in guesses]
    assert never, "so short a training leaves classes out"
    assert len(classes) == 10
    assert [n for n in range(10) if classes[n]["precision"] is None] == never
    assert sum(each["num"] for each in classes) == 35


def test_the_rebuilt_network_answers_outside_of_the_trainer_as_within_it(finished: Path) -> None:
    saved = scored(finished)
    run = rebuild_run(finished)
    images = Shapes(70, 40, 0).read().test.images[torch.from_numpy(saved.index)]
    logits = torch.cat([run.logits(batch) for batch in images.split(8)])
    np.testing.assert_allclose(logits.numpy(), saved.logits, rtol=1e-5, atol=1e-6)


def test_cost_is_measured_on_the_device_that_scored(finished: Path) -> None:
    cost, metadata = read(finished, "cost.json"), read(finished, "run.json")
    assert (cost["device"], cost["precision"]) == ("cpu", "32-true")
    assert cost["num_params"] == metadata["num_params"]
    assert cost["checkpoint_bytes"] == (finished / "checkpoints/best.ckpt").stat().st_size


def edit(folder: Path, **metadata: Any) -> None:
    record = Record.open(folder)
    record.update(**metadata)


def test_what_differs_from_the_logged_metrics_is_said(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = read(copied, "run.json")["metrics"]
    edit(copied, device="NVIDIA H200", metrics=metrics | {"test/f1": metrics["test/f1"] + 0.25})
    with caplog.at_level(logging.INFO):
        evaluated(f"run={copied}", "protocol=paper")
    paper = read(copied)["paper"]
    figures = (
        f"F1 {paper['f1']:.4f}, precision {paper['precision']:.4f}, recall {paper['recall']:.4f}"
    )
    assert f"by the study's protocol (last 35 of 35 images): {figures}" in caplog.messages
    assert caplog.messages[-1] == f"written to {copied}: evaluation.json, figures/"
    for name in ("precision", "recall", "calibration error"):
        assert f"  {name} 0." in caplog.messages[0]
    assert read(copied)["largest_difference"] == pytest.approx(0.25)
    assert "test/f1 off by 0.25 from what was logged (NVIDIA H200, 32-true, " in caplog.text
    assert "); here cpu, 32-true, " in caplog.text


def test_runs_that_cannot_be_evaluated_are_named_and_the_rest_goes_on(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = copied.parent
    for name in ("cut", "running"):
        shutil.copytree(copied, places / name)
    (places / "cut" / "run.json").write_text('{"schema": 1,')
    edit(places / "running", status="running")
    with caplog.at_level(logging.INFO):
        evaluated(f"run={places}")
    assert (copied / "evaluation.json").exists()
    left_out = [text for text in caplog.messages if text.startswith("left out: ")]
    assert len(left_out) == 2
    assert str(places / "cut") in left_out[0]
    assert str(places / "running") in left_out[1]
    with pytest.raises(UserError, match="none could be evaluated"):
        evaluated(f"run=[{places}/cut,{places}/running]")
    with pytest.raises(UserError, match="not finished, its status is running"):
        evaluated(f"run={places}/running")


def test_no_run_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"run={tmp_path}: no run there or below"):
        evaluated(f"run={tmp_path}")


def test_a_folder_that_cannot_be_written_to_is_refused(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "evaluation.json").mkdir()
    with pytest.raises(UserError, match=r"cannot be evaluated .*evaluation\.json"):
        evaluated(f"run={copied}")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UserError, match=f"{copied}: cannot be written to"):
        evaluated(f"run={copied}")


def test_image_types_stay_when_a_later_evaluation_leaves_them_out(copied: Path) -> None:
    types = ("image_types.types=[noise]", "image_types.num_images=20")
    evaluated(f"run={copied}", *types)
    first = read(copied)
    assert list(first["image_types"]["degradation"]) == ["noise", "all"]
    assert len((copied / "image_types.csv").read_text().splitlines()) == 1 + 4
    evaluated(f"run={copied}", "grad_cam.images=most_confused", "grad_cam.num_images=2")
    second = read(copied)
    assert second["image_types"] == first["image_types"]
    assert (copied / "figures" / "grad_cam.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="leave split=test"):
        evaluated(f"run={copied}", *types, "split=val")
    with pytest.raises(UserError, match=r"protocol=paper: .*leave split=test"):
        evaluated(f"run={copied}", "protocol=paper", "split=val")
    (copied / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"grad_cam.images: 10000 is not among the 35 images"):
        evaluated(f"run={copied}", "grad_cam.images=[10000]")
    assert not (copied / "evaluation.json").exists(), "refused before anything is scored"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="device=tpu: must be one of auto, cpu, cuda"):
        composed("evaluate", "run=x", "device=tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="take device=cpu"):
        find_device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
