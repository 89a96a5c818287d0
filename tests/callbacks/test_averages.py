"""Averaged weights: what they are worth, and that what is saved is what was scored."""

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim import swa_utils

from tests.composing import composed
from tests.same_run import assert_equal, assert_same_run, state, survive, table
from tests.tiny import TINY, StartRun, choose
from triptych.build import instantiate
from triptych.callbacks.averages import MovingAverage, find_constant_decay
from triptych.library import load_run
from triptych.runs.record import Record
from triptych.runs.trust import find_unknown_targets
from triptych.training import prepare, train

LIGHTNING = "lightning.pytorch.callbacks"
SHIPPED = f"{{_target_: {LIGHTNING}.EMAWeightAveraging, decay: 0.99, update_every_n_steps: 10}}"
SWA = f"{{_target_: {LIGHTNING}.StochasticWeightAveraging, swa_lrs: 0.01, swa_epoch_start: 1}}"
OURS = {
    "swa": "{_target_: triptych.callbacks.epoch_averages.SWA, lr: 0.004}",
    "soup": "{_target_: triptych.callbacks.epoch_averages.Soup, k: 2}",
}
STOPS = f"{{_target_: {LIGHTNING}.EarlyStopping, monitor: val/loss, stopping_threshold: 99}}"
AVERAGES = OURS | {
    "every ten steps": SHIPPED,
    "late": f"{{_target_: {LIGHTNING}.EMAWeightAveraging, decay: 0.9, update_starting_at_step: 7}}",
    "by epoch": f"{{_target_: {LIGHTNING}.EMAWeightAveraging, decay: 0.9, "
    "update_every_n_steps: 0, update_starting_at_epoch: 0}",
    "equal": f"{{_target_: {LIGHTNING}.WeightAveraging}}",
    "SWA": SWA,
}
NEVER = f"{{_target_: {LIGHTNING}.EMAWeightAveraging, update_starting_at_step: 10000}}"
pytestmark = [
    pytest.mark.usefixtures("no_figures"),
    pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch"),
]


class NoNorm(nn.Sequential):
    """Without BatchNorm."""

    def __init__(self, num_classes: int) -> None:
        layers = [nn.Conv2d(3, 8, 8, stride=4), nn.ReLU(), nn.Flatten()]
        super().__init__(*layers, nn.Linear(8 * 7 * 7, num_classes))


NO_NORM = "+model.network={_target_: tests.callbacks.test_averages.NoNorm, _partial_: true}"


def run(log_dir: Path, average: str, *overrides: str) -> Record:
    sizes = ["++data.augment=none", f"++trainer.callbacks=[{average}]"]
    return train(composed("train", *TINY, *sizes, *overrides, log_dir=str(log_dir)), [])


def learn(log_dir: Path, average: str, seed: int) -> list[float]:
    """Validation accuracy after each of six epochs of ten steps."""
    overrides = ["data=shapes", "data.num_train=640", "data.num_val=200", "data.num_test=20"]
    overrides += [f"seed={seed}", *choose("Learner"), "trainer.max_epochs=6"]
    overrides += [f"trainer.callbacks=[{average}]", "trainer.accelerator=cpu"]
    folder = train(composed("train", *overrides, log_dir=str(log_dir)), []).folder
    return [float(row["val/accuracy"]) for row in table(folder) if row["val/accuracy"]]


def test_the_average_is_no_worse_than_the_network_on_any_length_of_training(tmp_path: Path) -> None:
    averaged, plain = (
        np.mean([learn(tmp_path, average, seed) for seed in (0, 1)], axis=0)
        for average in (SHIPPED, "")
    )
    assert plain[-1] > 0.6
    assert (averaged >= plain - 0.05).all(), (averaged, plain)


@pytest.mark.parametrize(
    ("average", "network"),
    [*((average, []) for average in AVERAGES), ("late", [NO_NORM]), ("SWA", [NO_NORM])],
)
def test_the_weights_that_are_saved_are_those_that_were_validated(
    tmp_path: Path, average: str, network: list[str]
) -> None:
    record = run(tmp_path, AVERAGES[average], *network, "checkpoint.score=last")
    epochs = 4 if average in {"SWA", *OURS} else 3
    saved = load_run(record.folder)
    net = saved.network(sorted(find_unknown_targets(record.config))).eval()
    images = composed_images(record)
    with torch.inference_mode():
        logits = net(images[saved.predictions("val").index])
    np.testing.assert_allclose(logits.numpy(), saved.predictions("val").logits, atol=1e-4)
    assert record.metadata["best_epoch"] == epochs


