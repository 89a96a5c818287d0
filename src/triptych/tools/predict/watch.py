"""How far predictions are: a bar on a terminal, a line now and then elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from triptych.callbacks.progress import SILENCE_SECONDS

log = logging.getLogger(__name__)


@contextmanager
def watch(total: int | None, is_shown: bool) -> Iterator[Callable[[], None]]:
    """To be called once an image; `total` is None where it is not known."""
    if not is_shown or not get_console().is_terminal:
        yield Lines(total).advance if is_shown else lambda: None
        return
    columns = ("predict", BarColumn(), MofNCompleteColumn(), "images", TimeRemainingColumn())
    # Standard output is left alone: it may be a pipe that rows go through.
    with Progress(*columns, console=get_console(), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


class Lines:
    """A line with what is done whenever nothing was printed for some seconds."""

    def __init__(self, total: int | None) -> None:
        self.of = f" of {total:,}" if total else ""
        self.done, self.last = 0, time.monotonic()

    def advance(self) -> None:
        self.done += 1
        if time.monotonic() - self.last >= SILENCE_SECONDS:
            self.last = time.monotonic()
            log.info("%s images predicted", f"{self.done:,}{self.of}")
