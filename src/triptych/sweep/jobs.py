"""The jobs of a sweep: every one checked before the first starts, each in a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from triptych import Refused
from triptych.config import Config, check, plain
from triptych.door import as_typed, explain


class Job(NamedTuple):
    overrides: list[str]
    config: Config


def freeze(
    compose: Callable[[list[str]], DictConfig], job_overrides: Sequence[Sequence[str]]
) -> list[Job]:
    """The jobs with their configs as they are now; raises Refused where one is wrong."""
    jobs = []
    for overrides in map(list, job_overrides):
        try:
            config = plain(compose(overrides))
            check(config)
        except (Refused, HydraException, OmegaConfBaseException, ValueError) as error:
            said = error if isinstance(error, Refused) else explain(error)
            wrong = "\n".join(str(said).splitlines()[:2])
            raise Refused(f"{wrong}\nin the job {' '.join(overrides)}") from error
        jobs.append(Job(as_typed(overrides), config))
    return jobs


def run(jobs: list[Job], num_jobs: int) -> None:
    """Run the jobs, show what they came to, and exit with 1 if one failed."""
    from triptych.sweep.table import show  # imports what a refused sweep does not need

    with ThreadPoolExecutor(num_jobs) as pool:
        numbered = [(f"[{n}/{len(jobs)}]", job) for n, job in enumerate(jobs, start=1)]
        outcomes = list(pool.map(run_one, numbered))
    show([(job.overrides, facts) for job, (_, facts) in zip(jobs, outcomes, strict=True)])
    if any(exit_code for exit_code, _ in outcomes):
        raise SystemExit(1)


def run_one(numbered: tuple[str, Job]) -> tuple[int, dict[str, Any]]:
    """Exit code of a job in a child process, and its record; empty where it was refused."""
    number, job = numbered
    print(
        f"{number} {' '.join(job.overrides)}\n", end="", flush=True
    )  # one write: jobs print at once
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "folder")  # where the child says which folder it made
        command = [sys.executable, "-m", "triptych.sweep.job", str(report)]
        asked = json.dumps({"config": job.config, "overrides": job.overrides})
        exit_code = subprocess.run(command, input=asked, text=True).returncode
        folder = Path(report.read_text()) if report.exists() else None
    if folder is None:
        return exit_code, {}
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text())
    killed = facts["status"] == "running"
    return exit_code, facts | {"folder": str(folder)} | ({"status": "killed"} if killed else {})
