"""How a run ends: its status, what is said, the exit code."""

import logging
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from triptych import Refused
from triptych.journal import NotFinite
from triptych.record import Record

log = logging.getLogger(__name__)


@contextmanager
def status_kept(record: Record) -> Iterator[None]:
    """Record how a run ends; what a user can mend ends without a traceback on the screen."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        record.end("interrupted")
        folder = shlex.quote(str(record.folder))
        log.info("interrupted; to go on: python train.py resume=%s", folder)
        # Lightning makes exit code 1 of a KeyboardInterrupt.
        raise SystemExit(143 if stop.args == (143,) else 130) from None
    except Exception as error:
        (record.folder / "traceback.txt").write_text(traceback.format_exc())
        message = explained(error, record)
        record.end("failed", error=message or f"{type(error).__name__}: {error}")
        if message is None or isinstance(error, Refused):
            raise
        log.error("%s", message)
        raise SystemExit(1) from error


def explained(error: Exception, record: Record) -> str | None:
    """What went wrong and what to try, where it is not our own bug."""
    if isinstance(error, NotFinite | Refused):
        return str(error)
    if isinstance(error, OSError):
        return f"{error}; what was written before is whole: {record.folder}"
    said = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in said:
        batch_size = record.facts["batch_size"]
        return (
            f"out of memory at data.batch_size={batch_size}; for the same steps in less memory:\n"
            f"data.batch_size={max(1, batch_size // 2)} trainer.accumulate_grad_batches=2"
        )
    return None
