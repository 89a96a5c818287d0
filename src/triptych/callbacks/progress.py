"""How far a run is and how long it takes, where there is no terminal; and what it came to."""

import logging
import shlex
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from triptych.callbacks.time_left import describe_left, find_clock
from triptych.config import Config
from triptych.runs.durations import format_duration
from triptych.runs.record import Record
from triptych.runs.storage import format_size

SILENCE_SECONDS = 8.0


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


def describe_end(record: Record, config: Config, *, has_groups: bool) -> str:
    """What a finished run came to, where it is, and what to type next."""
    from scipy.stats import binomtest  # torchmetrics has imported it

    of, metrics, scores = record.metadata, record.metadata["metrics"], []
    for name in ("accuracy", "ap", "f1", *of.get("more_metrics", ())):
        if (value := metrics.get(f"test/{name}")) is not None:
            share = f"{100 * value:.2f} %" if name in ("accuracy", "ap", "f1") else f"{value:.4f}"
            if name == "accuracy" and not has_groups:  # of independent images
                right = binomtest(round(value * of["num_test"]), of["num_test"])
                low, high = (100 * bound for bound in right.proportion_ci(method="wilson"))
                share += f" (95 % interval {low:.2f} to {high:.2f})"
            scores.append(f"{name} {share}")
    is_best = config["checkpoint"]["score"] == "best"
    epoch = f"the best by {of['monitor']}" if is_best else "the last"
    folder, place = (shlex.quote(str(path)) for path in (record.folder, record.folder.parents[2]))
    return (
        f"finished: {of.get('name') or of['model']} on {of['data']}, seed {of['seed']}, "
        f"in {format_duration(record.seconds_total)}\n"
        f"  test    {', '.join(scores)}\n"
        f"  epoch   {of['best_epoch']} of {of['num_epochs']}, {epoch}\n"
        f"  folder  {record.folder} ({format_size(record.folder)})\n"
        f"next:\n  python evaluate.py run={folder}\n  python compare.py runs={place}"
    )


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
