"""What a comparison draws or shows beside its table, as plain numbers and arrays.

Shapes: C classes, E epochs, B bins of confidence. Fractions are in [0, 1]. Strings may come out of
somebody's run folder: whoever shows them escapes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.tools.evaluate.degradation import Degradation, Outcomes, VariantAccuracy
from triptych.tools.evaluate.findings import Slice


@dataclass(frozen=True)
class WithInterval:
    """A value and its interval, 95 % unless its owner says otherwise; None without an interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """A run's course, at the end of each epoch; NaN where an epoch was not measured."""

    label: str
    epochs: NDArray[np.int64]  # (E,), from 1
    train_loss: NDArray[np.float64]  # nats
    val_loss: NDArray[np.float64]
    val_accuracy: NDArray[np.float64]
    best_epoch: int | None


@dataclass(frozen=True)
class Confused:
    """How many test images of one class were taken for another, over all seeds of a recipe."""

    true: str
    predicted: str
    count: int
    fraction: float  # of the images of the true class


@dataclass(frozen=True)
class ImageTypes:
    """How one trained network fares on image types."""

    label: str
    rows: tuple[VariantAccuracy, ...]  # of image_types.csv
    degradations: Mapping[str, Degradation]  # by type, then `all`; empty where not measured
    outcomes: Outcomes | None  # image by image; None where they were not kept


@dataclass(frozen=True)
class LostMore:
    """How much more accuracy image types cost network a than b, tried on the same images."""

    a: str
    b: str
    num_images: int
    by_type: Mapping[str, Degradation]  # of the types of both, then `all`


@dataclass(frozen=True)
class Losses:
    """Pairs of the networks that were tried on image types: described, not tested."""

    sentences: tuple[str, ...]  # they say too who was tried on other images
    pairs: tuple[LostMore, ...]


@dataclass(frozen=True)
class Slices:
    """One trained network on thirds of the unmodified test images."""

    label: str
    parts: tuple[Slice, ...]  # of evaluation.json


@dataclass(frozen=True)
class Agreement:
    """How the networks of table (i) share the test images."""

    networks: tuple[str, ...]
    num_images: int
    num_all_right: int
    num_all_wrong: int
    num_only_right: tuple[int, ...]  # images that this network alone gets right, in order


@dataclass(frozen=True)
class Guess:
    network: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Picture:
    """A test image and what networks took it for."""

    index: int  # in the official test set
    pixels: NDArray[np.uint8]  # (3, H, W)
    true: str
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures exist for the few test images that runs have kept; the counts are of all."""

    all_wrong: tuple[Picture, ...]  # by every network of table (i)
    num_all_wrong: int
    confident_errors: tuple[Picture, ...]  # most confident first; one guess each


@dataclass(frozen=True)
class Study:
    """Why the study's Table 1 (`evaluation.paper.TABLE_1`) differs from ours (the rows)."""

    finding: tuple[str, ...]  # sentences


@dataclass(frozen=True)
class GradCam:
    label: str  # of the network
    png: bytes
