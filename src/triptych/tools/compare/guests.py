"""Anybody's networks, of which the answers for the test images are known and nothing else.

Each becomes a network like that of a run, whose unknown metadata are None. Answers are matched with
the true classes by id where both have ids, else by place.

Shapes: N images, C classes.
"""

import glob
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from triptych.config import CONFIGS
from triptych.errors import UserError, list_first
from triptych.runs.predictions import ClassPredictions, Predictions, read_files
from triptych.runs.reader import MAX_CLASSES, OPTIONAL_METADATA, REQUIRED_METADATA, sanitize
from triptych.tools.compare.answers import READERS, Answers, find_logits, read_answers, split_csv
from triptych.tools.compare.runs import Problem, TrainedNetwork, describe_problem, read_run
from triptych.tools.statistics.scores import Scores, score_predictions

SEED = re.compile(r"[-_. ]*seed[-_= ]?(\d{1,9})(?!\d)", re.IGNORECASE)
TABLE = {"file", "name", "seed"}  # columns of a table of files
MAX_FILES = 1000
MAX_HEAD = 1000  # letters of a table's first line
MAX_SHOWN = 80  # letters of a name in a message
MIN_IMAGES = 50  # of which an order other than that of the labels can be suspected
CHANCE_Z = 3.0  # standard errors above guessing that a network of the right order exceeds
METADATA = (*REQUIRED_METADATA, *OPTIONAL_METADATA)


class File(NamedTuple):
    """A file of answers and whose they are; without a seed in its name, None."""

    path: Path
    name: str
    seed: int | None


@dataclass(frozen=True, eq=False)
class Truth:
    """The true classes of test images, in the order of their index."""

    labels: NDArray[np.int64]  # (N,)
    index: NDArray[np.int64]  # (N,), ascending
    data: str
    classes: tuple[str, ...]  # names; empty where not known
    listed: NDArray[np.int64]  # (N,), where each image stands among the labels that were read
    num_listed: int  # of these
    ids: Sequence[str] = ()
    test_hash: str = ""
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Guest(TrainedNetwork):
    """A network of which the answers are known alone; its folder is their file."""

    is_guest = True
    gave: str  # "classes", "probabilities" or "logits"
    ids: Sequence[str] = ()  # of the test images, where they have some

    @property
    def predictions_file(self) -> Path:
        return self.folder

    def read_files(self) -> dict[int, str] | None:
        return dict(zip(self.test.index.tolist(), self.ids, strict=True)) if self.ids else None


def read_guests(
    places: str | Sequence[str | File], labels: str | None, runs: Sequence[TrainedNetwork]
) -> tuple[list[Guest], list[Problem]]:
    """The networks that can be shown beside the runs, and in a line each what is wrong with files.

    Raises UserError where no file is there, or the true classes are not known.
    """
    answers: dict[File, Answers] = {}
    problems: list[Problem] = []
    for file in find_files(places, labels):
        try:
            for other in answers:
                if (other.name, other.seed) == (file.name, file.seed):
                    raise UserError(f"left out: {other.path} has the same name and seed")
            answers[file] = read_answers(file.path)
        except UserError as error:
            problems.append(describe_problem(file.path, error))
    if not answers:
        return [], problems
    truth = find_truth(labels, runs, answers)
    truth, num_classes = find_classes(truth, answers.values())
    guests = []
    for file in [*answers]:
        try:  # of large arrays one at a time is there twice
            guest, notes = make_guest(file, answers.pop(file), truth, num_classes)
            problems += [describe_problem(file.path, note) for note in notes]
            guests.append(guest)
        except UserError as error:
            problems.append(describe_problem(file.path, error))
    return guests, problems


def find_files(places: str | Sequence[str | File], labels: str | None) -> list[File]:
    """Each file of answers once: those named, in a table, in a folder or below it; not `labels`.
    Those that are named already stay so."""
    files: dict[str, File] = {}
    for place in [places] if isinstance(places, str) else places:
        if isinstance(place, File):
            files[os.path.realpath(place.path)] = place
            continue
        for path in [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True)):
            for file in expand(Path(path)):
                files.setdefault(os.path.realpath(file.path), file)
    if labels:
        files.pop(os.path.realpath(labels), None)
    if not 0 < len(files) <= MAX_FILES:
        shown = places if isinstance(places, str) else ",".join(map(str, places))
        usual = f"no file there ends with {', '.join(READERS)}"
        reason = f"more than {MAX_FILES} files" if files else usual
        raise UserError(f"predictions={shown}: {reason}")
    return [*files.values()]


