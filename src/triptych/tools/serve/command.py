"""Serve a page on this machine where trained networks classify a user's images side by side."""

import ipaddress
import logging
import socket
from importlib.util import find_spec

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders
from triptych.runs.stopping import exit_on_signal, signal_handlers

PACKAGES = {"starlette": "starlette>=0.45", "uvicorn": "uvicorn>=0.34"}

log = logging.getLogger(__name__)


def serve(config: Config, overrides: list[str]) -> None:
    """Serve the page until a signal, which becomes the exit code.

    Raises UserError where no run can be shown or the port cannot be opened.
    """
    missing = [f"'{package}'" for name, package in PACKAGES.items() if find_spec(name) is None]
    if missing:
        raise UserError(f"serve: packages are missing; pip install {' '.join(missing)}")
    folders = find_run_folders(config["runs"])
    host = config["host"]
    with open_socket(host, config["port"]) as listener, signal_handlers(exit_on_signal):
        from triptych.tools.serve.service import run_service  # torch, behind the checks

        if not is_local(host):
            log.warning("host=%s: other machines can use the page, there is no password", host)
        run_service(folders, config, listener, format_url(host, listener.getsockname()[1]))


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; raises UserError where it cannot be opened."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"host={host} port={port}: cannot listen ({error.strerror})\nport=0 takes any free port"
        ) from error


def is_local(host: str) -> bool:
    """Whether only programs of this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def format_url(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    name = "localhost" if host in ("0.0.0.0", "::") else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
