"""One image file, of any format and kind that Pillow decodes, as RGB pixels; no torch here.

A file may come from anybody, so what bounds the time and memory of its decoding is known before it
starts, or it is decoded in a process that ends: `triptych.data.decoder` decides.

Shapes: H, W pixels of an image; S pixels a side of a square.
"""

import io
import re
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL import __version__ as pillow
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from triptych.errors import sanitize_text

FITS = ("crop", "pad", "stretch")  # how an image becomes a square
MAX_PIXELS = 64_000_000  # a header may promise any number, and all of them are held at once
MAX_SIDE = 2**16  # pixels; JPEG has no more, and a resize may keep all rows of an image a while
MAX_SECONDS = 30  # of processor time; 64 million pixels of an ordinary file take about one
MAX_SCANS = 100  # of a JPEG, each goes over all pixels; libtiff's limit, encoders write about 10
SCAN, END = b"\xff\xda", b"\xff\xd9"
MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")  # of a JPEG, with a length behind it
BACKDROP = "white"  # what shows through where an image is transparent
COMMON = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
BOUNDED = (*COMMON, "MPO", "AVIF", "PPM", "TGA")  # their time grows with bytes and pixels alone
# EPS and WMF are programs that another program runs; of the others Pillow knows only the names.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
with suppress(ImportError):  # the extra `heic`
    from pillow_heif import register_heif_opener

    register_heif_opener()
SUFFIXES = Image.registered_extensions()  # fills Image.OPEN, too
HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1")  # how its files begin, after 4 bytes
NEEDS_HEIC = "HEIC needs: pip install 'pillow-heif>=1.0'"
DEEP_COLOUR = re.compile(r"'(RGB\w?|LA);16[BLN]'")  # as Pillow calls 16 bits a channel
# By Pillow's names, in the order in which they are tried.
FORMATS = (*COMMON, *sorted(Image.OPEN.keys() - NOT_DECODED - {*COMMON}))
# An MPO is a JPEG with more of them behind it, and is read as one.
IMAGE_SUFFIXES = frozenset(s for s, kind in SUFFIXES.items() if kind in (*FORMATS, "MPO"))
IMAGE_SUFFIXES |= {".heic", ".heif"}  # taken for photos in any case, so that none is lost unnamed
# What makes pixels of a file: a change of it decodes photos again.
DECODERS = f"{pillow}{'+heif' * ('HEIF' in FORMATS)}"


class Unreadable(Exception):
    """A file that gives no image; the reason in one line."""


class Unbounded(Exception):
    """A file whose decoding may take any time and memory."""


def decode_image(
    source: Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    side: int | None = None,
    max_value: float | None = None,
    bounded: bool = False,
) -> Image.Image:
    """The (first) image of a file, upright, RGB, 8 bits a channel, over white where transparent.

    EXIF orientation is obeyed. Grey of 16 bits is scaled by its full range, grey of 32 bits and
    fractions by their own range if they leave [0, 65535] or [0, 1]; with `max_value`, all of them
    by that: it is white, and so is what is above. Colours of 16 bits are scaled alike, but Pillow
    reads the upper 8 of them alone. `info` of such an image has `max_value`, the largest that it
    holds, and `own_range`. Several threads may call this at once. With `side`, a JPEG may be
    decoded at a smaller scale, with no side shorter than twice that: several times as fast. Raises
    Unreadable for every other file, for one whose header names more than `max_pixels`, or more than
    `MAX_SIDE` in a row, before these are decoded, and for one that takes more than `MAX_SECONDS`;
    with `bounded`, Unbounded for a format that is not one of `BOUNDED`.
    """
    # What Pillow warns of is decoded or refused below. Not restored, because of other threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS or 0)
    try:
        if isinstance(source, Path) and not source.is_file():  # opening a pipe would wait for ever
            raise Unreadable("no file")
        raw = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb", buffering=0)
        with TimedFile(raw) as file, Image.open(file, formats=formats) as image:
            check_size(image, max_pixels)
            if bounded and image.format not in BOUNDED:
                raise Unbounded
            check_work(image, file, max_pixels)
            is_deep_colour = DEEP_COLOUR.search(str(image.tile))
            if side:
                image.draft(None, (2 * side, 2 * side))
            image.load()
            check_size(image, max_pixels)  # an icon's header may name less than it holds
            with suppress(Exception):  # EXIF that cannot be read turns nothing
                ImageOps.exif_transpose(image, in_place=True)
            pixels = convert_to_rgb(image, max_value)
            return scale_colours(pixels, max_value) if is_deep_colour else pixels
    except Image.DecompressionBombError as error:
        raise Unreadable(f"more than max_pixels={max_pixels}") from error
    except UnidentifiedImageError as error:
        raise Unreadable(explain_unknown(source)) from error
    except (Unreadable, Unbounded):
        raise
    except Exception as error:  # of decoders of many authors, fed with anything: all kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(sanitize_text(reason.splitlines()[0])[:200]) from error


