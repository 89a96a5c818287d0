"""Images predicted by runs that were planted, against the networks themselves."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from tests.composing import composed
from tests.run_folders import write_run
from triptych.callbacks.checkpoint import AtomicCheckpointIO
from triptych.data.shapes import Shapes
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.predict import work
from triptych.tools.predict.command import predict, runs_to_ask

CLASSES = tuple(f"class {n}" for n in range(10))
TINY = [
    *("model=torchvision", "model.name=shufflenet_v2_x0_5", "model.weights=null"),
    *("model.input_size=32", "data=shapes", "data.num_train=20", "data.num_val=10"),
    *("data.source.num_train=40", "data.source.num_test=20", "data.num_test=15"),
]
MEAN, STD = torch.tensor([[[0.485, 0.456, 0.406]], [[0.229, 0.224, 0.225]]]).view(2, 3, 1, 1)


@cache
def network(seed: int) -> torch.nn.Module:
    """With statistics of some images, without which all images look alike to it."""
    torch.manual_seed(seed)
    made = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1
    pixels = Shapes(40, 10, seed=2).read().train.images / 255
    made((pixels - MEAN) / STD)
    made.fc.weight.data *= 10
    return made.eval()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the folder of a finished run."""
    config = composed("train", *TINY, log_dir=str(tmp_path_factory.mktemp("logs")))

    def plant(seed: int, classes: tuple[str, ...] = CLASSES) -> Path:
        record = Record.create(config | {"seed": seed}, [])
        state = {"state_dict": network(seed).state_dict()}
        AtomicCheckpointIO().save_checkpoint(state, record.checkpoint_path("best"))
        hashes = {"split_hash": "5" * 16, "test_hash": "6" * 16}
        record.update(classes=classes, metrics={"test/accuracy": 0.5}, **hashes)
        record.end("finished")
        return record.folder

    return plant


@pytest.fixture(scope="module")
def runs(planted: Callable[..., Path]) -> list[Path]:
    return [planted(0), planted(1)]


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return Shapes(10, 12, seed=1).read().test.images.numpy()


