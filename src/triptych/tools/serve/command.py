"""A page on this machine where trained networks look at your images, side by side."""

import ipaddress
import logging
import socket
from importlib.util import find_spec

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, sanitize_log_record
from triptych.runs.stopping import exit_on_signal, signal_handlers

log = logging.getLogger("triptych.tools.serve.command")  # also where this file is the program
log.addFilter(sanitize_log_record)

NEEDED = {"starlette": "starlette>=0.45", "uvicorn": "uvicorn>=0.34"}


def serve(config: Config, overrides: list[str]) -> None:
    """Serve the page until a signal ends it, which then is the exit code.

    Raises UserError where no run can be shown, or the port is not to be had.
    """
    lost = [f"'{package}'" for name, package in NEEDED.items() if find_spec(name) is None]
    if lost:
        raise UserError(f"serve: its extra is not installed; pip install {' '.join(lost)}")
    folders = find_run_folders(config["runs"])
    with listening(config["host"], config["port"]) as door, signal_handlers(exit_on_signal):
        from triptych.tools.serve.service import run  # torch, behind what can be refused

        url = address(config["host"], door.getsockname()[1])
        if not is_local(config["host"]):
            log.warning("host=%s: others who reach this machine can use it too", config["host"])
        run(folders, config, door, url)


def listening(host: str, port: int) -> socket.socket:
    """A socket that waits for browsers; raises UserError where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise UserError(
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
