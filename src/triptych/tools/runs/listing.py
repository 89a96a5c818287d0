"""Runs as they are listed, chosen and ordered by what their files say. Knows nothing of torch."""

import csv
import operator
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from rich.filesize import decimal

from triptych.config import find_node, format_value, load_rules
from triptych.errors import UserError, closest_matches, sanitize_text
from triptych.runs.durations import PROGRESS_FILE, format_end
from triptych.runs.reader import MEASURED, find_temporary_files, is_locked
from triptych.runs.record import Record
from triptych.runs.storage import check_regular_file, replace_non_finite
from triptych.tools.runs.settings import CONDITION

KINDS = {"best.ckpt", "last.ckpt", "tensorboard", "predictions", "figures"}
UNITS = (("d", 86400), ("h", 3600), ("min", 60))
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    **{"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le},
    **{">": operator.gt, ">=": operator.ge},
}
OF_JSON = """
    model weights data seed name config_hash group_hash best_epoch started_at finished_at
    seconds_total error metrics
""".split()  # of run.json


@dataclass(frozen=True)
class Run:
    """A run as it is listed; None is not known."""

    folder: Path
    metadata: dict[str, Any]  # of its run.json
    status: str  # of its record; `killed` where no process is at work on a running one
    epochs: int | None
    val_accuracy: float | None
    num_bytes: Counter[str]  # by kind of file
    progress: float | None = None  # of one that a process works on, in [0, 1]
    ends_at: str | None = None  # when that will end: an ISO time

    @property
    def time(self) -> str:
        """When it ended, or else began."""
        return str(self.metadata.get("finished_at") or self.metadata.get("started_at"))

    @property
    def can_free(self) -> list[Path]:
        """Files that a finished run needs for nothing but more epochs, and half-written ones."""
        if self.status != "finished":
            return []
        last = self.folder / "checkpoints" / "last.ckpt"
        return [*filter(Path.is_file, [last]), *find_temporary_files(self.folder)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its config; empty where it cannot be read."""
        with suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
            text = check_regular_file(self.folder / "config.yaml").read_text()
            config = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            return config if isinstance(config, dict) else {}
        return {}

    def find(self, key: str) -> Any:
        """What the list, run.json, its metrics or the config has under a (dotted) key."""
        own = {"status": self.status, "time": self.time, "size": self.num_bytes.total()}
        own |= {"epochs": self.epochs, "progress": self.progress, "ends_at": self.ends_at}
        for values in (own, self.metadata, self.metadata.get("metrics")):
            if isinstance(values, dict) and key in values:
                return values[key]
        node, name = find_node(self.settings, key)
        return node.get(name)


def read_run(folder: Path) -> Run:
    """Raises UserError where the folder has no record."""
    metadata = Record.open(folder).metadata
    status = str(metadata.get("status"))
    epochs, best = metadata.get("num_epochs"), None
    if status != "finished":
        epochs, best = read_progress(folder / "metrics.csv")
    metrics = metadata.get("metrics")
    value: Any = metrics.get("val/accuracy") if isinstance(metrics, dict) else None
    is_at_work = status == "running" and is_locked(folder)
    return Run(
        folder,
        metadata,
        "killed" if status == "running" and not is_at_work else status,
        epochs if type(epochs) is int else None,
        float(value) if MEASURED.holds(value) else best,
        measure(folder),
        *(read_end(folder / PROGRESS_FILE) if is_at_work else ()),
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


def read_end(path: Path) -> tuple[float | None, str | None]:
    """How much of a run at work is done, in [0, 1], and when it ends, as its process last wrote."""
    with suppress(OSError, ValueError, OverflowError):
        seconds, share = map(float, check_regular_file(path).read_text()[:100].split())
        end = datetime.fromtimestamp(seconds, UTC)
        if 0 <= share <= 1 and end > datetime.now(UTC):
            return share, end.isoformat(timespec="seconds")
    return None, None


def measure(folder: Path) -> Counter[str]:
    """The bytes of a folder's files by kind; links count nothing."""
    num_bytes: Counter[str] = Counter()
    waiting = [(str(folder), frozenset[str]())]
    while waiting:
        place, kinds = waiting.pop()
        with suppress(OSError), os.scandir(place) as entries:  # gone meanwhile
            for entry in entries:
                found = kinds | (KINDS & {entry.name})
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, found))
                elif entry.is_file(follow_symlinks=False):
                    num_bytes[min(found, default="other")] += entry.stat().st_size
    return num_bytes