def explain_unknown(source: Path | bytes) -> str:
    """Why Pillow knows no format of a file."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        is_heic = file.read(12)[4:] in HEIC
    if is_heic and "HEIF" not in FORMATS:
        return NEEDS_HEIC
    return "no image, or of a format that is not decoded here"


class TimedFile(io.BufferedReader):
    """A file that cannot be read any more once its thread has worked for `MAX_SECONDS`."""

    def __init__(self, raw: io.RawIOBase | io.BytesIO) -> None:
        super().__init__(raw)
        self.end = time.thread_time() + MAX_SECONDS
        self.num_reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.num_reads += 1
        if self.num_reads % 50 == 0 and time.thread_time() > self.end:  # a look is slow
            raise Unreadable(f"takes more than {MAX_SECONDS} s to decode")
        return super().read(size)


def check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise Unreadable(f"{image.width}x{image.height} pixels, more than max_pixels={max_pixels}")
    if max(image.size) > MAX_SIDE:
        raise Unreadable(f"{image.width}x{image.height} pixels, more than {MAX_SIDE} a side")


def check_work(image: Image.Image, file: TimedFile, max_pixels: int) -> None:
    """Raise Unreadable if a few bytes are to be decoded many times over."""
    if isinstance(image, JpegImageFile):
        file.seek(0)
        if count_scans(file.read(2**29)) > MAX_SCANS:
            raise Unreadable(f"a JPEG of more than {MAX_SCANS} scans")
    elif isinstance(image, TiffImageFile):
        tags, tag = image.tag_v2, ExifTags.Base
        width, height = tags.get(tag.TileWidth, 1), tags.get(tag.TileLength, 1)
        columns, rows = -(-image.width // width), -(-image.height // height)
        if columns * width * rows * height > 2 * max_pixels:
            raise Unreadable(f"tiles of {width}x{height} pixels")
        num_bytes = file.seek(0, io.SEEK_END)
        parts = (*tags.get(tag.StripByteCounts, ()), *tags.get(tag.TileByteCounts, ()))
        if sum(min(part, num_bytes) for part in parts) > num_bytes + 4 * max_pixels:
            raise Unreadable("a TIFF whose parts lie upon each other")


def count_scans(data: bytes) -> int:
    """Of a JPEG, up to the end of the (first) image; past `MAX_SCANS` it stops to count."""
    if (num_scans := data.count(SCAN)) <= MAX_SCANS:  # at most, and nearly always the end of it
        return num_scans
    num_scans, position = 0, 2
    while num_scans <= MAX_SCANS and (marker := MARKER.search(data, position)):
        if marker[0] == END:
            break
        num_scans += marker[0] == SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return num_scans


def convert_to_rgb(image: Image.Image, max_value: float | None = None) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # grey of more than 8 bits, or fractions
        values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
        largest = float(values.max())
        low, high = np.float32(0), np.float32(max_value or (1 if image.mode == "F" else 65535))
        own_range = max_value is None and bool(values.min() < low or largest > high)
        if own_range:
            low, high = values.min(), values.max()
        values = np.rint((values - low).clip(0, high - low) * (255 / (high - low or 1)))
        grey = Image.fromarray(values.astype(np.uint8)).convert("RGB")
        grey.info |= {"max_value": largest, "own_range": own_range}
        return grey
    if not image.has_transparency_data:
        return image.convert("RGB")
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, BACKDROP), above).convert("RGB")


def scale_colours(image: Image.Image, max_value: float | None) -> Image.Image:
    """Colours of 16 bits, of which there are the upper 8, as `convert_to_rgb` scales grey."""
    largest = 256.0 * max(high for _, high in image.getextrema()) + 255  # type: ignore[misc]
    if max_value:
        image = image.point(lambda value: min(255, round(257 * value / max_value * 255)))
    image.info |= {"max_value": largest, "own_range": False}
    return image


def square(image: Image.Image, side: int, fit: str = "crop") -> NDArray[np.uint8]:
    """An RGB image as pixels (3, S, S), S = `side`; bicubic, antialiased where it shrinks.

    `crop` takes the middle, `pad` all of it between black bars, `stretch` all of it in other
    proportions.
    """
    left, top, right, bottom = 0.0, 0.0, float(image.width), float(image.height)
    width = height = side
    if fit == "crop":
        short = min(image.size)
        left, top = ((length - short) / 2 for length in image.size)
        right, bottom = left + short, top + short
    elif fit == "pad":
        width, height = (round(length / max(image.size) * side) for length in image.size)
    squared = Image.new("RGB", (side, side), "black")
    if width and height:
        # Across, then down: in one call the order, and with it a few pixels, is up to the version.
        across = image.resize((width, image.height), box=(left, 0, right, image.height))
        down = across.resize((width, height), box=(0, top, width, bottom))
        squared.paste(down, (round((side - width) / 2), round((side - height) / 2)))
    return np.ascontiguousarray(np.asarray(squared).transpose(2, 0, 1))
