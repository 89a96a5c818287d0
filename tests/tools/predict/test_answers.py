"""Sets of classes and "none of these": thresholds by hand, what they promise, every output."""

import csv
import json
import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from tests.composing import composed
from tests.tiny import TARGETS
from tests.untrained import network, plant
from triptych.data.shapes import Shapes
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import rebuild_run
from triptych.tools.predict.answers import NONE, Answer, Thresholds, calibrate
from triptych.tools.predict.output import Layout, draw_grid, format_line, make_prediction
from triptych.tools.predict.prediction import write_predictions

CLASSES = Shapes(10, 10, seed=0).read().classes


def draw(num_images: int, seed: int, skill: float = 2) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Logits float32 (N, 10) and labels, some classes rare."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(10, num_images, p=np.arange(1, 11) / 55)
    logits = rng.normal(size=(num_images, 10)) + skill * np.eye(10)[labels]
    return logits.astype(np.float32), labels


def plant_validated(
    root: Path, seed: int, val: NDArray[Any], labels: NDArray[Any], **metadata: Any
) -> Path:
    record = plant(root, seed, **metadata)
    record.add_predictions("val", logits=val, labels=labels, index=np.arange(len(labels)))
    return record.folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Drawings, and a grey image last."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, image in enumerate(Shapes(10, 12, seed=1).read().test.images.numpy()):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{place:02}.png")
    Image.new("RGB", (32, 32), "grey").save(folder / "grey.png")
    return folder


def predict(runs: list[Path], photos: Path, out: Path, **settings: Any) -> list[Any]:
    settings |= {"out": str(out), "top_k": 10, "trusted_targets": [*TARGETS]}
    config = composed("predict", "run=none", "images=none", "device=cpu", **settings)
    write_predictions(config, runs, sorted(map(str, photos.iterdir())))
    if out.suffix == ".csv":
        with out.open(newline="") as file:
            return [*csv.DictReader(file)]
    return [*map(json.loads, out.read_text().splitlines())]


