"""Resuming a run: in its own folder, from its last checkpoint."""

import copy
import csv
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from triptych.config import Config, check_untrusted_config, setting_name
from triptych.distributed.ranks import broadcast_from_rank_zero
from triptych.errors import UserError
from triptych.runs import checkpoint_files, storage
from triptych.runs.reader import check_files, find_newest_run
from triptych.runs.record import COLUMNS, NOT_THE_EXPERIMENT, Record, config_hash, resume_arguments
from triptych.runs.stopping import is_requeued

log = logging.getLogger(__name__)
TEST_TAGS = ("test/", "best/", "_hparams_/")  # of events written after the last checkpoint


def reopen_run(config: Config, overrides: list[str]) -> Record:
    """The record of the run to resume.

    Its own config holds, but for `overrides` that are no part of the experiment: where the data
    lie, which device. Raises UserError at any other override, at a folder that is damaged, edited
    or untrusted, and where another process is at work on the run.
    """
    folder = Path(config["resume"])
    changed = [o for o in overrides if setting_name(o) not in NOT_THE_EXPERIMENT]
    if changed:
        raise UserError(f"resume= takes the folder's own config, without {' '.join(changed)}")
    record = Record.open(folder)
    if record.metadata.get("status") == "finished":
        raise UserError(f"resume={folder}: this run is finished")
    with storage.lock_run(folder):
        if link := next(filter(Path.is_symlink, folder.rglob("*")), None):
            raise UserError(f"{link}: a link, and might lead anywhere; put a file in its place")
        check_files(folder)
        run_config = record.config
        check_untrusted_config(run_config, config["trusted_targets"])
        if config_hash(run_config) != record.metadata.get("config_hash"):
            raise UserError(f"{folder}/config.yaml: edited since; start a new run instead")
    # As many threads as before where there are cores: the last bits of sums depend on it.
    number: Any = record.metadata.get("num_threads")
    is_possible = type(number) is int and 1 <= number <= (os.cpu_count() or 1)
    if is_possible and "trainer.devices" not in map(setting_name, overrides):
        torch.set_num_threads(number)
    return record


def check_same_data(record: Record, metadata: dict[str, Any]) -> None:
    """Raise UserError where the images are no longer those that the run began with."""
    for name in ("classes", "split_hash", "test_hash"):
        before = record.metadata.get(name)
        if before is not None and before != storage.replace_non_finite(metadata[name]):
            raise UserError(
                f"{record.folder}: the images have changed since the run began (its {name} has)\n"
                "give it those of then, or start a new run"
            )


def apply_resume_overrides(run_config: Config, config: Config, overrides: list[str]) -> Config:
    """The run's own config with the values that `overrides` set in `config`."""
    merged = copy.deepcopy(run_config)
    for key in sorted({*map(setting_name, overrides)} - {"resume", "trusted_targets"}):
        *path, last = key.split(".")
        node, source = merged, config
        for name in path:
            node[name] = node.get(name) or {}
            node, source = node[name], source[name]
        node[last] = source[last]
        if key == "data.root" and "root" in merged["data"]["source"]:
            node["source"]["root"] = source[last]
    assert config_hash(merged) == config_hash(run_config)
    return merged


def truncate_to_checkpoint(record: Record) -> None:
    """Remove what the run wrote after its last checkpoint: it will be done again.

    Raises UserError where the checkpoint cannot be read, or the folder cannot be written to.
    """
    last, folder = record.checkpoint_path("last"), record.folder
    try:
        step = checkpoint_files.read_step(last) if last.exists() else -1
    except UserError as error:
        raise UserError(
            f"{error}\ndelete it, and resume: the run starts from its beginning"
        ) from error
    with storage.translate_write_errors(str(folder)):
        # Lightning saves a checkpoint of its own when it has SLURM requeue a job: `last` is newer.
        for path in [*storage.find_temporary_files(folder), *folder.glob("hpc_ckpt_*.ckpt")]:
            path.unlink()
        truncate_metrics(folder / "metrics.csv", step)
        truncate_events(folder / "tensorboard", step)


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines up to a step, without those of the test and half a line of a killed run."""
    if not path.exists():
        return
    with path.open(newline="", errors="replace") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    with storage.atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            number = row.get("step", "")
            if number.isdecimal() and int(number) <= step and not row.get("test/accuracy"):
                writer.writerow(row)


def truncate_events(folder: Path, step: int) -> None:
    """Merge the event files into one, of every event up to a step, once."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return
    merged = folder / "events.out.tfevents.0000000000.before"  # sorts before every later file
    with storage.atomic_write(merged) as path, path.open("wb") as file:
        writer = RecordWriter(file)
        events = (event for source in files for event in RawEventFileLoader(str(source)).Load())
        # A merge that was killed leaves events both in the merged file and in their own.
        for serialized in dict.fromkeys(events):
            event: Any = Event.FromString(serialized)
            is_test = any(value.tag.startswith(TEST_TAGS) for value in event.summary.value)
            if 0 <= event.step <= step and not is_test:
                writer.write(serialized)
    for path in files:
        if path != merged:
            path.unlink()


def resume_requeued_job(
    config: Config, overrides: list[str], started: Callable[[str], object]
) -> tuple[Config, list[str]]:
    """Config and overrides of what to train: where SLURM has put this job back into its queue, the
    run that it began is resumed.

    Raises SystemExit where that run is finished, after a call of `started` with its folder.
    """

    def find_folder() -> str:
        job_id = os.environ.get("SLURM_JOB_ID", "")
        entries = {"config_hash": config_hash(config), "slurm_job_id": job_id}
        run = find_newest_run(Path(config["log_dir"]), **entries)
        return str(run.folder) if run else ""

    may_resume = not config["resume"] and is_requeued()
    folder = broadcast_from_rank_zero("requeued", find_folder) if may_resume else ""
    if not folder:
        return config, overrides
    run = Record.open(Path(folder))
    if run.metadata["status"] == "finished":
        for path in run.folder.glob("hpc_ckpt_*.ckpt"):  # saved while it was tested
            path.unlink(missing_ok=True)
        log.info("finished before SLURM started this job again: %s", folder)
        started(folder)
        raise SystemExit(0)
    return resume_arguments(config, overrides, run.folder)
