"""Reads run folders: each run checked and compared with the others, then its optional files."""

import csv
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from triptych.config import TEXT, Config, Rule, count, format_value
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_arrays, read_predictions, read_validation
from triptych.runs.reader import MEASURED, read_finished, sanitize
from triptych.tools.compare.content import Curve, GradCam, ImageTypes, Problem
from triptych.tools.evaluate.degradation import VariantAccuracy, degradations, read_outcomes
from triptych.tools.statistics.scores import Scores, score_predictions

# How far a logged metric may lie from that of the predictions.
TOLERANCES = {"accuracy": 1e-5, "f1": 1e-5, "precision": 1e-5, "recall": 1e-5, "loss": 1e-3}
FRACTION = Rule("a number from 0 to 1", lambda v: type(v) in (int, float) and 0 <= v <= 1)
COST: dict[str, Rule] = {
    **dict.fromkeys(("num_params", "macs", "checkpoint_bytes", "peak_memory_bytes"), count(0)),
    **dict.fromkeys(("latency_ms_p50", "latency_ms_p95"), MEASURED),
    **dict.fromkeys(("throughput_images_per_second", "train_images_per_second"), MEASURED),
    **dict.fromkeys(("device", "precision"), TEXT),
    "num_threads": count(0),
}
EPOCH, SEVERITY = count(0, 10**9), count(0, 3)
CURVES = ("train/loss", "val/loss", "val/accuracy")
PNG = b"\x89PNG\r\n\x1a\n"

