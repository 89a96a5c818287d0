"""What a frozen backbone makes of images: computed once, and mapped from disk ever after.

Shapes: N images, F features.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.filesize import decimal
from torch import Tensor

from triptych import Refused, download
from triptych.data.keeping import as_tensor, data_dir
from triptych.files import replacing

MOST_BYTES = 8 * 10**9  # of all features on disk; the least recently used go first
NOISE = 0.02  # relative: of bfloat16, where another size of batch takes another kernel


class Kept(NamedTuple):
    features: Tensor  # float (N, F), to be read only
    seconds: float  # until this or another process had computed them, 0 where they lay on disk
    is_awaited: bool = False  # another process did


def folder() -> Path:
    return data_dir() / ".features"


def kept(name: str, num_images: int, first: Tensor, batches: Iterable[Tensor]) -> Kept:
    """The features that lie under a name, else those of all `batches`, in order.

    `first` are those of the first images, float32 or float64: a file that begins otherwise, or has
    another size, is not trusted. Of several processes one computes, by going through its batches.
    Raises Refused where the disk does not take them.
    """
    path, shape = folder() / f"{name}.features", (num_images, first.shape[1])
    if (features := _opened(path, shape, first)) is not None:
        return Kept(features, 0.0)
    started, is_awaited = time.monotonic(), True
    with download.locked(path, "DATA_DIR"):
        if (features := _opened(path, shape, first)) is None:
            _write(path, num_images * first[0].nbytes, batches)
            features = _opened(path, shape, first)
            is_awaited = False
    if features is None:
        raise Refused(f"{path}: another time, the same images had other features")
    return Kept(features, time.monotonic() - started, is_awaited)


def _opened(path: Path, shape: tuple[int, int], first: Tensor) -> Tensor | None:
    """What is stored, mapped; None where there is nothing, or something else.

    The lock lasts as long as the map does: `_make_room` passes over what is in use.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # others' looks whether it is in use are short
            if os.fstat(file.fileno()).st_size != shape[0] * first[0].nbytes:
                return None
            features = as_tensor(np.memmap(file, first.numpy().dtype, "r", shape=shape))
    except OSError:
        return None
    with suppress(OSError):  # of a disk that is read-only
        os.utime(path)
    return features if near(features[: len(first)], first) else None


def near(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors differ by no more than `NOISE` of the latter's norm; never where NaN."""
    return bool((found - expected).norm() <= NOISE * expected.norm())


def _write(path: Path, num_bytes: int, batches: Iterable[Tensor]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with download.locked(path.with_name("room"), "DATA_DIR"):
            _make_room(path.parent, num_bytes)
            file.truncate(num_bytes)  # it counts from now on
        for batch in batches:
            file.write(batch.numpy().data)


def _make_room(parent: Path, num_bytes: int) -> None:
    """Unlink what was used least recently, and by no living process, until so many bytes fit in."""
    sizes, used_at = {}, {}
    for path in parent.iterdir():
        with suppress(FileNotFoundError):
            sizes[path], used_at[path] = path.stat().st_size, path.stat().st_mtime_ns
    excess = sum(sizes.values()) + num_bytes - MOST_BYTES
    for path in sorted(sizes, key=lambda path: used_at[path]):
        if excess > 0 and path.suffix != ".lock" and _unused(path):
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
            excess -= sizes[path]
    free = shutil.disk_usage(parent).free
    if excess > 0 or free < num_bytes:
        room = f"{decimal(free)} are free" if free < num_bytes else "others are in use"
        raise Refused(f"{parent}: features take {decimal(num_bytes)}, {room}")


def _unused(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
