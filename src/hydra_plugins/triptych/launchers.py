"""Hydra's launchers for sweeps: each job in a process of its own, here or on a cluster.

Hydra imports this file for every command, so each function imports what it needs.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from triptych.errors import UserError

if TYPE_CHECKING:
    from triptych.config import Rule
    from triptych.tools.sweep.jobs import Job


class ProcessLauncher(Launcher):
    """Runs `num_jobs` jobs at a time, `jobs_per_gpu` of them on each GPU; one that fails does not
    stop the others."""

    command, detach = "train", False

    def __init__(self, num_jobs: int | None = None, jobs_per_gpu: int = 1) -> None:
        self.num_jobs, self.jobs_per_gpu = num_jobs, jobs_per_gpu

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.compose = hydra_context.config_loader.load_sweep_config
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Check every job before the first starts; then run them, or exit with 1."""
        from triptych.distributed.detect import find_launcher
        from triptych.tools.sweep.jobs import compose_jobs

        if not job_overrides:
            raise UserError("-m: no jobs to run; a glob(...) or range(...) matches nothing")
        if launcher := find_launcher(os.environ):
            raise UserError(f"-m: under {launcher} every rank would sweep; start it by python")

        def compose(overrides: list[str]) -> DictConfig:
            return self.compose(self.config, overrides)

        if self.command == "train" and any(o.startswith("plan=") for o in job_overrides[0]):
            from triptych.tools.sweep.planned import find_plan, follow

            if self.detach:
                raise UserError("hydra.launcher.detach=true: a plan waits, to look at its runs")
            follow(find_plan(job_overrides), job_overrides[0], compose, self.run)
        else:
            self.run(compose_jobs(compose, job_overrides, self.command))
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in job_overrides]

    def check(self, **rules: "Rule") -> None:
        """Raise UserError at the first option that breaks its rule."""
        from triptych.config import format_value

        for name, rule in rules.items():
            if not rule.holds(value := getattr(self, name)):
                text = f"hydra.launcher.{name}={format_value(value)}: must be {rule.says}"
                raise UserError(text)

    def run(self, jobs: "Sequence[Job]") -> None:
        from triptych.config import MAX_PROCESSES, count

        at_least_one = count(1, MAX_PROCESSES)
        self.check(num_jobs=at_least_one.or_null(), jobs_per_gpu=at_least_one)
        from triptych.tools.sweep.sweep import run_sweep

        run_sweep(jobs, self.num_jobs, self.jobs_per_gpu)


class MeasuringLauncher(ProcessLauncher):
    """Runs measurements one at a time: two would measure each other."""

    command = "benchmark"

    def __init__(self) -> None:
        super().__init__(num_jobs=1)

    def run(self, jobs: "Sequence[Job]") -> None:
        from triptych.tools.benchmark.command import benchmark_each

        benchmark_each(jobs)


class PlanningLauncher(ProcessLauncher):
    """Runs nothing: says what the jobs would show, and declares them."""

    command = "plan"

    def run(self, jobs: "Sequence[Job]") -> None:
        from triptych.tools.plan.command import plan

        plan(jobs)


class SearchLauncher(MeasuringLauncher):
    """Tunes one network after the other, each by the same budget."""

    command = "tune"

    def run(self, jobs: "Sequence[Job]") -> None:
        from triptych.tools.tune.command import tune_each

        tune_each(jobs)


class SlurmLauncher(ProcessLauncher):
    """Submits jobs to SLURM, `array_parallelism` of which run at a time, and waits for them; with
    `detach` it does not wait. The options are submitit's."""

    def __init__(
        self,
        cluster: str,
        folder: str,
        max_num_timeout: int,
        parameters: DictConfig,
        array_parallelism: int,
        detach: bool,
    ) -> None:
        self.cluster, self.folder, self.max_num_timeout = cluster, folder, max_num_timeout
        self.array_parallelism, self.detach = array_parallelism, detach
        self.parameters: Any = OmegaConf.to_container(parameters, resolve=True)

    def run(self, jobs: "Sequence[Job]") -> None:
        from triptych.config import FLAG, count
        from triptych.tools.sweep import cluster
        from triptych.tools.sweep.submission import submit_sweep

        self.check(array_parallelism=count(1), detach=FLAG, max_num_timeout=count(0))
        if any(job.minutes for job in jobs):
            raise UserError("minutes: a job of SLURM has hydra.launcher.parameters.timeout_min=")
        parameters = {"slurm_array_parallelism": self.array_parallelism} | self.parameters
        parameters = cluster.choose_resources(parameters, jobs)
        options = self.cluster, self.folder, self.max_num_timeout
        submit_sweep(jobs, cluster.make_executor(*options, parameters), detach=self.detach)
