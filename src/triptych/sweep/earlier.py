"""What was done of a job before, and who is at work on it now."""

import fcntl
import os
from pathlib import Path
from typing import IO

from triptych import Refused
from triptych.config import shown
from triptych.files import regular
from triptych.folders import MEASURED, finished, run_folders
from triptych.lock import no_link
from triptych.record import Record
from triptych.rules import Rule, count, number
from triptych.sweep.jobs import Job

STATUSES = ("running", "interrupted", "failed", "finished")
SCORES: dict[str, Rule] = {
    "num_test": count(1),
    "train_seconds": MEASURED,
    **dict.fromkeys(("test/accuracy", "test/f1"), number(0, 1 + 1e-9)),
    "test/loss": MEASURED.or_null(),  # infinite, if float32 cannot hold it
}


def newest(job: Job) -> Record | None:
    """The newest run of the job's experiment below its `log_dir`; one that is finished, if any."""

    def rank(run: Record) -> tuple[bool, str, Path]:
        return run.facts["status"] == "finished", str(run.facts.get("started_at")), run.folder

    folders = run_folders(Path(job.config["log_dir"]))
    return max(filter(None, (opened(f, job.config_hash) for f in folders)), key=rank, default=None)


def opened(folder: Path, config_hash: str) -> Record | None:
    """The record of a folder, where it is of that config and can be trusted."""
    try:
        run = Record.open(folder)
        if run.facts.get("config_hash") != config_hash or run.facts.get("status") not in STATUSES:
            return None
        return scored(folder) if run.facts["status"] == "finished" else run
    except Refused:
        return None


def scored(folder: Path) -> Record:
    """The record of a finished run that has the facts of the sweep's table."""
    run = finished(folder)
    for name, rule in SCORES.items():
        if not rule.holds(value := (run.facts | run.facts["metrics"]).get(name)):
            raise Refused(f"{folder}/run.json: {name} must be {rule.says}, it is {shown(value)}")
    return run


def settles(run: Record, job: Job) -> bool:
    """Whether there is nothing left to do."""
    status = run.facts.get("status")
    return status == "finished" or (status == "failed" and not job.retry_failed)


def claim(job: Job) -> IO[bytes] | None:
    """The right to work on an experiment; None while another process below `log_dir` has it.

    It lasts until the file is closed in every process that has it open: a child that inherits
    it keeps its job even if the sweep is killed. Where locks are unknown every claim is granted;
    then the run folder's own lock is all that keeps two processes apart.

    Raises Refused where something else lies in the file's place.
    """
    path = Path(job.config["log_dir"], ".sweep", job.config_hash[:16])
    file = _opened(path)
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


def _opened(path: Path) -> IO[bytes]:
    """A claim's file; where none can be made, one that everybody may have."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(regular(path), "ab", opener=no_link)
    except OSError as error:
        if os.path.lexists(path):
            reason = error.strerror or error
            raise Refused(f"{path}: in the way of the sweep ({reason}); delete it") from error
        return open(os.devnull, "ab")


def give_up(claimed: IO[bytes]) -> None:
    if claimed.name != os.devnull:
        Path(claimed.name).unlink(missing_ok=True)
    claimed.close()
