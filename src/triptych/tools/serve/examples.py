"""Test images to try: the mistakes that the runs have stored.

Shapes: H x W pixels of an image.
"""

import io
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.tools.compare.runs import read_pixels, read_run
from triptych.tools.serve.networks import Network, NetworkGroup

MAX_EXAMPLES = 10


class Example(NamedTuple):
    png: bytes
    label: str


class Candidate(NamedTuple):
    pixels: NDArray[np.uint8]  # (3, H, W)
    label: int


def find_examples(group: NetworkGroup) -> list[Example]:
    """At most 10 mistakes, of as many classes as possible."""
    chosen = alternate_classes(read_mistakes(group.networks))
    return [Example(encode_png(each.pixels), group.classes[each.label]) for each in chosen]


def read_mistakes(networks: Iterable[Network]) -> Iterator[Candidate]:
    """The images in the runs' `predictions/test_images.npz`, each once; unusable runs have none."""
    seen: set[tuple[str, int]] = set()
    for network in networks:
        try:
            run = read_run(network.record.folder)
            images = read_pixels(run) or {}
        except UserError:
            continue
        labels = dict(zip(run.test.index.tolist(), run.test.labels.tolist(), strict=True))
        for index, pixels in images.items():
            key = (run.metadata["test_hash"], index)
            if index in labels and key not in seen:
                seen.add(key)
                yield Candidate(pixels, labels[index])


def alternate_classes(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first of each class, then the second of each, at most 10."""
    by_class: dict[int, list[Candidate]] = {}
    for each in candidates:
        by_class.setdefault(each.label, []).append(each)
    rounds = zip_longest(*(by_class[label] for label in sorted(by_class)))
    return [each for one_of_each in rounds for each in one_of_each if each][:MAX_EXAMPLES]


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels.transpose(1, 2, 0)), format="png")
    return buffer.getvalue()
