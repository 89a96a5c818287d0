"""The web service: a page for each group of networks, and predictions for images.

An image is held in memory until its predictions are made, and stored nowhere. Images are decoded
one after the other; those that wait while the networks are at work are their next batch.

Any page open in the same browser can send requests to this machine. Two headers that its scripts
cannot choose tell it from ours: `Host`, which after DNS rebinding still has the stranger's name,
and `Origin`, which every request has that could do or read more than a link does.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triptych.config import Config
from triptych.data.decoder import Decoder
from triptych.data.photos import Unreadable
from triptych.tools.compare.formats import join_words, percent
from triptych.tools.compare.runs import Problem
from triptych.tools.report.page import make_environment
from triptych.tools.serve.connections import BACKLOG, Connection
from triptych.tools.serve.inference import (
    FORMATS,
    PreparedImage,
    classify_images,
    find_examples,
    prepare_image,
)
from triptych.tools.serve.networks import NetworkGroup, read_groups

log = logging.getLogger(__name__)

MAX_IMAGES = 16  # in memory at once: being uploaded, or waiting for their predictions; a batch
UPLOAD_SECONDS = 30
DECODE_SECONDS = 5  # of processor time, for whose end the others wait
MAX_NAMES = 4  # networks in a title
TOOLS = ("serve", "report")  # whose templates, style sheets and scripts make the page

# Scripts, styles and images of the page itself; examples and predictions are data: URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(eq=False)
class Waiting:
    """A request whose image is decoded, and its response once there is one."""

    request: Request
    image: PreparedImage
    response: Response | None = None


class Service:
    """The application; `max_bytes` and `max_pixels` of the config bound an image."""

    def __init__(
        self, groups: Sequence[NetworkGroup], problems: Sequence[Problem], config: Config
    ) -> None:
        self.config = config
        self.groups = {str(place): group for place, group in enumerate(groups)}
        self.pages = {
            name: HTMLResponse(render_page(groups, group, problems, config))
            for name, group in self.groups.items()
        }
        self.queues: dict[str, list[Waiting]] = {name: [] for name in self.groups}
        self.slots = asyncio.Semaphore(MAX_IMAGES)
        self.decoding, self.classifying = asyncio.Lock(), asyncio.Lock()
        self.decoder = Decoder(DECODE_SECONDS)

    @property
    def app(self) -> Starlette:
        assets = [StaticFiles(packages=[(f"triptych.tools.{each}", "template")]) for each in TOOLS]
        return Starlette(
            routes=[
                *(Mount(f"/{name}", files) for name, files in zip(TOOLS, assets, strict=True)),
                Route("/", self.page),
                Route("/{group}", self.page),
                Route("/{group}/predictions", self.predict, methods=["POST"]),
            ],
            exception_handlers={HTTPException: describe_failure},
        )

    async def page(self, request: Request) -> Response:
        return self.pages[self.find_group(request)]

    def find_group(self, request: Request) -> str:
        name: str = request.path_params.get("group", "0")
        if name not in self.groups:
            raise HTTPException(404)
        return name

    async def predict(self, request: Request) -> Response:
        """The predictions for the image file in the request's body."""
        name = self.find_group(request)
        if self.slots.locked():
            raise HTTPException(503, "Too many images at once. Try again.", {"Retry-After": "2"})
        try:
            async with self.slots:
                image = await self.read_image(request, self.groups[name])
                return await self.classify(name, Waiting(request, image))
        except Unreadable as error:
            raise HTTPException(415, f"The file cannot be read: {error}.") from error
        except torch.OutOfMemoryError as error:
            device = self.groups[name].device
            raise HTTPException(500, f"Out of memory on {device}.") from error
        except asyncio.CancelledError as error:
            self.decoder.kill()  # or its thread would be waited for
            raise HTTPException(503, "The program of this page ends.") from error

    async def read_image(self, request: Request, group: NetworkGroup) -> PreparedImage:
        """The image in the request's body, of which only what networks and page need is held."""
        content = await self.read_body(request)
        async with self.decoding:
            if await request.is_disconnected():  # the user chose another image meanwhile
                raise HTTPException(408)
            read, max_pixels = self.decoder.read_image, self.config["max_pixels"]
            return await asyncio.to_thread(prepare_image, group, content, max_pixels, read)

    async def classify(self, name: str, waiting: Waiting) -> Response:
        """The response; who comes first answers all that wait for the same networks."""
        queue = self.queues[name]
        queue.append(waiting)
        try:
            async with self.classifying:
                if waiting.response is None:
                    await self.respond(name, [each for each in queue if each.response is None])
        finally:
            queue.remove(waiting)
        assert waiting.response
        return waiting.response

    async def respond(self, name: str, queue: Sequence[Waiting]) -> None:
        connected = []
        for each in queue:
            if await each.request.is_disconnected():
                each.response = Response(status_code=408)
            else:
                connected.append(each)
        if not connected:
            return
        images = [each.image for each in connected]
        answers = await asyncio.to_thread(classify_images, self.groups[name], images)
        for each, answer in zip(connected, answers, strict=True):
            each.response = JSONResponse(answer, 500 if "problem" in answer else 200)

    async def read_body(self, request: Request) -> bytes:
        """The request's body, of which at most `max_bytes` are held."""
        max_bytes, content = self.config["max_bytes"], bytearray()
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
        return bytes(content)


def render_page(
    groups: Sequence[NetworkGroup], group: NetworkGroup, problems: Sequence[Problem], config: Config
) -> str:
    """The page of one of the groups, with links to the pages of the others."""
    names = [network.name for network in group.networks]
    return (
        make_environment(*TOOLS)
        .get_template("page.html")
        .render(
            title=join_words(names) if len(names) <= MAX_NAMES else f"{len(names)} networks",
            groups=groups,
            place=groups.index(group),
            group=group,
            examples=find_examples(group),
            problems=problems,
            config=config,
            formats=join_words([kind.replace("WEBP", "WebP") for kind in FORMATS]),
            version=version("triptych"),
        )
    )


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
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        rejection = self.reject(Headers(scope=scope))
        await (rejection or self.app)(scope, receive, send_with_headers)

    def reject(self, headers: Headers) -> Response | None:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if not self.is_this_machine(host):
            return PlainTextResponse("The Host header does not name this machine.\n", 421)
        if origin is not None and origin.lower() != f"http://{host}":
            return PlainTextResponse("Requests from other pages are not allowed.\n", 403)
        return None

    def is_this_machine(self, host: str) -> bool:
        """Of a `Host` header, which may end in a port."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name not in self.names:
                ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


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
    # asyncio shows a traceback of every try, and there are many a second.
    logging.getLogger("asyncio").addFilter(lambda r: "system resource" not in r.getMessage())
    uvicorn.Server(make_server_config(gate)).run(sockets=[listener])


def make_server_config(app: ASGIApp) -> uvicorn.Config:
    """HTTP alone, a request for each connection, and no log of requests."""
    return uvicorn.Config(
        app,
        http=Connection,
        headers=[("Connection", "close")],
        backlog=BACKLOG,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # what is wrong with a request is told to its sender
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
