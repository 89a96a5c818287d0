"""Which test images are offered to try the networks on."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tools.serve.conftest import CLASSES, Plant, asked
from triptych.build import build_datamodule
from triptych.data.shapes import OUTLINES, Shapes
from triptych.models.backbone import Preprocessing
from triptych.runs.reader import find_run_folders
from triptych.runs.record import Record
from triptych.tools.serve.examples import MOST, Candidate, _spread, examples
from triptych.tools.serve.networks import Group, read_groups


def test_the_mistakes_that_runs_kept_are_offered_once_each_with_what_they_show(
    group: Group,
) -> None:
    shown, are_mistakes = examples(group)
    assert are_mistakes
    assert sorted(example.truth for example in shown) == sorted(
        CLASSES[index % len(CLASSES)] for index in range(1, 15, 2)
    )
    kept = np.load(group.networks[0].record.folder / "predictions" / "test_images.npz")["images"]
    pixels = {
        np.asarray(Image.open(io.BytesIO(each.png)).convert("RGB")).tobytes() for each in shown
    }
    assert pixels == {np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes() for image in kept}


def test_they_are_of_as_many_classes_as_can_be_and_no_more_than_fit() -> None:
    none = np.zeros((3, 1, 1), np.uint8)
    found = [Candidate(none, label, place) for place, label in enumerate([2] * 20 + [0, 1, 0])]
    assert [(each.label, each.num_right) for each in _spread(found)] == [
        *[(0, 20), (1, 21), (2, 0), (0, 22), (2, 1)],
        *[(2, place) for place in range(2, MOST - 3)],
    ]


def test_where_no_run_kept_any_the_data_are_asked_and_where_they_are_gone_there_are_none(
    tmp_path: Path, plant: Plant
) -> None:
    folder = plant(tmp_path, classes=tuple(OUTLINES), num_kept=0)
    [group], _ = read_groups(find_run_folders([str(tmp_path)]), asked())
    assert examples(group) == ([], False), "the planted record is of other images"
    record = Record.open(folder)
    anything = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    data = build_datamodule(
        record.config, Shapes(num_train=40, num_test=20, seed=0).read(), anything
    )
    record.update(split_hash=data.split_hash, test_hash=data.test_hash)
    group.networks[0].record.metadata = record.metadata
    shown, are_mistakes = examples(group)
    assert not are_mistakes
    assert {example.truth for example in shown} <= set(OUTLINES)
    assert len(shown) == min(MOST, len(data.test))


@pytest.mark.parametrize("harm", ["labels", "truncated"])
def test_a_run_whose_predictions_are_not_its_own_gives_no_examples(
    tmp_path: Path, plant: Plant, group: Group, harm: str
) -> None:
    folder = plant(tmp_path)
    path = folder / "predictions" / "test.npz"
    with np.load(path) as kept:
        arrays = dict(kept)
    if harm == "labels":
        np.savez(path, **arrays | {"labels": np.zeros(15, np.int64)})
    else:
        path.write_bytes(path.read_bytes()[:100])
    network = group.networks[0]
    harmed = replace(network, run=replace(network.run, record=Record.open(folder)))
    assert examples(replace(group, networks=(harmed,))) == ([], False)
