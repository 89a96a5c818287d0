"""The command around the page: its address, its errors, its end."""

import logging
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.tools.serve.conftest import configure
from triptych.errors import UserError
from triptych.tools.serve.command import format_url, is_local, open_socket, serve


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
        return number


@pytest.mark.parametrize(
    ("host", "local", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:80"),
        ("localhost", True, "http://localhost:80"),
        ("::1", True, "http://[::1]:80"),
        ("0.0.0.0", False, "http://localhost:80"),
        ("::", False, "http://localhost:80"),
        ("192.168.0.7", False, "http://192.168.0.7:80"),
        ("gpubox", False, "http://gpubox:80"),
    ],
)
def test_an_address_can_be_typed_and_is_known_to_be_local_or_not(
    host: str, local: bool, url: str
) -> None:
    assert (is_local(host), format_url(host, 80)) == (local, url)
    assert is_local(configure()["host"])


def test_an_address_that_cannot_be_opened_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"port={port}: .*in use.*\nport=0 "):
            open_socket("127.0.0.1", port)
    for host in ("192.0.2.1", "no.such.host"):
        with pytest.raises(UserError, match=f"host={host} "):
            open_socket(host, 0)


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "triptych.tools.serve.command.find_spec", lambda name: name != "uvicorn" or None
    )
    with pytest.raises(UserError, match=r"pip install 'uvicorn>=0\.34'$"):
        serve(configure(), [])


def test_a_warning_says_that_other_machines_are_let_in(
    logs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = pytest.importorskip("triptych.tools.serve.service", reason="uvicorn is missing")
    monkeypatch.setattr(service, "run_service", lambda *_: None)
    with caplog.at_level(logging.INFO):
        serve(configure(runs=str(logs), port=0), [])
        assert caplog.messages == []
        serve(configure(runs=str(logs), port=0, host="0.0.0.0"), [])
    [(_, level, message)] = caplog.record_tuples
    assert (level, message.split(":")[0]) == (logging.WARNING, "host=0.0.0.0")


def test_the_command_serves_until_ctrl_c_and_then_exits_with_130(
    logs: Path, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is missing")
    url, answers, ended = f"http://127.0.0.1:{free_port}", list[bytes | int](), Event()

    def visit() -> None:
        try:
            answers.append(read(url))
            answers.append(read(urllib.request.Request(url, headers={"Host": "evil.example"})))
        finally:
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    visitor = Thread(target=visit)
    visitor.start()
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as exit_info:
        serve(configure(runs=str(logs), port=free_port, num_networks=1), [])
    ended.set()
    visitor.join(20)
    assert exit_info.value.code == 130
    page, status = answers
    assert isinstance(page, bytes)
    assert b"beta on your image" in page
    assert status == 421
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("triptych")]
    assert [line.split(" ")[0] for line in lines] == ["beta:", url]


def read(request: str | urllib.request.Request) -> bytes | int:
    """The body, or the status of an error; waits until the socket is open."""
    for _ in range(200):
        try:
            with closing(urllib.request.urlopen(request, timeout=60)) as response:
                body: bytes = response.read()
                return body
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError
