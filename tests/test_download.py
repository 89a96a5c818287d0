"""Downloads from servers on this machine that misbehave as told."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from triptych import download as module
from triptych.download import can_download, download
from triptych.errors import UserError

BODY = bytes(range(256)) * 40
MD5 = hashlib.md5(BODY).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serve(answer: Answer) -> Iterator[str]:
    """The address of a server that gives this answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/file"
        finally:
            server.shutdown()
            thread.join()


def sends(body: bytes, length: int | None = None, status: int = 200) -> Answer:
    """Sends a body, announced with another length if one is given."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def falls_silent(handler: BaseHTTPRequestHandler) -> None:
    sends(BODY[:100], len(BODY))(handler)
    time.sleep(0.3)


def is_slow(handler: BaseHTTPRequestHandler, num_fast: int = 100) -> None:
    sends(BODY[:num_fast], len(BODY))(handler)
    with suppress(OSError):  # of a client that has left
        for start in range(num_fast, len(BODY), 1000):
            time.sleep(0.02)
            handler.wfile.write(BODY[start : start + 1000])


def is_slow_at_the_end(handler: BaseHTTPRequestHandler) -> None:
    is_slow(handler, len(BODY) - 1240)


has_file, not_found = sends(BODY), sends(b"", status=404)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (not_found, "Not Found"),
        (sends(b"Please log in"), f"md5 .*, expected {MD5}"),
        (sends(BODY[:4000], len(BODY)), "cut short after 4000 of"),
        (falls_silent, "timed out"),
    ],
)
def test_an_address_that_fails_is_left_for_the_next_and_named_if_there_is_none(
    path: Path, fault: Answer, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)
    with serve(has_file) as gone:
        pass
    with serve(fault) as bad, serve(has_file) as good:
        with pytest.raises(UserError, match=f"{gone}: .*{bad}: {reason}"):
            download([gone, bad], path, MD5)
        assert list(path.parent.iterdir()) == []
        download([gone, bad, good], path, MD5)
    assert path.read_bytes() == BODY
    assert list(path.parent.iterdir()) == [path]


def test_a_file_can_be_downloaded_if_one_address_answers() -> None:
    with serve(not_found) as empty, serve(has_file) as full:
        assert can_download([empty, full])
        assert not can_download([empty])
    assert not can_download([full])
    assert not can_download([])


@pytest.mark.parametrize(
    ("answers", "num_left"),
    [
        ([is_slow, has_file], 1),
        ([is_slow, not_found], 1),
        ([is_slow, is_slow], 2),
        ([not_found, is_slow], 0),
        ([is_slow], 0),
        ([is_slow_at_the_end, has_file], 0),  # to start again would take longer
    ],
)
def test_a_slow_address_is_left_for_a_faster_one_and_taken_where_there_is_none(
    answers: list[Answer],
    num_left: int,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "SPEED_SECONDS", 0.01)
    with ExitStack() as servers:
        urls = [servers.enter_context(serve(answer)) for answer in answers]
        download(urls, path, MD5)
    assert path.read_bytes() == BODY
    assert capsys.readouterr().err.count("trying another") == num_left


def test_a_download_that_is_stopped_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Progress, "advance", interrupt)
    with serve(has_file) as address, pytest.raises(KeyboardInterrupt):
        download([address], path, MD5)
    assert list(path.parent.iterdir()) == []
