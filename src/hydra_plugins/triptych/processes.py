"""Hydra's launcher for sweeps: every job in a process of its own."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from triptych.errors import UserError

if TYPE_CHECKING:
    from triptych.tools.sweep.jobs import Job


class ProcessLauncher(Launcher):
    """Runs `num_jobs` jobs at a time; one that fails does not stop the others.

    `verb` is the command whose settings the jobs have.
    """

    verb = "train"

    def __init__(self, num_jobs: int) -> None:
        self.num_jobs = num_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.compose = hydra_context.config_loader.load_sweep_config
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        if not job_overrides:
            raise UserError("-m: no job to run; a glob(...) or range(...) of it chooses nothing")
        from triptych.tools.sweep.jobs import (
            compose_jobs,  # Hydra imports this file for every command
        )

        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise UserError("-m: under torchrun every rank would sweep; start the sweep by python")
        jobs = compose_jobs(lambda one: self.compose(self.config, one), job_overrides, self.verb)
        self.run(jobs)
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in job_overrides]

    def run(self, jobs: "Sequence[Job]") -> None:
        """Run checked jobs to their ends; exits with 1 unless all finished."""
        if type(self.num_jobs) is not int or self.num_jobs < 1:
            raise UserError(f"hydra.launcher.num_jobs={self.num_jobs}: must be at least 1")
        from triptych.tools.sweep.sweep import run  # imports what a refused sweep does not need

        run(jobs, self.num_jobs)
