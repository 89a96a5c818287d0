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
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from triptych.config import Config
from triptych.distributed.processes import read_output, read_run_folder, start_process
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.sweep.jobs import Job, train_arguments

STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # the latter two: before it had handlers
DRIVER_SECONDS = 30  # for nvidia-smi to answer


class Outcome(NamedTuple):
    """How a job ended; `status` as in the record, or `refused`, `killed`, `not started`."""

    status: str
    metadata: Mapping[str, Any] = MappingProxyType({})
    folder: Path | None = None
    error: str = ""
    is_earlier: bool = False


def outcome_of_run(run: Record, *, is_earlier: bool) -> Outcome:
    status, error = str(run.metadata["status"]), str(run.metadata.get("error") or "")
    return Outcome(status, run.metadata, run.folder, error, is_earlier)


class JobProcess:
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
        self.place, self.gpus, self.earlier = place, gpus, earlier
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        self.process = start_process(
            place,
            train_arguments(job, earlier),
            {**env, **os.environ, **visible},
            pass_fds=[lock.fileno()],
        )
        self.started = time.monotonic()

    def stop(self) -> None:
        """Ask the job to save and end."""
        self.process.terminate()

    def kill(self) -> None:
        """End the job and every process it started."""
        with suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies
            os.killpg(self.process.pid, signal.SIGKILL)

    def poll(self) -> Outcome | None:
        """How the job ended; None while it runs."""
        exit_code = self.process.poll()
        if exit_code is None:
            return None
        self.kill()  # loaders and ranks that outlived it would keep its GPU
        assert self.process.stdin
        self.process.stdin.close()
        record = self._open_record()
        metadata, folder = (record.metadata, record.folder) if record else ({}, None)
        status = find_status(exit_code, metadata)
        error = str(metadata.get("error") or "") if status == "failed" else ""
        if not error and status in ("refused", "killed", "failed"):
            error = "\n".join(read_output(self.place).splitlines()[-3:])
        return Outcome(status, metadata, folder, error)

    def _open_record(self) -> Record | None:
        with suppress(OSError, UserError):  # it made no folder, or the folder is gone
            folder = read_run_folder(self.place)
            return Record.open(folder) if folder else self.earlier
        return None

    def last_line(self) -> str:
        return read_output(self.place).rpartition("\n")[2]


def find_status(exit_code: int, metadata: Mapping[str, Any]) -> str:
    """The status of a job whose process has ended."""
    if metadata.get("status") in ("finished", "failed"):
        return str(metadata["status"])
    if exit_code in STOPPED:
        return "interrupted"
    if exit_code == 2:
        return "refused"
    return "killed" if exit_code < 0 else "failed"


def visible_gpus() -> list[str]:
    """The GPUs this process may use, by names that `CUDA_VISIBLE_DEVICES` takes.

    The driver is asked, for torch takes seconds to import.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return installed_gpus()
    names = (name.strip() for name in listed.split(","))
    return list(takewhile(re.compile(r"\w").match, names))  # CUDA, too, stops at the first -1


def installed_gpus() -> list[str]:
    """The UUIDs of the machine's GPUs, of their MIG parts where they are divided."""
    command = ["nvidia-smi", "-L"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = re.findall(r"\(UUID: ((?:GPU|MIG)-[\w/-]+)\)", listed.stdout)
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
