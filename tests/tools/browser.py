"""Chromium, driven by the DevTools protocol over a pipe: real keys, real widths, real policies."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium")
OPTIONS = """--headless --no-sandbox --disable-gpu --disable-background-networking --disable-sync
    --disable-component-update --no-first-run --remote-debugging-pipe""".split()
# Chromium reads commands from descriptor 3 and writes answers to 4.
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
TEXT = {"Enter": "\r", " ": " "}


class Browser:
    """One tab; `errors` are those of the console."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        started = [sys.executable, "-c", START, str(commands), str(answers), CHROMIUM, *OPTIONS]
        self._process = subprocess.Popen(
            [*started, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(commands, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._unread, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        [tab] = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answered := self._next()).get("id") != self._number:
            self._note(answered)
        assert "error" not in answered, answered["error"]
        result: dict[str, Any] = answered["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            read = os.read(self._answers, 1 << 20)
            assert read, "chromium has ended"
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        content: dict[str, Any] = json.loads(message)
        return content

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            self.errors.append(params["entry"]["text"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        response = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in response, response
        return response["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def open(self, url: str, width: int = 1280) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.call("Page.navigate", url=url)
        self.until(f"location.href === {url!r} && document.readyState === 'complete'")

    def press(self, *keys: str) -> None:
        for key in keys:
            about = {"key": key, "code": key.strip() or "Space", "windowsVirtualKeyCode": KEYS[key]}
            text = {"text": TEXT[key]} if key in TEXT else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **about)
