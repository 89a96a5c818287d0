"""Image by image: what networks get right and wrong, and the pictures that runs kept.

Shapes: N images of H x W pixels. Strings may come out of somebody's run folder: whoever shows them
escapes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import TrainedNetwork, has_pictures

MAX_PICTURES = 400


class Prediction(NamedTuple):
    label: int
    name: str  # of that class
    confidence: float  # NaN of a network that gave classes alone


@dataclass(frozen=True)
class Picture:
    """A test image and the classes that networks took it for."""

    name: str  # its file, or its place in the official test set
    pixels: NDArray[np.uint8]  # (3, H, W)
    label: int
    true: str  # the name of that class
    predictions: tuple[Prediction, ...] = ()


@dataclass(frozen=True)
class ImageByImage:
    """What networks get right and wrong, all on the same test images.

    The counts are of all images; pictures exist for the few that runs have kept.
    """

    networks: tuple[str, ...]  # their labels
    classes: tuple[str, ...]
    num_images: int
    num_all_right: int
    num_all_wrong: int
    num_only_right: tuple[int, ...]  # images that this network alone gets right, in order
    num_right_where_wrong: tuple[tuple[int, ...], ...]  # a line the right one, a column the wrong
    without: tuple[str, ...]  # the networks whose runs kept no pictures
    num_kept: int  # images of which there are pixels
    pictures: tuple[Picture, ...]  # of these the most informative first


def compare_images(
    recipes: Sequence[Recipe], pixels: Mapping[int, NDArray[np.uint8]], files: Mapping[int, str]
) -> ImageByImage:
    """The first networks of recipes on the same images, or every network of a single recipe.

    `pixels` and `files` are by the images' index.
    """
    networks = choose_networks(recipes)
    tests, classes = [network.test for network in networks], recipes[0].classes
    index, labels = tests[0].index, tests[0].labels
    right = np.stack([test.correct for test in tests])  # (networks, N)
    answers = np.stack([test.classes for test in tests])
    confidence = np.stack([test.confidence for test in tests])
    num_right = right.sum(axis=0)
    kept = np.flatnonzero(np.isin(index, list(pixels)))

    def make_picture(place: int) -> Picture:
        number, true = int(index[place]), int(labels[place])
        predictions = tuple(
            Prediction(int(label), classes[label], float(sure))
            for label, sure in zip(answers[:, place], confidence[:, place], strict=True)
        )
        name = files.get(number, f"no. {number}")
        return Picture(name, pixels[number], true, classes[true], predictions)

    order = rank_images(right[:, kept], np.nan_to_num(confidence[:, kept]))[:MAX_PICTURES]
    alone = right.astype(np.int64) @ (~right).T
    return ImageByImage(
        networks=tuple(network.label for network in networks),
        classes=classes,
        num_images=len(index),
        num_all_right=int((num_right == len(networks)).sum()),
        num_all_wrong=int((num_right == 0).sum()),
        num_only_right=tuple((right & (num_right == 1)).sum(axis=1).tolist()),
        num_right_where_wrong=tuple(map(tuple, alone.tolist())),
        without=tuple(n.label for n in networks if not (n.is_guest or has_pictures(n))),
        num_kept=len(kept),
        pictures=tuple(make_picture(place) for place in kept[order]),
    )


def choose_networks(recipes: Sequence[Recipe]) -> Sequence[TrainedNetwork]:
    if len(recipes) == 1:
        return recipes[0].networks
    return [recipe.first for recipe in recipes]


def rank_images(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> NDArray[np.intp]:
    """(networks, N) -> places of the N images: by turns one that divides the networks and one that
    all get wrong, the most confident mistake first; at the end what all get right."""
    mistake = np.where(right, 0, confidence).max(axis=0)
    num_right = right.sum(axis=0)
    kind = np.select([num_right == 0, num_right == len(right)], [1, 2], 0)
    turn = np.zeros(len(kind), np.int64)
    for each in range(3):
        places = np.flatnonzero(kind == each)
        turn[places[np.argsort(-mistake[places], kind="stable")]] = np.arange(len(places))
    return np.lexsort((kind, turn, kind == 2))
