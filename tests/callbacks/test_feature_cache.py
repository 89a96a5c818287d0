"""A frozen backbone that runs once: which networks, when not, and that nothing else changes."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from tests.runs.test_survival import assert_same_run
from tests.trials.mortal import Tiny
from triptych.callbacks.feature_cache import Frozen, check_same_in_every_epoch, is_close
from triptych.data.datamodule import ImageSubset
from triptych.data.source import LabelledImages
from triptych.data.transforms import DeviceTransforms
from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing
from triptych.models.custom import CustomModel
from triptych.models.torchvision_models import TorchvisionModel

Ask = Callable[..., dict[str, Any]]

# Whole runs, of a network with BatchNorm and dropout below its head.


class World:
    """Runs of a probe on the same weights, which share what is kept of their images."""

    def __init__(self, ask: Ask, folder: Path) -> None:
        self.ask, self.folder = ask, folder
        torch.manual_seed(0)
        torch.save(Tiny(10).state_dict(), folder / "tiny.pth")
        self.env = {"DATA_DIR": str(folder / "data")}

    def answer(self, name: str, *typed: str, **fault: Any) -> dict[str, Any]:
        probe = ("++model.freeze=backbone", f"++model.weights={self.folder / 'tiny.pth'}")
        asked = (*probe, "data.augment=none", f"log_dir={self.folder / name}")
        return self.ask(*asked, *typed, **{"env": self.env} | fault)

    def run(self, name: str, *typed: str, **fault: Any) -> Path:
        """The folder of a finished run."""
        answer = self.answer(name, *typed, **fault)
        assert answer["code"] == 0, answer["output"]
        return self.of(name)

    def of(self, name: str) -> Path:
        [path] = (self.folder / name).rglob("run.json")
        return path.parent

    def kept(self) -> list[Path]:
        return sorted((self.folder / "data" / ".features").glob("*.features"))


@pytest.fixture
def world(ask: Ask, tmp_path: Path) -> World:
    return World(ask, tmp_path)


def metadata(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return read


def logged(folder: Path) -> str:
    return (folder / "train.log").read_text()


def weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "checkpoints" / "best.ckpt"
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_features_change_no_bit_of_a_run_whether_computed_or_read(world: World) -> None:
    plain = world.run("plain", "speed.cache_features=false")
    assert world.kept() == []
    assert metadata(plain)["feature_seconds"] is None
    computed, read = world.run("computed"), world.run("read")
    assert_same_run(computed, plain)
    assert_same_run(read, plain)
    assert metadata(computed)["feature_seconds"] > 0 == metadata(read)["feature_seconds"]
    assert "features of 40 training images computed in" in logged(computed)
    assert "features of 25 test images read from" in logged(read)
    sizes = sorted(path.stat().st_size for path in world.kept())
    assert sizes == [num_images * 8 * 7 * 7 * 4 for num_images in (20, 25, 40)]
    assert weights(computed).keys() == Tiny(10).state_dict().keys()


def test_a_smaller_last_batch_changes_weights_by_rounding_alone(world: World) -> None:
    odd = ("data.num_train=39", "data.batch_size=9")
    plain, probe = world.run("plain", *odd, "speed.cache_features=false"), world.run("probe", *odd)
    assert "computed in" in logged(probe)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(probe)[name], value, rtol=0, atol=1e-6)
    assert metadata(probe)["best_epoch"] == metadata(plain)["best_epoch"]
    assert (
        metadata(probe)["metrics"]["test/accuracy"] == metadata(plain)["metrics"]["test/accuracy"]
    )


def test_another_head_reads_what_the_first_computed_and_other_images_are_other_features(
    world: World,
) -> None:
    world.run("first")
    other = world.run("other", "seed=1", "optim.lr=0.1", "optim=sgd")
    assert metadata(other)["feature_seconds"] == 0
    assert len(world.kept()) == 3
    fewer = world.run("fewer", "data.num_train=30")
    assert "features of 30 training images computed" in logged(fewer)
    assert "features of 25 test images read" in logged(fewer)
    assert len(world.kept()) == 4
    torch.manual_seed(1)
    torch.save(Tiny(10).state_dict(), world.folder / "tiny.pth")
    assert "features of 25 test images computed" in logged(world.run("other weights"))


def test_a_killed_run_goes_on_with_the_features_it_began_with(world: World) -> None:
    whole = world.run("whole")
    assert world.answer("killed", at="step", nth=8)["code"] == -signal.SIGKILL
    folder = world.of("killed")
    assert world.ask(f"resume={folder}", env=world.env)["code"] == 0
    assert_same_run(folder, whole)
    assert logged(folder).count("features of 40 training images read") == 2


def test_a_run_goes_on_where_its_features_and_the_file_of_its_weights_are_gone(
    world: World,
) -> None:
    whole = world.run("whole")
    world.answer("killed", at="step", nth=8)
    for path in (*world.kept(), world.folder / "tiny.pth"):
        path.unlink()
    folder = world.of("killed")
    assert world.ask(f"resume={folder}", env=world.env)["code"] == 0
    assert_same_run(folder, whole)
    assert "features of 40 training images computed" in logged(folder)


def test_two_devices_share_one_pass_and_learn_what_one_does(world: World) -> None:
    alone = world.run("alone")
    for path in world.kept():
        path.unlink()
    both = world.run("both", "trainer=ddp", "trainer.devices=2", "++trainer.accelerator=cpu")
    assert len(world.kept()) == 3
    assert metadata(both)["feature_seconds"] > 0
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(both)[name], value, rtol=0, atol=1e-5)
    saved, expected = (np.load(f / "predictions" / "test.npz") for f in (both, alone))
    assert saved["index"].tolist() == expected["index"].tolist()


def test_a_disk_that_takes_no_features_costs_time_but_not_the_run(world: World) -> None:
    (world.folder / "file").touch()
    plain = world.run("plain", "speed.cache_features=false")
    full = world.run("full", env={"DATA_DIR": str(world.folder / "file")})
    assert_same_run(full, plain)
    assert "the backbone runs in every epoch:" in logged(full)
    assert "Not a directory" in logged(full)


def test_augmentation_is_the_reason_to_keep_nothing(world: World) -> None:
    folder = world.run("run", "data.augment=standard", "trainer.max_epochs=1")
    reason = "data.augment=standard, so images differ from epoch to epoch"
    assert logged(folder).count(f"the backbone runs in every epoch: {reason}") == 1
    assert metadata(folder)["feature_seconds"] is None
    assert world.kept() == []


# When not.


def asked(**trainer: Any) -> SimpleNamespace:
    alone = {"callbacks": [], "fast_dev_run": 0, "strategy": SingleDeviceStrategy("cpu")}
    return SimpleNamespace(**alone | trainer)


def test_the_same_images_in_every_epoch_are_no_hindrance() -> None:
    check_same_in_every_epoch(asked(), SimpleNamespace(augment="none", mix="none"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("augment", "mix", "trainer", "reason"),
    [
        ("standard", "none", {}, "data.augment=standard, so images differ"),
        ("none", "mixup", {}, "data.mix=mixup, so images differ"),
        ("none", "none", {"callbacks": [BackboneFinetuning()]}, "a callback may train it"),
        ("none", "none", {"strategy": FSDPStrategy()}, "FSDPStrategy spreads it over devices"),
        ("none", "none", {"fast_dev_run": 1}, "trainer.fast_dev_run takes but a few images"),
    ],
)
def test_what_is_in_the_way_is_said(
    augment: str, mix: str, trainer: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        check_same_in_every_epoch(asked(**trainer), SimpleNamespace(augment=augment, mix=mix))  # type: ignore[arg-type]


# Which networks: those whose head gives the logits by itself.


def frozen(backbone: Backbone, precision: Precision | None = None, world_size: int = 1) -> Frozen:
    """As under a trainer on a CPU."""
    precision = precision or Precision()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(
        strategy=strategy,
        precision_plugin=precision,
        precision=precision.precision,
        world_size=world_size,
    )
    data: Any = SimpleNamespace(
        transforms=DeviceTransforms(backbone.preprocessing), batch_size=8 * world_size
    )

    class Task(nn.Module):  # what of the task counts here
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = backbone(images.to(next(backbone.parameters()).dtype))
            return logits

    task: Any = precision.convert_module(Task())
    return Frozen(trainer, task, data)


def images(size: int, n: int = 12) -> ImageSubset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    return ImageSubset(
        LabelledImages(pixels, torch.zeros(n, dtype=torch.int64)), torch.arange(n).flip(0)
    )


def without_head(backbone: Backbone, pixels: Tensor) -> Tensor:
    """What the network gives with nothing in place of its head."""
    head = backbone.head
    backbone.network.set_submodule(backbone.head_name, nn.Identity())
    with torch.no_grad():
        features: Tensor = backbone.network(pixels)
    backbone.network.set_submodule(backbone.head_name, head)
    return features


@pytest.mark.parametrize(
    ("name", "num_features"), [("mobilenet_v3_small", 1024), ("shufflenet_v2_x0_5", 1024)]
)
def test_features_are_what_the_network_gives_without_its_head_by_place(
    name: str, num_features: int
) -> None:
    backbone = TorchvisionModel(name, None, 32, "backbone").build(num_classes=5)
    made, part = frozen(backbone), images(32)
    found = torch.cat(list(made.all_features(part, "")))
    pixels = made.data.transforms.evaluation(part.data.images.flip(0))
    assert found.shape == (12, num_features)
    torch.testing.assert_close(found, without_head(backbone, pixels), rtol=1e-4, atol=1e-6)
    assert is_close(made.first_features(part), found[:8])


def test_a_head_that_is_followed_by_more_is_no_reason_to_be_wrong() -> None:
    backbone = TorchvisionModel("squeezenet1_1", None, 32, "backbone").build(num_classes=5)
    with pytest.raises(UserError, match=r"its head classifier\.1 takes 512x1x1 numbers and is not"):
        frozen(backbone).first_features(images(32))


class Twice(nn.Module):
    """A network that asks its head for both halves of an image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(96, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        top, bottom = images.flatten(2).chunk(2, dim=2)
        answers: Tensor = self.head(top.flatten(1)) + self.head(bottom.flatten(1))
        return answers


class Scaled(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, num_classes), nn.Softmax(1))


