import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
)

from tests.composing import composed
from tests.same_run import table
from tests.tiny import TINY
from triptych.build import build_optim, instantiate
from triptych.cli import prepare
from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing
from triptych.optim import Optim
from triptych.runs.trust import find_unknown_targets
from triptych.slots import build_loss
from triptych.training import prepare as prepare_training
from triptych.training import train

EXPECTS = Preprocessing(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def small(freeze: str = "none") -> Backbone:
    """Two convolutions with norm layers, and a head for ten classes."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.GroupNorm(2, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 7),
    )
    return Backbone(network, 10, EXPECTS, freeze)


def sgd(**options: Any) -> Optim:
    return Optim(**{"optimizer": torch.optim.SGD, "lr": 0.1} | options)


def rates(optim: Optim, total_steps: int, steps_per_epoch: int = 10) -> list[float]:
    """The head's rate at every step of a training."""
    optimizer, schedule = optim.build(small(), steps_per_epoch, total_steps)
    seen = []
    for _ in range(total_steps):
        seen.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    return seen


# Groups.


def test_weights_decay_and_norm_layers_and_biases_do_not() -> None:
    backbone = small()
    groups = sgd(weight_decay=0.01).groups(backbone)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for module in backbone.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = name == "weight" and isinstance(module, nn.Conv2d | nn.Linear)
            assert decay[id(parameter)] == (0.01 if is_weight else 0)


@settings(deadline=None)
@given(
    freeze=st.sampled_from(["none", "backbone"]),
    backbone_lr=st.none() | st.floats(0, 1),
    weight_decay=st.sampled_from([0.0, 0.1]),
)
def test_every_trainable_parameter_is_in_one_group_and_no_other_parameter_in_any(
    freeze: str, backbone_lr: float | None, weight_decay: float
) -> None:
    backbone = small(freeze)
    groups = sgd(backbone_lr=backbone_lr, weight_decay=weight_decay).groups(backbone)
    held = [id(p) for group in groups for p in group["params"]]
    assert all(group["params"] for group in groups)
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in backbone.parameters() if p.requires_grad}


def test_every_group_has_its_rate_and_decay_and_the_head_comes_last() -> None:
    backbone = small()
    optim = Optim(optimizer=torch.optim.AdamW, lr=0.1, backbone_lr=0.01, weight_decay=0.05)
    optimizer, _ = optim.build(backbone, 10, 10)
    assert isinstance(optimizer, torch.optim.AdamW)
    groups = optimizer.param_groups
    chosen = [(group["lr"], group["weight_decay"]) for group in groups]
    assert chosen == [(0.01, 0.05), (0.01, 0.0), (0.1, 0.05), (0.1, 0.0)]
    last = {id(p) for group in groups[2:] for p in group["params"]}
    assert last == {id(p) for p in backbone.head.parameters()}
    assert [group["lr"] for group in sgd(backbone_lr=0.0).groups(backbone)] == [0.0, 0.1]


def test_the_rate_decays_from_block_to_block_below_the_head() -> None:
    backbone = small()
    groups = sgd(layer_decay=0.5, backbone_lr=0.08, weight_decay=0.1).groups(backbone)
    names = {p: name for name, p in backbone.network.named_parameters()}
    lrs = {names[p]: group["lr"] for group in groups for p in group["params"]}
    expected = {"0": 0.02, "1": 0.02, "2": 0.04, "3": 0.04, "6": 0.1}
    assert lrs == pytest.approx({name: expected[name[0]] for name in names.values()})
    assert all(group["params"] for group in groups)
    assert sgd(layer_decay=1.0).groups(backbone) == sgd().groups(backbone)


# Schedules.


