"""The squares of photos, decoded once and kept on disk.

Shapes: N photos, S pixels a side.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.filesize import decimal
from torch import Tensor

from triptych.data.decoder import idle, read_image
from triptych.data.disk_cache import data_dir, hash_json, lock_file, map_tensor, track_progress
from triptych.data.names import encode_name
from triptych.data.photos import DECODERS, Unreadable, square
from triptych.errors import UserError
from triptych.runs.storage import atomic_write

AT_ONCE = 128  # photos decoded between two updates of the progress bar
BYTES_AT_ONCE = 2**28  # of their squares

Item = TypeVar("Item")
Result = TypeVar("Result")
Decoded = tuple[NDArray[np.uint8], dict[Any, Any]]  # (3, S, S), and Pillow's info


class Photo(NamedTuple):
    name: str  # its path below the root, as `names.decode_name` has it
    state: tuple[int, ...]  # what changes with the file, see `file_state`
    split: str  # train, val, test
    class_name: str
    group: str = ""  # by its name: photos that belong together, as those of one object


class SquareFormat(NamedTuple):
    """How a photo is stored: see `photos.square` and `photos.decode_image`."""

    side: int
    fit: str
    max_pixels: int
    max_value: float | None = None


class Squares(NamedTuple):
    images: Tensor  # uint8 (N, 3, S, S), read-only, in the order of the readable photos
    digests: list[str]  # of each image; equal if the pixels are equal
    unreadable: dict[str, str]  # why a photo, by its name, gave no image
    deep: list[float]  # the largest value of each photo of more than 8 bits, scaled by its type
    num_own_range: int  # photos of more than 8 bits that were each scaled by their own range
    index_path: Path  # of the file with digests and reasons
    states: str  # a hash of the photos' `state`s when they were decoded
    contents: str  # a hash of the photos' bytes
    num_above: int = 0  # photos with values above `max_value`


def file_state(path: Path) -> tuple[int, ...]:
    """Numbers of a file that do not all stay when its content changes: the system alone sets the
    time of its last change (`ctime`), while its size and `mtime` may be those of before."""
    status = path.stat() if path.exists() else path.lstat()  # a link to nowhere
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def load_squares(root: Path, photos: Sequence[Photo], form: SquareFormat) -> Squares:
    """The squares of photos below a root, decoded if photos are new or have changed.

    They lie in DATA_DIR (else `data/`), because the photos' own folder may be read-only; what was
    stored of an earlier state of the folder is deleted. Photos that were only copied or moved, to
    another machine's disk perhaps, are read again, not decoded. Of several processes one decodes.
    Raises UserError if the disk does not take them.
    """
    folder = data_dir() / ".folders"
    place = hash_json(str(root.resolve()), form)
    index = folder / f"{place}-{hash_json(form, [p.name for p in photos], DECODERS)}.json"
    states = hash_states(photos)
    squares = open_squares(index, form.side)
    if squares and squares.states == states:
        return squares
    with lock_file(folder / place):
        squares = open_squares(index, form.side)
        if squares and squares.states != states and squares.contents == hash_photos(root, photos):
            write_index(index, json.loads(index.read_text()) | {"states": states})
        elif not squares or squares.states != states:
            for old in folder.glob(f"*{place}-*"):
                old.unlink()
            decode_squares(root, photos, form, index)
        squares = open_squares(index, form.side)
    assert squares
    return squares


def hash_states(photos: Sequence[Photo]) -> str:
    return hash_json([photo.state for photo in photos])


def hash_photos(root: Path, photos: Sequence[Photo]) -> str:
    """A hash of the bytes of all photos."""
    with ThreadPoolExecutor() as pool:
        paths = (root / encode_name(photo.name) for photo in photos)
        return hash_json(*pool.map(hash_file, paths))


def hash_file(path: Path) -> str:
    """A hash of a file's bytes; of what cannot be read an empty text."""
    try:
        if path.is_file():  # a FIFO would keep its reader waiting
            with path.open("rb") as file:
                return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        pass
    return ""


def write_index(index: Path, content: dict[str, Any]) -> None:
    with atomic_write(index) as path:
        path.write_text(json.dumps(content))


def open_squares(index: Path, side: int) -> Squares | None:
    """What is stored, mapped; None if there is nothing, or less than there should be."""
    try:
        stored = json.loads(index.read_text())
        shape = (len(stored["digests"]), 3, side, side)
        images = torch.empty(shape, dtype=torch.uint8)
        if stored["digests"]:  # no map can be empty
            images = map_tensor(index.with_suffix(".u8"), np.uint8, shape)
    except (OSError, ValueError):
        return None
    return Squares(images, index_path=index, **stored)


def check_space(num: int, side: int, folder: Path) -> None:
    """Raise UserError where a disk has no space for so many squares."""
    num_bytes, free = 3 * side**2 * num, shutil.disk_usage(folder).free
    if num_bytes > free:
        raise UserError(
            f"data.size={side}: {num} photos take {decimal(num_bytes)} in {folder}, where "
            f"{decimal(free)} are free\nset DATA_DIR to another disk, or take a smaller size"
        )


def decode_photo(photo: Photo, root: Path, form: SquareFormat) -> tuple[str, Decoded | Unreadable]:
    """A hash of a photo's bytes, and its square or why there is none."""
    path = root / encode_name(photo.name)
    content = hash_file(path)  # first: of a photo that changes meanwhile it is not the square's
    options: dict[str, Any] = {"max_pixels": form.max_pixels, "max_value": form.max_value}
    try:
        image = read_image(path, side=form.side, **options)
        return content, (square(image, form.side, form.fit), image.info)
    except Unreadable as error:
        return content, error


def decode_in_order(
    items: Sequence[Item], decode: Callable[[Item], Result], side: int
) -> Iterator[Result]:
    """What `decode` makes of each item, by threads: Pillow releases Python's lock meanwhile."""
    at_once = max(1, min(AT_ONCE, BYTES_AT_ONCE // (3 * side**2)))
    with ThreadPoolExecutor() as pool:
        for start in track_progress(range(0, len(items), at_once), "Decoding photos"):
            yield from pool.map(decode, items[start : start + at_once])


def decode_squares(root: Path, photos: Sequence[Photo], form: SquareFormat, index: Path) -> None:
    check_space(len(photos), form.side, index.parent)
    decode = partial(decode_photo, root=root, form=form)
    contents, digests, unreadable, deep = list[str](), list[str](), dict[str, str](), list[float]()
    num_own_range, num_above = 0, 0
    with atomic_write(index.with_suffix(".u8")) as path, path.open("wb") as file:
        results = decode_in_order(photos, decode, form.side)
        for photo, (content, decoded) in zip(photos, results, strict=True):
            contents.append(content)
            if isinstance(decoded, Unreadable):
                unreadable[photo.name] = str(decoded)
                continue
            pixels, info = decoded
            file.write(pixels.data)
            digests.append(hashlib.blake2b(pixels.data, digest_size=8).hexdigest())
            num_own_range += info.get("own_range", False)
            if form.max_value is None and not info.get("own_range", True):
                deep.append(info["max_value"])
            num_above += info.get("max_value", 0) > (form.max_value or inf)
    idle.clear()  # ends the processes that decoded rare formats
    stored: dict[str, Any] = {"unreadable": unreadable, "digests": digests, "deep": deep}
    stored |= {"num_own_range": num_own_range, "num_above": num_above}
    stored |= {"states": hash_states(photos), "contents": hash_json(*contents)}
    write_index(index, stored)  # after the pixels: if there is an index, they are whole
