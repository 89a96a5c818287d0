"""Reads run folders: each run checked and compared with the others, then its optional files.

Shapes: C classes, E epochs. Strings come out of somebody's folder: whoever shows them escapes them.
"""

import csv
import hashlib
import io
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from triptych.config import TEXT, Config, Rule, count, format_value
from triptych.errors import UserError
from triptych.runs.predictions import (
    Predictions,
    read_arrays,
    read_files,
    read_predictions,
    read_validation,
)
from triptych.runs.reader import (
    FINITE,
    MEASURED,
    check_entries,
    check_task,
    read_finished,
    sanitize,
)
from triptych.tools.compare.formats import MAX_WORDS, join_words
from triptych.tools.evaluate import degradation
from triptych.tools.evaluate.degradation import Outcomes, VariantAccuracy
from triptych.tools.statistics.calibration import calibration_error
from triptych.tools.statistics.groups import count_groups, share_interval
from triptych.tools.statistics.inference import WithInterval
from triptych.tools.statistics.scores import Scores, score_predictions

# How far a logged metric may lie from that of the predictions.
TOLERANCES = dict.fromkeys(("accuracy", "f1", "precision", "recall", "ap"), 1e-5) | {"loss": 1e-3}
FRACTION = Rule("a number from 0 to 1", lambda v: type(v) in (int, float) and 0 <= v <= 1)
CURVES = ("train/loss", "val/loss", "val/accuracy")

# What is read of the optional files.
COST: dict[str, Rule] = {
    **dict.fromkeys(("num_params", "macs"), count(0).or_null()),
    **dict.fromkeys(("checkpoint_bytes", "peak_memory_bytes"), count(0).or_null()),
    **dict.fromkeys(("latency_ms_p50", "latency_ms_p95"), MEASURED.or_null()),
    "throughput_images_per_second": MEASURED.or_null(),
    "train_images_per_second": MEASURED.or_null(),
}
HARDWARE: dict[str, Rule] = {
    **dict.fromkeys(("device", "precision"), TEXT.or_null()),
    "num_threads": count(0).or_null(),
}
EPOCH = {"epoch": count(0, 10**9), **dict.fromkeys(CURVES, MEASURED.or_null())}
LEVEL = {"type": TEXT, "severity": count(0, 3), "num_images": count(1)}
LEVEL |= dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), FRACTION)

MAX_LINES = 300_000  # of metrics.csv: a run of 50 million batches writes as many

Read = TypeVar("Read")


class Problem(NamedTuple):
    """A folder, or a file of it, that could not be used, and why, in one line."""

    folder: str
    what: str


@dataclass(frozen=True)
class Curve:
    """A run's metrics at the end of each epoch."""

    label: str
    epochs: NDArray[np.int64]  # (E,), from 1
    metrics: Mapping[str, NDArray[np.float64]]  # `CURVES` (E,), NaN where an epoch has none
    best_epoch: int | None

    @property
    def best_accuracy(self) -> float | None:
        """In validation, at the epoch whose weights were scored."""
        values = self.metrics["val/accuracy"][self.epochs == self.best_epoch]
        return float(values[0]) if len(values) else None


