"""A sweep: jobs in order, each in a process of its own, until all end.

What an earlier sweep finished is skipped, what it began is resumed, and what another process works
on is tried again later. One thread does it all: it polls its children ten times a second.
"""

import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf
from pathlib import Path

from rich import get_console
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.text import Text

from triptych.cli import show_line
from triptych.distributed.processes import SAVE_SECONDS, count_cores
from triptych.errors import UserError, sanitize_text, shorten
from triptych.runs import stopping
from triptych.runs.durations import format_duration, format_left
from triptych.runs.reader import is_locked
from triptych.runs.stopping import SIGNALS, exit_code, read_deadline, signal_handlers
from triptych.tools.sweep import jobs as sweep_jobs
from triptych.tools.sweep.forecast import Forecast, last_end
from triptych.tools.sweep.jobs import Job, JobProcess, Outcome, find_run_of_job, is_done
from triptych.tools.sweep.results import print_results

log = logging.getLogger(__name__)
POLL_SECONDS = 0.1
LINE_WIDTH = 80
OUT_OF_TIME = ("out of time", "not begun")
LEFT_SECONDS = 600.0  # between two lines that say what time is left
LEAST_SECONDS = 20.0  # of a budget, for a job that starts: it would do nothing else
RETRY_SECONDS = 1.0  # until a job that another process works on is tried again


def run_sweep(jobs: Sequence[Job], num_jobs: int | None, jobs_per_gpu: int = 1) -> None:
    """Run the jobs, `num_jobs` at a time, and print a table of how they ended.

    By default one at a time, or as many as the GPUs take where each takes several.
    Exits with 1 unless all are finished, or their minutes are over; with 130 or 143 where a signal
    stopped the sweep.
    """
    stopping.set_deadline(min((job.minutes for job in jobs if job.minutes), default=None))
    with tempfile.TemporaryDirectory(prefix="triptych-") as scratch:
        sweep = Sweep(jobs, num_jobs, Path(scratch), jobs_per_gpu)
        with (
            signal_handlers(lambda number, _: sweep.signals.append(number), SIGNALS),
            sweep.progress,
        ):
            while sweep.waiting or sweep.running:
                sweep.poll()
                time.sleep(POLL_SECONDS)
    outcomes = [sweep.outcomes[number] for number in range(len(jobs))]
    print_results(jobs, outcomes)
    if sweep.signals:
        raise SystemExit(exit_code(sweep.signals[0]))
    if (statuses := {outcome.status for outcome in outcomes}) - {"finished", *OUT_OF_TIME}:
        raise SystemExit(1)
    if statuses != {"finished"}:
        command = os.environ.get("TRIPTYCH_COMMAND", "the same command")
        show_line(get_console(), f"the rest does not fit into these minutes; to go on: {command}")


class SweepProgress(Progress):
    """A bar that counts jobs that ended; below it, on a terminal, a line for each that runs."""

    def __init__(self, total: int) -> None:
        counts = ("sweep", BarColumn(20), MofNCompleteColumn(), "jobs", TimeElapsedColumn())
        columns = (*counts, "{task.description}")  # the time left
        self.running: list[str] = []
        super().__init__(*columns, console=get_console(), transient=True, refresh_per_second=4)
        self.bar = self.add_task("", total=total)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in self.running:
            yield Text(sanitize_text(line), no_wrap=True, overflow="ellipsis")


