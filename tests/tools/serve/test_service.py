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

from tests.data.test_photos import fits
from tests.tools.serve.conftest import CLASSES, configure
from triptych.data.photos import Unreadable
from triptych.tools.compare.runs import Problem
from triptych.tools.serve.networks import NetworkGroup

testclient = pytest.importorskip("starlette.testclient", reason="starlette or httpx2 is missing")
responses = pytest.importorskip("starlette.responses", reason="starlette is missing")
module = pytest.importorskip("triptych.tools.serve.service", reason="uvicorn is missing")

HOSTILE = "<script>alert(1)</script>&\"'"
LIMITS = {"max_bytes": 20_000, "max_pixels": 5_000}
HERE = "http://127.0.0.1:8000"


def image(width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def service(group: NetworkGroup) -> Any:
    """The planted networks, and once more with hostile names."""
    other = replace(group, classes=tuple(f"{HOSTILE}{name}" for name in CLASSES), data=(HOSTILE,))
    return module.Service([group, other], [Problem(HOSTILE, HOSTILE)], configure(**LIMITS))


@pytest.fixture
def client(service: Any) -> Any:
    return testclient.TestClient(module.Gate(service.app), base_url=HERE)


def test_the_page_shows_networks_and_examples_and_leads_to_other_groups(client: Any) -> None:
    page = client.get("/").text
    assert "<h1>alpha and beta on your image</h1>" in page
    assert len(re.findall("<article", page)) == 2
    assert page.count("data-label=") == 7
    assert '<a href="0" aria-current="page">' in page
    assert '<a href="1">' in page
    assert client.get("/0").text == page


def test_every_linked_file_is_there_and_nothing_is_loaded_from_another_machine(
    client: Any,
) -> None:
    page = client.get("/").text
    texts = [re.sub(r"data:image/png;base64,[\w+/=]+", "", page)]
    for name in ("report/page.css", "serve/page.css", "serve/page.js"):
        assert f'"{name}"' in page
        texts.append(client.get(f"/{name}").text)
    for text in texts:
        assert re.findall(r"(?:https?:)?//\w[\w.]*\w/|@import|url\(", text) == []


def test_no_name_of_a_run_is_markup(client: Any) -> None:
    page = client.get("/1").text
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4
    response = client.post("/1/predictions", content=image())
    assert response.headers["content-type"] == "application/json"
    predictions = response.json()["predictions"]
    assert all(HOSTILE in name for each in predictions for name, _ in each["top"])


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 415, "no image"),
        (b"# Notes\n" * 100, 415, "no image"),
        (image()[:200], 415, ""),
        (image(100, 51), 415, "100x51 pixels, more than max_pixels=5000"),
        (b"\x89PNG" + b"x" * 20_000, 413, "20,000 bytes"),
    ],
    ids=["nothing", "text", "half", "many pixels", "many bytes"],
)
def test_a_file_that_cannot_be_shown_gets_one_line(
    client: Any, content: bytes, status: int, reason: str
) -> None:
    response = client.post("/0/predictions", content=content)
    assert response.status_code == status
    assert reason in response.json()["problem"]
    assert len(response.json()["problem"].splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", f"/{path}", 404) for path in ("2", "9" * 5000, "serve/..%2fservice.py")),
        *(("POST", "/2/predictions", 404), ("GET", "/0/predictions", 405), ("POST", "/", 405)),
    ],
)
def test_there_is_nothing_else(client: Any, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert "content-security-policy" in response.headers


async def post(service: Any, receive: Any) -> int:
    """The status of the response to a body that `receive` gives."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/0/predictions", "headers": []}
    await service.app(scope | {"query_string": b"", "root_path": ""}, receive, send)
    status: int = sent[0]["status"]
    return status


def messages(*first: dict[str, Any]) -> Any:
    """A client that sends these messages, then waits."""
    remaining = iter(first)

    async def receive() -> dict[str, Any]:
        for message in remaining:
            return message
        await asyncio.sleep(60)
        raise AssertionError

    return receive


BODY = {"type": "http.request", "body": image(), "more_body": False}


def test_no_more_of_a_file_is_read_than_may_be_held(service: Any) -> None:
    """A stream that would never end."""
    received: list[int] = []

    async def receive() -> dict[str, Any]:
        received.append(1)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    assert asyncio.run(post(service, receive)) == 413
    assert len(received) == 21


def test_an_upload_that_stalls_is_ended(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.05)
    assert asyncio.run(post(service, messages())) == 408


def test_one_batch_is_classified_at_a_time_a_few_wait_and_more_are_sent_away(
    group: NetworkGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stalled uploads count, but block nobody."""
    service = module.Service([group], [], configure())
    running, most_running, go_on = 0, 0, threading.Event()

    def classify_slowly(_: NetworkGroup, images: list[Any]) -> list[dict[str, str]]:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        go_on.wait(10)
        running -= 1
        return [{}] * len(images)

    monkeypatch.setattr(module, "prepare_image", lambda *_: None)
    monkeypatch.setattr(module, "classify_images", classify_slowly)

    async def upload() -> list[int]:
        stalled = asyncio.create_task(post(service, messages()))
        waiting = [
            asyncio.create_task(post(service, messages(BODY))) for _ in range(module.MAX_IMAGES - 1)
        ]
        await asyncio.sleep(0.05)
        sent_away = await post(service, messages(BODY))
        go_on.set()
        statuses = [sent_away, *await asyncio.gather(*waiting)]
        stalled.cancel()
        await asyncio.gather(stalled, return_exceptions=True)
        return [*statuses, await post(service, messages(BODY))]

    assert asyncio.run(upload()) == [503, *[200] * module.MAX_IMAGES]
    assert most_running == 1


class SlowNetworks:
    """Stands in for decoding, where an image is the number that a body holds, and for networks,
    whose first batch waits for `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()
        monkeypatch.setattr(module, "prepare_image", self.prepare)
        monkeypatch.setattr(module, "classify_images", self.classify)

    def prepare(self, _: object, content: bytes, *options: object) -> int:
        if not content.isdigit():
            raise Unreadable("no image")
        return int(content)

    def classify(self, _: object, images: list[int]) -> list[dict[str, int]]:
        self.batches.append(images)
        self.go_on.wait(10)
        return [{"number": number} for number in images]

    def leave(self, body: bytes) -> Any:
        """A client that leaves before the first batch ends."""
        remaining = iter([BODY | {"body": body}])

        async def receive() -> dict[str, Any]:
            for message in remaining:
                return message
            if not self.go_on.is_set():
                await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        return receive


def test_images_that_wait_are_the_next_batch_but_the_broken_and_those_whose_clients_left(
    group: NetworkGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, networks = module.Service([group], [], configure()), SlowNetworks(monkeypatch)

    async def upload() -> list[int]:
        requests: list[asyncio.Task[int]] = []
        bodies = [BODY | {"body": body} for body in (b"1", b"2", b"broken", b"3", b"4")]
        for receive in [*map(messages, bodies), networks.leave(b"5")]:
            requests.append(asyncio.create_task(post(service, receive)))
            while sum(not request.done() for request in requests) > len(service.queues["0"]):
                await asyncio.sleep(0.001)
        networks.go_on.set()
        return await asyncio.gather(*requests)

    assert asyncio.run(upload()) == [200, 200, 415, 200, 200, 408]
    assert networks.batches == [[1], [2, 3, 4]]
    assert service.queues == {"0": []}


def test_a_client_that_left_while_waiting_costs_no_prediction(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "classify_images", lambda *_: pytest.fail("nobody waits for it"))
    assert asyncio.run(post(service, messages(BODY, {"type": "http.disconnect"}))) == 408


def test_an_image_that_takes_long_is_refused_and_the_end_of_the_server_does_not_wait_for_it(
    service: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triptych.tools.serve.inference.FORMATS", ("FITS",))
    monkeypatch.setitem(service.config, "max_pixels", 10**7)
    monkeypatch.setitem(service.config, "max_bytes", 10**6)
    monkeypatch.setattr(service.decoder, "seconds", 0.2)
    response = client.post("/0/predictions", content=fits(2500))
    assert response.status_code == 415
    assert "more than 0.2 s" in response.json()["problem"]
    monkeypatch.setattr(service.decoder, "seconds", 30)

    async def cancel() -> list[int]:
        body = {"type": "http.request", "body": fits(2500), "more_body": False}
        requests = [asyncio.create_task(post(service, messages(body))) for _ in range(2)]
        while service.decoder.process is None:
            await asyncio.sleep(0.01)
        for request in requests:
            request.cancel()
        return await asyncio.gather(*requests)

    assert asyncio.run(cancel()) == [503, 503]  # which waits for threads
    assert service.decoder.process is None, "it has been ended"


def test_an_image_leaves_no_file_and_no_line(
    client: Any,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with caplog.at_level(logging.DEBUG, logger="triptych"):
        assert client.post("/0/predictions", content=image(kind="TIFF")).status_code == 200
        assert client.post("/0/predictions", content=b"no image").status_code == 415
    assert list(tmp_path.rglob("*")) == []
    assert [r.message for r in caplog.records if r.name.startswith(("triptych", "uvicorn"))] == []


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        *(
            (host, f"http://{host}", 200)
            for host in ("127.0.0.1:8000", "localhost:80", "[::1]:8000")
        ),
        *((host, None, 200) for host in ("192.168.0.7", "gpubox:80")),
        *((host, f"http://{host}", 421) for host in ("evil.example", "127.0.0.1.evil.example")),
        *((host, None, 421) for host in ("", ":8000", "evil@127.0.0.1.example", "[::1", "127.1.a")),
        *(("localhost:8000", f"http://{name}", 403) for name in ("evil.example", "localhost:8001")),
        *(
            ("localhost:8000", f"http://{name}", 403)
            for name in ("localhost:8000.evil.example", "[")
        ),
        *(("localhost:8000", origin, 403) for origin in ("null", "", "file://")),
    ],
)
def test_only_requests_of_our_own_page_to_this_machine_are_let_in(
    host: str, origin: str | None, status: int
) -> None:
    gate = module.Gate(responses.PlainTextResponse("in"), ["gpubox"])
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    response = testclient.TestClient(gate, base_url=HERE).post("/", headers=headers)
    assert response.status_code == status
    expected = {name.lower(): value for name, value in module.HEADERS.items()}
    assert dict(response.headers) | expected == dict(response.headers)
