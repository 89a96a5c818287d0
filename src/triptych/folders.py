"""Run folders as they are found: anybody's, half-written, edited by hand. Data until checked."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from triptych import Refused
from triptych.config import shown
from triptych.record import Record
from triptych.rules import NAMES, TEXT, Rule, count, number

MAPPING = Rule("a mapping", lambda value: type(value) is dict)
FACTS: dict[str, Rule] = {
    **dict.fromkeys(("model", "data", "split_hash", "test_hash"), TEXT),
    **dict.fromkeys(("config_hash", "group_hash", "started_at", "finished_at"), TEXT),
    "seed": count(0),
    "metrics": MAPPING,
}
OPTIONAL_FACTS: dict[str, Rule] = {
    **dict.fromkeys(("weights", "git_commit", "device", "precision"), TEXT),
    **dict.fromkeys(("num_params", "num_threads", "num_epochs", "best_epoch"), count(0)),
    **dict.fromkeys(("input_size", "num_test"), count(1)),
    **dict.fromkeys(("images_per_second", "train_seconds"), number(0)),
    "command": Rule("a text", lambda value: type(value) is str),
    "classes": NAMES,
    "versions": MAPPING,
}


def find_folders(places: list[str], out: Path | None = None) -> list[Path]:
    """Every folder with a `run.json` at or below folders or globs, but not below `out`."""
    starts = {
        Path(start)
        for place in places
        for start in ([place] if Path(place).exists() else glob.glob(place, recursive=True))
    }
    found = {folder.resolve(): folder for start in sorted(starts) for folder in _below(start)}
    hidden = out.resolve() if out else None
    return [folder for real, folder in found.items() if hidden not in (real, *real.parents)]


def _below(start: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(start):
        subfolders.sort()
        if "run.json" in files:
            subfolders.clear()
            yield Path(folder)


def finished(folder: Path) -> Record:
    """The record of a finished run, whose facts are as `FACTS` and `OPTIONAL_FACTS` have them.

    An optional fact that is not there is None. Raises Refused where the run is not finished, or a
    fact is not what it may be.
    """
    record = Record.open(folder)
    status, error = (record.facts.get(name) for name in ("status", "error"))
    if status != "finished":
        reason = f" ({error})" if error else ""
        raise Refused(f"{folder}: not finished, its status is {shown(status)}{reason}")
    for name, rule in (FACTS | {k: r.or_null() for k, r in OPTIONAL_FACTS.items()}).items():
        if not rule.holds(value := record.facts.get(name)):
            raise Refused(f"{folder}/run.json: {name} must be {rule.says}, it is {shown(value)}")
    record.facts = dict.fromkeys(OPTIONAL_FACTS) | record.facts
    return record
