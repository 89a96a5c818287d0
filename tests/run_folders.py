"""Run folders as a training leaves them, with random predictions instead of learned ones."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy.special import log_softmax

NUM_CLASSES = 4


def draw_labels(num_images: int, num_classes: int = NUM_CLASSES) -> NDArray[np.int64]:
    """Unequal class counts, the same for every run of a size."""
    weights = np.arange(1, num_classes + 1) / sum(range(1, num_classes + 1))
    return np.random.default_rng(7).choice(num_classes, num_images, p=weights).astype(np.int64)


def draw_logits(
    labels: NDArray[np.int64], skill: float, seed: int, num_classes: int
) -> NDArray[Any]:
    """Float32 (N, C): noise, part of it common to all runs, and `skill` on the true class."""
    size = (len(labels), num_classes)
    noise = [np.random.default_rng(key).normal(size=size) for key in (99, seed)]
    return (noise[0] + noise[1] + skill * np.eye(num_classes)[labels]).astype(np.float32)


def write_run(
    root: Path,
    model: str = "googlenet",
    seed: int = 0,
    *,
    skill: float = 2.0,
    num_images: int = 200,
    num_classes: int = NUM_CLASSES,
    settings: dict[str, Any] | None = None,
    **metadata: Any,
) -> Path:
    """A finished run: `settings` are dotted keys of its config, `metadata` those of `run.json`."""
    config = OmegaConf.create(
        {
            "seed": seed,
            "log_dir": "logs",
            "data": {"name": "shapes", "batch_size": 64, "augment": "none", "split_seed": 0},
            "model": {
                "_target_": "triptych.models.torchvision_models.TorchvisionModel",
                "name": model,
                "weights": None,
            },
            "optim": {"name": "adam", "lr": 0.001},
            "trainer": {"max_epochs": 2, "callbacks": []},
        }
    )
    for key, value in (settings or {}).items():
        OmegaConf.update(config, key, value, force_add=True)
    text = OmegaConf.to_yaml(config)
    group = OmegaConf.merge(config, {"seed": 0})
    labels = draw_labels(num_images, num_classes)
    test = draw_logits(labels, skill, int(_hash(text)[:8], 16), num_classes)
    folder = root / "shapes" / model.replace("/", "") / f"seed{seed}" / _hash(text)[:6]
    (folder / "predictions").mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    index = np.arange(num_images)
    for split, scale in (("test", 1.0), ("val", 1.2)):
        path = folder / "predictions" / f"{split}.npz"
        np.savez(path, logits=(scale * test).astype(np.float32), labels=labels, index=index)
    accuracy = float(np.mean(test.argmax(axis=1) == labels))
    loss = -float(log_softmax(test.astype(float), axis=1)[index, labels].mean())
    record = {
        "schema": 1,
        "status": "finished",
        "model": model,
        "data": "shapes",
        "seed": seed,
        "weights": None,
        "split_hash": "5" * 16,
        "test_hash": f"{num_classes:06d}{num_images:010d}",
        "config_hash": _hash(text),
        "group_hash": _hash(OmegaConf.to_yaml(group)),
        "classes": [f"class {n}" for n in range(num_classes)],
        "num_params": 1000 + len(model),
        "num_test": num_images,
        "num_epochs": 2,
        "best_epoch": 2,
        "input_size": 32,
        "num_threads": 1,
        "device": "cpu",
        "precision": "32-true",
        "seconds_total": 12.0,
        "images_per_second": 50.0,
        "train_seconds": 12.0,
        "versions": {"torch": "2.14.1"},
        "git_commit": "a" * 40,
        "command": f"python train.py model={model} seed={seed}",
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:01:00+00:00",
        "metrics": {"val/accuracy": accuracy, "test/accuracy": accuracy, "test/loss": loss},
    }
    (folder / "run.json").write_text(json.dumps(record | metadata))
    write_curve(folder, accuracy)
    return folder


def write_curve(folder: Path, accuracy: float) -> None:
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss", "val/loss", "val/accuracy"])
        for epoch in (1, 2):
            writer.writerow([epoch, 10 * epoch - 5, 2.0 / epoch, "", ""])
            writer.writerow([epoch, 10 * epoch, 1.5 / epoch, "", ""])
            writer.writerow([epoch, 10 * epoch, "", 1.0 / epoch, accuracy * epoch / 2])


def change_record(folder: Path, **metadata: Any) -> None:
    """Edit `run.json` by hand."""
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | metadata))


def change_predictions(folder: Path, split: str = "test", **arrays: NDArray[Any]) -> None:
    """Replace arrays of a split's predictions."""
    path = folder / "predictions" / f"{split}.npz"
    with np.load(path) as file:
        unchanged = dict(file)
    np.savez(path, **(unchanged | arrays))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
