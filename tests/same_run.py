"""What of two runs must be equal where one was killed and resumed, and the other was not."""

import csv
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny import StartRun
from triptych.runs.reader import is_locked
from triptych.runs.record import Record

TIMES = {"train/images_per_second"}
KINDS = ("scalars", "images", "tensors")


def run_folder(log_dir: Path) -> Path:
    [path] = log_dir.rglob("config.yaml")
    return path.parent


def survive(
    start_run: StartRun,
    log_dir: Path,
    overrides: Sequence[str],
    *faults: dict[str, Any],
    trusted: Sequence[str] = (),
) -> Path:
    """The folder of a run that was killed by each fault in turn, and then left alone."""
    arguments = [*overrides, f"log_dir={log_dir}"]
    for fault in faults:
        answer = start_run(*arguments, **fault, trusted=trusted)
        assert answer["code"] == -signal.SIGKILL, (fault, answer)
        folder = run_folder(log_dir)
        assert not is_locked(folder)
        arguments = [f"resume={folder}"]
    answer = start_run(*arguments, trusted=trusted)
    assert answer["code"] == 0, answer["output"]
    return run_folder(log_dir)


def metadata(folder: Path) -> dict[str, Any]:
    return Record.open(folder).metadata


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def curves(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Every point, picture and text of the event files, by tag."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance=dict.fromkeys(KINDS, 0))
    events.Reload()
    tags = events.Tags()
    points = {t: [(e.step, e.value) for e in events.Scalars(t)] for t in tags["scalars"]}
    points |= {t: [(e.step, None) for e in events.Images(t)] for t in tags["images"]}
    points |= {t: [(e.step, None) for e in events.Tensors(t)] for t in tags["tensors"]}
    return {tag: of_tag for tag, of_tag in points.items() if tag not in TIMES}


def assert_equal(left: Any, right: Any, where: str = "") -> None:
    """Equal to the last bit, through nested containers."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_equal(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for n, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_equal(one, other, f"{where}/{n}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right, where


def state(folder: Path, name: str) -> dict[str, Any]:
    """A checkpoint, less what tells the time."""
    content: dict[str, Any] = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    content.pop("config", None)
    for callback in content.get("callbacks", {}).values():
        callback.pop("train_seconds", None)
        callback.pop("seconds_total", None)
    return content


def assert_same_run(survivor: Path, undisturbed: Path) -> None:
    for name in ("best", "last"):
        assert_equal(state(survivor, name), state(undisturbed, name), name)
    for name in ("val", "test", "test_images"):
        paths = [folder / "predictions" / f"{name}.npz" for folder in (survivor, undisturbed)]
        saved, expected = ({k: v.tolist() for k, v in np.load(path).items()} for path in paths)
        assert_equal(saved, expected, name)
    for name in ("status", "metrics", "best_epoch", "num_epochs", "config_hash", "error"):
        assert metadata(survivor)[name] == metadata(undisturbed)[name], name
    assert table(survivor) == table(undisturbed)
    assert_equal(curves(survivor), curves(undisturbed), "curves")
    hidden = [path.name for path in survivor.rglob(".*")]
    assert hidden == [], "neither a lock nor the half of a killed write is left"
