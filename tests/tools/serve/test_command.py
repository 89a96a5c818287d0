"""The command around the page: its address, its refusals, its end."""

import logging
import os
import re
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

from tests.tools.serve.conftest import Plant, asked
from tests.tools.serve.conftest import plant as plant
from triptych.errors import UserError
from triptych.tools.serve.command import address, is_local, listening, serve


@pytest.fixture
def free() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        number: int = door.getsockname()[1]
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
    assert (is_local(host), address(host, 80)) == (local, url)


def test_by_default_nobody_else_is_let_in() -> None:
    assert is_local(asked()["host"])


def test_a_port_that_is_taken_is_refused_in_a_line_and_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"port={port}: .*\(Address already in use\)"
        ) as raised:
            listening("127.0.0.1", port)
    assert str(raised.value).splitlines()[1:] == ["port=0 takes any port that is free"]


def test_a_host_that_is_not_this_machine_is_refused() -> None:
    for host in ("192.0.2.1", "no.such.host"):
        with pytest.raises(UserError, match=f"host={host} "):
            listening(host, 0)


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "triptych.tools.serve.command.find_spec", lambda name: name != "uvicorn" or None
    )
    with pytest.raises(UserError, match=r"pip install 'uvicorn>=0\.34'$"):
        serve(asked(), [])


def test_it_says_loudly_that_others_are_let_in(
    planted_alone: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = pytest.importorskip("triptych.tools.serve.service", reason="uvicorn is missing")
    monkeypatch.setattr(service, "run", lambda *_: None)
    with caplog.at_level(logging.INFO):
        serve(asked(runs=str(planted_alone), port=0), [])
        assert caplog.messages == []
        serve(asked(runs=str(planted_alone), port=0, host="0.0.0.0"), [])
    [(_, level, said)] = caplog.record_tuples
    assert (level, said.startswith("host=0.0.0.0: others")) == (logging.WARNING, True)


@pytest.fixture(scope="module")
def planted_alone(tmp_path_factory: pytest.TempPathFactory, plant: Plant) -> Path:
    root = tmp_path_factory.mktemp("logs")
    plant(root)
    plant(root, status="running")
    return root


def test_the_program_serves_until_ctrl_c_and_then_ends_with_130(
    planted_alone: Path, free: int
) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is missing")
    command = [
        sys.executable,
        "-m",
        "triptych",
        "serve",
        f"runs={planted_alone}",
        f"port={free}",
    ]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "device=cpu"], **pipes, env=environment) as program:
        assert program.stdout
        said = []
        while not said or "Ctrl-C" not in said[-1]:
            said.append(program.stdout.readline())
            assert said[-1], program.communicate()
        url = f"http://127.0.0.1:{free}"
        assert said[-1].startswith(url)
        assert [re.split(": | validation", line)[0] for line in said[:-1]] == [
            *("left out", "squeezenet1_1")
        ]
        with closing(urllib.request.urlopen(url, timeout=60)) as page:
            assert b"squeezenet1_1 on your image" in page.read()
        stranger = urllib.request.Request(url, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="421") as refused:
            urllib.request.urlopen(stranger, timeout=60)
        refused.value.close()
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=120)
    assert (program.returncode, out, err) == (130, "", "")
