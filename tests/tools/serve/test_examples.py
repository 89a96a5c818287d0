"""Which test images are offered to try the networks on."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tools.serve.conftest import CLASSES, Plant
from triptych.runs.record import Record
from triptych.tools.serve.examples import (
    MAX_EXAMPLES,
    Candidate,
    alternate_classes,
    find_examples,
)
from triptych.tools.serve.networks import NetworkGroup


def test_the_mistakes_that_runs_stored_are_offered_once_each(
    group: NetworkGroup,
) -> None:
    examples = find_examples(group)
    assert sorted(example.label for example in examples) == sorted(
        CLASSES[index % len(CLASSES)] for index in range(1, 15, 2)
    )
    stored = np.load(group.networks[0].record.folder / "predictions" / "test_images.npz")["images"]
    pixels = {
        np.asarray(Image.open(io.BytesIO(each.png)).convert("RGB")).tobytes() for each in examples
    }
    assert pixels == {np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes() for image in stored}


def test_they_are_of_as_many_classes_as_possible_and_at_most_ten() -> None:
    labels = [2] * 20 + [0, 1, 0]
    candidates = [Candidate(np.full((3, 1, 1), n, np.uint8), c) for n, c in enumerate(labels)]
    chosen = [(each.label, int(each.pixels[0, 0, 0])) for each in alternate_classes(candidates)]
    first = [(0, 20), (1, 21), (2, 0), (0, 22), (2, 1)]
    assert chosen == [*first, *((2, place) for place in range(2, MAX_EXAMPLES - 3))]


@pytest.mark.parametrize("harm", ["labels", "truncated"])
def test_a_run_whose_predictions_are_not_its_own_gives_no_examples(
    tmp_path: Path, plant: Plant, group: NetworkGroup, harm: str
) -> None:
    folder = plant(tmp_path)
    path = folder / "predictions" / "test.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    if harm == "labels":
        np.savez(path, **arrays | {"labels": np.zeros(15, np.int64)})
    else:
        path.write_bytes(path.read_bytes()[:100])
    network = group.networks[0]
    harmed = replace(network, run=replace(network.run, record=Record.open(folder)))
    assert find_examples(replace(group, networks=(harmed,))) == []
