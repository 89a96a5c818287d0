"""Several measurements, one after the other, each in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from triptych.errors import UserError
from triptych.tools.benchmark.command import destination
from triptych.tools.benchmark.table import show_together
from triptych.tools.sweep.jobs import Job
from triptych.tools.sweep.processes import STOPPED


def run(jobs: Sequence[Job]) -> None:
    """Measure every job; exits with 1 where one could not be measured.

    Raises UserError where all would write into one file.
    """
    if any(job.config["out"] for job in jobs):
        raise UserError("out: names one file; with -m they go into log_dir/benchmark")
    # Set by the way in of this process, for which Hydra shall raise; each child has its own.
    env = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    measured, failed = [], False
    for job in jobs:
        path = destination(job.config).absolute()
        out = str(path).replace("'", "\\'")
        command = [
            sys.executable,
            "-m",
            "triptych",
            "benchmark",
            *job.overrides,
            f"out='{out}'",
        ]
        ended = subprocess.run(command, env=env)
        if ended.returncode in STOPPED:
            raise SystemExit(130)
        if ended.returncode == 0:
            measured.append(json.loads(path.read_text()))
        failed |= ended.returncode != 0
    show_together(measured)
    if failed:
        raise SystemExit(1)
