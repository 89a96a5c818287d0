"""Predictions of any number of labels an image: rows with the probability of every class.

`top` of each prediction has all classes, the most probable first.
"""

import csv
import json
from typing import TextIO

from triptych.runs.multilabel import SEPARATOR
from triptych.runs.storage import escape_formulas
from triptych.tools.predict.output import (
    DIGITS,
    Choice,
    Layout,
    Prediction,
    Write,
    as_json,
    sanitize_line,
)

THRESHOLD = 0.5  # above it an image has the label


def list_labels(prediction: Prediction) -> list[Choice]:
    return [choice for choice in prediction.top if choice.probability > THRESHOLD]


def write_csv(file: TextIO, layout: Layout) -> Write:
    """A header now, then a row an image: its labels, and a column a class."""
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"probability of {name}" for name in layout.classes]
    writer.writerow(escape_formulas(["path", "labels", *columns, "error"]))

    def write(prediction: Prediction) -> None:
        labels = SEPARATOR.join(sorted(choice.label for choice in list_labels(prediction)))
        shares = dict(prediction.top)
        cells = [round(shares[n], DIGITS) if n in shares else "" for n in layout.classes]
        writer.writerow(escape_formulas([prediction.path, labels, *cells, prediction.error]))

    return write


def write_json_lines(file: TextIO, layout: Layout) -> Write:
    """An object a line, all with the same keys."""

    def write(prediction: Prediction) -> None:
        content = {
            "path": prediction.path,
            "labels": [choice.label for choice in list_labels(prediction)],
            "probabilities": [*map(as_json, prediction.top)],
            "error": prediction.error,
        }
        file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")

    return write


def write_lines(file: TextIO, layout: Layout) -> Write:
    """Lines for a person."""

    def write(prediction: Prediction) -> None:
        labels = [f"{name} {p:.1%}" for name, p in list_labels(prediction)]
        said = prediction.error or ", ".join(labels) or "no label"
        print(f"{sanitize_line(prediction.path)}: {said}", file=file)

    return write
