"""Jobs of a sweep that SLURM runs, on machines that share the folder of the runs."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.tools.sweep.earlier import newest, settles
from triptych.tools.sweep.jobs import Job, labels, train_arguments
from triptych.tools.sweep.table import show
from triptych.tools.sweep.worker import Outcome, settled


class Submitted:
    """A job as submitit sends it: with its config as it was when the sweep was started."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self) -> str:
        """Train, or go on where an earlier run of the job was cut off; why it was refused."""
        from triptych.cli import configure_logging
        from triptych.training import train

        configure_logging()
        earlier = None if self.job.fresh else newest(self.job)
        if earlier and settles(earlier, self.job):
            return ""
        try:
            train(**train_arguments(self.job, earlier))
        except UserError as error:
            return str(error)
        except SystemExit:  # the record tells
            pass
        return ""

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue where SLURM cuts a job off: the same again."""
        return import_module("submitit.helpers").DelayedSubmission(
            Submitted(self.job._replace(fresh=False))
        )


def executor(cluster: str, folder: str, max_num_timeout: int, parameters: Mapping[str, Any]) -> Any:
    """submitit's way to a cluster; raises UserError where there is none."""
    try:
        submitit = import_module("submitit")
    except ImportError as error:
        raise UserError(
            "hydra/launcher=slurm: needs the extra `slurm`, which is submitit"
        ) from error
    try:
        found = submitit.AutoExecutor(
            Path(folder, "%j"), cluster, slurm_max_num_timeout=max_num_timeout
        )
        found.update_parameters(**parameters)
    except (RuntimeError, ValueError, TypeError, NameError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"hydra.launcher: cluster={cluster}: {reason}") from error
    return found


def run(jobs: Sequence[Job], executor: Any) -> None:
    """Submit the jobs, wait for them, show what they came to; exits with 1 unless all finished."""
    submitted = executor.submit_array([Submitted(job) for job in jobs])
    print(f"submitted: {' '.join(work.job_id for work in submitted)}", flush=True)
    outcomes = [outcome(job, work) for job, work in zip(jobs, submitted, strict=True)]
    show(list(zip(labels(jobs), outcomes, strict=True)))
    if any(found.status != "finished" for found in outcomes):
        raise SystemExit(1)


def outcome(job: Job, work: Any) -> Outcome:
    """What became of a job, when it has ended."""
    broken = work.exception()  # waits
    refusal = str(broken) if broken else work.result()
    record = newest(job)
    if record is None:
        return Outcome("failed" if broken else "refused", error=refusal)
    if record.metadata["status"] == "running":  # killed
        return Outcome("killed", record.metadata, record.folder, refusal)
    return settled(record)._replace(is_earlier=False)
