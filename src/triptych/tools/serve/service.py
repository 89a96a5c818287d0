"""The web service: a page for each group of networks, its examples, and predictions for images.

An image is held in memory until its predictions are made, one image after the other, and stored
nowhere. Any page open in the same browser can send requests to this machine. Two headers that its
scripts cannot choose tell it from ours: `Host`, which after DNS rebinding still has the stranger's
name, and `Origin`, which every request has that could do or read more than a link does.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triptych.config import Config
from triptych.data.photos import Unreadable
from triptych.errors import UserError
from triptych.runs.reader import sanitize_log_record
from triptych.tools.compare.formats import percent
from triptych.tools.compare.runs import Problem
from triptych.tools.serve.examples import find_examples
from triptych.tools.serve.inference import classify_image
from triptych.tools.serve.networks import NetworkGroup, read_groups
from triptych.tools.serve.page import ASSETS, render_page

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)

MAX_UPLOADS = 16  # at once
MAX_WAITING = 4  # uploaded images, the one being classified included
UPLOAD_SECONDS = 30

# Scripts, styles and images of the page itself; predictions bring images as data: URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Service:
    """The application; `max_bytes` and `max_pixels` of the config bound an image."""

    def __init__(
        self, groups: Sequence[NetworkGroup], problems: Sequence[Problem], config: Config
    ) -> None:
        self.groups, self.problems, self.config = groups, problems, config
        self.examples = [find_examples(group) for group in groups]
        self.places = {str(place): place for place in range(len(groups))}
        self.lock = asyncio.Lock()
        self.num_uploads = self.num_waiting = 0

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.page),
                *(Route(f"/{name}", self.asset) for name in ASSETS),
                Route("/{group}", self.page),
                Route("/{group}/examples/{number}.png", self.example),
                Route("/{group}/predictions", self.predict, methods=["POST"]),
            ],
            exception_handlers={HTTPException: describe_failure},
        )

    def find_place(self, request: Request) -> int:
        place = self.places.get(request.path_params.get("group", "0"))
        if place is None:
            raise HTTPException(404)
        return place

    async def page(self, request: Request) -> Response:
        place = self.find_place(request)
        examples = self.examples[place]
        return HTMLResponse(render_page(self.groups, place, examples, self.problems, self.config))

    async def asset(self, request: Request) -> Response:
        content, media_type = ASSETS[request.url.path.removeprefix("/")]
        return Response(content, media_type=media_type)

    async def example(self, request: Request) -> Response:
        for number, example in enumerate(self.examples[self.find_place(request)]):
            if request.path_params["number"] == str(number):
                return Response(example.png, media_type="image/png")
        raise HTTPException(404)

    async def predict(self, request: Request) -> Response:
        """The predictions for the image file in the request's body."""
        group = self.groups[self.find_place(request)]
        content = await self.read_body(request)
        check_load(self.num_waiting, MAX_WAITING)
        self.num_waiting += 1
        try:
            async with self.lock:
                if await request.is_disconnected():  # the user chose another image meanwhile
                    return Response(status_code=408)
                max_pixels = self.config["max_pixels"]
                return JSONResponse(
                    await asyncio.to_thread(classify_image, group, content, max_pixels)
                )
        except Unreadable as error:
            raise HTTPException(415, f"The file cannot be read: {error}.") from error
        except UserError as error:
            raise HTTPException(500, str(error)) from error
        except torch.OutOfMemoryError as error:
            raise HTTPException(500, f"Out of memory on {group.device}.") from error
        finally:
            self.num_waiting -= 1

    async def read_body(self, request: Request) -> bytes:
        """The request's body, of which at most `max_bytes` are held."""
        max_bytes = self.config["max_bytes"]
        content = bytearray()
        check_load(self.num_uploads, MAX_UPLOADS)
        self.num_uploads += 1
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > max_bytes:
                        raise HTTPException(413, f"The file is larger than {max_bytes:,} bytes.")
        except TimeoutError as error:
            raise HTTPException(408, f"The upload took over {UPLOAD_SECONDS} seconds.") from error
        except ClientDisconnect as error:
            raise HTTPException(408) from error
        finally:
            self.num_uploads -= 1
        return bytes(content)


def check_load(num: int, most: int) -> None:
    if num >= most:
        raise HTTPException(503, "Too many images at once. Try again.", {"Retry-After": "2"})


def describe_failure(_: Request, error: Exception) -> Response:
    """An error as the page reads it."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"problem": error.detail}, error.status_code, error.headers)


class Gate:
    """An application behind the checks of Host and Origin; every response has `HEADERS`.

    A request must name this machine by an IP address, by localhost, or by one of `names`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self.app = app
        self.names = {"localhost", *map(str.lower, names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "the server speaks nothing else"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        rejection = self.reject(Headers(scope=scope))
        await (rejection or self.app)(scope, receive, send_with_headers)

    def reject(self, headers: Headers) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.is_this_machine(host):
            return PlainTextResponse("The Host header does not name this machine.\n", 421)
        if origin is not None and parse_host(origin) != host.lower():
            return PlainTextResponse("Requests from other pages are not allowed.\n", 403)
        return None

    def is_this_machine(self, host: str) -> bool:
        """Of a `Host` header, which may end in a port."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True


def parse_host(origin: str) -> str | None:
    """As the `Host` header has it, port included; None where an origin has none, as `null`."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def run_service(folders: Sequence[Path], config: Config, listener: socket.socket, url: str) -> None:
    """Serve on an open socket until a signal; raises UserError where no run can be shown."""
    groups, problems = read_groups(folders, config)
    for problem in problems:
        log.warning("left out: %s: %s", problem.folder, problem.what)
    for network in (network for group in groups for network in group.networks):
        accuracy = f"validation accuracy {percent(network.val_accuracy)} %"
        log.info("%s: %s, %s", network.name, accuracy, network.record.folder)
    service = Service(groups, problems, config)
    log.info("%s  (stop with Ctrl-C)", url)
    gate = Gate(service.app, (config["host"], socket.gethostname()))
    uvicorn.Server(make_server_config(gate)).run(sockets=[listener])


def make_server_config(app: ASGIApp) -> uvicorn.Config:
    """HTTP alone, and no log of requests."""
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