def composed_images(record: Record) -> torch.Tensor:
    """The training images as the network takes them."""
    source = instantiate("data.source", record.config["data"]["source"])
    data, _ = prepare(record.config, source, instantiate("model", record.config["model"]))
    return data.transforms.evaluation(data.val.data.images)


def test_an_average_that_never_began_is_the_network(tmp_path: Path) -> None:
    averaged, plain = run(tmp_path / "a", NEVER), run(tmp_path / "b", "")
    assert_equal(state(averaged.folder, "best"), state(plain.folder, "best"))
    assert averaged.metadata["metrics"] == plain.metadata["metrics"]


class Weights(Callback):
    """Keeps the network's weights after every step."""

    seen: ClassVar[list[dict[str, torch.Tensor]]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        network = pl_module.backbone.network
        self.seen.append({n: p.detach().clone() for n, p in network.named_parameters()})


def moving_average(decay: float) -> dict[str, torch.Tensor]:
    """Of the weights in every step, which spans a tenth of the steps so far at most."""
    average = dict(Weights.seen[0])
    for number, weights in enumerate(Weights.seen[1:], start=2):
        keep = min(decay, (1 + number) / (10 + number))
        average = {n: keep * average[n] + (1 - keep) * p for n, p in weights.items()}
    return average


def mean_of_epochs(*epochs: int) -> dict[str, torch.Tensor]:
    every = [Weights.seen[5 * epoch - 1] for epoch in epochs]
    return {name: sum(w[name] for w in every) / len(every) for name in every[0]}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        (OURS["swa"], lambda _: mean_of_epochs(2, 3)),
        (OURS["soup"], lambda rows: mean_of_epochs(*sorted(rows, key=rows.get, reverse=True)[:2])),
        (SWA, lambda _: mean_of_epochs(1, 2, 3)),
        (
            f"{{_target_: {LIGHTNING}.EMAWeightAveraging, decay: 0.7}}",
            lambda _: moving_average(0.7),
        ),
    ],
)
def test_the_weights_that_a_run_ends_with_are_the_average_computed_by_hand(
    tmp_path: Path, average: str, expected: Any
) -> None:
    Weights.seen.clear()
    record = run(tmp_path, f"{average}, {{_target_: {__name__}.Weights}}")
    assert len(Weights.seen) >= 15
    del Weights.seen[15:]  # the pass over the images that follows changes none
    rows = {int(r["epoch"]): r["val/accuracy"] for r in table(record.folder) if r["val/accuracy"]}
    ends_with = state(record.folder, "last")["state_dict"]
    rows.pop(4, None)
    for name, values in expected(rows).items():
        torch.testing.assert_close(ends_with[f"backbone.network.{name}"], values)


def test_the_mean_of_epochs_has_batchnorms_statistics_of_the_training_images(
    tmp_path: Path,
) -> None:
    """As torch computes them."""
    record = run(tmp_path, OURS["soup"], "model.network._target_=tests.tiny.Learner")
    saved = state(record.folder, "last")["state_dict"]
    source = instantiate("data.source", record.config["data"]["source"])
    data, module = prepare(record.config, source, instantiate("model", record.config["model"]))
    module.load_state_dict(saved, strict=False)
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(2)  # type: ignore[union-attr]
    network = module.backbone.network
    swa_utils.update_bn([data.transforms.evaluation(b.inputs) for b in loader], network)
    for name, values in network.named_buffers():
        torch.testing.assert_close(saved[f"backbone.network.{name}"], values)


@pytest.mark.parametrize("average", [OURS["swa"], SWA])
def test_layers_that_are_frozen_keep_their_statistics(tmp_path: Path, average: str) -> None:
    frozen = ["model.network._target_=tests.tiny.Learner", "++model.freeze=backbone"]
    saved = state(run(tmp_path, average, *frozen).folder, "last")["state_dict"]
    means = [values for name, values in saved.items() if name.endswith("running_mean")]
    assert len(means) == 3
    assert not any(values.any() for values in means), "as they began"
    variances = [values for name, values in saved.items() if name.endswith("running_var")]
    assert all((values == 1).all() for values in variances)


