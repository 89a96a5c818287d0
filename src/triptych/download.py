"""One file from the first address that has it: resumed, checked, and never half there."""

import fcntl
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from triptych.errors import UserError

TIMEOUT_SECONDS = 20.0  # to connect, and between two reads
PROBE_SECONDS = 5.0
LINE_SECONDS = 10.0
CHUNK_BYTES = 1 << 16


class _Failed(Exception):
    """This address does not deliver the file; what came so far may be good."""


class _Wrong(_Failed):
    """What came is not the file."""


def fetch(urls: Sequence[str], path: Path, size: int, md5: str) -> None:
    """Bring the file of `size` bytes and this md5 to `path`, unless it is there already.

    The addresses are tried in order. A broken download stays in `<path>.part`, and the next try
    goes on from there. Of several processes one downloads, the others wait. Raises UserError when no
    address delivers the file or the disk does not take it.
    """
    part = path.with_name(f"{path.name}.part")
    failures = []
    with locked(path):
        if path.exists():
            return
        with _progress(path.name, size) as report:
            for url in urls:
                try:
                    _bring(url, part, size, md5, report)
                except _Failed as failure:
                    failures.append(f"{url}: {failure}")
                else:
                    part.replace(path)
                    return
    raise UserError(
        f"{path.name} could not be fetched.\n{'; '.join(failures) or 'No address is given.'}\n"
        f"Check the network, or put the file into {path.parent} yourself."
    )


def can_download(urls: Sequence[str]) -> bool:
    """Whether some address has the file now."""
    for url in urls:
        with suppress(_Failed), _answering():
            _open(url, "bytes=0-0", PROBE_SECONDS).close()
            return True
    return False


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def locked(path: Path, settings: str = "DATA_DIR or data.root") -> Iterator[None]:
    """Keep other processes from making `path` at the same time (flock on `<path>.lock`).

    What the disk refuses meanwhile (space, permission, a file in place of a folder) raises UserError,
    which names the `settings` that say where it lies.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"{path.name}: waiting for another process that is making it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: {error.strerror or error}.\n"
            f"Set {settings} to a folder with space that can be written."
        ) from error


def _bring(url: str, part: Path, size: int, md5: str, report: Callable[[int], None]) -> None:
    """Complete `part` from this address and check it; `_Wrong` leaves no `part` behind."""
    resumed = _length(part) > 0
    try:
        _append(url, part, size, report)
        if (found := md5_of(part)) != md5:
            raise _Wrong(f"md5 {found}, expected {md5}")
    except _Wrong:
        part.unlink()
        if not resumed:
            raise
        # The fault may lie in the bytes that were there before: this address gets a clean start.
        _bring(url, part, size, md5, report)


def _append(url: str, part: Path, size: int, report: Callable[[int], None]) -> None:
    """Go on from the bytes in `part` until there are `size`, as long as every try brings some."""
    while (start := _length(part)) < size:
        try:
            with part.open("ab") as file:
                for offset, chunk in _chunks(url, start, size):
                    file.truncate(offset)  # to 0 where the server ignores the range
                    file.write(chunk)
                    report(offset + len(chunk))
        except _Failed as failure:
            if isinstance(failure, _Wrong) or _length(part) <= start:
                raise


def _chunks(url: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The bytes from `start` on, or from 0 if the server so decides, each piece with its offset."""
    wanted = f"bytes={start}-" if start else None
    with _answering(), _open(url, wanted, TIMEOUT_SECONDS) as response:
        partial = response.status == 206
        named = response.headers["Content-Range" if partial else "Content-Length"] or ""
        total = named.rpartition("/")[2]
        if total.isdecimal() and int(total) != size:
            raise _Failed(f"offers {total} bytes, expected {size}")
        if partial and not named.startswith(f"bytes {start}-"):
            raise _Failed(f"sent {named!r}, asked for {wanted}")
        offset = start if partial else 0
        while chunk := response.read(CHUNK_BYTES):
            if offset + len(chunk) > size:
                raise _Wrong(f"sends more than {size} bytes")
            yield offset, chunk
            offset += len(chunk)
        if offset < size:
            raise _Failed(f"ended after {offset} of {size} bytes")


def _open(url: str, byte_range: str | None, timeout_seconds: float) -> HTTPResponse:
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: an address starts with https:// or http://")
    headers = {"User-Agent": "triptych"} | ({"Range": byte_range} if byte_range else {})
    request = Request(url, headers=headers)
    return cast(HTTPResponse, urlopen(request, timeout=timeout_seconds))


@contextmanager
def _answering() -> Iterator[None]:
    """What the network does wrong, as a `_Failed` of few words."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise _Failed(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _Failed(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _say(line: str) -> None:
    Console(stderr=True).print(line, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def _progress(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """A function to tell the bytes done: a bar on a terminal, elsewhere a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(name, total=size)
            yield lambda done: bar.update(task, completed=done)
        return

    said_at = -math.inf

    def say(done: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= LINE_SECONDS:
            said_at = time.monotonic()
            _say(f"{name}: {done / 1e6:.1f} of {size / 1e6:.1f} MB")

    yield say
