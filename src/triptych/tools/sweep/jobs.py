"""The jobs of a sweep: every one frozen and checked before the first starts."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig

from triptych.cli import strip_added_plus, translate_hydra_errors
from triptych.config import (
    SWEEP_ONLY,
    Config,
    check_config,
    format_value,
    resolve_config,
    setting_name,
)
from triptych.errors import UserError
from triptych.runs.earlier_runs import resume_arguments
from triptych.runs.record import Record, config_hash


class Job(NamedTuple):
    """A run to be made. `fresh`: whatever was run before; `retry_failed`: also if it failed."""

    overrides: list[str]
    config: Config
    config_hash: str
    fresh: bool = False
    retry_failed: bool = False


def compose_jobs(
    compose: Callable[[list[str]], DictConfig],
    job_overrides: Sequence[Sequence[str]],
    verb: str = "train",
) -> list[Job]:
    """The jobs with their configs as they are now, of a command's settings.

    Raises UserError where one is wrong, or two would be taken for the same run and are not.
    """
    jobs = []
    for overrides in map(list, job_overrides):
        try:
            with translate_hydra_errors(verb):
                jobs.append(compose_job(resolve_config(compose(overrides)), overrides, verb))
        except UserError as refused:
            wrong = "\n".join(str(refused).splitlines()[:2])
            raise UserError(f"{wrong}\nin the job {' '.join(overrides)}") from refused
    check_roots(jobs)
    return jobs


def check_roots(jobs: Sequence[Job]) -> None:
    """Raise UserError where nothing but `data.root`, which does not count, tells two jobs apart."""
    roots: dict[str, str | None] = {}
    for job in jobs:
        name, root = job.config["data"]["name"], job.config["data"].get("root")
        if (other := roots.setdefault(job.config_hash, root)) != root:
            raise UserError(
                f"data.root={format_value(root)}: data.name={name} is also "
                f"that of {format_value(other)}\n"
                "start a sweep for each, with a data.name of its own"
            )


def compose_job(config: Config, overrides: list[str], verb: str = "train") -> Job:
    """A job; what is asked of the sweep stays out of its config, or the run would refuse it."""
    requested = {name: True for name in SWEEP_ONLY if config.get(name) is True}
    config |= dict.fromkeys(requested, False)
    check_config(config, verb)
    own = [o for o in strip_added_plus(overrides) if setting_name(o) not in SWEEP_ONLY]
    return Job(own, config, config_hash(config), **requested)


def train_arguments(job: Job, earlier: Record | None) -> dict[str, Any]:
    """What `train` is called with: a new run, or `earlier` resumed."""
    config, overrides = job.config, job.overrides
    if earlier is not None:
        config, overrides = resume_arguments(config, overrides, earlier.folder)
    return {"config": config, "overrides": overrides}


def labels(jobs: Sequence[Job]) -> list[str]:
    """A name for each job: the overrides that not all of them share."""
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    own = ([o for o in job.overrides if o not in shared] for job in jobs)
    return [" ".join(overrides) or "as configured" for overrides in own]
