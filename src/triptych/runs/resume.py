"""Resuming a run: in its own folder, from its last checkpoint."""

import csv
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from triptych.config import Config, setting_name
from triptych.data.datamodule import ImageDataModule
from triptych.distributed import ranks
from triptych.distributed.detect import EARLIER
from triptych.errors import UserError
from triptych.models.weight_content import check_checkpoint
from triptych.runs import storage
from triptych.runs.checkpoint_files import AtomicCheckpointIO, load_checkpoint
from triptych.runs.code_changes import find_changed, merge_hashes
from triptych.runs.predictions import read_validation
from triptych.runs.reader import (
    check_files,
    describe_change,
    find_newest_run,
    find_own_files,
    find_temporary_files,
)
from triptych.runs.record import Record, config_hash, hash_code
from triptych.runs.resume_request import (
    check_run_config,
    check_unfinished,
    compose_resumed,
    find_run,
    read_history,
    resume_arguments,
)
from triptych.runs.stopping import is_requeued, set_deadline

log = logging.getLogger(__name__)
OF_THE_WEIGHTS = """
    evaluation*.json cost.json image_types.csv external export shifts
    predictions/test* predictions/mistakes*
    figures/test_* figures/evaluated_* figures/grad_cam* figures/image_types*
""".split()  # files of a finished run that more epochs make those of other weights
MAX_EVENT_BYTES = 2**30  # of a file of events
# Of events written after the last checkpoint.
TEST_TAGS = ("test/", "best/", "about/scores", "_hparams_/")


def open_resumed(config: Config, overrides: list[str]) -> tuple[Record | None, Config]:
    """The run to resume, if any, from rank zero, and the config that it goes on with."""
    if not config["resume"]:
        return None, config
    record = ranks.create_on_rank_zero(lambda: reopen_run(config, overrides))
    # Only rank zero's user may have the key by which the run's places are trusted.
    text = ranks.broadcast_from_rank_zero(
        "config", lambda: OmegaConf.to_yaml(compose_resumed(config, overrides, record))
    )
    resumed: Any = OmegaConf.to_container(OmegaConf.create(text))  # with numbers as keys, too
    return record, resumed


def reopen_run(config: Config, overrides: list[str]) -> Record:
    """The record of the run to resume.

    Raises UserError where `merge_request` refuses `overrides`, at a folder that is damaged, edited
    or untrusted, where nothing is left to do, and where another process is at work on the run.
    """
    record = Record.open(find_run(config["resume"]))
    folder = record.folder
    with storage.lock_run(folder):
        check_files(folder)
        check_links_of_others(folder)
        check_run_config(record, config)
        merged = compose_resumed(config, overrides, record)
        check_unfinished(record, merged)
        if config_hash(merged) != config_hash(record.config):
            check_place(record, merged)
    # As many threads as before where there are cores: the last bits of sums depend on it.
    number: Any = record.metadata.get("num_threads")
    is_possible = type(number) is int and 1 <= number <= (os.cpu_count() or 1)
    if is_possible and "trainer.devices" not in map(setting_name, overrides):
        torch.set_num_threads(number)
    return record


def check_links_of_others(folder: Path) -> None:
    """Raise UserError where what Lightning and callbacks write as well would leave the folder.

    The links deeper down that a logger makes are its own.
    """
    places = (folder.rglob(name) for name in ("hparams*.yaml", "metrics*.csv"))
    for path in filter(Path.is_symlink, chain(folder.iterdir(), *places)):
        if not os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep):
            raise UserError(f"{path}: a link that leads out of the run's folder; delete it")
    log_file = folder / "train.log"  # appended to, by its name alone
    if log_file.is_file() and log_file.stat().st_nlink > 1:
        with storage.atomic_write(log_file) as temporary:
            shutil.copyfile(log_file, temporary)


