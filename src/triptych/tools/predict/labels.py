"""Predictions of any number of labels an image: rows with the probability of every class.

`top` of each prediction has all classes, the most probable first.
"""

from typing import Any

from triptych.callbacks.figures import truncate
from triptych.runs.multilabel import SEPARATOR
from triptych.tools.predict.output import (
    CELL_LETTERS,
    DIGITS,
    Choice,
    Form,
    Layout,
    Prediction,
    as_json,
    cell_title,
)

THRESHOLD = 0.5  # above it an image has the label


def list_labels(prediction: Prediction) -> list[Choice]:
    return [choice for choice in prediction.top if choice.probability > THRESHOLD]


def list_columns(layout: Layout) -> list[str]:
    return ["labels", *(f"probability of {name}" for name in layout.classes)]


def list_cells(layout: Layout, prediction: Prediction) -> list[Any]:
    labels = SEPARATOR.join(sorted(choice.label for choice in list_labels(prediction)))
    shares = dict(prediction.top)
    return [labels, *(round(shares[name], DIGITS) for name in layout.classes)]


def describe(layout: Layout, prediction: Prediction) -> dict[str, Any]:
    labels = [choice.label for choice in list_labels(prediction)]
    return {"labels": labels, "probabilities": [*map(as_json, prediction.top)]}


def format_line(layout: Layout, prediction: Prediction, path: str) -> str:
    labels = [f"{name} {p:.1%}" for name, p in list_labels(prediction)]
    return f"{path}: {', '.join(labels) or 'no label'}"


def write_title(prediction: Prediction) -> str:
    """All labels; their probabilities would not fit."""
    if prediction.error:
        return cell_title(prediction)
    labels = ", ".join(choice.label for choice in list_labels(prediction))
    return truncate(labels or "no label", CELL_LETTERS)


SEVERAL_LABELS = Form(list_columns, list_cells, describe, format_line, write_title)
