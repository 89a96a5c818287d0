"""Which GPUs there are, and how many a job borrows, on a machine that has none."""

import os
from pathlib import Path
from typing import Any

import pytest

from triptych.tools.sweep.gpus import num_wanted, visible

DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-95dcb0a7-2e8a-4c1f-8a7e-0f4c7f2f9c11)
"""


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("3,5", ["3", "5"]),
        (" 0 , GPU-5d5ba0d6 ", ["0", "GPU-5d5ba0d6"]),
        ("", []),
        ("-1", []),
        ("2,-1,3", ["2"]),
        ("NoDevFiles", ["NoDevFiles"]),
    ],
)
def test_the_environment_says_which_gpus_may_be_used(
    monkeypatch: pytest.MonkeyPatch, listed: str, names: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible() == names


def test_else_the_driver_does_and_a_divided_gpu_counts_as_its_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ $1 = -L ] && cat <<'END'\n{DIVIDED}END\n")
    program.chmod(0o755)
    assert [name[:12] for name in visible()] == ["MIG-c6d4f1ef", "MIG-cba663e8", "GPU-95dcb0a7"]


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible() == []


@pytest.mark.parametrize(
    ("accelerator", "devices", "num_visible", "borrowed"),
    [
        ("auto", 1, 4, 1),
        ("gpu", 2, 4, 2),
        ("auto", "auto", 4, 4),
        ("auto", [2], 4, 0),
        ("cpu", 2, 4, 0),
        ("mps", 1, 4, 0),
        ("auto", 1, 0, 0),
        ("cuda", "auto", 0, 0),
    ],
)
def test_a_job_borrows_what_its_trainer_will_use(
    accelerator: str, devices: Any, num_visible: int, borrowed: int
) -> None:
    config = {"trainer": {"accelerator": accelerator, "devices": devices}}
    assert num_wanted(config, num_visible) == borrowed
