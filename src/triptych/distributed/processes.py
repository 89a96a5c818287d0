"""Trainings in processes of their own: the jobs of a sweep, and the ranks of a run.

Each has a folder with `job.json` (what to train), `output`, and `folder`, which names the run's
folder as soon as there is one. `job.py` is the child's side.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "triptych.distributed.job"]  # and the folder
SAVE_SECONDS = 30.0  # from a signal to SIGKILL; then the last checkpoint counts


def start_process(
    place: Path,
    job: Mapping[str, Any],
    env: Mapping[str, str],
    *,
    shows_output: bool = False,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start the job (`config` and `overrides`) in the new folder `place`."""
    place.mkdir()
    (place / "job.json").write_text(json.dumps(job))
    with (place / "output").open("wb") as output:
        return subprocess.Popen(
            [*COMMAND, str(place)],
            stdin=subprocess.PIPE,  # closes when this process ends in any way: then the job stops
            stdout=None if shows_output else output,
            stderr=None if shows_output else subprocess.STDOUT,
            env=env,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            pass_fds=pass_fds,
        )


def read_run_folder(place: Path) -> Path | None:
    """The run's folder, once there is one."""
    report = place / "folder"
    return Path(report.read_text()) if report.exists() else None


def read_output(place: Path) -> str:
    """The end of what a job printed; empty where the system has cleared it away."""
    with suppress(OSError), (place / "output").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        return file.read().decode(errors="replace").strip()
    return ""
