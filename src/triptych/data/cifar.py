"""CIFAR-10 and CIFAR-100 from the official files (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import hashlib
import io
import os.path
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triptych import download
from triptych.data.disk_cache import lock_file
from triptych.data.source import ImageSet, LabelledImages
from triptych.errors import UserError

# Pickled arrays and strings, decoded without running what else a pickle may ask for.

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # what numpy itself calls, under any of its names
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def unpickle(data: bytes) -> Any:
    """What Python 2 pickled, strings as bytes; raises UserError where that would import more."""
    return _Unpickler(io.BytesIO(data), encoding="bytes").load()


class _Unpickler(pickle.Unpickler):
    """Decodes arrays, strings, numbers, lists and dicts; imports nothing and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise UserError(
                f"A data file asks for {module}.{name}, but images need arrays and strings only.\n"
                "It was not run. Delete the file and fetch the official one."
            ) from None


class Cifar:
    """The Python version of Krizhevsky's files, as a folder or an archive below `root`.

    `files` are "md5 name": the training files in order, the test file, the class names. `label` is
    the kind of label: "label" in CIFAR-10, "fine_label" or "coarse_label" in CIFAR-100.
    """

    def __init__(
        self,
        root: str,
        num_train: int,
        num_test: int,
        folder: str,
        files: Sequence[str],
        archive: Mapping[str, Any],  # name, size (bytes), md5
        urls: Sequence[str],
        label: str = "label",
    ) -> None:
        self._root = Path(root).expanduser().absolute()
        self._num_train, self._num_test = num_train, num_test
        self._folder = self._root / folder
        self._sums = {name: md5 for md5, name in map(str.split, files)}
        self._archive = self._root / archive["name"]
        self._archive_size, self._archive_md5 = archive["size"], archive["md5"]
        self._urls = list(urls)
        self._label = label

    def missing(self) -> str | None:
        absent = self._absent()
        if not absent or self._archive.is_file():
            return None
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        return (
            f"{self._folder.name} lacks {absent[0]}{others}, and there is no {self._archive.name} "
            f"(looked in {self._root})"
        )

    def can_download(self) -> bool:
        return self.missing() is None or download.can_download(self._urls)

    def download(self) -> None:
        if self.missing():
            download.fetch(self._urls, self._archive, self._archive_size, self._archive_md5)
        self._unpack()

    def read(self) -> ImageSet:
        """Raises UserError for a file that is altered, cut short or not there."""
        if self._archive.is_file():
            self._unpack()
        *train, test, names = self._sums
        classes = self._decoded(names)[f"{self._label}_names".encode()]
        return ImageSet(
            self._images(train, self._num_train),
            self._images([test], self._num_test),
            tuple(name.decode() for name in classes),
        )

    def _absent(self) -> list[str]:
        return [name for name in self._sums if not os.path.isfile(self._folder / name)]

    def _unpack(self) -> None:
        """Take what the folder lacks out of the archive."""
        if not self._absent():
            return
        with lock_file(self._archive, "DATA_DIR or data.root"):
            wanted = {f"{self._folder.name}/{name}": name for name in self._absent()}
            if not wanted:
                return  # another process was first
            _check(self._archive, download.md5_of(self._archive), self._archive_md5)
            self._folder.mkdir(exist_ok=True)
            with tarfile.open(self._archive) as tar:
                for member in tar:  # in the archive's order: gzip cannot go back
                    if name := wanted.get(member.name):
                        self._extract(tar, member, name)

    def _extract(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        stream = tar.extractfile(member)
        data = stream.read() if stream else b""
        _check(self._archive / member.name, _md5(data), self._sums[name])
        part = self._folder / f"{name}.part"
        part.write_bytes(data)
        part.replace(self._folder / name)

    def _images(self, names: Sequence[str], count: int) -> LabelledImages:
        images = np.empty((count, 3, 32, 32), np.uint8)
        labels = np.empty(count, np.int64)
        stop = 0
        for name in names:
            batch = self._decoded(name)
            data, targets = batch[b"data"], batch[f"{self._label}s".encode()]
            start, stop = stop, stop + len(data)
            if stop <= count:
                images[start:stop] = data.reshape(-1, 3, 32, 32)
                labels[start:stop] = targets
        if stop != count:
            raise UserError(
                f"{self._folder}: {stop} images in {', '.join(names)}, expected {count}"
            )
        return LabelledImages(torch.from_numpy(images), torch.from_numpy(labels))

    def _decoded(self, name: str) -> dict[bytes, Any]:
        """What the file holds; the bytes decoded are the bytes that were hashed."""
        path = self._folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        _check(path, _md5(data), self._sums[name])
        batch: dict[bytes, Any] = unpickle(data)
        return batch


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _check(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise UserError(
            f"{path} is altered or cut short: md5 {found}, expected {expected}.\n"
            "Delete it and run again."
        )
