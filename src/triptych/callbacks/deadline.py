"""Whether a run has the time for its next piece of work, where its process has to end by a time."""

import time
from typing import Any

from triptych.callbacks.time_left import RunClock, count_batches, find_clock
from triptych.runs.stopping import OutOfTime

MARGIN = 1.25  # for what has to end in time


def has_time(clock: RunClock, seconds: float) -> bool:
    """Whether work of so many seconds, and what follows a stop, ends before the deadline."""
    needed = MARGIN * (seconds + clock.save_seconds) + clock.end_seconds
    return time.time() + needed <= clock.deadline


def has_time_for_step(clock: RunClock, trainer: Any) -> bool:
    """Whether there is time for the next step, and for the validation if one follows it: before
    that the run cannot be stopped. True at the end of the training."""
    if trainer.should_stop or clock.count_left(trainer)[0] <= 0:
        return True
    per_epoch, batches = trainer.num_training_batches, trainer.accumulate_grad_batches
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready % per_epoch
    seconds = batches * clock.seconds("train")
    every = trainer.val_check_batch
    is_validated = not every or (done + batches) // every > done // every
    if is_validated or done + batches >= per_epoch:
        seconds += count_batches(trainer, "val") * clock.val_seconds() + clock.seconds("pause")
    return has_time(clock, seconds)


def check_time_for_test(trainer: Any) -> None:
    """Raise OutOfTime where any rank has no time for the test; the last step is saved.

    Not where this process has trained nothing, so that a run comes to its end at last.
    """
    clock = find_clock(trainer)
    if clock is None:
        return
    seconds = count_batches(trainer, "test") * clock.val_seconds()
    has_time_here = "train" not in clock.pace.counts or has_time(clock, seconds)
    if not trainer.strategy.reduce_boolean_decision(has_time_here):
        raise OutOfTime(0)
