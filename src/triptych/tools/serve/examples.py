"""Test images to try the networks on: those that their runs kept, else those that their data give.

Shapes: H x W pixels of an image.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.tools.compare.runs import TrainedNetwork, read_pixels, read_run
from triptych.tools.evaluate.rebuild import read_data
from triptych.tools.serve.networks import Group, Network

MOST = 10


class Example(NamedTuple):
    png: bytes
    truth: str


class Candidate(NamedTuple):
    pixels: NDArray[np.uint8]  # (3, H, W)
    label: int
    num_right: int = 0  # networks, where that is known


def examples(group: Group) -> tuple[list[Example], bool]:
    """At most 10 images, of as many classes as there are; whether each is a network's mistake.

    Of the mistakes that runs kept, those that most of the other networks get right.
    """
    kept = list(_mistakes(group.networks))
    found = kept or next(_data(group.networks), [])
    chosen = _spread(sorted(found, key=lambda each: -each.num_right))
    return [Example(_png(each.pixels), group.classes[each.label]) for each in chosen], bool(kept)


def _mistakes(networks: Iterable[Network]) -> Iterator[Candidate]:
    """The images in the runs' `predictions/test_images.npz`, each once."""
    tested = list(_tested(networks))
    right: Counter[tuple[str, int]] = Counter()
    for run, _ in tested:
        right.update(
            (run.metadata["test_hash"], i) for i in run.test.index[run.test.correct].tolist()
        )
    seen: set[tuple[str, int]] = set()
    for run, kept in tested:
        labels = dict(zip(run.test.index.tolist(), run.test.labels.tolist(), strict=True))
        for index, pixels in kept.items():
            key = (run.metadata["test_hash"], index)
            if key not in seen and index in labels:
                seen.add(key)
                yield Candidate(pixels, labels[index], right[key])


def _tested(
    networks: Iterable[Network],
) -> Iterator[tuple[TrainedNetwork, dict[int, NDArray[np.uint8]]]]:
    """The runs as a comparison reads them, with the images they kept; no run that it refuses."""
    for network in networks:
        try:
            run = replace(read_run(network.record.folder), label=network.name)
            yield run, read_pixels(run) or {}
        except UserError:
            continue


def _data(networks: Iterable[Network]) -> Iterator[list[Candidate]]:
    """The first test images of each class, of every network whose data are on this machine."""
    for network in networks:
        try:
            part = read_data(network.run).test
        except UserError:
            continue
        labels = part.data.labels[part.index]
        firsts = [part.index[labels == label][:MOST].tolist() for label in set(labels.tolist())]
        yield [
            Candidate(part.data.images[i].numpy(), int(part.data.labels[i]))
            for index in firsts
            for i in index
        ]


def _spread(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first of each class, then the second of each, as many as are shown."""
    of_class: dict[int, list[Candidate]] = {}
    for each in candidates:
        of_class.setdefault(each.label, []).append(each)
    turns = zip_longest(*(of_class[label] for label in sorted(of_class)))
    return [each for turn in turns for each in turn if each][:MOST]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels.transpose(1, 2, 0)), format="png")
    return buffer.getvalue()
