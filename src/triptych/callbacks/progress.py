"""How far a run is and how long it takes: a bar on a terminal, a line now and then elsewhere."""

import logging
import math
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, RichProgressBar

from triptych.runs.stopping import OutOfTime, read_deadline, read_start

if TYPE_CHECKING:
    from triptych.runs.record import Record

SILENCE_SECONDS = 8.0
HALF_LIFE = 300.0  # seconds after which what a unit took counts half: machines become slower
END_SHARE, MAX_END = 0.4, 10.0  # what ending takes, of the seconds that starting took


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
    """Sees how long a run's work takes; `callbacks.time_left` has what follows from it.

    Comes before other callbacks, so that what they do is a part of the next unit of work: `train`,
    `val` (also of the test), `features`, or the `pause` between two epochs.
    """

    def __init__(self, record: "Record") -> None:
        self.record, self.has_advised = record, False  # what would be quicker
        self.pace = Pace(time.monotonic())
        self.end_seconds = 1 + min(END_SHARE * (time.time() - read_start()), MAX_END)
        self.save_seconds = 0.0  # what the last checkpoint took
        self.deadline = read_deadline()
        self.val_done = 0  # batches of the present validation, or test

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pace.last = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "train" in self.pace.counts:
            self.pace.advance("pause", time.monotonic())

    def on_train_batch_end(self, *_: Any) -> None:
        self.pace.advance("train", time.monotonic())

    def on_validation_start(self, *_: Any) -> None:
        self.val_done = 0

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.val_done += 1
        if not trainer.sanity_checking:
            self.pace.advance("val", time.monotonic())

    def on_test_start(self, *_: Any) -> None:
        self.val_done, self.pace.last = 0, time.monotonic()

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.on_validation_batch_end(trainer)

    def has_time_for_step(self, trainer: pl.Trainer) -> bool:
        """Whether there is time until the run can be stopped again."""
        if self.deadline == math.inf:
            return True
        from triptych.callbacks import time_left

        return time_left.has_time_for_step(self, trainer)


def find_clock(trainer: Any) -> RunClock | None:
    """The clock of a run; None where there is none, as in a search."""
    return next((c for c in trainer.callbacks if isinstance(c, RunClock)), None)


def check_time_for_test(trainer: pl.Trainer) -> None:
    """Raise OutOfTime where any rank has no time for the test; the last step is saved."""
    clock = find_clock(trainer)
    if clock is None or clock.deadline == math.inf:
        return
    from triptych.callbacks import time_left

    has_time = time_left.has_time_for_test(clock, trainer)
    if not trainer.strategy.reduce_boolean_decision(has_time):
        raise OutOfTime(0)


def describe_left(trainer: pl.Trainer) -> str:
    """The time that a run has left, in words that continue a line; empty where nobody knows."""
    clock = find_clock(trainer)
    if clock is None or clock.pace.is_new():
        return ""
    from triptych.callbacks import time_left

    return time_left.describe(clock, trainer)


class ProgressBar(RichProgressBar):
    """Lightning's bar, counting epochs from 1 as everything else here does."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return text.ljust(len(self.validation_description))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        left = describe_left(trainer).removeprefix(", ")
        return {k: v for k, v in metrics.items() if k != "v_num"} | ({"run": left} if left else {})


class ProgressLines(Callback):
    """A line with the batch and the time left whenever nothing was printed for some seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def say(self, what: str, describe: Callable[[], str]) -> None:
        """Print what is under way; `describe` continues the line where it is printed."""
        if time.monotonic() - self.last >= SILENCE_SECONDS:
            self.last = time.monotonic()
            # Not to the log: it belongs to the moment.
            with suppress(OSError):  # where the output is a file, its disk may be full
                print(f"{what}{describe()}", flush=True)

    def _say(self, trainer: pl.Trainer, what: str, batch_idx: int, total: Any) -> None:
        self.say(
            f"{what}batch {batch_idx + 1} of {total}",
            lambda: describe_speed(trainer) + describe_left(trainer),
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.last = time.monotonic()  # the loss was printed
        epochs = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        total = trainer.num_training_batches
        self._say(trainer, f"epoch {trainer.current_epoch + 1}{epochs}, ", batch_idx, total)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        self._say(trainer, "validation ", batch_idx, sum(trainer.num_val_batches))

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        self._say(trainer, "test ", batch_idx, sum(trainer.num_test_batches))


def describe_speed(trainer: Any) -> str:
    """Training images a second of all devices, in words that continue a line."""
    clock = find_clock(trainer)
    seconds = clock.pace.seconds("train") if clock and trainer.training else None
    return f", {trainer.datamodule.batch_size / seconds:.3g} images/s" if seconds else ""


def is_of_callback(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's is a warning, or what a callback was asked to say."""
    said = ("Time limit reached", "Epoch ", "Swapping scheduler")
    return record.levelno >= logging.WARNING or str(record.msg).startswith(said)


def show_thread_error(error: threading.ExceptHookArgs) -> None:
    """As Python does; but what TensorBoard's thread cannot write, it raises in the run as well."""
    if type(error.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(error)


def silence_lightning() -> None:
    """Keep Lightning's advertisements and known false alarms off the screen; its warnings stay."""
    threading.excepthook = show_thread_error
    logging.getLogger("lightning").handlers.clear()
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("callbacks", "profilers", "utilities.rank_zero"):  # what a user asked them to say
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_of_callback)
    for message in (
        r".*LeafSpec.*is deprecated",  # Lightning 2.6 with torch 2.14, on Lightning's side
        ".*does not have many workers",  # batches are whole: workers would only cost
        ".*your dataloader is not resumable",  # the DataModule resumes it
        ".*in eval mode at the start of training",  # a frozen backbone is
        ".*recommended to use `self.log.*sync_dist",  # every rank has the whole split's scores
        ".*`srun` command is available",  # a cluster's machine, where not every command is a job
        ".*smaller than the logging interval",  # the loss is read at an epoch's end as well
    ):
        warnings.filterwarnings("ignore", message=message)
