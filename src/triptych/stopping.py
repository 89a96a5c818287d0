"""Signals that end a run: SIGINT (Ctrl-C), SIGTERM, SIGUSR1, and the exit codes they ask for."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Answer = Callable[[int, FrameType | None], None]


def exit_code(number: int) -> int:
    return 130 if number == signal.SIGINT else 143


def answer(by: Answer | Any) -> dict[int, Any]:
    """Let `by` answer the signals; what answered them before. The main thread alone may ask.

    SLURM announces a job's end with SIGUSR1, which Lightning answers by a requeue.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [] if "SLURM_JOB_ID" in os.environ else [signal.SIGUSR1]
    return {number: signal.signal(number, by) for number in numbers}


def stop_at_once(number: int, _: FrameType | None) -> None:
    """Raise SystemExit; further signals are ignored, so that the end is recorded in peace."""
    answer(signal.SIG_IGN)
    raise SystemExit(exit_code(number))


@contextmanager
def stoppable() -> Iterator[None]:
    """While the block lasts, the first signal stops at once."""
    before = answer(stop_at_once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
