"""When to name more than one class, or none: both by thresholds of validation images.

What they promise holds of images exchangeable with those that they are calibrated on; see
`conformal`. Shapes: N images of the calibration, B of others, C classes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from triptych.tools.statistics.conformal import Array, find_threshold, raps_scores

Method = Literal["lac", "raps", "classwise"]
METHODS: tuple[Method, ...] = ("lac", "raps", "classwise")


@dataclass(frozen=True, eq=False)
class ClassSets:
    """Sets that hold the true class at a rate of `level`.

    lac: the smallest ones. raps: larger on hard images. classwise: lac at the rate within every
    class. `thresholds` (C,) are of scores; infinite, so in every set, where a class had too few
    images (`num_by_class` (C,)) for one of its own, or all together had.
    """

    level: float
    method: Method
    thresholds: Array
    num_by_class: NDArray[np.int64]

    @classmethod
    def calibrate(
        cls,
        probabilities: Array,
        labels: NDArray[np.int64],
        level: float,
        method: Method = "lac",
        u: Array | None = None,
    ) -> "ClassSets":
        """Of validation images, (N, C) and (N,). `u` (N,), from 0 to 1, is of raps alone."""
        num_classes = probabilities.shape[1]
        true = score(probabilities, method, u)[np.arange(len(labels)), labels]
        if method == "classwise":
            thresholds = [find_threshold(true[labels == c], level) for c in range(num_classes)]
        else:
            thresholds = [find_threshold(true, level)] * num_classes
        counts = np.bincount(labels, minlength=num_classes)
        return cls(level, method, np.array(thresholds), counts)

    @property
    def num_images(self) -> int:
        """That its thresholds are of: of class-wise ones the fewest of a class that has one."""
        if self.method != "classwise":
            return int(self.num_by_class.sum())
        return int(min(self.num_by_class[np.isfinite(self.thresholds)], default=0))

    def select(self, probabilities: Array, u: Array | None = None) -> NDArray[np.bool_]:
        """Which classes are in the set of each image, (B, C)."""
        return np.asarray(score(probabilities, self.method, u) <= self.thresholds)


@dataclass(frozen=True)
class Rejection:
    """An answer, or "none of these" where 1 less the highest probability is above `max_doubt`.

    At least a share `keep` of images like those of the calibration is answered, on average.
    """

    keep: float
    max_doubt: float  # infinite of too few images: everything is answered

    @classmethod
    def calibrate(cls, probabilities: Array, keep: float) -> "Rejection":
        """Of validation images, (N, C)."""
        return cls(keep, find_threshold(1 - probabilities.max(axis=1), keep))

    def accept(self, probabilities: Array) -> NDArray[np.bool_]:
        """Which images are answered, (B,)."""
        return np.asarray(1 - probabilities.max(axis=1) <= self.max_doubt)


def score(probabilities: Array, method: Method, u: Array | None = None) -> Array:
    """How unlike its class each image is, (N, C)."""
    if method != "raps":
        return 1 - probabilities
    assert u is not None, "raps draws for each image"
    return raps_scores(probabilities, u)
