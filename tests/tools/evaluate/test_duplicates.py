"""Near-duplicates of test images, found by features and pixels."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.composing import composed
from tests.tiny import TARGETS
from triptych.data.datamodule import ImageDataModule
from triptych.data.shapes import Shapes
from triptych.data.source import ImageSet, LabelledImages
from triptych.models.backbone import Preprocessing
from triptych.tools.evaluate import duplicates
from triptych.tools.evaluate.command import evaluate
from triptych.tools.evaluate.duplicates import correlate_details, find_duplicates, find_nearest

CPU = torch.device("cpu")


def make_data(test: Tensor, train: Tensor, num_val: int = 10) -> ImageDataModule:
    labels = [torch.arange(len(images)) % 10 for images in (train, test)]
    splits = {
        "train": torch.arange(len(train) - num_val),
        "val": torch.arange(len(train) - num_val, len(train)),
        "test": torch.arange(len(test)),
    }
    both = (LabelledImages(train, labels[0]), LabelledImages(test, labels[1]))
    names = tuple(map(str, range(10)))
    return ImageDataModule(
        image_set=ImageSet(*both, names, splits),
        preprocessing=Preprocessing(32, (0.5,) * 3, (0.5,) * 3),
        **{"batch_size": 8, "augment": "none", "mix": "none", "num_workers": 0, "seed": 0},
        **{"num_train": None, "num_val": None, "num_test": None, "split_seed": 0},
    )


@pytest.fixture(scope="module")
def drawings() -> ImageSet:
    return Shapes(num_train=50, num_test=20, seed=0).read()


def test_copies_shifts_and_mirror_images_are_found_where_they_are(drawings: ImageSet) -> None:
    train, test = drawings.train.images.clone(), drawings.test.images.clone()
    test[3] = train[7]
    test[4] = train[8].roll(2, -1)
    test[5] = train[45].flip(-1)  # of the last ten, which validate
    test[6] = (train[9].float() * 0.8).byte()
    test[15] = test[2]
    data = make_data(test, train)
    features = torch.cat([train, test]).flatten(1).float()
    features[[54, 55]] = features[[8, 45]]  # as a network would see them
    found = find_duplicates(data, features, CPU)
    places = {each.image: (each.split, each.partner, each.is_exact) for each in found}
    expected = {3: ("train", 7, True), 4: ("train", 8, False), 5: ("val", 45, False)}
    expected |= {6: ("train", 9, False), 15: ("test", 2, True)}
    assert expected.items() <= places.items()
    assert [each.distance for each in found[:2]] == [0, 0]
    assert len(found) <= len(expected) + 2


def test_details_of_flat_images_do_not_correlate() -> None:
    flat = torch.full((1, 3, 40, 40), 200, dtype=torch.uint8)
    assert correlate_details(flat, flat).item() < 0.1
    sky = torch.linspace(100, 200, 40).byte().expand(1, 3, 40, 40)
    assert correlate_details(sky, flat).item() < 0.1


@pytest.mark.parametrize("only_before", [True, False])
def test_the_nearest_in_blocks_are_those_of_all_at_once(
    only_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "QUERIES", 4)
    features = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    alike = torch.nn.functional.normalize(features)
    alike = alike @ alike.T
    if only_before:
        alike = alike.masked_fill(torch.ones(11, 11).triu().bool(), -torch.inf)
    values, expected = alike.topk(3)
    expected = expected.where(values > -torch.inf, -1)
    assert torch.equal(find_nearest(features, features, CPU, only_before=only_before), expected)


def test_a_run_lists_duplicates_with_a_figure_and_keeps_its_features(
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    overrides = [f"run={folder}", "cost=false", "duplicates=true", "device=cpu"]
    overrides.append(f"trusted_targets=[{','.join(TARGETS)}]")
    monkeypatch.setattr(duplicates, "MIN_CORRELATION", 0.4)  # drawings of a class are this alike
    with caplog.at_level("INFO"):
        evaluate(composed("evaluate", *overrides), overrides)
    assert "independent" in caplog.text
    with (folder / "duplicates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((folder / "run.json").read_text())
    assert rows
    assert {row["test_hash"] for row in rows} == {record["test_hash"]}
    assert {row["kind"] for row in rows} == {"near"}
    assert all(0 <= float(row["distance"]) < 0.6 for row in rows)
    assert {row["partner_split"] for row in rows} <= {"train", "val", "test"}
    document = json.loads((folder / "evaluation.json").read_text())
    assert document["duplicates"]["num_images"] == len({row["index"] for row in rows})
    assert (folder / "figures" / "duplicates.png").stat().st_size > 1000
    assert len([*(tmp_path / "data" / ".features").glob("*.features")]) == 1
