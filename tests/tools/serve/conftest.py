"""Finished runs with untrained networks, and a group of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from tests.composing import composed
from triptych.config import Config
from triptych.runs.checkpoint_files import AtomicCheckpointIO
from triptych.runs.reader import find_run_folders
from triptych.runs.record import Record
from triptych.tools.serve.networks import NetworkGroup, read_groups

CLASSES = ("cat", "dog", "hen", "ox", "pig", "yak")
TINY = [
    *("model=torchvision", "model.name=squeezenet1_1", "model.weights=null"),
    *("model.input_size=32", "data=shapes", "data.num_train=20", "data.num_val=10"),
    *("data.source.num_train=40", "data.source.num_test=20", "data.num_test=15"),
]
NUM_TEST, NUM_STORED = 15, 8

Plant = Callable[..., Path]


def configure(**settings: Any) -> Config:
    """The config of the command, on a CPU, with other settings."""
    return composed("serve", "runs=none", "device=cpu", **settings)


def network(model: str, classes: tuple[str, ...], seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    made: torch.nn.Module = get_model(model, num_classes=len(classes))
    return made.eval()


@pytest.fixture(scope="session")
def plant() -> Plant:
    return _plant


def _plant(
    root: Path,
    model: str = "squeezenet1_1",
    seed: int = 0,
    val_accuracy: float | None = 0.5,
    classes: tuple[str, ...] = CLASSES,
    num_stored: int = NUM_STORED,
    **metadata: Any,
) -> Path:
    """A finished run below `root` whose network is `network(model, classes, seed)`.

    It got the images at even places right; of the others it stored the first.
    """
    config = composed("train", *TINY, seed=seed, log_dir=str(root))
    config["model"]["name"] = model
    record = Record.create(config, [])
    state = {"state_dict": network(model, classes, seed).state_dict()}
    AtomicCheckpointIO().save_checkpoint(state, record.checkpoint_path("best"))
    index = np.arange(NUM_TEST)
    labels = index % len(classes)
    logits = np.eye(len(classes), dtype=np.float32)[(labels + index % 2) % len(classes)]
    record.add_predictions("test", logits=logits, labels=labels, index=index)
    wrong = index[index % 2 == 1][:num_stored]
    images = np.random.default_rng(0).integers(0, 256, (len(wrong), 3, 32, 32), np.uint8)
    record.add_predictions("test_images", index=wrong, images=images)
    measured = {"test/accuracy": float(np.mean(index % 2 == 0)), "val/accuracy": val_accuracy}
    hashes = {"split_hash": "5" * 16, "test_hash": "7" * 16}
    record.update(classes=classes, metrics=measured, weights=None, input_size=32, **hashes)
    record.end("finished")
    record.update(**metadata)
    return record.folder


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, plant: Plant) -> Path:
    """Runs of two networks, each once."""
    root = tmp_path_factory.mktemp("logs")
    plant(root, "squeezenet1_1", val_accuracy=0.5)
    plant(root, "shufflenet_v2_x0_5", val_accuracy=0.25)
    return root


@pytest.fixture(scope="session")
def group(logs: Path) -> NetworkGroup:
    [found], problems = read_groups(find_run_folders([str(logs)]), configure())
    assert problems == []
    return found
