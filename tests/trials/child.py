"""A command in a process of its own: how long it took, and the most memory it held.

The system counts a child's memory from its parent's size on, so this imports nothing large.
"""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
MEGABYTE = 10**6 if sys.platform == "darwin" else 10**6 / 1024  # in the units of `ru_maxrss`
UNSET = ("HYDRA_FULL_ERROR", "PYTHONDONTWRITEBYTECODE")  # variables that change what is measured


class Ended(NamedTuple):
    code: int
    output: str
    seconds: float
    cpu_seconds: float  # of the command and its children
    megabytes: float  # of the largest of these processes


def find_exit_code(function: Callable[[], object]) -> int:
    """Of what a function does as a command would, with its errors on the screen."""
    from triptych.cli import print_error
    from triptych.errors import UserError

    try:
        function()
    except UserError as error:
        return print_error(error)
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def run(command: Sequence[str], until: str | None = None) -> Ended:
    """A command from the repository's root, to its end or to the first line that holds `until`."""
    began = time.monotonic()
    seconds, lines = None, []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in UNSET},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    with process.stdout:
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
