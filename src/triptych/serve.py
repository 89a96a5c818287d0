"""A page on this machine where trained networks look at your images, side by side."""

import ipaddress
import logging
import socket
from importlib.util import find_spec

from triptych import Refused
from triptych.config import Config
from triptych.door import open_door
from triptych.folders import find_folders, made_legible
from triptych.stopping import handled, stop_at_once

log = logging.getLogger("triptych.serve")  # also where this file is the program
log.addFilter(made_legible)

NEEDED = {"starlette": "starlette>=0.45", "uvicorn": "uvicorn>=0.34"}


def serve(config: Config, overrides: list[str]) -> None:
    """Serve the page until a signal ends it, which then is the exit code.

    Raises Refused where no run can be shown, or the port is not to be had.
    """
    lost = [f"'{package}'" for name, package in NEEDED.items() if find_spec(name) is None]
    if lost:
        raise Refused(f"serve: its extra is not installed; pip install {' '.join(lost)}")
    folders = find_folders(config["runs"])
    with listening(config["host"], config["port"]) as door, handled(stop_at_once):
        from triptych.serving.service import run  # torch, behind what can be refused

        url = address(config["host"], door.getsockname()[1])
        if not is_local(config["host"]):
            log.warning("host=%s: others who reach this machine can use it too", config["host"])
        run(folders, config, door, url)


def listening(host: str, port: int) -> socket.socket:
    """A socket that waits for browsers; raises Refused where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise Refused(
            f"host={host} port={port}: cannot be listened on ({reason})\n"
            "port=0 takes any port that is free"
        ) from error


def is_local(host: str) -> bool:
    """Whether only programs of this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


if __name__ == "__main__":
    open_door("serve", "triptych.serve:serve")
