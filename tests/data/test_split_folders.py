"""Folders that look like parts of a set: taken, or refused with a line that works."""

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.data.test_folder import photo
from triptych.config import load_rules
from triptych.data.folder import Listing, list_photos
from triptych.errors import UserError


def make(root: Path, *folders: str) -> Path:
    """Two photos in each folder; `train/*` stands for `train/cat` and `train/dog`."""
    for folder in folders:
        for path in [folder.replace("*", "cat"), folder.replace("*", "dog")]:
            for i in range(2):
                photo(root / path / f"{i}.png")
    return root


def type_line(message: str) -> Listing:
    """What is read with the settings that a message has one type."""
    [line] = re.findall(r"type (.*)", message)[:1]
    typed = dict(word.split("=", 1) for word in shlex.split(line))
    splits = OmegaConf.create(typed.get("data.splits", "{}"))
    assert load_rules("train")["data.splits"].holds(OmegaConf.to_container(splits) or None)
    root = typed.get("data.root") or message.split("data.root=")[1].split(":")[0]
    return list_photos(Path(root), OmegaConf.to_container(splits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ("training_set/training_set/* test_set/test_set/*", "train test"),
        ("seg_train/seg_train/* seg_test/seg_test/* seg_pred/seg_pred", "train test"),
        ("train_images/*", "train"),
        ("archive/train/* archive/test/*", "train test"),
        ("archive/train/* archive/test/* sample", "train test"),
        ("archive/seg_train/seg_train/* archive/seg_test/seg_test/*", "train test"),
        ("train/* test_set/*", "train test"),
        ("train/* val/* eval/*", "train val test"),
        ("train/train/* test/*", "train test"),
        ("train/train/* train/test/*", "train test"),
        ("images/train/* images/val/* labels", "train val"),
        ("TrainImages/* ValImages/*", "train val"),
        ("train2017/* val2017/*", "train val"),
        ("name/name/*", "train"),
        ("dataset/*", "train"),
        ("* test/*", "train test"),
        ("my_train/* train/* cars", "train"),
        ("trn/* tst/*", "train test"),
    ],
)
def test_folders_that_look_like_parts_are_refused_with_a_line_that_works(
    tmp_path: Path, folders: str, splits: str
) -> None:
    root = make(tmp_path / "pets", *folders.split())
    with pytest.raises(UserError) as error:
        list_photos(root)
    assert len(str(error.value).splitlines()) <= 3
    listing = type_line(str(error.value))
    assert [*listing.folders] == splits.split()
    assert listing.classes == ["cat", "dog"]
    assert len(listing.photos) == 4 * len(listing.folders)


@pytest.mark.parametrize(
    "folders",
    ["train_images test_images", "*/train */test", "cat_train dog_train cat_test dog_test"],
)
def test_parts_without_folders_of_classes_are_refused(tmp_path: Path, folders: str) -> None:
    with pytest.raises(UserError, match=r"data.root=.*look like parts"):
        list_photos(make(tmp_path, *folders.split()))


@pytest.mark.parametrize(
    "folders",
    ["car train bus", "bullet_train train_station pregnancy_test", "validity value tests"],
)
def test_a_class_may_be_named_like_a_part(tmp_path: Path, folders: str) -> None:
    listing = list_photos(make(tmp_path, *folders.split()))
    assert listing.folders == {"train": "."}
    assert listing.classes == sorted(folders.split())
    with_test = make(tmp_path, "test/2024")
    assert list_photos(with_test, {"train": "."}).classes == sorted([*folders.split(), "test"])


def test_no_folder_of_photos_is_left_out_without_a_line(tmp_path: Path) -> None:
    root = make(tmp_path, "Training/*", "dev/*", "unlabeled", "extra/deep", "Training", ".")
    (root / "dev" / "cat" / "phone.JXL").touch()
    listing = list_photos(root)
    assert listing.folders == {"train": "Training", "val": "dev"}
    assert len(listing.photos) == 8
    formats, loose, extra, unlabelled = listing.notes
    assert ".jxl" in formats
    assert loose.startswith("4 photos ")
    assert extra.startswith("extra: 2 photos")
    assert unlabelled.startswith("unlabeled: 2 photos")
    [note] = list_photos(make(tmp_path / "flat", "*", "unlabeled")).notes
    assert note.startswith("unlabeled: a class")


@pytest.mark.parametrize(
    ("folders", "is_said"),
    [("fold1/* fold2/* fold3/*", True), ("old/* new/*", True), ("a/cat b/cat", False)],
)
def test_folders_that_all_hold_the_same_folders_have_a_line(
    tmp_path: Path, folders: str, is_said: bool
) -> None:
    notes = list_photos(make(tmp_path, *folders.split())).notes
    assert [("each holds the folders cat, dog" in note) for note in notes] == [True] * is_said


def test_a_test_set_without_labels_is_refused_with_a_line_that_works(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", "train/*", "test")
    with pytest.raises(UserError, match=r"type 'data.splits=\{train: train\}'"):
        list_photos(root)
    assert list_photos(root, {"train": "train"}).classes == ["cat", "dog"]


def test_parts_are_named_by_any_path_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", "a b/*", "*")
    make(tmp_path, "elsewhere/*")
    listing = list_photos(root, {"train": ".", "val": "a b", "test": str(tmp_path / "elsewhere")})
    assert listing.classes == ["cat", "dog"]
    assert [photo.split for photo in listing.photos] == ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    assert listing.photos[-1].name == "../elsewhere/dog/1.png"
    with pytest.raises(UserError, match=r"data.splits.train=.*none"):
        list_photos(root, {"train": "none"})
