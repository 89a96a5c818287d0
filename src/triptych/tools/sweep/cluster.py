"""A sweep whose jobs a cluster runs, by submitit (extra `slurm`)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from triptych.cli import configure_logging
from triptych.errors import UserError
from triptych.runs.record import hash_code
from triptych.tools.sweep import jobs as sweep_jobs
from triptych.tools.sweep.jobs import Job, Outcome, find_run_of_job, is_done
from triptych.tools.sweep.sweep import print_results


class SubmittedJob:
    """A job as submitit pickles it: with its config as it was when the sweep was started."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self) -> str:
        """Train, or resume an earlier run of the job; the message of a UserError, else empty."""
        from triptych.training import train  # imports torch

        configure_logging()
        job = self.job._replace(code=hash_code(self.job.config))  # as it is on this machine now
        earlier = None if job.fresh else find_run_of_job(job)
        if earlier and is_done(earlier, job):
            return ""
        try:
            with suppress(SystemExit):  # the record says why
                train(*sweep_jobs.train_arguments(job, earlier))
        except UserError as error:
            return str(error)
        return ""

    def checkpoint(self) -> Any:
        """What submitit requeues where SLURM cuts a job off: the same, to be resumed."""
        job = SubmittedJob(self.job._replace(fresh=False))
        return import_module("submitit.helpers").DelayedSubmission(job)


def make_executor(
    cluster: str, folder: str, max_num_timeout: int, parameters: Mapping[str, Any]
) -> Any:
    """submitit's executor of a cluster; raises UserError where there is none."""
    try:
        submitit = import_module("submitit")
    except ImportError as error:
        raise UserError("hydra/launcher=slurm: pip install submitit (extra `slurm`)") from error
    try:
        executor = submitit.AutoExecutor(
            Path(folder, "%j"), cluster, slurm_max_num_timeout=max_num_timeout
        )
        executor.update_parameters(**parameters)
    except (RuntimeError, ValueError, TypeError, NameError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"hydra.launcher: cluster={cluster}: {reason}") from error
    return executor


def submit_sweep(jobs: Sequence[Job], executor: Any) -> None:
    """Submit the jobs, wait for them, print how they ended; exits with 1 unless all finished."""
    submitted = executor.submit_array([SubmittedJob(job) for job in jobs])
    print(f"submitted: {' '.join(job.job_id for job in submitted)}", flush=True)
    outcomes = list(map(wait_for_job, jobs, submitted))
    print_results(jobs, outcomes)
    if any(outcome.status != "finished" for outcome in outcomes):
        raise SystemExit(1)


def wait_for_job(job: Job, submitted: Any) -> Outcome:
    """How a job ended, once it has; `submitted` is submitit's handle of it."""
    exception = submitted.exception()  # waits
    error = str(exception) if exception else submitted.result()
    record = find_run_of_job(job) or find_run_of_job(job._replace(same_code=False))
    if record is None:
        return Outcome("failed" if exception else "refused", error=error)
    if record.metadata["status"] == "running":
        return Outcome("killed", record, error)
    return sweep_jobs.outcome_of_run(record, is_earlier=False)
