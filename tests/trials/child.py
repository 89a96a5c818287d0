"""A command in a process of its own: how long it took, and the most memory it held.

What a child is charged with begins at its parent's size, which is why this imports nothing large.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# The system counts in kilobytes, macOS in bytes.
MEGABYTE = 10**6 if sys.platform == "darwin" else 10**6 / 1024
IN_THE_WAY = ("HYDRA_FULL_ERROR", "PYTHONDONTWRITEBYTECODE")  # of refusals; of compiled modules


class Ended(NamedTuple):
    code: int
    said: str
    seconds: float
    cpu_seconds: float  # of it and its children
    megabytes: float  # of the largest process, if it had children of its own


def run(command: Sequence[str], until: str | None = None, typed: str = "") -> Ended:
    """A command from the repository's root, to its end or to the first line that holds `until`."""
    began = time.monotonic()
    seconds, lines = None, []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in IN_THE_WAY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    with process.stdin, process.stdout:
        process.stdin.write(typed)
        process.stdin.close()
        for line in process.stdout:
            lines.append(line)
            if until and until in line:
                seconds = time.monotonic() - began
                process.kill()
                break
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = seconds or time.monotonic() - began
    cpu_seconds = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss / MEGABYTE
    return Ended(process.returncode, "".join(lines), seconds, cpu_seconds, peak)