def expand(path: Path) -> Iterator[File]:
    """The files at or below a path, those of tables first; not those of an earlier comparison."""
    paths = [path]
    if path.is_dir():
        paths = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in READERS]
        paths = [each for each in paths if not (each.parent / "comparison.md").exists()]
        if any(each.name == "run.json" for each in paths):
            raise UserError(f"predictions={path}: holds runs; name them with runs=")
    tables = {each: read_table(each) for each in paths if each.is_file()}
    yield from (file for rows in tables.values() for file in rows)
    yield from (name_file(each) for each, rows in tables.items() if not rows)


def name_file(path: Path) -> File:
    """resnet50_seed3.npz, resnet50-seed3.json, resnet50/seed3.csv: resnet50, 3."""
    found = SEED.search(path.stem)
    name = SEED.sub("", path.stem, count=1) or path.absolute().parent.name
    return File(path, sanitize(name), int(found[1]) if found else None)


def read_table(path: Path) -> list[File]:
    """Of a CSV file with the column `file`, and `name` or `seed`, its rows; else nothing."""
    if path.suffix.lower() != ".csv":
        return []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = {*re.split("[,;\t]", file.readline(MAX_HEAD).strip().lower().replace('"', ""))}
    if not {"file"} < head <= TABLE:
        return []
    header, lines = split_csv(path)
    files = []
    for number, line in enumerate(lines, 2):
        row = dict(zip(map(str.lower, header), line, strict=True))
        usual = name_file(path.parent / row["file"])
        seed = row.get("seed") or ""
        if not row["file"] or (seed and not re.fullmatch(r"\d{1,9}", seed)):
            raise UserError(
                f"predictions={path}: row {number} names no file, or {seed} as its seed"
            )
        name = sanitize(row.get("name") or "") or usual.name
        files.append(File(usual.path, name, int(seed) if seed else usual.seed))
    return files


def find_truth(
    labels: str | None, runs: Sequence[TrainedNetwork], answers: dict[File, Answers]
) -> Truth:
    """The true classes: of `labels`, else of the runs, else of a file that has them."""
    names = next((tuple(run.metadata["classes"]) for run in runs if run.metadata["classes"]), ())
    if labels:
        truth = read_truth(labels, names)
    elif runs:
        truth = take_truth(runs[0])
    else:
        own = next(((file, each) for file, each in answers.items() if each.truth is not None), None)
        if own is None:
            raise UserError(
                "labels=null: must be given, a file of the true classes or a data set such as "
                "labels=cifar10"
            )
        truth = order_truth(own[1], own[0].path.name, ())
    for run in runs:
        if beside := stand_beside(truth, run):
            return beside
    return truth


def read_truth(labels: str, names: tuple[str, ...]) -> Truth:
    """The true classes that a file has, or a run's folder, or a data set, chosen by its word."""
    path = Path(labels)
    if (path / "run.json").is_file():
        return take_truth(read_run(path))
    if not path.is_file():
        return read_data_set(labels)
    try:
        return order_truth(read_answers(path), path.name, names)
    except UserError as error:
        raise UserError(f"labels={error}") from error


def read_data_set(word: str) -> Truth:
    """The official test labels, from disk alone."""
    from hydra.utils import instantiate  # it imports torch, with the source

    config = OmegaConf.create({"data": OmegaConf.load(CONFIGS / "data" / f"{word}.yaml")})
    try:
        source = instantiate(OmegaConf.to_container(config.data.source, resolve=True))
    except OmegaConfBaseException:
        reason = "may be any images; give a file of their true classes"
        raise UserError(f"labels={word}: {reason}") from None
    if missing := source.missing():
        raise UserError(f"labels={word}: not on disk: {missing}\nDATA_DIR says where data lie")
    images = source.read()
    labels = images.test.labels.numpy()
    index = np.arange(len(labels))
    return Truth(labels, index, word, tuple(images.classes), index, len(index))


