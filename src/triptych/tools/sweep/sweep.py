"""A sweep: jobs taken up in order, a few at a time, until each has come to its end.

What an earlier sweep finished is skipped, what it began is resumed, and what another process is at
work on is waited for. One thread does it all: it polls its children ten times a second.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from triptych.distributed.job import SAVE_SECONDS
from triptych.errors import UserError
from triptych.runs.stopping import SIGNALS, exit_code, signal_handlers
from triptych.runs.storage import is_locked
from triptych.tools.sweep import gpus
from triptych.tools.sweep.board import Board
from triptych.tools.sweep.earlier import lock_job, newest, settles, unlock_job
from triptych.tools.sweep.jobs import Job, labels
from triptych.tools.sweep.table import show
from triptych.tools.sweep.worker import Outcome, Worker, settled

LOOK_SECONDS = 0.1
PUT_OFF_SECONDS = 1.0  # until a job that is in other hands is looked at again


def run(jobs: Sequence[Job], num_jobs: int) -> None:
    """Run the jobs and show what they came to.

    Exits with 1 unless all are finished; with 130 or 143 where a signal stopped the sweep.
    """
    signals: list[int] = []
    with (
        tempfile.TemporaryDirectory(prefix="triptych-") as scratch,
        signal_handlers(lambda number, _: signals.append(number), SIGNALS),
        Board(len(jobs)) as board,
    ):
        sweep = Sweep(jobs, num_jobs, Path(scratch), board, signals)
        while sweep.waiting or sweep.at_work:
            sweep.look()
            time.sleep(LOOK_SECONDS)
    outcomes = [sweep.outcomes[number] for number in range(len(jobs))]
    show(list(zip(sweep.labels, outcomes, strict=True)))
    if signals:
        raise SystemExit(exit_code(signals[0]))
    if any(outcome.status != "finished" for outcome in outcomes):
        raise SystemExit(1)


def threads(num_jobs: int) -> dict[str, str]:
    """The cores divided among the jobs at a time; torch would give all of them to each."""
    if num_jobs == 1:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num_jobs))}


class Sweep:
    """The jobs by their place in the order: waiting, at work, or with an outcome."""

    def __init__(
        self, jobs: Sequence[Job], num_jobs: int, scratch: Path, board: Board, signals: list[int]
    ) -> None:
        self.jobs, self.num_jobs, self.scratch = jobs, num_jobs, scratch
        self.board, self.signals = board, signals
        self.labels = labels(jobs)
        self.waiting = dict.fromkeys(range(len(jobs)), 0.0)  # each until that time, at least
        self.at_work: dict[int, Worker] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.free_gpus = gpus.visible()
        self.env = threads(num_jobs)
        self.wanted = [gpus.num_wanted(job.config, len(self.free_gpus)) for job in jobs]
        if max(self.wanted) > len(self.free_gpus):
            raise UserError(f"trainer.devices={max(self.wanted)}: {len(self.free_gpus)} GPUs here")
        self.stops_at: float | None = None

    def look(self) -> None:
        """Note which jobs have ended, then stop the others or start more."""
        for number, worker in list(self.at_work.items()):
            outcome = worker.ended()
            if outcome:
                del self.at_work[number]
                self.free_gpus += worker.gpus
                unlock_job(worker.claimed)
                self._close(number, outcome, time.monotonic() - worker.started)
        if self.signals:
            self._stop()
        else:
            self._start()
        self.board.at_work = [
            f"{self._name(number)}: {worker.last_line()}" for number, worker in self.at_work.items()
        ]

    def _start(self) -> None:
        for number, not_before in list(self.waiting.items()):
            is_short = self.wanted[number] > len(self.free_gpus)
            if is_short or self.signals or len(self.at_work) == self.num_jobs:
                return
            if not_before <= time.monotonic():
                try:
                    self._take_up(number)
                except UserError as refused:
                    del self.waiting[number]
                    self._close(number, Outcome("refused", error=str(refused)), 0)

    def _take_up(self, number: int) -> None:
        """Start a job, resume it, or leave it as an earlier run settled it."""
        job = self.jobs[number]
        claimed = lock_job(job)
        earlier = None if job.fresh or job.config["resume"] or not claimed else newest(job)
        if claimed is None or (earlier and is_locked(earlier.folder)):
            if claimed:
                unlock_job(claimed)
            self._put_off(number, earlier.folder if earlier else None)
            return
        del self.waiting[number]
        if earlier and settles(earlier, job):
            unlock_job(claimed)
            self._close(number, settled(earlier))
            return
        wanted = self.wanted[number]
        lent, self.free_gpus = self.free_gpus[:wanted], self.free_gpus[wanted:]
        place = self.scratch / str(number)
        try:
            self.at_work[number] = Worker(job, place, claimed, lent, earlier, self.env)
        except OSError as error:
            unlock_job(claimed)
            self.free_gpus += lent
            self._close(number, Outcome("refused", error=f"could not be started: {error}"), 0)

    def _put_off(self, number: int, folder: Path | None) -> None:
        if not self.waiting[number]:
            lock = f"; if there is none, delete {folder}/.lock" if folder else ""
            self.board.say(f"{self._name(number)}: waits, another process is at work on it{lock}")
        self.waiting[number] = time.monotonic() + PUT_OFF_SECONDS

    def _stop(self) -> None:
        """At the first signal ask every job to save and end; at the second, kill it."""
        for number in list(self.waiting):
            del self.waiting[number]
            self.outcomes[number] = Outcome("not started")
        if self.stops_at is None:
            self.stops_at = time.monotonic() + SAVE_SECONDS
            self.board.say(f"stopping {len(self.at_work)} jobs; once more to kill them")
            for worker in self.at_work.values():
                worker.stop()
        elif len(self.signals) > 1 or time.monotonic() > self.stops_at:
            for worker in self.at_work.values():
                worker.kill()

    def _close(self, number: int, outcome: Outcome, seconds: float | None = None) -> None:
        self.outcomes[number] = outcome
        self.board.advance(self.board.bar)
        when = "before" if seconds is None else f"in {seconds:.0f} s"
        why = f": {outcome.error.splitlines()[0]}" if outcome.error else ""
        where = f"  {outcome.folder}" if outcome.folder else ""
        self.board.say(f"{self._name(number)}: {outcome.status} {when}{why}{where}")

    def _name(self, number: int) -> str:
        return f"[{number + 1}/{len(self.jobs)}] {self.labels[number]}"
