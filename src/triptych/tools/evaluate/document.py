"""What predictions show, as `evaluation.json` has it, and figures of it."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from triptych.callbacks import figures
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_validation
from triptych.runs.record import SCHEMA, library_versions
from triptych.runs.storage import atomic_write, replace_non_finite
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.report import diagrams
from triptych.tools.statistics.calibration import Reliability, calibrate
from triptych.tools.statistics.groups import count_groups
from triptych.tools.statistics.scores import last_batch, score_predictions

log = logging.getLogger(__name__)


def evaluate_predictions(
    run: RebuiltRun, predictions: Predictions, split: str, folder: Path, name: str
) -> dict[str, Any]:
    """What a run's predictions show: fractions, losses in nats, NaN where a value is undefined.

    Figures of them, which call the images by `name`, go into the folder.
    """
    scores = score_predictions(predictions)
    val = find_validation(run, predictions) if split != "val" else None
    calibration = calibrate(predictions, val)
    num_images = len(predictions.labels)
    heading = f"{name}, evaluated: accuracy {scores.accuracy:.2%}, {num_images} images"
    matrix = figures.confusion_matrix(scores.confusion, run.classes, heading)
    save_figure(matrix, folder, f"evaluated_{split}_confusion")
    heading = f"{run.record.metadata['model']} on {num_images} {name} images"
    diagram = diagrams.reliability_diagram(calibration, heading)
    save_figure(diagram, folder, f"evaluated_{split}_reliability")
    columns = {**scores.per_class._asdict(), "num": scores.confusion.sum(axis=1)}
    num_groups = count_groups(predictions.groups)
    document = begin_document(split, num_images) | {
        **({"num_groups": num_groups} if num_groups else {}),
        "nll": scores.nll,
        "brier": scores.brier,
        "top_k": {str(k): share for k, share in scores.top_k.items()},
        "macro": scores.macro._asdict(),
        "weighted": scores.weighted._asdict(),
        "undefined_classes": scores.undefined_classes,
        "per_class": describe_classes(run.classes, columns),
        "calibration": {
            **describe_reliability(calibration.before),
            "temperature": calibration.temperature,
            "after": calibration.after and describe_reliability(calibration.after),
        },
    }
    if split == "test":
        document["paper"] = {"num_images": last_batch(num_images), **scores.paper._asdict()}
    return document


def begin_document(split: str, num_images: int) -> dict[str, Any]:
    """What is said of every evaluation."""
    return {
        "schema": SCHEMA,
        "split": split,
        "versions": library_versions(),
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_images": num_images,
    }


def describe_classes(classes: Sequence[str], columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a class, of arrays or tensors (C,) by name."""
    rows = zip(classes, *(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(("class", *columns), row, strict=True)) for row in rows]


def find_validation(run: RebuiltRun, predictions: Predictions) -> Predictions | None:
    """The run's predictions in validation, to fit a temperature; None with a warning without."""
    try:
        return read_validation(run.record.folder, predictions.num_classes)
    except UserError as error:
        log.warning("no temperature: %s", error)
        return None


def describe_reliability(reliability: Reliability) -> dict[str, Any]:
    """The calibration error beside what a perfectly calibrated network would show."""
    return {
        "ece": reliability.error,
        "ece_low": reliability.interval.low,
        "ece_high": reliability.interval.high,
        "ece_if_calibrated": reliability.expected,
        "ece_if_calibrated_high": reliability.expected_high,
        "nll": reliability.nll,
    }


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    (folder / "figures").mkdir(exist_ok=True)
    figures.save(figure, folder / "figures" / f"{name}.png")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write with NaN and infinities as null."""
    text = json.dumps(replace_non_finite(content), indent=2, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n")