def take_truth(run: TrainedNetwork) -> Truth:
    test, metadata = run.test, run.metadata
    places, files = np.arange(len(test.labels)), read_files(run.folder, test) or {}
    classes = tuple(metadata["classes"] or ())
    truth = Truth(test.labels, test.index, metadata["data"], classes, places, len(places))
    ids, test_hash = [*files.values()], metadata["test_hash"]
    return replace(truth, ids=ids, test_hash=test_hash, groups=test.groups)


def order_truth(answers: Answers, data: str, names: tuple[str, ...]) -> Truth:
    """Of a file; where its ids are numbers, by them. `names` of classes are those of the runs."""
    values = answers.values if answers.truth is None else answers.truth
    if values.ndim != 1:
        raise UserError(f"{data}: has values {values.shape}; must be true classes (N,)")
    if values.dtype.kind == "U":
        present = {*values.tolist()}
        classes = names if present <= {*names} else tuple(sorted(present))
    else:
        classes = names if values.max() < len(names) else ()
    labels = number_classes(values, classes, MAX_CLASSES)
    listed = index = np.arange(len(labels))
    ids = answers.ids or ()
    if ids and all(each.isdecimal() and len(each) < 18 for each in ids):
        numbers = np.array(ids, dtype=np.int64)
        listed = np.argsort(numbers)
        index = numbers[listed]
    ids = [ids[place] for place in listed] if ids else ()
    groups = None if answers.groups is None else answers.groups[listed]
    truth = Truth(labels[listed], index, sanitize(data), classes, listed, len(labels), ids)
    return replace(truth, groups=groups)


def stand_beside(truth: Truth, run: TrainedNetwork) -> Truth | None:
    """The truth of a run's images, where all are among these and their labels are the same."""
    places = np.searchsorted(truth.index, run.test.index).clip(max=len(truth.index) - 1)
    for ours, its in ((truth.index, run.test.index), (truth.labels, run.test.labels)):
        if not np.array_equal(ours[places], its):
            return None
    beside = take_truth(run)
    ids = [truth.ids[place] for place in places] if truth.ids else beside.ids
    if beside.groups is None and truth.groups is not None:
        beside = replace(beside, groups=truth.groups[places])
    return replace(beside, ids=ids, listed=truth.listed[places], num_listed=truth.num_listed)


def find_classes(truth: Truth, answers: Iterable[Answers]) -> tuple[Truth, int]:
    """How many classes there are, with their names where any file has them."""
    if truth.classes:
        return truth, len(truth.classes)
    least = max(int(truth.labels.max()) + 1, 2)
    widths = Counter(each.values.shape[1] for each in answers if each.values.ndim == 2)
    usual = max(widths, key=lambda width: (widths[width], -width), default=least)
    num_classes = max(least, usual)
    named = (each.columns for each in answers if len(each.columns) == num_classes)
    names = next((names for names in named if not any(map(str.isdecimal, names))), ())
    return replace(truth, classes=names), num_classes


def make_guest(
    file: File, answers: Answers, truth: Truth, num_classes: int
) -> tuple[Guest, list[str]]:
    """The network, and what must be said of its file."""
    places, *notes = find_places(answers, truth)
    if answers.truth is not None:
        own = number_classes(answers.truth[places], truth.classes, num_classes)
        if differing := int((own != truth.labels).sum()):
            raise UserError(
                f"its labels of {differing:,} of {len(own):,} images differ from those of the "
                "others: other images, or another order of images or classes"
            )
    values, gave = answers.values[places], "classes"
    given = (truth.labels, truth.index, truth.groups)
    logits = None
    if values.ndim == 2:
        values = order_columns(values, answers.columns, truth.classes, num_classes)
        logits, gave, note = find_logits(values, answers.what)
        notes.append(note)
        values = values.argmax(axis=1) if logits is None else values
    if logits is None:
        classes = number_classes(values, truth.classes, num_classes)
        nothing = np.broadcast_to(np.float32(np.nan), (len(classes), num_classes))
        test: Predictions = ClassPredictions(nothing, *given, answers=classes)
    else:
        test = Predictions(logits, *given)
    scores = score_predictions(test)
    notes += [find_guessing(scores, truth.classes), find_excluded(test)]
    metadata = dict.fromkeys(METADATA) | {
        "model": file.name,
        "data": truth.data,
        "seed": file.seed,
        "test_hash": truth.test_hash or truth.data,
        "group_hash": f"{file.name}, {'seeds' if file.seed is not None else 'one network'}",
        "classes": sanitize([*truth.classes]) or None,
        "num_test": len(truth.labels),
        "metrics": {},
    }
    guest = Guest(file.path, metadata, {}, test, scores, file.name, gave=gave, ids=truth.ids)
    return guest, [note for note in notes if note]


