"""Tables on the screen: columns without lines, the same on a terminal and in a log file."""

from collections.abc import Iterable, Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from triptych.errors import sanitize_text

WIDTH, MIN_WIDTH = 100, 80  # where the output is no terminal; where it has room for fewer letters
STYLES = {"finished": "green", "holds": "green", "failed": "red", "does not hold": "red"}
SIDES: dict[str, JustifyMethod] = {"<": "left", ">": "right"}


def make_console() -> Console:
    """Standard output; rich colours a terminal alone, and none where NO_COLOR is set."""
    console = Console()
    console.width = max(console.width, MIN_WIDTH) if console.is_terminal else WIDTH
    return console


def make_table(sides: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A line a row; only the first column is folded, where there is no room for it.

    `sides`: where each column stands, as `<>>`. Columns without any text are left out.
    """
    cells = [[*map(sanitize_text, row)] for row in rows]
    shown = [n for n in range(len(sides)) if any(row[n] for row in cells)]
    table = Table(box=None, pad_edge=False, show_header=any(heads), header_style="bold")
    for n in shown:
        table.add_column(heads[n], justify=SIDES[sides[n]], overflow="fold", no_wrap=n > 0)
    for row in cells:
        table.add_row(*(Text(row[n], STYLES.get(row[n], "")) for n in shown))
    return table
