"""What a callback unfreezes learns, at the recipe's rates, and goes on where a run is resumed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning, Callback

from tests.composing import composed
from tests.same_run import assert_same_run, run_folder, state, survive, table
from tests.tiny import TINY, StartRun
from triptych.training import train

pytestmark = [
    pytest.mark.usefixtures("no_figures"),
    pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist"),
]
HERE = "tests.callbacks.test_unfreezing"
LIGHTNING = "lightning.pytorch.callbacks.BackboneFinetuning"
CALLBACKS = {
    "Lightning's": f"{{_target_: {LIGHTNING}, unfreeze_backbone_at_epoch: 1}}",
    "a subclass": f"{{_target_: {HERE}.LayerByLayer}}",
    "an own": f"{{_target_: {HERE}.Unfreeze}}",
    "within an epoch": f"{{_target_: {HERE}.UnfreezeAtStep, step: 7}}",
    "gradual": "{_target_: triptych.callbacks.unfreezing.GradualUnfreezing}",
}
PARTS = (("weight", 0.05), ("bias", 0.0))  # and their weight decay
FROZEN = [
    *("++model.network._target_=tests.tiny.Learner", "++model.freeze=backbone"),
    "++data.augment=none",
]


class Unfreeze(Callback):
    """Lets parameters learn that begin with one of `names` from the second epoch on."""

    def __init__(self, names: Iterable[str] = ("",)) -> None:
        self.names = tuple(names)

    def unfreeze(self, pl_module: Any) -> None:
        for name, parameter in pl_module.backbone.network.named_parameters():
            if name.startswith(self.names):
                parameter.requires_grad_(True)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.unfreeze(pl_module)


class UnfreezeAtStep(Unfreeze):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None: ...

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.unfreeze(pl_module)


class LayerByLayer(BaseFinetuning):
    """As Lightning's documentation has one write it."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        layer = {1: 6, 2: 3}.get(epoch)
        if layer is not None:
            part = [pl_module.backbone.network[layer], pl_module.backbone.network[layer + 1]]
            self.unfreeze_and_add_param_group(part, optimizer, lr=0.003)


def run(log_dir: Path, callback: str, *overrides: str) -> dict[str, Any]:
    """The checkpoint that a run of three epochs, five steps each, ends with."""
    added = [f"++trainer.callbacks=[{callback}]"] if callback else []
    config = composed("train", *TINY, *FROZEN, *added, *overrides, log_dir=str(log_dir))
    return state(train(config, []).folder, "last")


