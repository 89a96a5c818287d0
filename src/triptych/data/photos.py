"""One image file, of any format and kind that Pillow decodes, as RGB pixels; no torch here.

Shapes: H, W pixels of an image; S pixels a side of a square.
"""

import hashlib
import io
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import __version__ as pillow
from rich.filesize import decimal
from torch import Tensor

from triptych.data.disk_cache import data_dir, hash_json, lock_file, memmap_tensor, track_progress
from triptych.errors import UserError, sanitize_text
from triptych.runs.storage import atomic_write

MAX_PIXELS = 64_000_000  # a header may promise any number, and all of them are held at once
BACKDROP = "white"  # what shows through where an image is transparent
# EPS and WMF are programs that another program runs, of the others Pillow knows the name alone.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SUFFIXES = Image.registered_extensions()
COMMON = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# By Pillow's names, in the order in which they are tried.
FORMATS = (*COMMON, *sorted(Image.OPEN.keys() - NOT_DECODED - {*COMMON}))
# An MPO is a JPEG with more of them behind it, and is read as one.
IMAGE_SUFFIXES = frozenset(s for s, kind in _SUFFIXES.items() if kind in (*FORMATS, "MPO"))


class Unreadable(Exception):
    """A file that gives no image; the reason in one line."""


def read_image(
    source: Path | bytes | BinaryIO,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    side: int | None = None,
) -> Image.Image:
    """The (first) image of a file, upright, RGB, 8 bits a channel, over white where transparent.

    EXIF orientation is obeyed. Grey of 16 bits is scaled by its full range, grey of 32 bits and
    fractions by their own range where they leave [0, 65535] or [0, 1]. A file may be read from
    several threads at once. Where `side` is given, a JPEG may be decoded at a smaller scale, with
    no side shorter than twice that: several times as fast. Raises Unreadable for every other file,
    and for one whose header names more than `max_pixels`, before these are decoded.
    """
    # What Pillow warns of is decoded all the same or refused below. Not restored: other threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS or 0)
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if isinstance(source, Path) and not source.is_file():  # a pipe would keep us waiting
            raise Unreadable("no file")
        with Image.open(opened, formats=formats) as image:
            _check_size(image, max_pixels)
            if side:
                image.draft(None, (2 * side, 2 * side))
            image.load()
            _check_size(image, max_pixels)  # of an icon the header told less than the truth
            return _eight_bit_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise Unreadable(f"more than max_pixels={max_pixels}") from error
    except UnidentifiedImageError as error:
        raise Unreadable("no image, or of a format that is not decoded here") from error
    except Unreadable:
        raise
    except Exception as error:  # of decoders of many authors, fed with anything: all kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(sanitize_text(reason.splitlines()[0])[:200]) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise Unreadable(f"{image.width}x{image.height} pixels, more than max_pixels={max_pixels}")


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # EXIF that cannot be read turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _scaled(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, BACKDROP), above).convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Grey values of more than 8 bits, or fractions, in a byte each."""
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
    low, high = np.float32(0), np.float32(1 if image.mode == "F" else 65535)
    if values.min() < low or values.max() > high:
        low, high = values.min(), values.max()
    return Image.fromarray(np.rint((values - low) * (255 / (high - low or 1))).astype(np.uint8))


def _crop(image: Image.Image, side: int) -> Image.Image:
    short = min(image.size)
    left, top = ((length - short) / 2 for length in image.size)
    return _resized(image, (left, top, left + short, top + short), (side, side))


def _pad(image: Image.Image, side: int) -> Image.Image:
    width, height = (round(length / max(image.size) * side) for length in image.size)
    padded = Image.new("RGB", (side, side), "black")
    if width and height:
        shrunk = _resized(image, (0, 0, *image.size), (width, height))
        padded.paste(shrunk, (round((side - width) / 2), round((side - height) / 2)))
    return padded


def _stretch(image: Image.Image, side: int) -> Image.Image:
    return _resized(image, (0, 0, *image.size), (side, side))


def _resized(
    image: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Image.Image:
    """Across, then down: in one call the order, and with it a few pixels, is up to the version."""
    left, top, right, bottom = box
    across = image.resize((size[0], image.height), box=(left, 0, right, image.height))
    return across.resize(size, box=(0, top, size[0], bottom))


FITS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "crop": _crop,  # the middle, as wide as high
    "pad": _pad,  # all of it, between black bars
    "stretch": _stretch,  # all of it, in other proportions
}


def square(image: Image.Image, side: int, fit: str = "crop") -> NDArray[np.uint8]:
    """An RGB image as pixels (3, S, S), S = `side`; bicubic, antialiased where it shrinks."""
    pixels = np.asarray(FITS[fit](image, side))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


# Squares of pixels, decoded once from files and mapped from disk ever after.
#
# Shapes: N images, S pixels a side.

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
    stored of an earlier state of the folder goes. Of several processes one decodes.
    Raises UserError where the disk does not take them.
    """
    folder = data_dir() / ".folders"
    place = hash_json(str(root.resolve()), kind)
    index = folder / f"{place}-{hash_json(kind, files, pillow)}.json"
    found = _opened(index, kind)
    if found is None:
        with lock_file(folder / place):
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
        track_progress = json.loads(index.read_text())
        shape = (len(track_progress["sums"]), 3, kind.side, kind.side)
        if pixels.stat().st_size != math.prod(shape):
            return None
        images = _mapped(pixels, shape) if shape[0] else torch.empty(shape, dtype=torch.uint8)
    except (OSError, ValueError):
        return None
    return Stored(images, track_progress["sums"], track_progress["unreadable"], index)


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A file's bytes, not to be written to. Of any size: a map that may be written, as torch makes
    them, must fit into memory, or the system refuses it."""
    return memmap_tensor(np.memmap(path, np.uint8, "r", shape=shape))


def _decode(root: Path, files: Sequence[File], kind: Square, index: Path) -> None:
    needed = len(files) * 3 * kind.side**2
    if needed > (free := shutil.disk_usage(index.parent).free):
        raise UserError(
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
        with atomic_write(index) as path:
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
        for start in track_progress(range(0, len(files), AT_ONCE), "Decoding photos"):
            some = files[start : start + AT_ONCE]
            yield from zip(some, pool.map(decode, some), strict=True)


def _square(root: Path, kind: Square, file: File) -> NDArray[np.uint8] | Unreadable:
    try:
        image = read_image(root / file.name, max_pixels=kind.max_pixels, side=kind.side)
        return square(image, kind.side, kind.fit)
    except Unreadable as error:
        return error
