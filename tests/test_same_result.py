"""The fast path learns what the plain one does, and waits for no device on the way.

The plain path is written here as a textbook would: images made ready one by one by torchvision,
an unfused Adam, a bare loop.
"""

import csv
import json
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import transforms

from tests import tiny
from tests.composing import composed
from tests.tiny import choose
from triptych.build import instantiate
from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.data.rng import permutation
from triptych.errors import UserError
from triptych.models import compilation
from triptych.runs.record import Record
from triptych.training import fit, make_trainer, prepare, train

pytestmark = pytest.mark.usefixtures("no_figures")
NUM_STEPS, BATCH_SIZE = 10, 8
SETTINGS = (
    *("data=shapes", f"data.batch_size={BATCH_SIZE}"),
    *("data.source.num_train=100", "data.source.num_test=10", "data.num_train=80"),
    *("data.num_val=10", "data.num_test=10", "++trainer.max_epochs=1"),
    *("++trainer.log_every_n_steps=1", "++trainer.accelerator=cpu", "++trainer.precision=32-true"),
    *("optim.weight_decay=0", "optim.schedule=constant"),
)
# BatchNorm makes much of little: with it, an Adam that rounds otherwise (a fused one does) leads
# elsewhere within a few steps, for the first are of one size whatever the gradient.
TORCHVISION = ("model=torchvision", "model.weights=null")
NETWORKS = [
    ("model.name=mobilenet_v3_small", "model.input_size=40", "optim=sgd", "optim.lr=0.001"),
    ("model.name=squeezenet1_1", "model.input_size=33"),
]
TINY = (*choose("Tiny"), "optim=sgd", "optim.lr=0.001")
# Operators that make the host wait until a GPU has caught up, as their results go to the host or
# give shapes to others.
WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "bincount", "masked_select", "equal"}


class FirstGradients(Callback):
    """The gradients of the first step, by the parameters' names."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if trainer.global_step == 0:
            self.of = {name: p.grad.clone() for name, p in module.backbone.named_parameters()}


def fast(config: Config, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and first gradients of a run."""
    silence_lightning()
    pl.seed_everything(0, verbose=False)
    data, task = made(config)
    record = Record.create(config | {"log_dir": str(folder)}, [])
    trainer = make_trainer(config, record, task)
    first = FirstGradients()
    trainer.callbacks.insert(0, first)  # type: ignore[attr-defined]
    torch.manual_seed(1)
    fit(config, record, trainer, task, data)
    with (record.folder / "metrics.csv").open() as file:
        means = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    sums = [0.0, *(mean * number for number, mean in enumerate(means, start=1))]
    return [after - before for before, after in pairwise(sums)], first.of


def made(config: Config) -> Any:
    source = instantiate("data.source", config["data"]["source"])
    return prepare(config, source, instantiate("model", config["model"]))


def plain(config: Config) -> tuple[list[float], dict[str, Tensor]]:
    """The same of a bare loop."""
    pl.seed_everything(0, verbose=False)
    data, task = made(config)
    network, preprocessing = task.backbone.train(), task.backbone.preprocessing
    network.to(memory_format=torch.channels_last)  # another layout's kernels round otherwise
    size = (preprocessing.input_size, preprocessing.input_size)
    steps = (
        transforms.ToTensor(),
        transforms.Resize(size),
        transforms.Normalize(*preprocessing[1:3]),
    )
    transform = transforms.Compose(steps)
    kinds: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    name = config["optim"]["name"]
    more = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0} if name == "sgd" else {}
    optimizer = kinds[name](network.parameters(), lr=config["optim"]["lr"], foreach=False, **more)
    order = permutation(len(data.train), 0, 0)
    torch.manual_seed(1)
    losses, first = [], {}
    for number in range(NUM_STEPS):
        places = data.train.index[order[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]]
        arrays = data.train.data.images[places].permute(0, 2, 3, 1).numpy()
        images = torch.stack([transform(array) for array in arrays])
        loss = F.cross_entropy(network(images), data.train.data.labels[places])
        optimizer.zero_grad()
        loss.backward()
        first = first or {n: p.grad.clone() for n, p in network.named_parameters()}
        optimizer.step()
        losses.append(loss.item())
    return losses, first


