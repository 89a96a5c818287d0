"""One process at a time in a run folder: the one that holds `flock` on its file `.lock`.

The system lets go of the lock when a process ends, however it ends; the file names the holder. On
a file system that knows no `flock` (some network ones) that name is all there is: a process of
this machine is looked for, one of another machine counts as alive until somebody deletes the file.
"""

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from triptych import Refused

HOLDER = re.compile(r"([1-9]\d{0,8}) on ([\w.-]{1,255})", re.ASCII)
TRIES = 5  # for `held`, too, takes the lock, but for a moment


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run folder while the block lasts.

    Raises Refused where another process holds it, or where the folder cannot be written to.
    """
    path = folder / ".lock"
    with _opened(path) as file:
        os.register_at_fork(after_in_child=file.close)  # a worker may outlive the run
        if not _taken(file, path):
            raise Refused(
                f"{folder}: process {_holder(path) or 'unknown'} is at work on this run\n"
                f"wait for it or stop it; where there is no such process, delete {path}"
            )
        _sign(file, folder)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _opened(path: Path) -> IO[str]:
    try:
        return open(path, "a+", opener=no_link)
    except OSError as error:
        raise Refused(f"{path.parent}: cannot be written to ({error.strerror or error})") from error


def _sign(file: IO[str], folder: Path) -> None:
    try:
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError as error:
        raise Refused(f"{folder}: cannot be written to ({error.strerror or error})") from error


def held(folder: Path) -> bool:
    """Whether a living process holds the run folder."""
    path = folder / ".lock"
    try:
        with open(path, opener=no_link) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return _may_live(path)
    return False


def _taken(file: IO[str], path: Path) -> bool:
    """Whether the lock is ours now, and `path` still the file that we locked."""
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
            continue
        except OSError:  # no flock here
            return not _may_live(path)
        return _lies_at(path, file)
    return False


def _lies_at(path: Path, file: IO[str]) -> bool:
    """Whether the open file is the one at `path`: an earlier holder has removed its own."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _may_live(path: Path) -> bool:
    """Whether the process that the file names may be alive, by its name alone."""
    pid, _, host = _holder(path).partition(" on ")
    if not pid or host != socket.gethostname():
        return bool(pid)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return int(pid) != os.getpid()


def _holder(path: Path) -> str:
    """`<pid> on <host>`, as the file says; empty where it says nothing of the kind."""
    try:
        with open(path, errors="replace", opener=no_link) as file:
            return found[0] if (found := HOLDER.fullmatch(file.read(300))) else ""
    except OSError:
        return ""


def no_link(path: str, flags: int) -> int:
    """An opener that follows no link, nor waits for a FIFO."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
