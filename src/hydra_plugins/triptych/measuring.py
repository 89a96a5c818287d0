"""Hydra's launcher for benchmarks: every measurement in a process of its own, alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra_plugins.triptych.processes import ProcessLauncher

if TYPE_CHECKING:
    from triptych.tools.sweep.jobs import Job


class MeasuringLauncher(ProcessLauncher):
    """Never two at a time: they would measure each other."""

    verb = "benchmark"

    def __init__(self) -> None:
        super().__init__(num_jobs=1)

    def run(self, jobs: "Sequence[Job]") -> None:
        from triptych.tools.benchmark.together import (
            run,  # Hydra imports this file for every command
        )

        run(jobs)