@pytest.mark.parametrize("overrides", NETWORKS)
def test_ten_losses_and_the_first_gradients_are_those_of_a_plain_loop(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    config = composed("train", *SETTINGS, *TORCHVISION, *overrides)
    losses, gradients = fast(config, tmp_path)
    plain_losses, plain_gradients = plain(config)
    assert len(losses) == len(plain_losses) == NUM_STEPS
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    assert gradients.keys() == plain_gradients.keys()
    for name, expected in plain_gradients.items():
        difference = (gradients[name] - expected).norm() / expected.norm().clamp(min=1e-3)
        assert difference < 1e-5, name


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that wait, from the end of the first step to the end of the last but one."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []
        self.num_steps = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS and 0 < self.num_steps < NUM_STEPS - 1:
            self.called.append(name)
        return func(*args, **(kwargs or {}))


class Counting(Callback):
    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def on_train_batch_end(self, *_: Any) -> None:
        self.waits.num_steps += 1


def test_a_compiled_network_learns_the_same_and_its_weights_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_module = nn.Module.compile
    # The compiler's front end alone: what it would then generate and build takes half a minute.
    monkeypatch.setattr(
        nn.Module, "compile", lambda module, mode: compile_module(module, backend="aot_eager")
    )
    config = composed("train", *SETTINGS, *TINY, "speed.compile=default")
    losses, _ = fast(config, tmp_path)
    plain_losses, _ = plain(config)
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    [folder] = (path.parent for path in tmp_path.rglob("run.json"))
    assert json.loads((folder / "run.json").read_text())["compile_seconds"] > 0
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert "0.weight" in best
    assert not [name for name in best if "_orig_mod" in name]


def test_without_a_compiler_a_compiled_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("train", *SETTINGS, *TINY, "speed.compile=max-autotune")
    _, task = made(config)
    monkeypatch.setattr(compilation, "COMPILERS", ("nowhere++",))
    with pytest.raises(UserError, match=r"speed.compile=max-autotune: needs a C\+\+ compiler"):
        compilation.compile_network(task.backbone, config["speed"]["compile"])


LEARNING = (
    *tiny.TINY,
    "++model.network._target_=tests.tiny.Learner",
    *("data.source.num_train=2000", "data.source.num_test=500", "data.num_train=1024"),
    *("data.num_val=100", "data.num_test=500", "data.batch_size=64"),
    *("optim.schedule=onecycle", "optim.lr=0.005"),
)


def test_bf16_learns_what_fp32_does_within_the_scatter_of_three_seeds(tmp_path: Path) -> None:
    accuracies = {
        precision: [
            train(
                composed(
                    "train",
                    *(*LEARNING, f"seed={seed}", f"++trainer.precision={precision}"),
                    log_dir=str(tmp_path),
                ),
            ).metadata["metrics"]["test/accuracy"]
            for seed in range(3)
        ]
        for precision in ("32-true", "bf16-mixed")
    }
    fp32, bf16 = accuracies.values()
    assert min(fp32) > 0.6  # measured: 0.73 to 0.81
    assert fp32 != bf16
    assert abs(mean(bf16) - mean(fp32)) < stdev(fp32)


RECIPE = (
    *("data.augment=standard", "optim=adamw", "optim.schedule=onecycle"),
    *("optim.label_smoothing=0.1", "optim.class_weights=balanced"),
    *("++trainer.gradient_clip_val=1.0", "++trainer.accumulate_grad_batches=2"),
)


def test_no_step_waits_for_the_device(tmp_path: Path) -> None:
    silence_lightning()
    config = composed("train", *SETTINGS, *TINY, *RECIPE)
    config["trainer"]["log_every_n_steps"] = 100
    data, task = made(config)
    record = Record.create(config | {"log_dir": str(tmp_path)}, [])
    trainer = make_trainer(config, record, task)
    with Waits() as waits:
        trainer.callbacks.append(Counting(waits))  # type: ignore[attr-defined]
        trainer.fit(task, datamodule=data)
    assert waits.num_steps == NUM_STEPS
    assert waits.called == []


def test_an_operator_that_waits_would_be_seen() -> None:
    with Waits() as waits:
        waits.num_steps = 1
        float(torch.ones(()))
        torch.ones(3).nonzero()
    assert waits.called == ["_local_scalar_dense", "nonzero"]
