"""What a comparison says: the one document that page, Markdown and CSV show.

Shapes: C classes, E epochs, N images. Accuracy, F1, precision and recall are fractions in [0, 1];
None is not measured. Strings may come out of somebody's run folder: whoever shows them escapes
them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.tools.evaluate.degradation import Degradation, Outcomes, VariantAccuracy
from triptych.tools.statistics.calibration import Calibration
from triptych.tools.statistics.scores import Averages

SIGNIFICANT = 0.05


class WithInterval(NamedTuple):
    """A value and its interval, 95 % unless its owner says otherwise; NaN without an interval."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Circumstances:
    """On what a network was trained, or its cost measured."""

    device: str | None
    precision: str | None
    num_threads: int | None


@dataclass(frozen=True)
class NetworkSummary:
    """A trained network: a line of the table and of `comparison.csv`."""

    label: str  # "googlenet seed 0"
    model: str
    weights: str | None
    data: str
    seed: int
    num_test: int
    accuracy: float
    accuracy_low: float  # Wilson
    accuracy_high: float
    f1: float
    precision: float
    recall: float
    nll: float
    ece: float
    weighted: Averages
    brier: float
    top_k: Mapping[int, float]  # by k, of those no more than the classes
    paper_f1: float
    paper_precision: float
    paper_recall: float
    num_params: int | None
    macs: int | None
    checkpoint_bytes: int | None
    train_images_per_second: float | None
    seconds_per_epoch: float | None
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    throughput_images_per_second: float | None
    peak_memory_bytes: int | None
    trained_on: Circumstances
    measured_on: Circumstances | None  # None where `evaluate.py` has measured no cost
    folder: str
    metadata: Mapping[str, Any]  # of its record

    @property
    def device(self) -> str | None:
        """Where the cost was measured, else where the network was trained."""
        return (self.measured_on or self.trained_on).device

    @property
    def versions(self) -> str:
        """torch 2.14.1, torchvision 0.29.1."""
        versions = (self.metadata["versions"] or {}).items()
        return ", ".join(f"{name} {version}" for name, version in versions if version)

    @property
    def precision_mode(self) -> str | None:
        return (self.measured_on or self.trained_on).precision


@dataclass(frozen=True)
class Confusion:
    """How many test images of one class were taken for another, over all seeds of a recipe."""

    true: str
    predicted: str
    count: int
    fraction: float  # of the images of the true class


@dataclass(frozen=True)
class RecipeSummary:
    """Runs that differ in their seed alone."""

    label: str  # "googlenet", or "googlenet, optim.lr=0.01" where recipes share a model
    model: str
    networks: tuple[str, ...]  # labels of its runs, by seed
    classes: tuple[str, ...]
    num_test: int
    accuracy: WithInterval  # mean over seeds, t interval; with one seed Wilson
    confusion: NDArray[np.int64]  # (C, C), rows true, columns predicted, summed over seeds
    most_confused: tuple[Confusion, ...]
    f1: NDArray[np.float64]  # (C,), mean over seeds; NaN where undefined
    calibration: Calibration | None  # of its network of the lowest seed; of the first 10 recipes


@dataclass(frozen=True)
class Pair:
    """Two networks, or two recipes, on the same test images."""

    a: str
    b: str
    num_images: int
    num_seeds: tuple[int, int]  # (1, 1) for trained networks
    difference: WithInterval  # accuracy of a less that of b; simultaneous over the table's pairs
    p: float  # exact McNemar for networks, t for recipes
    p_holm: float  # adjusted over the table's pairs: the words follow it alone
    only_a: int | None = None  # images that a alone classifies correctly; None for recipes
    only_b: int | None = None
    f1_difference: WithInterval | None = None  # macro; None for recipes
    sentence: str = ""

    @property
    def is_significant(self) -> bool:
        return self.p_holm < SIGNIFICANT and self.difference.value != 0


@dataclass(frozen=True)
class Pairs:
    """One question, its pairs, and how they were chosen and tested."""

    question: str
    note: str
    pairs: tuple[Pair, ...]  # empty where there is nothing to compare; `note` says why


@dataclass(frozen=True)
class Setting:
    """A setting, library or device in which recipes differ; a value a recipe, in their order."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """A folder, or a file of it, that could not be used, and why, in one line."""

    folder: str
    what: str


@dataclass(frozen=True)
class Curve:
    """A run's metrics at the end of each epoch; NaN where an epoch was not measured."""

    label: str
    epochs: NDArray[np.int64]  # (E,), from 1
    train_loss: NDArray[np.float64]  # nats
    val_loss: NDArray[np.float64]
    val_accuracy: NDArray[np.float64]
    best_epoch: int | None


@dataclass(frozen=True)
class ImageTypes:
    """The accuracy of one trained network on image types."""

    label: str
    rows: tuple[VariantAccuracy, ...]  # of image_types.csv
    degradations: Mapping[str, Degradation]  # by type, then `all`; empty where not measured
    outcomes: Outcomes | None  # image by image; None where they were not kept


@dataclass(frozen=True)
class LossDifference:
    """How much more accuracy image types cost network a than b, on the same images."""

    a: str
    b: str
    num_images: int
    by_type: Mapping[str, Degradation]  # of the types of both, then `all`


@dataclass(frozen=True)
class CorrectCounts:
    """How many test images the first networks of the recipes get right."""

    networks: tuple[str, ...]
    num_images: int
    num_all_right: int
    num_all_wrong: int
    num_only_right: tuple[int, ...]  # images that this network alone gets right, in order


@dataclass(frozen=True)
class WrongPrediction:
    network: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Picture:
    """A test image and the classes that networks took it for."""

    index: int  # in the official test set
    pixels: NDArray[np.uint8]  # (3, H, W)
    true: str
    predictions: tuple[WrongPrediction, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures exist for the few test images that runs have kept; the counts are of all."""

    all_wrong: tuple[Picture, ...]  # by the first network of every recipe
    num_all_wrong: int
    confident_errors: tuple[Picture, ...]  # most confident first; one prediction each


@dataclass(frozen=True)
class GradCam:
    label: str  # of the network
    png: bytes


@dataclass(frozen=True)
class Comparison:
    """Everything that `index.html`, `comparison.md` and `comparison.csv` show."""

    title: str
    banner: str | None  # says that what is shown is not comparable
    verdict: tuple[str, ...]  # sentences, the first thing on the page
    cautions: tuple[str, ...]  # sentences: what the figures do not cover
    differing: tuple[Setting, ...]  # besides the model
    networks: tuple[NetworkSummary, ...]
    recipes: tuple[RecipeSummary, ...]
    network_pairs: Pairs
    recipe_pairs: Pairs
    curves: tuple[Curve, ...]
    image_types: tuple[ImageTypes, ...]  # empty where no run was evaluated on any
    losses: tuple[LossDifference, ...]  # pairs of networks evaluated on image types, untested
    loss_sentences: tuple[str, ...]  # they also name networks that saw other images
    correct_counts: CorrectCounts | None  # None with fewer than two networks on the same images
    gallery: Gallery | None  # None where no run has kept pixels
    study: tuple[str, ...]  # why the reference study's Table 1 differs from ours
    grad_cams: tuple[GradCam, ...]
    problems: tuple[Problem, ...]
    command: str  # that made this comparison
    made_at: str
    version: str  # of triptych
