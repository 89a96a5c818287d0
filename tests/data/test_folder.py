"""Folders of photos as people have them, and one run on them from its config to its record."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.composing import composed
from tests.tiny import TARGETS, choose, draw_nothing
from triptych.data import photos as module
from triptych.data import squares
from triptych.data.decoder import read_image
from triptych.data.folder import Folder
from triptych.data.source import ImageSet
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import read_data, rebuild_run
from triptych.training import train

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


@pytest.fixture(autouse=True)
def stored(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which squares are stored."""
    data_dir = tmp_path_factory.mktemp("stored")
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    return data_dir / ".folders"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    names: list[str] = []

    def note(path: Path, **options: Any) -> Image.Image:
        names.append(path.name)
        return read_image(path, **options)

    monkeypatch.setattr(squares, "read_image", note)
    return names


def photo(path: Path, colour: tuple[int, int, int] = (9, 9, 9), grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (40, 20), colour)
    image.paste((7 * grey % 256,) * 3, (15, 5, 25, 15))  # else photos of a colour are the same
    image.save(path)
    return path


def photos(root: Path, num: int = 8, classes: tuple[str, ...] = tuple(COLOURS)) -> Path:
    for name in classes:
        for i in range(num):
            photo(root / name / f"{i}.png", COLOURS.get(name, (9, 9, 9)), i)
    return root


def read(root: Path, size: int = 16) -> ImageSet:
    return Folder(str(root), size=size).read()


def error_of(root: Path) -> str:
    """The one line of the error that reading a folder raises."""
    with pytest.raises(UserError) as raised:
        read(root)
    assert "\n" not in str(raised.value)
    return str(raised.value).replace(str(root), "photos")


def test_a_folder_is_a_class_and_its_photos_are_squares(tmp_path: Path) -> None:
    data = read(photos(tmp_path / "photos"))
    assert data.classes == ("blue", "green", "red")
    assert data.train.images.shape == (24, 3, 16, 16)
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    for label, colour in enumerate(COLOURS.values()):
        assert data.train.images[8 * label, :, 0, 0].tolist() == list(colour)
    assert data.splits
    assert data.splits["train"].tolist() == list(range(24))
    assert data.notes == ()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"], "nothing is written beside"


@pytest.mark.parametrize(("val", "test"), [("val", "test"), ("valid", "Test"), ("validation", "")])
def test_train_val_and_test_are_taken_as_they_are(tmp_path: Path, val: str, test: str) -> None:
    for split in filter(None, ("train", val, test)):
        photos(tmp_path / split, num=2)
    photos(tmp_path / "annotations", num=1)
    data = read(tmp_path)
    assert data.classes == ("blue", "green", "red")
    assert data.splits
    assert list(data.splits) == (["train", "val", "test"] if test else ["train", "val"])
    assert data.splits["val"].tolist() == list(range(6, 12))
    assert data.train.labels[data.splits["val"]].tolist() == [0, 0, 1, 1, 2, 2]


def test_photos_are_found_at_any_depth_under_any_name_and_what_is_hidden_is_not(
    tmp_path: Path,
) -> None:
    photos(tmp_path, num=1, classes=("blue", "green", "red", "test"))  # a class: there is no train
    photo(tmp_path / "red" / "2024" / "mai" / "ÄÖ ☃.PNG", grey=1)
    photo(tmp_path / "red" / os.fsdecode(b"latin\xe9.png"), grey=2)
    for hidden in ("._0.png", ".thumbs/0.png", "@eaDir/0.png"):
        photo(tmp_path / "red" / hidden, grey=3)
    for hidden in ("__MACOSX/x/0.png", ".git/0.png"):
        photo(tmp_path / hidden)
    data = read(tmp_path)
    assert data.train.labels.tolist() == [0, 1, 2, 2, 2, 3]
    assert [note.partition(":")[0] for note in data.notes] == [
        "1 photos have names that cannot be shown; records have escapes for them",
        "test",
    ]


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    photos(tmp_path / "set")
    photo(tmp_path / "elsewhere" / "more.png", grey=99)
    (tmp_path / "set" / "red" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "red" / "again").symlink_to(tmp_path / "set" / "red")
    assert len(read(tmp_path / "set").train.labels) == 3 * 8 + 1


