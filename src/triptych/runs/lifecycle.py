"""One run from the lock on its folder to its recorded end: status, message, exit code."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from triptych.distributed import ranks
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.runs.stopping import SIGNALS, exit_on_signal, install_handlers, signal_handlers
from triptych.runs.storage import lock_run


@contextmanager
def run_lifecycle(record: Record, *, resumed: bool = False) -> Iterator[None]:
    """Hold the run's folder and log into it while the block lasts; record how the block ends.

    A resumed run that is refused before `record.begin` stays as it was, and a new one that is
    refused before it has learned anything leaves no folder. Raises UserError where
    another process is at work on the run, or has been since `record` was read.
    """
    is_writer = ranks.get_rank() == 0
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

    Raises SystemExit with 1 where the run failed, 130 or 143 where it was interrupted, OutOfTime
    where its minutes are over; UserError where its input is at fault, and whatever else the block
    raised, which is a bug.
    """
    before = record.metadata
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        install_handlers(signal.SIG_IGN, SIGNALS)  # as SLURM's, that follows when it requeues
        from triptych.runs.failures import end_interrupted

        raise end_interrupted(record, stop) from None
    except Exception as error:
        from triptych.runs.failures import end_failed

        is_untouched = resumed and record.metadata is before
        known = end_failed(record, error, resumed=resumed, is_untouched=is_untouched)
        if known is error:
            raise
        raise known from error
