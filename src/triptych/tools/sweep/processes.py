"""A sweep's jobs in processes of their own, the GPUs that they get, and how they end."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise, takewhile
from pathlib import Path
from typing import IO, NamedTuple

from triptych.config import Config
from triptych.distributed.processes import TrainingProcess
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.sweep.jobs import Job, train_arguments

STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # the latter two: before it had handlers


class Outcome(NamedTuple):
    """How a job ended; `status` as in the record, or `refused`, `killed`, `not started`."""

    status: str
    record: Record | None = None
    error: str = ""
    is_earlier: bool = False


def outcome_of_run(run: Record, *, is_earlier: bool) -> Outcome:
    error = str(run.metadata.get("error") or "")
    return Outcome(run.metadata["status"], run, error, is_earlier)


class JobProcess(TrainingProcess):
    """The process of a job; it resumes `earlier` where that is given, and inherits `lock`.

    `env`: variables for it, which those of the environment override.
    """

    def __init__(
        self,
        job: Job,
        place: Path,
        lock: IO[str],
        gpus: list[str],
        earlier: Record | None,
        env: Mapping[str, str],
    ) -> None:
        self.gpus, self.earlier, self.started = gpus, earlier, time.monotonic()
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        env = {**env, **os.environ, **visible}
        super().__init__(place, train_arguments(job, earlier), env, pass_fds=[lock.fileno()])

    def poll(self) -> Outcome | None:
        """How the job ended; None while it runs."""
        exit_code = self.process.poll()
        if exit_code is None:
            return None
        self.close()
        record = self._open_record()
        status = find_status(exit_code, record)
        error = str(record.metadata.get("error") or "") if record and status == "failed" else ""
        if not error and status in ("refused", "killed", "failed"):
            error = "\n".join(self.read_output().splitlines()[-3:])
        return Outcome(status, record, error)

    def _open_record(self) -> Record | None:
        with suppress(OSError, UserError):  # it made no folder, or the folder is gone
            folder = self.run_folder()
            return Record.open(folder) if folder else self.earlier
        return None


def find_status(exit_code: int, record: Record | None) -> str:
    """The status of a job whose process has ended."""
    if record and record.metadata.get("status") in ("finished", "failed"):
        return str(record.metadata["status"])
    if exit_code in STOPPED:
        return "interrupted"
    if exit_code == 2:
        return "refused"
    return "killed" if exit_code < 0 else "failed"


def visible_gpus() -> list[str]:
    """The GPUs this process may use, by names that `CUDA_VISIBLE_DEVICES` takes.

    The driver is asked, for torch takes seconds to import.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return installed_gpus()
    names = (name.strip() for name in visible.split(","))
    return list(takewhile(re.compile(r"\w").match, names))  # CUDA, too, stops at the first -1


def installed_gpus() -> list[str]:
    """The UUIDs of the machine's GPUs, of their MIG parts where they are divided."""
    command = ["nvidia-smi", "-L"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = re.findall(r"\(UUID: ((?:GPU|MIG)-[\w/-]+)\)", answer.stdout)
    # A divided GPU is followed by its parts, and cannot be used as a whole.
    followed = pairwise([*names, ""])
    return [n for n, after in followed if n.startswith("MIG") or not after.startswith("MIG")]


def num_gpus(config: Config, num_visible: int) -> int:
    """How many GPUs the sweep gives a job: none on a CPU, or where the job lists its own."""
    devices = config["trainer"].get("devices", 1)
    is_on_gpu = config["trainer"]["accelerator"] in ("auto", "gpu", "cuda")
    if not num_visible or not is_on_gpu or isinstance(devices, list):
        return 0
    return num_visible if devices == "auto" else int(devices)
