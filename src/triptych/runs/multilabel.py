"""Predictions of any number of labels an image: scored, and written for people.

Shapes: N images, C classes, R resamples of the images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.runs import storage
from triptych.runs.predictions import Array, MultilabelPredictions

SEPARATOR = "|"  # between labels in a cell


class LabelScores(NamedTuple):
    """`values` are fractions, the loss in nats; `per_class` (C,) are NaN where undefined."""

    values: dict[str, float]
    per_class: dict[str, NDArray[np.float64]]

    @property
    def accuracy(self) -> float:
        return self.values["accuracy"]

    @property
    def undefined_classes(self) -> int:
        return int(self.values["undefined_classes"])


def score_labels(predictions: MultilabelPredictions) -> LabelScores:
    """Average precision, and F1, precision and recall at a probability of 0.5.

    Means weigh classes alike. `ap` is that of the classes with an image that shows them: without
    one it is undefined. The others are of all classes, undefined values as 0, as in scikit-learn's
    `zero_division=0`; `undefined_classes` counts those without an image or never predicted. `loss`
    is the mean binary cross-entropy of images and classes.
    """
    labels, chosen = predictions.labels > 0, predictions.predicted
    logits = predictions.logits.astype(np.float64)
    right, num_true, num_chosen = ((each).sum(0) for each in (labels & chosen, labels, chosen))
    ap = np.array(
        [average_precision(logits[:, c], labels[:, c])[0] for c in range(labels.shape[1])]
    )
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an undefined value
        f1 = 2 * right / (num_true + num_chosen)
        per_class = {
            "ap": ap,
            "f1": f1,
            "precision": right / num_chosen,
            "recall": right / num_true,
        }
    values = {
        "loss": float((np.logaddexp(0, logits) - labels * logits).mean()),
        "accuracy": float(predictions.correct.mean()),
        "ap": float(ap[num_true > 0].mean()) if num_true.any() else float("nan"),
        **{n: float(np.nan_to_num(per_class[n]).mean()) for n in ("f1", "precision", "recall")},
        "undefined_classes": int(((num_true == 0) | (num_chosen == 0)).sum()),
    }
    return LabelScores(values, per_class)


def average_precision(
    scores: NDArray[np.floating],
    labels: NDArray[np.bool_],
    counts: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """The mean, over images of a class, of the precision down to each, in the order of scores (N,).

    Equal scores come at once, as in scikit-learn. One value (R,) for each row of `counts` (R, N),
    how often a resample holds each image; one for the images as they are without. NaN without an
    image of the class.
    """
    counts = np.ones((1, len(scores)), np.uint8) if counts is None else counts
    order = np.argsort(-scores, kind="stable")
    falling = -scores[order]
    places = np.flatnonzero(labels[order])  # of the class's images
    ends = np.searchsorted(falling, falling[places], side="right") - 1  # of their ties
    gained = counts[:, order[places]]
    found = gained.cumsum(axis=1)[:, np.searchsorted(places, ends, side="right") - 1]
    seen = counts[:, order].cumsum(axis=1, dtype=np.int32)[:, ends]
    precision = np.divide(found, seen, out=np.zeros(found.shape), where=seen > 0)
    with np.errstate(invalid="ignore"):
        return np.asarray((gained * precision).sum(axis=1) / gained.sum(axis=1))


def join_labels(classes: Sequence[str], chosen: Array) -> str:
    """The names of the classes of an image, chosen (C,), in a cell."""
    return SEPARATOR.join(name for name, is_there in zip(classes, chosen, strict=True) if is_there)


def write_table(
    path: Path, classes: Sequence[str], files: Sequence[str] | None, **arrays: Array
) -> None:
    """`predictions/<split>.csv`: a row an image, with the probability of every class.

    But for validation, images with a wrong label lie beside it in `mistakes.csv`, the surest
    error first.
    """
    predictions = MultilabelPredictions(**arrays)
    index, labels, shares = predictions.index, predictions.labels, predictions.probabilities
    names = [[files[i]] for i in index] if files else [[i] for i in index.tolist()]
    cells = [
        [*name, join_labels(classes, true), join_labels(classes, chosen)]
        for name, true, chosen in zip(names, labels, predictions.predicted, strict=True)
    ]
    head = ["file" if files else "id", "labels", "prediction"]
    rows = [[*each, *row] for each, row in zip(cells, shares.round(6).tolist(), strict=True)]
    storage.write_csv(path, [[*head, *(f"probability of {name}" for name in classes)], *rows])
    if path.stem != "val":
        errors = np.abs(labels - shares).max(axis=1)
        wrong = [n for n in np.argsort(-errors, kind="stable") if not predictions.correct[n]]
        lines = [[*cells[n], round(float(errors[n]), 6)] for n in wrong]
        storage.write_csv(path.with_name("mistakes.csv"), [[*head, "largest_error"], *lines])
