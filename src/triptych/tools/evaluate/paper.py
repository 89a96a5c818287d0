"""The reference study's protocol, and what it published.

The study printed accuracy over all test images, and F1, precision and recall over the last batch.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.runs.predictions import Predictions
from triptych.tools.statistics.scores import confusion_matrix, per_class

BATCH_SIZE = 64


class Published(NamedTuple):
    """A row of Table 1; fractions."""

    accuracy: float
    f1: float
    precision: float
    recall: float


TABLE_1 = {
    "googlenet": Published(0.9155, 0.7071, 0.84375, 0.8333),
    "alexnet": Published(0.7514, 0.6063, 0.75, 0.8148),
    "resnet50": Published(0.8806, 0.75, 0.875, 0.875),
}
# What its three confusion matrices hold, row by row: of the last 16 images these are the labels,
# and (true, predicted) of every image that is not on the diagonal.
LAST_LABELS = (7, 5, 8, 0, 8, 2, 7, 0, 3, 5, 3, 8, 3, 5, 1, 7)
MISTAKES = {
    "googlenet": [(2, 4), (5, 3)],
    "alexnet": [(2, 4), (5, 9), (8, 3)],
    "resnet50": [(2, 4)],
}
WHY_THEY_DIFFER = (
    "The study's accuracy is over all 10,000 test images, its F1, precision and recall over the "
    "last 16 alone: the last batch of 64, with an undefined precision or recall counted as 1."
)


class PaperScores(NamedTuple):
    f1: float
    precision: float
    recall: float


def paper_scores(predictions: Predictions) -> PaperScores:
    """F1, precision and recall of the last batch of the test set in its official order."""
    last = slice(-last_batch(len(predictions.labels)), None)
    logits, labels, index = predictions.logits, predictions.labels, predictions.index
    return paper_averages(confusion_matrix(Predictions(logits[last], labels[last], index[last])))


def summarize_paper_scores(predictions: Predictions) -> str:
    """The protocol's scores in a line, with how few images they are of."""
    num_images = len(predictions.labels)
    f1, precision, recall = paper_scores(predictions)
    return (
        f"by the study's protocol (last {last_batch(num_images)} of {num_images:,} images): "
        f"F1 {f1:.4f}, precision {precision:.4f}, recall {recall:.4f}"
    )


def paper_averages(confusion: NDArray[np.int64]) -> PaperScores:
    """Means over classes that are true or predicted; an undefined precision or recall counts as 1.

    An F1 is never undefined among these classes.
    """
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    means = (np.nan_to_num(each[present], nan=1.0).mean() for each in per_class(confusion))
    return PaperScores(*map(float, means))


def last_batch(num_images: int, batch_size: int = BATCH_SIZE) -> int:
    """How many images an unshuffled loader leaves for its last batch."""
    return (num_images - 1) % batch_size + 1


def published_matrix(model: str) -> NDArray[np.int64]:
    """The confusion matrix that the study shows, over all ten classes: counts (10, 10)."""
    counts = np.diag(np.bincount(LAST_LABELS, minlength=10))
    for true, predicted in MISTAKES[model]:
        counts[true, true] -= 1
        counts[true, predicted] += 1
    return counts
