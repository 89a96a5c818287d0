"""Who may ask: programs that name this machine rightly, and no page of somebody else's.

Any page open in the same browser can send requests to this machine. Two headers that its scripts
cannot choose tell it from ours: `Host`, which after DNS rebinding still has the stranger's name,
and `Origin`, which every request has that could do or read more than a link does.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Scripts, styles and pictures of the page itself; a picture may come with the answer (data:).
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


class Gate:
    """An application behind these checks, whose every answer has `HEADERS`.

    A request must name this machine by an address in digits, by localhost, or by one of `names`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self.app = app
        self.names = {"localhost", *map(str.lower, names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "the server is told to speak nothing else"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(Headers(scope=scope))
        await (refusal or self.app)(scope, receive, send_with_headers)

    def refusal(self, headers: Headers) -> PlainTextResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.knows(host):
            return PlainTextResponse("This is no name of the machine that serves the page.\n", 421)
        if origin is not None and host_of(origin) != host.lower():
            return PlainTextResponse("Only the page itself may ask.\n", 403)
        return None

    def knows(self, host: str) -> bool:
        """Whether `host`, which may end in a port, names this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True


def host_of(origin: str) -> str | None:
    """As the `Host` header has it, port included; None where an origin has none, as `null`."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
