"""Run folders of anybody, half-written or edited by hand: data until checked."""

import fcntl
import glob
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from triptych.config import NAMES, TEXT, Rule, count, format_value, number
from triptych.errors import UserError, sanitize_text
from triptych.runs.record import MAX_DEPTH, Record
from triptych.runs.storage import check_regular_file, open_no_follow

log = logging.getLogger(__name__)
MEASURED = number(0, 1e18)  # far above anything measured, and finite when it is plotted
FINITE = number(-1e18, 1e18)  # that may be negative, as a metric of one's own
MAPPING = Rule("a mapping", lambda value: type(value) is dict)
MAX_CLASSES = 10_000  # a confusion matrix of more would not fit into memory
REQUIRED_METADATA: dict[str, Rule] = {
    **dict.fromkeys(("model", "data", "split_hash", "test_hash"), TEXT),
    **dict.fromkeys(("config_hash", "group_hash", "started_at", "finished_at"), TEXT),
    "seed": count(0),
    "metrics": MAPPING,
}
OPTIONAL_METADATA: dict[str, Rule] = {
    **dict.fromkeys(("weights", "git_commit", "device", "precision", "task", "name"), TEXT),
    **dict.fromkeys(("num_params", "num_threads", "num_epochs", "best_epoch"), count(0)),
    **dict.fromkeys(("num_train", "num_val"), count(0)),
    **dict.fromkeys(("input_size", "num_test"), count(1)),
    **dict.fromkeys(("images_per_second", "train_seconds", "feature_seconds"), MEASURED),
    "seconds_total": MEASURED,
    "command": Rule("a text", lambda value: type(value) is str),
    "classes": Rule(
        f"a list of at most {MAX_CLASSES} names",
        lambda v: NAMES.holds(v) and len(v) <= MAX_CLASSES,
    ),
    **dict.fromkeys(("more_metrics", "notes"), NAMES),
    "versions": MAPPING,
    "code": MAPPING,
}
# What a run and its evaluation write; all else in its folder is a logger's or a callback's.
OWN_FOLDERS = """
    checkpoints predictions figures tensorboard external shifts ood export deployments earlier
    model_checkpoints
""".split()
OWN_FILES = (
    *("config.yaml", "run.json", "metrics.csv", "train.log", "traceback.txt", "plan.yaml", ".lock"),
    *("evaluation", "cost.json", "image_types.csv", "duplicates.csv", "suspect_labels.csv"),
    *(".", "hpc_ckpt_"),
)
STATUSES = ("running", "interrupted", "failed", "finished")
SCORES: dict[str, Rule] = {  # what a sweep shows of a finished run
    "num_test": count(1),
    "train_seconds": MEASURED,
    **dict.fromkeys(("test/accuracy", "test/f1"), number(0, 1 + 1e-9)),
    "test/loss": number(0, 3.5e38).or_null(),  # infinite, if float32 cannot hold it
}


def find_run_folders(places: str | Sequence[str] | None, setting: str = "runs") -> list[Path]:
    """Every folder with a `run.json` at or below the places, each once.

    A place is a folder or a glob. Raises UserError, which names the `setting`, where a place has
    no run.
    """
    by_real_path: dict[Path, Path] = {}
    empty: list[str] = []
    for place in sorted([places] if isinstance(places, str) else places or ()):
        starts = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
        folders = [folder for start in starts for folder in walk_run_folders(Path(start))]
        by_real_path = {folder.resolve(): folder for folder in folders} | by_real_path
        empty += [] if folders else [place]
    if empty:
        raise UserError(
            f"{setting}={','.join(empty)}: no run there or below (a folder with a run.json)"
        )
    return list(by_real_path.values())


def walk_run_folders(start: Path) -> Iterator[Path]:
    """Folders with a `run.json` at or below another.

    Links are followed after everything else, but into no folder a second time, and to none above
    the start: a stranger's may lead to the whole disk.
    """
    seen = {*map(str, Path(os.path.realpath(start)).parents)}
    for folder, subfolders, files in os.walk(start, onerror=warn_unreadable, followlinks=True):
        subfolders.sort(key=lambda name: (Path(folder, name).is_symlink(), name))
        real_path = os.path.realpath(folder)
        is_run, is_new = "run.json" in files, real_path not in seen
        if is_run or not is_new:
            subfolders.clear()
        if is_run and is_new:
            yield Path(folder)
        seen.add(real_path)


def read_records(start: Path) -> Iterator[Record]:
    """The records of the runs at or below a folder, without those that cannot be read."""
    for folder in walk_run_folders(start):
        with suppress(UserError):
            yield Record.open(folder)


def warn_unreadable(error: OSError) -> None:
    """Say that a folder is left out: another user's, of a group's runs."""
    if isinstance(error, PermissionError):
        warn_once(f"left out: {error}")


@cache
def warn_once(message: str) -> None:
    """A command looks for its runs twice: before torch is imported, and at work."""
    log.warning("%s", message)