def test_the_name_of_a_class_does_not_depend_on_the_system_that_wrote_it(tmp_path: Path) -> None:
    photos(tmp_path / "train", 2, classes=("Bäume", "Stra\u00dfe"))
    photos(tmp_path / "test", 1, classes=("Ba\u0308ume", "Stra\u00dfe"))
    assert read(tmp_path).classes == ("Bäume", "Straße")


def test_what_cannot_be_read_is_named_counted_and_left_out(
    tmp_path: Path, decoded: list[str]
) -> None:
    photos(tmp_path, num=3)
    (tmp_path / "red" / "empty.jpg").touch()
    (tmp_path / "red" / "text\x1b[2J.jpg").write_text("no image")
    (tmp_path / "red" / "nowhere.jpg").symlink_to(tmp_path / "nowhere")
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 20_000, 20_000, 8, 0, 0, 0, 0)
    (tmp_path / "red" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"\0" * 20)
    (tmp_path / "red" / "Thumbs.db").write_text("x")
    (tmp_path / "labels.csv").write_text("x")
    photo(tmp_path / "loose.png")
    data = read(tmp_path)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    _, loose, unreadable = data.notes
    assert loose.startswith("1 photos lie in no folder of a class")
    assert unreadable.startswith("4 of 13 photos ")
    for named in ("red/empty.jpg (", "red/nowhere.jpg (", r"red/text\x1b[2J.jpg (", "bomb.png"):
        assert named in unreadable
    assert read(tmp_path).notes == data.notes
    assert len(decoded) == 13, "what cannot be read is not tried again"
    for i in range(12):
        (tmp_path / "red" / f"bad{i}.jpg").touch()
    note = read(tmp_path).notes[2]
    assert note.startswith("16 of 25 photos ")
    listed_in = Path(note.rpartition("all of them in ")[2])
    assert len(json.loads(listed_in.read_text())["unreadable"]) == 16


def test_copies_of_a_photo_are_not_split_into_training_and_test(tmp_path: Path) -> None:
    photos(tmp_path, num=10)
    for name in ("red", "blue"):
        for path in sorted((tmp_path / name).glob("*.png")):
            shutil.copy(path, path.with_name(f"copy_{path.name}"))
    data = read(tmp_path)
    assert data.splits
    pixels = [bytes(data.train.images[i].numpy()) for i in data.splits["train"]]
    assert len(pixels) == len(set(pixels)) == 30
    assert len(data.train.images) == 50
    assert data.notes[0].startswith("20 photos are there more than once")


def test_photos_in_two_splits_or_classes_are_named(tmp_path: Path) -> None:
    photos(tmp_path / "train", num=3)
    photos(tmp_path / "test", num=1)
    shutil.copy(tmp_path / "train" / "red" / "2.png", tmp_path / "train" / "blue" / "copy.png")
    twice, splits, classes = read(tmp_path).notes
    assert twice.startswith("4 photos are there more than once")
    assert splits.startswith("3 photos are in more than one of train, val and test")
    assert splits.endswith("train/blue/0.png = test/blue/0.png")
    assert classes.startswith("1 photo is in more than one class, such as train/blue/copy.png")


def test_of_a_photo_in_two_classes_the_copy_that_is_kept_is_named(tmp_path: Path) -> None:
    photos(tmp_path, num=3)
    shutil.copy(tmp_path / "blue" / "2.png", tmp_path / "red" / "copy.png")
    data = read(tmp_path)
    assert data.notes[-1].endswith("blue/2.png = red/copy.png; kept: blue/2.png")
    assert data.files is not None
    assert data.splits
    kept = [data.files[i] for i in data.splits["train"]]
    assert "blue/2.png" in kept
    assert "red/copy.png" not in kept