def choose(listed: Sequence[Run], conditions: Sequence[str], sort: str) -> list[Run]:
    """The runs of which every condition holds (`seed=0`, `test/accuracy>=0.9`), in the order of a
    key, the largest first where it begins with a `-`; raises UserError at a key that no run has.
    """
    runs = list(listed)
    for condition in conditions:
        _, key, sign, wanted, _ = map(str.strip, CONDITION.split(condition))
        check_key("where", key, runs)
        runs = [run for run in runs if holds(run.find(key), sign, wanted)]
    key = sort.removeprefix("-")
    check_key("sort", key, runs)
    runs.sort(key=lambda run: (*rank(run.find(key)), run.time, run.folder), reverse=key != sort)
    return runs


def check_key(setting: str, key: str, runs: Sequence[Run]) -> None:
    """Raise UserError where none of the runs has a value for a key."""
    if runs and all(run.find(key) is None for run in runs):
        records = [run.metadata | (run.metadata.get("metrics") or {}) for run in runs[:100]]
        names = {*chain(*records), *load_rules("train"), "status", "time", "size"}
        nearest = closest_matches(key, map(str, names))
        raise UserError(f"{setting}={key}: no run has it; nearest: {nearest}")


def holds(value: Any, sign: str, wanted: str) -> bool:
    """Whether a value compares as asked: as a number where both are, else as a text."""
    if value is None and wanted != "null":
        return False
    pair: tuple[Any, Any] = (format_value(value), wanted)
    with suppress(ValueError):
        pair = (float(pair[0]), float(wanted))
    return COMPARE[sign](*pair)


def rank(value: Any) -> tuple[int, float, str]:
    """A key to sort by: nothing, then numbers, then texts."""
    if value is None:
        return 0, 0.0, ""
    return (1, value, "") if type(value) in (int, float) else (2, 0.0, format_value(value))


def format_table(listed: Sequence[Run], place: Path, keys: Sequence[str]) -> list[str]:
    """A line a run, after the heads; its folder, below `place`, comes last for it is the longest.

    `keys` are shown besides, and where runs are at work, how far they are and when they end.
    """
    is_any_at_work = any(run.ends_at for run in listed)
    heads = ["model", "seed", "status", "ep.", *(["done", "ends"] if is_any_at_work else [])]
    heads += ["val %", *keys, "age", "size", f"folder in {place}"]
    rows = [heads]
    for run in listed:
        accuracy = "" if run.val_accuracy is None else f"{100 * run.val_accuracy:.2f}"
        name = run.metadata.get("name") or run.metadata.get("model")
        row = [str(name), str(run.metadata.get("seed")), run.status]
        row += ["" if run.epochs is None else str(run.epochs)]
        if is_any_at_work:
            row += ["" if run.progress is None else f"{100 * run.progress:.0f} %"]
            row += [format_moment(run.ends_at)]
        row += [accuracy, *(format_cell(run.find(key)) for key in keys), format_age(run.time)]
        rows.append([*row, decimal(run.num_bytes.total()), os.path.relpath(run.folder, place)])
    rows = [[sanitize_text(" ".join(text.split())) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, 1, 2, len(heads) - 1}
    return [
        " ".join(t.ljust(w) if n in left else t.rjust(w) for n, (t, w) in columns).rstrip()
        for columns in (enumerate(zip(row, widths, strict=True)) for row in rows)
    ]


def format_moment(moment: str | None) -> str:
    """A time that is to come, as 14:10, or Fri 14:10."""
    if moment is None:
        return ""
    left = (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
    return format_end(left).removeprefix(", ends ") or "now"


def format_cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)


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


def describe(run: Run, keys: Sequence[str]) -> dict[str, Any]:
    """A run for programs: of what the table shows, and `OF_JSON`; None is not known."""
    row: dict[str, Any] = {"folder": str(run.folder), "status": run.status, "epochs": run.epochs}
    row |= {"val_accuracy": run.val_accuracy, "num_bytes": run.num_bytes.total()}
    row |= {"progress": run.progress, "ends_at": run.ends_at}
    row |= {name: run.metadata.get(name) for name in OF_JSON} | {k: run.find(k) for k in keys}
    plain: dict[str, Any] = replace_non_finite(row)
    return plain