@pytest.fixture
def photos(tmp_path: Path, images: NDArray[np.uint8]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{place:02}.png")
    return folder


def asked(run: Path | list[Path], photos: Path, **settings: Any) -> None:
    runs = [*map(str, run)] if isinstance(run, list) else str(run)
    given = {"run": runs, "images": str(photos), **settings}
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    predict(composed("predict", "run=none", "images=none", "device=cpu", **given), [])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def probabilities(images: NDArray[np.uint8], seed: int, temperature: float = 1) -> NDArray[Any]:
    pixels = (torch.from_numpy(images) / 255 - MEAN) / STD
    with torch.no_grad():
        return (network(seed)(pixels) / temperature).softmax(1).numpy()


def test_every_image_gets_the_networks_own_answer_in_order(
    runs: list[Path], photos: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    asked(runs[0], photos, out=tmp_path / "a.csv", batch_size=5, top_k=10)
    found = rows(tmp_path / "a.csv")
    expected = probabilities(images, 0)
    assert [row["path"] for row in found] == sorted(map(str, photos.iterdir()))
    assert [row["class"] for row in found] == [CLASSES[c] for c in expected.argmax(1)]
    assert len(set(expected.argmax(1))) > 1
    places = ["", *(f"_{place}" for place in range(2, 11))]
    shown = [[float(row[f"probability{place}"]) for place in places] for row in found]
    np.testing.assert_allclose(shown, -np.sort(-expected, axis=1), atol=2e-6)


def test_an_ensemble_answers_with_the_mean_and_shows_each_vote(
    runs: list[Path], photos: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    asked(runs, photos, out=tmp_path / "a.jsonl", grid=tmp_path / "a.png")
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    each = [probabilities(images, seed) for seed in (0, 1)]
    mean = np.mean(each, axis=0)
    assert [row["class"] for row in found] == [CLASSES[c] for c in mean.argmax(1)]
    np.testing.assert_allclose([row["probability"] for row in found], mean.max(1), atol=2e-6)
    for seed, own in enumerate(each):
        votes = [row["votes"][f"shufflenet_v2_x0_5, seed={seed}"] for row in found]
        assert [vote["class"] for vote in votes] == [CLASSES[c] for c in own.argmax(1)]
        np.testing.assert_allclose([v["probability"] for v in votes], own.max(1), atol=2e-6)
    with Image.open(tmp_path / "a.png") as grid:
        assert grid.width > grid.height > 400  # two rows of six


def test_a_run_that_is_not_finished_is_left_out_with_a_line_unless_it_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = write_run(tmp_path, "alexnet")
    begun = write_run(tmp_path, "vgg11", status="running")
    assert runs_to_ask([str(tmp_path)]) == [done]
    assert caplog.messages == [f"left out: {begun}: not finished, its status is running"]
    assert {*runs_to_ask([str(tmp_path), str(begun)])} == {done, begun}
    assert runs_to_ask([str(begun.parent)]) == [begun]
    assert len(caplog.messages) == 1


def test_networks_of_other_classes_cannot_vote_together(
    runs: list[Path], planted: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    other = planted(2, (*CLASSES[:9], "another"))
    with pytest.raises(UserError, match="their classes differ"):
        asked([runs[0], other], photos, out=tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


def test_a_temperature_is_that_of_each_runs_evaluation(
    planted: Callable[..., Path], photos: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    run, out = planted(3), tmp_path / "a.csv"
    with pytest.raises(UserError, match=r"was not evaluated\npython evaluate.py run="):
        asked(run, photos, out=out, calibrated=True)
    (run / "evaluation.json").write_text('{"calibration": {"temperature": 2.5}}')
    asked(run, photos, out=out, calibrated=True)
    shown = [float(row["probability"]) for row in rows(out)]
    np.testing.assert_allclose(shown, probabilities(images, 3, 2.5).max(1), atol=2e-6)


def test_images_that_cannot_be_read_are_rows_with_their_error_among_the_rest(
    runs: list[Path], photos: Path, tmp_path: Path
) -> None:
    for name in ("00.png", "05.png", "06.png", "07.png", "11.png"):
        (photos / name).write_text("no image")
    Image.new("RGB", (200, 100)).save(photos / "03.png")
    settings = {"batch_size": 2, "max_pixels": 19999, "grid_images": 3}
    asked(runs[0], photos, out=tmp_path / "a.csv", grid=tmp_path / "a.png", **settings)
    found = rows(tmp_path / "a.csv")
    assert [place for place, row in enumerate(found) if row["error"]] == [0, 3, 5, 6, 7, 11]
    assert all(bool(row["class"]) != bool(row["error"]) for row in found)
    assert found[3]["error"] == "200x100 pixels, more than max_pixels=19999"
    assert (tmp_path / "a.png").exists()


def test_where_no_image_can_be_read_nothing_is_written(
    runs: list[Path], photos: Path, tmp_path: Path
) -> None:
    for path in photos.iterdir():
        path.write_text("no image")
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"none of 12 could be predicted\n.*00.png: no image"):
        asked(runs[0], photos, out=tmp_path / "a.csv", grid=tmp_path / "a.png")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("lost", ["out", "grid", "images", "run"])
def test_what_cannot_be_done_is_refused_before_any_work(
    lost: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "work", lambda *_: pytest.fail("at work"))
    (tmp_path / "run.json").touch()
    (tmp_path / "kept.csv").write_text("kept")
    (tmp_path / "kept.png").write_text("kept")
    given: dict[str, Any] = {"run": tmp_path, "photos": photos}
    given |= {
        "out": {"out": tmp_path / "kept.csv"},
        "grid": {"grid": tmp_path / "kept.png"},
        "images": {"photos": tmp_path / "kept.gif"},
        "run": {"run": photos},
    }[lost]
    with pytest.raises(UserError, match=f"^{lost}="):
        asked(**given)
    assert (tmp_path / "kept.csv").read_text() == "kept"


def test_an_interrupted_prediction_leaves_the_earlier_output_as_it_was(
    runs: list[Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.csv").write_text("kept")
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(work, "save_grid", interrupted)  # when all rows are written
    with pytest.raises(KeyboardInterrupt):
        asked(runs[0], photos, out=tmp_path / "a.csv", grid=tmp_path / "a.png", overwrite=True)
    assert (tmp_path / "a.csv").read_text() == "kept"
    assert set(tmp_path.iterdir()) == before


def test_paths_come_through_one_pipe_and_nothing_but_rows_goes_into_the_other(
    runs: list[Path], photos: Path
) -> None:
    odd = photos / os.fsdecode(b"caf\xe9, \xe5\x86\x99.png")
    (photos / "03.png").rename(odd)
    typed = b"%b\n%b\n" % (os.fsencode(odd), os.fsencode(photos / "lost.png"))
    command = [
        sys.executable,
        "-m",
        "triptych",
        "predict",
        f"run={runs[0]}",
        "images=-",
        "device=cpu",
    ]
    ended = subprocess.run(command, input=typed, capture_output=True, cwd=photos)
    assert ended.returncode == 0, ended.stderr
    header, good, bad = csv.reader(ended.stdout.decode().splitlines())
    assert good[0] == f"{photos}/caf\\udce9, 写.png"
    assert good[1] in CLASSES
    assert bad[0] == str(photos / "lost.png")
    assert (bad[1], bad[-1], header[-1]) == ("", "no file", "error")
    assert b"1 of 2 images predicted" in ended.stderr
    assert b"Warning" not in ended.stderr


def test_a_refusal_does_not_wait_for_torch() -> None:
    program = "import sys, triptych.tools.predict.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
