"""How long the rest of a run takes, to the end of its process, and whether it has that time."""

import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, Timer

from triptych.runs.durations import END_FILE, format_left
from triptych.runs.stopping import OutOfTime

if TYPE_CHECKING:
    from triptych.callbacks.progress import RunClock

log = logging.getLogger(__name__)
LONG = 3600.0  # seconds after which there is advice
HEAD_STEP, HEAD_EPOCH = 0.002, 0.2  # seconds, for a probe: Lightning's own, and saving
MARGIN = 1.25  # for what has to end in time
# Epochs where trainer.max_time alone ends a training; seconds that end in no year of a calendar.
NO_END = 1e11
FORWARD_SHARE = 1 / 3  # of a training step, until a validation was seen: it is no backward pass


def describe(clock: "RunClock", trainer: Any) -> str:
    """The time that is left, in words that continue a line; empty where it is not known."""
    seconds = estimate_left(clock, trainer)
    may_stop = any(isinstance(c, EarlyStopping) for c in trainer.callbacks)
    if seconds is None:
        return ""
    report_end(seconds)
    if seconds > LONG and not clock.has_advised:
        clock.has_advised = True
        if trainer.strategy.root_device.type == "cpu" and trainer.is_global_zero:
            from triptych.callbacks.advice import advise

            log.info("%s", advise(clock.record, seconds))
    return f", {format_left(seconds, 'at most' if may_stop else 'about')}"


def report_end(seconds: float) -> None:
    """Tell the sweep that this process belongs to, if any, when it will end."""
    if path := os.environ.get(END_FILE):
        with suppress(OSError):  # the disk is full, or the sweep is gone
            Path(path).write_text(str(time.time() + seconds))


def estimate_left(clock: "RunClock", trainer: Any) -> float | None:
    """Seconds until the run ends, its test and its process included; None where nobody knows."""
    train, val = clock.pace.seconds("train"), val_seconds(clock)
    if val is None:
        return None
    left = 0.0
    if not trainer.testing:
        num_train, num_val, num_epochs = count_left(clock, trainer)
        pause = clock.save_seconds
        if clock.pace.counts.get("pause", 0) > 1:  # the first draws figures, which is slow
            pause = clock.pace.seconds("pause") or 0.0
        left = num_train * (train or 0.0) + num_val * val + math.ceil(num_epochs) * pause
        if "pause" not in clock.pace.counts:  # the first figures take as long as much else
            left += clock.end_seconds
        for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):
            left = min(left, timer.time_remaining() or left)
    num_test = count_batches(trainer, "test") - (clock.val_done if trainer.testing else 0)
    left += num_test * val + clock.end_seconds
    return left if left < NO_END else None


def val_seconds(clock: "RunClock") -> float | None:
    """What a batch of a validation, or of the test, takes."""
    known, train = clock.pace.seconds("val"), clock.pace.seconds("train")
    return known if known is not None or train is None else FORWARD_SHARE * train


def count_batches(trainer: Any, split: str) -> int:
    """Batches of a whole validation or test."""
    data, limit = trainer.datamodule, getattr(trainer, f"limit_{split}_batches")
    batches = math.ceil(len(getattr(data, split)) / data.batch_size)
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def count_left(clock: "RunClock", trainer: Any) -> tuple[float, float, float]:
    """Batches of training and of validation, and epochs, that a training has left."""
    per_epoch = trainer.num_training_batches
    batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    epochs = NO_END if trainer.max_epochs == -1 else trainer.max_epochs - trainer.current_epoch
    left = epochs * per_epoch - batch
    if trainer.max_steps > 0:
        a_step = trainer.accumulate_grad_batches
        left = min(left, (trainer.max_steps - trainer.global_step) * a_step - batch % a_step)
    done = trainer.current_epoch * per_epoch + batch
    before = max(0, done - trainer.training)  # the validation after this batch is still to come
    whole = count_batches(trainer, "val")
    num_val = count_validations(trainer, done + left) - count_validations(trainer, before)
    present = 0 if trainer.training else whole - clock.val_done
    return left, num_val * whole + present, left / per_epoch


def count_validations(trainer: Any, batches: float) -> float:
    """How many validations there are in so many batches from the first."""
    per_epoch, every = trainer.num_training_batches, trainer.val_check_batch or math.inf
    if trainer.check_val_every_n_epoch is None:
        return float(batches // every)
    epochs, batch = divmod(batches, per_epoch)
    others, epoch = divmod(epochs, trainer.check_val_every_n_epoch)
    is_validated = epoch == trainer.check_val_every_n_epoch - 1
    return float(others * (per_epoch // every) + is_validated * (batch // every))


def has_time(clock: "RunClock", seconds: float) -> bool:
    """Whether work of so many seconds, and what follows a stop, ends before the deadline."""
    needed = MARGIN * (seconds + clock.save_seconds) + clock.end_seconds
    return time.time() + needed <= clock.deadline


def has_time_for_step(clock: "RunClock", trainer: Any) -> bool:
    """Whether there is time for the next step, and for the validation if one follows it: before
    that the run cannot be stopped. True at the end of the training."""
    if trainer.should_stop or count_left(clock, trainer)[0] <= 0:
        return True
    per_epoch, batches = trainer.num_training_batches, trainer.accumulate_grad_batches
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready % per_epoch
    seconds = batches * (clock.pace.seconds("train") or 0.0)
    every = trainer.val_check_batch
    is_validated = not every or (done + batches) // every > done // every
    if is_validated or done + batches >= per_epoch:
        seconds += count_batches(trainer, "val") * (val_seconds(clock) or 0.0)
        seconds += clock.pace.seconds("pause") or 0.0
    return has_time(clock, seconds)


def has_time_for_test(clock: "RunClock", trainer: pl.Trainer) -> bool:
    """Whether there is time for the test; True where this process has trained nothing, so that a
    run comes to its end at last."""
    if "train" not in clock.pace.counts:
        return True
    seconds = count_batches(trainer, "test") * (val_seconds(clock) or 0.0)
    return has_time(clock, seconds)


def note_features(clock: "RunClock", trainer: Any, num_left: int, *, may_stop: bool) -> str:
    """Note that a batch of features was computed, of which so many are left; the time that is left
    with the training of the head, in words that continue a line.

    Raises OutOfTime where there is no time for the next, if it `may_stop`.
    """
    clock.pace.advance("features", time.monotonic())
    each = clock.pace.seconds("features") or 0.0
    if may_stop and not has_time(clock, each):
        raise OutOfTime(0)
    steps = max(trainer.max_epochs or 0, 0) * count_batches(trainer, "train")
    if trainer.max_steps > 0:
        steps = trainer.max_steps
    head = HEAD_STEP * steps + HEAD_EPOCH * steps / max(1, count_batches(trainer, "train"))
    seconds = num_left * each + head + clock.end_seconds
    if clock.pace.is_new():
        return ""
    report_end(seconds)
    return f", {format_left(seconds)}"
