"""One file from the first address that has it: checked, and never half there."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from triptych.errors import UserError

TIMEOUT_SECONDS = 20.0  # to connect, and between two reads
PROBE_SECONDS = 5.0
CHUNK_BYTES = 1 << 16
MIN_SPEED = 200_000  # bytes per second; an address that stays below it is left for the next
SPEED_SECONDS = 10.0


class DownloadError(Exception):
    """Why an address did not give the file, in a few words."""


class SlowError(DownloadError):
    """An address that gives the file slowly; `speed` in bytes per second."""

    def __init__(self, speed: float) -> None:
        super().__init__(f"{speed / 1000:.0f} kB/s")
        self.speed = speed


def can_download(urls: Sequence[str]) -> bool:
    """Whether one of the addresses answers now."""
    for url in urls:
        with suppress(OSError, HTTPException), open_url(url, PROBE_SECONDS):
            return True
    return False


def download(urls: Sequence[str], path: Path, md5: str) -> None:
    """Bring the file of this md5 to `path`; the addresses are tried in order, slow ones last.

    Raises UserError if no address gives it, and OSError if the disk does not take it.
    """
    failures: list[str] = []
    speeds: dict[str, float] = {}  # of the slow ones, which are tried again, the fastest first
    for is_again in (False, True):
        for url in sorted(speeds, key=lambda url: -speeds[url]) if is_again else urls:
            has_others = not is_again and (url != urls[-1] or speeds)
            try:
                return write_checked(url, path, md5, MIN_SPEED if has_others else 0)
            except SlowError as error:
                speeds[url] = error.speed
                Console(stderr=True).print(f"{url}: slow, {error}; trying another", soft_wrap=True)
            except DownloadError as error:
                failures.append(f"{url}: {error}")
    raise UserError(
        f"{path.name} cannot be downloaded\n{'; '.join(failures)}\n"
        f"check the network, or put the file into {path.parent}"
    )


def write_checked(url: str, path: Path, md5: str, min_speed: float) -> None:
    """Write what an address gives; raises DownloadError if that is not the file, or too slow."""
    part = path.with_name(f"{path.name}.part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with part.open("wb") as file:
            for chunk in read_chunks(url, min_speed):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != md5:
            raise DownloadError(f"md5 {digest.hexdigest()}, expected {md5}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_chunks(url: str, min_speed: float) -> Iterator[bytes]:
    """What an address gives, with a progress bar.

    Raises DownloadError if the network fails, and SlowError if for some seconds it gives so little
    that another address, at `min_speed` and from the start, would be done sooner.
    """
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    try:
        with (
            open_url(url, TIMEOUT_SECONDS) as response,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            total = response.length
            task = progress.add_task(str(urlsplit(url).hostname), total=total)
            started, before, size = time.monotonic(), 0, 0
            while chunk := response.read1(CHUNK_BYTES):
                progress.advance(task, len(chunk))
                yield chunk
                size += len(chunk)
                if (seconds := time.monotonic() - started) >= SPEED_SECONDS:
                    speed, left = (size - before) / seconds, 1 - size / total if total else 1
                    if speed < min_speed * left:
                        raise SlowError(speed)
                    started, before = time.monotonic(), size
            if total and size < total:
                raise DownloadError(f"cut short after {size} of {total} bytes")
    except (OSError, HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise DownloadError(reason) from error


def open_url(url: str, timeout_seconds: float) -> HTTPResponse:
    request = Request(url, headers={"User-Agent": "triptych"})
    return cast(HTTPResponse, urlopen(request, timeout=timeout_seconds))
