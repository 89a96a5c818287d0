"""Clients that say nothing, take nothing or want everything, against the server itself."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn")
responses = pytest.importorskip("starlette.responses", reason="starlette is missing")
service = pytest.importorskip("triptych.tools.serve.service", reason="uvicorn is missing")
connections = pytest.importorskip("triptych.tools.serve.connections")

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
Connect = Callable[[bytes], socket.socket]


@contextmanager
def serve_app(app: Any) -> Iterator[tuple[int, Any]]:
    """The port of a server in a thread, and the set of its connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(service.make_server_config(app))
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1], server.server_state.connections
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Connect, Any]]:
    """A function that connects and sends, and the set of connections; the page has 9 MB."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    for name in ("HEAD_SECONDS", "TAKE_SECONDS"):
        monkeypatch.setattr(connections, name, 60)
    page = responses.Response(b"page" * 2_250_000)
    with serve_app(page) as (port, opened), ExitStack() as clients:

        def connect(data: bytes) -> socket.socket:
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            client.sendall(data)
            return client

        yield connect, opened


def read(client: socket.socket) -> bytes:
    """All until the connection is closed."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(1 << 20):
            received += piece
    return received


def test_a_connection_is_for_one_request(server: tuple[Connect, Any]) -> None:
    connect, _ = server
    for version in (b"1.0", b"1.1"):
        content = read(connect((HEAD + b"\r\n").replace(b"1.1", version) * 3))
        assert content.startswith(b"HTTP/1.1 200 OK\r\n")
        assert content.count(b"HTTP/1.1 ") == 1
        assert content.endswith(b"pagepage")
    endless = HEAD.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    assert read(connect(endless)).endswith(b"pagepage")
    for strange in (HEAD + b"X: " + b"y" * 100_000, b"\x16\x03\x01\x02\0\r\n\r\n"):
        assert read(connect(strange)).startswith(b"HTTP/1.1 400 ")


def test_who_does_not_finish_the_head_is_dropped_in_time(
    server: tuple[Connect, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, _ = server
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    start = time.monotonic()
    silent, slow = connect(b""), connect(HEAD)
    with suppress(OSError):  # closed
        while time.monotonic() < start + 20:
            time.sleep(0.05)
            slow.sendall(b"X: y\r\n")
    assert read(silent) == b""
    assert 0.4 < time.monotonic() - start < 20


def test_who_does_not_take_the_response_is_dropped_in_time(
    server: tuple[Connect, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, opened = server
    monkeypatch.setattr(connections, "TAKE_SECONDS", 0.5)
    connect(HEAD + b"\r\n")
    start = time.monotonic()
    while not opened:
        time.sleep(0.01)
    while opened:
        time.sleep(0.05)
        assert time.monotonic() - start < 20


def test_however_many_are_silent_a_request_is_answered_at_once(
    server: tuple[Connect, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, opened = server
    silent = [connect(HEAD) for _ in range(40)]
    assert read(connect(HEAD + b"\r\n")).endswith(b"pagepage")
    assert len(opened) <= 3
    assert [read(each) for each in silent[:30]] == [b""] * 30
    few = (8, 8)
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: few)
    assert read(connect(HEAD + b"\r\n")).endswith(b"pagepage")
    assert len(opened) <= 2
