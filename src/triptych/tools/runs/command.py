"""What runs there are below a folder, and what they take on disk. Knows nothing of torch."""

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from triptych.cli import show_line
from triptych.config import Config
from triptych.errors import UserError, sanitize_text
from triptych.runs.reader import MEASURED, check_files, find_run_folders, find_temporary_files
from triptych.runs.record import Record
from triptych.runs.storage import check_regular_file, is_locked, lock_run

log = logging.getLogger(__name__)
WIDTH = 100  # where the output is no terminal
KINDS = {"best.ckpt", "last.ckpt", "tensorboard", "predictions", "figures"}
UNITS = (("d", 86400), ("h", 3600), ("min", 60))


class Run(NamedTuple):
    """A run as it is listed; None is not known."""

    folder: Path
    model: str
    seed: str
    status: str  # of its record; `killed` where no process is at work on a running one
    epochs: int | None
    val_accuracy: float | None
    time: str  # when it ended, or else began
    num_bytes: Counter[str]  # by kind of file

    @property
    def can_free(self) -> list[Path]:
        """Files that a finished run needs for nothing but more epochs, and half-written ones."""
        if self.status != "finished":
            return []
        last = self.folder / "checkpoints" / "last.ckpt"
        return [*filter(Path.is_file, [last]), *find_temporary_files(self.folder)]


def runs(config: Config, overrides: Sequence[str] = ()) -> None:
    """Print the runs below `config["runs"]`; what they take, and free it, where that is asked."""
    console = Console()
    console.width = console.width if console.is_terminal else WIDTH
    listed: list[Run] = []
    for folder in find_run_folders(config["runs"]):
        try:
            listed.append(read_run(folder))
        except UserError as error:
            show_line(console, str(error).splitlines()[0])
    listed.sort(key=lambda run: (run.time, run.folder))
    places = [config["runs"]] if isinstance(config["runs"], str) else config["runs"]
    is_folder = len(places) == 1 and Path(places[0]).is_dir()
    console.print(make_table(listed, Path(places[0] if is_folder else ".")))
    if config["size"] or config["clean"]:
        console.print(make_size_table(listed))
    if config["clean"]:
        clean(listed, config["runs"], console)


def read_run(folder: Path) -> Run:
    """Raises UserError where the folder has no record."""
    metadata = Record.open(folder).metadata
    status = str(metadata.get("status"))
    epochs, best = metadata.get("num_epochs"), None
    if status != "finished":
        epochs, best = read_progress(folder / "metrics.csv")
    metrics = metadata.get("metrics")
    value: Any = metrics.get("val/accuracy") if isinstance(metrics, dict) else None
    is_killed = status == "running" and not is_locked(folder)
    return Run(
        folder,
        str(metadata.get("model")),
        str(metadata.get("seed")),
        "killed" if is_killed else status,
        epochs if type(epochs) is int else None,
        float(value) if MEASURED.holds(value) else best,
        str(metadata.get("finished_at") or metadata.get("started_at")),
        measure(folder),
    )


def read_progress(path: Path) -> tuple[int | None, float | None]:
    """The last epoch in `metrics.csv` and the highest validation accuracy; None without one."""
    epochs, accuracies = [], []
    with suppress(OSError, csv.Error), check_regular_file(path).open(errors="replace") as file:
        for row in csv.DictReader(file):
            with suppress(TypeError, ValueError):
                epochs.append(int(row.get("epoch") or 0))
                accuracies.append(float(row.get("val/accuracy") or "nan"))
    measured = [value for value in accuracies if value >= 0]
    return max(epochs, default=None), max(measured, default=None)


def measure(folder: Path) -> Counter[str]:
    """The bytes of a folder's files by kind; links count nothing."""
    num_bytes: Counter[str] = Counter()
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            if path.is_file() and not path.is_symlink():
                kinds = KINDS & {*path.relative_to(folder).parts}
                num_bytes[min(kinds, default="other")] += path.stat().st_size
    return num_bytes


def make_table(listed: Sequence[Run], place: Path) -> Table:
    """A row a run; its folder, below `place`, comes last for it is the longest."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("model", "seed", "status"):
        table.add_column(heading)
    for heading in ("ep.", "val %", "age", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(f"folder in {escape(sanitize_text(str(place)))}", overflow="fold")
    for run in listed:
        accuracy = "" if run.val_accuracy is None else f"{100 * run.val_accuracy:.2f}"
        epochs = "" if run.epochs is None else str(run.epochs)
        size = decimal(run.num_bytes.total())
        folder = os.path.relpath(run.folder, place)
        texts = (run.model, run.seed, run.status, epochs, accuracy, format_age(run.time), size)
        table.add_row(*(escape(sanitize_text(text)) for text in (*texts, folder)))
    return table


def format_age(moment: str) -> str:
    """How long ago that was, as 3 d; empty where it is no time."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "now"


def make_size_table(listed: Sequence[Run]) -> Table:
    """What all runs take by kind of file, and how much of it can be freed."""
    total: Counter[str] = Counter()
    for run in listed:
        total += run.num_bytes
    free = sum(path.stat().st_size for run in listed for path in run.can_free)
    rows: list[tuple[str, Any]] = [*total.most_common(), ("all", total.total())]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("takes")
    table.add_column("size", justify="right")
    for kind, num_bytes in [*rows, ("of it --clean frees", free)]:
        table.add_row(kind, decimal(num_bytes))
    return table


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
