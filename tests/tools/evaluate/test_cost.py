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
from triptych.runs.reader import OPTIONAL_METADATA
from triptych.runs.record import Record
from triptych.tools.evaluate import cost
from triptych.tools.evaluate.rebuild import RebuiltRun

SIDE = 8
CPU = torch.device("cpu")


class Small(nn.Module):
    """One convolution and one linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3, padding=1)
        self.fc = nn.Linear(4 * SIDE**2, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(images).flatten(1))
        return logits


def build_run(folder: Path, **metadata: Any) -> RebuiltRun:
    record = Record(folder, dict.fromkeys(OPTIONAL_METADATA) | metadata)
    record.checkpoint_path("best").parent.mkdir(parents=True)
    record.checkpoint_path("best").write_bytes(b"x" * 1234)
    backbone = Backbone(Small(), 5, Preprocessing(SIDE, (0.5,) * 3, (0.5,) * 3)).eval()
    return RebuiltRun(record, {}, tuple("abcde"), backbone)


def test_every_cost_is_there_with_the_circumstances_it_was_measured_in(tmp_path: Path) -> None:
    run = build_run(tmp_path, images_per_second=120.5, train_seconds=30.0, num_epochs=4)
    costs = cost.measure_cost(run, seconds=0.05, peak_memory_bytes=77)
    assert list(costs) == [
        *("num_params", "macs", "checkpoint_bytes", "train_images_per_second"),
        *("seconds_per_epoch", "latency_ms_p50", "latency_ms_p95"),
        *("throughput_images_per_second", "throughput_batch_size", "peak_memory_bytes"),
        *("device", "precision", "num_threads", "versions", "measured_at"),
    ]
    # By hand: a convolution of 3x3x3 at 4 channels of 8x8, and a matrix of 256 by 5.
    assert costs["macs"] == 27 * 4 * 64 + 256 * 5
    assert costs["num_params"] == 4 * (27 + 1) + 5 * (256 + 1)
    assert (costs["checkpoint_bytes"], costs["peak_memory_bytes"]) == (1234, 77)
    assert (costs["train_images_per_second"], costs["seconds_per_epoch"]) == (120.5, 7.5)
    assert 0 < costs["latency_ms_p50"] <= costs["latency_ms_p95"]
    assert costs["throughput_images_per_second"] > 0
    assert (costs["device"], costs["precision"]) == ("cpu", "32-true")
    assert costs["num_threads"] == torch.get_num_threads()

    run.record.metadata |= {"images_per_second": None, "train_seconds": None, "num_epochs": 0}
    costs = cost.measure_cost(run, seconds=0.001, peak_memory_bytes=0)
    assert costs["train_images_per_second"] is costs["seconds_per_epoch"] is None


def test_calls_are_timed_one_by_one_for_the_seconds_given_behind_a_warm_up() -> None:
    calls: list[float] = []

    def call() -> Tensor:
        # The first calls are slow, as those that choose kernels are.
        calls.append(0.05 if len(calls) < 3 else 0.01)
        time.sleep(calls[-1])
        return torch.zeros(1)

    times = [*cost.time_calls(call, CPU, seconds=0.1, num_warm_ups=3)]
    assert len(calls) == 3 + len(times)
    assert 2 <= len(times) <= 11
    assert min(times) >= 0.01
    assert min(times) < 0.04, "the warm-up is not counted"
    assert len([*cost.time_calls(lambda: torch.zeros(1), CPU, seconds=0, num_warm_ups=0)]) == 1


@pytest.mark.parametrize(
    ("out_of_memory_at", "tried"), [(10**6, [1, 2, 4, 8, 16, 32]), (16, [1, 2, 4, 8, 16])]
)
def test_throughput_is_the_best_over_batch_sizes_that_double(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out_of_memory_at: int, tried: list[int]
) -> None:
    """A device that takes 2.5 ms for up to 8 images and 0.3125 ms for each above."""
    sizes: list[int] = []

    def time_call(size: int, *_: Any) -> Iterator[float]:
        sizes.append(size)
        if size >= out_of_memory_at:
            raise torch.OutOfMemoryError
        yield 0.0025 * max(size, 8) / 8

    monkeypatch.setattr(cost, "inference_call", lambda run, size: size)
    monkeypatch.setattr(cost, "time_calls", time_call)
    throughput, size = cost.find_best_throughput(build_run(tmp_path), seconds=10)
    assert throughput == pytest.approx(3200)
    assert size == 8
    assert sizes == tried


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak cannot be reset")
def test_the_peak_of_memory_is_this_call_s_and_not_an_earlier_one_s() -> None:
    heavy = cost.measure_peak_bytes(lambda: torch.ones(200 * 2**20, dtype=torch.uint8), CPU)
    light = cost.measure_peak_bytes(lambda: None, CPU)
    assert 150 * 2**20 < heavy - light < 250 * 2**20
