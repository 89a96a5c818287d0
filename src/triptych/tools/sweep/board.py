"""What a sweep shows while it goes: one bar, and a line a job."""

from collections.abc import Iterable
from contextlib import suppress

from rich import get_console
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.text import Text

from triptych.errors import sanitize_text


class Board(Progress):
    """The bar counts jobs that ended; below it, on a terminal, a line for each that is at work."""

    def __init__(self, total: int) -> None:
        columns = ("sweep", BarColumn(), MofNCompleteColumn(), "jobs", TimeElapsedColumn())
        self.at_work: list[str] = []
        super().__init__(*columns, console=get_console(), transient=True, refresh_per_second=4)
        self.bar = self.add_task("", total=total)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in self.at_work:
            yield Text(sanitize_text(line), no_wrap=True, overflow="ellipsis")

    def say(self, line: str) -> None:
        """A line above the bar, in one write: other programs may share the screen."""
        with suppress(OSError):  # where the output is a file, its disk may be full
            self.console.print(sanitize_text(line), markup=False, highlight=False, soft_wrap=True)
