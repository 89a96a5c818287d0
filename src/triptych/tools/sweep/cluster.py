"""A sweep whose jobs a cluster runs, by submitit (extra `slurm`).

submitit asks `sacct` how jobs stand, which a cluster without accounting does not answer; here
`squeue` is asked, which every SLURM has.
"""

import io
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

from triptych.cli import configure_logging, print_error
from triptych.errors import UserError
from triptych.runs.record import hash_code
from triptych.runs.stopping import exit_on_signal, signal_handlers
from triptych.tools.sweep import jobs as sweep_jobs
from triptych.tools.sweep.jobs import Job, Outcome, find_run_of_job, is_done

log = logging.getLogger(__name__)
MAX_PAUSE = 20.0  # seconds from one look at the queue to the next
RESULT_SECONDS = 10.0  # for a file of a job that has ended to be seen from another machine
AUTO = {"cpus_per_task": 4, "mem_gb": 32}  # or what the largest node has
LOCK_SECONDS = 30  # for a process that is about to end
FORGOTTEN = "forgotten"  # no word of SLURM's: it ended long ago
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT", FORGOTTEN),
}
# Why a job waits: until others have ended, or for ever.
ORDINARY = {"", "None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Cleaning"}
NEVER = {"BadConstraints", "InvalidQOS", "InvalidAccount", "PartitionTimeLimit"}
Queue = dict[str, tuple[str, str]]  # by job id SLURM's words for how it stands, and why


