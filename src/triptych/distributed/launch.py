"""Starts the ranks of a run on this machine, as torchrun would, and sees to a clear end.

Lightning's own launchers start the other ranks out of rank 0: by typing its command again, which
a job of a sweep has none of, or by pickling, which leaves what was learned in the children. And
they leave nobody to tell how a run ended whose rank 0 was killed.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from triptych.build import check_shares, on_cuda
from triptych.config import Config
from triptych.distributed.job import COMMAND
from triptych.distributed.ranks import LOCALHOST, cluster_environment, local_store
from triptych.errors import UserError
from triptych.runs.lifecycle import resume_command
from triptych.runs.record import Record
from triptych.runs.stopping import SIGNALS, exit_code, signal_handlers
from triptych.runs.storage import is_locked

log = logging.getLogger(__name__)
GRACE_SECONDS = 15.0  # for the others to end by themselves, once one has failed


class Failure(NamedTuple):
    rank: int
    code: int  # of the exit; a killing signal's number below 0


def num_ranks(config: Config) -> int:
    """How many ranks are to be started: 1 where one device will do, or where this is a rank."""
    trainer = config["trainer"]
    devices = trainer.get("devices", 1)
    if cluster_environment():
        return 1
    if trainer.get("num_nodes", 1) > 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: a run on several machines is started on "
            "every one of them, by torchrun or srun: README, Several devices"
        )
    if devices == "auto":
        return max(1, torch.cuda.device_count()) if on_cuda(config) else 1
    return len(devices) if isinstance(devices, list) else int(devices)


def launch_ranks(
    config: Config, overrides: list[str], num: int, started: Callable[[str], object]
) -> Record:
    """Run every rank to its end; the finished record. Raises SystemExit where one failed."""
    check_shares(config, num)  # before so many processes are started
    before = Record.open(Path(config["resume"])).metadata if config["resume"] else None
    with tempfile.TemporaryDirectory(prefix="triptych_") as scratch:
        asked = json.dumps({"config": config, "overrides": overrides})
        ranks = Ranks(asked, num, Path(scratch))
        failure = ranks.wait(started)
        folder = ranks.folder()
        if failure is None:
            return Record.open(Path(folder))
        if failure.rank > 0 and ranks.stopped_by is None:
            print(ranks.output(failure.rank), end="", file=sys.stderr)
    with suppress(OSError, UserError):  # the disk may be full, or the folder gone
        record = Record.open(Path(folder)) if folder else None
        record_end(record, failure, ranks.stopped_by, before)
    if ranks.stopped_by is not None:
        raise SystemExit(exit_code(ranks.stopped_by))
    raise SystemExit(max(1, failure.code))


def record_end(
    record: Record | None, failure: Failure, stopped_by: int | None, before: dict[str, Any] | None
) -> None:
    """Record how a run ended whose ranks could not do so themselves.

    `before`: its facts where it was resumed; a run that was refused is left as it was.
    """
    rank, code = failure
    if record and is_locked(record.folder):  # by another process, whose run it is
        record = None
    if code < 0 and stopped_by is None:
        error = f"rank {rank} was killed by {signal.Signals(-code).name}"
        log.error("%s%s", error, f"; to go on: {resume_command(record)}" if record else "")
        if record:
            (record.folder / "traceback.txt").unlink(missing_ok=True)  # what the others made of it
            record.end("interrupted", error=error)
    elif record and record.metadata.get("status") == "running" and record.metadata != before:
        how = f"rank {rank} ended with exit code {code}"
        status = "failed" if stopped_by is None else "interrupted"
        record.end(status, error=how if status == "failed" else None)


class Ranks:
    """The processes of a run's ranks, each with a place of its own below `scratch`.

    They are jobs as those of a sweep are, and as torchrun's: in its environment, meeting at a
    store that this process keeps. Rank 0 has the screen; what the others say is kept aside, for
    it would say everything twice.
    """

    def __init__(self, asked: str, num: int, scratch: Path) -> None:
        self.places = [scratch / str(rank) for rank in range(num)]
        self.store = local_store()
        self.stopped_by: int | None = None
        self.deadline = inf
        self.processes = []
        for rank, place in enumerate(self.places):
            place.mkdir()
            (place / "job.json").write_text(asked)
            self.processes.append(self._start(rank, place))

    def _start(self, rank: int, place: Path) -> subprocess.Popen[bytes]:
        num_threads = torch.get_num_threads() // len(self.places)
        env = {"OMP_NUM_THREADS": str(max(1, num_threads))} | os.environ
        env |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
        env |= {name: str(len(self.places)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        env |= {"MASTER_ADDR": LOCALHOST, "MASTER_PORT": str(self.store.port)}
        env |= {"TORCHELASTIC_RUN_ID": "triptych", "TORCHELASTIC_RESTART_COUNT": "0"}
        env |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_RANK": "0"}
        with (place / "output").open("wb") as output:
            return subprocess.Popen(
                [*COMMAND, str(place)],
                stdin=subprocess.PIPE,  # closed when this process ends, which ends the rank
                stdout=output if rank else None,
                stderr=output if rank else None,
                env=env,
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            )

    def wait(self, started: Callable[[str], object]) -> Failure | None:
        """The first rank that failed, when all have ended; None where none did."""
        failure, is_told = None, False
        with self._signals_passed_on():
            while any(process.poll() is None for process in self.processes):
                if not is_told and (folder := self.folder()):
                    started(folder)
                    is_told = True
                failure = failure or self._failure()
                if time.monotonic() > self.deadline:
                    self._kill()
                time.sleep(0.1)
        return failure or self._failure()

    def _failure(self) -> Failure | None:
        """A rank that failed, one that was killed before others: it is the likelier cause.

        The other ranks have `GRACE_SECONDS` from then on.
        """
        ended = [Failure(rank, p.returncode) for rank, p in enumerate(self.processes) if p.poll()]
        if not ended:
            return None
        self.deadline = min(self.deadline, time.monotonic() + GRACE_SECONDS)
        return min(ended, key=lambda failure: failure.code)

    def folder(self) -> str:
        """The run's folder, once there is one."""
        report = self.places[0] / "folder"
        return report.read_text() if report.exists() else ""

    def output(self, rank: int) -> str:
        """What a rank above 0 said."""
        return (self.places[rank] / "output").read_text(errors="replace")

    @contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        """Pass signals on to the ranks; after the second they have `GRACE_SECONDS` to end."""

        def stop(number: int, _: FrameType | None) -> None:
            if self.stopped_by is not None:
                self.deadline = time.monotonic() + GRACE_SECONDS
            self.stopped_by = self.stopped_by or number
            for process in self.processes:
                process.send_signal(number)

        try:
            with signal_handlers(stop, SIGNALS):
                yield
        finally:
            self._kill()
            for process in self.processes:
                process.communicate()  # closes the pipe

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
