"""torchvision's sets, drawn small in their official formats; torchvision itself is the oracle."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from tests.composing import composed
from tests.tiny import TARGETS, choose, draw_nothing
from triptych.data import torchvision_sets
from triptych.data.photos import square
from triptych.data.source import split_indices
from triptych.data.torchvision_sets import SETS, Official, TorchvisionSet
from triptych.errors import UserError
from triptych.runs.trust import localize_source
from triptych.tools.evaluate.rebuild import read_data, rebuild_run
from triptych.tools.predict.images import View
from triptych.training import train

random = np.random.default_rng(0)
Patch = pytest.MonkeyPatch


def pixels(*shape: int) -> Any:
    return random.integers(0, 256, shape, np.uint8)


def draw(path: Path, *shape: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(*shape)).save(path)


def write_idx(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4) for n in values.shape)
    path.write_bytes(head + values.tobytes())


def make_mnist(root: Path, patch: Patch) -> Official:
    for name, num in (("train", 30), ("t10k", 10)):
        write_idx(root / "MNIST/raw" / f"{name}-images-idx3-ubyte", pixels(num, 28, 28))
        write_idx(root / "MNIST/raw" / f"{name}-labels-idx1-ubyte", np.arange(num, dtype="u1") % 10)
    return Official(30, 0, 10, 28)


def make_svhn(root: Path, patch: Patch) -> Official:
    files = {}
    for split, num in (("train", 20), ("test", 10)):
        path = root / f"{split}_32x32.mat"
        savemat(path, {"X": pixels(32, 32, 3, num), "y": np.arange(num)[:, None] % 10 + 1})
        files[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    patch.setattr(datasets.SVHN, "split_list", files)
    return Official(20, 0, 10, 32)


def make_stl10(root: Path, patch: Patch) -> Official:
    folder = root / "stl10_binary"
    folder.mkdir()
    for split, num in (("train", 20), ("test", 10)):
        (folder / f"{split}_X.bin").write_bytes(pixels(num, 3, 96, 96).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(num)))
    (folder / "class_names.txt").write_text("\n".join(f"thing {i}" for i in range(10)))
    for kind in ("train", "test"):
        names = [f"{kind}_X.bin", f"{kind}_y.bin"]
        sums = [[n, hashlib.md5((folder / n).read_bytes()).hexdigest()] for n in names]
        patch.setattr(datasets.STL10, f"{kind}_list", sums)
    return Official(20, 0, 10, 96)


def make_eurosat(root: Path, patch: Patch) -> Official:
    for name in ("Forest", "River"):
        for i in range(10):
            draw(root / "eurosat/2750" / name / f"{name}_{i}.jpg", 64, 64, 3)
    return Official(20, side=64)


def make_dtd(root: Path, patch: Patch) -> Official:
    for split in ("train", "val", "test"):
        lines = [f"{name}/{split}{i}.jpg" for name in ("dotted", "lined") for i in range(3)]
        labels = root / "dtd/dtd/labels" / f"{split}1.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("\n".join(lines))
        for n, line in enumerate(lines):
            draw(root / "dtd/dtd/images" / line, 30 + n, 40, 3)
    return Official(6, 6, 6, 24)


def make_gtsrb(root: Path, patch: Patch) -> Official:
    for i in range(12):
        draw(root / "gtsrb/GTSRB/Training" / f"{i % 3:05d}" / f"{i}.ppm", 20 + i, 25, 3)
        draw(root / "gtsrb/GTSRB/Final_Test/Images" / f"{i}.ppm", 20 + i, 25, 3)
    lines = ["Filename;ClassId", *(f"{i}.ppm;{i % 3}" for i in range(12))]
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(lines))
    return Official(12, 0, 12, 16)


def make_pets(root: Path, patch: Patch) -> Official:
    for split in ("trainval", "test"):
        lines = [
            f"{name}_{split}{i} {n} 1 1"
            for n, name in ((1, "Sphynx"), (2, "great_dane"))
            for i in range(3)
        ]
        table = root / "oxford-iiit-pet/annotations" / f"{split}.txt"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("\n".join(lines))
        for line in lines:
            draw(root / "oxford-iiit-pet/images" / f"{line.split()[0]}.jpg", 30, 50, 3)
    return Official(6, 0, 6, 32)


MAKERS: dict[str, Callable[[Path, Patch], Official]] = {
    **{"MNIST": make_mnist, "SVHN": make_svhn, "STL10": make_stl10, "EuroSAT": make_eurosat},
    **{"DTD": make_dtd, "GTSRB": make_gtsrb, "OxfordIIITPet": make_pets},
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: Patch) -> Callable[[str], Path]:
    """A function that writes a tiny set of a name, and gives the folder that is DATA_DIR then."""

    def write(name: str) -> Path:
        monkeypatch.setitem(SETS, name, MAKERS[name](tmp_path, monkeypatch))
        return tmp_path

    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return write


def open_part(name: str, root: Path, split: str) -> Any:
    kind = getattr(datasets, name)
    if name == "EuroSAT":
        return kind(root)
    if name == "MNIST":
        return kind(root, train=split == "train")
    return kind(root, split="trainval" if (name, split) == ("OxfordIIITPet", "train") else split)


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_is_what_torchvision_gives_in_its_official_splits(
    make: Callable[[str], Path], name: str
) -> None:
    root = make(name)
    data = TorchvisionSet(name, str(root)).read()
    assert data.splits
    side = SETS[name].side
    for split, index in data.splits.items():
        part, table = open_part(name, root, split), data.test if split == "test" else data.train
        assert len(index) == len(part) == getattr(SETS[name], split)
        for i, (image, label) in zip(index, part, strict=True):
            assert table.labels[i] == label
            expected = square(image.convert("RGB"), side)
            assert table.images[i].equal(torch.from_numpy(expected))
            if image.size == (side, side):
                assert (expected.transpose(1, 2, 0) == np.asarray(image.convert("RGB"))).all()
    assert data.notes[0].startswith(f"{name} as published: {SETS[name].train} train")


@pytest.mark.parametrize(
    ("name", "absent", "sizes"),
    [
        ("EuroSAT", "; val and test split off train", {"train": 14, "val": 3, "test": 3}),
        ("GTSRB", "; val split off train", {"train": 10, "val": 2, "test": 12}),
        ("DTD", "6 test", {"train": 6, "val": 6, "test": 6}),
    ],
)
def test_what_has_no_official_split_is_split_off_and_said(
    make: Callable[[str], Path], name: str, absent: str, sizes: dict[str, int]
) -> None:
    data = TorchvisionSet(name, str(make(name))).read()
    index = split_indices(data, dict.fromkeys(("train", "val", "test")), 0)
    assert {split: len(index[split]) for split in sizes} == sizes
    assert data.notes[0].endswith(absent)


def test_classes_have_torchvisions_names_or_else_numbers(make: Callable[[str], Path]) -> None:
    def classes(name: str) -> tuple[str, ...]:
        return TorchvisionSet(name, str(make(name))).read().classes

    assert classes("OxfordIIITPet") == ("Sphynx", "Great Dane")
    assert classes("STL10")[:2] == ("thing 0", "thing 1")
    assert classes("GTSRB") == ("0", "1", "2")


def test_images_are_decoded_once_for_a_size(
    make: Callable[[str], Path], monkeypatch: Patch
) -> None:
    root = make("MNIST")
    first = TorchvisionSet("MNIST", str(root)).read()
    larger = TorchvisionSet("MNIST", str(root), size=32).read()
    assert (first.train.images.shape[2:], larger.train.images.shape[2:]) == ((28, 28), (32, 32))
    monkeypatch.delattr(datasets, "MNIST")
    source = TorchvisionSet("MNIST", str(root))
    assert source.missing() is None
    source.download()
    assert source.read().train.images.equal(first.train.images)


def test_what_is_not_there_is_named_and_reading_downloads_nothing(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(torchvision_sets, "can_download", lambda urls: list(urls))
    source = TorchvisionSet("EuroSAT", str(tmp_path))
    assert str(source.missing()).startswith(f"torchvision's EuroSAT in {tmp_path} (Dataset not")
    assert any("EuroSAT.zip" in url for url in source.can_download())  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^data\.set=EuroSAT: torchvision cannot read it"):
        source.read()
    assert not (tmp_path / "eurosat").exists()
    with pytest.raises(UserError, match=r"^data\.set=STL11: no such set .* near: STL10"):
        TorchvisionSet("STL11", str(tmp_path)).missing()


def test_a_download_is_torchvisions_own(make: Callable[[str], Path], monkeypatch: Patch) -> None:
    root = make("EuroSAT")
    (root / "eurosat").rename(root / "away")
    monkeypatch.setattr(
        datasets.EuroSAT, "download", lambda self: (root / "away").rename(root / "eurosat")
    )
    source = TorchvisionSet("EuroSAT", str(root))
    assert source.missing()
    source.download()
    assert source.missing() is None
    assert len(source.read().train.labels) == 20


def test_an_archive_that_lies_there_is_unpacked_without_a_network(
    make: Callable[[str], Path], monkeypatch: Patch
) -> None:
    root = make("STL10")
    expected = TorchvisionSet("STL10", str(root)).read().train.images.clone()
    archive = shutil.make_archive(str(root / "stl10_binary"), "gztar", root, "stl10_binary")
    monkeypatch.setattr(
        datasets.STL10, "tgz_md5", hashlib.md5(Path(archive).read_bytes()).hexdigest()
    )
    for folder in ("stl10_binary", ".torchvision"):
        shutil.rmtree(root / folder)
    source = TorchvisionSet("STL10", str(root))
    assert source.missing()
    assert source.can_download()
    source.download()
    assert source.read().train.images.equal(expected)


def test_a_set_that_is_not_whole_is_refused(make: Callable[[str], Path]) -> None:
    root = make("EuroSAT")
    some = root / "eurosat/2750/River/River_3.jpg"
    some.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^data\.set=EuroSAT: image 13 of train cannot be read"):
        TorchvisionSet("EuroSAT", str(root)).read()
    some.unlink()
    with pytest.raises(UserError, match=r"^data\.set=EuroSAT: 19 images of train, 20 as"):
        TorchvisionSet("EuroSAT", str(root)).read()
    assert not [*root.glob(".torchvision/*.u8")]


def test_a_run_on_folds_of_a_set_is_rebuilt_and_its_place_is_the_installed_one(
    make: Callable[[str], Path], tmp_path: Path, monkeypatch: Patch
) -> None:
    draw_nothing(monkeypatch.setattr)
    make("EuroSAT")
    typed = ["data=torchvision", "data.set=EuroSAT", "data.folds=4", "data.fold=3"]
    more = [*choose("Tiny"), "++trainer.max_epochs=1", "++trainer.accelerator=cpu"]
    config = composed("train", *typed, *more, f"log_dir={tmp_path}/logs", "data.batch_size=8")
    record = train(config)
    assert record.folder.is_relative_to(tmp_path / "logs" / "EuroSAT")
    assert json.loads((record.folder / "run.json").read_text())["num_test"] == 5
    run = rebuild_run(record.folder, TARGETS)
    assert len(read_data(run).test) == 5
    assert View.from_run(run).stored == (64, "crop")
    config["data"]["source"]["root"] = "/somewhere/else"
    source, unknown = localize_source(config, ())
    assert (source["root"], source["set"], unknown) == (str(tmp_path), "EuroSAT", [])
