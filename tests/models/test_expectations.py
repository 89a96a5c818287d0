"""Weights travel with what they expect of an image: from run to file to run, by the digit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model

from tests.composing import composed
from tests.tiny import TINY, StartRun, Tiny
from triptych import load_run
from triptych.errors import UserError
from triptych.models.backbone import Backbone, BackboneFactory
from triptych.models.custom import CustomModel
from triptych.models.torchvision_models import TorchvisionModel
from triptych.models.weight_files import combine_expectations
from triptych.training import train

pytestmark = pytest.mark.usefixtures("no_figures")
CLASSES = ["ant", "bee", "cat"]
OTHER = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


def save(backbone: Backbone, path: Path, classes: list[str] = CLASSES) -> None:
    """As a run writes `best.ckpt`."""
    state = backbone.network.state_dict()
    named = {"classes": classes, "preprocessing": backbone.expectations}
    torch.save({"state_dict": state, "config": "", **named}, path)


@pytest.fixture(autouse=True)
def _quick_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # it takes seconds


def custom(weights: str | None = None, size: int = 32, **settings: Any) -> CustomModel:
    return CustomModel(name="tiny", network=Tiny, input_size=size, weights=weights, **settings)


def of_torchvision(name: str, size: int | None = None) -> Callable[..., TorchvisionModel]:
    return lambda weights=None: TorchvisionModel(name, weights, input_size=size)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (of_torchvision("googlenet", 32), of_torchvision("googlenet")),
        (of_torchvision("inception_v3", 75), of_torchvision("inception_v3", 75)),
        (of_torchvision("squeezenet1_1", 64), of_torchvision("squeezenet1_1")),
        (of_torchvision("mnasnet0_5", 40), of_torchvision("mnasnet0_5")),
        (lambda: custom(**OTHER), custom),
    ],
)
def test_a_network_of_our_file_gives_the_same_logits_of_the_same_images(
    tmp_path: Path,
    first: Callable[[], BackboneFactory],
    later: Callable[[str], BackboneFactory],
) -> None:
    path = tmp_path / "copied.pt"
    before = first().build(3)
    save(before, path)
    after = later(str(path)).build(3, classes=CLASSES)
    assert (after.preprocessing, after.notes) == (before.preprocessing, [])
    assert after.expectations == before.expectations
    size = before.preprocessing.input_size
    batch = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert after.eval()(batch).equal(before.eval()(batch))


def test_a_file_of_a_network_whose_weights_expect_other_images_keeps_them(tmp_path: Path) -> None:
    """0.5 and bicubic where the network's own default weights expect ImageNet's and bilinear."""
    path, expected = tmp_path / "best.ckpt", {"input_size": 48, "interpolation": "bicubic"}
    network = TorchvisionModel("squeezenet1_1", None).build(3)
    entry = network.expectations | expected | {"mean": [0.5] * 3, "std": [0.5] * 3}
    torch.save({"state_dict": network.network.state_dict(), "preprocessing": entry}, path)
    backbone = TorchvisionModel("squeezenet1_1", str(path)).build(3, classes=CLASSES)
    assert backbone.preprocessing == (48, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    later = TorchvisionModel("squeezenet1_1", str(path)).build(3, load=False, recorded=entry)
    assert later.preprocessing == backbone.preprocessing


def test_what_a_setting_says_holds_and_is_said(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    save(TorchvisionModel("googlenet", None, input_size=32).build(3), path)
    backbone = TorchvisionModel("googlenet", str(path), input_size=48).build(3, classes=CLASSES)
    assert backbone.preprocessing.input_size == 48
    assert len(backbone.notes) == 1
    assert "model.input_size=48" in backbone.notes[0]
    save(custom(**OTHER).build(3), path)
    backbone = custom(str(path), mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0]).build(3)
    assert (backbone.preprocessing.mean, backbone.preprocessing.std) == (OTHER["mean"], (1, 1, 1))
    assert [note.partition("=")[0] for note in backbone.notes] == ["model.std"]


def test_what_is_assumed_of_the_file_of_others_is_said(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(get_model("googlenet", aux_logits=False, init_weights=False).state_dict(), path)
    backbone = TorchvisionModel("googlenet", str(path)).build(3, classes=CLASSES)
    assert backbone.expectations["transform_input"] is True
    assert backbone.head_origin.startswith("new")
    assert len(backbone.notes) == 1
    for word in ("0.485 0.456 0.406", "0.229 0.224 0.225", "bilinear", "transform_input"):
        assert word in backbone.notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": "32"},
        {"mean": [0.5, 0.5]},
        {"std": [0.5, 0.5, 0.0]},
        {"mean": [0.5, 0.5, float("nan")]},
        {"mean": None},
        {"interpolation": "best"},
        {"transform_input": 1},
    ],
)
def test_a_record_that_no_run_writes_is_refused(change: dict[str, Any]) -> None:
    entry = custom().build(3).expectations
    assert combine_expectations(entry, custom())[0] == custom().build(3).preprocessing._asdict()
    with pytest.raises(UserError, match=r"^preprocessing="):
        combine_expectations(entry | change, custom())


# Runs.

STANDING = ("++trainer.max_epochs=1", "optim.lr=1e-30", "+model.freeze=backbone")


def start(log_dir: Path, *overrides: str) -> Path:
    command = [*TINY, *overrides, f"log_dir={log_dir}", "data.augment=none"]
    return train(composed("train", *command), command).folder


def test_a_chain_of_runs_scores_alike_and_needs_no_earlier_one(tmp_path: Path) -> None:
    own = ("+model.mean=[0.1,0.2,0.3]", "+model.std=[0.4,0.5,0.6]", "++trainer.max_epochs=1")
    first = start(tmp_path / "first", *own)
    copy, folders = tmp_path / "copy", [first]
    copy.mkdir()
    for place, name in enumerate(("best", "last", "best")):
        shutil.copy(folders[-1] / "checkpoints" / f"{name}.ckpt", copy / f"{place}.bin")
        given = f"model.weights={copy / f'{place}.bin'}"
        folders.append(start(tmp_path / str(place), given, *STANDING))
    shutil.rmtree(copy)
    scores = [json.loads((folder / "run.json").read_text())["metrics"] for folder in folders]
    for folder, score in zip(folders, scores, strict=True):
        with np.load(folder / "predictions" / "test.npz") as stored:
            expected, logits = (
                np.load(first / "predictions" / "test.npz")["logits"],
                stored["logits"],
            )
        np.testing.assert_array_equal(logits, expected)
        assert score["test/loss"] == scores[0]["test/loss"]
        run = load_run(folder)
        network = run.network(["tests.tiny.Tiny", "triptych.models.custom.CustomModel"])
        assert network.preprocessing == (32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")
        assert run.metadata["preprocessing"] == network.expectations


def test_a_killed_run_is_resumed_without_the_file_that_it_began_from(
    tmp_path: Path, start_run: StartRun
) -> None:
    path = tmp_path / "mine.pt"
    save(custom(**OTHER).build(10), path, [str(n) for n in range(10)])
    command = (f"model.weights={path}", "checkpoint.every_n_steps=1")
    whole = start_run(*command, f"log_dir={tmp_path / 'whole'}")
    assert whole["code"] == 0
    assert start_run(*command, f"log_dir={tmp_path / 'cut'}", at="epoch over", nth=2)["code"] != 0
    path.unlink()
    cut, finished = (next((tmp_path / d).rglob("run.json")).parent for d in ("cut", "whole"))
    assert start_run(f"resume={cut}")["code"] == 0
    logits = [load_run(folder).predictions("test").logits for folder in (cut, finished)]
    assert np.array_equal(*logits)
    assert load_run(cut).metadata["preprocessing"]["std"] == [0.4, 0.5, 0.6]
