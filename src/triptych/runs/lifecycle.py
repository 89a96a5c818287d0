"""One run from the lock on its folder to its recorded end: status, message, exit code."""

import logging
import shlex
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from triptych.config import find_unknown_targets
from triptych.distributed import ranks
from triptych.errors import RunFailed, UserError, summarize_error
from triptych.runs.record import Record
from triptych.runs.stopping import exit_on_signal, signal_handlers
from triptych.runs.storage import lock_run

log = logging.getLogger(__name__)


@contextmanager
def run_lifecycle(record: Record, *, resumed: bool = False) -> Iterator[None]:
    """Hold the run's folder and log into it while the block lasts; record how the block ends.

    A resumed run that is refused before `record.begin` stays as it was, and a new one that is
    refused before it has learned anything leaves no folder. Raises UserError where
    another process is at work on the run, or has been since `record` was read.
    """
    is_writer = not isinstance(record, ranks.ReadOnlyRecord)
    with lock_run(record.folder) if is_writer else nullcontext():
        if is_writer and Record.open(record.folder).metadata != record.metadata:
            raise UserError(f"{record.folder}: another process has resumed this run meanwhile")
        # A finished run's results stay until more epochs begin: `resume.prepare_resumed_run`.
        if is_writer and resumed and record.metadata["status"] != "finished":
            from triptych.runs.resume import truncate_to_checkpoint

            truncate_to_checkpoint(record)
        ranks.broadcast_from_rank_zero("begun", str)  # until then, ranks above 0 wait
        with (
            record.log_to_file(),
            signal_handlers(exit_on_signal),
            record_status(record, resumed=resumed),
        ):
            yield


@contextmanager
def record_status(record: Record, *, resumed: bool) -> Iterator[None]:
    """Record how the block ends.

    Raises SystemExit with 1 where the run failed, 130 or 143 where it was interrupted, UserError
    where its input is at fault, and whatever else the block raised, which is a bug.
    """
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
        known = translate_error(error, record)
        is_writer = not isinstance(record, ranks.ReadOnlyRecord)
        if is_writer and not resumed and isinstance(known, UserError) and is_untrained(record):
            delete_run(record.folder)
        elif not resumed or record.metadata is not before:
            with suppress(OSError, UserError):
                record_failure(record.folder, str(known or f"{type(error).__name__}: {error}"))
        if isinstance(known, RunFailed):
            log.error("%s", known)
            raise SystemExit(1) from error
        if known is None or known is error:
            raise
        raise known from error


def is_untrained(record: Record) -> bool:
    """Whether there is nothing in a run's folder that training took time for."""
    return not any(record.checkpoint_path(name).exists() for name in ("best", "last"))


def delete_run(folder: Path) -> None:
    """Delete a run's folder, and those above it that are then empty, up to `log_dir`."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another run is there
        for parent in folder.parents[:3]:  # seed<k>, the model, the data
            parent.rmdir()


def record_failure(folder: Path, error: str) -> None:
    """Record why a run failed; where several ranks fail, the first one to record it counts."""
    record = Record.open(folder)
    status = record.metadata["status"]
    if status == "finished" or (status == "failed" and ranks.cluster_environment()):
        return
    (folder / "traceback.txt").write_text(traceback.format_exc())
    where = f"rank {ranks.get_rank()}: " if ranks.cluster_environment() else ""
    record.end("failed", error=where + error)


def resume_command(record: Record) -> str:
    command = ["python", "train.py", f"resume={record.folder}"]
    if targets := find_unknown_targets(record.config):
        command.append(f"trusted_targets=[{','.join(sorted(targets))}]")
    return shlex.join(command)


def translate_error(error: Exception, record: Record) -> UserError | RunFailed | None:
    """What went wrong and what to try; None where it is a bug."""
    text = str(error)  # all that tells some errors of torch and Lightning, which have no type
    if isinstance(error, UserError | RunFailed):
        return error
    if isinstance(error, torch.distributed.DistError) or "gloo/transport" in text:
        return RunFailed("another rank of this run has ended, so this one cannot go on")
    if isinstance(error, OSError):
        is_there = record.folder.is_dir()
        state = "what was written before is whole" if is_there else "the run's folder is gone"
        return RunFailed(f"{text}; {state}: {record.folder}")
    if type(error).__name__ == "TrainingSpikeException":
        return RunFailed(f"SpikeDetection: {text}")
    if is_out_of_memory(error):
        return RunFailed(suggest_less_memory(record))
    if "Expected more than 1 value per channel" in text:
        return UserError(
            "data.batch_size: BatchNorm cannot train on a single image; take 2 or more a device"
        )
    if isinstance(error, MisconfigurationException) or "Early stopping conditioned on" in text:
        return UserError(f"trainer: {summarize_error(error)}")
    return None


def suggest_less_memory(record: Record) -> str:
    batch_size = record.config["data"]["batch_size"]
    accumulated = record.config["trainer"].get("accumulate_grad_batches") or 1
    problem = f"out of memory at data.batch_size={batch_size}"
    if batch_size == 1:
        return f"{problem}; try a smaller model.input_size"
    return (
        f"{problem}; for about the same steps in less memory:\n"
        f"data.batch_size={batch_size // 2} trainer.accumulate_grad_batches={2 * accumulated}"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device's memory was full, for which torch's CPU allocator has no type of error."""
    return any(text in str(error) for text in ("out of memory", "DefaultCPUAllocator"))
