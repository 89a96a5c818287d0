"""`verify=<page or verdict.json>`: its numbers, computed again from the run folders.

The file is anybody's: data until checked, and nothing of it is executed. Runs are looked for where
it names them, relative to the file or a folder above it too, and below `runs`; one that was moved
is known by the digest of its predictions.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from triptych.config import NAMES, TEXT, Config, Rule, check_config, count, format_value
from triptych.errors import UserError
from triptych.runs.reader import (
    MAPPING,
    check_entries,
    find_run_folders,
    read_records,
    sanitize,
)
from triptych.runs.storage import check_regular_file
from triptych.tools.compare.claims import Answer
from triptych.tools.compare.content import BaseComparison
from triptych.tools.compare.guests import File, find_files
from triptych.tools.compare.planned import has_diverged
from triptych.tools.compare.runs import hash_file
from triptych.tools.compare.settings import RULES
from triptych.tools.compare.verdict import SCHEMA, write_outcomes, write_verdict

log = logging.getLogger(__name__)
BLOCK = re.compile(
    r'<script type="application/json" id="(verdict|outcomes)\.json">(.*?)</script>', re.S
)
MAX_SHOWN = 20  # differences
TOLERANCE = 1e-12  # relative
MAX_DIGITS = 18  # of a whole number: Python's own have no end, and are slow then
# What may differ: when, where and by whom it was made. Limits name folders that were left out.
APART = {*"made_at version command folder file settings limits".split()}
WORDS = {*"question sentences departures".split()}  # which another version writes otherwise
RUNS = Rule("a list of runs", lambda v: type(v) is list and v != [] and all(map(MAPPING.holds, v)))
DOCUMENT = {
    **{"schema": Rule(f"{SCHEMA}", lambda v: v == SCHEMA), "version": TEXT},
    **{"settings": MAPPING, "runs": RUNS, "sentences": NAMES},
}
RUN = {**dict.fromkeys(("name", "recipe", "folder", "digest"), TEXT), "seed": count(0).or_null()}
Compute = Callable[[Config], BaseComparison]
Answers = Callable[[Config, BaseComparison], tuple[BaseComparison, Sequence[Answer]]]


class Found(NamedTuple):
    """A run as it is now."""

    path: Path  # its folder; of others' predictions their file
    digest: str  # of its predictions


def verify(config: Config, compute: Compute, answer: Answers) -> Path:
    """Set the file `config["verify"]` against what `compute` and `answer` make of the same runs.

    Raises UserError where it, or a run, cannot be read; SystemExit with 1 where something differs.
    """
    path = Path(config["verify"])
    documents = read_documents(path)
    recorded = documents["verdict"]
    found = find_runs(recorded["runs"], config, path)
    if twice := [str(each.path) for each in found if found.count(each) > 1]:
        raise UserError(f"verify={path}: {twice[0]} stands in it twice")
    changed = [
        f"runs[{n}].digest: {run['digest']} in the file, {each.digest} in {each.path}"
        for n, (run, each) in enumerate(zip(recorded["runs"], found, strict=True))
        if run["digest"] != each.digest
    ]
    try:
        settings = restore_settings(recorded, found, config, path)
        comparison = compute(settings)
        if len(comparison.networks) < len(found):
            raise UserError("\n".join(f"{p.folder}: {p.what}" for p in comparison.problems))
        comparison, answers = answer(settings, comparison)
    except UserError as error:
        if not changed:
            raise
        report(path, [*changed, *str(error).splitlines()])
    texts = {
        "verdict": write_verdict(replace(comparison, settings={}), answers),
        "outcomes": write_outcomes(comparison),
    }
    recomputed = {name: sanitize(json.loads(texts[name])) for name in documents}
    if recorded["settings"].get("require_log"):  # their levels depend on what else was tried
        log.info("claims: not compared, they were tested at the levels of a log")
        recorded["claims"] = recomputed["verdict"]["claims"]
        recorded["sentences"] = recorded["sentences"][: len(recomputed["verdict"]["sentences"])]
    is_same_version = recorded["version"] == comparison.version
    if not is_same_version:
        log.info("made by version %s: its words are not compared", recorded["version"])
    report(path, [*list_differences(documents, recomputed, is_same_version)])
    numbers = f"{count_numbers(recomputed):,} numbers"
    what = f"the data of {path}" if "outcomes" in documents else path
    log.info("%s: equal, %s recomputed from %d networks' predictions", what, numbers, len(found))
    return path


def report(path: Path, differences: Sequence[str]) -> None:
    """Print what differs, if anything does, and end with 1."""
    if differences:
        for line in differences[:MAX_SHOWN]:
            log.info("%s", line)
        if len(differences) > MAX_SHOWN:
            log.info("and %d more", len(differences) - MAX_SHOWN)
        log.info("%s: differs from its runs", path)
        raise SystemExit(1)


def read_documents(path: Path) -> dict[str, Any]:
    """The verdict that a page carries, with its outcomes, or that a JSON file is.

    Raises UserError where there is none, or another than can be computed again.
    """
    try:
        text = check_regular_file(path).read_text(encoding="utf-8")
        is_json = path.suffix.lower() == ".json"
        parts = {"verdict": text} if is_json else dict(BLOCK.findall(text)[::-1])
        documents = {
            name: sanitize(json.loads(t, parse_int=parse_int)) for name, t in parts.items()
        }
    except (OSError, ValueError, RecursionError, UserError) as error:
        raise UserError(f"verify={path}: cannot be read ({error})") from error
    if "verdict" not in documents:
        raise UserError(
            f"verify={path}: neither a page of compare with its data nor a verdict.json"
        )
    label, recorded = Path(f"verify={path}"), documents["verdict"]
    check_entries(label, recorded if MAPPING.holds(recorded) else {}, DOCUMENT)
    for run in recorded["runs"]:
        check_entries(label, run, RUN)
    return documents


def parse_int(digits: str) -> float:
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def find_runs(runs: Sequence[dict[str, Any]], config: Config, path: Path) -> list[Found]:
    """Each where it is named, if its predictions are those of then; else where they are now.

    Raises UserError where a run is gone.
    """
    found, elsewhere = [], digest_all(find_elsewhere(config))
    for run in runs:
        places = [*digest_all(find_near(run["folder"], path)), *elsewhere]
        best = max(places, key=partial(rate, run), default=None)
        if best is None or not any(rate(run, best)):
            where = "runs=<folder> (of predictions: predictions=<files>) says where it is now"
            raise UserError(
                f"verify={path}: no predictions of {run['name']} at {run['folder']}\n{where}"
            )
        found.append(best)
    return found


def rate(run: dict[str, Any], found: Found) -> tuple[bool, bool]:
    """Whether it has the predictions of a run, and whether it has its name."""
    return found.digest == run["digest"], found.path.name == Path(run["folder"]).name


def digest_all(paths: Sequence[Path]) -> list[Found]:
    """Those that have predictions."""
    return [Found(path, digest) for path in paths if (digest := compute_digest(path))]


def find_near(place: str, path: Path) -> list[Path]:
    """What a path in a file may name: seen from here, from the file, or from a folder above it."""
    places = dict.fromkeys(above / place for above in (Path(), *path.resolve().parents))
    return [each for each in places if os.path.exists(each)]


def find_elsewhere(config: Config) -> list[Path]:
    """The runs, and the files of predictions, that the command line names."""
    files = find_files(config["predictions"], None) if config["predictions"] else []
    return [*find_run_folders(config["runs"]), *(file.path for file in files)]


def compute_digest(path: Path) -> str:
    """Of the predictions in a run folder, or of a file of predictions; empty without them."""
    file = path if path.is_file() else path / "predictions" / "test.npz"
    try:
        return hash_file(check_regular_file(file))
    except OSError:
        return ""


def restore_settings(
    recorded: dict[str, Any], found: Sequence[Found], config: Config, path: Path
) -> Config:
    """The checked settings of the comparison, of runs and files where they are now."""
    given = {name: v for name, v in recorded["settings"].items() if name in RULES}
    for name in ("labels", "suspects", "plan"):
        if type(place := given.get(name)) is str:
            given[name] = str(next(iter(find_near(place, path)), place))
        given[name] = config[name] or given.get(name)
    if given.get("require_log"):
        given |= {"require_log": None, "require": None}
    guests = sorted(  # as they lie in a folder
        File(each.path, run["recipe"], run["seed"])
        for run, each in zip(recorded["runs"], found, strict=True)
        if not each.path.is_dir()
    )
    given |= {"predictions": [str(guest.path) for guest in guests] or None}
    settings = config | given | {"verify": None, "out": None}
    try:
        check_config(settings, "compare")
    except UserError as error:
        raise UserError(f"verify={path}: {error}") from error
    folders = [each.path for each in found if each.path.is_dir()]
    if folders and recorded.get("plan"):  # its runs that diverged count, without predictions
        start = os.path.commonpath([folder.resolve().parent for folder in folders])
        folders += [each.folder for each in read_records(Path(start)) if has_diverged(each)]
    return settings | {"runs": [*map(str, folders)], "predictions": guests}


def list_differences(
    recorded: Any, now: Any, is_same_version: bool, place: str = ""
) -> Iterator[str]:
    """A line for each value that is not as it was, by its keys."""
    if type(recorded) is type(now) and isinstance(now, dict | list):
        before, after = (list_entries(each, is_same_version) for each in (recorded, now))
        for key in before | after:
            inner = f"{place}[{key}]" if type(key) is int else f"{place}.{key}".lstrip(".")
            if key not in after:
                yield f"{inner}: in the file alone"
            elif key in before:
                yield from list_differences(before[key], after[key], is_same_version, inner)
            elif is_same_version or type(key) is int:  # another version may have keys more
                yield f"{inner}: not in the file"
    elif not is_equal(recorded, now):
        yield f"{place}: {format_value(recorded)} in the file, {format_value(now)} recomputed"


def list_entries(value: Any, is_same_version: bool) -> dict[Any, Any]:
    """Of a list by place, of a mapping by key, without those that may differ."""
    if isinstance(value, list):
        return dict(enumerate(value))
    left_out = APART if is_same_version else APART | WORDS
    return {key: inner for key, inner in value.items() if key not in left_out}


def is_equal(recorded: Any, now: Any) -> bool:
    """Numbers within what another machine may round otherwise."""
    if {type(recorded), type(now)} <= {int, float}:
        return math.isclose(recorded, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 1000)
    return type(recorded) is type(now) and bool(recorded == now)


def count_numbers(value: Any) -> int:
    if isinstance(value, dict | list):
        return sum(map(count_numbers, value.values() if isinstance(value, dict) else value))
    return int(type(value) in (int, float))
