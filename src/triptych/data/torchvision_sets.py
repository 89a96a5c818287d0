"""Data sets that torchvision knows: `data=torchvision data.set=STL10`.

torchvision downloads, checks and reads the official files; its splits are the splits here. Images
are decoded once and kept as squares, as photos are, and from then on the files are not read.

Shapes: N images, S pixels a side.
"""

import inspect
import json
import os
import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import datasets

from triptych.data.disk_cache import data_dir, hash_json, lock_file, map_tensor
from triptych.data.names import class_name
from triptych.data.photos import DECODERS, MAX_PIXELS, convert_to_rgb, square
from triptych.data.source import ImageSet, LabelledImages, Source
from triptych.data.squares import SquareFormat, check_space, decode_in_order, write_index
from triptych.download import can_download
from triptych.errors import UserError, closest_matches, summarize_error
from triptych.runs.storage import atomic_write

SPLITS = ("train", "val", "test")


class Official(NamedTuple):
    """How many images the splits of a set have, as published; 0 of one that there is not."""

    train: int
    val: int = 0
    test: int = 0
    side: int = 256  # pixels of a stored image, unless `data.size` says


# The numbers tell a set of which a part was not unpacked.
SETS = {
    "Caltech101": Official(8677),
    "Caltech256": Official(30_607),
    "Country211": Official(31_650, 10_550, 21_100),
    "DTD": Official(1880, 1880, 1880),
    "EuroSAT": Official(27_000, side=64),
    "FGVCAircraft": Official(3334, 3333, 3333),
    "FashionMNIST": Official(60_000, 0, 10_000, 28),
    "Flowers102": Official(1020, 1020, 6149),
    "Food101": Official(75_750, 0, 25_250),
    "GTSRB": Official(26_640, 0, 12_630, 64),
    "Imagenette": Official(9469, 3925),
    "KMNIST": Official(60_000, 0, 10_000, 28),
    "MNIST": Official(60_000, 0, 10_000, 28),
    "OxfordIIITPet": Official(3680, 0, 3669),
    "PCAM": Official(262_144, 32_768, 32_768, 96),
    "RenderedSST2": Official(6920, 872, 1821),
    "STL10": Official(5000, 0, 8000, 96),
    "SUN397": Official(108_754),
    "SVHN": Official(73_257, 0, 26_032, 32),
    "StanfordCars": Official(8144, 0, 8041),
    "USPS": Official(7291, 0, 2007, 16),
}
# What torchvision calls a split otherwise, and which of several editions is meant.
WORDS = {("Country211", "val"): "valid", ("OxfordIIITPet", "train"): "trainval"}
EDITIONS = {"Imagenette": {"size": "320px"}}
ARCHIVES = (".zip", ".gz", ".tgz", ".tar")


class Stored(NamedTuple):
    images: Tensor  # uint8 (N, 3, S, S), read-only: train, then val, then test
    labels: Tensor  # int64 (N,)
    classes: tuple[str, ...]


