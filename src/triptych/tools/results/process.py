"""A part in a process of its own, which stops when the process that started it is gone."""

import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from triptych import cli
from triptych.distributed.processes import SAVE_SECONDS, ChildProcess, copy_env, stop_with_parent
from triptych.runs.reader import is_locked
from triptych.tools.results.parts import BENCHMARK, KILLED, Part, find_exported

PROGRAM = [sys.executable, "-m", "triptych.tools.results.process"]
POLL_SECONDS = 0.1


def run_part(part: Part, place: Path, ends: float, signals: Sequence[int]) -> int:
    """Run a part, or go on with it, until `ends` of the monotonic clock; its exit code.

    It is asked to end then, or at a signal; at a second signal it is killed.
    """
    place.mkdir(parents=True, exist_ok=True)
    child, kill_time = start(part, place, ends), math.inf
    while child.process.poll() is None:
        now = time.monotonic()
        if kill_time == math.inf and (signals or now > ends):
            kill_time = now + 2 * SAVE_SECONDS
            child.process.terminate()
        elif len(signals) > 1 or now > kill_time:
            child.kill()
        if part.kill and not (place / KILLED).exists() and kill_training(place):
            child.process.communicate()
            child = start(part, place, ends)
        time.sleep(POLL_SECONDS)
    child.process.communicate()
    return child.process.returncode


def start(part: Part, place: Path, ends: float) -> ChildProcess:
    """The process of a part, whose runs or measurement lie below `place`."""
    typed, settings = part.overrides, [f"log_dir={place}"]
    if part.program == "benchmark":
        settings = [f"log_dir={place}", f"out={place / BENCHMARK}"]
    elif part.program == "export":
        run = find_exported(part, place)
        typed = [each for each in typed if not each.startswith("run=")]
        settings = [f"run={run.folder if run else place}", "overwrite=true"]
    elif ends < math.inf:
        settings.append(f"minutes={max(0.01, (ends - time.monotonic()) / 60):.2f}")
    flags = ["-m"] * (part.program == "train")
    return ChildProcess([*PROGRAM, part.program, *flags, *typed, *settings], copy_env())


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
