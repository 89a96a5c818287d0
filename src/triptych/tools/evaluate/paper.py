"""The reference study's protocol, and what it published.

The study printed accuracy over all test images, and F1, precision and recall over the last batch.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.runs.predictions import Predictions
from triptych.tools.statistics.scores import Averages, confusion_matrix, per_class

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
# How many of the last 16 test images its three confusion matrices show as classified correctly.
LAST_CORRECT = {"googlenet": 14, "alexnet": 13, "resnet50": 15}
WHY_THEY_DIFFER = (
    "The study's accuracy is over all 10,000 test images, its F1, precision and recall over the "
    "last 16 alone: the last batch of 64, with an undefined precision or recall counted as 1."
)


def paper_scores(predictions: Predictions) -> Averages:
    """F1, precision and recall of the last batch of the test set in its official order."""
    last = slice(-last_batch(len(predictions.labels)), None)
    logits, labels, index = predictions.logits, predictions.labels, predictions.index
    return paper_averages(confusion_matrix(Predictions(logits[last], labels[last], index[last])))


def paper_averages(confusion: NDArray[np.int64]) -> Averages:
    """Means over classes that are true or predicted; an undefined precision or recall counts as 1.

    An F1 is never undefined among these classes.
    """
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    means = (np.nan_to_num(each[present], nan=1.0).mean() for each in per_class(confusion))
    return Averages(*map(float, means))


def last_batch(num_images: int) -> int:
    """How many images an unshuffled loader leaves for its last batch."""
    return (num_images - 1) % BATCH_SIZE + 1