class TorchvisionSet(Source):
    """The set of this name in `SETS`, with torchvision's files below `root`.

    `size` and `fit` say how an image becomes a square, as of `folder.Folder`.
    """

    def __init__(self, set: str, root: str, size: int | None = None, fit: str = "crop") -> None:
        self._name, self._size, self._fit = set, size, fit
        self._root = Path(os.path.expanduser(root)).absolute()

    @cached_property
    def _official(self) -> Official:
        if self._name not in SETS:
            near = closest_matches(self._name, SETS, 6)
            raise UserError(f"data.set={self._name}: no such set of torchvision here; near: {near}")
        return SETS[self._name]

    @property
    def square(self) -> SquareFormat:
        return SquareFormat(self._size or self._official.side, self._fit, MAX_PIXELS)

    @property
    def _splits(self) -> dict[str, int]:
        """The number of images of each split that there is."""
        return {split: n for split in SPLITS if (n := getattr(self._official, split))}

    @property
    def _index_path(self) -> Path:
        """Of what is stored: labels and classes, beside a file of pixels."""
        key = hash_json(self._name, str(self._root.resolve()), self.square, DECODERS)
        return data_dir() / ".torchvision" / f"{self._name}-{key}.json"

    def missing(self) -> str | None:
        if self._load():
            return None
        try:
            self._open()
        except Exception as error:  # of sets of many authors, perhaps unpacked in part: all kinds
            reason = summarize_error(error).partition(" You can use download")[0]
            return f"torchvision's {self._name} in {self._root} ({reason})"
        return None

    def can_download(self) -> bool:
        """Or unpacked: archives of the names that torchvision has may lie where it puts them."""
        code = inspect.getsource(getattr(datasets, self._name))
        places = (path for depth in ("*", "*/*", "*/raw/*") for path in self._root.glob(depth))
        if any(path.suffix in ARCHIVES and path.name in code for path in places):
            return True
        return can_download(re.findall(r"https?://[^\s\"'{}<>`]+", code))

    def download(self) -> None:
        if not self._load():
            self._store(download=True)

    def read(self) -> ImageSet:
        """Raises UserError where there are other images than published, or some not readable."""
        images, labels, classes = self._load() or self._store()
        num = self._splits
        num_test = num.get("test", 0)
        rest = len(labels) - num_test
        train = LabelledImages(images[:rest], labels[:rest])
        # Without test images of its own, they are split off those for training.
        test = LabelledImages(images[rest:], labels[rest:]) if num_test else train
        starts = {"train": 0, "val": num["train"], "test": 0}
        splits = {split: starts[split] + torch.arange(n) for split, n in num.items()}
        absent = " and ".join(split for split in SPLITS if split not in num)
        note = f"{self._name} as published: {', '.join(f'{n} {split}' for split, n in num.items())}"
        note += f"; {absent} split off train" if absent else ""
        return ImageSet(train, test, classes, splits, (note,))

    def _open(self, *, download: bool = False) -> dict[str, Any]:
        """torchvision's data set of each split; raises what it raises."""
        kind = getattr(datasets, self._name)
        parameters = inspect.signature(kind).parameters
        parts = {}
        for split in self._splits:
            options: dict[str, Any] = dict(EDITIONS.get(self._name, {}))
            if "train" in parameters:
                options["train"] = split == "train"
            elif "split" in parameters:
                options["split"] = WORDS.get((self._name, split), split)
            parts[split] = kind(self._root, **options, **({"download": True} if download else {}))
        return parts

    def _open_or_download(self) -> dict[str, Any]:
        with suppress(Exception):  # not there, or not whole
            return self._open()
        return self._open(download=True)

    def _load(self) -> Stored | None:
        """What is stored; None where it is not."""
        index, side = self._index_path, self.square.side
        try:
            stored = json.loads(index.read_text())
            labels = torch.tensor(stored["labels"])
            shape = (len(labels), 3, side, side)
            images = map_tensor(index.with_suffix(".u8"), np.uint8, shape)
        except (OSError, ValueError):
            return None
        return Stored(images, labels, tuple(stored["classes"]))

    def _store(self, *, download: bool = False) -> Stored:
        """Decode all images, downloaded if need be; of several processes one does."""
        index, side = self._index_path, self.square.side
        with lock_file(index.parent / self._name):
            if already := self._load():
                return already
            parts = self._find(download)
            items = [(part, split, i) for split, part in parts.items() for i in range(len(part))]
            check_space(len(items), side, index.parent)
            labels = []
            with atomic_write(index.with_suffix(".u8")) as path, path.open("wb") as file:
                for pixels, label in decode_in_order(items, self._decode, side):
                    file.write(pixels.data)
                    labels.append(label)
            classes = name_classes(parts["train"], max(labels) + 1)
            write_index(index, {"labels": labels, "classes": classes})
        stored = self._load()
        assert stored
        return stored

    def _find(self, download: bool) -> dict[str, Any]:
        """torchvision's data set of each split; raises UserError unless they are complete."""
        try:
            parts = self._open_or_download() if download else self._open()
        except Exception as error:  # of the network, an archive or the disk: all kinds
            verb = "download" if download else "read"
            raise UserError(
                f"data.set={self._name}: torchvision cannot {verb} it ({summarize_error(error)})\n"
                f"put its files into {self._root}"
            ) from error
        for split, num in self._splits.items():
            if (found := len(parts[split])) != num:
                raise UserError(
                    f"data.set={self._name}: {found} images of {split}, {num} as published\n"
                    f"delete its files in {self._root}, and run again"
                )
        return parts

    def _decode(self, item: tuple[Any, str, int]) -> tuple[NDArray[np.uint8], int]:
        """The square of an image and its label; raises UserError where it is damaged."""
        part, split, number = item
        try:
            image, label = part[number]
            return square(convert_to_rgb(image), self.square.side, self._fit), int(label)
        except Exception as error:  # of readers of many authors: all kinds
            raise UserError(
                f"data.set={self._name}: image {number} of {split} cannot be read "
                f"({summarize_error(error)})\ndelete its files in {self._root}, and run again"
            ) from error


def name_classes(dataset: Any, num: int) -> list[str]:
    """The names that torchvision has for `num` classes, else their numbers."""
    given: Any = getattr(dataset, "classes", None) or getattr(dataset, "categories", ())
    names = [class_name(name if isinstance(name, str) else name[0]) for name in given]
    return names if len({*names}) == len(names) >= num else [str(n) for n in range(num)]
