"""Files that are whole or not there, and what they can hold."""

import fcntl
import logging
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.filesize import decimal

from triptych.errors import UserError

TEXTS = (".json", ".yaml", ".csv")
LONGEST_TEXT = 64_000_000  # bytes; no run comes near it


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path`, whole and on disk, when the block ends."""
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(told: str, path: Path) -> None:
    """Raise UserError, beginning with what was `told`, where `replacing` could never put a file."""
    if os.path.isdir(path):
        raise UserError(f"{told}: is a folder")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # the name is too long, or what is above it is no folder
        raise UserError(f"{told}: cannot be written ({error.strerror})") from error


def _beside(path: Path) -> Path:
    """A name that this process alone gives; short, for a file's own may be as long as can be."""
    return path.with_name(f".{path.name[-40:]}.{os.getpid()}")


def find_temporary_files(folder: Path) -> Iterator[Path]:
    """What a killed `replacing` has left in a folder or below it."""
    named = re.compile(r"\..+\.\d+", re.DOTALL)
    return (path for path in folder.rglob(".*") if named.fullmatch(path.name))


def check_regular_file(path: Path) -> Path:
    """The path; raises OSError at what would keep a reader waiting, as a FIFO does, and at an
    endless text."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} is no regular file")
    if is_too_long(path):
        raise OSError(f"{path.name} is longer than {decimal(LONGEST_TEXT)}")
    return path


def is_too_long(path: Path) -> bool:
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


def format_size(folder: Path) -> str:
    """What a folder's files take, as 3.2 MB."""
    return decimal(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def replace_non_finite(value: Any) -> Any:
    """The value with null in place of every number that JSON does not know."""
    if isinstance(value, dict):
        return {key: replace_non_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# One process at a time in a run folder: the one that holds `flock` on its file `.lock`.
#
# The system lets go of the lock when a process ends, however it ends; the file names the holder. On
# a file system that knows no `flock` (some network ones) that name is all there is: a process of
# this machine is looked for, one of another machine counts as alive until the file is deleted.

HOLDER = re.compile(r"([1-9]\d{0,8}) on ([\w.-]{1,255})", re.ASCII)
TRIES = 5  # for `held`, too, takes the lock, but for a moment


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold a run folder while the block lasts.

    Raises UserError where another process holds it, or where the folder cannot be written to.
    """
    path = folder / ".lock"
    with _open(path) as file:
        os.register_at_fork(after_in_child=file.close)  # a worker may outlive the run
        if not _acquire(file, path):
            raise UserError(
                f"{folder}: process {_read_holder(path) or 'unknown'} is at work on this run\n"
                f"wait for it or stop it; where there is no such process, delete {path}"
            )
        _write_holder(file, folder)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _open(path: Path) -> IO[str]:
    try:
        return open(path, "a+", opener=open_no_follow)
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written to ({error.strerror or error})"
        ) from error


def _write_holder(file: IO[str], folder: Path) -> None:
    try:
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror or error})") from error


def is_locked(folder: Path) -> bool:
    """Whether a living process holds the run folder."""
    path = folder / ".lock"
    try:
        with open(path, opener=open_no_follow) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return _may_be_alive(path)
    return False


def _acquire(file: IO[str], path: Path) -> bool:
    """Whether the lock is ours now, and `path` still the file that we locked."""
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
            continue
        except OSError:  # no flock here
            return not _may_be_alive(path)
        return _is_at(path, file)
    return False


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether the open file is the one at `path`: an earlier holder has removed its own."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _may_be_alive(path: Path) -> bool:
    """Whether the process that the file names may be alive, by its name alone."""
    pid, _, host = _read_holder(path).partition(" on ")
    if not pid or host != socket.gethostname():
        return bool(pid)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return int(pid) != os.getpid()


def _read_holder(path: Path) -> str:
    """`<pid> on <host>`, as the file says; empty where it says nothing of the kind."""
    try:
        with open(path, errors="replace", opener=open_no_follow) as file:
            return found[0] if (found := HOLDER.fullmatch(file.read(300))) else ""
    except OSError:
        return ""


def open_no_follow(path: str, flags: int) -> int:
    """An opener that follows no link, nor waits for a FIFO."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
