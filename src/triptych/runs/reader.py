"""Run folders as they are found: anybody's, half-written, edited by hand. Data until checked."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from triptych.config import NAMES, TEXT, Rule, count, format_value, number
from triptych.errors import UserError, sanitize_text
from triptych.runs.record import Record
from triptych.runs.storage import LONGEST_TEXT, is_too_long

MAX_DEPTH = 50  # of what is nested in a file: no run comes near it
# What is measured in a run is far below, and what is drawn of it stays finite.
MEASURED = number(0, 1e18)
MAPPING = Rule("a mapping", lambda value: type(value) is dict)
REQUIRED_METADATA: dict[str, Rule] = {
    **dict.fromkeys(("model", "data", "split_hash", "test_hash"), TEXT),
    **dict.fromkeys(("config_hash", "group_hash", "started_at", "finished_at"), TEXT),
    "seed": count(0),
    "metrics": MAPPING,
}
OPTIONAL_METADATA: dict[str, Rule] = {
    **dict.fromkeys(("weights", "git_commit", "device", "precision"), TEXT),
    **dict.fromkeys(("num_params", "num_threads", "num_epochs", "best_epoch"), count(0)),
    **dict.fromkeys(("input_size", "num_test"), count(1)),
    **dict.fromkeys(("images_per_second", "train_seconds", "feature_seconds"), MEASURED),
    "command": Rule("a text", lambda value: type(value) is str),
    "classes": NAMES,
    "versions": MAPPING,
}


def find_run_folders(places: str | Sequence[str], setting: str = "runs") -> list[Path]:
    """Every folder with a `run.json` at or below a folder or a glob, or a list of them, each once.

    Raises UserError, by the name of the `setting`, where a place has none.
    """
    found: dict[Path, Path] = {}
    empty: list[str] = []
    for place in sorted([places] if isinstance(places, str) else places):
        starts = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
        folders = [folder for start in starts for folder in walk_run_folders(Path(start))]
        found = {folder.resolve(): folder for folder in folders} | found
        empty += [] if folders else [place]
    if empty:
        raise UserError(
            f"{setting}={','.join(empty)}: no run there or below (a folder with a run.json)"
        )
    return list(found.values())


def walk_run_folders(start: Path) -> Iterator[Path]:
    """Folders with a `run.json` at or below another.

    Links are followed, behind all else, but into no folder a second time."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(start, followlinks=True):
        subfolders.sort(key=lambda name: (Path(folder, name).is_symlink(), name))
        real = os.path.realpath(folder)
        is_run = "run.json" in files
        if is_run or real in seen:
            subfolders.clear()
        if is_run and real not in seen:
            yield Path(folder)
        seen.add(real)


def check_files(folder: Path) -> None:
    """Raise UserError at what no reader comes to the end of: a FIFO, a text without end."""
    for path in folder.rglob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: neither a file nor a folder; delete it")
        if is_too_long(path):
            raise UserError(f"{path}: a text longer than {decimal(LONGEST_TEXT)}; delete it")


def read_finished(folder: Path) -> Record:
    """The record of a finished run, whose facts are as `FACTS` and `OPTIONAL_FACTS` have them.

    An optional fact that is not there is None. Raises UserError where the run is not finished, or a
    fact is not what it may be.
    """
    record = Record.open(folder)
    check_files(folder)
    status, error = (record.metadata.get(name) for name in ("status", "error"))
    if status != "finished":
        reason = f" ({error})" if error else ""
        raise UserError(f"{folder}: not finished, its status is {format_value(status)}{reason}")
    for name, rule in (
        REQUIRED_METADATA | {k: r.or_null() for k, r in OPTIONAL_METADATA.items()}
    ).items():
        if not rule.holds(value := record.metadata.get(name)):
            raise UserError(
                f"{folder}/run.json: {name} must be {rule.says}, it is {format_value(value)}"
            )
    record.metadata = dict.fromkeys(OPTIONAL_METADATA) | record.metadata
    return record


def sanitize(value: Any, depth: int = 0) -> Any:
    """Strings, at any depth, in one line of what can be printed and written as UTF-8.

    Raises UserError where lists and mappings are nested deeper than 50.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {sanitize(key): sanitize(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [sanitize(inner, depth + 1) for inner in value]
    return sanitize_text(" ".join(value.split())) if isinstance(value, str) else value


def sanitize_log_record(record: logging.LogRecord) -> bool:
    """A filter for a log that names folders and what stands in them."""
    record.msg, record.args = sanitize_text(record.getMessage()), None
    return True
