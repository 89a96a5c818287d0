"""The service as a browser asks it, and as no browser would."""

import asyncio
import io
import logging
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tools.serve.conftest import CLASSES, asked
from triptych.tools.compare.content import Problem
from triptych.tools.serve.networks import Group
from triptych.tools.serve.page import ASSETS, which

testclient = pytest.importorskip("starlette.testclient", reason="starlette or httpx2 is missing")
gate = pytest.importorskip("triptych.tools.serve.gate", reason="starlette is missing")
serving = pytest.importorskip("triptych.tools.serve.service", reason="uvicorn is missing")

HOSTILE = "<script>alert(1)</script>&\"'"
LIMITS = {"max_bytes": 20_000, "max_pixels": 5_000}
HERE = "http://127.0.0.1:8000"


def image(width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def service(group: Group) -> Any:
    """The planted networks, and once more with classes of a hostile name."""
    other = replace(group, classes=(HOSTILE, *CLASSES[1:]), data=(HOSTILE,))
    return serving.Service([group, other], [Problem(HOSTILE, HOSTILE)], asked(**LIMITS))


@pytest.fixture
def client(service: Any) -> Any:
    return testclient.TestClient(gate.Gate(service.app), base_url=HERE)


def test_the_page_names_networks_classes_and_examples_and_leads_to_other_groups(
    client: Any,
) -> None:
    answered = client.get("/")
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "text/html; charset=utf-8"
    page = answered.text
    assert "<h1>shufflenet_v2_x0_5 and squeezenet1_1 on your image</h1>" in page
    assert len(re.findall("<article", page)) == 2
    assert page.count("data-truth=") == len(set(re.findall(r"0/examples/\d+\.png", page))) == 7
    assert '<a href="0" aria-current="page">' in page
    assert '<a href="1">' in page
    assert client.get("/0").text == page


def test_every_file_that_the_page_names_is_there_and_nothing_is_asked_of_another_machine(
    client: Any,
) -> None:
    page = client.get("/").text
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert {"look.css", "page.css", "page.js", "0/examples/0.png"} <= set(named)
    for name in named:
        if name != "data:,":
            assert client.get(f"/{name}").status_code == 200
    texts = [page, *(client.get(f"/{name}").text for name in ASSETS)]
    assert [re.findall(r"(?:https?:)?//\w[\w.]*\w/|@import|url\(", text) for text in texts] == [
        [] for _ in texts
    ]


def test_what_a_run_is_called_is_never_markup(client: Any) -> None:
    page = client.get("/1").text
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4
    said = client.post("/1/answer", content=image())
    assert said.headers["content-type"] == "application/json"
    assert said.headers["x-content-type-options"] == "nosniff"
    assert HOSTILE in {name for each in said.json()["answers"] for name, _ in each["top"]}


def test_an_image_is_answered_by_every_network(client: Any) -> None:
    said = client.post("/0/answer", content=image(), headers={"origin": HERE})
    assert said.status_code == 200
    assert [each["name"] for each in said.json()["answers"]] == [
        *("shufflenet_v2_x0_5", "squeezenet1_1")
    ]
    assert said.json()["says"].endswith(".")
    assert said.headers["cache-control"] == "no-store"


def test_an_example_is_answered_as_any_file(client: Any) -> None:
    example = client.get("/0/examples/0.png")
    assert example.headers["content-type"] == "image/png"
    assert client.post("/0/answer", content=example.content).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"", 415, "no image"),
        (b"# Notes\n" * 100, 415, "The networks cannot be shown this file: no image"),
        (image()[:200], 415, "The networks cannot be shown this file: "),
        (image(100, 51), 415, "100x51 pixels, more than max_pixels=5000"),
        (b"\x89PNG" + b"x" * 20_000, 413, "The file is larger than 20,000 bytes."),
    ],
    ids=["nothing", "text", "half", "many pixels", "many bytes"],
)
def test_what_cannot_be_shown_gets_one_sentence(
    client: Any, content: bytes, status: int, sentence: str
) -> None:
    said = client.post("/0/answer", content=content)
    assert said.status_code == status
    assert sentence in said.json()["problem"]
    assert len(said.json()["problem"].splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", f"/{path}", 404) for path in ("2", "0/examples/7.png", "2/examples/0.png")),
        *(("GET", f"/{'9' * 5000}{path}", 404) for path in ("", "/examples/0.png")),
        *(("GET", f"/{path}", 404) for path in (f"0/examples/{'9' * 5000}.png",)),
        *(("GET", f"/{path}", 404) for path in ("networks.py", "..%2fservice.py", "page.html")),
        *(("POST", "/2/answer", 404), ("GET", "/0/answer", 405), ("POST", "/", 405)),
    ],
)
def test_there_is_nothing_else(client: Any, method: str, path: str, status: int) -> None:
    answered = client.request(method, path)
    assert answered.status_code == status
    assert "content-security-policy" in answered.headers