def check_place(record: Record, config: Config) -> None:
    """Raise UserError unless a run's last checkpoint lies before the end that `config` sets."""
    last = record.checkpoint_path("last")
    if not last.exists():
        return
    step, content = read_step(last), load_checkpoint(last)
    place = content["ImageDataModule"]
    num_epochs = place["epoch"]
    is_finished = record.metadata["status"] == "finished"
    for name, whole, begun in (
        ("max_epochs", num_epochs, num_epochs + (place["batch"] > 0)),
        ("max_steps", step, step),
    ):
        limit = config["trainer"].get(name, -1)
        if 0 < limit < begun or (is_finished and limit == whole):
            raise UserError(
                f"trainer.{name}={limit}: this run is at {begun} {name.removeprefix('max_')} "
                "already; give more to go on"
            )
    check_schedule_goes_on(content, config)
    if content.get("should_stop"):
        raise UserError(
            f"{record.folder}: a callback or trainer.max_time ended it after {num_epochs} "
            "epochs,\nand would with any trainer.max_epochs; start a new run with other settings"
        )


def check_schedule_goes_on(content: dict[str, Any], config: Config) -> None:
    """Raise UserError where a scheduler of one's own takes fewer steps than are to come.

    So does torch's OneCycleLR; of a word the length is that of the training.
    """
    schedule, trainer = config["optim"]["schedule"], config["trainer"]
    last = content["lr_schedulers"][0].get("total_steps")
    if isinstance(schedule, str) or type(last) is not int:
        return
    place, interval = content["ImageDataModule"], schedule.get("interval", "epoch")
    per_epoch = 1
    if interval == "step":
        per_epoch = content["global_step"] // max(1, place["epoch"] + (place["batch"] > 0))
    ends = [trainer["max_epochs"] * per_epoch]
    ends += [trainer.get("max_steps", -1)] if interval == "step" else []
    needed = min((end for end in ends if end > 0), default=0)
    if needed > last:
        name = schedule["_target_"].rpartition(".")[2]
        raise UserError(
            f"optim.schedule={name}: has {last} {interval}s, {needed} are asked for, and its "
            "settings stay as they are\n"
            f"its run can go on for {last // per_epoch} epochs in all, or a new one start from its "
            "weights: model.weights=<its folder>"
        )


def check_same_data(record: Record, metadata: dict[str, Any]) -> None:
    """Raise UserError where the images are no longer those that the run began with."""
    for name in ("classes", "split_hash", "test_hash"):
        before = record.metadata.get(name)
        if before is not None and before != storage.replace_non_finite(metadata[name]):
            raise UserError(
                f"{record.folder}: the images have changed since the run began\n"
                f"{describe_change(record.metadata, metadata)}\n"
                "give it those of then, or start a new run"
            )


def prepare_resumed_run(
    record: Record,
    config: Config,
    metadata: dict[str, Any],
    data: ImageDataModule,
    trainer: pl.Trainer,
) -> None:
    """Check a resumed run's data, and make it ready for more epochs than it began with, or fewer.

    What belongs to its weights of before is set aside; `history` in `run.json` keeps the scores.
    """
    check_same_data(record, metadata)
    trainer.strategy.checkpoint_io = ResumedCheckpointIO()
    if (new := config_hash(config)) != record.metadata["config_hash"]:
        before = record.config["trainer"]
        names = ("config_hash", "status", "num_epochs", "best_epoch", "finished_at", "metrics")
        entry = {name: record.metadata.get(name) for name in names}
        entry |= {name: before.get(name) for name in ("max_epochs", "max_steps")}
        log.info("%s", describe_extension(record, config))
        if entry["status"] == "finished" and ranks.get_rank() == 0:
            truncate_to_checkpoint(record)
            entry["results"] = set_aside_results(record)
        typed = [record.metadata.get("command"), os.environ.get("TRIPTYCH_COMMAND")]
        record.update(
            command=" && ".join(map(str, filter(None, typed))),
            **dict.fromkeys(("num_epochs", "best_epoch"), None),
            **{"status": "running", "metrics": {}, "config_hash": new},
            history=[*read_history(record), entry],
            group_hash=config_hash(config, less=("seed",)),
        )
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    stretches = isinstance(config["optim"]["schedule"], str)
    extended = [NewSchedule(stretches)] if read_history(record) else []
    callbacks[:0] = [CheckedState(), *extended]
    if ranks.get_rank() == 0:
        record_changed_code(record, config)
        drop_foreign_validation(record, data.classes, data.val.index.numpy())


