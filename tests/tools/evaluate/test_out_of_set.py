"""Images of none of the classes: found, scored as `predict` scores them, and refused."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

import triptych
from tests.composing import composed
from tests.data.test_torchvision_sets import make_svhn
from tests.tiny import TARGETS
from tests.tools.evaluate.test_command import evaluate_runs, read_files
from triptych.data.torchvision_sets import SETS, TorchvisionSet
from triptych.errors import UserError
from triptych.runs.predictions import read_arrays, read_predictions
from triptych.tools.evaluate import out_of_set
from triptych.tools.evaluate.rebuild import rebuild_run
from triptych.tools.evaluate.tasks import check_settings
from triptych.tools.predict.prediction import write_predictions
from triptych.tools.statistics.out_of_set import DOUBTS, separate

NUM = 9


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "logs" / "run"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Noise, at two depths, none of it of a class of the run."""
    root = tmp_path / "my photos"
    random = np.random.default_rng(0)
    for number in range(NUM):
        folder = root / ("grass" if number < 4 else "other/mist")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (8 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def read(run: Path, name: str) -> tuple[dict[str, Any], np.ndarray]:
    document = json.loads((run / "ood" / f"{name}.json").read_text())
    return document, read_arrays(run / "ood" / f"{name}.npz", ("logits",))["logits"]


def evaluate(run: Path, word: str, *more: str) -> None:
    """What `evaluate` does about these images, without the rest."""
    config = composed("evaluate", "run=none", f"ood={word}", *more)
    places = out_of_set.find_places(config)
    out_of_set.evaluate_out_of_set(rebuild_run(run, TARGETS), places, config)


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """House numbers in torchvision's files: ten test images, of the classes 0 to 9."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setitem(SETS, "SVHN", make_svhn(tmp_path, monkeypatch))


def test_photos_are_scored_as_predict_scores_them(run: Path, photos: Path) -> None:
    evaluate(run, f"'{photos}'")
    document, logits = read(run, "my_photos")
    assert (document["name"], document["num_images"]) == ("my_photos", NUM)
    assert document["num_unreadable"] == 0
    rows = run.parent / "rows.jsonl"
    options = (f"trusted_targets=[{','.join(TARGETS)}]", "device=cpu", "top_k=10")
    config = composed("predict", "run=none", "images=none", *options)
    write_predictions(
        config | {"out": str(rows)}, [run], [*map(str, sorted(photos.rglob("*.png")))]
    )
    classes = triptych.load_run(run).metadata["classes"]
    for line, own in zip(rows.read_text().splitlines(), softmax(logits, axis=1), strict=True):
        shares = {each["class"]: each["probability"] for each in json.loads(line)["top"]}
        assert [shares[name] for name in classes] == pytest.approx(own, abs=2e-6)


def test_a_data_set_is_scored_as_the_runs_own_images(run: Path, svhn: None) -> None:
    evaluate(run, "svhn")
    document, logits = read(run, "svhn")
    images = TorchvisionSet("SVHN", os.environ["DATA_DIR"]).read().test.images
    own = rebuild_run(run, TARGETS).logits(images).numpy()
    np.testing.assert_allclose(logits, own, rtol=1e-4, atol=1e-5)
    assert (len(logits), document["precision"], document["device"]) == (10, "32-true", "cpu")


def test_the_screen_says_what_the_saved_logits_say(
    run: Path, photos: Path, svhn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(run)
    evaluate_runs(run, f"ood=['{photos}',svhn]")
    new = {name for name in read_files(run).keys() - before.keys() if name.startswith("ood/")}
    assert new == {
        f"ood/{name}.{kind}" for name in ("my_photos", "svhn") for kind in ("json", "npz")
    }
    shown = capsys.readouterr().out
    val, test = (read_predictions(run / "predictions" / f"{s}.npz").logits for s in ("val", "test"))
    for name in ("my_photos", "svhn"):
        for score in DOUBTS:
            found = separate(score, val, test, read(run, name)[1])
            assert f"{found.auroc.value:.3f} (" in shown
            assert f"{found.accepted.value:.1%}".replace("%", " % (") in shown


def test_a_part_is_drawn_and_files_are_known_again(run: Path, photos: Path) -> None:
    evaluate(run, f"'{photos}'", "batch_size=2")
    whole, of_all = read(run, "my_photos")
    evaluate(run, f"'{photos}'")
    assert read(run, "my_photos")[0]["digest"] == whole["digest"], "whatever the batches"
    evaluate(run, f"'{photos}'", "shift_images=4")
    part, of_some = read(run, "my_photos")
    assert (len(of_some), part["num_images"]) == (4, 4)
    assert part["digest"] != whole["digest"]
    assert all(np.isclose(row, of_all, atol=1e-5).all(axis=1).any() for row in of_some)


def test_unreadable_images_are_counted_and_the_others_scored(
    run: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(run, f"'{photos}'")
    whole, logits = read(run, "my_photos")
    (photos / "grass" / "broken.png").write_bytes(b"\x89PNG no more")
    (photos / "notes.txt").write_text("no image")
    evaluate(run, f"'{photos}'")
    document, again = read(run, "my_photos")
    assert (document["num_images"], document["num_unreadable"]) == (NUM, 1)
    np.testing.assert_allclose(again, logits, atol=1e-6)
    assert document["digest"] == whole["digest"]
    assert "1 of 10 images" in caplog.text
    assert "broken.png" in caplog.text


@pytest.mark.parametrize("folder", ["DISC", "deeper/Disc ", "disc/train"])
def test_a_folder_with_a_class_of_the_run_is_refused(run: Path, photos: Path, folder: str) -> None:
    (photos / folder).mkdir(parents=True)
    shutil.move(photos / "grass" / "0.png", photos / folder)
    assert "disc" in refuse(run, f"'{photos}'").casefold()


@pytest.mark.parametrize(
    ("names", "is_same"),
    [("Polar_Bear polar-bear", True), ("MÜLL müll", True), ("bear bears", False)],
)
def test_classes_are_the_same_however_they_are_spelled(names: str, is_same: bool) -> None:
    one, other = map(out_of_set.simplify, names.split())
    assert (one == other) is is_same


def refuse(run: Path, word: str, *more: str) -> str:
    """The message; nothing of the evaluation is written."""
    before = read_files(run)
    with pytest.raises(UserError) as caught:
        evaluate_runs(run, f"ood={word}", *more)
    assert read_files(run) == before
    assert str(caught.value).count("\n") < 3
    return str(caught.value)


def test_the_runs_own_data_set_is_refused(run: Path) -> None:
    assert "disc" in refuse(run, "shapes")


def test_what_is_no_set_of_images_is_refused(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "svhn" in refuse(run, "svnh")
    assert "not on this machine" in refuse(run, "cifar100")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    assert "no image" in refuse(run, f"'{tmp_path}/empty'")
    (tmp_path / "empty" / "inner" / "a.png").write_text("no image")
    assert "a.png" in refuse(run, f"'{tmp_path}/empty'")
    shutil.copytree(photos, tmp_path / "other" / photos.name)
    assert "my_photos" in refuse(run, f"['{photos}','{tmp_path}/other/{photos.name}']")
    (run / "predictions" / "val.npz").unlink()
    assert "val.npz" in refuse(run, f"'{photos}'")


def test_a_folder_has_its_name_by_whatever_way_it_is_reached(run: Path, photos: Path) -> None:
    evaluate(run, f"'{photos}/grass/..'")
    assert read(run, "my_photos")[0]["num_images"] == NUM


def test_the_folder_that_a_run_learned_from_is_refused(photos: Path, tmp_path: Path) -> None:
    own = {"root": str(photos / "other"), "max_pixels": 1}
    for place in (photos, photos / "other", photos / "other" / "mist"):
        with pytest.raises(UserError, match="trained on"):
            out_of_set.list_photos("photos", place, own)
    assert len(out_of_set.list_photos("photos", photos / "grass", own)) == 4


@pytest.mark.parametrize("more", [("split=val",), ("data=shapes",)])
def test_images_of_other_classes_stand_beside_the_runs_test_images(more: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="ood"):
        composed("evaluate", "run=none", "ood=photos", *more)


def test_runs_of_several_labels_an_image_are_refused(run: Path) -> None:
    config = composed("evaluate", "run=none", "ood=photos")
    rebuilt: Any = SimpleNamespace(task="multilabel", record=SimpleNamespace(folder=run))
    with pytest.raises(UserError, match="ood"):
        check_settings(rebuilt, config)
