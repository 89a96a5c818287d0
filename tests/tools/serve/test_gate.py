"""Who may ask, told by the two headers that a page of somebody else's cannot choose."""

import asyncio
from typing import Any

import pytest

gate = pytest.importorskip("triptych.tools.serve.gate", reason="starlette is missing")
responses = pytest.importorskip("starlette.responses", reason="starlette is missing")


def asked(*names: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a request with these headers."""
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": raw}
    asyncio.run(gate.Gate(responses.PlainTextResponse("in"), names)(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told


HERE = ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "192.168.0.7", "gpubox:80"]
ELSEWHERE = [
    *("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example"),
    *("", ":8000", "evil@127.0.0.1.example", "[::1", "gpubox.evil.example", "127.1.evil", "\xe9"),
]


@pytest.mark.parametrize("host", HERE)
def test_a_request_that_names_this_machine_is_let_in(host: str) -> None:
    assert asked("gpubox", host=host)[0] == 200
    assert asked("gpubox", host=host, origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_name_that_a_stranger_has_bound_to_this_machine_is_refused(host: str) -> None:
    assert asked("gpubox", host=host, origin=f"http://{host}")[0] == 421
    assert asked("gpubox", origin="http://localhost")[0] == 421


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://evil.example",
            "null",
            "",
            "http://localhost:8001",
            "http://localhost",
            "file://",
        ),
        *("http://localhost:8000.evil.example", "http://127.0.0.1:8000", "http://[", "garbage"),
    ],
)
def test_a_page_from_elsewhere_is_refused(origin: str) -> None:
    assert asked(host="localhost:8000", origin=origin)[0] == 403


def test_every_answer_tells_the_browser_what_it_may_do() -> None:
    for headers in ({"host": "localhost"}, {"host": "evil"}, {"host": "localhost", "origin": "x"}):
        _, told = asked(**headers)
        assert told | {name.lower(): value for name, value in gate.HEADERS.items()} == told
    policy = gate.HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "http" not in policy
