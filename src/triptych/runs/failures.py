"""What becomes of a run that fails: what went wrong, what to try, what is left of its folder."""

import json
import logging
import os
import re
import shutil
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from triptych.distributed import ranks
from triptych.errors import RunFailed, UserError, summarize_error
from triptych.runs.record import Record
from triptych.runs.resume_request import resume_command
from triptych.runs.stopping import OutOfTime
from triptych.runs.storage import atomic_write

log = logging.getLogger(__name__)
# Of torch, of its CPU allocator, which has no type of error, and of cuBLAS and cuDNN.
NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED", "ALLOCATION_FAILED")


class LostRanks(RunFailed):
    """Ranks of this run have ended without a word, so it was interrupted."""

    def __init__(self, lost: list[int], record: Record) -> None:
        names = f"rank {', '.join(map(str, lost))} has" if lost else "another rank of this run has"
        reason = "ended, was killed or is on a machine that is gone"
        super().__init__(f"{names} {reason}\nto go on: {resume_command(record)}")


def end_interrupted(record: Record, stop: BaseException) -> SystemExit:
    """Record that a run was stopped; what its process ends with."""
    with suppress(OSError, UserError):  # the disk may be full, or the folder gone
        record_interruption(record, is_planned=isinstance(stop, OutOfTime))
    if isinstance(stop, OutOfTime):
        return stop
    # Lightning makes exit code 1 of a KeyboardInterrupt.
    return SystemExit(143 if stop.args == (143,) else 130)


def end_failed(
    record: Record, error: Exception, *, resumed: bool, is_untouched: bool
) -> BaseException:
    """Record why a run failed, unless it `is_untouched`; what to raise, the error if it is a bug.

    A new run that is refused before it has learned anything leaves no folder.
    """
    known = translate_error(error, record)
    is_refused = not resumed and isinstance(known, UserError) and ranks.get_rank() == 0
    if is_refused and is_untrained(record):
        delete_run(record.folder)
    elif not is_untouched:
        reason = str(known or f"{type(error).__name__}: {error}")
        with suppress(OSError, UserError):
            record_failure(record.folder, known, reason)
    if isinstance(known, RunFailed):
        log.error("%s\nfailed: %s", known, record.folder)
        return SystemExit(1)
    return known or error


def translate_error(error: Exception, record: Record) -> UserError | RunFailed | None:
    """What went wrong and what to try; None where it is a bug."""
    text = str(error)  # all that tells some errors of torch and Lightning, which have no type
    if isinstance(error, UserError | RunFailed):
        return error
    if isinstance(error, torch.distributed.DistError) or "gloo/transport" in text:
        from triptych.distributed.environment import find_lost_ranks

        return LostRanks(find_lost_ranks(), record)
    if isinstance(error, OSError):
        is_there = record.folder.is_dir()
        state = "what was written before is whole" if is_there else "the run's folder is gone"
        return RunFailed(f"{text}; {state}: {record.folder}")
    if type(error).__name__ == "TrainingSpikeException":
        return RunFailed(f"SpikeDetection: {text}")
    if is_out_of_memory(error):
        return RunFailed(suggest_less_memory(record))
    if isinstance(error, MisconfigurationException) or "Early stopping conditioned on" in text:
        return UserError(f"trainer: {summarize_error(error)}")
    return explain_step(text) or explain_workers(error, text)


def explain_step(text: str) -> UserError | None:
    """What to say where a layer cannot take such a step."""
    if "does not have a deterministic implementation" in text:
        return UserError(
            f"trainer.deterministic=true: {text.partition(',')[0]}\n"
            "trainer.deterministic=warn trains with it; such a run repeats to a few digits"
        )
    if "Expected more than 1 value per channel" in text:
        return UserError(
            "data.batch_size: BatchNorm cannot train on a single image; take 2 or more a device"
        )
    return None


def explain_workers(error: Exception, text: str) -> UserError | RunFailed | None:
    """What to say where a loader's workers could not start, or one ended."""
    share = "they share memory through /dev/shm; data.num_workers=0 needs none"
    if "iter(combined_loader)" in text:  # Lightning's, over what kept them from starting
        return UserError(f"data.num_workers: they cannot start ({error.__context__})\n{share}")
    if "DataLoader worker" in text or "shared memory" in text:
        return RunFailed(f"data.num_workers: {summarize_error(error)}\n{share}")
    return None


