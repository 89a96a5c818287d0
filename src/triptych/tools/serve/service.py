"""What is served: a page for each group of networks, its examples, and answers for images.

An image is in memory until it is answered for, one after the other, and nowhere else.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from triptych.config import Config
from triptych.data.photos import Unreadable
from triptych.errors import UserError
from triptych.runs.reader import sanitize_log_record
from triptych.tools.compare.content import Problem
from triptych.tools.report.formats import percent
from triptych.tools.serve.answers import answer
from triptych.tools.serve.examples import examples
from triptych.tools.serve.gate import Gate
from triptych.tools.serve.networks import Group, read_groups
from triptych.tools.serve.page import ASSETS, page

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)

MOST_SENDING = 16  # files that come at once
MOST_WAITING = 4  # images that came, the one that is answered for included
SECONDS_TO_SEND = 30  # a file


class Place(IntegerConvertor):
    """A number that Python reads: of more than 4,300 digits it reads none."""

    regex = "[0-9]{1,9}"


register_url_convertor("place", Place())


class Service:
    """Groups at work; `max_bytes` and `max_pixels` of the config bound what an image may be."""

    def __init__(self, groups: Sequence[Group], problems: Sequence[Problem], config: Config):
        self.groups, self.problems, self.config = groups, problems, config
        self.examples = [examples(group) for group in groups]
        self.turn = asyncio.Lock()
        self.num_sending = self.num_waiting = 0

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/{group:place}", self.page),
                Route("/{group:place}/examples/{number:place}.png", self.example),
                Route("/{group:place}/answer", self.answer, methods=["POST"]),
                Route("/{name}", self.asset),
            ],
            exception_handlers={HTTPException: said},
        )

    async def page(self, request: Request) -> Response:
        place = self.place(request)
        return HTMLResponse(
            page(self.groups, place, self.examples[place], self.problems, self.config)
        )

    async def example(self, request: Request) -> Response:
        shown, _ = self.examples[self.place(request)]
        number = request.path_params["number"]
        if number >= len(shown):
            raise HTTPException(404)
        return Response(shown[number].png, media_type="image/png")

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404)
        content, media_type = ASSETS[name]
        return Response(content, media_type=media_type)

    async def answer(self, request: Request) -> Response:
        """What the networks say of the image file that is the request's body."""
        group = self.groups[self.place(request)]
        content = await self.body(request)
        check_room(self.num_waiting, MOST_WAITING, "waiting")
        self.num_waiting += 1
        try:
            async with self.turn:
                if await request.is_disconnected():  # somebody chose another image meanwhile
                    return Response(status_code=408)
                found = await asyncio.to_thread(answer, group, content, self.config["max_pixels"])
            return JSONResponse(found)
        except Unreadable as error:
            raise HTTPException(415, f"The networks cannot be shown this file: {error}.") from error
        except UserError as error:
            raise HTTPException(500, str(error)) from error
        except torch.OutOfMemoryError as error:
            raise HTTPException(500, f"Too little memory is free on {group.device}.") from error
        finally:
            self.num_waiting -= 1

    async def body(self, request: Request) -> bytes:
        """The request's body, of which no more than `max_bytes` are ever held."""
        most = self.config["max_bytes"]
        content = bytearray()
        check_room(self.num_sending, MOST_SENDING, "on their way")
        self.num_sending += 1
        try:
            async with asyncio.timeout(SECONDS_TO_SEND):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > most:
                        raise HTTPException(413, f"The file is larger than {most:,} bytes.")
        except TimeoutError as error:
            raise HTTPException(408, f"No file came in {SECONDS_TO_SEND} seconds.") from error
        except ClientDisconnect as error:
            raise HTTPException(408) from error
        finally:
            self.num_sending -= 1
        return bytes(content)

    def place(self, request: Request) -> int:
        place: int = request.path_params.get("group", 0)
        if place >= len(self.groups):
            raise HTTPException(404)
        return place


def check_room(num: int, most: int, how: str) -> None:
    if num >= most:
        busy = f"{most} images are {how} already. Try again in a moment."
        raise HTTPException(503, busy, {"Retry-After": "2"})


def said(_: Request, error: Exception) -> Response:
    """A refusal as the page reads it."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"problem": error.detail}, error.status_code, error.headers)


def run(folders: Sequence[Path], config: Config, door: socket.socket, url: str) -> None:
    """Serve on an open socket until a signal comes; raises UserError where no run can be shown."""
    groups, problems = read_groups(folders, config)
    for problem in problems:
        log.warning("left out: %s: %s", problem.folder, problem.what)
    for network in (network for group in groups for network in group.networks):
        right = network.val_accuracy
        score = "unknown" if right is None else f"{percent(right)} %"
        log.info("%s: validation accuracy %s, %s", network.name, score, network.record.folder)
    service = Service(groups, problems, config)
    log.info("%s  (Ctrl-C ends it)", url)
    guarded = Gate(service.app, (config["host"], socket.gethostname()))
    uvicorn.Server(settings(guarded)).run(sockets=[door])


def settings(app: ASGIApp) -> uvicorn.Config:
    """HTTP and nothing else, and not a line about who asked what."""
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
