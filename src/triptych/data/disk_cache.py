"""What is made of images once, kept on disk and mapped from there: where, by what name."""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

LINE_SECONDS = 10.0


def data_dir() -> Path:
    """Where what is large lies: DATA_DIR, else `data/`."""
    return Path(os.environ.get("DATA_DIR") or "data").expanduser().absolute()


def hash_json(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def memmap_tensor(mapped: NDArray[Any]) -> Tensor:
    """A map that may only be read, as a tensor that nobody writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(mapped)


def track_progress(starts: range, doing: str) -> Iterator[int]:
    """The starts, with a bar on a terminal, elsewhere a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(starts, doing, console=console)
        return
    said_at = time.monotonic()
    for start in starts:
        if time.monotonic() - said_at >= LINE_SECONDS:
            said_at = time.monotonic()
            console.print(f"{doing}: {start} of {starts.stop}", soft_wrap=True)
        yield start
