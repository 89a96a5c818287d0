"""Published images from elsewhere: found, checked, scored, and refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.composing import composed
from tests.tools.evaluate.shifted_files import NUM, draw_images, write_sets
from tests.tools.evaluate.test_command import TRUSTED, evaluate_runs
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_predictions
from triptych.tools.evaluate import shifted_sets
from triptych.tools.evaluate.rebuild import rebuild_run
from triptych.tools.evaluate.shifts import CORRUPTIONS, find_lowest_confidence, read_shifted

ROWS = {"cifar10_1": 30, "cifar10_c": 75 * 20, "svhn": 25}


@pytest.fixture
def run(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny run, whose ten classes are taken for CIFAR-10's, in another order."""
    folder = Path(shutil.copytree(trained_run, tmp_path / "run"))
    names = json.loads((folder / "run.json").read_text())["classes"]
    monkeypatch.setattr(shifted_sets, "CLASSES", names[::-1])
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_sets(tmp_path / "data", monkeypatch)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def evaluate(run: Path, *overrides: str) -> dict[str, Any]:
    evaluate_runs(run, *overrides)
    document: dict[str, Any] = json.loads((run / "evaluation.json").read_text())["shifts"]
    return document


def test_a_run_is_scored_on_every_set_that_lies_in_the_data_folder(run: Path, data: Path) -> None:
    document = evaluate(run, "shifts=all")
    network = rebuild_run(run, ["tests.tiny.Tiny", "triptych.models.custom.CustomModel"])
    val = read_predictions(run / "predictions" / "val.npz")
    assert {*document} == {*NUM}
    for name, num_images in NUM.items():
        predictions = read_predictions(run / "shifts" / f"{name}.npz")
        assert predictions.index.tolist() == [*range(ROWS[name])]
        assert document[name]["num_images"] == num_images
        shifted = read_shifted(run, name, 10)
        assert shifted is not None
        assert shifted.values.shape == (ROWS[name] // num_images, num_images)
    path = data / "CIFAR-10.1" / "datasets" / "cifar10.1_v6_data.npy"
    images = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2)
    predictions = read_predictions(run / "shifts" / "cifar10_1.npz")
    np.testing.assert_allclose(predictions.logits, network.logits(images).numpy(), atol=1e-5)
    labels = 9 - np.load(path.with_name("cifar10.1_v6_labels.npy"))  # by the names of the classes
    assert predictions.labels.tolist() == labels.tolist()
    assert document["cifar10_1"]["accuracy"] == pytest.approx(predictions.correct.mean())
    digits = read_predictions(run / "shifts" / "svhn.npz")
    rejected = digits.confidence < find_lowest_confidence(val)
    assert document["svhn"]["rejected"] == pytest.approx(rejected.mean())
    assert 0 in digits.labels


def test_of_corrupted_images_every_corruption_and_severity_is_reported(
    run: Path, data: Path
) -> None:
    document = evaluate(run, "shifts=cifar10_c")["cifar10_c"]
    predictions = read_predictions(run / "shifts" / "cifar10_c.npz")
    right = predictions.correct.reshape(15, 5, 20).mean(axis=2)
    assert list(document["by_corruption"]) == list(CORRUPTIONS)
    assert [*document["by_corruption"].values()] == [pytest.approx(row) for row in right.tolist()]
    assert document["accuracy"] == pytest.approx(right.mean())
    assert len(document["md5"]) == 16


def test_a_part_of_the_images_is_the_same_for_every_version_and_sets_are_kept(
    run: Path, data: Path
) -> None:
    evaluate(run, "shifts=svhn")
    document = evaluate(run, "shifts=[cifar10_c]", "shift_images=10")
    assert {*document} == {"cifar10_c", "svhn"}
    predictions = read_predictions(run / "shifts" / "cifar10_c.npz")
    places = (predictions.index % 20).reshape(75, 10)
    assert (places == places[0]).all()
    assert sorted(predictions.labels[:10]) == [*range(10)]


def test_95_of_100_validation_images_reach_the_lowest_confidence() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 3))
    val = Predictions(logits, np.zeros(200, np.int64), np.arange(200))
    assert (val.confidence >= find_lowest_confidence(val)).mean() == 0.95


def test_a_missing_set_is_named_with_where_it_was_looked_for_and_whence_it_comes(
    run: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "CIFAR-10-C" / "fog.npy").unlink()
    with pytest.raises(UserError) as error:
        evaluate(run, "shifts=[svhn,cifar10_c]")
    [line] = str(error.value).splitlines()
    for part in ("shifts=cifar10_c", "fog.npy", str(data / "CIFAR-10-C"), "zenodo.org"):
        assert part in line
    assert {*evaluate(run, "shifts=all")} == {"cifar10_1", "svhn"}
    assert "fog.npy" in caplog.text
    assert not (run / "shifts" / "cifar10_c.npz").exists()


def test_where_no_set_lies_all_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        evaluate(run, "shifts=all", f"data_root={tmp_path}")
    assert len(str(error.value).splitlines()) == 3


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "file", "break_file"),
    [
        ("svhn", "test_32x32.mat", cut),
        ("cifar10_c", "CIFAR-10-C/snow.npy", cut),
        ("cifar10_c", "CIFAR-10-C/snow.npy", lambda path: np.save(path, draw_images(50, 0))),
        ("cifar10_c", "CIFAR-10-C/labels.npy", lambda p: np.save(p, np.arange(100) % 7)),
        ("cifar10_1", "CIFAR-10.1/datasets/cifar10.1_v6_labels.npy", lambda p: np.save(p, [10])),
        (
            *("cifar10_1", "CIFAR-10.1/datasets/cifar10.1_v6_data.npy"),
            lambda path: np.save(path, np.array([{}]), allow_pickle=True),
        ),
    ],
)
def test_a_broken_file_is_refused(
    run: Path, data: Path, name: str, file: str, break_file: Any
) -> None:
    break_file(data / file)
    config = composed("evaluate", f"run={run}", f"shifts={name}", TRUSTED)
    with pytest.raises(UserError, match=name):
        shifted_sets.read_sets(config)


def test_a_network_of_other_classes_is_refused_by_name(
    trained_run: Path, tmp_path: Path, data: Path
) -> None:
    folder = Path(shutil.copytree(trained_run, tmp_path / "run"))
    with pytest.raises(UserError, match=f"{folder}.*ten classes"):
        evaluate(folder, "shifts=cifar10_1")
    assert not (folder / "shifts").exists()


@pytest.mark.parametrize("classes", [shifted_sets.CLASSES[:9], [*shifted_sets.CLASSES, "person"]])
def test_a_network_of_fewer_or_more_classes_is_refused(classes: list[str]) -> None:
    run: Any = SimpleNamespace(classes=classes, record=SimpleNamespace(folder="a run"))
    with pytest.raises(UserError, match="ten classes"):
        shifted_sets.number_classes(run)


@pytest.mark.parametrize(
    "overrides", [["shifts=cifar10_2"], ["shifts=svhn", "split=val"], ["shifts=[svhn,3]"]]
)
def test_shifts_that_are_no_sets_are_refused_with_the_settings(overrides: list[str]) -> None:
    with pytest.raises(UserError, match="shifts"):
        composed("evaluate", "run=logs", *overrides)
