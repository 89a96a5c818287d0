"""What ends a run early: SIGINT (Ctrl-C), SIGTERM and SIGUSR1, with their exit codes; `minutes`."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], object] | signal.Handlers
LAUNCHED = re.compile("(SLURM|TORCHELASTIC|MASTER|PL)_|(.*_)?RANK$|.*(WORLD|PMI|NAMESPACE)_SIZE$")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# In the environment, in seconds since 1970: when this command, or job, began; and when this process
# and those that it starts have to end.
STARTED, DEADLINE = "TRIPTYCH_STARTED", "TRIPTYCH_DEADLINE"


class OutOfTime(SystemExit):
    """The end of `minutes`: what there is has been saved. The exit code is 0."""


def read_start() -> float:
    """When this command began; now, where it is no command."""
    return float(os.environ.get(STARTED) or time.time())


def set_deadline(minutes: float | None) -> None:
    """Have this process, and those that it starts, end so many minutes after this command began."""
    if minutes is not None:
        os.environ[DEADLINE] = str(min(read_deadline(), read_start() + 60 * minutes))


def read_deadline() -> float:
    return float(os.environ.get(DEADLINE) or inf)


def exit_code(number: int) -> int:
    return 130 if number == signal.SIGINT else 143


def install_handlers(handler: Handler, signals: Sequence[int] = ()) -> dict[int, Any]:
    """Install a handler, in the main thread; returns the handlers that it replaces.

    `signals`: by default `SIGNALS`, without SIGUSR1 where Lightning handles it.
    """
    default = SIGNALS[:2] if requeues_on_sigusr1() else SIGNALS
    return {number: signal.signal(number, handler) for number in signals or default}


def is_requeued() -> bool:
    """Whether SLURM has started this job before, or torchrun its ranks."""
    return any(int(os.environ.get(f"{n}_RESTART_COUNT") or 0) for n in ("SLURM", "TORCHELASTIC"))


def requeues_on_sigusr1() -> bool:
    """Whether this is a job of SLURM, by its name no shell: Lightning requeues it at SIGUSR1."""
    is_job = "SLURM_JOB_ID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    return is_job and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def is_launched() -> bool:
    """Whether there are variables of torchrun, SLURM or MPI, which `distributed.detect` reads."""
    return any(map(LAUNCHED.match, os.environ))


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