def drop_foreign_validation(
    record: Record, classes: Sequence[str], index: NDArray[np.int64]
) -> None:
    """Delete predictions in validation that are not of these classes and places: edited since."""
    path = record.folder / "predictions" / "val.npz"
    with suppress(UserError):
        task = record.metadata.get("task")
        val = read_validation(record.folder, len(classes), task) if path.exists() else None
        if val is None or np.array_equal(val.index, index):
            return
    log.warning("%s: not what this run wrote, deleted", path)
    record.drop_predictions("val")


def record_changed_code(record: Record, config: Config) -> None:
    """Say where the code has changed since the run began: it is a run of neither then."""
    before = record.metadata.get("code")
    if not isinstance(before, dict):
        log.warning("the code that this run began with is not recorded")
        return
    merged = merge_hashes(before, hash_code(config))
    if changed := find_changed(before, merged):
        log.warning("the code has changed since this run began: %s", ", ".join(changed))
        record.update(code=merged)


def describe_extension(record: Record, config: Config) -> str:
    now, before = config["trainer"], record.config["trainer"]
    changed = [name for name in ("max_epochs", "max_steps") if now.get(name) != before.get(name)]
    lines = [f"trainer.{name}: {before.get(name, -1)} before, now {now[name]}" for name in changed]
    schedule = config["optim"]["schedule"]
    if isinstance(schedule, dict):
        name = schedule["_target_"].rpartition(".")[2]
        lines += [f"optim.schedule={name}: goes on with its own settings, also if they say an end"]
    elif schedule != "constant":
        lines += [
            f"optim.schedule={schedule}: from here on the rate is that of a training of this "
            "length,\nso the result is not that of one that began with it"
        ]
    if record.metadata["status"] == "finished":
        lines += ["the test set is scored again; the scores of before stay in run.json (history)"]
    return "\n".join(lines)


def set_aside_results(record: Record) -> str:
    """Move what belongs to the weights of before to a folder below the run's; its name there."""
    folder = record.folder
    place = storage.make_folder(folder / "earlier", f"{record.metadata.get('num_epochs')}_epochs")
    paths = [path for pattern in OF_THE_WEIGHTS for path in sorted(folder.glob(pattern))]
    for path in paths:
        target = place / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    names = [path.name for path in paths if path.parent == folder]
    log.info("results of the weights before, now in %s: %s", place, ", ".join(names) or "test")
    return str(place.relative_to(folder))


class ResumedCheckpointIO(AtomicCheckpointIO):
    """Removes files alone, and only those of a plain path: a checkpoint to resume from may name any
    address as one of before, which Lightning removes wherever it lies if it has a protocol."""

    def remove_checkpoint(self, path: str | Path) -> None:
        if not ("::" in str(path) or "://" in str(path) or ".." in Path(path).parts):
            Path(path).unlink(missing_ok=True)


class CheckedState(pl.Callback):
    """Refuses tensors of an optimizer that are shorter than its parameters: torch's fused kernels
    would read and write beyond them, as they take their lengths for granted."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        states = [each.state for each in trainer.optimizers]
        parts = [part for group in groups if group.get("fused") for part in group["params"]]
        for part, state in ((part, state.get(part, {})) for part in parts for state in states):
            for name, value in state.items():
                least = 1 if name == "step" else part.numel()
                if isinstance(value, torch.Tensor) and count_in_memory(value) < least:
                    raise ValueError(f"the optimizer's {name} is too short, {[*value.shape]}")


def count_in_memory(tensor: torch.Tensor) -> int:
    """The numbers between a tensor's first and last in memory, both included."""
    if not tensor.numel():
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