def test_a_folder_that_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    assert f"data.root={tmp_path}/none:" in str(Folder(str(tmp_path / "none")).missing())
    photo(tmp_path / "loose.jpg")
    assert error_of(tmp_path).startswith("photos: no images")
    assert error_of(photos(tmp_path, 2, ("red",))).startswith("photos: one class (red)")
    (tmp_path / "white").mkdir()
    assert error_of(tmp_path).startswith("photos/white: ")
    (tmp_path / "white" / "a.jpg").touch()
    assert "photos/white: a class without images (white/a.jpg: no " in error_of(tmp_path)


def test_a_split_is_refused_without_classes_with_others_than_training_or_alone(
    tmp_path: Path,
) -> None:
    photos(tmp_path / "train", num=2)
    photo(tmp_path / "val" / "1.png")
    assert error_of(tmp_path).startswith("photos/val: no images")
    photos(tmp_path / "val", num=2, classes=("blue", "white"))
    assert error_of(tmp_path).startswith("photos/val/white: ")
    shutil.rmtree(tmp_path / "train")
    assert error_of(tmp_path) == "photos: it has val, but no train"


def test_squares_that_cannot_be_are_refused() -> None:
    for size, fit in ((0, "crop"), (2**12 + 1, "crop"), (16, "zoom")):
        with pytest.raises(ValueError, match=f"size={size} and fit={fit}"):
            Folder("photos", size, fit)


def test_photos_are_decoded_once_a_size_and_again_when_one_changes(
    tmp_path: Path, stored: Path, decoded: list[str]
) -> None:
    photos(tmp_path, num=2)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(read, [tmp_path, tmp_path])
    assert first.train.images.equal(second.train.images)
    assert len(decoded) == 6, "of two runs at once one decodes"
    read(tmp_path, size=8)
    photo(tmp_path / "red" / "0.png", COLOURS["blue"])
    photo(tmp_path / "red" / "9.png")
    changed = read(tmp_path)
    assert len(decoded) == 6 + 6 + 7
    assert changed.train.images[4, :, 0, 0].tolist() == [0, 0, 200]
    assert first.train.images[4, :, 0, 0].tolist() == [200, 0, 0], "an open set stays what it was"
    sizes = sorted(path.stat().st_size for path in stored.glob("*.u8"))
    assert sizes == [6 * 3 * 8 * 8, 7 * 3 * 16 * 16], "the older state is deleted"


def swap(one: Path, other: Path) -> None:
    spare = one.with_suffix(".spare")
    for old, new in ((one, spare), (other, one), (spare, other)):
        old.rename(new)


@pytest.mark.parametrize(
    "replace",
    [
        lambda path, other: path.write_bytes(other.read_bytes()),
        lambda path, other: os.replace(shutil.copy(other, path.with_suffix(".new")), path),
        swap,
        lambda path, other: (path.unlink(), os.link(other, path)),
        lambda path, other: (path.unlink(), path.symlink_to(other)),
    ],
)
def test_a_photo_is_seen_to_be_another_though_size_and_time_are_the_same(
    tmp_path: Path, replace: Any
) -> None:
    for name, colour in COLOURS.items():
        photo(tmp_path / name / "0.bmp", colour)
        os.utime(tmp_path / name / "0.bmp", (1e9, 1e9))
    read(tmp_path)
    replace(tmp_path / "red" / "0.bmp", tmp_path / "blue" / "0.bmp")
    os.utime(tmp_path / "red" / "0.bmp", (1e9, 1e9))
    red = Folder(str(tmp_path), size=16).read().train
    assert (red.images[red.labels == 2][:, :, 0, 0]).tolist() == [[0, 0, 200]]


def test_photos_that_were_only_copied_are_not_decoded_again(
    tmp_path: Path, decoded: list[str]
) -> None:
    before = read(photos(tmp_path / "photos", num=2))
    shutil.move(tmp_path / "photos", tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "photos")
    for path in (tmp_path / "photos").rglob("*.png"):
        path.chmod(0o600)
    for _ in range(2):
        assert read(tmp_path / "photos").train.images.equal(before.train.images)
    assert len(decoded) == 6
    shutil.copy(tmp_path / "old" / "red" / "0.png", tmp_path / "photos" / "green" / "0.png")
    read(tmp_path / "photos")
    assert len(decoded) == 12