def groups(last: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of every parameter in the optimizer, each in one group."""
    [optimizer] = last["optimizer_states"]
    found: dict[str, tuple[float, float]] = {}
    for names, group in zip(last["optimizer_groups"], optimizer["param_groups"], strict=True):
        assert not found.keys() & set(names)
        values = (group["lr"], group["weight_decay"])
        found |= {name.removeprefix("backbone.network."): values for name in names}
    return found


def weights(last: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("backbone.network."): value
        for name, value in last["state_dict"].items()
        if name.startswith("backbone.network.")
    }


def test_what_an_own_callback_unfreezes_learns_by_the_recipe(tmp_path: Path) -> None:
    rates = ["optim.lr=0.01", "optim.backbone_lr=0.002", "optim.weight_decay=0.05"]
    last = run(tmp_path / "a", CALLBACKS["an own"], *rates)
    frozen = weights(run(tmp_path / "b", "", *rates))
    chosen, after = groups(last), weights(last)
    assert len(chosen) == 14
    for name, (lr, decay) in chosen.items():
        assert lr == pytest.approx(0.01 if name.startswith("10.") else 0.002)
        assert decay == (0.05 if after[name].ndim > 1 else 0)
        assert not torch.equal(after[name], frozen[name])
    assert after["1.num_batches_tracked"] == 10, "statistics move from then on"
    assert frozen["1.num_batches_tracked"] == 0


def test_a_layer_that_is_unfrozen_alone_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    last = run(tmp_path, f"{{_target_: {HERE}.Unfreeze, names: ['6.', '7.']}}")
    assert {name.split(".")[0] for name in groups(last)} == {"6", "7", "10"}
    tracked = [int(weights(last)[f"{n}.num_batches_tracked"]) for n in (1, 4, 7)]
    assert tracked == [0, 0, 10]


@pytest.mark.parametrize("frozen", ["none", "backbone"])
def test_lightnings_own_callback_lets_the_head_learn_first_and_then_all(
    tmp_path: Path, frozen: str
) -> None:
    callback = CALLBACKS["Lightning's"][:-1] + ", train_bn: false}"
    settings = [f"++model.freeze={frozen}", "optim.weight_decay=0.05", "optim.lr=0.01"]
    head = run(tmp_path / "a", callback, *settings, "++trainer.max_epochs=1")
    learning = {name.split(".")[0] for name in groups(head)}
    assert learning == {"1", "4", "7", "10"}, "the head, and as documented BatchNorm"
    last = run(tmp_path / "b", callback, *settings)
    assert groups(last).keys() == weights(last).keys() - {
        f"{n}.{name}"
        for n in (1, 4, 7)
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    # A tenth of the head's rate, doubled in the next epoch; norm layers by the recipe.
    assert groups(last)["0.weight"] == pytest.approx((0.002, 0.05))
    assert groups(last)["0.bias"] == pytest.approx((0.002, 0.0))
    assert groups(last)["10.weight"] == pytest.approx((0.01, 0.05))


def test_a_group_of_a_callback_follows_the_schedule(tmp_path: Path) -> None:
    last = run(tmp_path, CALLBACKS["a subclass"], "optim.schedule=cosine", "optim.lr=0.01")
    expected = {"6": 0.003, "3": 0.003}  # at steps 5 and 10 of 15
    factor = {n: 0.5 * (1 + np.cos(np.pi * n / 15)) for n in (5, 10, 15)}
    base = last["lr_schedulers"][0]["base_lrs"]
    assert base[1:] == pytest.approx([expected["6"] / factor[5], expected["3"] / factor[10]])


@pytest.mark.parametrize("frozen", ["none", "backbone"])
def test_a_block_more_learns_in_every_epoch_at_its_own_rate(tmp_path: Path, frozen: str) -> None:
    settings = [f"++model.freeze={frozen}", "optim.weight_decay=0.05", "optim.lr=0.01"]
    last = run(tmp_path, CALLBACKS["gradual"], *settings, "optim.layer_decay=0.5")
    assert groups(last) == {
        **{f"10.{name}": pytest.approx((0.01, decay)) for name, decay in PARTS},
        **{f"6.{name}": pytest.approx((0.005, decay)) for name, decay in PARTS},
        **{f"7.{name}": pytest.approx((0.005, 0.0)) for name, _ in PARTS},
        **{f"3.{name}": pytest.approx((0.0025, decay)) for name, decay in PARTS},
        **{f"4.{name}": pytest.approx((0.0025, 0.0)) for name, _ in PARTS},
    }
    tracked = [int(weights(last)[f"{n}.num_batches_tracked"]) for n in (1, 4, 7)]
    assert tracked == [0, 5, 10], "frozen layers run as in evaluation"
    rates = [float(row["lr"]) for row in table(run_folder(tmp_path)) if row["lr"]]
    assert rates == [0.01] * len(rates), "the head's"


STEP, VALIDATION = {"at": "step", "nth": 10}, {"at": "validation", "nth": 2}


@pytest.mark.parametrize(
    ("callback", "schedule", "faults"),
    [
        ("Lightning's", "onecycle", [STEP]),
        ("a subclass", "cosine", [STEP, VALIDATION]),
        ("an own", "constant", [VALIDATION]),
        ("within an epoch", "onecycle", [STEP, VALIDATION]),
        ("gradual", "cosine", [STEP]),
    ],
)
def test_a_run_with_unfrozen_layers_goes_on_as_if_it_had_not_been_killed(
    start_run: StartRun, tmp_path: Path, callback: str, schedule: str, faults: list[dict[str, Any]]
) -> None:
    overrides = [*FROZEN, f"++trainer.callbacks=[{CALLBACKS[callback]}]"]
    overrides += [f"optim.schedule={schedule}", "checkpoint.every_n_steps=2", "optim=adamw"]
    trusted = [LIGHTNING, *(f"{HERE}.{name}" for name in ("LayerByLayer", "Unfreeze"))]
    trusted += [f"{HERE}.UnfreezeAtStep", "tests.tiny.Learner"]
    killed = survive(start_run, tmp_path / "killed", overrides, *faults, trusted=trusted)
    assert_same_run(killed, survive(start_run, tmp_path / "whole", overrides))
