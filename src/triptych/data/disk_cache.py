"""What is made of images once and kept on disk: where it lies, under what name."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import DTypeLike
from rich.console import Console
from rich.progress import track
from torch import Tensor


def data_dir() -> Path:
    """Where large files lie: DATA_DIR, else `data/`."""
    return Path(os.path.expanduser(os.environ.get("DATA_DIR") or "data")).absolute()


def hash_json(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def map_tensor(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> Tensor:
    """A file as a tensor, which nobody may write to; raises ValueError where it is too short.

    A map that may be written, as torch makes them, would have to fit into memory.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(np.memmap(path, dtype, "r", shape=shape))


def track_progress(starts: range, description: str) -> Iterable[int]:
    """The starts, with a progress bar on a terminal."""
    return track(starts, description, console=Console(stderr=True))
