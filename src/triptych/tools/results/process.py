"""A part in a process of its own, which stops when the process that started it is gone."""

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from triptych import cli
from triptych.distributed.processes import SAVE_SECONDS, stop_with_parent
from triptych.runs.storage import is_locked
from triptych.tools.results.parts import BENCHMARK, KILLED, Part

PROGRAM = [sys.executable, "-m", "triptych.tools.results.process"]
POLL_SECONDS = 0.1


def run_part(part: Part, place: Path, ends: float, signals: Sequence[int]) -> int:
    """Run a part, or go on with it, until `ends` of the monotonic clock; its exit code.

    It is asked to end then, or at a signal; at a second signal it is killed.
    """
    place.mkdir(parents=True, exist_ok=True)
    process, kill_time = start(part, place, ends), math.inf
    while process.poll() is None:
        now = time.monotonic()
        if kill_time == math.inf and (signals or now > ends):
            kill_time = now + 2 * SAVE_SECONDS
            process.terminate()
        elif len(signals) > 1 or now > kill_time:
            kill_group(process)
        if part.kill and not (place / KILLED).exists() and kill_training(place):
            process.communicate()
            process = start(part, place, ends)
        time.sleep(POLL_SECONDS)
    process.communicate()
    return process.returncode


def start(part: Part, place: Path, ends: float) -> "subprocess.Popen[bytes]":
    """The process of a part, whose runs or measurement lie below `place`."""
    settings = [f"log_dir={place}"]
    if part.program == "benchmark":
        settings = [f"log_dir={place}", f"out={place / BENCHMARK}"]
    elif ends < math.inf:
        settings.append(f"minutes={(ends - time.monotonic()) / 60:.2f}")
    flags = ["-m"] * (part.program == "train")
    return subprocess.Popen(
        [*PROGRAM, part.program, *flags, *part.overrides, *settings],
        stdin=subprocess.PIPE,  # closes however this process ends: then the part stops
        env=copy_env(),
        start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
    )


def copy_env() -> dict[str, str]:
    """The environment for a command of its own, without what this one's has set for Hydra."""
    return {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies
        os.killpg(process.pid, signal.SIGKILL)


def kill_training(place: Path) -> bool:
    """Kill the process of the run below a folder if it has saved a checkpoint, and note it."""
    for checkpoint in place.rglob("last.ckpt"):
        folder = checkpoint.parents[1]
        with suppress(OSError):  # it has ended meanwhile
            holder = re.match(r"process (\d+) on ", (folder / ".lock").read_text())
            if holder and is_locked(folder):
                os.kill(int(holder[1]), signal.SIGKILL)
                (place / KILLED).touch()
                return True
    return False


def main() -> None:
    """The child's side: what was typed, until standard input closes."""
    threading.Thread(target=stop_with_parent, daemon=True).start()
    command, *arguments = sys.argv[1:]
    sys.argv = ["train.py" if command == "train" else "triptych", *arguments]
    cli.main(command)


if __name__ == "__main__":
    main()
