"""Networks, and how a file of their weights is told from a name. Imports no torch."""

import os
from pathlib import Path

WEIGHT_SUFFIXES = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin", ".safetensors")


def is_weights_path(weights: str) -> bool:
    """Whether `model.weights` is a path: it ends as a file of weights does, or has a slash."""
    return weights.lower().endswith(WEIGHT_SUFFIXES) or "/" in weights


def find_weights(path: Path) -> Path:
    """The file of weights that a path names: itself, or in a run's folder that of the best ones."""
    best = path / "checkpoints" / "best.ckpt"
    return best if best.exists() else path


def is_mappable(path: Path) -> bool:
    """Whether torch can map a file of that name into memory: it must be UTF-8."""
    return str(path).encode(errors="ignore") == os.fsencode(path)
