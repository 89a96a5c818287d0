"""How long the rest of a run takes, to the end of its process, and whether it has that time."""

import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer

from triptych.runs.durations import END_FILE, PROGRESS_FILE, format_left
from triptych.runs.stopping import read_deadline, read_start

if TYPE_CHECKING:
    from triptych.runs.record import Record

log = logging.getLogger(__name__)
HALF_LIFE = 300.0  # seconds after which what a unit took counts half: machines become slower
END_SHARE, MAX_END = 0.4, 10.0  # what ending takes, of the seconds that starting took
REPORT_EVERY = 10.0  # seconds, at least
LONG = 3600.0  # seconds after which there is advice
# Epochs where trainer.max_time alone ends a training; seconds that end in no year of a calendar.
NO_END = 1e11
FORWARD_SHARE = 1 / 3  # of a training step, until a validation was seen: it is no backward pass


class Pace:
    """Seconds that a unit of each kind of work takes, by what was seen of it.

    The first of a kind, with compilers and empty caches, counts only until there is a second.
    """

    def __init__(self, now: float) -> None:
        self.last = now
        self.counts: dict[str, int] = {}
        self._seen: dict[str, tuple[float, float]] = {}  # units and seconds, less of older ones

    def advance(self, kind: str, now: float) -> None:
        """Note that a unit is done; it took the time since the last note."""
        seconds, self.last = now - self.last, now
        self.counts[kind] = self.counts.get(kind, 0) + 1
        units, total = self._seen.get(kind, (0.0, 0.0)) if self.counts[kind] > 2 else (0.0, 0.0)
        weight = 0.5 ** (seconds / HALF_LIFE)
        self._seen[kind] = (units * weight + 1, total * weight + seconds)

    def seconds(self, kind: str) -> float | None:
        """What a unit takes; None where none was seen."""
        units, total = self._seen.get(kind, (0.0, 0.0))
        return total / units if units else None

    def is_new(self) -> bool:
        """Whether nothing can be told yet: of no kind was there more than a slow first unit."""
        return max(self.counts.values(), default=0) < 3