def test_no_more_of_a_file_is_read_than_may_be_kept(service: Any) -> None:
    """A stream that would never end."""
    taken: list[int] = []

    async def receive() -> dict[str, Any]:
        taken.append(1)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    sent = asyncio.run(posted(service, receive))
    assert sent == 413
    assert len(taken) == 21


def test_a_file_that_does_not_come_is_not_waited_for_long(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SECONDS_TO_SEND", 0.05)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    assert asyncio.run(posted(service, receive)) == 408
    assert (service.num_sending, service.num_waiting) == (0, 0)


def test_files_that_do_not_come_keep_nobody_waiting_and_are_not_without_number(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "answer", lambda *_: {})

    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    async def many() -> list[int]:
        stalled = [
            asyncio.create_task(posted(service, never)) for _ in range(serving.MOST_SENDING - 1)
        ]
        await asyncio.sleep(0.01)
        answered = await posted(service, whole(image()))
        stalled.append(asyncio.create_task(posted(service, never)))
        await asyncio.sleep(0.01)
        sent_away = await posted(service, whole(image()))
        for each in stalled:
            each.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)
        return [answered, sent_away]

    assert asyncio.run(many()) == [200, 503]
    assert (service.num_sending, service.num_waiting) == (0, 0)


async def posted(service: Any, receive: Any) -> int:
    """The status of what a body that `receive` gives is answered with."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/0/answer", "headers": []}
    await service.app(scope | {"query_string": b"", "root_path": ""}, receive, send)
    status: int = sent[0]["status"]
    return status


def whole(content: bytes) -> Any:
    """A body that comes at once from somebody who then waits."""
    came = iter([{"type": "http.request", "body": content, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in came:
            return message
        await asyncio.sleep(60)
        raise AssertionError

    return receive


def test_one_image_is_answered_at_a_time_a_few_wait_and_more_are_sent_away(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving.Service([group], [], asked())
    at_work, most_at_work, go_on = 0, 0, threading.Event()

    def slowly(*_: object) -> dict[str, str]:
        nonlocal at_work, most_at_work
        at_work += 1
        most_at_work = max(most_at_work, at_work)
        go_on.wait(10)
        at_work -= 1
        return {}

    monkeypatch.setattr(serving, "answer", slowly)

    async def many() -> list[int]:
        asked_for = [
            asyncio.create_task(posted(service, whole(image())))
            for _ in range(serving.MOST_WAITING)
        ]
        await asyncio.sleep(0.05)
        sent_away = await posted(service, whole(image()))
        go_on.set()
        return [sent_away, *await asyncio.gather(*asked_for)]

    assert asyncio.run(many()) == [503, *[200] * serving.MOST_WAITING]
    assert (most_at_work, service.num_waiting) == (1, 0)


def test_who_left_while_waiting_is_not_answered(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "answer", lambda *_: pytest.fail("nobody waits for this"))
    messages = iter(
        [{"type": "http.request", "body": image(), "more_body": False}, {"type": "http.disconnect"}]
    )

    async def receive() -> Any:
        return next(messages)

    assert asyncio.run(posted(service, receive)) == 408


def test_an_image_leaves_no_file_and_no_line(
    client: Any,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with caplog.at_level(logging.DEBUG, logger="triptych"):
        assert client.post("/0/answer", content=image(kind="TIFF")).status_code == 200
        assert client.post("/0/answer", content=b"no image").status_code == 415
    assert list(tmp_path.rglob("*")) == []
    assert [r.message for r in caplog.records if r.name.startswith(("triptych", "uvicorn"))] == []


def test_the_page_says_how_its_runs_were_chosen(group: Group) -> None:
    config = asked()
    assert which(group, config) == "All of 2 finished runs with these classes."
    many, first = replace(group, num_runs=7), "Of 7 finished runs with these classes "
    best = "of highest validation accuracy"
    assert which(many, config).startswith(f"{first}of each model the one {best}; ")
    few = config | {"which": "all", "num_networks": 2}
    assert which(many, few).startswith(f"{first}those {best}, 2 at most (num_networks); ")
