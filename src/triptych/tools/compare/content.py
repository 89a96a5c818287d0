"""What a comparison says: the one document that page, Markdown and CSV show.

Shapes: N images of H x W pixels. Strings may come out of somebody's run folder: whoever shows them
escapes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import (
    Curve,
    ImageTypes,
    Problem,
    TrainedNetwork,
    WithInterval,
)
from triptych.tools.evaluate.degradation import Degradation

SIGNIFICANT = 0.05


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


class Pairs(NamedTuple):
    """The pairs of one question, and how they were chosen among so many recipes."""

    pairs: tuple[Pair, ...]
    num_recipes: int
    limit: int | None  # of more recipes each was tested against one only
    is_validated: bool  # that one is the best on validation data, else the first by name


@dataclass(frozen=True)
class LossDifference:
    """How much more accuracy image types cost network a than b, on the same images."""

    a: str
    b: str
    num_images: int
    by_type: Mapping[str, Degradation]  # of the types of both, then `all`


class WrongPrediction(NamedTuple):
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
class ImageByImage:
    """What the first networks of the recipes get right and wrong, all on the same test images.

    The counts are of all images; pictures exist for the few that runs have kept.
    """

    num_images: int
    num_all_right: int
    num_all_wrong: int
    num_only_right: tuple[int, ...]  # images that this network alone gets right, in order
    all_wrong: tuple[Picture, ...]
    confident_errors: tuple[Picture, ...]  # most confident first; one prediction each


@dataclass(frozen=True)
class Comparison:
    """Everything that `index.html`, `comparison.md` and `comparison.csv` show."""

    title: str
    banner: str | None  # says that what is shown is not comparable
    verdict: tuple[str, ...]  # sentences, the first thing on the page
    cautions: tuple[str, ...]  # sentences: what the figures do not cover
    differing: Mapping[str, tuple[str, ...]]  # settings besides the model: a value a recipe
    recipes: tuple[Recipe, ...]
    network_pairs: Pairs
    recipe_pairs: Pairs
    curves: tuple[Curve, ...]
    image_types: tuple[ImageTypes, ...]  # empty where no run was evaluated on any
    losses: tuple[LossDifference, ...]  # pairs of networks evaluated on image types, untested
    num_degraded: Mapping[str, int]  # images by network, where these are not the same for all
    images: ImageByImage | None  # None where recipes have other test images or classes
    grad_cams: tuple[tuple[str, bytes], ...]  # labels of networks, and PNGs
    problems: tuple[Problem, ...]
    command: str  # that made this comparison
    made_at: str
    version: str  # of triptych

    @property
    def networks(self) -> tuple[TrainedNetwork, ...]:
        return tuple(network for recipe in self.recipes for network in recipe.networks)
