"""Connections that nobody can hold: few at once, each for one request in a limited time.

A request's body is limited where it is read, its head to 16 KB by h11.
"""

import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 64
BACKLOG = 16  # that are accepted at once
HEAD_SECONDS = 10  # until the head of the request is there
TAKE_SECONDS = 60  # until the client has taken the response


class Connection(H11Protocol):
    """One too many closes the one that has waited longest for its request.

    So who says nothing keeps nobody out.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.opened_at = self.loop.time()
        self.loop.call_later(HEAD_SECONDS, self.close_silent)
        num_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self.connections) > min(MAX_CONNECTIONS, num_files // 4):
            every: set[Any] = self.connections  # typed as of any protocol of uvicorn's
            waiting = [each for each in every if each.cycle is None]
            min(waiting, key=lambda each: each.opened_at).close_silent()

    def close_silent(self) -> None:
        if self.cycle is None:
            self.transport.abort()
            self.connections.discard(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.loop.call_later(TAKE_SECONDS, self.transport.abort)
