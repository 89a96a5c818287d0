"""The downloader, against a server on this machine that misbehaves as told."""

import hashlib
import multiprocessing
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych import download
from triptych.errors import UserError

BODY = bytes(range(256)) * 40
MD5 = hashlib.md5(BODY).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


class Served(NamedTuple):
    url: str
    starts: list[int]  # the first byte each request asked for


@contextmanager
def serve(*answers: Answer) -> Iterator[Served]:
    """Answers one request after the other; the last answer serves from then on."""
    starts: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            starts.append(first_byte(self))
            answers[min(len(starts), len(answers)) - 1](self)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{server.server_port}/file", starts)
        finally:
            server.shutdown()
            thread.join()


def first_byte(handler: BaseHTTPRequestHandler) -> int:
    return int(handler.headers.get("Range", "bytes=0-")[6:].partition("-")[0])


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: object) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def breaks_after(count: int, body: bytes = BODY) -> Answer:
    """Honours a range and closes the connection after `count` bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, last = first_byte(handler), len(body) - 1
        sent = body[start : start + count]
        if start:
            content_range = f"bytes {start}-{last}/{len(body)}"
            send(handler, 206, sent, Content_Range=content_range, Content_Length=last + 1 - start)
        else:
            send(handler, 200, sent, Content_Length=len(body))

    return answer


whole = breaks_after(len(BODY))


def ignores_ranges(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, BODY, Content_Length=len(BODY))


def not_found(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 404, b"")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "file"


def fetch(path: Path, *servers: Served, body: bytes = BODY) -> None:
    md5 = hashlib.md5(body).hexdigest()
    download.fetch([server.url for server in servers], path, len(body), md5)


def test_a_whole_file_arrives_in_one_request_and_leaves_nothing_beside_it(path: Path) -> None:
    with serve(whole) as server:
        fetch(path, server)
    assert path.read_bytes() == BODY
    assert server.starts == [0]
    assert {file.name for file in path.parent.iterdir()} == {"file", "file.lock"}


def test_a_file_on_disk_is_not_asked_for(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"here")
    fetch(path)
    assert path.read_bytes() == b"here"


def test_a_broken_download_goes_on_from_where_it_broke(path: Path) -> None:
    with serve(breaks_after(4000), whole) as server:
        fetch(path, server)
    assert path.read_bytes() == BODY
    assert server.starts == [0, 4000]


def test_another_run_goes_on_from_where_the_first_one_broke(path: Path) -> None:
    with serve(breaks_after(4000), not_found, breaks_after(100), whole) as server:
        with pytest.raises(UserError, match="404"):
            fetch(path, server)
        assert not path.exists()
        fetch(path, server)
    assert path.read_bytes() == BODY
    assert server.starts == [0, 4000, 4000, 4100]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, len(BODY)), max_size=6))
def test_wherever_a_download_breaks_the_file_is_whole_in_the_end(counts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with serve(*map(breaks_after, counts), whole) as server:
            fetch(Path(folder) / "file", server)
        assert (Path(folder) / "file").read_bytes() == BODY


def test_a_server_that_ignores_ranges_starts_again(path: Path) -> None:
    with serve(breaks_after(4000), ignores_ranges) as server:
        fetch(path, server)
    assert path.read_bytes() == BODY
    assert server.starts == [0, 4000]


def test_wrong_content_is_dropped_and_the_mirror_asked_from_the_start(path: Path) -> None:
    wrong = bytes(len(BODY))
    with serve(breaks_after(len(wrong), wrong)) as bad, serve(whole) as good:
        fetch(path, bad, good)
    assert path.read_bytes() == BODY
    assert (bad.starts, good.starts) == ([0], [0])


def test_a_good_mirror_is_not_blamed_for_the_first_half_of_a_bad_one(path: Path) -> None:
    wrong = bytes(len(BODY))
    with serve(breaks_after(4000, wrong), not_found) as bad, serve(whole) as good:
        fetch(path, bad, good)
    assert path.read_bytes() == BODY
    assert good.starts == [4000, 0]


@pytest.mark.parametrize("rest", [b"", b"!"])
def test_a_part_that_is_too_long_or_wrong_is_dropped(path: Path, rest: bytes) -> None:
    path.parent.mkdir()
    path.with_name("file.part").write_bytes(bytes(len(BODY)) + rest)
    with serve(whole) as server:
        fetch(path, server)
    assert path.read_bytes() == BODY


def test_both_md5_sums_are_named_where_no_address_has_the_right_file(path: Path) -> None:
    wrong = bytes(len(BODY))
    with serve(breaks_after(len(wrong), wrong)) as bad, pytest.raises(UserError) as refusal:
        fetch(path, bad)
    message = str(refusal.value)
    assert hashlib.md5(wrong).hexdigest() in message
    assert MD5 in message
    assert {file.name for file in path.parent.iterdir()} == {"file.lock"}


@pytest.mark.parametrize("announced", [True, False])
def test_more_bytes_than_agreed_are_not_taken(path: Path, announced: bool) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        length = {"Content_Length": len(BODY) + 1} if announced else {}
        send(handler, 200, BODY + b"!", **length)

    with serve(endless) as server, pytest.raises(UserError, match=r"offers 10241|more than 10240"):
        fetch(path, server)
    assert not path.exists()


def test_fewer_bytes_than_agreed_are_not_the_file(path: Path) -> None:
    def page(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, b"Please log in", Content_Length=13)

    with serve(page) as server, pytest.raises(UserError, match="offers 13 bytes, expected 10240"):
        fetch(path, server)
    assert not path.exists()


def test_a_server_that_falls_silent_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(1)

    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    with serve(silent) as server, pytest.raises(UserError, match="timed out"):
        fetch(path, server)


def test_without_any_server_each_address_is_named_with_its_reason_in_three_lines(
    path: Path,
) -> None:
    with serve(whole) as gone:
        pass
    with serve(not_found) as empty, pytest.raises(UserError) as refusal:
        fetch(path, gone, empty)
    lines = str(refusal.value).splitlines()
    assert len(lines) <= 3
    assert re.search(f"{gone.url}: .*refused; {empty.url}: HTTP 404", lines[1])
    assert not path.exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/file", "file"])
def test_an_address_of_another_kind_is_refused(path: Path, url: str) -> None:
    with pytest.raises(UserError, match="https://"):
        download.fetch([url], path, len(BODY), MD5)
    with pytest.raises(UserError, match="https://"):
        download.can_download([url])


def test_processes_that_start_together_download_once(path: Path) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(2)
        whole(handler)

    with serve(slow) as server:
        arguments = ([server.url], path, len(BODY), MD5)
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=download.fetch, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert path.read_bytes() == BODY
    assert server.starts == [0]


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with (
        serve(whole) as server,
        pytest.raises(UserError, match=f"{tmp_path / 'data'}: File exists"),
    ):
        fetch(tmp_path / "data" / "file", server)


def test_a_disk_that_takes_no_more_is_no_fault_of_the_address(path: Path) -> None:
    body = bytes(1 << 21)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with serve(breaks_after(len(body), body)) as server, pytest.raises(UserError) as refusal:
            fetch(path, server, body=body)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(refusal.value).startswith(f"{path}: File too large")
    assert not path.exists()


def test_without_a_terminal_progress_is_plain_lines(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(breaks_after(4000), whole) as server:
        fetch(path, server)
    assert capsys.readouterr().err == "file: 0.0 of 0.0 MB\n"


def test_reachable_is_one_address_that_answers() -> None:
    with serve(not_found) as empty, serve(whole) as full:
        assert download.can_download([empty.url, full.url])
        assert not download.can_download([empty.url])
    assert not download.can_download([full.url])
    assert not download.can_download([])