def threshold(scores: NDArray[Any], percent: int) -> float:
    rank = -(-(len(scores) + 1) * percent // 100)
    return float(np.sort(scores)[rank - 1])


def test_an_ensemble_is_calibrated_on_the_mean_of_its_networks_validation_images(
    photos: Path, tmp_path: Path
) -> None:
    (val, labels), (other, _) = draw(60, 0), draw(60, 1, skill=0)
    runs = [plant_validated(tmp_path, seed, v, labels) for seed, v in ((0, val), (1, val + other))]
    for run, temperature in zip(runs, (2.0, 0.5), strict=True):
        document = {"calibration": {"temperature": temperature}}
        (run / "evaluation.json").write_text(json.dumps(document))
    mean = (softmax(val / 2, axis=1) + softmax((val + other) / 0.5, axis=1)) / 2
    max_score = threshold(1 - mean[np.arange(60), labels], 70)
    max_doubt = threshold(1 - mean.max(axis=1), 80)
    settings = {"coverage": 0.7, "keep": 0.8, "calibrated": True}
    rows = predict(runs, photos, tmp_path / "a.jsonl", **settings)
    table = predict(runs, photos, tmp_path / "a.csv", **settings)
    seen = set()
    for row, line in zip(rows, table, strict=True):
        top = [(each["class"], each["probability"]) for each in row["top"]]
        expected = [name for name, p in top if 1 - p <= max_score]
        accepted = bool(expected) and 1 - top[0][1] <= max_doubt
        answer = row["answer"]
        assert (answer["classes"], answer["coverage"]) == (expected, 0.7)
        assert answer["accepted"] == accepted
        assert line["answer"] == answer["text"]
        assert (line["answer"] == NONE) != accepted
        seen.add((accepted, len(expected)))
    assert {accepted for accepted, _ in seen} == {True, False}
    assert len(seen) > 2, "sets of several sizes"


def test_a_grey_image_is_none_of_these_where_validation_images_were_surer(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.no_grad():
        grey = network(0)(torch.full((1, 3, 32, 32), 128 / 255 * 2 - 1)).softmax(1).max()
    val, labels = draw(200, 0, skill=20)
    assert threshold(1 - softmax(val, axis=1).max(axis=1), 95) < 1 - grey
    run = plant_validated(tmp_path, 0, val, labels)
    with caplog.at_level(logging.INFO, "triptych"):
        rows = predict([run], photos, tmp_path / "a.csv", keep=0.95)
    assert (rows[-1]["path"], rows[-1]["answer"]) == (str(photos / "grey.png"), NONE)
    assert all(row["answer"] in (NONE, row["class"]) for row in rows)
    [promise] = [each for each in caplog.messages if "200 validation images" in each]
    assert "95 %" in promise


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("logs")).folder


def find_thresholds(run: Path, num_images: int, seed: int = 0, **settings: Any) -> Thresholds:
    logits, labels = draw(num_images, seed)
    Record.open(run).add_predictions(
        "val", logits=logits, labels=labels, index=np.arange(num_images)
    )
    config = {"coverage": None, "keep": None, "sets": "lac", **settings}
    thresholds = calibrate([rebuild_run(run, TARGETS)], [1.0], config)
    assert thresholds
    return thresholds


def test_an_empty_set_is_none_of_these(run: Path) -> None:
    thresholds = find_thresholds(run, 200, coverage=0.1)
    assert thresholds.answer(np.full(10, 0.1)) == Answer((), False, 0.1)
    assert thresholds.answer(np.full(10, 0.1)).format() == NONE


def test_the_promise_is_less_where_the_same_images_chose_the_network(run: Path) -> None:
    thresholds = find_thresholds(run, 1000, coverage=0.95, keep=0.9)
    assert re.findall(r"([\d.]+) %", thresholds.promise) == ["95", "90"]
    slack = (math.sqrt(math.log(2 * 40) / 2) + 1 / 3) / math.sqrt(1000)
    left = [math.floor(1000 * (level * 1.001 - slack)) / 10 for level in (0.95, 0.9)]
    chosen = replace(thresholds, num_candidates=40).promise
    assert [*map(float, re.findall(r"([\d.]+) %", chosen))] == [95, 90, *left]
    grouped = replace(thresholds, num_candidates=40, has_groups=True).promise
    assert [*map(float, re.findall(r"([\d.]+) %", grouped))] == [95, 90], "no guarantee in numbers"
    assert "1,000 validation images" in chosen
    assert " 40 " in chosen


def test_an_ensemble_is_chosen_among_all_that_its_networks_could_have_made(tmp_path: Path) -> None:
    folders = [plant_validated(tmp_path, n, *draw(30, 0), num_epochs=3 + n) for n in range(2)]
    runs = [rebuild_run(folder, TARGETS) for folder in folders]
    config = {"coverage": 0.9, "keep": None, "sets": "lac"}
    thresholds = calibrate(runs, [1.0, 1.0], config, num_rivals=5)
    assert thresholds
    assert thresholds.num_candidates == 5 * 3 * 4


def test_too_few_validation_images_leave_every_class_and_say_so(run: Path) -> None:
    thresholds = find_thresholds(run, 18, coverage=0.95, keep=0.95)
    assert thresholds.answer(np.full(10, 0.1)).classes == tuple(CLASSES)
    assert thresholds.answer(np.full(10, 0.1)).is_accepted
    assert " %" not in thresholds.promise, "nothing is promised"
    assert [s.count(" 19 ") for s in thresholds.find_shortages()] == [1, 1]
    assert not [*find_thresholds(run, 19, coverage=0.95, keep=0.95).find_shortages()]


def test_a_class_with_too_few_validation_images_is_in_every_set_and_named(run: Path) -> None:
    thresholds = find_thresholds(run, 400, coverage=0.95, sets="classwise")
    assert thresholds.sets
    rare = [CLASSES[c] for c in np.flatnonzero(thresholds.sets.num_by_class < 19)]
    assert 0 < len(rare) < 4
    [shortage] = thresholds.find_shortages()
    assert shortage in thresholds.promise
    assert [name for name in CLASSES if name in shortage] == rare
    surely = np.eye(10)[9]
    assert {*rare} <= {*thresholds.answer(surely).classes} <= {*rare, CLASSES[9]}


def test_networks_without_validation_images_or_with_others_are_an_error(
    run: Path, tmp_path: Path
) -> None:
    config = {"coverage": None, "keep": 0.9, "sets": "lac"}
    without = rebuild_run(plant(tmp_path).folder, TARGETS)
    with pytest.raises(UserError, match=r"^keep=0\.9: .*\n.*val\.npz: missing"):
        calibrate([without], [1.0], config)
    find_thresholds(run, 50, coverage=0.9)
    other = rebuild_run(plant_validated(tmp_path, 1, *draw(50, seed=1)), TARGETS)
    with pytest.raises(UserError, match=r"^keep=0\.9: ") as error:
        calibrate([rebuild_run(run, TARGETS), other], [1.0] * 2, config)
    assert str(other.record.folder) in str(error.value)
    assert str(error.value).count("\n") < 3
    several: Any = SimpleNamespace(task="multilabel")
    with pytest.raises(UserError, match=r"^coverage=0\.9: takes networks of one label"):
        calibrate([several], [1.0], config | {"coverage": 0.9})


@pytest.mark.parametrize("command", ["predict", "serve"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [("coverage", 1), ("coverage", 0.0), ("keep", 95), ("sets", "raps"), ("sets", "classwise")],
)
def test_a_rate_is_between_0_and_1_and_the_kind_of_sets_takes_a_coverage(
    command: str, setting: str, value: Any
) -> None:
    places = {"predict": ["run=none", "images=none"], "serve": ["runs=none"]}[command]
    with pytest.raises(UserError, match=f"^{setting}={value}: "):
        composed(command, *places, **{setting: value})


def test_a_line_and_the_grid_show_the_answer_as_a_person_reads_it(run: Path) -> None:
    thresholds = replace(find_thresholds(run, 400, coverage=0.975), classes=("cat", "dog", "hen"))
    assert thresholds.sets
    sets = replace(thresholds.sets, thresholds=np.full(3, 0.7))
    layout = Layout(1, (), thresholds.classes, thresholds=replace(thresholds, sets=sets))
    two, none = (
        make_prediction(path, layout, np.array([shares]))
        for path, shares in (("a.png", (0.4, 0.55, 0.05)), ("b.png", (0.2, 0.25, 0.28)))
    )
    assert format_line(layout, two, "a.png").split() == "dog 55.0% dog or cat, 97.5 % a.png".split()
    assert format_line(layout, none, "b.png").split()[2:] == [*NONE.split(), "b.png"]
    figure = draw_grid([two, none], "a network", 600)
    titles = [axes.get_title("left").split("\n")[0] for axes in figure.axes]
    assert titles == ["dog or cat, 97.5 %", NONE]
    many = Answer(("a", "b", "c", "d", "e", "f"), True, 0.9)
    assert (many.line, many.format()) == ("a, b, c, d or 2 more, 90 %", "a, b, c, d, e or f")
