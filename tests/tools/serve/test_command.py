"""The command around the page: its address, its errors, its end."""

import logging
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

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


def test_by_default_nobody_else_is_let_in() -> None:
    assert is_local(configure()["host"])


def test_an_address_that_cannot_be_opened_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"port={port}: .*in use\)\nport=0 "):
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


def test_the_program_serves_until_ctrl_c_and_then_ends_with_130(logs: Path, free_port: int) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is missing")
    command = [sys.executable, "-m", "triptych", "serve", f"runs={logs}", f"port={free_port}"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["device=cpu", "num_networks=1"]
    with subprocess.Popen(command, **pipes, env=environment) as program:
        assert program.stdout
        lines = [program.stdout.readline(), program.stdout.readline()]
        url = f"http://127.0.0.1:{free_port}"
        assert [line.split(" ")[0] for line in lines] == ["squeezenet1_1:", url], program.stderr
        with closing(urllib.request.urlopen(url, timeout=60)) as page:
            assert b"squeezenet1_1 on your image" in page.read()
        stranger = urllib.request.Request(url, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="421") as error:
            urllib.request.urlopen(stranger, timeout=60)
        error.value.close()
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=120)
    assert (program.returncode, out, err) == (130, "", "")
