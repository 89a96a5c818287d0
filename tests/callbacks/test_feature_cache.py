"""A frozen backbone runs once over every image, and nothing else of the training changes."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from tests.same_run import assert_same_run
from tests.tiny import StartRun, Tiny
from triptych.callbacks import feature_cache, time_left
from triptych.callbacks.feature_cache import FrozenBackbone, check_features_stay
from triptych.callbacks.time_left import RunClock
from triptych.data.datamodule import ImageSubset
from triptych.data.source import LabelledImages
from triptych.data.transforms import DeviceTransforms
from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing
from triptych.models.custom import CustomModel
from triptych.models.torchvision_models import TorchvisionModel
from triptych.runs.record import Record
from triptych.runs.stopping import OutOfTime


class Probe:
    """Runs of one probe, of a network with BatchNorm and dropout below its head."""

    def __init__(self, start_run: StartRun, folder: Path) -> None:
        self.start_run, self.folder = start_run, folder
        torch.manual_seed(0)
        torch.save(Tiny(10).state_dict(), folder / "tiny.pth")
        self.env = {"DATA_DIR": str(folder / "data")}

    def start(self, name: str, *overrides: str, **fault: Any) -> dict[str, Any]:
        frozen = ("++model.freeze=backbone", f"++model.weights={self.folder / 'tiny.pth'}")
        place = ("data.augment=none", f"log_dir={self.folder / name}")
        return self.start_run(*frozen, *place, *overrides, **{"env": self.env} | fault)

    def run(self, name: str, *overrides: str, **fault: Any) -> Path:
        """The folder of a finished run."""
        answer = self.start(name, *overrides, **fault)
        assert answer["code"] == 0, answer["output"]
        return self.run_folder(name)

    def run_folder(self, name: str) -> Path:
        [path] = (self.folder / name).rglob("run.json")
        return path.parent

    def feature_files(self) -> list[Path]:
        return sorted((self.folder / "data" / ".features").glob("*.features"))


@pytest.fixture(scope="module")
def probe(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    return Probe(start_run, tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def without_cache(probe: Probe) -> Path:
    return probe.run("without", "speed.cache_features=false")


def feature_seconds(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())["feature_seconds"]


def logged(folder: Path) -> str:
    return (folder / "train.log").read_text()


def test_features_change_no_bit_of_a_run_whether_computed_or_read(
    probe: Probe, without_cache: Path
) -> None:
    assert probe.feature_files() == []
    assert feature_seconds(without_cache) is None
    computed, read = probe.run("computed"), probe.run("read")
    assert_same_run(computed, without_cache)
    assert_same_run(read, without_cache)
    assert feature_seconds(computed) > 0 == feature_seconds(read)
    assert "features computed in" in logged(computed)
    assert "features read from" in logged(read)
    [path] = probe.feature_files()
    assert path.stat().st_size == (40 + 20 + 25) * 8 * 7 * 7 * 4


def test_a_killed_run_resumes_where_its_features_and_the_file_of_its_weights_are_gone(
    probe: Probe, without_cache: Path
) -> None:
    assert probe.start("killed", at="step", nth=8)["code"] == -signal.SIGKILL
    weights = probe.folder / "tiny.pth"
    for path in (*probe.feature_files(), weights):
        path.rename(path.with_suffix(".away"))
    folder = probe.run_folder("killed")
    assert probe.start_run(f"resume={folder}", env=probe.env)["code"] == 0
    assert_same_run(folder, without_cache)
    assert "features computed in" in logged(folder).rpartition("resumed")[2]
    weights.with_suffix(".away").rename(weights)


def test_two_devices_share_one_pass_and_learn_what_one_does(
    probe: Probe, without_cache: Path, tmp_path: Path
) -> None:
    devices = ("trainer=ddp", "trainer.devices=2", "++trainer.accelerator=cpu")
    both = probe.run("both", *devices, env={"DATA_DIR": str(tmp_path)})
    assert len([*(tmp_path / ".features").glob("*.features")]) == 1
    assert feature_seconds(both) > 0
    weights = [
        torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for folder in (both, without_cache)
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)


def test_a_disk_that_takes_no_features_costs_time_but_not_the_run(
    probe: Probe, without_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = probe.run("full", env={"DATA_DIR": str(tmp_path / "file")})
    assert_same_run(folder, without_cache)
    assert logged(folder).count("the backbone runs in every epoch:") == 1
    assert feature_seconds(folder) is None


# One backbone under a trainer of which only what counts is real.


class Task(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.backbone(images.to(self.dtype))
        return logits


class Unfreeze(Callback):
    """Might do anything."""


def trainer_of(backbone: Backbone, precision: Precision | None = None, **settings: Any) -> Any:
    precision = precision or Precision()
    data = SimpleNamespace(
        transforms=DeviceTransforms(backbone.preprocessing, augment=None, mix=None),
        **{"batch_size": 8, "augment": "none", "mix": "none"} | settings.pop("data", {}),
    )
    return SimpleNamespace(
        **{"strategy": SingleDeviceStrategy("cpu"), "callbacks": [], "fast_dev_run": 0} | settings,
        precision_plugin=precision,
        precision=precision.precision,
        world_size=1,
        datamodule=data,
        lightning_module=precision.convert_module(Task(backbone)),
    )


def images(size: int = 8, n: int = 12) -> ImageSubset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(n, dtype=torch.int64)
    return ImageSubset(LabelledImages(pixels, labels), torch.arange(n).flip(0))


def small(num_classes: int) -> nn.Module:
    layers = nn.Conv2d(3, 16, 4), nn.ReLU(), nn.Flatten(), nn.Linear(400, num_classes)
    return nn.Sequential(*layers)


def scaled(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes), nn.Softmax(1))


def custom(network: Any = small) -> Backbone:
    torch.manual_seed(0)
    return CustomModel(name="mine", network=network, input_size=8, freeze="backbone").build(5)


@pytest.fixture(autouse=True)
def _data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))


def cache(name: str = "mine", precision: Precision | None = None) -> FrozenBackbone:
    return FrozenBackbone(trainer_of(custom(), precision), (images(n=5), images(n=7)), name)


def test_a_network_whose_head_is_not_all_that_follows_is_refused() -> None:
    squeezenet = TorchvisionModel("squeezenet1_1", None, 32, "backbone").build(num_classes=5)
    for backbone, size in ((squeezenet, 32), (custom(scaled), 8)):
        runner = FrozenBackbone(trainer_of(backbone), (images(size),), "mine")
        with pytest.raises(UserError, match=r"its head [\w.]+ is not its last layer"):
            runner.load_or_compute()


@pytest.mark.parametrize(
    "precision", [Precision(), MixedPrecision("bf16-mixed", "cpu"), HalfPrecision()]
)
def test_features_keep_every_bit_that_the_head_takes(precision: Any) -> None:
    runner = cache(precision=precision)
    features, _ = runner.load_or_compute()
    assert features.dtype is torch.float32
    pixels = runner.trainer.datamodule.transforms.evaluation(images(n=5).data.images.flip(0))
    with torch.no_grad(), precision.forward_context():
        logits = runner.module(pixels)
        assert runner.head(features[:5].to(runner.module.dtype)).equal(logits)
    assert logits.dtype.itemsize == (4 if precision.precision == "32-true" else 2)


def test_each_change_of_what_makes_features_changes_the_name_of_their_file() -> None:
    def name(
        model: str = "mine",
        precision: Precision | None = None,
        preprocessing: Preprocessing | None = None,
        n: int = 12,
        **changes: float,
    ) -> str:
        backbone = custom()
        backbone.preprocessing = preprocessing or backbone.preprocessing
        for parameter, value in changes.items():
            backbone.network.get_parameter(parameter.replace("_", ".")).data[0] += value
        return FrozenBackbone(trainer_of(backbone, precision), (images(n=n),), model).path.name

    half = (0.5, 0.5, 0.5)
    assert name() == name(**{"3_weight": 0.1}), "another head"
    names = {
        name(),
        name("other"),
        name(precision=MixedPrecision("bf16-mixed", "cpu")),
        name(preprocessing=Preprocessing(9, half, half)),
        name(preprocessing=Preprocessing(8, (0.4, 0.5, 0.5), half)),
        name(preprocessing=Preprocessing(8, half, half, "bicubic")),
        name(n=11),
        name(**{"0_weight": 1e-6}),
        name(**{"0_bias": 1e-6}),
    }
    assert len(names) == 9


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"data": {"augment": "standard"}}, "data.augment=standard, so images differ"),
        ({"data": {"mix": "mixup"}}, "data.mix=mixup, so images differ"),
        ({"callbacks": [BackboneFinetuning()]}, "a callback may train it"),
        ({"callbacks": [Unfreeze()]}, "a callback may train it, too: Unfreeze"),
        ({"strategy": FSDPStrategy()}, "FSDPStrategy spreads it over devices"),
        ({"fast_dev_run": 1}, "trainer.fast_dev_run takes but a few images"),
    ],
)
def test_the_reason_for_running_the_backbone_in_every_epoch_is_named(
    settings: dict[str, Any], reason: str
) -> None:
    check_features_stay(trainer_of(custom()))
    with pytest.raises(UserError, match=reason):
        check_features_stay(trainer_of(custom(), **settings))


@pytest.mark.parametrize("harm", ["short", "empty", "other", "not a number"])
def test_a_file_that_does_not_fit_is_computed_again(harm: str) -> None:
    runner = cache()
    features, _ = runner.load_or_compute()
    content, other = runner.path.read_bytes(), features.flip(0).numpy().tobytes()
    nan = np.full(features.shape, np.nan, np.float32).tobytes()
    harmed = {"short": content[:-1], "empty": b"", "other": other, "not a number": nan}
    runner.path.write_bytes(harmed[harm])
    again, seconds = runner.load_or_compute()
    assert seconds > 0
    assert again.numpy().tobytes() == content == runner.path.read_bytes()


@pytest.mark.parametrize("torn", [0, 100])
def test_features_that_were_cut_off_go_on_where_they_were(
    monkeypatch: pytest.MonkeyPatch, torn: int
) -> None:
    whole, _ = cache("other").load_or_compute()
    run, starts = FrozenBackbone._run, []

    def run_until_stopped(*args: Any) -> Any:
        starts.append(args[2:])
        if len(starts) == 6:
            raise SystemExit(143)
        return run(*args)

    monkeypatch.setattr(FrozenBackbone, "_run", run_until_stopped)
    runner = cache()
    runner.batch_size = 2
    with pytest.raises(SystemExit):
        runner.load_or_compute()
    part = runner.path.with_suffix(".part")
    os.truncate(part, part.stat().st_size - torn)
    features, _ = runner.load_or_compute()
    assert starts[1:6] == [(0, 2), (2, 4), (4, 6), (0, 2), (2, 4)]
    again = [(4, 6), (0, 2), (2, 4)] if torn else [(0, 2), (2, 4)]
    assert starts[7:] == [*again, (4, 6), (6, 8)], "the last, which was not synced, once more"
    assert features.equal(whole)
    assert not part.exists()


def test_features_come_further_with_every_command_however_little_time_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _ = cache("other").load_or_compute()
    monkeypatch.setattr(time_left, "read_deadline", lambda: 0.0)
    runner, num_stops = cache(), 0
    runner.batch_size, runner.trainer.datamodule.train = 2, ()
    vars(runner.trainer).update(max_epochs=0, max_steps=-1, limit_train_batches=0)
    while num_stops < 9:
        runner.trainer.callbacks = [RunClock(Record(None, {}))]  # type: ignore[arg-type]
        try:
            features, _ = runner.load_or_compute()
            break
        except OutOfTime:
            num_stops += 1
    assert features.equal(whole)
    assert 3 < num_stops < 9, "of seven batches one more each time"


def test_what_was_used_least_recently_is_removed_and_stays_valid_for_who_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = {name: cache(name).path for name in "abcd"}
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 3 * 12 * 400 * 4)
    in_use = [cache(name).load_or_compute()[0] for name in "abc"]
    for seconds, name in enumerate("bac"):
        os.utime(paths[name], (seconds, seconds))
    cache("b").load_or_compute()
    cache("d").load_or_compute()
    assert [name for name in "abcd" if paths[name].exists()] == ["b", "c", "d"]
    assert in_use[0].equal(in_use[2])
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"features take 19\.2 kB, more than 1\.0 kB"):
        cache("a").load_or_compute()
