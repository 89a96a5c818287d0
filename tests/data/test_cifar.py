"""CIFAR's files, drawn small in the official format, against torchvision's reader."""

import hashlib
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from triptych.data.cifar import Cifar
from triptych.data.source import LabelledImages
from triptych.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSES = ["cat", "dog"]


class Layout(NamedTuple):
    oracle: type[torchvision.datasets.CIFAR10]
    train: tuple[str, ...]
    test: str
    names: str
    label: str


CIFAR10 = Layout(
    torchvision.datasets.CIFAR10,
    ("data_batch_1", "data_batch_2"),
    "test_batch",
    "batches.meta",
    "label",
)
CIFAR100 = Layout(torchvision.datasets.CIFAR100, ("train",), "test", "meta", "fine_label")


class Python2Pickler(pickle._Pickler):
    """Writes strings as Python 2 did, and as the official files have them."""

    def save_string(self, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


def pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


class Official(NamedTuple):
    """A tiny set on disk: a folder and an archive of the same files, served from one place."""

    root: Path
    layout: Layout
    contents: dict[str, bytes]

    @property
    def folder(self) -> Path:
        return self.root / self.layout.oracle.base_folder

    @property
    def archive(self) -> Path:
        return self.root / self.layout.oracle.filename

    def write_folder(self) -> "Official":
        self.folder.mkdir()
        for name, data in self.contents.items():
            (self.folder / name).write_bytes(data)
        return self

    def write_archive(self) -> "Official":
        with tarfile.open(self.archive, "w:gz") as tar:
            for name, data in [("../outside", b"!"), *self.contents.items()]:
                member = tarfile.TarInfo(f"{self.folder.name}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return self

    def source(self, root: Path | None = None, **changes: Any) -> Cifar:
        archive = self.archive.read_bytes() if self.archive.is_file() else b""
        settings = {
            "root": str(root or self.root),
            "num_train": 3 * len(self.layout.train),
            "num_test": 3,
            "folder": self.folder.name,
            "files": [f"{md5(data)} {name}" for name, data in self.contents.items()],
            "archive": {"name": self.archive.name, "size": len(archive), "md5": md5(archive)},
            "urls": [],
            "label": self.layout.label,
        }
        return Cifar(**settings | changes)

    def oracle(self, train: bool) -> torchvision.datasets.CIFAR10:
        """torchvision's reader, told the md5 sums of these files."""
        sums = [[name, md5(data)] for name, data in self.contents.items()]
        names = self.layout.oracle.meta | {"filename": sums[-1][0], "md5": sums[-1][1]}
        lists = {"train_list": sums[:-2], "test_list": sums[-2:-1], "meta": names}
        return type("Oracle", (self.layout.oracle,), lists)(self.root, train=train)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def official(root: Path, layout: Layout = CIFAR10) -> Official:
    random = np.random.default_rng(0)
    contents = {}
    for name in (*layout.train, layout.test):
        images = random.integers(0, 256, (3, 3072), np.uint8)
        labels = random.integers(0, len(CLASSES), 3).tolist()
        contents[name] = pickled({f"{layout.label}s": labels, "data": images})
    contents[layout.names] = pickled({f"{layout.label}_names": CLASSES})
    return Official(root, layout, contents)


def assert_equal(read: LabelledImages, oracle: torchvision.datasets.CIFAR10) -> None:
    images, labels = read
    assert images.is_contiguous()
    assert torch.equal(images, torch.from_numpy(oracle.data).permute(0, 3, 1, 2))
    assert torch.equal(labels, torch.tensor(oracle.targets))
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("layout", [CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def test_images_labels_and_classes_are_those_of_torchvision(tmp_path: Path, layout: Layout) -> None:
    files = official(tmp_path, layout).write_folder()
    read = files.source().read()
    assert_equal(read.train, files.oracle(train=True))
    assert_equal(read.test, files.oracle(train=False))
    assert read.classes == tuple(files.oracle(train=True).classes) == ("cat", "dog")


def test_files_on_disk_are_read_where_nothing_may_be_written(tmp_path: Path) -> None:
    source = official(tmp_path).write_folder().source()
    before = sorted(tmp_path.rglob("*"))
    assert source.missing() is None
    assert source.can_download()
    source.download()
    source.read()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_archive_alone_is_enough_and_only_the_named_files_leave_it(tmp_path: Path) -> None:
    files = official(tmp_path).write_archive()
    assert files.source().missing() is None
    assert_equal(files.source().read().train, files.oracle(train=True))
    assert {file.name for file in files.folder.iterdir()} == set(files.contents)
    assert {file.name for file in tmp_path.iterdir()} == {
        files.folder.name,
        files.archive.name,
        f"{files.archive.name}.lock",
    }


def test_a_file_that_is_gone_comes_back_from_the_archive(tmp_path: Path) -> None:
    files = official(tmp_path).write_folder().write_archive()
    (files.folder / "test_batch").unlink()
    files.source().download()
    assert (files.folder / "test_batch").read_bytes() == files.contents["test_batch"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a server that gives what lies in `tmp_path/site`."""
    (tmp_path / "site").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_nowhere_on_disk_is_fetched(
    tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = official(tmp_path / "site").write_archive()
    source = files.source(tmp_path / "new", urls=[f"{site}/{files.archive.name}"])
    assert source.missing()
    assert source.can_download()
    source.download()
    assert source.missing() is None
    assert len(source.read().test.images) == 3


def test_what_is_missing_is_named_with_the_places_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = official(tmp_path)
    source = files.source(Path("data"))
    missing = source.missing()
    assert missing
    assert "\n" not in missing
    for place in (tmp_path / "data", files.folder.name, files.archive.name):
        assert str(place) in missing
    assert not source.can_download()
    with pytest.raises(UserError, match="No address"):
        source.download()
    with pytest.raises(UserError, match=r"batches\.meta: No such file"):
        source.read()


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["a byte altered", "cut short", "empty"])
def test_a_damaged_file_is_named_with_both_md5_sums(tmp_path: Path, name: str, damage: str) -> None:
    files = official(tmp_path).write_folder()
    good = files.contents[name]
    altered = bytes([*good[:-5], good[-5] ^ 1, *good[-4:]])
    bad = {"a byte altered": altered, "cut short": good[:-5], "empty": b""}[damage]
    (files.folder / name).write_bytes(bad)
    with pytest.raises(UserError) as refusal:
        files.source().read()
    message = str(refusal.value)
    for part in (str(files.folder / name), md5(bad), md5(good), "Delete it and run again"):
        assert part in message
    assert len(message.splitlines()) <= 3


def test_a_damaged_archive_is_named_with_both_md5_sums_and_not_opened(tmp_path: Path) -> None:
    files = official(tmp_path).write_archive()
    source, good = files.source(), files.archive.read_bytes()
    files.archive.write_bytes(good[:-20])
    with pytest.raises(UserError) as refusal:
        source.read()
    for part in (str(files.archive), md5(good[:-20]), md5(good)):
        assert part in str(refusal.value)
    assert not files.folder.exists()


class Code:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.witness}'",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_file_that_carries_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, protocol: int
) -> None:
    files = official(tmp_path)
    files.contents["data_batch_1"] = pickle.dumps(Code(tmp_path / "ran"), protocol)
    with pytest.raises(UserError, match=r"(posix|nt)\.system"):
        files.write_folder().source().read()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("changes", [{"num_train": 5}, {"num_train": 7}, {"num_test": 4}])
def test_another_number_of_images_than_the_config_says_is_refused(
    tmp_path: Path, changes: dict[str, int]
) -> None:
    (expected,) = changes.values()
    with pytest.raises(UserError, match=f"[36] images .* expected {expected}"):
        official(tmp_path).write_folder().source(**changes).read()


def from_config(name: str, root: Path) -> Cifar:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(overrides=[f"+data={name}", f"data.root={root}"])
    source = instantiate(config.data.source)
    assert isinstance(source, Cifar)
    return source


@pytest.mark.parametrize("layout", [CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def test_the_config_names_the_files_that_torchvision_checks(tmp_path: Path, layout: Layout) -> None:
    oracle = layout.oracle
    name = oracle.__name__.lower()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(overrides=[f"+data={name}"]).data
    names = [oracle.meta["filename"], oracle.meta["md5"]]
    files = [*oracle.train_list, *oracle.test_list, names]
    assert config.name == name
    assert [line.split()[::-1] for line in config.source.files] == files
    assert config.source.folder == oracle.base_folder
    assert config.source.archive.name == oracle.filename
    assert config.source.archive.md5 == oracle.tgz_md5
    assert config.source.urls[0] == oracle.url
    assert config.source.get("label", "label") + "_names" == oracle.meta["key"]
    assert oracle.filename in str(from_config(name, tmp_path).missing())


@pytest.mark.real
def test_the_real_images_and_their_statistics_are_the_published_ones(real_cifar10: Path) -> None:
    read = from_config("cifar10", real_cifar10).read()
    assert_equal(read.train, torchvision.datasets.CIFAR10(real_cifar10, train=True))
    assert_equal(read.test, torchvision.datasets.CIFAR10(real_cifar10, train=False))
    assert read.classes == tuple(torchvision.datasets.CIFAR10(real_cifar10).classes)
    # Exact over the 256 values, without 600 MB of floating-point pixels.
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel, mean, std in zip(
        read.train.images.unbind(1),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        strict=True,
    ):
        share = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
        found = (share * values).sum()
        assert found.item() == pytest.approx(mean, abs=5e-5)
        assert (share * (values - found) ** 2).sum().sqrt().item() == pytest.approx(std, abs=5e-5)
