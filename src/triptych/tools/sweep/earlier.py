"""What was done of a job before, and who is at work on it now."""

import fcntl
import os
from pathlib import Path
from typing import IO

from triptych.errors import UserError
from triptych.runs.earlier_runs import find_runs
from triptych.runs.record import Record
from triptych.runs.storage import check_regular_file, open_no_follow
from triptych.tools.sweep.jobs import Job


def newest(job: Job) -> Record | None:
    """The newest run of the job's experiment below its `log_dir`; one that is finished, if any."""

    def rank(run: Record) -> tuple[bool, str, Path]:
        return run.metadata["status"] == "finished", str(run.metadata.get("started_at")), run.folder

    runs = find_runs(Path(job.config["log_dir"]), job.config_hash)
    return max(runs, key=rank, default=None)


def settles(run: Record, job: Job) -> bool:
    """Whether there is nothing left to do."""
    status = run.metadata.get("status")
    return status == "finished" or (status == "failed" and not job.retry_failed)


def lock_job(job: Job) -> IO[bytes] | None:
    """The right to work on an experiment; None while another process below `log_dir` has it.

    It lasts until the file is closed in every process that has it open: a child that inherits
    it keeps its job even if the sweep is killed. Where locks are unknown every claim is granted;
    then the run folder's own lock is all that keeps two processes apart.

    Raises UserError where something else lies in the file's place.
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
        return open(check_regular_file(path), "ab", opener=open_no_follow)
    except OSError as error:
        if os.path.lexists(path):
            reason = error.strerror or error
            raise UserError(f"{path}: in the way of the sweep ({reason}); delete it") from error
        return open(os.devnull, "ab")


def unlock_job(claimed: IO[bytes]) -> None:
    if claimed.name != os.devnull:
        Path(claimed.name).unlink(missing_ok=True)
    claimed.close()