def test_a_cosine_is_torchs_annealing_to_zero() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    oracle = CosineAnnealingLR(optimizer, T_max=40)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    assert rates(sgd(schedule="cosine"), 40) == pytest.approx(expected)
    assert sgd(schedule="cosine").factor(50, 0, 40) == 0, "and stays there"


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_warm_up_rises_linearly_to_the_full_rate_at_its_end(schedule: str) -> None:
    seen = rates(sgd(schedule=schedule, warmup_epochs=0.4), 20)
    assert seen[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    cosine = [0.05 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    assert seen[4:] == pytest.approx([0.1] * 16 if schedule == "constant" else cosine)


def test_onecycle_is_torchs_with_each_groups_rate_for_its_peak() -> None:
    optimizer, schedule = sgd(schedule="onecycle", backbone_lr=0.01).build(small(), 10, 30)
    assert isinstance(schedule, OneCycleLR)
    seen = []
    for _ in range(30):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    below, head = zip(*seen, strict=True)
    assert max(below) == pytest.approx(0.01, rel=0.02)
    assert max(head) == pytest.approx(0.1, rel=0.02)
    assert head[0] == pytest.approx(0.1 / 25)
    assert head[-1] < 1e-4 * head[0]


@pytest.mark.parametrize(("warmup_epochs", "peak"), [(0, 8), (0.5, 4), (2, 19), (0.1, 1), (9, 28)])
def test_onecycle_rises_for_as_long_as_it_is_told_to(warmup_epochs: float, peak: int) -> None:
    seen = rates(sgd(schedule="onecycle", warmup_epochs=warmup_epochs), 30)
    assert seen.index(max(seen)) == peak


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
@pytest.mark.parametrize("total_steps", [0, -20])
def test_a_schedule_towards_an_end_is_refused_where_training_has_none(
    schedule: str, total_steps: int
) -> None:
    with pytest.raises(UserError, match=rf"optim\.schedule={schedule}.*trainer\.max_epochs"):
        sgd(schedule=schedule).build(small(), 10, total_steps)


@pytest.mark.parametrize(("interval", "needed"), [("step", 30), ("epoch", 3)])
def test_a_scheduler_that_ends_before_training_does_is_refused(interval: str, needed: int) -> None:
    for total_steps in (needed, needed - 1):
        schedule = partial(OneCycleLR, max_lr=0.1, total_steps=total_steps)
        optim = sgd(schedule=schedule, interval=interval)
        if total_steps == needed:
            optim.build(small(), 10, 30)
        else:
            with pytest.raises(UserError, match=f"{total_steps}: .* {needed} {interval}"):
                optim.build(small(), 10, 30)


SCHEDULERS = "torch.optim.lr_scheduler"


def test_a_sequence_of_schedulers_is_torchs() -> None:
    parts = "[{_target_: %s.LinearLR, total_iters: 3}, {_target_: %s.ExponentialLR, gamma: 0.5}]"
    typed = [f"schedule._target_={SCHEDULERS}.SequentialLR", "schedule.milestones=[3]"]
    typed += [f"schedule.schedulers={parts.replace('%s', SCHEDULERS)}", "optim.lr=0.1"]
    config = composed("train", "data=shapes", *map(prepare, typed))
    assert find_unknown_targets(config) == set()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    both = [LinearLR(optimizer, total_iters=3), ExponentialLR(optimizer, gamma=0.5)]
    oracle = SequentialLR(optimizer, both, milestones=[3])
    expected = []
    for _ in range(6):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    assert rates(build_optim(config), 6) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("StepLR", "step_size"),
        ("StepLR step_size=1 interval=batch", "interval=batch"),
        ("StepLR step_size=1 monitor=val/f1", "ReduceLROnPlateau"),
        ("ReduceLROnPlateau monitor=val/acc", "val/accuracy"),
        ("ReduceLROnPlateau monitor=val/f1 mode=min", "max"),
        ("ReduceLROnPlateau interval=step", "interval=epoch"),
        ("SequentialLR schedulers=[{_target_:a.B}] milestones=[]", r"a\.B"),
        ("StepLR step_size=1 optim.warmup_epochs=1", r"optim\.warmup_epochs=1.*SequentialLR"),
    ],
)
def test_what_a_scheduler_cannot_do_is_named(typed: str, said: str) -> None:
    name, *settings = typed.split()
    settings = [s if s.startswith("optim.") else f"schedule.{s}" for s in settings]
    chosen = [f"schedule._target_={SCHEDULERS}.{name}", *settings]
    with pytest.raises(UserError, match=said):
        build_optim(composed("train", "data=shapes", *map(prepare, chosen)))