@dataclass(frozen=True)
class ImageTypes:
    """The accuracy of one trained network on image types."""

    label: str
    rows: tuple[VariantAccuracy, ...]  # of image_types.csv
    degradations: Mapping[str, WithInterval]  # by type, then `all`; empty where not measured
    outcomes: Outcomes | None  # image by image; None where they were not kept


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A finished run: its record, its config, and its predictions for the test images."""

    folder: Path
    metadata: dict[str, Any]  # of a `finished` record
    config: Config
    test: Predictions
    scores: Scores  # of `test`
    label: str  # the model, until a comparison gives every network a label of its own
    cost: dict[str, Any] | None = None  # `COST` and `HARDWARE`, where measured
    is_guest: ClassVar[bool] = False  # whether nothing is known of its training

    @property
    def recipe(self) -> tuple[object, ...]:
        """What its repetitions with other seeds share: settings, split and test images."""
        hashes = (self.metadata[f"{name}_hash"] for name in ("group", "split", "test"))
        return (*hashes, self.test.num_classes)

    @property
    def num_test(self) -> int:
        return len(self.test.labels)

    @property
    def val_score(self) -> float | None:
        """Its accuracy in validation; None where it was not measured."""
        return find_val_accuracy(self.metadata)

    @property
    def num_groups(self) -> int | None:
        """Of test images that belong together."""
        return count_groups(self.test.groups)

    @property
    def accuracy(self) -> WithInterval:
        """With its interval over test images, Wilson's, or over groups of them."""
        low, high = share_interval(self.test.correct, self.test.groups)
        return WithInterval(self.scores.accuracy, float(low), float(high))

    @property
    def own_metrics(self) -> dict[str, float]:
        """As logged of the test images: metrics beside the five, those that were numbers."""
        logged = self.metadata["metrics"]
        values = {name: logged.get(f"test/{name}") for name in self.metadata["more_metrics"] or ()}
        return {name: value for name, value in values.items() if FINITE.holds(value)}

    @property
    def val_scores(self) -> dict[str, float]:
        """In validation, of the epoch whose weights were scored, by column of comparison.csv."""
        logged, more = self.metadata["metrics"], self.metadata["more_metrics"] or ()
        values = {f"val_{name}": logged.get(f"val/{name}") for name in (*TOLERANCES, *more)}
        return {name: value for name, value in values.items() if FINITE.holds(value)}

    @property
    def has_probabilities(self) -> bool:
        """Whether the test predictions are more than classes."""
        return self.test.has_probabilities

    @property
    def predictions_file(self) -> Path:
        return self.folder / "predictions" / "test.npz"

    def read_files(self) -> dict[int, str] | None:
        """The file of each test image, or its id, by its index; None where they have none."""
        return read_files(self.folder, self.test)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file of its predictions."""
        return hash_file(self.predictions_file)

    @cached_property
    def ece(self) -> float:
        """NaN where the classes alone are known."""
        return calibration_error(self.test) if self.has_probabilities else math.nan

    @property
    def costs(self) -> dict[str, Any]:
        """By name; what `cost.json` does not have comes from the record where it can."""
        seconds, epochs = self.metadata["train_seconds"], self.metadata["num_epochs"]
        trained = {
            "num_params": self.metadata["num_params"],
            "train_images_per_second": self.metadata["images_per_second"],
            "train_seconds": seconds,
            "seconds_per_epoch": seconds / epochs if seconds and epochs else None,
        }
        measured = {name: value for name, value in (self.cost or {}).items() if value is not None}
        return {name: (trained | measured).get(name) for name in (*trained, *COST)}

    @property
    def trained_on(self) -> str:
        """cpu, 32-true, 2 threads."""
        return describe_hardware(*(self.metadata[name] for name in HARDWARE))

    @property
    def measured_on(self) -> str | None:
        return describe_hardware(*(self.cost[name] for name in HARDWARE)) if self.cost else None

    @property
    def versions(self) -> str:
        """torch 2.14.1, torchvision 0.29.1."""
        versions = (self.metadata["versions"] or {}).items()
        return ", ".join(f"{name} {version}" for name, version in versions if version)


def hash_file(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_runs(
    folders: Iterable[Path], read: Callable[[Path], TrainedNetwork] | None = None
) -> tuple[list[TrainedNetwork], list[Problem]]:
    """The runs that can be shown, and in a line each what is wrong with the others.

    `read` stands in for `read_run`.
    """
    runs: list[TrainedNetwork] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            runs.append((read or read_run)(folder))
        except UserError as error:
            problems.append(describe_problem(folder, error))
    runs = share_groups(runs)
    for find in (find_other_images, find_repetitions):
        runs = exclude(runs, find, problems)
    return [replace(run, cost=read_optional(read_cost, run, problems)) for run in runs], problems


def exclude(
    runs: Sequence[TrainedNetwork],
    find: Callable[[Sequence[TrainedNetwork]], Iterable[tuple[TrainedNetwork, str]]],
    problems: list[Problem],
) -> list[TrainedNetwork]:
    """The runs less those that `find` gives, each with a reason that is noted."""
    excluded = dict(find(runs))
    problems += [describe_problem(run.folder, reason) for run, reason in excluded.items()]
    return [run for run in runs if run not in excluded]


def describe_problem(folder: Path, reason: object) -> Problem:
    """In one line, which does not repeat the folder."""
    text = str(reason).replace(f"{folder}: ", "").replace(f"{folder}{os.sep}", "")
    return Problem(sanitize(str(folder)), sanitize(text))


def describe_hardware(device: str | None, precision: str | None, num_threads: int | None) -> str:
    """What is known of them: cpu, 32-true, 2 threads."""
    threads = None if num_threads is None else f"{num_threads} thread{'s' * (num_threads != 1)}"
    known = (device, precision, threads)
    return ", ".join(word for word in known if word) or "device not known"


def find_val_accuracy(metadata: Mapping[str, Any]) -> float | None:
    """Of a finished run; None where it was not measured."""
    value = metadata["metrics"].get("val/accuracy")
    return value if FRACTION.holds(value) else None


def read_run(folder: Path) -> TrainedNetwork:
    """Read a run folder; raises UserError where it is not finished or contradicts itself."""
    record = read_finished(folder)
    check_task(record)
    metadata = sanitize(record.metadata)
    test = read_predictions(folder / "predictions" / "test.npz")
    scores = score_predictions(test)
    recomputed = {"accuracy": scores.accuracy, "loss": scores.nll, **scores.macro._asdict()}
    check_logged(metadata, test.num_classes, recomputed)
    config, label = sanitize(record.config), metadata["model"]
    return TrainedNetwork(folder, metadata, config, test, scores, label)


def check_logged(
    metadata: Mapping[str, Any], num_classes: int, recomputed: Mapping[str, float]
) -> None:
    """Raise UserError where a record is not of predictions that give these scores."""
    classes = metadata["classes"]
    if classes and len(classes) != num_classes:
        raise UserError(
            f"run.json: names {len(classes)} classes, its predictions have {num_classes}"
        )
    for name, value in recomputed.items():
        logged = metadata["metrics"].get(f"test/{name}")
        if logged is None and name != "accuracy":
            continue
        tolerance = TOLERANCES[name] * max(1, value)
        if not MEASURED.holds(logged) or not abs(logged - value) <= tolerance:
            raise UserError(
                f"run.json: test/{name} is {format_value(logged)}, its predictions give {value:.6g}"
            )


def share_groups(runs: list[TrainedNetwork]) -> list[TrainedNetwork]:
    """With the groups that others of the same `test_hash` have: they are the images' own."""
    groups = {
        run.metadata["test_hash"]: run.test.groups for run in runs if run.test.groups is not None
    }
    shared = []
    for run in runs:
        known = groups.get(run.metadata["test_hash"])
        if run.test.groups is None and known is not None and len(known) == run.num_test:
            run = replace(run, test=replace(run.test, groups=known))
        shared.append(run)
    return shared


