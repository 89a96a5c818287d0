"""In which precision a run computes where nobody says, and that its memory changes no number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.composing import composed
from tests.same_run import assert_same_run, survive
from tests.tiny import TARGETS, TINY, StartRun
from triptych import build
from triptych.cli import configure_process
from triptych.runs.record import Record
from triptych.tools.evaluate.command import evaluate

BF16 = ("++trainer.precision=bf16-mixed",)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    config = composed("train", *TINY, log_dir=str(tmp_path))
    config["trainer"]["precision"] = None
    return Record.create(config, [])


def set_bf16(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    for known in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, known, lambda known=known: known == name)


def depthwise(stride: int, *, learns: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 8, 3, stride, groups=8)).requires_grad_(learns)


@pytest.mark.parametrize(
    ("instructions", "network", "expected"),
    [
        ("_is_avx512_bf16_supported", nn.Conv2d(8, 8, 3, 2, groups=4), "bf16-mixed"),
        ("_is_amx_tile_supported", None, "bf16-mixed"),
        (None, nn.Conv2d(8, 8, 3), "32-true"),
        ("_is_avx512_bf16_supported", depthwise(2, learns=True), "32-true"),
        ("_is_avx512_bf16_supported", depthwise(1, learns=True), "bf16-mixed"),
        ("_is_avx512_bf16_supported", depthwise(2, learns=False), "bf16-mixed"),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_has_the_instructions_and_they_pay(
    instructions: str | None,
    network: nn.Module | None,
    expected: str,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_bf16(monkeypatch, instructions)
    trainer = build.build_trainer(record.config, record, [], network)
    assert trainer.precision == expected
    typed = record.config | {"trainer": record.config["trainer"] | {"precision": "32-true"}}
    assert build.build_trainer(typed, record, [], network).precision == "32-true"


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", "32-true"), ("NVIDIA H100", "bf16-mixed"), (None, "bf16-mixed")],
)
def test_a_run_that_goes_on_keeps_its_precision_on_a_device_of_the_same_kind(
    device: str | None, expected: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_bf16(monkeypatch, "_is_avx512_bf16_supported")
    record.update(device=device, precision="32-true" if device else None)
    assert build.build_trainer(record.config, record, []).precision == expected


def test_a_run_in_bf16_resumes_to_the_last_bit_and_scores_exactly_as_logged(
    start_run: StartRun, tmp_path: Path
) -> None:
    killed = survive(
        start_run, tmp_path / "killed", BF16, {"at": "step", "nth": 8}, trusted=TARGETS
    )
    whole = survive(start_run, tmp_path / "whole", BF16, trusted=TARGETS)
    assert_same_run(killed, whole)
    assert Record.open(killed).metadata["precision"] == "bf16-mixed"
    places = {"run": str(killed), "trusted_targets": [*TARGETS]}
    evaluate(composed("evaluate", "run=none", "device=cpu", "cost=false", **places), [])
    evaluation = json.loads((killed / "evaluation.json").read_text())
    assert (evaluation["precision"], evaluation["largest_difference"]) == ("bf16-mixed", 0)


def learn() -> list[Tensor]:
    """Weights after some steps, on tensors that are larger than what glibc keeps by itself."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU())
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(3):
        loss = F.mse_loss(network(torch.randn(8, 3, 128, 128)), torch.ones(8, 8, 124, 124))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


def test_memory_that_stays_with_the_process_changes_no_bit() -> None:
    before = learn()
    configure_process()
    assert all(map(torch.equal, before, learn()))


COUNT_FAULTS = """
import resource
from triptych.cli import configure_process
configure_process()
for turn in range(40):
    if turn == 10:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(2**24 + 2**20 * n) for n in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="not glibc")
def test_large_blocks_stay_with_the_process_unless_the_system_shall_have_them() -> None:
    faults = {}
    for allocator in ("", "system"):
        env = os.environ | {"TRIPTYCH_ALLOCATOR": allocator}
        program = [sys.executable, "-c", COUNT_FAULTS]
        faults[allocator] = int(subprocess.check_output(program, env=env))
    assert faults[""] < 100
    assert faults["system"] > 10_000
