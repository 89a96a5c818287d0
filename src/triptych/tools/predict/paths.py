"""Which images are meant, and where answers may be written. Knows nothing of torch."""

import glob
import os
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import NoReturn

from triptych.data.photos import IMAGE_SUFFIXES
from triptych.errors import UserError
from triptych.runs.storage import check_writable


def find_images(places: Sequence[str]) -> list[str]:
    """Paths in the order of the places, those of a folder or a glob by name.

    A file is taken whatever its name; of a folder, and of those below it, the files that are
    images by their suffix, hidden ones left out. Raises UserError where a place has none, or a folder
    cannot be read.
    """
    found: list[str] = []
    for place in places:
        starts = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
        paths = [path for start in starts for path in _images_of(start)]
        if not paths:
            raise UserError(
                f"images={place}: no image there{'' if starts else ', there is no such file'}; "
                "take a file, a folder, a glob in quotes, a list of them, or -"
            )
        found += paths
    return found


def _images_of(start: str) -> Iterator[str]:
    if not os.path.isdir(start):
        yield start
        return
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(start, onerror=_refuse, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        real = os.path.realpath(folder)
        if real in seen:  # by a link
            subfolders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(folder, name) for name in sorted(names) if _is_image(name))


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"images: {error.filename}: {error.strerror}") from error


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def read_paths(stream: BufferedReader) -> Iterator[str]:
    """Paths one a line, or each ended by NUL, as they come; blank lines name none.

    Raises UserError at once where nothing comes, or what comes is no text.
    """
    first = stream.peek()
    if not first:
        raise UserError("images=-: nothing came; paths are expected, one a line")
    if b"\0" not in first:
        return (os.fsdecode(path) for line in stream if (path := line.rstrip(b"\r\n")))
    if not os.path.lexists(first.partition(b"\0")[0]):
        raise UserError(
            "images=-: paths are expected, one a line or each ended by NUL, not an image itself\n"
            "save it to a file and name that"
        )
    return (os.fsdecode(path) for path in _ended_by_nul(stream) if path)


def _ended_by_nul(stream: BufferedReader) -> Iterator[bytes]:
    """What `find -print0` writes."""
    rest = b""
    while chunk := stream.read1():
        *paths, rest = (rest + chunk).split(b"\0")
        yield from paths
    yield rest


def check_output(setting: str, path: Path, suffixes: Sequence[str], overwrite: bool) -> None:
    """Raise UserError unless a file of one of the suffixes can be written there."""
    told = f"{setting}={path}"
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{told}: must end in {' or '.join(suffixes)}")
    check_writable(told, path)
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{told}: exists; overwrite=true replaces it")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{told}: {path.parent} is no folder that can be written to")
