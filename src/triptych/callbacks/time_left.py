"""How long the rest of a run takes, to the end of its process, and whether it has that time."""

import math
import time
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, Timer

from triptych.runs.durations import format_left

if TYPE_CHECKING:
    from triptych.callbacks.progress import RunClock

MARGIN = 1.25  # for what has to end in time
NO_END = 1e12  # epochs where trainer.max_time alone ends a training, or a callback
FORWARD_SHARE = 1 / 3  # of a training step, until a validation was seen: it is no backward pass


def describe(clock: "RunClock", trainer: Any) -> str:
    """The time that is left, in words that continue a line; empty where it is not known."""
    seconds = estimate_left(clock, trainer)
    may_stop = any(isinstance(c, EarlyStopping) for c in trainer.callbacks)
    if seconds is None:
        return ""
    return f", {format_left(seconds, 'at most' if may_stop else 'about')}"


def estimate_left(clock: "RunClock", trainer: Any) -> float | None:
    """Seconds until the run ends, its test and its process included; None where nobody knows."""
    train, val = clock.pace.seconds("train"), val_seconds(clock)
    if val is None:
        return None
    left = 0.0
    if not trainer.testing:
        num_train, num_val, num_epochs = count_left(clock, trainer)
        has_paused = clock.pace.counts.get("pause", 0) > 1  # the first draws figures, which is slow
        pause = (clock.pace.seconds("pause") or 0.0) * has_paused
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
    per_epoch, every = trainer.num_training_batches, trainer.val_check_batch or math.inf
    batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    epochs = NO_END if trainer.max_epochs == -1 else trainer.max_epochs - trainer.current_epoch
    train = epochs * per_epoch - batch
    if trainer.max_steps > 0:
        steps_left = trainer.max_steps - trainer.global_step
        train = min(train, steps_left * trainer.accumulate_grad_batches)
    if trainer.check_val_every_n_epoch and every <= per_epoch:
        every = per_epoch / (per_epoch // every) * trainer.check_val_every_n_epoch
    done = trainer.current_epoch * per_epoch + batch
    before = max(0, done - trainer.training)  # the validation after this batch is still to come
    whole = count_batches(trainer, "val")
    num_val = (math.floor((done + train) / every) - math.floor(before / every)) * whole
    if not trainer.training:
        num_val += whole - clock.val_done
    return train, num_val, train / per_epoch


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