class NewSchedule(pl.Callback):
    """Takes the length of a schedule from the settings, not from the checkpoint, if it `stretches`.

    Those of `optim` say for every step what its rate is; a scheduler of one's own goes on as it is.
    """

    def __init__(self, stretches: bool) -> None:
        self.stretches = stretches
        self.is_late = False  # there was a step before

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        reopen_epoch(checkpoint)
        self.is_late = self.stretches and checkpoint["global_step"] > 0
        for state in checkpoint["lr_schedulers"] if self.is_late else ():
            state.pop("total_steps", None)  # of OneCycleLR
            state.pop("_schedule_phases", None)
            state["last_epoch"] -= 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # The checkpoint holds the next step's rate, by the schedule of before.
        for each in trainer.lr_scheduler_configs if self.is_late else ():
            scheduler: Any = each.scheduler
            scheduler.step()
            scheduler._step_count -= 1  # of its own calls: at the first it warns


def reopen_epoch(checkpoint: dict[str, Any]) -> None:
    """Make an epoch that `trainer.max_steps` has cut short one that has not ended, to go on in."""
    if checkpoint["ImageDataModule"]["batch"] > 0:
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts["processed"] = counts["completed"] = counts["started"] - 1


def truncate_to_checkpoint(record: Record) -> None:
    """Remove what the run wrote after its last checkpoint: it will be done again.

    Raises UserError where the checkpoint cannot be read, or the folder cannot be written to.
    """
    last, folder = record.checkpoint_path("last"), record.folder
    try:
        step = read_step(last) if last.exists() else -1
    except UserError as error:
        raise UserError(
            f"{error}\ndelete it, and resume: the run starts from its beginning"
        ) from error
    with storage.translate_write_errors(str(folder)):
        # Lightning saves a checkpoint of its own when it has SLURM requeue a job: `last` is newer.
        own = {*find_own_files(folder)}  # beside it, a logger may keep its own
        temporary = own.intersection(find_temporary_files(folder))
        for path in [*temporary, *folder.glob("hpc_ckpt_*.ckpt")]:
            path.unlink()
        truncate_metrics(folder / "metrics.csv", step, record.metric_columns)
        for path in folder.glob("*/**/metrics.csv"):  # of Lightning's CSVLogger
            truncate_metrics(path, step)
        events = folder.rglob("events.out.tfevents.*")  # other loggers may write some
        for place in sorted({path.parent for path in events}):
            truncate_events(place, step)


def read_step(path: Path) -> int:
    """The step that `last.ckpt` was saved at; raises UserError where it is not whole."""
    for each in path.parent.glob("*.ckpt"):  # best.ckpt is loaded at the end
        check_checkpoint(each)
    content = load_checkpoint(path)
    try:
        place, progress = content["ImageDataModule"], content["loops"]["fit_loop"]
        recorded = content["callbacks"]["RunRecorder"]
        best = content["callbacks"]["CheckpointCallback"]
        counts = [content["global_step"], place["epoch"], place["batch"], best["epoch"]]
        counts.append(progress["epoch_loop.batch_progress"]["current"]["ready"])
        counts += [recorded["num_images"], recorded["num_epochs"]]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("no place in the training")
        measured = [recorded["train_seconds"], *best["metrics"].values(), *content["epoch_loss"]]
        if not all(type(n) in (int, float) for n in measured):
            raise ValueError("no account of the training")
        if len(content["optimizer_states"]) != 1 or len(content["lr_schedulers"]) != 1:
            raise ValueError("no optimizer, or no schedule")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no checkpoint of a training") from error
    return int(content["global_step"])


def truncate_metrics(path: Path, step: int, columns: Sequence[str] | None = None) -> None:
    """Keep the lines up to a step, without those of the test and half a line of a killed run.

    `columns` are by default the file's own, if `step` is one of them. Raises UserError at what is
    no CSV.
    """
    if path.is_symlink() or not path.is_file():
        return
    with path.open(newline="", errors="replace") as file:
        try:
            reader = csv.DictReader(file)
            names = columns or reader.fieldnames or []
            if "step" not in names:
                return
            with storage.atomic_write(path) as temporary, temporary.open("w", newline="") as new:
                writer = csv.DictWriter(new, names, extrasaction="ignore")
                writer.writeheader()
                for row in filter(partial(is_before, step), reader):
                    writer.writerow({name: row[name] for name in row if is_number(row[name])})
        except csv.Error as error:
            raise UserError(f"{path}: cannot be read ({error}); delete it") from error


