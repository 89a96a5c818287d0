"""A trained network scored on labelled images that are not of its own data set."""

import csv
import json
import logging
import shutil
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score

import triptych
from tests.composing import composed
from tests.tiny import TARGETS
from tests.tools.evaluate.test_command import check_tta, read_files
from tests.tools.evaluate.test_command import evaluate_runs as evaluate
from triptych.config import Config
from triptych.data.shapes import Shapes
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_predictions
from triptych.runs.reader import find_run_folders
from triptych.tools.evaluate.external import check_not_own, match_classes, merge_settings

SHAPES = ("data=shapes", "data.source.seed=1", "data.source.num_test=40")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The drawings of `SHAPES` as photos in folders, of five classes, and one unknown to all."""
    root = tmp_path / "other photos"
    write_photos(root, {"ring": "Ring", "disc": "disc", "star": "a star", "cross": "CROSS"})
    return root


def write_photos(root: Path, folders: dict[str, str]) -> None:
    drawn = Shapes(num_train=60, num_test=40, seed=1).read()
    for number, (image, label) in enumerate(zip(*drawn.test, strict=True)):
        if folder := folders.get(drawn.classes[label]):
            (root / folder).mkdir(parents=True, exist_ok=True)
            pixels = image.permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / folder / f"{number:03}.png")


def results(run: Path, pattern: str = "*") -> tuple[dict[str, Any], Predictions]:
    [folder] = (run / "external").glob(pattern)
    document = json.loads((folder / "evaluation.json").read_text())
    return document, read_predictions(folder / "predictions.npz")


def test_the_scores_are_those_of_the_network_and_lie_beside_the_runs_own(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(run)
    evaluate(run, *SHAPES, "tta=flip")
    document, saved = results(run)
    drawn = Shapes(num_train=60, num_test=40, seed=1).read()
    network = triptych.load_run(run).network(TARGETS)
    scale = network.preprocessing
    mean, std = (torch.tensor(v)[:, None, None] for v in (scale.mean, scale.std))
    with torch.inference_mode():
        logits = network((drawn.test.images / 255 - mean) / std)
        mirrored = network((drawn.test.images.flip(-1) / 255 - mean) / std)
    np.testing.assert_allclose(saved.logits, logits, rtol=1e-4, atol=1e-5)
    truth, predicted = drawn.test.labels.numpy(), logits.argmax(1).numpy()
    assert document["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert document["accuracy_low"] < document["accuracy"] < document["accuracy_high"]
    expected = f1_score(truth, predicted, labels=range(10), average="macro", zero_division=0)
    assert document["macro"]["f1"] == pytest.approx(expected)
    loss = torch.nn.functional.cross_entropy(logits, drawn.test.labels)
    assert document["nll"] == pytest.approx(float(loss), rel=1e-4)
    np.testing.assert_array_equal(document["confusion"], confusion_matrix(truth, predicted))
    assert document["calibration"]["temperature"] > 0
    check_tta(document["tta"], logits, mirrored, drawn.test.labels)
    assert f"{100 * document['accuracy']:.2f} %" in capsys.readouterr().out
    after = read_files(run)
    assert {name: after[name] for name in before} == before
    new = {name.split("/", 2)[2] for name in after.keys() - before.keys()}
    pictures = {f"figures/evaluated_external_{name}.png" for name in ("confusion", "reliability")}
    tables = {"predictions.csv", "mistakes.csv"}
    assert new == {"evaluation.json", "predictions.npz", *tables, *pictures}
    assert find_run_folders(str(run.parent)) == [run]
    evaluate(run, *SHAPES, "split=all")
    assert results(run, "*-all")[0]["num_images"] == 6040
    evaluate(run, *SHAPES)
    assert read_files(run).keys() > after.keys(), "again into the same folder"


def test_classes_are_matched_by_name_and_means_are_over_those_that_are_there(
    run: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    evaluate(run, *SHAPES)
    evaluate(run, "data=folder", f"data.root='{photos}'")
    document, saved = results(run, "other*")
    _, drawn = results(run, "shapes*")
    classes = triptych.load_run(run).metadata["classes"]
    there = [classes.index(name) for name in ("disc", "ring", "cross")]
    assert document["left_out"].keys() == {"a star"}
    assert "a star" in caplog.text
    assert set(document["without_images"]) == {*classes} - {"disc", "ring", "cross"}
    assert document["num_images"] == len(saved.labels) == sum(n in there for n in drawn.labels)
    [table] = (run / "external").glob("other*/predictions.csv")
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["label"] for row in lines] == [classes[label] for label in saved.labels]
    assert {row["file"].partition("/")[0] for row in lines} == {"disc", "Ring", "CROSS"}
    for number in there:  # each photo as it was drawn
        rows, same = saved.labels == number, drawn.labels == number
        np.testing.assert_allclose(saved.logits[rows], drawn.logits[same], rtol=1e-4, atol=1e-5)
    options = {"labels": there, "average": "macro", "zero_division": 0}
    truth, predicted = saved.labels, saved.classes
    assert document["macro"]["f1"] == pytest.approx(f1_score(truth, predicted, **options))
    assert document["macro"]["precision"] == pytest.approx(
        precision_score(truth, predicted, **options)
    )
    assert document["accuracy"] == pytest.approx(accuracy_score(truth, predicted))


def test_two_folders_of_one_name_are_kept_apart_and_a_test_split_is_taken(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    half = {"disc": "disc", "ring": "ring", "star": "star"}
    for place, splits in (("a", ["."]), ("b", ["train", "test"])):
        for split in splits:
            write_photos(tmp_path / place / "photos" / split, half)
    for place in "ab":
        evaluate([str(run)], "data=folder", f"data.root={tmp_path}/{place}/photos")
    folders = [*(run / "external").glob("photos-*")]
    assert len(folders) == 2
    numbers = [json.loads((f / "evaluation.json").read_text())["num_images"] for f in folders]
    assert numbers[0] == numbers[1]
    assert "no test split" in caplog.text
    assert "its test images (split=all" in caplog.text
    evaluate(run, "data=folder", f"data.root={tmp_path}/b/photos", "split=all")
    assert results(run, "photos*-all")[0]["num_images"] == 2 * numbers[0]
    evaluate(run, "data=folder", f"data.root={tmp_path}/b/photos", "data.num_test=6")
    assert 6 in [json.loads(p.read_text())["num_images"] for p in run.rglob("evaluation.json")]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data=shapes"], "trained on it"),
        (["data=shapes", "data.source.num_test=17", "split=all"], "trained on it"),
        (["data=cifar10"], "downloads nothing"),
        (["data=folder", "data.root=/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_leaves_no_trace(
    run: Path, overrides: list[str], says: str
) -> None:
    with pytest.raises(UserError, match=says) as refused:
        evaluate(run, *overrides)
    assert len(str(refused.value).splitlines()) <= 3
    assert not (run / "external").exists()


def test_photos_of_one_class_are_scored_without_labels_or_of_others_refused(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "flat" / "a.png")
    with pytest.raises(UserError, match=r"python predict\.py run="):
        evaluate(run, "data=folder", f"data.root={tmp_path}/flat")
    write_photos(tmp_path / "animals", {"disc": "cat", "ring": "dog"})
    with pytest.raises(UserError, match="cat, dog") as refused:
        evaluate(run, "data=folder", f"data.root={tmp_path}/animals")
    assert "disc" in str(refused.value)
    write_photos(tmp_path / "one", {"disc": "disc"})
    evaluate(run, "data=folder", f"data.root={tmp_path}/one")
    document, saved = results(run)
    recall = (saved.classes == saved.labels).mean()
    assert document["macro"]["recall"] == document["accuracy"] == pytest.approx(recall)
    shutil.rmtree(run / "external")
    elsewhere = Path(shutil.copytree(photos, tmp_path / "elsewhere"))
    (run / "external").symlink_to(elsewhere)
    with pytest.raises(UserError, match="a link"):
        evaluate(run, "data=folder", f"data.root='{photos}'")


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["data=shapes", "split=val"], "split=val"),
        (["split=all"], "split=all"),
        (["data=shapes", "image_types.types=[noise]"], "image_types"),
        (["data=shapes", "grad_cam.images=most_confused"], "grad_cam"),
        (["data=shapes", "data_root=/x"], "data_root"),
        (["data=folder", "data.root=/x", "data.size=2"], "data.size=2"),
        (["data=shapes", "+data.sizes=2"], "data.sizes"),
        (["+data.root=/x"], "data.name"),
    ],
)
def test_settings_that_contradict_are_refused_before_a_run_is_read(
    overrides: list[str], setting: str
) -> None:
    with pytest.raises(UserError, match=setting):
        composed("evaluate", "run=none", *overrides)


def test_names_that_differ_in_case_or_form_are_one_class_unless_the_network_tells_them_apart() -> (
    None
):
    umlaut = "Bär"
    own = [unicodedata.normalize("NFC", umlaut), "cat", "Dog", "dog", "straße"]
    others = [unicodedata.normalize("NFD", "bär"), "CAT", "dog", "DOG", "STRASSE", "cow"]
    assert match_classes(own, others) == {others[0]: 0, "CAT": 1, "dog": 3, "STRASSE": 4}


def test_of_photos_what_was_not_typed_is_as_for_those_of_the_run() -> None:
    node: Config = {"_target_": "triptych.data.folder.Folder", "root": "a", "size": 64}
    node |= {"fit": "pad", "max_value": 4095, "labels": "a.csv"}
    data: Config = {
        "source": {"root": "b", "size": 256, "fit": "crop", "_target_": node["_target_"]}
    }
    run: Any = SimpleNamespace(config={"data": {"source": node}})
    run.backbone = SimpleNamespace(preprocessing=SimpleNamespace(input_size=32))
    merged = merge_settings(run, data, ["data=folder", "data.root=b", "data.size=256"])["source"]
    assert (merged["root"], merged["size"], merged["fit"]) == ("b", 256, "pad")
    assert merged["max_value"] == 4095
    assert "labels" not in merged, "which photos is not how they are read"
    run.config["data"]["source"] = {"_target_": "triptych.data.cifar.Cifar", "root": "a"}
    merged = merge_settings(run, data, [])["source"]
    assert (merged["root"], merged["size"], merged["fit"]) == ("b", 32, "stretch"), "as predict"


def test_a_folder_that_the_run_was_trained_on_is_refused_and_a_part_of_it_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def check(trained: Path, scored: Path) -> None:
        node = {"_target_": "triptych.data.folder.Folder", "fit": "crop", "size": 64}
        own, other = ({"source": node | {"root": str(root)}} for root in (trained, scored))
        other["source"]["size"] = 32
        data: Config = {"name": "photos", **other}
        source: Any = triptych.build.instantiate("data.source", data["source"])
        run: Any = SimpleNamespace(config={"data": own})
        check_not_own(run, data, source)

    photos = tmp_path / "photos"
    (photos / "part").mkdir(parents=True)
    (tmp_path / "link").symlink_to(photos)
    with pytest.raises(UserError, match="trained on this folder"):
        check(photos, tmp_path / "link")
    assert not caplog.text
    check(photos, photos / "part")
    assert "may be among these" in caplog.text
    check(tmp_path / "others", photos)
