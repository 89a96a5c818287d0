"""How a run ends: its status, what is said, the exit code."""

import logging
import re
import shlex
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from triptych.callbacks.recorder import NotFinite
from triptych.config import Config
from triptych.distributed.ranks import (
    ReadOnlyRecord,
    broadcast_from_rank_zero,
    cluster_environment,
    rank,
)
from triptych.errors import UserError, summarize_error
from triptych.runs.record import Record
from triptych.runs.resume import truncate_to_checkpoint
from triptych.runs.stopping import exit_on_signal, signal_handlers
from triptych.runs.storage import lock_run
from triptych.runs.trust import find_unknown_targets

log = logging.getLogger(__name__)
ALLOCATOR = "DefaultCPUAllocator"  # what torch says where a CPU's memory is full


@contextmanager
def run_lifecycle(record: Record, *, resumed: bool = False) -> Iterator[None]:
    """Hold the run folder while the block lasts, and record in it how that ended.

    A run that is `resumed`, but refused before `record.begin`, stays as it was.

    Raises UserError where another process is at work on the run, or was since it was looked at.
    """
    with nullcontext() if isinstance(record, ReadOnlyRecord) else lock_run(record.folder):
        broadcast_from_rank_zero("begun", lambda: prepare_folder(record))
        with ExitStack() as stack:
            with check_writes(record.folder):
                stack.enter_context(record.log_kept())
            stack.enter_context(signal_handlers(exit_on_signal))
            stack.enter_context(record_status(record, resumed=resumed))
            yield


def prepare_folder(record: Record) -> str:
    """Take back what a resumed run did after its last checkpoint; empty, for there is no result."""
    if Record.open(record.folder).metadata != record.metadata:
        raise UserError(f"{record.folder}: another process has resumed this run meanwhile")
    with check_writes(record.folder):
        truncate_to_checkpoint(record)
    return ""


@contextmanager
def check_writes(folder: Path) -> Iterator[None]:
    """Raise UserError where the block cannot write into a run folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error})") from error


@contextmanager
def record_status(record: Record, *, resumed: bool = False) -> Iterator[None]:
    """Record how a run ends; what a user can mend ends without a traceback on the screen."""
    before = record.metadata
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        if record.metadata["status"] != "finished":
            with suppress(OSError, UserError):  # the disk may be full, or the folder gone
                record.end("interrupted")
                log.info("interrupted; to go on: %s", resume_command(record))
        # Lightning makes exit code 1 of a KeyboardInterrupt.
        raise SystemExit(143 if stop.args == (143,) else 130) from None
    except Exception as error:
        message = explain_error(error, record)
        if not resumed or record.metadata is not before:
            with suppress(OSError, UserError):
                record_failure(record.folder, message or f"{type(error).__name__}: {error}")
        if message is None:
            raise
        is_input = isinstance(error, UserError | ValueError)
        if is_input or comes_from_lightning(error) or comes_from_restoring(error):
            raise UserError(message) from error
        log.error("%s", message)
        raise SystemExit(1) from error


def record_failure(folder: Path, error: str) -> None:
    """Record why a run failed; where several ranks fail, the first to do so tells."""
    record = Record.open(folder)
    told = ("finished", "failed") if cluster_environment() else ("finished",)
    if record.metadata["status"] not in told:
        (folder / "traceback.txt").write_text(traceback.format_exc())
        where = f"rank {rank()}: " if cluster_environment() else ""
        record.end("failed", error=where + error)


def resume_command(record: Record) -> str:
    folder = str(record.folder)
    if not re.fullmatch(r"[\w/.@+-]+", folder, re.ASCII):  # what Hydra reads without quotes
        folder = "'" + folder.replace("'", "\\'") + "'"
    command = ["python", "train.py", f"resume={folder}"]
    foreign = find_unknown_targets(record.config)
    if foreign:
        command.append(f"trusted_targets=[{','.join(sorted(foreign))}]")
    return shlex.join(command)


def explain_error(error: Exception, record: Record) -> str | None:
    """What went wrong and what to try, where it is not our own bug."""
    said = str(error)
    if isinstance(error, NotFinite | UserError):
        return said
    if isinstance(error, torch.distributed.DistError) or "gloo/transport" in said:
        return "another rank of this run has ended, so this one cannot go on"
    if isinstance(error, OSError):
        is_there = record.folder.is_dir()
        what = "what was written before is whole" if is_there else "the run's folder is gone"
        return f"{said}; {what}: {record.folder}"
    if comes_from_restoring(error):
        last = record.checkpoint_path("last")
        return f"{last}: of another run, or damaged ({summarize_error(error)})"
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or ALLOCATOR in said:
        return less_memory(record.config)
    if "Expected more than 1 value per channel" in said:
        return "data.batch_size: BatchNorm cannot train on a single image; take 2 or more a device"
    return f"trainer: {summarize_error(error)}" if comes_from_lightning(error) else None


def less_memory(config: Config) -> str:
    """Settings of the same optimizer steps in less memory."""
    batch_size = config["data"]["batch_size"]
    accumulated = config["trainer"].get("accumulate_grad_batches") or 1
    head = f"out of memory at data.batch_size={batch_size}"
    if batch_size == 1:
        return f"{head}; try a smaller model.input_size"
    return (
        f"{head}; for about the same steps in less memory:\n"
        f"data.batch_size={batch_size // 2} trainer.accumulate_grad_batches={2 * accumulated}"
    )


def comes_from_restoring(error: Exception) -> bool:
    """Whether a checkpoint could be read, but did not fit the run."""
    if isinstance(error, OSError):  # what it holds could not be written
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return any("checkpoint" in Path(f.filename).name and "restore" in f.name for f in frames)


def comes_from_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised the error: over an argument of its Trainer."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    is_about_input = isinstance(error, MisconfigurationException | ValueError | RuntimeError)
    return is_about_input and "lightning" in Path(raised_in).parts