class SubmittedJob:
    """A job as submitit pickles it: with its config as it was when the sweep was started."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self) -> str:
        """Train, or resume an earlier run of the job; the message of a UserError, else empty.

        Raises SystemExit where SLURM stopped it: then it has no result, and may be requeued.
        """
        with requeue_when_saved():
            configure_logging()
            job = self.job._replace(code=hash_code(self.job.config))  # as on this machine now
            try:
                with lock_when_free(job):
                    earlier = None if job.fresh else find_run_of_job(job)
                    if earlier is None or not is_done(earlier, job):
                        from triptych.training import train  # imports torch

                        train(*sweep_jobs.train_arguments(job, earlier))
            except UserError as error:
                print_error(error)  # where the next launcher finds it
                return str(error)
            except SystemExit as stop:
                if stop.code != 1:  # else the record says why
                    raise
        return ""

    def checkpoint(self) -> Any:
        """What submitit requeues where SLURM cuts a job off: the same, to be resumed."""
        job = SubmittedJob(self.job._replace(fresh=False))
        return import_module("submitit.helpers").DelayedSubmission(job)


@contextmanager
def requeue_when_saved() -> Iterator[None]:
    """Answer SIGUSR2, at which submitit requeues the job, as SIGTERM: the run is saved first."""
    requeue, main_pid = signal.getsignal(signal.SIGUSR2), os.getpid()
    received: list[tuple[int, FrameType | None]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == main_pid:  # a worker of a loader has the signal, too
            received.append((number, frame))
            os.kill(main_pid, signal.SIGTERM)

    with (
        signal_handlers(stop, [signal.SIGUSR2]),
        signal_handlers(exit_on_signal, [signal.SIGTERM]),
    ):
        try:
            yield
        except SystemExit:
            if received and callable(requeue):
                requeue(*received[0])
            raise


def lock_when_free(job: Job) -> IO[str]:
    """The lock of a job; raises UserError where another process keeps it."""
    for _ in range(LOCK_SECONDS):
        if lock := sweep_jobs.lock_job(job):
            return lock
        time.sleep(1)
    raise UserError("another process works on this job")


def ask_slurm(columns: str, *command: str) -> list[list[str]] | None:
    """What a command prints in these columns; None where it does not answer.

    Lines of another kind, as the name of a cluster of several, are passed over.
    """
    command = (*command, "--noheader", f"--format={columns}")
    try:
        answer = subprocess.run(command, capture_output=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split("|", columns.count("|")) for line in answer.stdout.splitlines()]
    return None if answer.returncode else [row for row in rows if len(row) > columns.count("|")]


class Node(NamedTuple):
    """The most that a node of a partition has; 0 where SLURM does not know."""

    cpus: int
    memory_gb: float
    gpus: int


def find_largest_node(partition: str | None) -> Node | None:
    """Of a partition, by default the cluster's default; None where `sinfo` knows none."""
    options = [f"--partition={partition}"] if partition else []
    rows = ask_slurm("%P|%c|%m|%G", "sinfo", "--exact", *options)
    if not rows:
        return None
    rows = [row for row in rows if partition or row[0].endswith("*")] or rows
    cpus, megabytes = (max(int("0" + re.split(r"\D", row[n])[0]) for row in rows) for n in (1, 2))
    megabytes -= megabytes == 1  # which it says where the site has not set it
    gpus = [int(count) for row in rows for count in re.findall(r"\bgpu:(?:[^:,(]+:)?(\d+)", row[3])]
    return Node(cpus, megabytes // 1024 or megabytes / 1024, max(gpus, default=0))


def choose_resources(parameters: Mapping[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    """submitit's parameters with a number for each `auto`: what the jobs use, on the node at most.

    None, which asks for nothing, for the GPUs of jobs that use none, or of a node without.
    """
    values = dict(parameters)
    if "auto" not in values.values():
        return values
    node = find_largest_node(values.get("slurm_partition"))
    limits = {"cpus_per_task": node.cpus, "mem_gb": node.memory_gb} if node else AUTO
    for name, usual in AUTO.items():
        if values.get(name) == "auto":
            values[name] = min(usual, limits[name]) or None
    if values.get("gpus_per_node") == "auto":
        most = node.gpus if node else 1
        values["gpus_per_node"] = max(count_gpus(job.config, most) for job in jobs) or None
    return values


def count_gpus(config: Mapping[str, Any], num_visible: int) -> int:
    devices = config["trainer"].get("devices", 1)
    if num_visible and isinstance(devices, list):
        return len(devices)
    return sweep_jobs.num_gpus(dict(config), num_visible)


def make_executor(
    cluster: str, folder: str, max_num_timeout: int, parameters: Mapping[str, Any]
) -> Any:
    """submitit's executor of a cluster; raises UserError where there is none."""
    try:
        submitit = import_module("submitit")
    except ImportError as error:
        raise UserError("hydra/launcher=slurm: pip install submitit (extra `slurm`)") from error
    for name, value in parameters.items():
        if re.fullmatch("(slurm_)?(nodes|n?tasks_per_node)", name) and value not in (None, 1):
            raise UserError(
                f"hydra.launcher.parameters.{name}={value}: must be 1, for a job is one process, "
                "which starts another for each of trainer.devices"
            )
    try:
        executor = submitit.AutoExecutor(
            Path(folder, "%j"), cluster, slurm_max_num_timeout=max_num_timeout
        )
        executor.update_parameters(**{n: v for n, v in parameters.items() if v is not None})
    except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"hydra.launcher: cluster={cluster}: {reason}") from error
    return executor


def submit_jobs(jobs: Sequence[Job], executor: Any) -> list[Any]:
    """submitit's handles of the jobs; raises UserError with sbatch's reason where it refuses."""
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints the reason there, too
            return list(executor.submit_array([SubmittedJob(job) for job in jobs]))
    except OSError as error:
        raise UserError(f"hydra.launcher.folder={executor.folder.parent}: {error}") from error
    except RuntimeError as error:
        reason = re.sub("sbatch: (error: )?|Batch job submission failed: ", "", str(error))
        raise refuse_parameters("; ".join(reason.split("\n")), executor) from error


def refuse_parameters(reason: str, executor: Any) -> UserError:
    asked = " ".join(f"{name}={value}" for name, value in executor._executor.parameters.items())
    return UserError(
        f"hydra.launcher.parameters: SLURM refuses {asked}\nits reason: {reason}\n"
        "what it has: sinfo --format='%P %l %c %m %G' (partition, time, cores, MB, GPUs of a node)"
    )


def query_queue(executor: Any, handles: Iterable[Any] = ()) -> Queue | None:
    """Every job of this user that SLURM still knows; None where it does not answer.

    It forgets a job minutes after its end. Of submitit's local processes, those of `handles`.
    """
    if type(executor._executor).__name__ != "SlurmExecutor":
        return {each.job_id: ("COMPLETED" if each.done() else "RUNNING", "") for each in handles}
    rows = ask_slurm("%i|%T|%r", "squeue", "--me", "--array", "--states=all")
    return None if rows is None else {name: (state, reason) for name, state, reason, *_ in rows}


class ClusterJob:
    """A job that was submitted; `handle` is submitit's.

    `state` and `reason`: SLURM's words for how it stands, and why.
    """

    def __init__(self, job: Job, handle: Any) -> None:
        self.job, self.handle = job, handle
        self.state = self.reason = ""
        self._ended_at: float | None = None

    def poll(self, queue: Queue | None) -> Outcome | None:
        """How the job ended; None while it has not, or while that is unknown."""
        if queue is None:
            return None
        self.state, self.reason = queue.get(self.handle.job_id, (FORGOTTEN, ""))
        if self.state not in ENDED:
            self._ended_at = None
            return None
        self._ended_at = self._ended_at or time.monotonic()
        has_waited = time.monotonic() - self._ended_at > RESULT_SECONDS
        has_result = self.handle.paths.result_pickle.exists()
        return self._find_outcome() if has_waited or has_result else None

    def _find_outcome(self) -> Outcome:
        """By the run's record, what the job returned, or else SLURM's word and the job's log."""
        record = find_run_of_job(self.job) or find_run_of_job(self.job._replace(same_code=False))
        paths, status, error = self.handle.paths, "failed", f"{self.state} (SLURM)"
        if paths.result_pickle.exists():
            exception = self.handle.exception()
            error = find_reason(str(exception)) if exception else self.handle.result()
            status = "failed" if exception else "refused"
        elif not paths.stderr.exists():  # it never began: a record is of an earlier run
            return Outcome(self.state.lower(), error=error)
        elif record is None:
            error += f"\n{read_end(paths.stderr)}"
        if record is None:
            return Outcome(status, error=error, log_file=paths.stderr)
        if record.metadata["status"] == "running":
            return Outcome("killed", record, error, log_file=paths.stderr)
        outcome = sweep_jobs.outcome_of_run(record, is_earlier=False)
        return outcome._replace(error=outcome.error or error, log_file=paths.stderr)


def find_reason(trace: str) -> str:
    """The exception's own line within submitit's account of it."""
    lines = trace.partition("\nYou can check")[0].splitlines()
    return next((line for line in reversed(lines) if line.strip("- ")), trace)


def read_end(path: Path) -> str:
    """The last lines of a log, without the code in a traceback."""
    with suppress(OSError):
        lines = path.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if line[:1].strip()][-3:])
    return ""


def wait_for_jobs(submitted: Sequence[ClusterJob], executor: Any) -> list[Outcome]:
    """How each job ended, once all have; raises UserError where SLURM will never start them."""
    labels = sweep_jobs.label_jobs([job.job for job in submitted])
    waiting, outcomes = dict(enumerate(submitted)), dict[int, Outcome]()
    shown = ORDINARY
    began = time.monotonic()
    while waiting:
        queue = query_queue(executor, [job.handle for job in submitted])
        for number, job in list(waiting.items()):
            if outcome := job.poll(queue):
                outcomes[number] = outcome
                del waiting[number]
                log.info("[%d/%d] %s: %s", number + 1, len(labels), labels[number], outcome.status)
        reasons = {job.reason for job in waiting.values() if job.state == "PENDING"}
        if never := reasons & NEVER:
            for job in waiting.values():
                job.handle.cancel(check=False)
            raise refuse_parameters(", ".join(never), executor)
        if new := reasons - shown:
            log.info("jobs wait: %s (SLURM)", ", ".join(new))
        shown = shown | reasons
        if waiting:
            time.sleep(min(MAX_PAUSE, 1 + (time.monotonic() - began) / 20))
    return [outcomes[number] for number in range(len(submitted))]
