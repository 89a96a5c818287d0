"""Costs against networks whose cost is known, and clocks that are ours."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from triptych.models.backbone import Backbone, Preprocessing
from triptych.runs.record import Record
from triptych.tools.evaluate import cost
from triptych.tools.evaluate.rebuild import RebuiltRun

SIDE = 8
CPU = torch.device("cpu")


class Small(nn.Module):
    """One convolution and one layer behind it; `ballast` bytes are touched on the way."""

    def __init__(self, ballast: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3, padding=1)
        self.fc = nn.Linear(4 * SIDE**2, 5)
        self.ballast = ballast

    def forward(self, images: Tensor) -> Tensor:
        torch.ones(self.ballast, dtype=torch.uint8)
        logits: Tensor = self.fc(self.conv(images).flatten(1))
        return logits


def rebuilt(folder: Path, ballast: int = 0) -> RebuiltRun:
    metadata = {"images_per_second": 120.5, "train_seconds": 30.0, "num_epochs": 4}
    record = Record(folder, metadata)
    record.checkpoint_path("best").parent.mkdir(parents=True, exist_ok=True)
    record.checkpoint_path("best").write_bytes(b"x" * 1234)
    preprocessing = Preprocessing(SIDE, (0.5,) * 3, (0.5,) * 3)
    backbone = Backbone(Small(ballast), 5, preprocessing).eval()
    return RebuiltRun(record, {}, tuple("abcde"), backbone)


def test_every_cost_is_there_with_the_circumstances_it_was_measured_in(tmp_path: Path) -> None:
    found = cost.measure(rebuilt(tmp_path), seconds=0.05, peak_memory_bytes=77)
    assert list(found) == [
        *("num_params", "macs", "checkpoint_bytes", "train_images_per_second"),
        *("seconds_per_epoch", "latency_ms_p50", "latency_ms_p95"),
        *("throughput_images_per_second", "throughput_batch_size", "peak_memory_bytes"),
        *("device", "precision", "num_threads", "versions", "measured_at"),
    ]
    # By hand: a convolution of 3x3x3 at 4 channels of 8x8, and a matrix of 256 by 5.
    assert found["macs"] == 27 * 4 * 64 + 256 * 5
    assert found["num_params"] == 4 * (27 + 1) + 5 * (256 + 1)
    assert (found["checkpoint_bytes"], found["peak_memory_bytes"]) == (1234, 77)
    assert (found["train_images_per_second"], found["seconds_per_epoch"]) == (120.5, 7.5)
    assert 0 < found["latency_ms_p50"] <= found["latency_ms_p95"]
    assert found["throughput_images_per_second"] > 0
    assert (found["device"], found["precision"]) == ("cpu", "32-true")
    assert found["num_threads"] == torch.get_num_threads()


def test_a_record_that_lacks_the_speed_of_training_leaves_it_open(tmp_path: Path) -> None:
    record = Record(tmp_path, {"train_seconds": None, "num_epochs": 0})
    empty = {"train_images_per_second": None, "seconds_per_epoch": None}
    assert cost.training_cost(record) == empty


def test_calls_are_timed_one_by_one_for_the_seconds_given_behind_a_warm_up() -> None:
    calls: list[float] = []

    def call() -> Tensor:
        # The first calls are slow, as those that choose kernels are.
        calls.append(0.05 if len(calls) < 3 else 0.01)
        time.sleep(calls[-1])
        return torch.zeros(1)

    taken = [*cost.time_calls(call, CPU, seconds=0.1, num_warm_ups=3)]
    assert len(calls) == 3 + len(taken)
    assert 2 <= len(taken) <= 11
    assert min(taken) >= 0.01
    assert min(taken) < 0.04, "the warm-up is not counted"
    assert len([*cost.time_calls(lambda: torch.zeros(1), CPU, seconds=0, num_warm_ups=0)]) == 1


@pytest.mark.parametrize(
    ("out_of_memory_at", "tried"), [(10**6, [1, 2, 4, 8, 16, 32]), (16, [1, 2, 4, 8, 16])]
)
def test_throughput_is_the_best_over_batch_sizes_that_double(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    out_of_memory_at: int,
    tried: list[int],
) -> None:
    """A device that takes 2.5 ms for up to 8 images and 0.3125 ms for each above."""
    sizes: list[int] = []

    def timed(size: int, *_: Any, **__: Any) -> Iterator[float]:
        sizes.append(size)
        if size >= out_of_memory_at:
            raise torch.OutOfMemoryError
        yield 0.0025 * max(size, 8) / 8

    monkeypatch.setattr(cost, "inference_call", lambda run, size: size)
    monkeypatch.setattr(cost, "time_calls", timed)
    throughput, size = cost.best_throughput(rebuilt(tmp_path), seconds=10)
    assert throughput == pytest.approx(3200)
    assert size == 8
    assert sizes == tried


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak cannot be reset")
def test_the_peak_of_memory_is_this_networks_and_not_an_earlier_ones(tmp_path: Path) -> None:
    heavy = cost.peak_memory(rebuilt(tmp_path, ballast=400 * 2**20))
    light = cost.peak_memory(rebuilt(tmp_path))
    assert 350 * 2**20 < heavy - light < 450 * 2**20