def test_the_mean_is_validated_last_and_scored_where_it_is_best(tmp_path: Path) -> None:
    soup = OURS["soup"][:-1] + ", monitor: val/loss}"
    record = run(tmp_path, soup, "checkpoint.monitor=val/loss")
    scores = {int(r["epoch"]): float(r["val/loss"]) for r in table(record.folder) if r["val/loss"]}
    assert [*scores] == [1, 2, 3, 4]
    best = min(scores, key=lambda epoch: scores[epoch])
    assert record.metadata["best_epoch"] == best
    assert record.metadata["average_is_best"] == (best == 4)
    assert record.metadata["averaged_epochs"] == [2, 3]
    assert record.metadata["num_epochs"] == 3


@pytest.mark.parametrize(
    ("average", "overrides", "averaged"),
    [
        (f"{OURS['soup']}, {STOPS}", ["++trainer.min_epochs=2"], [1, 2]),
        (OURS["swa"], ["++trainer.max_steps=12"], [2, 3]),
    ],
)
def test_the_mean_is_taken_also_where_a_callback_or_a_number_of_steps_ends_a_training(
    tmp_path: Path, average: str, overrides: list[str], averaged: list[int]
) -> None:
    record = run(tmp_path, average, *overrides)
    assert record.metadata["averaged_epochs"] == averaged
    validated = [int(row["epoch"]) for row in table(record.folder) if row["val/accuracy"]]
    assert validated[-1] == averaged[-1] + 1


STEP, VALIDATION = {"at": "step", "nth": 9}, {"at": "validation", "nth": 2}


@pytest.mark.parametrize(
    ("average", "faults"),
    [
        ("every ten steps", [STEP, VALIDATION]),
        ("late", [STEP]),
        ("by epoch", [VALIDATION]),
        ("SWA", [STEP, VALIDATION]),
        ("swa", [{"at": "step", "nth": 12}]),
        ("soup", [{"at": "validation", "nth": 4}]),
    ],
)
def test_a_run_that_averages_goes_on_as_if_it_had_not_been_killed(
    start_run: StartRun, tmp_path: Path, average: str, faults: list[dict[str, Any]]
) -> None:
    overrides = [f"++trainer.callbacks=[{AVERAGES[average]}]", "checkpoint.every_n_steps=2"]
    trusted = [
        f"{LIGHTNING}.{name}" for name in ("EMAWeightAveraging", "StochasticWeightAveraging")
    ]
    killed = survive(start_run, tmp_path / "killed", overrides, *faults, trusted=trusted)
    assert_same_run(killed, survive(start_run, tmp_path / "whole", overrides))


def test_the_decay_starts_at_nothing_and_rises_to_its_own() -> None:
    moving = MovingAverage(0.99)
    for step in (0, 1, 8, 90, 880, 10_000):
        moving.prepare(step)
        assert moving.keep == pytest.approx(min(0.99, (1 + step) / (10 + step)))


@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(1, 100), st.data())
def test_an_update_keeps_what_its_parts_keep_together(
    step: int, decay: float, every: int, data: Any
) -> None:
    parts = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=4))
    moving, product = MovingAverage(decay), 1.0
    for part in parts:
        moving.prepare(step, part, every)
        product *= moving.keep
    moving.prepare(step, sum(parts), every)
    assert moving.keep == pytest.approx(product)


def test_frozen_weights_and_whole_numbers_stay_what_they_are() -> None:
    moving = MovingAverage(0.99)
    moving.prepare(7)
    weights, counts = torch.randn(1000), torch.arange(5)
    assert torch.equal(moving(weights, weights.clone(), 3), weights)
    assert torch.equal(moving(counts, counts + 1, 3), counts + 1)
    assert moving(torch.zeros(1), torch.ones(1), 3) == pytest.approx(1 - 8 / 17)


@pytest.mark.parametrize(
    ("functions", "decay"),
    [
        ({"avg_fn": swa_utils.get_ema_avg_fn(0.9)}, 0.9),
        ({"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.75)}, 0.75),
        ({"avg_fn": swa_utils.get_swa_avg_fn()}, None),
        ({"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()}, None),
        ({}, None),
    ],
)
def test_torchs_moving_averages_are_known_from_its_equal_ones(
    functions: dict[str, Any], decay: float | None
) -> None:
    found = find_constant_decay(functions)
    assert found is None if decay is None else math.isclose(found or 0, decay)
