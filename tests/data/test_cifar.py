"""CIFAR's files, drawn small in the official format, whose md5 sums torchvision is told."""

import hashlib
import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100

from tests.composing import composed
from triptych.data import cifar
from triptych.data.cifar import Cifar
from triptych.data.source import hash_tensors
from triptych.errors import UserError

NAMES = ["cat", "dog"]


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class Official:
    """A tiny set on disk, as a folder or an archive, and its images and labels."""

    def __init__(self, root: Path, kind: type[CIFAR10], monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, random = root, np.random.default_rng(0)
        label = "fine_label" if kind is CIFAR100 else "label"
        self.files: dict[str, bytes] = {}
        self.images: dict[str, NDArray[np.uint8]] = {}
        self.labels: dict[str, list[int]] = {}
        for name, _ in [*kind.train_list[:2], *kind.test_list]:
            self.images[name] = random.integers(0, 256, (3, 3072), np.uint8)
            self.labels[name] = random.integers(0, len(NAMES), 3).tolist()
            content = {f"{label}s": self.labels[name], "data": self.images[name]}
            self.files[name] = pickle.dumps(content, protocol=2)
        self.files[kind.meta["filename"]] = pickle.dumps({f"{label}_names": NAMES}, protocol=2)
        self.folder, self.archive = root / kind.base_folder, root / kind.filename
        self.archive_bytes = self.pack()
        sums = [[name, md5(data)] for name, data in self.files.items()]
        tiny = {
            **{"train_list": sums[:-2], "test_list": sums[-2:-1]},
            **{"tgz_md5": md5(self.archive_bytes), "meta": kind.meta | {"md5": sums[-1][1]}},
            "url": "http://127.0.0.1:9/nowhere",
        }
        self.num_classes = 100 if kind is CIFAR100 else 10
        self.num_train = 3 * len(sums[:-2])
        monkeypatch.setitem(cifar.DATASETS, self.num_classes, type("Tiny", (kind,), tiny))
        monkeypatch.setattr(cifar, "MIRRORS", {})

    def write_folder(self) -> None:
        self.folder.mkdir()
        for name, data in self.files.items():
            (self.folder / name).write_bytes(data)

    def pack(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, data in [("../outside", b"!"), *self.files.items()]:
                member = tarfile.TarInfo(f"{self.folder.name}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return packed.getvalue()

    def source(self, root: Path | None = None, **changes: int) -> Cifar:
        sizes = {"num_train": self.num_train, "num_test": 3, "num_classes": self.num_classes}
        return Cifar(str(root or self.root), **sizes | changes)


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Official:
    return Official(tmp_path, CIFAR10, monkeypatch)


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_images_labels_and_classes_are_those_of_the_files_in_their_order(
    kind: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = Official(tmp_path, kind, monkeypatch)
    official.write_folder()
    before = sorted(tmp_path.rglob("*"))
    source = official.source()
    assert source.missing() is None
    source.download()
    data = source.read()
    *train, test = official.images
    for (images, labels), names in ((data.train, train), (data.test, [test])):
        expected = np.concatenate([official.images[name] for name in names])
        assert images.is_contiguous()
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        np.testing.assert_array_equal(images, expected.reshape(-1, 3, 32, 32))
        assert labels.tolist() == [label for name in names for label in official.labels[name]]
    assert data.classes == ("cat", "dog")
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_what_the_folder_lacks_comes_out_of_the_archive_and_nothing_else_does(
    official: Official,
) -> None:
    official.archive.write_bytes(official.archive_bytes)
    source = official.source()
    assert source.missing() is None
    for absent in (official.files, ["test_batch"]):
        source.download()
        assert {p.name: p.read_bytes() for p in official.folder.iterdir()} == official.files
        for name in absent:
            (official.folder / name).unlink()
    beside = {official.folder, official.archive, Path(f"{official.archive}.lock")}
    assert set(official.root.iterdir()) == beside


def test_of_several_runs_at_once_one_downloads_and_unpacks(
    official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Path] = []

    def download(urls: list[str], path: Path, md5: str) -> None:
        requests.append(path)
        path.write_bytes(official.archive_bytes)

    monkeypatch.setattr(cifar, "download", download)
    sources = [official.source(tmp_path / "new") for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Cifar.download, sources))
    assert requests == [tmp_path / "new" / official.archive.name]
    assert sources[0].missing() is None
    assert len(sources[0].read().test.images) == 3


def test_what_is_missing_is_named_with_the_places_looked_at(
    official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = official.source(Path("data"))
    missing = source.missing()
    assert missing
    assert "\n" not in missing
    for place in (tmp_path / "data", official.folder.name, official.archive.name):
        assert str(place) in missing
    assert not source.can_download()
    with pytest.raises(UserError, match="nowhere"):
        source.download()
    with pytest.raises(UserError, match=r"data_batch_1"):
        source.read()


class Code:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.witness}'",)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_file_that_is_not_the_official_one_is_named_and_not_unpickled(
    official: Official, name: str
) -> None:
    official.write_folder()
    path, expected = official.folder / name, md5(official.files[name])
    path.write_bytes(pickle.dumps(Code(official.root / "ran")))
    with pytest.raises(UserError, match=f"{path}: .*{expected}"):
        official.source().read()
    assert not (official.root / "ran").exists()


def test_an_archive_that_is_not_the_official_one_is_named_and_not_opened(
    official: Official,
) -> None:
    official.archive.write_bytes(official.archive_bytes[:-20])
    with pytest.raises(UserError, match=str(official.archive)):
        official.source().download()
    assert not official.folder.exists()


@pytest.mark.parametrize("changes", [{"num_train": 5}, {"num_test": 4}])
def test_another_number_of_images_than_the_config_says_is_refused(
    official: Official, changes: dict[str, int]
) -> None:
    official.write_folder()
    [(name, number)] = changes.items()
    with pytest.raises(UserError, match=f"{name}={number}"):
        official.source(**changes).read()


def from_config(name: str, root: Path) -> Cifar:
    config = composed("train", f"data={name}", f"data.root={root}")
    source: Cifar = instantiate(config["data"]["source"])
    return source


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_the_config_of_a_set_reads_that_set(kind: type[CIFAR10], tmp_path: Path) -> None:
    assert kind.filename in str(from_config(kind.__name__.lower(), tmp_path).missing())


@pytest.mark.real
def test_the_real_images_and_their_statistics_are_the_published_ones(real_cifar10: Path) -> None:
    data = from_config("cifar10", real_cifar10).read()
    # As another reader, which unpickled by itself, gave them.
    assert hash_tensors([*data.train, *data.test]) == "9048fcbac9c08a64"
    assert data.classes[::9] == ("airplane", "truck")
    # Exact over the 256 values, without 600 MB of floating-point pixels.
    values = torch.arange(256, dtype=torch.float64) / 255
    published = zip((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), strict=True)
    for channel, (mean, std) in zip(data.train.images.unbind(1), published, strict=True):
        share = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
        measured = (share * values).sum()
        assert measured.item() == pytest.approx(mean, abs=5e-5)
        deviation = (share * (values - measured) ** 2).sum().sqrt()
        assert deviation.item() == pytest.approx(std, abs=5e-5)
