"""Files that are whole or not there, and what they can hold."""

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from triptych import Refused

TEXTS = (".json", ".yaml", ".csv")
LONGEST_TEXT = 64_000_000  # bytes; no run comes near it


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path`, whole and on disk, when the block ends."""
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_file(told: str, path: Path) -> None:
    """Raise Refused, beginning with what was `told`, where `replacing` could never put a file."""
    if os.path.isdir(path):
        raise Refused(f"{told}: is a folder")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # the name is too long, or what is above it is no folder
        raise Refused(f"{told}: cannot be written ({error.strerror})") from error


def _beside(path: Path) -> Path:
    """A name that this process alone gives; short, for a file's own may be as long as can be."""
    return path.with_name(f".{path.name[-40:]}.{os.getpid()}")


def halves(folder: Path) -> Iterator[Path]:
    """What a killed `replacing` has left in a folder or below it."""
    named = re.compile(r"\..+\.\d+", re.DOTALL)
    return (path for path in folder.rglob(".*") if named.fullmatch(path.name))


def regular(path: Path) -> Path:
    """The path; raises OSError at what would keep a reader waiting, as a FIFO does, and at an
    endless text."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} is no regular file")
    if is_endless(path):
        raise OSError(f"{path.name} is longer than {decimal(LONGEST_TEXT)}")
    return path


def is_endless(path: Path) -> bool:
    """Whether it is a text that might fill the memory of its reader."""
    return path.suffix in TEXTS and path.is_file() and path.stat().st_size > LONGEST_TEXT


def make_folder(parent: Path, name: str) -> Path:
    """A new folder of that name, with a number behind it where two collide."""
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in ["", *(f"_{n}" for n in range(2, 1000))]:
        try:
            (parent / f"{name}{suffix}").mkdir()
        except FileExistsError:
            continue
        return parent / f"{name}{suffix}"
    raise FileExistsError(parent / name)


class LogFile(logging.FileHandler):
    """Silent about a full disk: a run ends by the first write that matters, with one message."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def size_of(folder: Path) -> str:
    """What a folder's files take, as 3.2 MB."""
    return decimal(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def finite(value: Any) -> Any:
    """The value with null in place of every number that JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
