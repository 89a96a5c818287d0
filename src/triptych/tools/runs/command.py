"""What runs there are below a folder, and what they take on disk. Knows nothing of torch."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from triptych.cli import show_line
from triptych.cli.tables import make_console, make_table
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import check_files, find_run_folders
from triptych.runs.storage import lock_run
from triptych.tools.runs.listing import Run, choose, describe, format_table, read_run
from triptych.tools.runs.settings import CONDITION
from triptych.tools.runs.tensorboard import show_in_tensorboard

log = logging.getLogger(__name__)
SHOWN = ("model", "seed", "status", "epochs", "val/accuracy", "time", "size", "progress", "ends_at")


def runs(config: Config, overrides: Sequence[str] = ()) -> None:
    """Print the runs below `config["runs"]`; what they take, and free it, where that is asked."""
    if config["json"]:
        rich.reconfigure(stderr=True)  # what is said besides is no JSON
    console = rich.get_console() if config["json"] else make_console()
    if config["tensorboard"] is not None:
        show_in_tensorboard(lambda: find_runs(config, Console(quiet=True)), config["tensorboard"])
        return
    listed = find_runs(config, console)
    asked = [config["sort"].removeprefix("-"), *(CONDITION.split(c)[1] for c in config["where"])]
    keys = [key.strip() for key in dict.fromkeys(asked) if key.strip() not in SHOWN]
    if config["json"]:
        print(json.dumps([describe(run, keys) for run in listed], indent=1))
    else:
        places = [config["runs"]] if isinstance(config["runs"], str) else config["runs"]
        is_folder = len(places) == 1 and Path(places[0]).is_dir()
        place = Path(places[0] if is_folder else ".")
        print("\n".join(format_table(listed, place, keys)))
    if config["size"] or config["clean"]:
        console.print(make_size_table(listed))
    if config["clean"]:
        clean(listed, config["runs"], console)


def find_runs(config: Config, console: Console) -> list[Run]:
    """Those below `config["runs"]` that `where` chooses, in the order of `sort`."""
    listed: list[Run] = []
    for folder in find_run_folders(config["runs"]):
        try:
            listed.append(read_run(folder))
        except UserError as error:
            show_line(console, str(error).splitlines()[0])
    return choose(listed, config["where"], config["sort"])


def make_size_table(listed: Sequence[Run]) -> Table:
    """What all runs take by kind of file, and how much of it can be freed."""
    total: Counter[str] = Counter()
    for run in listed:
        total += run.num_bytes
    free = sum(path.stat().st_size for run in listed for path in run.can_free)
    rows: list[tuple[str, Any]] = [*total.most_common(), ("all", total.total())]
    rows.append(("of it --clean frees", free))
    return make_table("<>", ("takes", "size"), [(kind, decimal(size)) for kind, size in rows])


def check_place(folder: Path, places: str | Sequence[str]) -> None:
    """Raise UserError where a link below the places, not one that was typed, leads to the run."""
    for place in [places] if isinstance(places, str) else places:
        typed = place if os.path.exists(place) else re.split(r"[*?[]", place)[0].rpartition("/")[0]
        if folder.resolve().is_relative_to(Path(typed).resolve()):
            return
    raise UserError(f"{folder}: a link leads there; runs={folder.resolve()} names it")


def clean(listed: Sequence[Run], places: str | Sequence[str], console: Console) -> None:
    """Delete what finished runs do not need. A run that a process works on is left alone."""
    num_bytes = num_runs = 0
    for run in listed:
        if not run.can_free:
            continue
        try:
            check_place(run.folder, places)
            check_files(run.folder)
            with lock_run(run.folder):
                for path in run.can_free:
                    num_bytes += path.stat().st_size
                    path.unlink()
                    show_line(console, f"deleted: {path}")
                num_runs += 1
        except (UserError, OSError) as error:
            show_line(console, f"left alone: {str(error).splitlines()[0]}")
    show_line(console, f"freed: {decimal(num_bytes)} of {num_runs} finished runs")
    if num_runs:
        show_line(console, "these runs can no longer be trained for more epochs")
