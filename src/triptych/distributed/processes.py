"""A training in a process of its own: a job of a sweep, or a rank of a run. Imports no torch."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from triptych.cli import (
    ROOT,
    configure_logging,
    configure_process,
    load_function,
    open_screen,
    print_error,
)
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.stopping import STARTED

COMMAND = [sys.executable, "-m", "triptych.distributed.processes"]  # and the place
SAVE_SECONDS = 30.0  # from a signal to SIGKILL; then the last checkpoint counts


def count_cores() -> int:
    """How many cores this process may use: on a cluster fewer than the machine has."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def copy_env() -> dict[str, str]:
    """The environment for a command of its own, for which Hydra shall not raise as for this one."""
    return {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}


class ChildProcess:
    """A process that calls `stop_with_parent`, and so never outlives this one."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        output: BinaryIO | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closes however this process ends: then the child stops
            stdout=output,
            stderr=output and subprocess.STDOUT,
            env=env,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            pass_fds=pass_fds,
        )

    def kill(self) -> None:
        """End the process and every other that it started."""
        with suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill what is left of the process, loaders that outlived it among it, and wait for it."""
        self.kill()
        self.process.communicate()


class TrainingProcess(ChildProcess):
    """Trains in the new folder `place`, which holds `job.json` (what to train), `output`, and
    `folder`, which names the run's folder as soon as there is one. The child calls `main`.
    """

    def __init__(
        self,
        place: Path,
        job: tuple[Config, list[str]],
        env: Mapping[str, str],
        *,
        shows_output: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.place = place
        place.mkdir()
        (place / "job.json").write_text(json.dumps(job))
        with (place / "output").open("wb") as output:
            shown = None if shows_output else output
            super().__init__([*COMMAND, str(place)], env, shown, pass_fds)

    def run_folder(self) -> Path | None:
        """The run's folder, once there is one."""
        report = self.place / "folder"
        return Path(report.read_text()) if report.exists() else None

    def read_output(self) -> str:
        """The end of what was printed; empty where the system has cleared it away."""
        with suppress(OSError), (self.place / "output").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            return file.read().decode(errors="replace").strip()
        return ""


def main(place: Path) -> int:
    """The child's side: train what `job.json` says, write the run's folder into `folder`.

    Standard input closes when the process that started this one is gone, however that ended. The
    training then stops as at a SIGTERM; one that waits on a device or a process is killed later.
    Returns the exit code.
    """
    os.environ[STARTED] = str(time.time())
    threading.Thread(target=stop_with_parent, daemon=True).start()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit's, which reaches all of a job
    sys.path.append(str(ROOT))  # where `python train.py` finds classes of one's own
    open_screen()
    configure_process()
    configure_logging()
    try:
        job = (place / "job.json").read_text()
        config, overrides = json.loads(job, object_hook=restore_numbers)
        work(config, overrides, place / "folder")
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        return 130
    return 0


def restore_numbers(mapping: Config) -> dict[int | str, Any]:
    """A mapping with numbers as keys, as a callback's `scheduling={4: 2}` has: JSON has texts."""
    return {int(key) if key.isdecimal() else key: value for key, value in mapping.items()}


def stop_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def work(config: Config, overrides: list[str], report: Path) -> None:
    load_function("train")(config, overrides, report.write_text)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
