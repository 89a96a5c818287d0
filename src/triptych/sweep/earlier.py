"""What was done of a job before, and who is at work on it now."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from triptych import Refused
from triptych.record import Record
from triptych.sweep.jobs import Job


def newest(job: Job) -> Record | None:
    """The newest run of the job's experiment below its `log_dir`."""
    runs = (opened(folder) for folder in run_folders(Path(job.config["log_dir"])))
    same = [run for run in runs if run and run.facts.get("config_hash") == job.config_hash]
    return max(same, key=lambda run: (str(run.facts.get("started_at")), run.folder), default=None)


def run_folders(below: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(below):
        if "run.json" in files:
            inner.clear()
            yield Path(folder)


def opened(folder: Path) -> Record | None:
    """The record of a folder; None where it cannot be read: such a run is no job's."""
    try:
        return Record.open(folder)
    except Refused:
        return None


def settles(run: Record, job: Job) -> bool:
    """Whether there is nothing left to do."""
    status = run.facts.get("status")
    return status == "finished" or (status == "failed" and not job.retry_failed)


def claim(job: Job) -> IO[bytes] | None:
    """The right to work on an experiment; None while another process below `log_dir` has it.

    It lasts until the file is closed in every process that has it open: a child that inherits
    it keeps its job even if the sweep is killed. Where locks are unknown every claim is granted;
    then the run folder's own lock is all that keeps two processes apart.
    """
    path = Path(job.config["log_dir"], ".sweep", job.config_hash[:16])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError:
        return open(os.devnull, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except (BlockingIOError, FileNotFoundError):  # taken, or just given up by another process
        is_ours = False
    except OSError:
        is_ours = True
    if is_ours:
        return file
    file.close()
    return None


def give_up(claimed: IO[bytes]) -> None:
    if claimed.name != os.devnull:
        Path(claimed.name).unlink(missing_ok=True)
    claimed.close()
