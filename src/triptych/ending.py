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

from triptych import Refused
from triptych.config import Config
from triptych.journal import NotFinite
from triptych.lock import hold
from triptych.model.weights import first_line
from triptych.ranks import Follower, environment, hear, rank, tell
from triptych.record import Record
from triptych.resume import cut_back
from triptych.stopping import handled, stop_at_once
from triptych.trust import foreign_targets

log = logging.getLogger(__name__)
ALLOCATOR = "DefaultCPUAllocator"  # what torch says where a CPU's memory is full


@contextmanager
def kept(record: Record, *, resumed: bool = False) -> Iterator[None]:
    """Hold the run folder while the block lasts, and record in it how that ended.

    A run that is `resumed`, but refused before `record.begin`, stays as it was.

    Raises Refused where another process is at work on the run, or was since it was looked at.
    """
    with nullcontext() if isinstance(record, Follower) else hold(record.folder):
        if isinstance(record, Follower):
            hear("begun")
        elif Record.open(record.folder).facts != record.facts:
            raise Refused(f"{record.folder}: another process has resumed this run meanwhile")
        else:
            with writable(record.folder):
                cut_back(record)
            tell("begun")
        with ExitStack() as stack:
            with writable(record.folder):
                stack.enter_context(record.log_kept())
            stack.enter_context(handled(stop_at_once))
            stack.enter_context(status_kept(record, resumed=resumed))
            yield


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raise Refused where the block cannot write into a run folder."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{folder}: cannot be written to ({error})") from error


@contextmanager
def status_kept(record: Record, *, resumed: bool = False) -> Iterator[None]:
    """Record how a run ends; what a user can mend ends without a traceback on the screen."""
    before = record.facts
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        if record.facts["status"] != "finished":
            with suppress(OSError, Refused):  # the disk may be full, or the folder gone
                record.end("interrupted")
                log.info("interrupted; to go on: %s", resume_command(record))
        # Lightning makes exit code 1 of a KeyboardInterrupt.
        raise SystemExit(143 if stop.args == (143,) else 130) from None
    except Exception as error:
        message = explained(error, record)
        if not resumed or record.facts is not before:
            with suppress(OSError, Refused):
                tell_failure(record.folder, message or f"{type(error).__name__}: {error}")
        if message is None:
            raise
        is_input = isinstance(error, Refused | ValueError)
        if is_input or comes_from_lightning(error) or comes_from_restoring(error):
            raise Refused(message) from error
        log.error("%s", message)
        raise SystemExit(1) from error


def tell_failure(folder: Path, error: str) -> None:
    """Record why a run failed; where several ranks fail, the first to do so tells."""
    record = Record.open(folder)
    told = ("finished", "failed") if environment() else ("finished",)
    if record.facts["status"] not in told:
        (folder / "traceback.txt").write_text(traceback.format_exc())
        where = f"rank {rank()}: " if environment() else ""
        record.end("failed", error=where + error)


def resume_command(record: Record) -> str:
    folder = str(record.folder)
    if not re.fullmatch(r"[\w/.@+-]+", folder, re.ASCII):  # what Hydra reads without quotes
        folder = "'" + folder.replace("'", "\\'") + "'"
    command = ["python", "train.py", f"resume={folder}"]
    foreign = foreign_targets(record.config)
    if foreign:
        command.append(f"trusted_targets=[{','.join(sorted(foreign))}]")
    return shlex.join(command)


def explained(error: Exception, record: Record) -> str | None:
    """What went wrong and what to try, where it is not our own bug."""
    said = str(error)
    if isinstance(error, NotFinite | Refused):
        return said
    if isinstance(error, torch.distributed.DistError) or "gloo/transport" in said:
        return "another rank of this run has ended, so this one cannot go on"
    if isinstance(error, OSError):
        is_there = record.folder.is_dir()
        what = "what was written before is whole" if is_there else "the run's folder is gone"
        return f"{said}; {what}: {record.folder}"
    if comes_from_restoring(error):
        last = record.checkpoint_path("last")
        return f"{last}: of another run, or damaged ({first_line(error)})"
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or ALLOCATOR in said:
        return less_memory(record.config)
    if "Expected more than 1 value per channel" in said:
        return "data.batch_size: BatchNorm cannot train on a single image; take 2 or more a device"
    return f"trainer: {first_line(error)}" if comes_from_lightning(error) else None


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
