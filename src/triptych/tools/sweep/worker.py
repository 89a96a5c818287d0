"""A job at work in a process of its own, and what became of it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from triptych.distributed.job import COMMAND
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.sweep.jobs import Job, train_arguments

STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # the latter two: before it had handlers


class Outcome(NamedTuple):
    """`status`: that of the record, or `refused`, `killed`, `not started`; `error`: why."""

    status: str
    metadata: Mapping[str, Any] = MappingProxyType({})
    folder: Path | None = None
    error: str = ""
    is_earlier: bool = False


class Worker:
    """A child in a session of its own, so that Ctrl-C reaches the sweep alone.

    It resumes `earlier` where there is one, uses the GPUs named, and keeps the claim while it
    lives. `env`: variables for it, which those of the environment override.
    """

    def __init__(
        self,
        job: Job,
        place: Path,
        claimed: IO[bytes],
        gpus: list[str],
        earlier: Record | None,
        env: Mapping[str, str],
    ) -> None:
        self.job, self.place, self.claimed, self.gpus = job, place, claimed, gpus
        self.earlier = earlier
        place.mkdir()
        (place / "job.json").write_text(json.dumps(train_arguments(job, earlier)))
        lent = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        with (place / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*COMMAND, str(place)],
                stdin=subprocess.PIPE,  # the leash
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**env, **os.environ, **lent},
                start_new_session=True,
                pass_fds=[claimed.fileno()],
            )
        self.started = time.monotonic()

    def stop(self) -> None:
        """Ask the job to save and end."""
        self.process.terminate()

    def kill(self) -> None:
        """End the job and every process it started."""
        with suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies
            os.killpg(self.process.pid, signal.SIGKILL)

    def ended(self) -> Outcome | None:
        """What became of the job; None while it is at work."""
        exit_code = self.process.poll()
        if exit_code is None:
            return None
        self.kill()  # loaders and ranks that outlived it would keep its GPU
        assert self.process.stdin
        self.process.stdin.close()
        record = self._record()
        metadata, folder = (record.metadata, record.folder) if record else ({}, None)
        status = status_of(exit_code, metadata)
        error = str(metadata.get("error") or "") if status == "failed" else ""
        if not error and status in ("refused", "killed", "failed"):
            error = "\n".join(self.output().splitlines()[-3:])
        return Outcome(status, metadata, folder, error)

    def _record(self) -> Record | None:
        report = self.place / "folder"
        with suppress(OSError, UserError):  # it made no folder, or the folder is gone
            return Record.open(Path(report.read_text())) if report.exists() else self.earlier
        return None

    def output(self) -> str:
        """The end of what the job printed; empty where the system has cleared it away."""
        with suppress(OSError), (self.place / "output").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            return file.read().decode(errors="replace").strip()
        return ""

    def last_line(self) -> str:
        return self.output().rpartition("\n")[2]


def settled(run: Record) -> Outcome:
    """What became of a job in an earlier sweep."""
    status, error = str(run.metadata["status"]), str(run.metadata.get("error") or "")
    return Outcome(status, run.metadata, run.folder, error, is_earlier=True)


def status_of(exit_code: int, metadata: Mapping[str, Any]) -> str:
    """The status of a job whose process has ended."""
    if metadata.get("status") in ("finished", "failed"):
        return str(metadata["status"])
    if exit_code in STOPPED:
        return "interrupted"
    if exit_code == 2:
        return "refused"
    return "killed" if exit_code < 0 else "failed"
