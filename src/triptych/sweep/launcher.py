"""A sweep: every job checked before the first starts, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from triptych import Refused
from triptych.config import Config, check, plain


class Job(NamedTuple):
    number: int
    overrides: list[str]
    config: Config


class Outcome(NamedTuple):
    job: Job
    exit_code: int
    facts: dict[str, Any]  # what run.json says; empty where no folder was made


class ProcessLauncher(Launcher):
    """Hydra's launcher: `hydra.launcher.num_jobs` at a time, a failing job does not stop the others."""

    def __init__(self, num_jobs: int) -> None:
        self.num_jobs = num_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader = hydra_context.config_loader
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        jobs = self.checked(job_overrides)
        with ThreadPoolExecutor(self.num_jobs) as pool:
            outcomes = list(pool.map(lambda job: run_job(job, len(jobs)), jobs))
        from triptych.sweep.table import show

        show(outcomes)
        if any(outcome.exit_code for outcome in outcomes):
            raise SystemExit(1)
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in outcomes]

    def checked(self, job_overrides: Sequence[Sequence[str]]) -> list[Job]:
        """The jobs with their configs frozen; raises Refused, naming the job, where one is wrong."""
        jobs = []
        for number, overrides in enumerate(job_overrides, start=1):
            try:
                composed = self.loader.load_sweep_config(self.config, list(overrides))
                config = plain(composed)
                check(config)
            except (Refused, HydraException, OmegaConfBaseException) as error:
                raise Refused(f"job {number} ({' '.join(overrides)}): {error}") from error
            jobs.append(Job(number, list(overrides), config))
        return jobs


def run_job(job: Job, num_jobs: int) -> Outcome:
    """One job as a child process, which says through a file which folder it made."""
    print(f"[{job.number}/{num_jobs}] {' '.join(job.overrides)}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "folder")
        child = subprocess.run(
            [sys.executable, "-m", "triptych.sweep.job", str(report)],
            input=json.dumps({"config": job.config, "overrides": job.overrides}),
            text=True,
            env=os.environ,
        )
        folder = Path(report.read_text()) if report.exists() else None
    facts = json.loads((folder / "run.json").read_text()) if folder else {}
    return Outcome(job, child.returncode, facts | {"folder": str(folder or "")})
