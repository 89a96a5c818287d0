"""Squares of pixels, decoded once from files and mapped from disk ever after.

Shapes: N images, S pixels a side.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import __version__ as pillow
from rich.filesize import decimal
from torch import Tensor

from triptych import Refused, download
from triptych.data.keeping import as_tensor, data_dir, hashed, told
from triptych.data.photos import Unreadable, read_image, square
from triptych.files import replacing

AT_ONCE = 128  # files decoded between two looks at the clock


class Square(NamedTuple):
    """What is stored of a photo: see `photos.square` and `photos.read_image`."""

    side: int
    fit: str
    max_pixels: int


class File(NamedTuple):
    name: str  # below the root
    num_bytes: int
    mtime_ns: int


class Stored(NamedTuple):
    """`unreadable` has a reason for each file that gave no image, `sums` one for each that did."""

    images: Tensor  # uint8 (N, 3, S, S), to be read only, in the order of the readable files
    sums: list[str]  # equal where the pixels are equal
    unreadable: dict[str, str]
    told_in: Path  # where sums and reasons lie


def stored(root: Path, files: Sequence[File], kind: Square) -> Stored:
    """The squares of files below a root, decoded if they are new or changed since.

    They lie in DATA_DIR (else `data/`), for the photos' own folder may be read-only; what was
    stored of an earlier state of the folder goes. Of several processes one decodes. Raises Refused
    where the disk does not take them.
    """
    folder = data_dir() / ".folders"
    place = hashed(str(root.resolve()), kind)
    index = folder / f"{place}-{hashed(kind, files, pillow)}.json"
    found = _opened(index, kind)
    if found is None:
        with download.locked(folder / place, "DATA_DIR"):
            found = _opened(index, kind)
            if found is None:
                _decode(root, files, kind, index)
                for old in folder.glob(f"{place}-*"):
                    if old.stem != index.stem:
                        old.unlink()
                found = _opened(index, kind)
                assert found
    return found


def _opened(index: Path, kind: Square) -> Stored | None:
    """What is stored, mapped; None where there is nothing, or less than there should be."""
    pixels = index.with_suffix(".u8")
    try:
        told = json.loads(index.read_text())
        shape = (len(told["sums"]), 3, kind.side, kind.side)
        if pixels.stat().st_size != math.prod(shape):
            return None
        images = _mapped(pixels, shape) if shape[0] else torch.empty(shape, dtype=torch.uint8)
    except (OSError, ValueError):
        return None
    return Stored(images, told["sums"], told["unreadable"], index)


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A file's bytes, not to be written to. Of any size: a map that may be written, as torch makes
    them, must fit into memory, or the system refuses it."""
    return as_tensor(np.memmap(path, np.uint8, "r", shape=shape))


def _decode(root: Path, files: Sequence[File], kind: Square, index: Path) -> None:
    needed = len(files) * 3 * kind.side**2
    if needed > (free := shutil.disk_usage(index.parent).free):
        raise Refused(
            f"{index.parent}: {len(files)} squares of {kind.side} pixels take {decimal(needed)}, "
            f"{decimal(free)} are free\nset DATA_DIR to a folder with space, or a smaller data.size"
        )
    sums, unreadable = [], {}
    part = index.with_name(f"{index.stem.partition('-')[0]}.part")  # of a killed process: again
    try:
        with part.open("wb") as pixels:
            for file, decoded in _squares(root, files, kind):
                if isinstance(decoded, Unreadable):
                    unreadable[file.name] = str(decoded)
                else:
                    pixels.write(decoded.data)
                    sums.append(hashlib.blake2b(decoded.data, digest_size=8).hexdigest())
            pixels.flush()
            os.fsync(pixels.fileno())
        with replacing(index) as path:
            path.write_text(json.dumps({"root": str(root), "unreadable": unreadable, "sums": sums}))
            part.replace(index.with_suffix(".u8"))  # where the index is, the pixels are whole
    finally:
        part.unlink(missing_ok=True)


def _squares(
    root: Path, files: Sequence[File], kind: Square
) -> Iterator[tuple[File, NDArray[np.uint8] | Unreadable]]:
    """The files in their order, decoded in threads: Pillow lets go of Python meanwhile."""
    decode = partial(_square, root, kind)
    with ThreadPoolExecutor() as pool:
        for start in told(range(0, len(files), AT_ONCE), "Decoding photos"):
            some = files[start : start + AT_ONCE]
            yield from zip(some, pool.map(decode, some), strict=True)


def _square(root: Path, kind: Square, file: File) -> NDArray[np.uint8] | Unreadable:
    try:
        image = read_image(root / file.name, max_pixels=kind.max_pixels, side=kind.side)
        return square(image, kind.side, kind.fit)
    except Unreadable as error:
        return error