class RunClock(Callback):
    """Sees how long a run's work takes, and says how long the rest will.

    Comes before other callbacks, so that what they do is a part of the next unit of work: `train`,
    `val` (also of the test), `features`, or the `pause` between an epoch, or a validation, and the
    next batch.
    """

    def __init__(self, record: "Record") -> None:
        self.record, self.has_advised = record, False  # what would be quicker
        self.pace = Pace(time.monotonic())
        self.end_seconds = 1 + min(END_SHARE * (time.time() - read_start()), MAX_END)
        self.save_seconds = 0.0  # what the last checkpoint took
        self.feature_seconds = 0.0  # what they take all together, which the next probe reads
        self.deadline, self.next_report = read_deadline(), 0.0
        self.val_done = 0  # batches of the present validation, or test
        self.is_paused = False

    def on_train_start(self, trainer: pl.Trainer, _: Any) -> None:
        self.pace.last = time.monotonic()
        self.end_seconds += 2.0 * (trainer.world_size > 1)  # they wait for each other

    def on_train_epoch_end(self, *_: Any) -> None:
        self.is_paused = True

    def on_train_batch_start(self, *_: Any) -> None:
        if self.is_paused:
            self.pace.advance("pause", time.monotonic())
            self.is_paused = False

    def on_train_batch_end(self, *_: Any) -> None:
        self.pace.advance("train", time.monotonic())

    def on_validation_start(self, trainer: pl.Trainer, _: Any) -> None:
        self.val_done = 0
        self.is_paused = not trainer.sanity_checking

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.val_done += 1
        if not trainer.sanity_checking:
            self.pace.advance("val", time.monotonic())

    def on_test_start(self, *_: Any) -> None:
        self.val_done, self.pace.last = 0, time.monotonic()

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.on_validation_batch_end(trainer)

    def estimate_left(self, trainer: Any) -> float | None:
        """Seconds until the run ends, with its test and process; None where nobody knows."""
        if self.pace.seconds("train") is None and self.pace.seconds("val") is None:
            return None
        left, val = 0.0, self.val_seconds()
        if not trainer.testing:
            num_train, num_val, num_epochs = self.count_left(trainer)
            pause = self.save_seconds
            if self.pace.counts.get("pause", 0) > 1:  # the first draws figures, which is slow
                pause = self.seconds("pause")
            num_pauses = max(num_epochs, num_val / max(1, count_batches(trainer, "val")))
            left = num_train * self.seconds("train") + num_val * val + math.ceil(num_pauses) * pause
            if "pause" not in self.pace.counts:  # the first figures take as long as much else
                left += self.end_seconds
            for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):
                left = min(left, timer.time_remaining() or left)
        num_test = count_batches(trainer, "test") - (self.val_done if trainer.testing else 0)
        left += num_test * val + self.end_seconds
        return left if left < NO_END else None

    def count_left(self, trainer: Any) -> tuple[float, float, float]:
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
        present = 0 if trainer.training else whole - self.val_done
        return left, num_val * whole + present, left / per_epoch

    def report_end(self, seconds: float) -> None:
        """Tell the sweep of this process, if any, when it ends, and what the next seed saves; and
        now and then `triptych runs`."""
        now, done = time.monotonic(), self.record.seconds_total
        if now > self.next_report:
            self.next_report = now + REPORT_EVERY
            with suppress(OSError):
                text = f"{time.time() + seconds} {done / (done + seconds)}"
                (self.record.folder / PROGRESS_FILE).write_text(text)
        if path := os.environ.get(END_FILE):
            with suppress(OSError):  # the disk is full, or the sweep is gone
                Path(path).write_text(f"{time.time() + seconds} {self.feature_seconds}")

    def seconds(self, kind: str) -> float:
        """What a unit takes; 0 where none was seen."""
        return self.pace.seconds(kind) or 0.0

    def val_seconds(self) -> float:
        """What a batch of a validation, or of the test, takes; 0 where nobody knows."""
        known = self.pace.seconds("val")
        return FORWARD_SHARE * self.seconds("train") if known is None else known


def find_clock(trainer: Any) -> RunClock | None:
    """The clock of a run; None where there is none, as in a search."""
    return next((c for c in trainer.callbacks if isinstance(c, RunClock)), None)


def describe_left(trainer: Any) -> str:
    """The time that a run has left, in words that continue a line; empty where nobody knows."""
    if (seconds := find_left(trainer)) is None:
        return ""
    may_stop = any(isinstance(c, EarlyStopping) for c in trainer.callbacks)
    return f", {format_left(seconds, 'at most' if may_stop else 'about')}"


def find_left(trainer: Any) -> float | None:
    """Seconds that a run has left, which its sweep is told; None where nobody knows."""
    clock = find_clock(trainer)
    seconds = None if clock is None or clock.pace.is_new() else clock.estimate_left(trainer)
    if clock is None or seconds is None:
        return None
    clock.report_end(seconds)
    if seconds > LONG and not clock.has_advised:
        clock.has_advised = True
        if trainer.strategy.root_device.type == "cpu" and trainer.is_global_zero:
            from triptych.callbacks.advice import advise

            log.info("%s", advise(clock.record, seconds))
    return seconds


def count_batches(trainer: Any, split: str) -> int:
    """Batches of a whole validation or test."""
    data, limit = trainer.datamodule, getattr(trainer, f"limit_{split}_batches")
    batches = math.ceil(len(getattr(data, split)) / data.batch_size)
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def count_validations(trainer: Any, batches: float) -> float:
    """How many validations there are in so many batches from the first."""
    per_epoch, every = trainer.num_training_batches, trainer.val_check_batch or math.inf
    if trainer.check_val_every_n_epoch is None:
        return float(batches // every)
    epochs, batch = divmod(batches, per_epoch)
    others, epoch = divmod(epochs, trainer.check_val_every_n_epoch)
    is_validated = epoch == trainer.check_val_every_n_epoch - 1
    return float(others * (per_epoch // every) + is_validated * (batch // every))
