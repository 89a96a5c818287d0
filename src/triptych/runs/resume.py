"""Resuming a run, in its folder and from its last checkpoint."""

import csv
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from triptych.callbacks import checkpoint
from triptych.config import Config
from triptych.distributed.ranks import broadcast_from_rank_zero
from triptych.errors import UserError
from triptych.runs.earlier_runs import find_runs, resume_arguments
from triptych.runs.reader import check_files
from triptych.runs.record import COLUMNS, NOT_THE_EXPERIMENT, Record, config_hash
from triptych.runs.storage import atomic_write, find_temporary_files, lock_run, replace_non_finite
from triptych.runs.trust import check_untrusted_config

OF_THE_TEST = ("test/", "best/", "_hparams_/")  # curves written after the last checkpoint


def reopen_run(config: Config, overrides: list[str]) -> Record:
    """The record of the run to resume.

    The folder's config holds, but for `overrides` that are no part of the experiment: where data
    lie, which device. Raises UserError at any other override, at a folder that is damaged, edited
    or somebody else's, and where another process is at work on the run.
    """
    keys = {override.lstrip("+").partition("=")[0]: override for override in overrides}
    others = [typed for key, typed in keys.items() if key not in NOT_THE_EXPERIMENT]
    if others:
        raise UserError(f"resume= takes the folder's own config, without {' '.join(others)}")
    folder = Path(config["resume"])
    record = Record.open(folder)
    if record.metadata.get("status") == "finished":
        raise UserError(f"resume={folder}: this run is finished")
    with lock_run(folder):
        for path in folder.rglob("*"):
            if path.is_symlink():
                raise UserError(f"{path}: a link, and might lead anywhere; put a file in its place")
        check_files(folder)
        own = record.config
        check_untrusted_config(own, config["trusted_targets"])
        if config_hash(own) != record.metadata.get("config_hash"):
            raise UserError(f"{folder}/config.yaml: edited since; start a new run instead")
    if "trainer.devices" not in keys:
        restore_num_threads(record)
    return record


def restore_num_threads(record: Record) -> None:
    """Take as many threads as before, if there are cores: sums depend on it in their last bits."""
    number = record.metadata.get("num_threads")
    if type(number) is int and 1 <= number <= (os.cpu_count() or 1):
        torch.set_num_threads(number)


def check_same_data(record: Record, metadata: dict[str, Any]) -> None:
    """Raise UserError where the images are no longer those that the run began with."""
    for name in ("classes", "split_hash", "test_hash"):
        before = record.metadata.get(name)
        if before is not None and before != replace_non_finite(metadata[name]):
            raise UserError(
                f"{record.folder}: the images have changed since the run began (its {name} has)\n"
                "give it those of then, or start a new run"
            )


def apply_resume_overrides(own: Config, typed: Config, overrides: list[str]) -> Config:
    """A run's own config with the typed values of what `reopen` lets pass."""
    apply_resume_overrides = dict(own)
    keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    for key in sorted(keys - {"resume", "trusted_targets"}):
        *path, last = key.split(".")
        node, source = apply_resume_overrides, typed
        for name in path:
            node[name] = dict(node.get(name) or {})
            node, source = node[name], source[name]
        node[last] = source[last]
        if key == "data.root" and "root" in apply_resume_overrides["data"]["source"]:
            node["source"] = node["source"] | {"root": source[last]}
    assert config_hash(apply_resume_overrides) == config_hash(own)
    return apply_resume_overrides


def truncate_to_checkpoint(record: Record) -> None:
    """Take back what the run did after its last checkpoint: all of it will be done again.

    Raises UserError where that checkpoint cannot be read, OSError where a file cannot be written.
    """
    last, folder = record.checkpoint_path("last"), record.folder
    # Beside `last.ckpt` Lightning's own is none: it saves one before it has SLURM requeue a job.
    for path in [*find_temporary_files(folder), *folder.glob("hpc_ckpt_*.ckpt")]:
        path.unlink()
    try:
        step = checkpoint.checkpoint_step(last) if last.exists() else -1
    except UserError as refused:
        raise UserError(
            f"{last}: no checkpoint, or damaged; nothing of it was run\n"
            "without it the run can start from its beginning: delete it, and resume"
        ) from refused
    truncate_metrics(folder / "metrics.csv", step)
    truncate_events(folder / "tensorboard", step)


def truncate_metrics(path: Path, step: int) -> None:
    """Leave the whole lines up to a step, less those of the test."""
    if not path.exists():
        return
    try:
        with path.open(newline="", errors="replace") as file:
            rows = [row for row in csv.DictReader(file) if 0 <= step_of_row(row) <= step]
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it, and resume") from error
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in rows if not row.get("test/accuracy"))


def step_of_row(row: dict[str, str | None]) -> int:
    """The step of a line; -1 where a killed run left half of it."""
    step = row.get("step") or ""
    return int(step) if step.isdecimal() and None not in row.values() else -1


def truncate_events(folder: Path, step: int) -> None:
    """Leave one event file, of what was logged up to a step, every event once; its name sorts
    before newer ones, whatever the clock says."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return
    kept = folder / "events.out.tfevents.0000000000.before"
    with atomic_write(kept) as path, path.open("wb") as file:
        writer = RecordWriter(file)
        every = (raw for source in files for raw in read_events(source))
        # Where this was cut off before, events lie in the kept file and in their own.
        for raw in dict.fromkeys(raw for raw in every if is_before(raw, step)):
            writer.write(raw)
    for path in files:
        if path != kept:
            path.unlink()


def read_events(path: Path) -> Iterator[bytes]:
    """The whole events of a file, up to the first that is not."""
    with suppress(MemoryError, OverflowError):  # at a length that nobody has written
        yield from RawEventFileLoader(str(path)).Load()


def is_before(raw: bytes, step: int) -> bool:
    try:
        event: Any = Event.FromString(raw)
    except DecodeError:
        return False
    tags = [value.tag for value in event.summary.value]
    return 0 <= event.step <= step and not any(tag.startswith(OF_THE_TEST) for tag in tags)


# A job that SLURM has put back into its queue: the same command again, in the folder it had.

log = logging.getLogger(__name__)


def resume_requeued_job(
    config: Config, overrides: list[str], started: Callable[[str], object]
) -> tuple[Config, list[str]]:
    """What to train: the run that this job began before it was requeued, or what was asked for.

    Raises SystemExit where there is nothing left to do.
    """
    if config["resume"] or os.environ.get("SLURM_RESTART_COUNT", "0") in ("", "0"):
        return config, overrides
    folder = broadcast_from_rank_zero("requeued", lambda: find_run_of_this_job(config))
    if not folder:
        return config, overrides
    run = Record.open(Path(folder))
    if run.metadata["status"] == "finished":
        for path in Path(folder).glob("hpc_ckpt_*.ckpt"):  # saved while it was tested
            path.unlink(missing_ok=True)
        log.info("finished before SLURM started this job again: %s", folder)
        started(folder)
        raise SystemExit(0)
    return resume_arguments(config, overrides, run.folder)


def find_run_of_this_job(config: Config) -> str:
    """The folder of the newest run of that config that this SLURM job began; empty if none."""
    job_id = os.environ.get("SLURM_JOB_ID")
    runs = find_runs(Path(config["log_dir"]), config_hash(config))
    own = [run for run in runs if job_id and run.metadata.get("slurm_job_id") == job_id]
    return str(max(own, key=lambda run: str(run.metadata.get("started_at"))).folder) if own else ""
