"""Resuming a run, in its folder and from its last checkpoint."""

import csv
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from triptych import Refused, checkpoint
from triptych.config import Config
from triptych.files import finite, halves, replacing
from triptych.folders import check_files
from triptych.identity import NOT_THE_EXPERIMENT, config_hash
from triptych.lock import hold
from triptych.record import COLUMNS, Record
from triptych.trust import check_foreign

OF_THE_TEST = ("test/", "best/", "_hparams_/")  # curves written after the last checkpoint


def reopen(config: Config, overrides: list[str]) -> Record:
    """The record of the run to resume.

    The folder's config holds, but for `overrides` that are no part of the experiment: where data
    lie, which device. Raises Refused at any other override, at a folder that is damaged, edited
    or somebody else's, and where another process is at work on the run.
    """
    keys = {override.lstrip("+").partition("=")[0]: override for override in overrides}
    others = [typed for key, typed in keys.items() if key not in NOT_THE_EXPERIMENT]
    if others:
        raise Refused(f"resume= takes the folder's own config, without {' '.join(others)}")
    folder = Path(config["resume"])
    record = Record.open(folder)
    if record.facts.get("status") == "finished":
        raise Refused(f"resume={folder}: this run is finished")
    with hold(folder):
        for path in folder.rglob("*"):
            if path.is_symlink():
                raise Refused(f"{path}: a link, and might lead anywhere; put a file in its place")
        check_files(folder)
        own = record.config
        check_foreign(own, config["trusted_targets"])
        if config_hash(own) != record.facts.get("config_hash"):
            raise Refused(f"{folder}/config.yaml: edited since; start a new run instead")
    if "trainer.devices" not in keys:
        keep_threads(record)
    return record


def keep_threads(record: Record) -> None:
    """Take as many threads as before, if there are cores: sums depend on it in their last bits."""
    number = record.facts.get("num_threads")
    if type(number) is int and 1 <= number <= (os.cpu_count() or 1):
        torch.set_num_threads(number)


def require_same(record: Record, facts: dict[str, Any]) -> None:
    """Raise Refused where the images are no longer those that the run began with."""
    for name in ("classes", "split_hash", "test_hash"):
        before = record.facts.get(name)
        if before is not None and before != finite(facts[name]):
            raise Refused(
                f"{record.folder}: the images have changed since the run began (its {name} has)\n"
                "give it those of then, or start a new run"
            )


def moved(own: Config, typed: Config, overrides: list[str]) -> Config:
    """A run's own config with the typed values of what `reopen` lets pass."""
    moved = dict(own)
    keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    for key in sorted(keys - {"resume", "trusted_targets"}):
        *path, last = key.split(".")
        node, source = moved, typed
        for name in path:
            node[name] = dict(node.get(name) or {})
            node, source = node[name], source[name]
        node[last] = source[last]
        if key == "data.root" and "root" in moved["data"]["source"]:
            node["source"] = node["source"] | {"root": source[last]}
    assert config_hash(moved) == config_hash(own)
    return moved


def cut_back(record: Record) -> None:
    """Take back what the run did after its last checkpoint: all of it will be done again.

    Raises Refused where that checkpoint cannot be read, OSError where a file cannot be written.
    """
    last, folder = record.checkpoint_path("last"), record.folder
    # Beside `last.ckpt` Lightning's own is none: it saves one before it has SLURM requeue a job.
    for path in [*halves(folder), *folder.glob("hpc_ckpt_*.ckpt")]:
        path.unlink()
    try:
        step = checkpoint.step_of(last) if last.exists() else -1
    except Refused as refused:
        raise Refused(
            f"{last}: no checkpoint, or damaged; nothing of it was run\n"
            "without it the run can start from its beginning: delete it, and resume"
        ) from refused
    cut_metrics(folder / "metrics.csv", step)
    cut_events(folder / "tensorboard", step)


def cut_metrics(path: Path, step: int) -> None:
    """Leave the whole lines up to a step, less those of the test."""
    if not path.exists():
        return
    try:
        with path.open(newline="", errors="replace") as file:
            rows = [row for row in csv.DictReader(file) if 0 <= step_of(row) <= step]
    except csv.Error as error:
        raise Refused(f"{path}: cannot be read ({error}); delete it, and resume") from error
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in rows if not row.get("test/accuracy"))


def step_of(row: dict[str, str | None]) -> int:
    """The step of a line; -1 where a killed run left half of it."""
    step = row.get("step") or ""
    return int(step) if step.isdecimal() and None not in row.values() else -1


def cut_events(folder: Path, step: int) -> None:
    """Leave one event file, of what was logged up to a step, every event once; its name sorts
    before newer ones, whatever the clock says."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return
    kept = folder / "events.out.tfevents.0000000000.before"
    with replacing(kept) as path, path.open("wb") as file:
        writer = RecordWriter(file)
        every = (raw for source in files for raw in events(source))
        # Where this was cut off before, events lie in the kept file and in their own.
        for raw in dict.fromkeys(raw for raw in every if is_kept(raw, step)):
            writer.write(raw)
    for path in files:
        if path != kept:
            path.unlink()


def events(path: Path) -> Iterator[bytes]:
    """The whole events of a file, up to the first that is not."""
    with suppress(MemoryError, OverflowError):  # at a length that nobody has written
        yield from RawEventFileLoader(str(path)).Load()


def is_kept(raw: bytes, step: int) -> bool:
    try:
        event: Any = Event.FromString(raw)
    except DecodeError:
        return False
    tags = [value.tag for value in event.summary.value]
    return 0 <= event.step <= step and not any(tag.startswith(OF_THE_TEST) for tag in tags)
