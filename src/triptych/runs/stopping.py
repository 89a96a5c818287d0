"""Signals that end a run: SIGINT (Ctrl-C), SIGTERM and SIGUSR1, and their exit codes."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], object] | signal.Handlers
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def exit_code(number: int) -> int:
    return 130 if number == signal.SIGINT else 143


def install_handlers(handler: Handler, signals: Sequence[int] = ()) -> dict[int, Any]:
    """Install a handler, in the main thread; returns the handlers that it replaces.

    `signals`: by default `SIGNALS`, without SIGUSR1 where Lightning handles it.
    """
    default = SIGNALS[:2] if requeues_on_sigusr1() else SIGNALS
    return {number: signal.signal(number, handler) for number in signals or default}


def is_requeued() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def requeues_on_sigusr1() -> bool:
    """Whether this is a task of SLURM's srun, whose job Lightning requeues at SIGUSR1.

    The rule is Lightning's own, written out because its import takes seconds.
    """
    is_task = "SLURM_NTASKS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    return is_task and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def exit_on_signal(number: int, _: FrameType | None) -> None:
    """Raise SystemExit, and ignore further signals while the end of the run is recorded."""
    install_handlers(signal.SIG_IGN)
    raise SystemExit(exit_code(number))


@contextmanager
def signal_handlers(handler: Handler, signals: Sequence[int] = ()) -> Iterator[None]:
    """Install a handler while the block lasts."""
    before = install_handlers(handler, signals)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
