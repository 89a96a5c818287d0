"""Image by image: what networks get right and wrong, and pictures of their errors.

Shapes: N images of H x W pixels. Strings may come out of somebody's run folder: whoever shows them
escapes them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.tools.compare.recipes import Recipe

MAX_PICTURES = 24  # a list


class WrongPrediction(NamedTuple):
    network: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Picture:
    """A test image and the classes that networks took it for."""

    name: str  # its file, or its place in the official test set
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


def compare_images(
    recipes: Sequence[Recipe], pixels: Mapping[int, NDArray[np.uint8]], files: Mapping[int, str]
) -> ImageByImage:
    """The first networks of recipes on the same images; pictures of errors that were kept.

    `pixels` and `files` are by the images' index.
    """
    tests = [recipe.first.test for recipe in recipes]
    index, labels, classes = tests[0].index, tests[0].labels, recipes[0].classes
    wrong = np.stack([~test.correct for test in tests])  # (networks, N)
    confidence = np.nan_to_num([test.confidence for test in tests]) * wrong
    num_right = (~wrong).sum(axis=0)
    available = np.isin(index, list(pixels))

    def make_picture(place: int, networks: Iterable[int]) -> Picture:
        predicted = {n: classes[tests[n].classes[place]] for n in networks}
        predictions = tuple(
            WrongPrediction(recipes[n].first.label, name, float(tests[n].confidence[place]))
            for n, name in predicted.items()
        )
        number, true = int(index[place]), classes[labels[place]]
        name = files.get(number, f"no. {number}")
        return Picture(name, pixels[number], true, predictions)

    by_all = _most_confident(available & (num_right == 0), confidence.mean(axis=0))
    most = confidence.max(axis=0)
    by_one = _most_confident(available & (most > 0), most)
    return ImageByImage(
        num_images=len(index),
        num_all_right=int((num_right == len(recipes)).sum()),
        num_all_wrong=int((num_right == 0).sum()),
        num_only_right=tuple((~wrong & (num_right == 1)).sum(axis=1).tolist()),
        all_wrong=tuple(make_picture(place, range(len(recipes))) for place in by_all),
        confident_errors=tuple(make_picture(n, [int(confidence[:, n].argmax())]) for n in by_one),
    )


def _most_confident(chosen: NDArray[np.bool_], confidence: NDArray[np.float64]) -> list[int]:
    """Places of the chosen (N,) images, most confident first."""
    places = np.flatnonzero(chosen)
    order = np.argsort(-confidence[places], kind="stable")
    return [int(place) for place in places[order[:MAX_PICTURES]]]
