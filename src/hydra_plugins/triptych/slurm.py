"""Hydra's launcher for sweeps on a cluster: every job submitted to SLURM, by submitit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from hydra_plugins.triptych.processes import ProcessLauncher

if TYPE_CHECKING:
    from triptych.tools.sweep.jobs import Job


class SlurmLauncher(ProcessLauncher):
    """Submits all jobs at once and waits for them; the options are those of submitit."""

    def __init__(self, parameters: DictConfig, **options: Any) -> None:
        self.parameters: Any = OmegaConf.to_container(parameters, resolve=True)
        self.options = options

    def run(self, jobs: "Sequence[Job]") -> None:
        from triptych.tools.sweep.submitted import (
            executor,  # Hydra imports this file every time
            run,  # Hydra imports this file every time
        )

        run(jobs, executor(parameters=self.parameters, **self.options))
