"""Time, measured where a device is given work that it has not done yet."""

from time import perf_counter
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import SimpleProfiler

from triptych.tools.evaluate.cost import synchronize


class Stopwatch:
    """Seconds from the end of step `first` to the end of step `last`, counted from 1."""

    def __init__(self, device: torch.device, first: int, last: int) -> None:
        self.device, self.first, self.last = device, first, last
        self.seconds = self._began = float("nan")

    def step_ended(self, step: int) -> None:
        if step not in (self.first, self.last):
            return
        synchronize(self.device)
        if step == self.first:
            self._began = perf_counter()
        else:
            self.seconds = perf_counter() - self._began


class Enough(Exception):
    """Raised in a Trainer's loop when the last step was measured: an epoch's end takes long."""


class StepClock(Callback):
    """A stopwatch in a Trainer's loop: whole turns of it, with all that a step involves.

    To be the last callback, or what the others do at the end of a step is not counted. Ends the
    loop by `Enough`.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def _step_ended(self, step: int) -> None:
        self.stopwatch.step_ended(step)
        if step == self.stopwatch.last:
            raise Enough

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._step_ended(batch_idx + 1)

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        self._step_ended(batch_idx + 1)


class PartsProfiler(SimpleProfiler):
    """Lightning's profiler, waiting for the device at both ends of every part."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def start(self, action_name: str) -> None:
        synchronize(self.device)
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        synchronize(self.device)
        super().stop(action_name)

    def summary(self) -> str:
        """Nothing: it is read, not printed."""
        return ""