def test_a_rate_falls_where_the_metric_that_it_looks_at_stays(
    tmp_path: Path, no_figures: None
) -> None:
    plateau = [f"schedule._target_={SCHEDULERS}.ReduceLROnPlateau", "schedule.patience=0"]
    plateau += ["schedule.monitor=val/f1", "schedule.threshold=9", "trainer.max_epochs=6"]
    plateau += ["trainer.check_val_every_n_epoch=2"]
    config = composed("train", *TINY, *map(prepare, plateau), f"log_dir={tmp_path}")
    lrs = {int(row["epoch"]): float(row["lr"]) for row in table(train(config).folder) if row["lr"]}
    expected = [0.01, 0.01, 0.01, 0.01, 0.001, 0.001]  # the second validation is not better
    assert [lrs[n] for n in range(1, 7)] == pytest.approx(expected)


# Steps, counted by a real Trainer.


@pytest.mark.parametrize(
    ("options", "steps_per_epoch", "total_steps"),
    [
        ({}, 7, 14),
        ({"accumulate_grad_batches": 2}, 4, 8),
        ({"limit_train_batches": 3}, 3, 6),
        ({"limit_train_batches": 0.5}, 3, 6),
        ({"limit_train_batches": 100, "accumulate_grad_batches": 3}, 3, 6),
        ({"max_steps": 5}, 7, 5),
        ({"max_epochs": -1, "max_steps": 9}, 7, 9),
        ({"max_epochs": None, "max_steps": 9, "accumulate_grad_batches": 7}, 1, 9),
        ({"max_steps": 50}, 7, 14),
        ({"overfit_batches": 2}, 2, 4),
        ({"fast_dev_run": 3}, 3, 3),
    ],
)
def test_the_steps_counted_beforehand_are_the_steps_taken(
    options: dict[str, Any], steps_per_epoch: int, total_steps: int
) -> None:
    sizes = ("data.num_train=50", "data.num_val=10", "optim.schedule=onecycle")
    config = composed("train", *TINY, *sizes)
    source = instantiate("data.source", config["data"]["source"])
    data, module = prepare_training(config, source, instantiate("model", config["model"]))
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        **silent | {"max_epochs": 2} | options,
        accelerator="cpu",
        enable_checkpointing=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    assert module.count_steps() == (steps_per_epoch, total_steps)
    assert trainer.global_step == total_steps


def test_balanced_weights_are_scikit_learns_and_weigh_the_training_loss_alone() -> None:
    labels = torch.tensor([0] * 12 + [1] * 3 + [2] * 5)
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    weights = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    expected = nn.functional.cross_entropy(logits, labels, torch.tensor(weights).float())
    config = composed("train", "optim.class_weights=balanced")
    loss = build_loss(config, 3, [12, 3, 5], instantiate)
    torch.testing.assert_close(loss(logits, labels), expected)
    assert loss.state_dict() == {}, "checkpoints hold the network alone"
    for chosen, counts in ((composed("train"), [12, 3, 5]), (config, None)):
        unweighted = build_loss(chosen, 3, counts, instantiate)
        mean = nn.functional.cross_entropy(logits, labels)
        torch.testing.assert_close(unweighted(logits, labels), mean)


def test_a_class_without_an_image_has_a_finite_weight() -> None:
    logits, labels = torch.zeros(4, 3), torch.tensor([0, 0, 0, 1])
    loss = build_loss(composed("train", "optim.class_weights=balanced"), 3, [3, 1, 0], instantiate)
    assert loss(logits, labels).isfinite()


# Kernels.


CLIPS = "++trainer.gradient_clip_val=1"


@pytest.mark.parametrize(
    ("overrides", "has_gpu", "fused"),
    [
        ([], False, True),
        ([CLIPS, "++trainer.precision=32-true"], False, True),
        ([CLIPS, "++trainer.precision=bf16-mixed"], False, None),
        ([CLIPS], True, None),
        ([CLIPS, "++trainer.precision=32-true"], True, True),
        (["+optim.optimizer.fused=false"], True, False),
        (["+optim.optimizer.foreach=true"], True, None),
        (["optim.optimizer._target_=torch.optim.Adagrad"], True, None),
        (["optim.optimizer._target_=torch.optim.Adadelta"], True, None),  # has none
    ],
)
def test_the_optimizers_fused_kernel_is_taken_where_it_works_and_nothing_else_was_typed(
    overrides: list[str], has_gpu: bool, fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    optim = build_optim(composed("train", "data=shapes", *overrides))
    assert optim.optimizer([nn.Parameter(torch.zeros(1))]).defaults.get("fused") is fused
