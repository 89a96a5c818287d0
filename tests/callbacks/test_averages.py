"""Averaged weights: what they are worth, and that what is saved is what was scored."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import swa_utils

from tests.composing import composed
from tests.same_run import assert_equal, assert_same_run, state, survive, table
from tests.tiny import TINY, StartRun, choose
from triptych.build import instantiate
from triptych.callbacks.averages import MovingAverage, constant_decay
from triptych.library import load_run
from triptych.runs.record import Record
from triptych.runs.trust import find_unknown_targets
from triptych.training import prepare, train

LIGHTNING = "lightning.pytorch.callbacks"
SHIPPED = f"{{_target_: {LIGHTNING}.EMAWeightAveraging, decay: 0.99, update_every_n_steps: 10}}"
SWA = f"{{_target_: {LIGHTNING}.StochasticWeightAveraging, swa_lrs: 0.01, swa_epoch_start: 1}}"
AVERAGES = {
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
    saved = load_run(record.folder)
    net = saved.network(sorted(find_unknown_targets(record.config))).eval()
    images = composed_images(record)
    with torch.inference_mode():
        logits = net(images[saved.predictions("val").index])
    np.testing.assert_allclose(logits.numpy(), saved.predictions("val").logits, atol=1e-4)
    assert record.metadata["best_epoch"] == (4 if average == "SWA" else 3)


def composed_images(record: Record) -> torch.Tensor:
    """The training images as the network takes them."""
    source = instantiate("data.source", record.config["data"]["source"])
    data, _ = prepare(record.config, source, instantiate("model", record.config["model"]))
    return data.transforms.evaluation(data.val.data.images)


def test_an_average_that_never_began_is_the_network(tmp_path: Path) -> None:
    averaged, plain = run(tmp_path / "a", NEVER), run(tmp_path / "b", "")
    assert_equal(state(averaged.folder, "best"), state(plain.folder, "best"))
    assert averaged.metadata["metrics"] == plain.metadata["metrics"]


def test_swa_scores_the_average_also_where_there_is_no_batchnorm(tmp_path: Path) -> None:
    record = run(tmp_path, SWA, NO_NORM)
    last = state(record.folder, "last")
    [average] = [c for name, c in last["callbacks"].items() if name == "StochasticWeightAveraging"]
    assert average["n_averaged"] == 3
    weights = {k: v for k, v in last["state_dict"].items() if k.startswith("backbone.")}
    assert_equal(weights, {name: average["average_model_state"][name] for name in weights})
    assert [row["epoch"] for row in table(record.folder) if row["val/accuracy"]] == [*"1234"]


STEP, VALIDATION = {"at": "step", "nth": 9}, {"at": "validation", "nth": 2}


@pytest.mark.parametrize(
    ("average", "faults"),
    [
        ("every ten steps", [STEP, VALIDATION]),
        ("late", [STEP]),
        ("by epoch", [VALIDATION]),
        ("SWA", [STEP, VALIDATION]),
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
    found = constant_decay(functions)
    assert found is None if decay is None else math.isclose(found or 0, decay)
