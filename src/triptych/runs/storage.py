"""Files that are whole or absent, locks on what one process writes, and bounds on what is read."""

import csv
import fcntl
import logging
import math
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rich.filesize import decimal

from triptych.errors import UserError
from triptych.runs.durations import PROGRESS_FILE

log = logging.getLogger(__name__)
# What a spreadsheet calculates, after a quote or white space too; some do so after wide signs.
FORMULA = re.compile(r"[\s'\"]*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r]")
# Of a text, by its suffix or name: no run writes one near it.
MAX_TEXT_BYTES = {".csv": 64_000_000, ".json": 64_000_000, "run.json": 8_000_000, ".yaml": 100_000}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path`, whole and on disk, when the block ends."""
    # Part of the name only: with the number it must not be longer than a name may be.
    temporary = path.with_name(f".{path.name[-40:]}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.touch(exist_ok=False)  # new, so that no link of that name is followed
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, the head first, in UTF-8; texts by `escape_formulas`."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        csv.writer(file).writerows(map(escape_formulas, rows))  # with \r\n, quoted both in a cell


def escape_formulas(row: Iterable[object]) -> list[object]:
    """The row with a ' before each text that a spreadsheet would calculate."""
    return [f"'{c}" if isinstance(c, str) and FORMULA.match(c) else c for c in row]


@contextmanager
def translate_write_errors(label: str) -> Iterator[None]:
    """Raise UserError, which begins with `label`, where the block cannot write."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{label}: cannot be written to ({error})") from error


def make_folder(parent: Path, name: str) -> Path:
    """A new folder of that name, with a number after it where the name is taken."""
    with suppress(FileNotFoundError):  # any other error, as of too long a path, before it is made
        Path(parent, name, *"f" * 100).lstat()
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in ["", *(f"_{n}" for n in range(2, 1000))]:
        folder = parent / f"{name}{suffix}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(parent / name)


def format_size(folder: Path) -> str:
    """The size of a folder's files, as 3.2 MB."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # of a logger that is at work, or a link of its own
            size += path.lstat().st_size if path.is_file() else 0
    return decimal(size)


def replace_non_finite(value: Any) -> Any:
    """The value with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: replace_non_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_regular_file(path: Path) -> Path:
    """The path; raises OSError at a link, which may lead anywhere, at a FIFO or a device, which
    would block its reader, and at a text that would fill its memory."""
    if path.is_symlink():
        raise OSError(f"{path} is a link, and might lead anywhere")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file")
    most = MAX_TEXT_BYTES.get(path.name, MAX_TEXT_BYTES.get(path.suffix))
    if most and path.is_file() and path.stat().st_size > most:
        raise OSError(f"{path} is longer than {decimal(most)}")
    return path


def acquire_lock(path: Path, *, wait: bool = False) -> IO[str]:
    """Open `path` and hold its lock until the file is closed, here and in every child that has it.

    The system closes it when a process ends, however that ends. Raises BlockingIOError where
    another process holds it, unless `wait`. A file system without locks, as some network ones are,
    grants every lock, with a warning.
    """
    file = open(path, "a+", opener=open_no_follow)  # noqa: SIM115 (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        raise
    except OSError as error:
        log.warning("%s: this file system has no locks (%s)", path, error.strerror)
        return file
    if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
        return file
    file.close()  # its last holder deleted it after it was opened here
    return acquire_lock(path, wait=wait)


def release_lock(file: IO[str]) -> None:
    """Delete the lock file and let other processes acquire it."""
    with suppress(OSError):  # of a disk that has become read-only; none holds what is left
        Path(file.name).unlink()
    file.close()


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock while the block lasts.

    Raises UserError where another process holds it, or where the folder cannot be written to.
    """
    path = folder / ".lock"
    with translate_write_errors(str(folder)):
        try:
            file = acquire_lock(path)
        except BlockingIOError as error:
            holder = path.read_text() if path.exists() else "another process"
            raise UserError(
                f"{folder}: {holder} is at work on this run\nwait for it, or stop it"
            ) from error
        with suppress(OSError):  # on a full disk it holds without a name
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / PROGRESS_FILE).unlink(missing_ok=True)
        release_lock(file)


def open_no_follow(path: str, flags: int) -> int:
    """An opener that follows no link, of either kind, and does not wait at a FIFO."""
    number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if os.fstat(number).st_nlink > 1:
        os.close(number)
        raise OSError(f"{path} is a hard link to another file; delete it")
    return number
