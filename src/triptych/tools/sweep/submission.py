"""A sweep that a cluster runs, submitted once however often its command is typed.

The file that locks a job, below `log_dir/.sweep`, notes its number in SLURM's queue: so no process
has to live as long as the sweep.
"""

import json
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.runs.reader import is_locked
from triptych.runs.storage import acquire_lock
from triptych.tools.sweep import jobs as sweep_jobs
from triptych.tools.sweep.cluster import (
    ENDED,
    FORGOTTEN,
    NEVER,
    ORDINARY,
    ClusterJob,
    Queue,
    log,
    query_queue,
    read_end,
    submit_jobs,
    wait_for_jobs,
)
from triptych.tools.sweep.jobs import Job, Outcome, find_run_of_job, is_done, lock_path
from triptych.tools.sweep.results import print_results

NOT_TAKEN = "not submitted"
BEGUN = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING"}


def submit_sweep(jobs: Sequence[Job], executor: Any, *, detach: bool = False) -> None:
    """Submit what is neither finished nor in the queue, wait for all, print how they ended.

    Exits with 1 unless all finished. `detach`: print how they stand instead of waiting, and exit
    with 1 where some failed.
    """
    with acquire_lock(make_folder(jobs) / "submission", wait=True):  # another may be typed beside
        outcomes, submitted = find_standing(jobs, executor)
        submit_missing(jobs, executor, outcomes, submitted)
    in_queue = [*submitted.values()]
    if submitted and detach:
        queue = query_queue(executor, [job.handle for job in in_queue]) or {}
        ends = [describe(job, queue) for job in in_queue]
    else:
        if submitted:
            ids = sorted({job.handle.job_id.partition("_")[0] for job in in_queue})
            print(
                f"waiting for {len(submitted)} jobs, which Ctrl-C does not end: the same command "
                f"again waits for them, scancel {' '.join(ids)} ends them",
                flush=True,
            )
        ends = wait_for_jobs(in_queue, executor)
    outcomes |= zip(submitted, ends, strict=True)
    print_results(jobs, [outcomes[number] for number in range(len(jobs))])
    if submitted and detach:
        print("how they stand: the same command again (it submits what is missing), or squeue --me")
    well = {"finished", "queued", "running", NOT_TAKEN} if detach else {"finished"}
    if any(outcome.status not in well for outcome in outcomes.values()):
        raise SystemExit(1)


def submit_missing(
    jobs: Sequence[Job], executor: Any, outcomes: dict[int, Outcome], submitted: dict[int, Any]
) -> None:
    """Submit the jobs that are in neither; what SLURM does not take now has that for an outcome.

    How many it takes is for a site to limit: of an array, of a user, in all. Raises UserError where
    it takes none and none is in the queue.
    """
    missing = [n for n in range(len(jobs)) if n not in outcomes and n not in submitted]
    size = len(missing)
    while numbers := missing[:size]:
        try:
            handles = submit_jobs([jobs[number] for number in numbers], executor)
        except UserError as error:
            if size := len(numbers) // 2:
                continue
            if not submitted:
                raise
            outcomes |= dict.fromkeys(missing, Outcome(NOT_TAKEN, error=str(error)))
            return
        del missing[: len(numbers)]
        for number, handle in zip(numbers, handles, strict=True):
            lock_path(jobs[number]).write_text(json.dumps({"job_id": handle.job_id}))
            submitted[number] = ClusterJob(jobs[number], handle)
        print(f"submitted: {handles[0].job_id} to {handles[-1].job_id}", flush=True)


def make_folder(jobs: Sequence[Job]) -> Path:
    folder = lock_path(jobs[0]).parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_standing(
    jobs: Sequence[Job], executor: Any
) -> tuple[dict[int, Outcome], dict[int, ClusterJob]]:
    """The jobs that are not to be submitted, by number: those that ended or run elsewhere, and
    those in the queue.

    Raises UserError where SLURM does not answer.
    """
    inner, labels = executor._executor, sweep_jobs.label_jobs(jobs)
    queue = query_queue(executor)
    if queue is None:
        raise UserError("squeue: does not answer, so jobs that wait would be submitted again")
    outcomes, submitted = dict[int, Outcome](), dict[int, ClusterJob]()
    for number, job in enumerate(jobs):
        job_id = read_note(lock_path(job))
        handle = inner.job_class(inner.folder, job_id) if job_id else None
        if queue.get(job_id, (FORGOTTEN, ""))[0] not in ENDED:
            submitted[number] = ClusterJob(job, handle)
            continue
        outcome = find_outcome(job)
        if outcome:
            outcomes[number] = outcome
        elif handle and (reason := read_end(handle.paths.stderr)):
            log.info("%s: submitted again; it ended with\n%s", labels[number], reason)
        if handle and (outcome is None or outcome.status == "finished"):
            lock_path(job).write_text("")
    clear_logs(Path(inner.folder), make_folder(jobs).absolute(), queue)
    return outcomes, submitted


def clear_logs(folder: Path, notes: Path, queue: Queue) -> None:
    """Delete submitit's files below `notes` of jobs that are neither noted nor known to SLURM."""
    kept = {*queue, *map(read_note, notes.iterdir())}
    kept |= {job_id.partition("_")[0] for job_id in kept}  # the array's own
    for path in folder.parent.glob("*") if notes in folder.parents else ():
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)  # a script, or jobs that were never taken
        elif path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def find_outcome(job: Job) -> Outcome | None:
    """How an earlier run of the job ended, or that it is running; None where the job is to run."""
    run = None if job.fresh else find_run_of_job(job)
    if run and is_locked(run.folder):
        return Outcome("running", run)
    return sweep_jobs.outcome_of_run(run, is_earlier=True) if run and is_done(run, job) else None


def read_note(path: Path) -> str:
    """A job's number in the queue when it was last submitted; empty where it was not."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        job_id = json.loads(path.read_text())["job_id"]
        return job_id if re.fullmatch(r"\d+(_\d+)?", job_id, re.ASCII) else ""
    return ""


def describe(job: ClusterJob, queue: Queue) -> Outcome:
    """How a job in the queue stands."""
    state, reason = queue.get(job.handle.job_id, ("PENDING", ""))
    if state in BEGUN:
        return Outcome("running", find_run_of_job(job.job))
    if reason in NEVER:
        return Outcome("never starts", error=f"{reason} (SLURM); scancel {job.handle.job_id}")
    return Outcome("queued", error="" if reason in ORDINARY else f"{reason} (SLURM)")