def find_other_images(runs: Sequence[TrainedNetwork]) -> Iterator[tuple[TrainedNetwork, str]]:
    """Runs whose labels, index or groups differ from those of most with the same `test_hash`."""
    images = {
        run: b"".join(
            array.tobytes()
            for array in (run.test.index, run.test.labels, run.test.groups)
            if array is not None
        )
        for run in runs
    }
    counts: dict[str, Counter[bytes]] = defaultdict(Counter)
    for run in runs:
        counts[run.metadata["test_hash"]][images[run]] += 1
    for run in runs:
        [(most, _)] = counts[run.metadata["test_hash"]].most_common(1)
        if images[run] != most:
            yield (
                run,
                "test.npz: index, labels or groups differ from most runs of the same test_hash",
            )


def find_repetitions(runs: Sequence[TrainedNetwork]) -> Iterator[tuple[TrainedNetwork, str]]:
    """Runs of a config and seed that another run, which finished no earlier, has too."""
    newest: dict[tuple[object, ...], TrainedNetwork] = {}
    for run in sorted(runs, key=lambda run: (run.metadata["finished_at"], str(run.folder))):
        newest[*run.recipe, run.metadata["seed"]] = run
    for run in runs:
        other = newest[*run.recipe, run.metadata["seed"]]
        if other is not run:
            later = other.metadata["finished_at"] > run.metadata["finished_at"]
            when = "later" if later else "at the same time (a copy?)"
            files = find_other_code([run, other])
            code = f", by other code: {join_words(files, MAX_WORDS)}" if files else ""
            yield (
                run,
                f"left out: {other.folder} has the same config and seed and finished {when}{code}",
            )


