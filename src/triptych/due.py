"""When a checkpoint is due within an epoch: after steps, after minutes, or before a stop."""

import logging
import signal
import time
from types import FrameType

import lightning.pytorch as pl
import torch

from triptych.stopping import SIGNALS, Handler, exit_code, handle, lightning_requeues

log = logging.getLogger(__name__)
AGREE_SECONDS = 1.0  # between two questions of the ranks to each other: each waits for all
ONE_REQUEST_SECONDS = 1.0  # torchrun repeats a Ctrl-C that the terminal has sent already


def accumulates(trainer: pl.Trainer) -> bool:
    """Whether gradients wait for further batches: an optimizer step is under way."""
    within: bool = trainer.fit_loop.epoch_loop._should_accumulate()
    return within and not trainer.testing


def step_of(trainer: pl.Trainer) -> int:
    """The step that something is logged at: one under way counts, for no checkpoint has it yet."""
    return trainer.global_step + accumulates(trainer)


class Due:
    """Asked after every optimizer step, by all ranks alike, for they agree on the answer.

    Steps they can count; of minutes and signals they tell each other about once a second.
    """

    def __init__(self, every_n_steps: int | None, every_minutes: float | None) -> None:
        self.every_n_steps = every_n_steps
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.saved_at = time.monotonic()
        self.is_owed = False  # after a validation that could not be saved within a step
        self.stopped_by: int | None = None
        self.stopped_at = 0.0
        self.requeue: Handler | None = None  # Lightning's answer to SIGUSR1
        self.asked_at, self.asked_step = self.saved_at, 0
        self.num_steps = 1  # from one question to the next, the same on every rank

    def listen(self) -> None:
        """Let the first signal wait for the checkpoint after the present step.

        To be called when Lightning has installed its own handlers: it restores what was before
        them after training. Where it would requeue the job at SIGUSR1, in the middle of whatever
        goes on, that waits for the checkpoint, too.
        """
        before = handle(self._stop, SIGNALS)
        self.requeue = before[signal.SIGUSR1] if lightning_requeues() else None

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.stopped_by is not None:
            if time.monotonic() - self.stopped_at > ONE_REQUEST_SECONDS:
                raise SystemExit(exit_code(number))
            return
        self.stopped_by, self.stopped_at = number, time.monotonic()
        log.info("stopping after this batch; once more to stop at once, without saving")

    def now(self, trainer: pl.Trainer) -> bool:
        """Whether to save a checkpoint at this step."""
        if self.is_owed:
            return True
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        seconds = time.monotonic() - self.saved_at
        is_late = self.every_seconds is not None and seconds >= self.every_seconds
        is_due = is_late or self.stopped_by is not None
        return is_due if trainer.world_size == 1 else self._agreed_now(trainer, is_due)

    def saved(self, trainer: pl.Trainer) -> None:
        """Note that a checkpoint was saved; raises SystemExit where a signal asked to stop."""
        self.saved_at, self.is_owed = time.monotonic(), False
        if self._agreed(trainer, self.stopped_by is not None):
            if self._agreed(trainer, self.stopped_by == signal.SIGUSR1) and callable(self.requeue):
                self.requeue(signal.SIGUSR1, None)
            raise SystemExit(exit_code(self.stopped_by or 0))

    def _agreed(self, trainer: pl.Trainer, here: bool) -> bool:
        """Whether it holds on any rank: all of them take part in saving."""
        agreed: bool = trainer.strategy.reduce_boolean_decision(here, all=False)
        return agreed

    def _agreed_now(self, trainer: pl.Trainer, here: bool) -> bool:
        """`_agreed`, but about once in `AGREE_SECONDS` only, after as many steps as that takes."""
        steps = trainer.global_step - self.asked_step
        if 0 <= steps < self.num_steps:
            return False
        pace = (time.monotonic() - self.asked_at) / max(1, steps)
        told = torch.tensor([float(here), pace], device=trainer.strategy.root_device)
        agreed, slowest = trainer.strategy.reduce(told, reduce_op="max").tolist()
        # Doubled at most: a few fast steps say little of those to come.
        self.num_steps = max(1, min(2 * self.num_steps, int(AGREE_SECONDS / max(slowest, 1e-6))))
        self.asked_at, self.asked_step = time.monotonic(), trainer.global_step
        return bool(agreed)
