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
    part = path.with_name(f"{path.name}.part")
    failures, speeds = [], {}
    attempts = [(url, MIN_SPEED if len(urls) > 1 else 0) for url in urls]
    while attempts:
        url, min_speed = attempts.pop(0)
        try:
            write_checked(url, part, md5, min_speed)
        except DownloadError as error:
            part.unlink(missing_ok=True)
            if isinstance(error, SlowError):
                speeds[url] = error.speed
                Console(stderr=True).print(f"{url}: {error}; trying another", soft_wrap=True)
            else:
                failures.append(f"{url}: {error}")
        else:
            part.replace(path)
            return
        if not attempts:  # none was faster
            attempts = [(url, 0) for url in sorted(speeds, key=lambda url: -speeds[url])]
            speeds = {}
    raise UserError(
        f"{path.name} cannot be downloaded\n{'; '.join(failures)}\n"
        f"check the network, or put the file into {path.parent}"
    )


def write_checked(url: str, path: Path, md5: str, min_speed: float) -> None:
    """Write what an address gives; raises DownloadError if that is not the file, or too slow."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for chunk in read_chunks(url, min_speed):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != md5:
        raise DownloadError(f"md5 {digest.hexdigest()}, expected {md5}")


def read_chunks(url: str, min_speed: float) -> Iterator[bytes]:
    """What an address gives, with a progress bar.

    Raises DownloadError if the network fails, or gives less than `min_speed` for some seconds.
    """
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    try:
        with (
            open_url(url, TIMEOUT_SECONDS) as response,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            task = progress.add_task(str(urlsplit(url).hostname), total=response.length)
            start, size = time.monotonic(), 0
            while chunk := response.read1(CHUNK_BYTES):
                progress.advance(task, len(chunk))
                yield chunk
                size += len(chunk)
                if (seconds := time.monotonic() - start) >= SPEED_SECONDS:
                    if size / seconds < min_speed:
                        raise SlowError(size / seconds)
                    start, size = time.monotonic(), 0
    except (OSError, HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise DownloadError(reason) from error


def open_url(url: str, timeout_seconds: float) -> HTTPResponse:
    request = Request(url, headers={"User-Agent": "triptych"})
    return cast(HTTPResponse, urlopen(request, timeout=timeout_seconds))
