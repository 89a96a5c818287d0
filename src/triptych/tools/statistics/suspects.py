"""A comparison without test images of doubtful truth, and whatever their true classes may be.

Which images these are was fixed before any result of what is compared, else the list makes one.

Shapes: n seeds of a recipe, N images, K of them that are no suspects, C classes.
"""

import numpy as np
from numpy.typing import NDArray

from triptych.tools.statistics.inference import Interval


def spread_over_all(values: NDArray[np.float64], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values (n, N) whose means are those of `values` (n, K), for the images of `keep` (N,).

    Their scatter is that of a mean over images of which so many happen to be no suspects; less the
    values of all images they are the shift from leaving the suspects out.
    """
    means = values.mean(axis=1, keepdims=True)
    spread = np.repeat(means, len(keep), axis=1)
    spread[:, keep] += (values - means) * (len(keep) / values.shape[1])
    return spread


def bound_by_labels(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    labels: NDArray[np.int64],
    suspect: NDArray[np.bool_],
    num_classes: int,
) -> Interval:
    """The least and the greatest difference of accuracies that labels of the suspects could give.

    `a` and `b` are classes (n, N) that the seeds of each predicted, `labels` (N,) those given,
    `suspect` (N,) says whose label may be any of the classes. Exact, not an interval of chance.
    """
    certain, classes = ~suspect, np.arange(num_classes)
    right = ((each[:, certain] == labels[certain]).mean(axis=0) for each in (a, b))
    votes = ((each[:, suspect, None] == classes).mean(axis=0) for each in (a, b))
    known, gain = float(np.subtract(*right).sum()), np.subtract(*votes)
    low, high = (float(best(axis=1).sum()) for best in (gain.min, gain.max))
    return Interval((known + low) / len(labels), (known + high) / len(labels))
