"""One file from the first address that has it: checked, and never half there."""

import hashlib
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


class DownloadError(Exception):
    """Why an address did not give the file, in a few words."""


def can_download(urls: Sequence[str]) -> bool:
    """Whether one of the addresses answers now."""
    for url in urls:
        with suppress(OSError, HTTPException), open_url(url, PROBE_SECONDS):
            return True
    return False


def download(urls: Sequence[str], path: Path, md5: str) -> None:
    """Bring the file of this md5 to `path`; the addresses are tried in order.

    Raises UserError if no address gives it, and OSError if the disk does not take it.
    """
    part = path.with_name(f"{path.name}.part")
    failures = []
    for url in urls:
        try:
            write_checked(url, part, md5)
        except DownloadError as error:
            failures.append(f"{url}: {error}")
            part.unlink(missing_ok=True)
        else:
            part.replace(path)
            return
    raise UserError(
        f"{path.name} cannot be downloaded\n{'; '.join(failures)}\n"
        f"check the network, or put the file into {path.parent}"
    )


def write_checked(url: str, path: Path, md5: str) -> None:
    """Write what an address gives; raises DownloadError if that is not the file."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for chunk in read_chunks(url):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != md5:
        raise DownloadError(f"md5 {digest.hexdigest()}, expected {md5}")


def read_chunks(url: str) -> Iterator[bytes]:
    """What an address gives, with a progress bar; raises DownloadError if the network fails."""
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    try:
        with (
            open_url(url, TIMEOUT_SECONDS) as response,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            task = progress.add_task(str(urlsplit(url).hostname), total=response.length)
            while chunk := response.read(CHUNK_BYTES):
                progress.advance(task, len(chunk))
                yield chunk
    except (OSError, HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise DownloadError(reason) from error


def open_url(url: str, timeout_seconds: float) -> HTTPResponse:
    request = Request(url, headers={"User-Agent": "triptych"})
    return cast(HTTPResponse, urlopen(request, timeout=timeout_seconds))