def is_before(step: int, row: dict[str, Any]) -> bool:
    """Whether a row of metrics is whole, of a step up to this one, and not of the test."""
    is_whole, number = None not in row.values(), row.get("step") or ""
    is_test = any(row[name] for name in row if str(name).startswith("test/"))
    return is_whole and not is_test and number.isdecimal() and float(number) <= step


def is_number(text: Any) -> bool:
    try:
        float(text)
        return True
    except (TypeError, ValueError):
        return False


def truncate_events(folder: Path, step: int) -> None:
    """Merge the event files into one, of every event up to a step, once; what is no plain file, or
    would fill memory, stays as it is."""
    paths = (p for p in folder.glob("events.out.tfevents.*") if p.is_file() and not p.is_symlink())
    files = sorted(path for path in paths if path.stat().st_size <= MAX_EVENT_BYTES)
    if not files:
        return
    merged = folder / "events.out.tfevents.0000000000.before"  # sorts before every later file
    with storage.atomic_write(merged) as path, path.open("wb") as file:
        writer = RecordWriter(file)
        events = (event for source in files for event in read_events(source, step))
        # A merge that was killed leaves events both in the merged file and in their own.
        for event in dict.fromkeys(events):
            writer.write(event)
    for path in files:
        if path != merged:
            path.unlink()


def read_events(path: Path, step: int) -> Iterator[bytes]:
    """The events of a file up to a step, without those of the test, and up to any damage."""
    with suppress(MemoryError, OverflowError, DecodeError):  # of a length that no event has
        for serialized in RawEventFileLoader(str(path)).Load():
            event: Any = Event.FromString(serialized)
            is_test = any(value.tag.startswith(TEST_TAGS) for value in event.summary.value)
            if 0 <= event.step <= step and not is_test:
                yield serialized


def resume_requeued_job(
    config: Config, overrides: list[str], started: Callable[[str], object]
) -> tuple[Config, list[str], Record | None]:
    """Config and overrides with the folder of the run to resume: the one that `resume=` names, or
    the one that `find_earlier` finds, if any. `minutes` begin to count, and are gone from both.

    The last is that run if it is finished, after a call of `started` with its folder.
    """
    has_budget = bool(config.get("minutes"))
    if has_budget:
        set_deadline(config["minutes"])
        config = config | {"minutes": None}  # not of the run: what resumes it has its own
    if config["resume"]:
        return config | {"resume": str(find_run(config["resume"]))}, overrides, None
    folder = ranks.broadcast_from_rank_zero(
        "requeued", lambda: find_earlier(config, has_budget=has_budget)
    )
    if not folder:
        return config, overrides, None
    run = Record.open(Path(folder))
    if run.metadata["status"] == "finished":
        for path in run.folder.glob("hpc_ckpt_*.ckpt"):  # saved while it was tested
            path.unlink(missing_ok=True)
        log.info("finished before: %s", folder)
        started(folder)
        return config, overrides, run
    log.info("goes on: %s", folder)
    return *resume_arguments(config, overrides, run.folder), None


def find_earlier(config: Config, *, has_budget: bool) -> str:
    """The folder of the run to go on with: the one that this job began, where SLURM or torchrun
    has started it again; with a budget, the newest that the same code has not seen fail."""
    if folder := os.environ.get(EARLIER):
        return folder
    entries: dict[str, Any] = {"slurm_job_id": os.environ.get("SLURM_JOB_ID", "")}
    if is_new := has_budget and not is_requeued():
        entries = {"code": hash_code(config)}
    find = partial(find_newest_run, Path(config["log_dir"]), config_hash=config_hash(config))
    run = find(**entries)
    if is_new and not run and (other := find()):
        log.info("%s is passed over, its code differs; resume= goes on with it", other.folder)
    is_over = is_new and run and run.metadata["status"] == "failed"
    return str(run.folder) if run and not is_over else ""
