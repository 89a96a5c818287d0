"""Which runs and images are meant, and predictions of untrained runs against their networks."""

import csv
import io
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.composing import composed
from tests.run_folders import write_run
from tests.tiny import TARGETS
from tests.untrained import network, plant
from triptych.cli import ScreenHandler
from triptych.data.shapes import Shapes
from triptych.errors import UserError
from triptych.tools.predict import command, prediction
from triptych.tools.predict.command import (
    check_output,
    find_images,
    predict_images,
    select_runs,
)

CLASSES = Shapes(10, 10, seed=0).read().classes
TOLERANCE = 1e-5  # kernels differ between batch sizes


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [plant(tmp_path_factory.mktemp("logs"), seed).folder for seed in (0, 1)]


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return Shapes(10, 12, seed=1).read().test.images.numpy()


@pytest.fixture
def photos(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{place:02}.png")
    return folder


def predict(run: Path | list[Path], photos: Path, **settings: Any) -> None:
    runs = [*map(str, run)] if isinstance(run, list) else str(run)
    settings |= {"run": runs, "images": str(photos), "trusted_targets": [*TARGETS]}
    settings = {
        k: str(value) if isinstance(value, Path) else value for k, value in settings.items()
    }
    predict_images(composed("predict", "run=none", "images=none", "device=cpu", **settings))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def probabilities(pixels: NDArray[np.uint8], seed: int, temperature: float = 1) -> NDArray[Any]:
    images = (torch.from_numpy(pixels) / 255 - 0.5) / 0.5
    with torch.no_grad():
        return (network(seed)(images) / temperature).softmax(1).numpy()


def test_every_image_gets_the_networks_own_prediction_in_order(
    runs: list[Path], photos: Path, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    predict(runs[0], photos, out=tmp_path / "a.csv", batch_size=5, top_k=10)
    rows = read_csv(tmp_path / "a.csv")
    expected = probabilities(pixels, 0)
    assert [row["path"] for row in rows] == sorted(map(str, photos.iterdir()))
    assert [row["class"] for row in rows] == [CLASSES[c] for c in expected.argmax(1)]
    assert len(set(expected.argmax(1))) > 1
    places = ["", *(f"_{place}" for place in range(2, 11))]
    shown = [[float(row[f"probability{place}"]) for place in places] for row in rows]
    np.testing.assert_allclose(shown, -np.sort(-expected, axis=1), atol=TOLERANCE)


def test_an_ensemble_predicts_the_mean_and_shows_each_vote_and_mirror_images_beside_it(
    runs: list[Path], photos: Path, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    predict(runs, photos, out=tmp_path / "a.jsonl", tta="flip")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    each = [probabilities(pixels, seed) for seed in (0, 1)]
    mean = np.mean(each, axis=0)
    assert [row["class"] for row in rows] == [CLASSES[c] for c in mean.argmax(1)]
    np.testing.assert_allclose([row["probability"] for row in rows], mean.max(1), atol=TOLERANCE)
    mirrored = [probabilities(pixels[..., ::-1].copy(), seed) for seed in (0, 1)]
    both = np.mean([*each, *mirrored], axis=0)
    assert [row["tta"]["class"] for row in rows] == [CLASSES[c] for c in both.argmax(1)]
    shares = [row["tta"]["probability"] for row in rows]
    np.testing.assert_allclose(shares, both.max(1), atol=TOLERANCE)
    for seed, expected in enumerate(each):
        votes = [row["votes"][f"tiny seed={seed}"] for row in rows]
        assert [vote["class"] for vote in votes] == [CLASSES[c] for c in expected.argmax(1)]
        shares = [vote["probability"] for vote in votes]
        np.testing.assert_allclose(shares, expected.max(1), atol=TOLERANCE)


def test_a_folder_gets_the_predictions_that_its_images_get_one_by_one(
    runs: list[Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    paths = sorted(photos.iterdir())
    for place, path in enumerate(paths):
        os.link(path, photos / f"{place + 12}.png")
    predict(runs, photos, out=tmp_path / "all.csv", batch_size=16, num_threads=3, tta="flip")
    together = [[*row.values()][1:] for row in read_csv(tmp_path / "all.csv")]
    assert len(together) == 24
    assert together[12:] == together[:12]
    for place, path in enumerate(paths[:4]):
        predict(runs, path, out=tmp_path / f"{place}.csv", tta="flip")
        [alone] = read_csv(tmp_path / f"{place}.csv")
        for one, other in zip([*alone.values()][1:], together[place], strict=True):
            if one[:1].isdigit():
                assert float(one) == pytest.approx(float(other), abs=TOLERANCE)
            else:
                assert one == other


def test_an_unfinished_run_is_skipped_with_a_warning_unless_it_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = write_run(tmp_path, "alexnet")
    running = write_run(tmp_path, "vgg11", status="running")
    assert select_runs([str(tmp_path)]) == [done]
    [message] = caplog.messages
    assert f"{running}: not finished" in message
    for places in ([str(tmp_path), str(running)], [str(running.parent)]):
        with pytest.raises(UserError, match="status is running"):
            select_runs(places)


def test_networks_of_other_classes_cannot_vote_together(
    runs: list[Path], photos: Path, tmp_path: Path
) -> None:
    other = plant(tmp_path, classes=[*CLASSES[:9], "another"]).folder
    with pytest.raises(UserError, match="differ"):
        predict([runs[0], other], photos, out=tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


def test_calibrated_takes_the_temperature_of_each_runs_evaluation(
    photos: Path, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    run, out = plant(tmp_path, 3).folder, tmp_path / "a.csv"
    for text in (
        "",
        "[3]",
        "{}",
        *(f'{{"calibration": {{"temperature": {t}}}}}' for t in (0, "NaN")),
    ):
        with pytest.raises(UserError, match=r"^calibrated=true: .*\npython evaluate.py run="):
            predict(run, photos, out=out, calibrated=True)
        (run / "evaluation.json").write_text(text)
    (run / "evaluation.json").write_text('{"calibration": {"temperature": 2.5}}')
    predict(run, photos, out=out, calibrated=True)
    shown = [float(row["probability"]) for row in read_csv(out)]
    np.testing.assert_allclose(shown, probabilities(pixels, 3, 2.5).max(1), atol=TOLERANCE)


def test_images_that_cannot_be_read_are_rows_with_their_error(
    runs: list[Path], photos: Path, tmp_path: Path
) -> None:
    for name in ("00.png", "05.png", "06.png", "07.png", "11.png"):
        (photos / name).write_text("no image")
    Image.new("RGB", (200, 100)).save(photos / "03.png")
    settings = {"batch_size": 2, "max_pixels": 19999, "grid_images": 3}
    predict(runs[0], photos, out=tmp_path / "a.csv", grid=tmp_path / "a.png", **settings)
    rows = read_csv(tmp_path / "a.csv")
    assert [place for place, row in enumerate(rows) if row["error"]] == [0, 3, 5, 6, 7, 11]
    assert all(bool(row["class"]) != bool(row["error"]) for row in rows)
    assert "200x100 pixels, more than max_pixels=19999" in rows[3]["error"]
    assert (tmp_path / "a.png").exists()


def test_where_no_image_can_be_read_nothing_is_written(
    runs: list[Path], photos: Path, tmp_path: Path
) -> None:
    for path in photos.iterdir():
        path.write_text("no image")
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"none of 12 could be predicted\n.*00.png: no image"):
        predict(runs[0], photos, out=tmp_path / "a.csv", grid=tmp_path / "a.png")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("setting", ["out", "images", "run"])
def test_an_unusable_setting_is_an_error_before_any_work(
    setting: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "write_predictions", lambda *_: pytest.fail("at work"))
    run = write_run(tmp_path / "logs")
    (tmp_path / "earlier.csv").write_text("earlier")
    wrong: dict[str, dict[str, Any]] = {
        "out": {"out": tmp_path / "earlier.csv"},
        "images": {"photos": tmp_path / "missing.gif"},
        "run": {"run": photos},
    }
    with pytest.raises(UserError, match=f"^{setting}="):
        predict(**{"run": run, "photos": photos} | wrong[setting])
    assert (tmp_path / "earlier.csv").read_text() == "earlier"


def test_an_interrupted_prediction_leaves_the_earlier_output_as_it_was(
    runs: list[Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.csv").write_text("earlier")
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(prediction, "save_grid", interrupt)  # after all rows are written
    with pytest.raises(KeyboardInterrupt):
        predict(runs[0], photos, out=tmp_path / "a.csv", grid=tmp_path / "a.png", overwrite=True)
    assert (tmp_path / "a.csv").read_text() == "earlier"
    assert set(tmp_path.iterdir()) == before


def test_paths_come_through_one_pipe_and_only_rows_go_into_the_other(
    runs: list[Path],
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    odd = photos / os.fsdecode(b"caf\xe9, \xe5\x86\x99.png")
    (photos / "03.png").rename(odd)
    lines = b"%b\r\n\n%b\n" % (os.fsencode(odd), os.fsencode(photos / "lost.png"))
    settings = {"run": str(runs[0]), "images": "-", "trusted_targets": [*TARGETS]}
    config = composed("predict", "run=none", "images=none", "device=cpu", **settings)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    monkeypatch.setattr(logging.getLogger("triptych"), "handlers", [ScreenHandler()])
    monkeypatch.setattr(logging.getLogger("triptych"), "level", logging.INFO)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    command.predict(config, [])
    rows, screen = capfdbinary.readouterr()
    header, good, bad = csv.reader(rows.decode().splitlines())
    assert good[0] == f"{photos}/caf\\udce9, 写.png"
    assert good[1] in CLASSES
    assert bad[0] == str(photos / "lost.png")
    assert (bad[1], bad[-1], header[-1]) == ("", "no file", "error")
    assert b"1 of 2 images predicted" in screen


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["."], ["a.JPG", "a[1].png", "x1/c.png", "x2/b.webp"]),
        (["e.dat", "a.JPG", "e.dat"], ["e.dat", "a.JPG", "e.dat"]),
        (["x*"], ["x1/c.png", "x2/b.webp"]),
        (["a[1].png"], ["a[1].png"]),
    ],
    ids=["of a folder, images by name", "files as named", "a glob", "a name like a glob"],
)
def test_images_are_found_by_file_folder_or_glob(
    tmp_path: Path, places: list[str], expected: list[str]
) -> None:
    touch(tmp_path, "a[1].png", "a.JPG", "x2/b.webp", "x1/c.png", "e.dat", "notes.txt")
    touch(tmp_path, ".hidden.png", ".cache/d.png")
    paths = find_images([str(tmp_path / place) for place in places])
    assert [os.path.relpath(path, tmp_path) for path in paths] == expected


@pytest.mark.parametrize("place", ["lost.png", "*.gif", "texts", "empty"])
def test_a_place_without_images_is_an_error_though_another_has_some(
    tmp_path: Path, place: str
) -> None:
    touch(tmp_path, "a.png", "texts/notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"^images={tmp_path}/"):
        find_images([f"{tmp_path}/a.png", f"{tmp_path}/{place}"])


@pytest.mark.parametrize("name", ["a.json", "a", "earlier.CSV", "folder.csv", "lost/a.csv"])
def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "earlier.CSV").touch()
    with pytest.raises(UserError, match=f"^out={tmp_path}/{name}: "):
        check_output("out", tmp_path / name, [".csv", ".jsonl"], overwrite=False)
    check_output("out", tmp_path / "earlier.CSV", [".csv"], overwrite=True)
