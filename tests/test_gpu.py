"""What a GPU does otherwise than a CPU. Each test runs on both, so that it works where one is.

`pytest -m gpu` takes a minute at most.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from PIL import Image

from tests.composing import composed
from tests.same_run import assert_equal, state
from tests.tiny import TARGETS, TINY, Tiny
from triptych.build import device_name
from triptych.callbacks.checkpoint import CheckpointCallback
from triptych.data.augment import standard
from triptych.data.datamodule import Batch
from triptych.data.mixing import make_mix
from triptych.data.transforms import DeviceTransforms
from triptych.losses import FocalLoss
from triptych.metrics import build_metrics, compute_scores
from triptych.models.backbone import Backbone, Preprocessing
from triptych.module import ImageClassifier
from triptych.optim import Optim
from triptych.runs.record import Record
from triptych.tools.evaluate.command import evaluate
from triptych.tools.export.command import export
from triptych.tools.predict.command import predict_images
from triptych.training import train

has_gpu = torch.cuda.is_available()
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not has_gpu, reason="no GPU that torch can use")]
EXACT = "++trainer.deterministic=true"
ROOT = Path(__file__).parents[1]

Run = Callable[..., Record]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=on_gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _as_before(no_figures: None) -> Iterator[None]:
    """What a run sets for its process."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def run(device: str, tmp_path: Path) -> Run:
    """Trains a tiny network for three batches on the device."""

    def start(*overrides: str) -> Record:
        settings = ("++trainer.limit_train_batches=3", "++trainer.max_epochs=1", *overrides)
        place = (f"++trainer.accelerator={device}", f"log_dir={tmp_path}")
        return train(composed("train", *TINY, *place, *settings), [*overrides])

    return start


def test_with_deterministic_algorithms_a_stopped_run_goes_on_to_the_last_bit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(EXACT)

    def stop(self: CheckpointCallback, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            self.save(trainer)
            raise SystemExit(143)

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointCallback, "on_train_batch_end", stop)
        with pytest.raises(SystemExit):
            run(EXACT)
    [folder] = {p.parent for p in whole.folder.parent.glob("*/run.json")} - {whole.folder}
    resumed = run(EXACT, f"resume={folder}", f"trusted_targets=[{','.join(TARGETS)}]")
    assert resumed.folder == folder
    assert resumed.metadata["metrics"] == whole.metadata["metrics"]
    for name in ("best", "last"):
        assert_equal(state(folder, name), state(whole.folder, name), name)


def test_a_run_is_used_where_there_is_no_gpu(run: Run, device: str, tmp_path: Path) -> None:
    record = run()
    assert record.metadata["device"] == device_name(torch.device(device))
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        assert record.metadata["precision"] == "bf16-mixed"
    best = torch.load(record.checkpoint_path("best"), weights_only=True)["state_dict"]
    assert {tensor.device.type for tensor in best.values()} == {"cpu"}

    run_setting: dict[str, Any] = {"run": str(record.folder), "trusted_targets": [*TARGETS]}
    evaluate(composed("evaluate", "run=none", "device=cpu", "cost=false", **run_setting), [])
    evaluation = json.loads((record.folder / "evaluation.json").read_text())
    assert evaluation["device"] == "cpu"
    assert evaluation["largest_difference"] < 0.2, "of roundings"

    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    out = tmp_path / "predictions.csv"
    places = {"images": str(tmp_path / "photo.png"), "out": str(out)} | run_setting
    predict_images(composed("predict", "run=none", "images=none", "device=cpu", **places))
    assert len(out.read_text().splitlines()) == 2
    if device == "cuda":  # as of a CPU elsewhere, in seconds
        export(composed("export", "run=none", "format=torch", **run_setting), [])


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_a_step_mixes_no_tensors_of_the_host_with_those_of_the_device(mix: str) -> None:
    """On a device without storage, which as a GPU does refuses tensors of another one."""
    data = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4).long(), torch.arange(4)
    stored = move_data_to_device(Batch(*data), torch.device("meta"))
    expected = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    transforms = DeviceTransforms(expected, standard, make_mix(mix, 10))
    inputs = transforms.training(*stored[:2], (0, 1, stored.index), batch=2)
    optim, loss = Optim(optimizer=torch.optim.Adam, lr=0.1), FocalLoss(weight=torch.ones(10))
    module = ImageClassifier(Backbone(Tiny(10), 10, expected), optim, 10, loss).to("meta")
    module.training_step(Batch(*inputs, stored.index), 0).backward()
    module.validation_step(Batch(inputs[0], *stored[1:]), 0)
    values = (module.epoch_loss.take_unread(), *module.split_predictions.gather())
    assert {value.device.type for value in values} == {"meta"}


def test_scores_are_those_of_a_cpu_in_no_more_memory_where_algorithms_are_deterministic(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(100, 1000, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(100) % 7
    expected = compute_scores(build_metrics(1000), logits, labels)
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(torch, "eq", None)  # which would need 100 x 1000 x 1000 numbers
    scores = compute_scores(build_metrics(1000).to(device), logits.to(device), labels.to(device))
    assert torch.are_deterministic_algorithms_enabled()
    assert scores.values == pytest.approx(expected.values, rel=1e-6)
    assert torch.equal(scores.confusion, expected.confusion)


def test_features_of_a_frozen_network_are_computed_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    torch.save(Tiny(10).state_dict(), tmp_path / "tiny.pth")
    probe = ("++model.freeze=backbone", f"++model.weights={tmp_path / 'tiny.pth'}")
    probe += ("data.augment=none", EXACT)
    computed, read = run(*probe), run(*probe)
    assert computed.metadata["feature_seconds"] > 0 == read.metadata["feature_seconds"]
    assert computed.metadata["metrics"] == read.metadata["metrics"]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)], indirect=True)
def test_two_jobs_of_a_sweep_share_a_gpu(device: str, tmp_path: Path) -> None:
    options = ("-m", "hydra.launcher.jobs_per_gpu=2", f"log_dir={tmp_path}", "seed=0,1")
    settings = (*TINY, f"++trainer.accelerator={device}")
    command = [sys.executable, "train.py", *options, *settings]
    subprocess.run(command, cwd=ROOT, check=True)
    jobs = [json.loads(path.read_text()) for path in tmp_path.rglob("run.json")]
    assert [job["status"] for job in jobs] == ["finished"] * 2
    assert max(job["started_at"] for job in jobs) < min(job["finished_at"] for job in jobs)
