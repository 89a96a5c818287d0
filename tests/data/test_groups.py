"""Photos that belong together: how they are named, split as wholes, and kept in a run's record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.composing import composed
from tests.data.test_datamodule import PREPROCESSING
from tests.tiny import choose, draw_nothing
from tests.tools.evaluate.test_command import evaluate_runs
from triptych.build import build_datamodule
from triptych.data.folder import Folder
from triptych.data.folds import hold_out_fold
from triptych.data.group_names import LEAK
from triptych.data.groups import number_group_folds, split_groups
from triptych.data.source import ImageSet, LabelledImages
from triptych.errors import UserError
from triptych.runs.predictions import read_predictions
from triptych.tools.compare.command import compare
from triptych.tools.evaluate.degradation import read_outcomes
from triptych.training import train


@pytest.fixture(autouse=True)
def stored(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("stored")))


def draw_photos(root: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def draw_objects(root: Path, num: int = 6, photos: int = 3) -> Path:
    """As many objects of each of two classes."""
    names = (f"{c}/{c}{o}_{p}.png" for c in "ab" for o in range(num) for p in range(photos))
    return draw_photos(root, *names)


def read_groups(root: Path, **options: Any) -> list[int]:
    found = Folder(str(root), size=8, **options).read().groups
    assert found
    assert found[0] is found[1]
    return found[0].tolist()


def draw_images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and groups of 80 images: groups of 1 to some 20, of one class or of several."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(15, 80, p=rng.dirichlet(np.full(15, 2.0)))
    of_group = rng.integers(0, 3, 15)[groups]
    labels = np.where(rng.random(80) < 0.2, rng.integers(0, 3, 80), of_group)
    return torch.from_numpy(labels), torch.from_numpy(groups)


@pytest.mark.parametrize("seed", range(20))
def test_a_group_is_in_one_part_and_in_one_fold_whatever_the_order(seed: int) -> None:
    labels, groups = draw_images(seed)
    parts = split_groups(labels, groups, [9, 12, None], seed)
    assert sorted(i for part in parts for i in part.tolist()) == [*range(80)]
    names = [{*groups[part].tolist()} for part in parts]
    assert sum(map(len, names)) == len({*groups.tolist()})
    largest = int(groups.bincount().max())
    assert all(abs(len(part) - n) <= largest for part, n in zip(parts, (9, 12), strict=False))
    order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
    again = split_groups(labels[order], groups[order], [9, 12, None], seed)
    assert names == [{*groups[order][part].tolist()} for part in again]
    folds = number_group_folds(labels, groups, 4, seed)
    assert {*folds.tolist()} == {0, 1, 2, 3}
    assert all(len({*folds[groups == g].tolist()}) == 1 for g in groups.tolist())
    assert folds.equal(number_group_folds(labels[order], groups[order], 4, seed)[order.argsort()])


def test_groups_of_a_size_are_dealt_out_in_the_proportions_of_classes() -> None:
    groups = torch.arange(300) // 5
    labels = (torch.arange(300) // 100).clamp(max=1)  # 20 groups, and 40
    val, train = split_groups(labels, groups, [60, None], 0)
    assert labels[val].bincount().tolist() == [20, 40]
    assert len(train) == 240
    few = split_groups(torch.arange(300) // 15, groups, [60, None], 0)[0]  # of 20 classes 3 groups
    assert len(few) == 60
    assert not torch.equal(val, split_groups(labels, groups, [60, None], 1)[0])
    held_out = {  # of 20 classes a few each time
        int(g) // 3
        for seed in range(12)
        for g in groups[split_groups(groups // 3, groups, [30, None], seed)[0]]
    }
    assert held_out == {*range(20)}
    folds = number_group_folds(labels, groups, 5, 0)
    assert torch.bincount(folds * 2 + labels).tolist() == [20, 40] * 5
    assert all(len({*folds[groups == g].tolist()}) == 1 for g in range(60))


def test_a_group_of_several_classes_is_dealt_out_by_the_rarest_of_them() -> None:
    groups = torch.arange(200) // 10  # of 20 patients 4 have an image of class 1
    labels = torch.zeros(200, dtype=torch.int64)
    labels[[0, 10, 20, 30]] = 1
    folds = number_group_folds(labels, groups, 4, 0)
    assert torch.bincount(folds * 2 + labels).tolist() == [49, 1] * 4
    several = torch.stack([torch.ones(200, dtype=torch.uint8), labels.to(torch.uint8)], dim=1)
    assert folds.equal(number_group_folds(several, groups, 4, 0))


def test_what_groups_do_not_allow_is_said_with_numbers() -> None:
    groups, labels = torch.tensor([0] * 95 + [1] * 5), torch.arange(100) % 2
    with pytest.raises(UserError, match=r"about 2 images.* 2 are left, of 5 to 95 images"):
        split_groups(labels, groups, [2, None], 0)
    with pytest.raises(UserError, match=r"101 images are to be taken, 100 are left"):
        split_groups(labels, groups, [101, None], 0)


def test_folders_patterns_and_columns_name_the_same_groups(tmp_path: Path) -> None:
    names = [f"{c}/p{o}/x/{c}{o}_{p}.png" for c in "ab" for o in (1, 2) for p in range(2)]
    root = draw_photos(tmp_path, *names)
    rows = [f"{name},{name[0]},patient {name[3]}\n" for name in names]
    (root / "t.csv").write_text("file,label,Patient\n" + "".join(rows))
    in_both_classes = [0, 0, 1, 1, 0, 0, 1, 1]
    table = {"labels": "t.csv"}
    assert read_groups(root, groups="folder") == read_groups(root, groups=1) == in_both_classes
    assert read_groups(root, groups=2) == in_both_classes
    for column in ("patient", "Patient", "column:patient"):
        assert read_groups(root, groups=column, **table) == in_both_classes
    assert read_groups(root, groups=2, **table) == [0, 0, 1, 1, 2, 2, 3, 3]  # a/p1 below the root
    assert read_groups(root, groups=r"(.*)_\d+") == [0, 0, 1, 1, 2, 2, 3, 3]  # a1, a2, b1, b2
    assert read_groups(root, groups=r"[ab](\d)_.*", **table) == in_both_classes
    assert read_groups(root, groups=r"(.)/p(\d)/.*") == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ("(.*)_1", "6 of 12 photos are in no group: a/a0_0.png"),
        ("folder", "12 of 12 photos are in no group"),
        ("(.*", "no regular expression"),
        ("(?:.*)", r"names no part in \( \)"),
        ("patient", "a column needs data.labels"),
    ],
)
def test_photos_without_a_group_are_named(tmp_path: Path, groups: str, reason: str) -> None:
    root = draw_objects(tmp_path, num=3, photos=2)
    with pytest.raises(UserError, match=reason) as caught:
        Folder(str(root), size=8, groups=groups).read()
    assert str(caught.value).startswith(f"data.groups={groups}: ")


def test_a_column_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    root = draw_photos(tmp_path, "1.png", "2.png", "3.png")
    (root / "t.csv").write_text("file,label,who\n1.png,a,x\n2.png,b,\n3.png,b,y\n")
    with pytest.raises(
        UserError, match=r"data.groups=whom: no such column in .*, but file, label, who"
    ):
        Folder(str(root), labels="t.csv", groups="whom").read()
    with pytest.raises(UserError, match=r"1 of 3 photos are in no group: 2.png"):
        Folder(str(root), labels="t.csv", groups="who").read()


def test_columns_of_labels_and_one_of_groups_are_told_apart(tmp_path: Path) -> None:
    root = draw_photos(tmp_path, "1.png", "2.png", "3.png")
    (root / "t.csv").write_text("file,who,cat,dog\n1.png,x,1,1\n2.png,x,1,0\n3.png,y,0,1\n")
    data = Folder(str(root), size=8, labels="t.csv", groups="who", separator="|").read()
    assert data.classes == ("cat", "dog")
    assert data.groups
    assert sorted(data.groups[0].tolist()) == [0, 0, 1]


def test_a_group_in_training_and_in_test_is_said_with_its_images(tmp_path: Path) -> None:
    parts = {"train": (0, 1, 2, 3), "val": (3,), "test": (1, 4)}
    names = [
        f"{s}/{c}/o{o}_{s}{p}.png"
        for s, os in parts.items()
        for c in "ab"
        for o in os
        for p in (0, 1)
    ]
    root = draw_photos(tmp_path, *names)
    config = composed(
        "train", "data=folder", f"data.root={root}", "data.size=8", r"data.groups='(o\d)_.*'"
    )
    data = build_datamodule(
        config, Folder(str(root), size=8, groups=r"(o\d)_.*").read(), PREPROCESSING
    )
    counts, val, test = data.notes[-3:]
    assert "4 in train, 1 in val, 2 in test" in counts
    assert "in train and in val: 1 group, with 4 of 4 images of val" in val
    assert test.startswith(f"{LEAK}1 group, with 4 of 8 images of test")
    assert "train/a/o1_train0.png and test/a/o1_test0.png" in test


def test_folds_keep_groups_together_and_need_as_many() -> None:
    images = LabelledImages(torch.zeros(40, 3, 1, 1, dtype=torch.uint8), torch.arange(40) % 2)
    groups = torch.arange(40) // 8
    splits = {"train": torch.arange(40)}
    data = ImageSet(images, images, ("a", "b"), splits, groups=(groups, groups))
    held, split = hold_out_fold(data, 5, 2, 0)
    assert split == "test"
    assert held.splits
    assert len({*groups[held.splits["test"]].tolist()}) == 1
    with pytest.raises(UserError, match=r"data.folds=6: there are 5 groups"):
        hold_out_fold(data, 6, 2, 0)


def test_a_setting_that_cannot_be_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    for groups in ("'(.*'", "patient", "0", "1.5"):
        with pytest.raises(UserError, match=r"^data.groups="):
            composed("train", "data=folder", f"data.root={tmp_path}", f"data.groups={groups}")
    assert "groups" not in composed("train", "data=folder", f"data.root={tmp_path}")["data"]


def test_a_run_records_the_groups_of_its_test_images_and_a_comparison_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch.setattr)
    root = draw_objects(tmp_path / "photos")
    others = draw_photos(
        tmp_path / "others", *(f"{c}/{o}/{p}.png" for c in "ab" for o in "12" for p in "34")
    )
    config = composed(
        *("train", "data=folder", f"data.root={root}", "data.size=8", r"data.groups='(.*)_\d'"),
        *choose("Tiny"),
        *("++trainer.max_epochs=1", "++trainer.accelerator=cpu", f"log_dir={tmp_path}/logs"),
    )
    record = train(config)
    test = read_predictions(record.folder / "predictions" / "test.npz")
    assert test.groups is not None
    assert len({*test.groups.tolist()}) == 2
    assert np.array_equal(test.groups, np.arange(36)[test.index] // 3)
    evaluate_runs(record.folder, "data=folder", f"data.root={others}", "data.groups=folder")
    evaluate_runs(record.folder, "cost=false", "tta=flip", "image_types=all")
    evaluation = json.loads((record.folder / "evaluation.json").read_text())
    assert (evaluation["num_images"], evaluation["num_groups"]) == (6, 2)
    assert np.array_equal(read_outcomes(record.folder).groups, test.groups)
    [external] = (record.folder / "external").glob("*")
    assert read_predictions(external / "predictions.npz").groups.tolist() == [0, 0, 1, 1] * 2
    page = compare(composed("compare", f"runs={tmp_path}/logs"))
    assert "6 test images of 2 groups" in page.with_name("comparison.md").read_text()
