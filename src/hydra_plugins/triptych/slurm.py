"""Hydra's launcher for sweeps on a cluster: every job submitted to SLURM, by submitit."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.triptych.processes import ProcessLauncher


class SlurmLauncher(ProcessLauncher):
    """Submits all jobs at once and waits for them; the options are those of submitit."""

    def __init__(self, parameters: DictConfig, **options: Any) -> None:
        self.parameters: Any = OmegaConf.to_container(parameters, resolve=True)
        self.options = options

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from triptych.sweep.jobs import freeze  # Hydra imports this file for every command
        from triptych.sweep.submitted import executor, run

        ready = executor(parameters=self.parameters, **self.options)
        jobs = freeze(lambda overrides: self.compose(self.config, overrides), job_overrides)
        run(jobs, ready)
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in jobs]