Read = TypeVar("Read")


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A finished run: its record, its config, and its predictions for the test images."""

    folder: Path
    metadata: dict[str, Any]  # of a `finished` record
    config: Config
    test: Predictions
    scores: Scores  # of `test`
    label: str  # the model, until a comparison gives every network a label of its own

    @property
    def recipe(self) -> tuple[object, ...]:
        """What its repetitions with other seeds share: settings, split and test images."""
        hashes = (self.metadata[f"{name}_hash"] for name in ("group", "split", "test"))
        return (*hashes, self.test.num_classes)

    @property
    def val_accuracy(self) -> float | None:
        value = self.metadata["metrics"].get("val/accuracy")
        return value if FRACTION.holds(value) else None


def read_runs(folders: Iterable[Path]) -> tuple[list[TrainedNetwork], list[Problem]]:
    """The runs that can be shown, and in a line each what is wrong with the others."""
    runs: list[TrainedNetwork] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UserError as error:
            problems.append(describe_problem(folder, error))
    for find in (find_other_images, find_repetitions):
        excluded = dict(find(runs))
        problems += [describe_problem(run.folder, reason) for run, reason in excluded.items()]
        runs = [run for run in runs if run not in excluded]
    return runs, problems


def describe_problem(folder: Path, reason: object) -> Problem:
    """In one line, which does not repeat the folder."""
    text = str(reason).replace(f"{folder}: ", "").replace(f"{folder}{os.sep}", "")
    return Problem(sanitize(str(folder)), sanitize(text))


def read_run(folder: Path) -> TrainedNetwork:
    """Read a run folder; raises UserError where it is not finished or contradicts itself."""
    record = read_finished(folder)
    metadata = sanitize(record.metadata)
    test = read_predictions(folder / "predictions" / "test.npz")
    scores = score_predictions(test)
    classes = metadata["classes"]
    if classes and len(classes) != test.num_classes:
        raise UserError(
            f"run.json: names {len(classes)} classes, its predictions have {test.num_classes}"
        )
    _check_metrics(metadata["metrics"], scores)
    label = metadata["model"]
    return TrainedNetwork(folder, metadata, sanitize(record.config), test, scores, label)


def _check_metrics(metrics: dict[str, Any], scores: Scores) -> None:
    """Raise UserError where the logged test metrics are not those of the predictions."""
    recomputed = {"accuracy": scores.accuracy, "loss": scores.nll, **scores.macro._asdict()}
    for name, value in recomputed.items():
        logged = metrics.get(f"test/{name}")
        if logged is None and name != "accuracy":
            continue
        tolerance = TOLERANCES[name] * max(1, value)
        if not MEASURED.holds(logged) or not abs(logged - value) <= tolerance:
            raise UserError(
                f"run.json: test/{name} is {format_value(logged)}, its predictions give {value:.6g}"
            )


def find_other_images(runs: list[TrainedNetwork]) -> Iterator[tuple[TrainedNetwork, str]]:
    """Runs whose labels or index differ from those of most runs with the same `test_hash`."""
    images = {run: run.test.index.tobytes() + run.test.labels.tobytes() for run in runs}
    counts: dict[str, Counter[bytes]] = defaultdict(Counter)
    for run in runs:
        counts[run.metadata["test_hash"]][images[run]] += 1
    for run in runs:
        [(most, _)] = counts[run.metadata["test_hash"]].most_common(1)
        if images[run] != most:
            yield run, "test.npz: index or labels differ from most runs of the same test_hash"


def find_repetitions(runs: list[TrainedNetwork]) -> Iterator[tuple[TrainedNetwork, str]]:
    """Runs of a config and seed that another run, which finished no earlier, has too."""
    newest: dict[tuple[object, ...], TrainedNetwork] = {}
    for run in sorted(runs, key=lambda run: (run.metadata["finished_at"], str(run.folder))):
        newest[*run.recipe, run.metadata["seed"]] = run
    for run in runs:
        other = newest[*run.recipe, run.metadata["seed"]]
        if other is not run:
            later = other.metadata["finished_at"] > run.metadata["finished_at"]
            when = "later" if later else "at the same time (a copy?)"
            yield run, f"left out: {other.folder} has the same config and seed and finished {when}"


def read_each(
    read: Callable[[TrainedNetwork], Read | None],
    networks: Iterable[TrainedNetwork],
    problems: list[Problem],
) -> Iterator[Read]:
    """What `read` gives of each network that has the file; a broken one becomes a problem."""
    for network in networks:
        try:
            content = read(network)
        except UserError as error:
            problems.append(describe_problem(network.folder, error))
            continue
        if content is not None:
            yield content


def read_first(
    read: Callable[[TrainedNetwork], Read | None],
    recipes: Iterable[Sequence[TrainedNetwork]],
    problems: list[Problem],
) -> tuple[Read, ...]:
    """What `read` gives of the first network of each recipe that has the file."""
    return tuple(
        content for recipe in recipes for content in islice(read_each(read, recipe, problems), 1)
    )


# Readers of one optional file each: None where there is no file, UserError where it is broken.


def read_cost(network: TrainedNetwork) -> dict[str, Any] | None:
    """Every figure of `COST` in `cost.json`; None for what is not there."""
    path = network.folder / "cost.json"
    if not path.exists():
        return None
    try:
        cost = dict(sanitize(json.loads(path.read_text())))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    for name, rule in COST.items():
        if not rule.or_null().holds(cost.get(name)):
            value = format_value(cost[name])
            raise UserError(f"cost.json: {name} must be {rule.says}, it is {value}")
    return {name: cost.get(name) for name in COST}


def read_val_predictions(network: TrainedNetwork) -> Predictions | None:
    exists = (network.folder / "predictions" / "val.npz").exists()
    return read_validation(network.folder, network.test.num_classes) if exists else None


def read_image_types(network: TrainedNetwork) -> ImageTypes | None:
    """Rows as `evaluate.py` left them; degradations from the images themselves."""
    path = network.folder / "image_types.csv"
    if not path.exists():
        return None
    rows = tuple(_read_csv(path, _parse_level))
    has_outcomes = (network.folder / "predictions" / "image_types.npz").exists()
    outcomes = read_outcomes(network.folder) if has_outcomes else None
    losses = sanitize(degradations(outcomes)) if outcomes else {}
    return ImageTypes(network.label, rows, losses, outcomes)


def read_curve(network: TrainedNetwork) -> Curve | None:
    """The last training loss and the validation metrics of every epoch."""
    path = network.folder / "metrics.csv"
    if not path.exists():
        return None
    epochs: dict[int, dict[str, float]] = {}
    for epoch, values in _read_csv(path, _parse_epoch):
        epochs.setdefault(epoch, {}).update(values)
    order = sorted(epochs)
    train_loss, val_loss, val_accuracy = (
        np.array([epochs[epoch].get(name, np.nan) for epoch in order]) for name in CURVES
    )
    best_epoch = network.metadata["best_epoch"]
    numbers = np.array(order, np.int64)
    return Curve(network.label, numbers, train_loss, val_loss, val_accuracy, best_epoch)


def read_pixels(network: TrainedNetwork) -> dict[int, NDArray[np.uint8]] | None:
    """Test images (3, H, W) that the run kept, by their index in the official set."""
    path = network.folder / "predictions" / "test_images.npz"
    if not path.exists():
        return None
    index, images = read_arrays(path, ("index", "images")).values()
    is_rgb = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] == 3
    if not is_rgb or 0 in images.shape[2:]:
        raise UserError(f"{path}: images must be uint8 (K, 3, H, W), they are {images.shape}")
    if index.dtype != np.int64 or index.shape != images.shape[:1]:
        raise UserError(f"{path}: index must be int64 (K,), a place an image")
    return dict(zip(index.tolist(), images, strict=True))


def read_grad_cam(network: TrainedNetwork) -> GradCam | None:
    path = network.folder / "figures" / "grad_cam.png"
    if not path.exists():
        return None
    data = path.read_bytes()
    if not data.startswith(PNG):
        raise UserError(f"{path}: not a PNG file")
    return GradCam(network.label, data)


def _read_csv(path: Path, parse: Callable[[dict[str, str]], Read]) -> list[Read]:
    try:
        with path.open(newline="") as file:
            return [parse(line) for line in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _parse_epoch(line: dict[str, str]) -> tuple[int, dict[str, float]]:
    """The epoch of a line of `metrics.csv` and what was measured there."""
    values = {name: float(line[name]) for name in CURVES if line.get(name)}
    if not all(map(MEASURED.holds, values.values())):
        raise ValueError(f"losses and accuracies must each be {MEASURED.says}")
    return _parse_count(line["epoch"], EPOCH), values


def _parse_level(line: dict[str, str]) -> VariantAccuracy:
    accuracies = [float(line[name]) for name in VariantAccuracy._fields[3:]]
    if not all(map(FRACTION.holds, accuracies)):
        raise ValueError("accuracies must be fractions")
    severity = _parse_count(line["severity"], SEVERITY)
    num_images = _parse_count(line["num_images"], count(1))
    return VariantAccuracy(sanitize(line["type"]), severity, num_images, *accuracies)


def _parse_count(text: str, rule: Rule) -> int:
    if not rule.holds(number := int(text)):
        raise ValueError(f"{format_value(text)} must be {rule.says}")
    return number