def find_other_code(runs: Iterable[TrainedNetwork]) -> list[str]:
    """The files of code that are not the same for all runs that have them, or that changed before
    a run was resumed."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for name, states in (run.metadata["code"] or {}).items():
            hashes[name].update(str(states).split(", "))
    return sorted(name for name, different in hashes.items() if len(different) > 1)


def read_optional(
    read: Callable[[TrainedNetwork], Read | None], network: TrainedNetwork, problems: list[Problem]
) -> Read | None:
    """What `read` gives: None without the file, or where it is broken, which is a problem then."""
    try:
        return read(network)
    except UserError as error:
        problem = describe_problem(network.folder, error)
        problems += [problem] if problem not in problems else []
        return None


def read_cost(network: TrainedNetwork) -> dict[str, Any] | None:
    """Every entry of `COST` and `HARDWARE`; None for what is not there."""
    entries = read_entries(network.folder / "cost.json", COST | HARDWARE)
    return entries[0] if entries else None


def read_val_predictions(network: TrainedNetwork) -> Predictions | None:
    exists = (network.folder / "predictions" / "val.npz").exists()
    return read_validation(network.folder, network.test.num_classes) if exists else None


def read_image_types(network: TrainedNetwork) -> ImageTypes | None:
    """Rows as `evaluate.py` left them; degradations from the images themselves."""
    entries = read_entries(network.folder / "image_types.csv", LEVEL)
    if entries is None:
        return None
    if len(entries) > degradation.MAX_VARIANTS:
        raise UserError(f"image_types.csv: more than {degradation.MAX_VARIANTS} lines")
    has_outcomes = (network.folder / "predictions" / "image_types.npz").exists()
    outcomes = degradation.read_outcomes(network.folder) if has_outcomes else None
    losses = sanitize(degradation.degradations(outcomes)) if outcomes else {}
    rows = tuple(VariantAccuracy(**each) for each in entries)
    return ImageTypes(network.label, rows, losses, outcomes)


def read_curve(network: TrainedNetwork) -> Curve | None:
    """The last training loss and the validation metrics of every epoch."""
    entries = read_entries(network.folder / "metrics.csv", EPOCH)
    if entries is None:
        return None
    epochs: dict[int, dict[str, float]] = {}
    for line in entries:
        measured = {name: line[name] for name in CURVES if line[name] is not None}
        epochs.setdefault(line["epoch"], {}).update(measured)
    numbers = sorted(epochs)
    metrics = {name: np.array([epochs[n].get(name, np.nan) for n in numbers]) for name in CURVES}
    best_epoch = network.metadata["best_epoch"]
    return Curve(network.label, np.array(numbers, np.int64), metrics, best_epoch)


def has_pictures(network: TrainedNetwork) -> bool:
    return (network.folder / "predictions" / "test_images.npz").exists()


def read_pixels(network: TrainedNetwork) -> dict[int, NDArray[np.uint8]] | None:
    """Test images (3, H, W) that the run kept, by their index in the official set."""
    path = network.folder / "predictions" / "test_images.npz"
    if not path.exists():
        return None
    index, images = read_arrays(path, ("index", "images")).values()
    is_rgb = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] == 3
    if not is_rgb or 0 in images.shape[2:] or index.shape != images.shape[:1]:
        raise UserError(f"{path}: must have images uint8 (K, 3, H, W) and index (K,)")
    return dict(zip(index.tolist(), images, strict=True))


def read_pictures(
    networks: Sequence[TrainedNetwork], problems: list[Problem]
) -> tuple[dict[int, NDArray[np.uint8]], dict[int, str]]:
    """Pixels and files of the same test images by their index, of the networks that have them."""
    pixels: dict[int, NDArray[np.uint8]] = {}
    for network in networks:
        pixels |= read_optional(read_pixels, network, problems) or {}
    named = (read_optional(lambda n: n.read_files(), n, problems) for n in networks)
    return pixels, next(filter(None, named), {})


def read_grad_cam(network: TrainedNetwork) -> tuple[str, bytes] | None:
    """The network's label and a PNG."""
    path = network.folder / "figures" / "grad_cam.png"
    return (network.label, path.read_bytes()) if path.is_file() else None


def read_entries(path: Path, rules: Mapping[str, Rule]) -> list[dict[str, Any]] | None:
    """Of a JSON file its mapping, of a CSV file every line: the entries that have a rule.

    None where there is no file; raises UserError where it is broken or an entry breaks its rule.
    """
    if not path.exists():
        return None
    try:
        text = path.read_text()
        if path.suffix == ".json":
            lines = [dict(sanitize(json.loads(text)))]
        else:
            reader = csv.DictReader(io.StringIO(text, newline=""))
            lines = [_parse_line(line, rules) for line in islice(reader, MAX_LINES + 1)]
            if len(lines) > MAX_LINES:
                raise ValueError(f"more than {MAX_LINES:,} lines")
    except (OSError, ValueError, TypeError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    for line in lines:
        check_entries(path, line, rules)
    return [{name: line.get(name) for name in rules} for line in lines]


def _parse_line(line: dict[str, str], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Texts and numbers of a line of CSV; None where a cell is empty or missing."""
    cells = {name: line.get(name) or "null" for name in rules}
    return {
        name: sanitize(cell) if rules[name] is TEXT else json.loads(cell)
        for name, cell in cells.items()
    }