def find_newest_run(log_dir: Path, **entries: Any) -> Record | None:
    """The newest run below a folder with these entries in its record; a finished one first.

    Runs whose record cannot be trusted are passed over.
    """

    def rank(run: Record) -> tuple[bool, str, Path]:
        return run.metadata["status"] == "finished", str(run.metadata.get("started_at")), run.folder

    runs = []
    for folder in walk_run_folders(log_dir):
        with suppress(UserError):
            run = Record.open(folder)
            status = run.metadata.get("status")
            # A run with half the batch that was requested is the run that was requested, too.
            requested = {"config_hash": run.metadata.get("requested_hash")}
            known = (run.metadata, run.metadata | requested)
            if status in STATUSES and any(entries.items() <= each.items() for each in known):
                if status == "finished":
                    run = read_finished(folder)
                    scores = run.metadata | run.metadata["metrics"]
                    check_entries(folder / "run.json", scores, SCORES)
                runs.append(run)
    return max(runs, key=rank, default=None)


def find_own_files(folder: Path) -> Iterator[Path]:
    """What lies in a run folder under a name of ours; beside it, a logger may keep its own."""
    for path in folder.iterdir():
        if path.name in OWN_FOLDERS:
            yield from [path] if path.is_symlink() else [path, *path.rglob("*")]
        elif path.name.startswith(OWN_FILES):
            yield path


def find_temporary_files(folder: Path) -> Iterator[Path]:
    """What `atomic_write` left in a folder, or below it, when its process was killed."""
    pattern = re.compile(r"\..+\.\d+", re.DOTALL)
    paths = (path for path in folder.rglob(".*") if pattern.fullmatch(path.name))
    return (path for path in paths if path.is_file() and not path.is_symlink())


def check_files(folder: Path) -> None:
    """Raise UserError at a link, and at a file that would block its reader or fill its memory.

    So nothing outside a folder is read, or written, by a command that is given the folder.
    """
    for path in find_own_files(folder):
        try:
            if path.is_symlink() or not path.is_dir():
                check_regular_file(path)
        except OSError as error:
            raise UserError(f"{error}; delete it, or put a plain file or folder there") from error


def read_finished(folder: Path) -> Record:
    """The record of a finished run, with metadata as `REQUIRED_METADATA` and `OPTIONAL_METADATA`
    have them; an optional entry that is missing is None.

    Raises UserError where the run is not finished, or where an entry breaks its rule.
    """
    record = Record.open(folder)
    check_files(folder)
    status, error = (record.metadata.get(name) for name in ("status", "error"))
    if status != "finished":
        reason = f" ({error})" if error else ""
        raise UserError(f"{folder}: not finished, its status is {format_value(status)}{reason}")
    optional = {name: rule.or_null() for name, rule in OPTIONAL_METADATA.items()}
    check_entries(folder / "run.json", record.metadata, REQUIRED_METADATA | optional)
    record.metadata = dict.fromkeys(OPTIONAL_METADATA) | record.metadata
    return record


def check_task(record: Record) -> None:
    """Raise UserError at a run of another task than one label an image."""
    if task := record.metadata.get("task"):
        raise UserError(
            f"{record.folder}: of the task {format_value(task)}; only runs of one label an image "
            "can be shown here"
        )


def check_entries(path: Path, entries: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise UserError at the first entry, of those read from a file, that breaks its rule."""
    for name, rule in rules.items():
        if not rule.holds(value := entries.get(name)):
            raise UserError(f"{path}: {name} must be {rule.says}, it is {format_value(value)}")


def describe_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the images now differ from those of a run, as far as both `run.json` say."""
    counts = [sum(m[f"num_{split}"] for split in ("train", "val", "test")) for m in (before, now)]
    more = counts[1] - counts[0]
    word = "added" if more > 0 else "removed"
    were = "image was" if abs(more) == 1 else "images were"
    lines = [f"{abs(more)} {were} {word} since the run" if more else "as many images, but others"]
    for one, other, word in ((now, before, "new"), (before, now, "gone")):
        if classes := sorted({*one["classes"]} - {*other["classes"]}):
            lines.append(f"{word}: class {', '.join(classes[:5])}")
    return "; ".join(lines)


def sanitize(value: Any, depth: int = 0) -> Any:
    """The value, each string in it on one line of printable letters that UTF-8 can encode.

    Raises UserError where lists and mappings are nested deeper than `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {sanitize(key): sanitize(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [sanitize(inner, depth + 1) for inner in value]
    return sanitize_text(" ".join(value.split())) if isinstance(value, str) else value


def is_locked(folder: Path) -> bool:
    """Whether a living process holds the run folder's lock."""
    try:
        with open(folder / ".lock", opener=open_no_follow) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # others: no such file, or a file system without locks
        return isinstance(error, BlockingIOError)
    return False