def test_squares_that_the_disk_has_no_space_for_are_refused_before_one_is_decoded(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(UserError, match=r"data\.size=16: 6 photos.*\n.*DATA_DIR"):
        read(photos(tmp_path / "photos", num=2))
    assert decoded == []


@pytest.mark.parametrize("suffix", [".u8", ".json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 10)])
def test_what_is_stored_incompletely_is_made_again(
    tmp_path: Path, stored: Path, decoded: list[str], suffix: str, damage: Any
) -> None:
    before = read(photos(tmp_path, num=2)).train.images.clone()
    [path] = stored.glob(f"*{suffix}")
    damage(path)
    assert read(tmp_path).train.images.equal(before)
    assert len(decoded) == 12


def test_a_disk_that_fills_up_is_refused_and_nothing_half_written_is_left(
    tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match=r"No space left on device\n.*DATA_DIR"):
        read(photos(tmp_path / "photos", num=2))
    assert [path.suffix for path in stored.iterdir()] == [".lock"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Record]]:
    root = tmp_path_factory.mktemp("home") / "Colours of mine"
    for i in range(20):
        photo(root / "red" / f"{i}.png", COLOURS["red"], i)
    for i in range(10):
        photo(root / "blue" / f"{i}.jpg", COLOURS["blue"], i)
    (root / "blue" / "bad.jpg").touch()
    overrides = [
        *(f"data.root='{root}'", "data.size=40", "data.augment=standard", "data.batch_size=8"),
        *(*choose("Tiny"), "optim.class_weights=balanced", "++trainer.max_epochs=1"),
        *("++trainer.accelerator=cpu", "++trainer.precision=32-true"),
        f"log_dir={tmp_path_factory.mktemp('logs')}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("stored")))
        draw_nothing(patch.setattr)
        yield root, train(composed("train", "data=folder", *overrides), overrides)


def test_a_run_on_photos_is_recorded_with_its_classes_and_their_numbers(
    run: tuple[Path, Record],
) -> None:
    metadata = run[1].metadata
    assert metadata["status"] == "finished"
    assert metadata["data"] == "Colours_of_mine"
    assert metadata["classes"] == ["blue", "red"]
    assert metadata["num_per_class"] == [8, 14]
    assert (metadata["num_train"], metadata["num_val"], metadata["num_test"]) == (22, 4, 4)
    assert "blue/bad.jpg" in metadata["notes"][0]
    assert metadata["notes"][0] in (run[1].folder / "train.log").read_text()


def test_a_run_is_evaluated_on_photos_that_lie_elsewhere(
    run: tuple[Path, Record], tmp_path: Path
) -> None:
    root, record = run
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    rebuilt = rebuild_run(record.folder, TARGETS)
    data = read_data(rebuilt, str(moved))
    batch = data.test.__getitems__(torch.arange(len(data.test)))
    saved = np.load(record.folder / "predictions" / "test.npz")
    assert batch.index.tolist() == saved["index"].tolist()
    logits = rebuilt.logits(batch.inputs)
    np.testing.assert_allclose(logits.numpy(), saved["logits"], atol=1e-4)


def test_a_run_does_not_go_on_with_other_photos(run: tuple[Path, Record], tmp_path: Path) -> None:
    root, record = run
    copied = Path(shutil.copytree(record.folder, tmp_path / "run"))
    Record.open(copied).end("interrupted")
    other = Path(shutil.copytree(root, tmp_path / "other"))
    photo(other / "red" / "one more.png", grey=99)
    trusted = f"trusted_targets=[{','.join(TARGETS)}]"
    overrides = [f"resume={copied}", f"data.root={other}", trusted]
    with pytest.raises(UserError, match=r"changed.*\n1 image was added since the run"):
        train(composed("train", "data=folder", *overrides), overrides)
    for path in [*(other / "red").glob("1*.png")][:4]:
        path.unlink()
    with pytest.raises(UserError, match="3 images were removed since the run"):
        read_data(rebuild_run(record.folder, TARGETS), str(other))


def scans(root: Path, white: int, dtype: str = "<u2") -> Path:
    """Two classes of scans, no two alike, whose values reach `white`."""
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(3):
            values = np.full((8, 8), white * (label + 1) // 2, dtype)
            values[4:, i] = 0
            Image.fromarray(values).save(root / name / f"{i}.tif")
    return root


@pytest.mark.parametrize("white", [1023, 4095, 16383])
def test_scans_of_fewer_bits_than_their_files_have_a_line_and_a_setting(
    tmp_path: Path, white: int
) -> None:
    root = scans(tmp_path, white)
    note, *others = Folder(str(root), size=8).read().notes
    assert note.startswith(f"6 photos of 16 bits hold no value above {white} of 65535")
    assert f"data.max_value={white}" in note
    data = Folder(str(root), size=8, max_value=white).read()
    assert data.notes == ()
    assert data.train.images[0, :, 0].unique().tolist() == [127]
    assert data.train.images[3, :, 0].unique().tolist() == [255]
    assert Folder(str(root), size=8).read().notes == (note, *others), "stored apart"


def test_scans_of_all_bits_have_no_line_and_fractions_of_any_range_have_one(
    tmp_path: Path,
) -> None:
    assert read(scans(tmp_path / "full", 65535), 8).notes == ()
    note, *_ = read(scans(tmp_path / "float", 255, "<f4"), 8).notes
    assert note.startswith("6 photos of more than 8 bits are each scaled by its own range")


def test_scans_that_are_darker_or_brighter_than_the_rest_are_counted(tmp_path: Path) -> None:
    scans(tmp_path / "x", 4095)
    values = np.full((8, 8), 60000, "<u2")
    values[0] = 0
    Image.fromarray(values).save(tmp_path / "x" / "light" / "bright.tif")
    [note] = read(tmp_path / "x", 8).notes
    assert note.startswith("6 of 7 photos of 16 bits hold no value above 4095 of 65535")
    [note] = Folder(str(tmp_path / "x"), size=8, max_value=4095).read().notes
    assert note.startswith("1 photos hold values above data.max_value")


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of colours (H, W, 3), which Pillow reads but does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = ((len(data), kind + data) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for length, chunk in chunks
    )


def test_colours_of_16_bits_are_scaled_as_grey_is(tmp_path: Path) -> None:
    for label, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for i in range(3):
            values = np.full((8, 8, 3), 4080 * (label + 1) // 2)
            values[4:, i] = 0
            (tmp_path / name / f"{i}.png").write_bytes(png_of_16_bits(values))
    note, *_ = read(tmp_path, 8).notes
    assert note.startswith("6 photos of 16 bits hold no value above 4095 of 65535")
    assert "data.max_value=4095" in note
    images = Folder(str(tmp_path), size=8, max_value=4095).read().train.images
    assert images[0, :, 0].unique().tolist() == [pytest.approx(127, abs=16)]
    assert images[3, :, 0].unique().tolist() == [pytest.approx(255, abs=16)]


def test_photos_of_heic_are_named_until_its_decoder_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORMATS", module.COMMON)
    heic = b"\0\0\0\x24ftypheic\0\0\0\0" + bytes(100)
    (photos(tmp_path) / "red" / "x.HEIC").write_bytes(heic)
    assert "red/x.HEIC (HEIC needs: pip install 'pillow-heif" in read(tmp_path).notes[0]
    monkeypatch.setattr(squares, "DECODERS", "others")
    monkeypatch.setattr(squares, "read_image", lambda *_, **__: Image.new("RGB", (9, 9)))
    assert len(read(tmp_path).train.images) == 25, "decoded again"


def test_a_config_without_the_optional_settings_has_none_of_them() -> None:
    data = composed("train", "data=folder", "data.root=x")["data"]
    assert data["source"].keys() == {"_target_", "root", "size", "fit", "max_pixels"}
    assert not {"splits", "labels", "max_value"} & data.keys()
    data = composed("train", "data=folder", "data.root=x", "data.splits={train: a b}")["data"]
    assert data["splits"] == data["source"]["splits"] == {"train": "a b"}