class Sweep:
    """The jobs by their number in the order: waiting, running, or with an outcome."""

    def __init__(
        self, jobs: Sequence[Job], num_jobs: int | None, scratch: Path, jobs_per_gpu: int = 1
    ) -> None:
        self.jobs, self.scratch, self.jobs_per_gpu = jobs, scratch, jobs_per_gpu
        self.signals: list[int] = []
        self.progress = SweepProgress(len(jobs))
        self.labels = sweep_jobs.label_jobs(jobs)
        self.waiting = dict.fromkeys(range(len(jobs)), 0.0)  # and when to try each, at the earliest
        self.running: dict[int, JobProcess] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.said: set[str] = set()
        # How many more jobs each takes.
        self.free_gpus = Counter(sweep_jobs.visible_gpus() * jobs_per_gpu)
        self.num_gpus = [sweep_jobs.num_gpus(job.config, len(self.free_gpus)) for job in jobs]
        if max(self.num_gpus) > len(self.free_gpus):
            raise UserError(
                f"trainer.devices={max(self.num_gpus)}: {len(self.free_gpus)} GPUs here"
            )
        self.num_jobs = num_jobs or self._count_at_once()
        # Jobs at a time share the cores; torch would give all of them to each.
        num_threads = max(1, count_cores() // self.num_jobs)
        self.env = {"OMP_NUM_THREADS": str(num_threads)} if self.num_jobs > 1 else {}
        self.kill_time: float | None = None
        self.deadline, self.budget = read_deadline(), read_deadline() - time.time()
        if (minutes := jobs[0].minutes) and 60 * minutes < LEAST_SECONDS:
            raise UserError(f"minutes={minutes}: a sweep needs {LEAST_SECONDS / 60:.2g} at least")
        self.forecast, self.said_left = Forecast(jobs), -inf

    def _count_at_once(self) -> int:
        """How many jobs run at a time where `num_jobs` is not given."""
        if self.jobs_per_gpu == 1:
            return 1
        if any(self.num_gpus):
            return min(len(self.jobs), self.free_gpus.total())
        log.info(
            "hydra.launcher.jobs_per_gpu=%d: the sweep gives these jobs no GPU; one runs at a "
            "time, or hydra.launcher.num_jobs of them",
            self.jobs_per_gpu,
        )
        return 1

    def poll(self) -> None:
        """Note which jobs have ended, then stop the others or start more."""
        for number, process in list(self.running.items()):
            outcome = process.poll()
            if outcome:
                del self.running[number]
                self.free_gpus.update(process.gpus)
                outcome = self._explain_memory(outcome, process)
                self._end(number, outcome, f"in {time.monotonic() - process.started:.0f} s")
        if self.signals or (self.running and time.time() > self.deadline):
            self._stop_jobs()
        else:
            self._start_jobs()
        left = self._describe_left()
        self.progress.update(self.progress.bar, description=left)
        if left and time.monotonic() - self.said_left > LEFT_SECONDS:
            self.said_left = time.monotonic()
            log.info("%d of %d jobs ended, %s", len(self.outcomes), len(self.jobs), left)
        self.progress.running = [
            f"{self._name(number)}: {process.read_output().rpartition(chr(10))[2]}"
            for number, process in self.running.items()
        ]

    def _start_jobs(self) -> None:
        for number, not_before in list(self.waiting.items()):
            lacks_gpus = self.num_gpus[number] > len(self._find_free_gpus())
            if lacks_gpus or self.signals or len(self.running) == self.num_jobs:
                return
            if not_before <= time.monotonic():
                try:
                    self._start(number)
                except OSError as error:
                    self._end(number, Outcome("refused", error=f"cannot be started: {error}"))

    def _find_free_gpus(self) -> list[str]:
        """Those that take another job, the least busy first."""
        return [name for name, num_more in self.free_gpus.most_common() if num_more]

    def _start(self, number: int) -> None:
        """Start a job, resume it, or take over the outcome of an earlier run."""
        job = self.jobs[number]
        lock = sweep_jobs.lock_job(job)
        if lock is None:
            self._retry_later(number)
            return
        with lock:  # which the process of the job inherits, and holds from then on
            earlier = None if job.fresh or job.config["resume"] else find_run_of_job(job)
            if earlier and is_locked(earlier.folder):
                self._retry_later(number)
            elif earlier and is_done(earlier, job):
                if newer := ", ".join(sweep_jobs.find_newer_inputs(earlier, job)):
                    self._say_once(
                        f"changed since earlier runs of these jobs: {shorten(newer, 300)}; "
                        "fresh=true runs them again"
                    )
                self._end(number, sweep_jobs.outcome_of_run(earlier, is_earlier=True), "before")
            elif reason := self._find_lack_of_time(number):
                self._end(number, Outcome("not begun", error=reason))
            else:
                if not earlier and not job.fresh:
                    self._explain_new_run(job)
                gpus = self._find_free_gpus()[: self.num_gpus[number]]
                place = self.scratch / str(number)
                self.running[number] = JobProcess(job, place, lock, gpus, earlier, self.env)
                self.free_gpus.subtract(gpus)
                del self.waiting[number]

    def _describe_left(self) -> str:
        """The time that all jobs take from now, at least; empty where nobody knows."""
        known, ends, is_whole = dict(self.forecast.whole), [], True
        for number, process in self.running.items():
            passed, said = time.monotonic() - process.started, process.read_end()
            whole = self.forecast.seconds(number)
            if said:
                left, saved = said
                known.setdefault(self.forecast.recipes[number], passed + left - saved)
            else:
                left = 0.0 if whole is None else max(0.0, whole - passed)
            is_whole &= said is not None or whole is not None
            ends.append(left)
        waiting = [self.forecast.seconds(number, known) for number in self.waiting]
        seconds = last_end(ends, [each or 0.0 for each in waiting], self.num_jobs)
        word = "about" if is_whole and None not in waiting else "at least"
        return format_left(seconds, word) if seconds else ""

    def _find_lack_of_time(self, number: int) -> str:
        """Why a job is not begun in what is left of the budget; empty where it is.

        One that takes longer than all that the sweep had is done in parts: it would never begin.
        """
        left, needed = self.deadline - time.time(), self.forecast.seconds(number)
        if left < LEAST_SECONDS:
            return "no time is left"
        if needed is None or needed <= left or needed > self.budget:
            return ""
        return f"takes about {format_duration(needed)}, {format_duration(left)} are left"

    def _explain_memory(self, outcome: Outcome, process: JobProcess) -> Outcome:
        """The outcome, with what to try where a job had too little of a GPU that others share."""
        if self.jobs_per_gpu == 1 or not process.gpus or "out of memory" not in outcome.error:
            return outcome
        fewer = f"retry_failed=true hydra.launcher.jobs_per_gpu={self.jobs_per_gpu // 2}"
        return outcome._replace(error=f"{outcome.error}\nor fewer jobs share a GPU: {fewer}")

    def _explain_new_run(self, job: Job) -> None:
        """Say where a run of other code is passed over."""
        other = find_run_of_job(job._replace(same_code=False))
        if other and (difference := sweep_jobs.describe_code(other, job)):
            self._say_once(
                f"earlier runs of these jobs are passed over: their code {difference}; "
                "same_code=ignore takes them"
            )

    def _say_once(self, message: str) -> None:
        if message not in self.said:
            self.said.add(message)
            log.info("%s", message)

    def _retry_later(self, number: int) -> None:
        if time.time() > self.deadline:
            self._end(number, Outcome("not begun", error="another process works on it"))
            return
        if not self.waiting[number]:
            log.info("%s: waits, another process works on it", self._name(number))
        self.waiting[number] = time.monotonic() + RETRY_SECONDS

    def _stop_jobs(self) -> None:
        """At the first signal, or a deadline, ask every job to save and end; at the second signal,
        or much later, kill it."""
        if self.signals:
            self.outcomes |= dict.fromkeys(self.waiting, Outcome("not started"))
            self.waiting.clear()
        if self.kill_time is None:
            self.kill_time = time.monotonic() + SAVE_SECONDS
            log.info("stopping %d jobs; once more to kill them", len(self.running))
            for process in self.running.values():
                process.process.terminate()
        elif len(self.signals) > 1 or time.monotonic() > self.kill_time:
            for process in self.running.values():
                process.kill()

    def _end(self, number: int, outcome: Outcome, when: str = "") -> None:
        self.waiting.pop(number, None)
        if outcome.status == "interrupted" and self.kill_time and not self.signals:
            outcome = outcome._replace(status="out of time")
        self.outcomes[number] = outcome
        if outcome.record:
            self.forecast.add(outcome.record)
            self.said_left = -inf if not outcome.is_earlier else self.said_left
        self.progress.advance(self.progress.bar)
        run, status = outcome.record, f"{outcome.status} {when}".strip()
        difference = sweep_jobs.describe_code(run, self.jobs[number]) if run else ""
        if difference:
            status += ", by other code"
            self._say_once(f"there are results of other code: it {difference}")
        line = f"{self._name(number)}: {status}"
        if outcome.error:
            reason = outcome.error.splitlines()[0]
            line += f": {shorten(reason, max(20, LINE_WIDTH - len(line) - 2))}"
        log.info("%s", line)

    def _name(self, number: int) -> str:
        return f"[{number + 1}/{len(self.jobs)}] {self.labels[number]}"
