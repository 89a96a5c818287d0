"""Starts the ranks of a run on this machine, as torchrun would, and records how they end.

Lightning's own launchers start the other ranks out of rank 0: by typing its command again, which
a job of a sweep does not have, or by pickling, which leaves what was learned in the children. And
where rank 0 is killed, nobody is left to record how the run ended.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from triptych.config import Config
from triptych.distributed.devices import check_shares
from triptych.distributed.processes import TrainingProcess
from triptych.errors import UserError
from triptych.runs.failures import end_run
from triptych.runs.reader import is_locked
from triptych.runs.record import Record
from triptych.runs.resume_request import resume_command
from triptych.runs.stopping import SIGNALS, exit_code, signal_handlers

log = logging.getLogger(__name__)
LOCALHOST = "127.0.0.1"
GRACE_SECONDS = 15.0  # for the other ranks to end by themselves, once one has failed


def launch_ranks(
    config: Config, overrides: list[str], num: int, started: Callable[[str], object]
) -> Record:
    """Run every rank to its end; the finished record. Raises SystemExit where one failed."""
    check_shares(config, num)  # before so many processes are started
    before = Record.open(Path(config["resume"])).metadata if config["resume"] else None
    with tempfile.TemporaryDirectory(prefix="triptych_") as scratch:
        ranks = Ranks((config, overrides), num, Path(scratch))
        failure = ranks.wait(started)
        folder, stopped_by = ranks.processes[0].run_folder(), ranks.stopped_by
        if failure is None:
            assert folder
            return Record.open(folder)
        code, rank = failure
        if rank > 0 and stopped_by is None:
            output = ranks.processes[rank].place / "output"
            print(output.read_text(), end="", file=sys.stderr)
    with suppress(OSError, UserError):  # the disk may be full, or the folder gone
        record_end(Record.open(folder) if folder else None, code, rank, stopped_by, before)
    raise SystemExit(exit_code(stopped_by) if stopped_by else max(1, code))


def record_end(
    record: Record | None,
    code: int,
    rank: int,
    stopped_by: int | None,
    before: dict[str, Any] | None,
) -> None:
    """Record how a run ended whose ranks could not do so themselves.

    `before`: its metadata where it was resumed; a run that could not be resumed stays as it was.
    """
    if record and is_locked(record.folder):  # another process is at work on the run
        record = None
    if code < 0 and stopped_by is None:
        error = f"rank {rank} was killed by {signal.Signals(-code).name}"
        log.error("%s%s", error, f"\nto go on: {resume_command(record)}" if record else "")
        if record:
            (record.folder / "traceback.txt").unlink(missing_ok=True)  # other ranks' consequence
            end_run(record, "interrupted", error=error)
    elif record and record.metadata.get("status") == "running" and record.metadata != before:
        if stopped_by is None:
            end_run(record, "failed", error=f"rank {rank} ended with exit code {code}")
        else:
            end_run(record, "interrupted", error=None)


class Ranks:
    """The processes of a run's ranks, each with a folder of its own below `scratch`.

    They have torchrun's environment and meet at a store that this process holds. Rank 0 has the
    screen; the others' output goes to files, for it repeats rank 0's.
    """

    def __init__(self, job: tuple[Config, list[str]], num: int, scratch: Path) -> None:
        # torch itself would listen on every interface of the machine.
        server = socket.create_server((LOCALHOST, 0))
        port, fd = server.getsockname()[1], server.detach()
        self.store = TCPStore(
            LOCALHOST, port, wait_for_workers=False, is_master=True, master_listen_fd=fd
        )
        self.stopped_by: int | None = None
        self.deadline = inf
        self.processes = [
            TrainingProcess(
                scratch / str(rank), job, self._environment(rank, num), shows_output=rank == 0
            )
            for rank in range(num)
        ]

    def _environment(self, rank: int, num: int) -> dict[str, str]:
        return {
            "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // num)),
            **os.environ,
            **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
            **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(num)),
            **{"MASTER_ADDR": LOCALHOST, "MASTER_PORT": str(self.store.port), "GROUP_RANK": "0"},
            **{"TORCHELASTIC_RUN_ID": "triptych", "TORCHELASTIC_RESTART_COUNT": "0"},
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }

    def wait(self, started: Callable[[str], object]) -> tuple[int, int] | None:
        """Exit code and rank of the first that failed, when all have ended; None if none did."""
        failure, is_reported = None, False
        try:
            with signal_handlers(self._pass_on_signal, SIGNALS):
                while any(rank.process.poll() is None for rank in self.processes):
                    if not is_reported and (folder := self.processes[0].run_folder()):
                        started(str(folder))
                        is_reported = True
                    failure = failure or self._find_failure()
                    if time.monotonic() > self.deadline:
                        for rank in self.processes:
                            rank.kill()
                    time.sleep(0.1)
        finally:
            for rank in self.processes:
                rank.close()
        return failure or self._find_failure()

    def _find_failure(self) -> tuple[int, int] | None:
        """A failure: exit code (of a kill below 0, the likelier cause, so it comes first) and rank.

        The other ranks have `GRACE_SECONDS` from then on.
        """
        codes = [rank.process.poll() for rank in self.processes]
        failures = [(code, rank) for rank, code in enumerate(codes) if code]
        if failures:
            self.deadline = min(self.deadline, time.monotonic() + GRACE_SECONDS)
        return min(failures, default=None)

    def _pass_on_signal(self, number: int, _: FrameType | None) -> None:
        """Pass a signal on to the ranks; after the second they have `GRACE_SECONDS` to end."""
        if self.stopped_by is not None:
            self.deadline = time.monotonic() + GRACE_SECONDS
        self.stopped_by = self.stopped_by or number
        for rank in self.processes:
            rank.process.send_signal(number)