def find_places(answers: Answers, truth: Truth) -> tuple[NDArray[np.int64], str]:
    """Where the answer for each image stands (N,), and what must be said of answers left over."""
    num, num_images = len(answers.values), len(truth.labels)
    if answers.ids is None:
        if num == truth.num_listed:
            return truth.listed, ""
        if num == num_images:
            return np.arange(num), ""
        raise UserError(f"has {num:,} answers for {truth.num_listed:,} test images, and no ids")
    places = {each: place for place, each in enumerate(answers.ids)}
    numbers = [*map(str, truth.index.tolist())]
    known = (each for each in (truth.ids, numbers) if places.keys() & {*each})
    ids = next(known, truth.ids or numbers)
    missing = [each for each in ids if each not in places]
    if missing:
        shown, own = sanitize([list_first(missing), list_first(answers.ids, 1)])
        lacks = f"lacks {len(missing):,} of {num_images:,} ids of the labels: {shown}"
        raise UserError(f"{lacks}; its own are {own}")
    left = num - num_images
    note = f"{left:,} of its {num:,} ids are not among the labels: left out" if left else ""
    return np.array([places[each] for each in ids]), note


def number_classes(
    values: NDArray[Any], classes: Sequence[str], num_classes: int
) -> NDArray[np.int64]:
    """Classes (N,) as places among these; raises UserError at one that is none of them."""
    if values.dtype.kind != "U":
        if (most := int(values.max())) >= num_classes:
            raise UserError(f"has the class {most}; there are {num_classes}, from 0")
        return values
    if not classes:
        raise UserError("has names of classes, where the labels are numbers")
    numbers = {name: number for number, name in enumerate(classes)}
    if unknown := sorted({*values.tolist()} - numbers.keys()):
        shown = sanitize(list_first([name[:MAX_SHOWN] for name in unknown]))
        raise UserError(f"has {shown}: none of the {len(classes)} classes {list_first(classes)}")
    return np.array([numbers[name] for name in values.tolist()])


def order_columns(
    values: NDArray[Any], columns: Sequence[str], classes: Sequence[str], num_classes: int
) -> NDArray[Any]:
    """Values (N, C) in the order of the classes, where their columns have the classes' names."""
    if values.shape[1] != num_classes:
        raise UserError(f"has {values.shape[1]} columns for {num_classes} classes")
    names = [*classes] or [*map(str, range(num_classes))]
    before = [first.removesuffix(name) for first in columns[:1] for name in names]
    for prefix in ("", *dict.fromkeys(before)):  # prob_cat, prob_dog
        if {*columns} == {f"{prefix}{name}" for name in names}:
            return values[:, [columns.index(f"{prefix}{name}") for name in names]]
    if {*columns} & {*names}:
        other = sanitize(next(name for name in columns if name not in names))
        raise UserError(f"has the column {other[:MAX_SHOWN]}, which is no class")
    return values


def find_guessing(scores: Scores, classes: Sequence[str]) -> str:
    """What must be said of answers that are right no more often than in any other order."""
    num, right = int(scores.confusion.sum()), scores.accuracy
    shares = scores.confusion.sum(axis=0) / num, scores.confusion.sum(axis=1) / num
    by_chance = float(shares[0] @ shares[1])
    error = math.sqrt(by_chance * (1 - by_chance) / num)
    if num < MIN_IMAGES or by_chance == 1 or right > by_chance + CHANCE_Z * error:
        return ""
    numbered = f", and is {classes[0]} the first class" if classes else ""
    return (
        f"right in {right:.1%} of images, as the same answers in any order would be "
        f"({by_chance:.1%}): is it the order of the labels{sanitize(numbered)}?"
    )


def find_excluded(test: Predictions) -> str:
    """What must be said where a true class has the probability 0."""
    num_images = int(np.isneginf(test.logits[np.arange(len(test.labels)), test.labels]).sum())
    has = f"the true class of {num_images:,} of {len(test.labels):,} images has the probability 0"
    return f"{has}: its NLL is infinite, and not compared" if num_images else ""
