"""What is made or fetched once and kept on disk: where, under what name, by one process."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import DTypeLike
from rich.console import Console
from rich.progress import track
from torch import Tensor

from triptych.errors import UserError
from triptych.runs.storage import acquire_lock


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


@contextmanager
def lock_file(path: Path, settings: str = "DATA_DIR") -> Iterator[None]:
    """Keep other processes from making `path` at the same time (flock on `<path>.lock`).

    Raises UserError if the disk refuses something meanwhile (no space, no permission, a file in
    place of a folder); the message names the `settings` that say where `path` lies.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_path = path.with_name(f"{path.name}.lock")
        try:
            lock = acquire_lock(lock_path)
        except BlockingIOError:
            message = f"{path.name}: waiting for another process that is making it"
            Console(stderr=True).print(message, soft_wrap=True, markup=False)
            lock = acquire_lock(lock_path, wait=True)
        with lock:
            yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: {error.strerror or error}\n"
            f"set {settings} to a folder with space that can be written"
        ) from error