def suggest_less_memory(record: Record) -> str:
    batch_size = record.config["data"]["batch_size"]
    accumulated = record.config["trainer"].get("accumulate_grad_batches") or 1
    problem = f"out of memory at data.batch_size={batch_size}"
    if batch_size == 1:
        return f"{problem}; try a smaller model.input_size"
    return (
        f"{problem}; for about the same steps in less memory (trainer.on_oom=halve does so):\n"
        f"data.batch_size={batch_size // 2} trainer.accumulate_grad_batches={2 * accumulated}"
    )


def explain_start_error(error: Exception, checkpoint: Path | None) -> UserError | None:
    """What to say where the checkpoint, or a setting, was refused before the first step."""
    if isinstance(error, OSError | UserError | RunFailed) or is_out_of_memory(error):
        return None
    reason = summarize_error(error)
    if checkpoint:
        return UserError(f"{checkpoint}: of another run, or damaged ({reason})")
    is_refused = isinstance(error, ValueError | ImportError)
    return UserError(f"trainer: {reason}") if is_refused else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device's memory was full."""
    return any(text in str(error) for text in NO_MEMORY)


def is_untrained(record: Record) -> bool:
    """Whether there is nothing in a run's folder that training took time for."""
    return not any(record.checkpoint_path(name).exists() for name in ("best", "last"))


def delete_run(folder: Path) -> None:
    """Delete a run's folder, and those above it that are then empty, up to `log_dir`."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another run is there
        for parent in folder.parents[:3]:  # seed<k>, the model, the data
            parent.rmdir()


def record_failure(folder: Path, known: Exception | None, reason: str) -> None:
    """Record why a run failed; where several ranks fail, the first one to record it counts."""
    record = Record.open(folder)
    status = record.metadata["status"]
    if status == "finished" or (status != "running" and ranks.cluster_environment()):
        return
    if isinstance(known, LostRanks):
        end_run(record, "interrupted", error=reason.partition("\n")[0])
        return
    with suppress(OSError), atomic_write(folder / "traceback.txt") as path:  # of a full disk
        path.write_text(traceback.format_exc(), errors="backslashreplace")
    where = f"rank {ranks.get_rank()}: " if ranks.cluster_environment() else ""
    end_run(record, "failed", error=where + reason)


def record_interruption(record: Record, *, is_planned: bool) -> None:
    """Record that a run was stopped before it finished, and log the command that goes on: where
    its minutes are over, the same."""
    if record.metadata["status"] == "finished":
        return
    command, reason = resume_command(record), "interrupted"
    if is_planned:
        command, reason = os.environ.get("TRIPTYCH_COMMAND") or command, "its minutes are over"
    end_run(record, "interrupted", error=reason if is_planned else None)
    log.info("%s\nto go on: %s", reason, command)


def end_run(record: Record, status: str, **error: str | None) -> None:
    """Record how a run ended. On a full disk the record is written over, in fewer letters."""
    try:
        record.end(status, **error)
    except OSError:
        with (record.folder / "run.json").open("rb+") as file:
            num_bytes = len(file.read())
            cut = {name: text and text[:200] for name, text in error.items()}
            finished_at = datetime.now(UTC).isoformat(timespec="seconds")
            ended = record.metadata | {"status": status, "finished_at": finished_at} | cut
            text = json.dumps(ended, separators=(",", ":")).encode().ljust(num_bytes)
            if len(text) > num_bytes:
                raise
            file.seek(0)
            file.write(text)


def explain_state(error: Exception) -> UserError:
    """Why a checkpoint could not be loaded again, as pickle says it in several ways."""
    found = re.search(r"GLOBAL (\S+)|[Cc]an't pickle (.+)|cannot pickle (.+)", str(error))
    what = next(filter(None, found.groups())) if found else summarize_error(error)
    return UserError(
        f"a callback or the schedule keeps {what} in its state, so that the run could not be "
        "resumed\nkeep numbers, texts, tensors, and lists and dicts of these"
    )
