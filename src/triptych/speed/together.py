"""Several measurements, one after the other, each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from triptych.benchmark import destination
from triptych.speed.table import show_together
from triptych.sweep.jobs import Job


def run(jobs: Sequence[Job]) -> None:
    """Measure every job; exits with 1 where one could not be measured."""
    measured, failed = [], False
    for job in jobs:
        path = Path(destination(job.config)).absolute()
        command = [sys.executable, "-m", "triptych.benchmark", *job.overrides, f"out='{path}'"]
        ended = subprocess.run(command)
        if ended.returncode < 0 or ended.returncode == 130:
            raise SystemExit(130)
        if ended.returncode == 0:
            measured.append(json.loads(path.read_text()))
        failed |= ended.returncode != 0
    show_together(measured)
    if failed:
        raise SystemExit(1)
