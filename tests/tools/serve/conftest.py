"""Finished runs with untrained networks, and a group of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.composing import composed
from tests.tiny import TARGETS
from tests.untrained import plant as plant_untrained
from triptych.config import Config
from triptych.runs.reader import find_run_folders
from triptych.tools.serve.networks import NetworkGroup, read_groups

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "hen", "ox", "pig", "yak")
SEEDS = {"alpha": 1, "beta": 0}  # of the runs in `logs`
STORED = range(1, 15, 2)  # places of the test images that a run has stored

Plant = Callable[..., Path]


def configure(**settings: Any) -> Config:
    """The config of the command, on a CPU, with other settings."""
    settings = {"trusted_targets": [*TARGETS], **settings}
    return composed("serve", "runs=none", "device=cpu", **settings)


@pytest.fixture(scope="session")
def plant() -> Plant:
    return _plant


def _plant(
    root: Path, model: str = "beta", seed: int = 0, val_accuracy: float = 0.5, **metadata: Any
) -> Path:
    """A finished run below `root` with images stored, and predictions of validation images."""
    record = plant_untrained(root, seed, model, classes=CLASSES)
    logits = 2 * np.random.default_rng(seed).normal(size=(100, 10)).astype(np.float32)
    record.add_predictions("val", logits=logits, labels=logits.argmax(1), index=np.arange(100))
    images = np.random.default_rng(0).integers(0, 256, (len(STORED), 3, 32, 32), np.uint8)
    index = np.load(record.folder / "predictions" / "test.npz")["index"][STORED]
    record.add_predictions("test_images", index=index, images=images)
    record.update(metrics=record.metadata["metrics"] | {"val/accuracy": val_accuracy})
    record.update(**metadata)
    return record.folder


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, plant: Plant) -> Path:
    """Runs of two networks, each once."""
    root = tmp_path_factory.mktemp("logs")
    plant(root, "beta", SEEDS["beta"], val_accuracy=0.5)
    plant(root, "alpha", SEEDS["alpha"], val_accuracy=0.25)
    return root


@pytest.fixture(scope="session")
def group(logs: Path) -> NetworkGroup:
    [found], problems = read_groups(find_run_folders([str(logs)]), configure())
    assert problems == []
    return found


@pytest.fixture(scope="session")
def answering(logs: Path) -> NetworkGroup:
    """The same networks, which answer with sets or "none of these"."""
    [found], _ = read_groups(find_run_folders([str(logs)]), configure(coverage=0.9, keep=0.8))
    return found
