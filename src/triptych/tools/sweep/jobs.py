"""The jobs of a sweep: composed and checked before the first starts, and what was run of them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from omegaconf import DictConfig

from triptych.cli import strip_plus, translate_hydra_errors
from triptych.config import (
    SWEEP_ONLY,
    Config,
    check_config,
    format_value,
    resolve_config,
    setting_name,
)
from triptych.errors import UserError
from triptych.runs.reader import find_newest_run
from triptych.runs.record import Record, config_hash, resume_arguments
from triptych.runs.storage import acquire_lock


class Job(NamedTuple):
    """A run to be made.

    `fresh`: a new run, whatever runs there are; `retry_failed`: resume an earlier run that failed.
    """

    overrides: list[str]
    config: Config
    config_hash: str
    fresh: bool = False
    retry_failed: bool = False


def compose_jobs(
    compose: Callable[[list[str]], DictConfig],
    job_overrides: Sequence[Sequence[str]],
    command: str = "train",
) -> list[Job]:
    """The jobs, with their configs as the environment and the YAML files are now.

    Raises UserError where a setting is wrong, or where jobs that differ have the same hash.
    """
    jobs = []
    for overrides in map(list, job_overrides):
        try:
            with translate_hydra_errors(command):
                jobs.append(compose_job(resolve_config(compose(overrides)), overrides, command))
        except UserError as error:
            message = "\n".join(str(error).splitlines()[:2])
            raise UserError(f"{message}\nin the job {' '.join(overrides)}") from error
    check_roots(jobs)
    return jobs


def check_roots(jobs: Sequence[Job]) -> None:
    """Raise UserError where two jobs differ in `data.root` alone, which no hash contains."""
    roots: dict[str, str | None] = {}
    for job in jobs:
        name, root = job.config["data"]["name"], job.config["data"].get("root")
        if (other := roots.setdefault(job.config_hash, root)) != root:
            raise UserError(
                f"data.root={format_value(root)}: data.name={name} is also that of "
                f"{format_value(other)}\nstart a sweep for each, with a data.name of its own"
            )


def compose_job(config: Config, overrides: list[str], command: str = "train") -> Job:
    """A job without the settings of the sweep: a single run would refuse them."""
    sweep_settings = {name: True for name in SWEEP_ONLY if config.get(name) is True}
    config |= dict.fromkeys(sweep_settings, False)
    check_config(config, command)
    overrides = [o for o in strip_plus(overrides) if setting_name(o) not in SWEEP_ONLY]
    return Job(overrides, config, config_hash(config), **sweep_settings)


def train_arguments(job: Job, earlier: Record | None) -> tuple[Config, list[str]]:
    """What `train` is called with: a new run, or `earlier` resumed."""
    if earlier is None:
        return job.config, job.overrides
    return resume_arguments(job.config, job.overrides, earlier.folder)


def label_jobs(jobs: Sequence[Job]) -> list[str]:
    """A name for each job: the overrides that not all of them share."""
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    differing = ([o for o in job.overrides if o not in shared] for job in jobs)
    return [" ".join(overrides) or "as configured" for overrides in differing]


def find_run_of_job(job: Job) -> Record | None:
    """The newest run of the job's experiment below its `log_dir`; one that is finished, if any."""
    return find_newest_run(Path(job.config["log_dir"]), config_hash=job.config_hash)


def is_done(run: Record, job: Job) -> bool:
    """Whether an earlier run leaves nothing to do of a job."""
    status = run.metadata["status"]
    return status == "finished" or (status == "failed" and not job.retry_failed)


def lock_job(job: Job) -> IO[str] | None:
    """Lock an experiment below `log_dir`; None while another process has it locked.

    The lock lasts until the file is closed in every process that inherited it: so a job keeps it
    where the sweep is killed. Raises OSError where the file cannot be written.
    """
    path = Path(job.config["log_dir"], ".sweep", job.config_hash[:16])
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(BlockingIOError):
        return acquire_lock(path)
    return None
