"""A job that SLURM has put back into its queue: the same command again, in the folder it had."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from triptych.config import Config
from triptych.folders import run_folders
from triptych.identity import config_hash
from triptych.ranks import hear, rank, tell
from triptych.record import Record
from triptych.sweep.earlier import opened
from triptych.sweep.jobs import Job, asked

log = logging.getLogger(__name__)


def gone_on_with(
    config: Config, overrides: list[str], started: Callable[[str], object]
) -> tuple[Config, list[str]]:
    """What to train: the run that this job began before it was requeued, or what was asked for.

    Raises SystemExit where there is nothing left to do.
    """
    if config["resume"] or os.environ.get("SLURM_RESTART_COUNT", "0") in ("", "0"):
        return config, overrides
    folder = begun_by_this_job(config) if rank() == 0 else hear("requeued")
    if rank() == 0:
        tell("requeued", folder)
    if not folder:
        return config, overrides
    run = Record.open(Path(folder))
    if run.facts["status"] == "finished":
        for path in Path(folder).glob("hpc_ckpt_*.ckpt"):  # saved while it was tested
            path.unlink(missing_ok=True)
        log.info("finished before SLURM started this job again: %s", folder)
        started(folder)
        raise SystemExit(0)
    more = asked(Job(overrides, config, config_hash(config)), run)
    return more["config"], more["overrides"]


def begun_by_this_job(config: Config) -> str:
    """The folder of the newest run of that config that this SLURM job began; empty if none."""
    job_id, sought = os.environ.get("SLURM_JOB_ID"), config_hash(config)
    runs = (opened(folder, sought) for folder in run_folders(Path(config["log_dir"])))
    own = [run for run in runs if run and job_id and run.facts.get("slurm_job_id") == job_id]
    return str(max(own, key=lambda run: str(run.facts.get("started_at"))).folder) if own else ""