@pytest.mark.parametrize(
    ("network", "reason"), [(Twice, "runs 2 times an image"), (Scaled, "is not its last layer")]
)
def test_a_network_of_ones_own_is_tried_with_images(network: Any, reason: str) -> None:
    backbone = CustomModel("mine", network, 8, freeze="backbone").build(num_classes=5)
    with pytest.raises(UserError, match=reason):
        frozen(backbone).first_features(images(8))


class Flat(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        convolution = nn.Conv2d(3, 16, 4)
        super().__init__(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(400, num_classes))


@pytest.mark.parametrize("precision", [MixedPrecision("bf16-mixed", "cpu"), HalfPrecision()])
def test_in_half_precision_features_keep_every_bit_that_the_head_sees(precision: Any) -> None:
    torch.manual_seed(0)
    backbone = CustomModel("flat", Flat, 8, freeze="backbone").build(num_classes=5)
    made, part = frozen(backbone, precision), images(8)
    kept = made.first_features(part)
    assert kept.dtype is torch.float32
    with torch.no_grad(), precision.forward_context():
        logits = made.task(made.data.transforms.evaluation(part.data.images.flip(0)[:8]))
        assert made.task(kept).equal(logits)
    assert logits.dtype.itemsize == 2
    assert kept.equal(kept.to(logits.dtype).float())


def test_each_change_of_what_makes_features_changes_their_name() -> None:
    def identity(
        model: str = "flat",
        precision: Precision | None = None,
        preprocessing: Preprocessing | None = None,
        **harm: Any,
    ) -> str:
        torch.manual_seed(0)
        backbone = CustomModel("flat", Flat, 8, freeze="backbone").build(num_classes=5)
        backbone.preprocessing = preprocessing or backbone.preprocessing
        for name, value in harm.items():
            backbone.network.get_parameter(name.replace("_", ".")).data[0] += value
        return frozen(backbone, precision).identity(model)

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    assert identity() == identity(**{"3_weight": 0.1}), "another head"
    names = {
        identity(),
        identity("other"),
        identity(precision=MixedPrecision("bf16-mixed", "cpu")),
        identity(preprocessing=Preprocessing(9, mean, std)),
        identity(preprocessing=Preprocessing(8, (0.4, 0.5, 0.5), std)),
        identity(preprocessing=Preprocessing(8, mean, std, "bicubic")),
        identity(**{"0_weight": 1e-6}),
        identity(**{"0_bias": 1e-6}),
    }
    assert len(names) == 8
