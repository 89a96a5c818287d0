"""Your own photos, a folder a class: `photos/cat/...`, or `photos/train/cat/...` and so on.

A photo is stored once, as a square of `size` pixels: larger than networks take (224), so that they
shrink it, and small enough that 10,000 photos take 2 GB of disk. Its place in the set is that in
the sorted list of readable files.

Shapes: N photos, S pixels a side.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

from triptych.data.photos import FITS, IMAGE_SUFFIXES, MAX_PIXELS, File, Square, Stored, stored
from triptych.data.source import ImageSet, LabelledImages
from triptych.errors import UserError, sanitize_text

# What lies in a folder of photos: a folder a class, in `train/`, `val/`, `test/` or in none.

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
THUMBNAILS = ("__MACOSX", "@eaDir")  # what systems leave beside photos; the rest is hidden
LOOSE = "in no class's folder"


class Photo(NamedTuple):
    file: File
    part: str  # train, val, test
    class_name: str

    @property
    def shown(self) -> str:
        return sanitize_text(self.file.name)


class Listing(NamedTuple):
    root: Path
    parts: dict[str, str]  # the folder of each part that there is; "." where there is one part
    photos: list[Photo]  # by part, class and name
    classes: list[str]  # the names of all folders in training, sorted
    others: Counter[str]  # files that are no photos of a class, by suffix


def listed(root: Path) -> Listing:
    """Everything below a root but what is hidden; links are followed.

    Raises UserError where there are no classes to tell apart, or a folder cannot be read.
    """
    try:
        parts = parts_of(root)
        photos, others = [], Counter[str]()
        for part, top in parts.items():
            for path in files_below(root / top):
                suffix, inner = path.suffix.lower(), path.relative_to(root / top).parts
                if suffix not in IMAGE_SUFFIXES:
                    others[suffix or "without a suffix"] += 1
                elif len(inner) == 1:
                    others[LOOSE] += 1
                else:
                    photos.append(Photo(described(root, path), part, class_name(inner[0])))
        classes = sorted({*map(class_name, folders(root / parts["train"]))})
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error
    found = Listing(root, parts, photos, classes, others)
    check(found)
    return found


def parts_of(root: Path) -> dict[str, str]:
    tops = folders(root)
    found = {PARTS[top.lower()]: top for top in tops if top.lower() in PARTS}
    if "train" in found:
        return {part: found[part] for part in ("train", "val", "test") if part in found}
    if found and len(found) == len(tops):
        raise UserError(f"{root}: it has {' and '.join(tops)}, but no train")
    return {"train": "."}


def folders(parent: Path) -> list[str]:
    """The names of the folders to look into, sorted."""
    with os.scandir(parent) as entries:
        return sorted(e.name for e in entries if e.is_dir() and is_shown(e.name))


def is_shown(name: str) -> bool:
    return not name.startswith(".") and name not in THUMBNAILS


def files_below(top: Path) -> Iterator[Path]:
    """Files in a folder and below; of a class each folder once, wherever links lead."""
    with os.scandir(top) as entries:
        names = sorted(e.name for e in entries if not e.is_dir())
    yield from (top / name for name in names if is_shown(name))
    for class_folder in folders(top):
        seen = set()
        for folder, inner, files in os.walk(top / class_folder, onerror=fail, followlinks=True):
            inner[:] = sorted(filter(is_shown, inner))
            real = os.path.realpath(folder)
            if real in seen or top.resolve().is_relative_to(real):
                inner.clear()
                continue
            seen.add(real)
            yield from (Path(folder, name) for name in sorted(files) if is_shown(name))


def fail(error: OSError) -> NoReturn:
    raise error


def described(root: Path, path: Path) -> File:
    name = path.relative_to(root).as_posix()
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, which will not be readable
        return File(name, 0, 0)
    return File(name, status.st_size, status.st_mtime_ns)


def class_name(folder: str) -> str:
    """A folder's name, the same from every system."""
    return sanitize_text(unicodedata.normalize("NFC", folder)).replace("\n", "\ufffd")


def check(found: Listing, why: str = "") -> None:
    """Raise UserError unless there are two classes or more, none of them without photos.

    `why` is what to add where there is none.
    """
    root, counts = found.root, Counter((photo.part, photo.class_name) for photo in found.photos)
    if not found.photos:
        why = why or (f" (there are {kinds(found.others)})" if found.others else "")
        raise UserError(f"{root}: no images, a folder of them for each class is expected{why}")
    for name in found.classes:
        if not counts["train", name]:
            raise UserError(f"{root / found.parts['train'] / name}: a class without images{why}")
    if len(found.classes) == 1:
        raise UserError(
            f"{root}: one class ({found.classes[0]}), but two or more can be told apart"
        )
    for part, top in found.parts.items():
        names = {name for of, name in counts if of == part}
        if not names:
            raise UserError(f"{root / top}: no images in folders of classes{why}")
        if unknown := sorted(names - set(found.classes)):
            raise UserError(f"{root / top / unknown[0]}: training has no images of this class")


def kinds(others: Counter[str]) -> str:
    """The commonest kinds of files, as "12 .txt, 3 .csv"."""
    named = [f"{count} {kind}" for kind, count in sorted(others.items(), key=lambda o: (-o[1], o))]
    named = [*named[:5], *(["others"] if len(named) > 5 else [])]
    return sanitize_text(", ".join(named))


MAX_SIDE = 2**14
MOST_NAMED = 10  # unreadable files; the rest is counted


class Folder:
    """A source of the photos below `root`, as `train/`, `val/`, `test/` or to be split.

    `fit` says how a photo becomes a square: `crop`, `pad` or `stretch`. Without `test/` a test set
    is split off the training photos, without `val/` a validation set. Photos that cannot be read,
    or have more than `max_pixels`, are named and left out. Raises ValueError where `size` is not
    from 1 to 16384, or there is no such `fit`.
    """

    def __init__(
        self, root: str, size: int = 256, fit: str = "crop", max_pixels: int = MAX_PIXELS
    ) -> None:
        self._root = Path(root).expanduser().absolute()
        if type(size) is not int or not 1 <= size <= MAX_SIDE or fit not in FITS:
            raise ValueError(f"no square has size={size} and fit={fit}")
        self.square = Square(size, fit, max_pixels)

    def missing(self) -> str | None:
        return None if self._root.is_dir() else f"{self._root}: no such folder"

    def can_download(self) -> bool:
        # Nobody wants drawings instead, which is what a run offers where a download fails.
        raise UserError(f"data.root={self._root}: no such folder")

    def download(self) -> None:
        self._stored()

    def read(self) -> ImageSet:
        """Raises UserError where a class has no image that can be read."""
        found, squares = self._listing, self._stored()
        photos = [p for p in found.photos if p.file.name not in squares.unreadable]
        why = "".join(
            f" ({sanitize_text(name)}: {why})" for name, why in [*squares.unreadable.items()][:1]
        )
        check(found._replace(photos=photos), why)
        number = {name: label for label, name in enumerate(found.classes)}
        labels = torch.tensor([number[photo.class_name] for photo in photos])
        images = LabelledImages(squares.images, labels)
        parts = {
            part: [i for i, photo in enumerate(photos) if photo.part == part]
            for part in found.parts
        }
        if is_split(found):  # copies on both sides of a cut would flatter
            parts["train"] = [*{squares.sums[i]: i for i in reversed(parts["train"])}.values()][
                ::-1
            ]
        splits = {part: torch.tensor(chosen) for part, chosen in parts.items()}
        return ImageSet(
            images, images, tuple(found.classes), splits, tuple(notes(found, photos, squares))
        )

    @cached_property
    def _listing(self) -> Listing:
        return listed(self._root)

    def _stored(self) -> Stored:
        return stored(self._root, [photo.file for photo in self._listing.photos], self.square)


def notes(found: Listing, photos: list[Photo], squares: Stored) -> list[str]:
    """What somebody should know before trusting what is learned from these photos."""
    lines = []
    if unreadable := squares.unreadable:
        named = [
            f"{sanitize_text(name)} ({why})" for name, why in [*unreadable.items()][:MOST_NAMED]
        ]
        more = f"; all of them in {squares.told_in}" if len(unreadable) > MOST_NAMED else ""
        count = f"{len(unreadable)} of {len(found.photos)} photos"
        lines.append(f"{count} cannot be read and are left out: {', '.join(named)}{more}")
    if found.others:
        lines.append(f"files left out that are no photos of a class: {kinds(found.others)}")
    return lines + repeated(
        photos, squares.sums, " (training takes one copy)" if is_split(found) else ""
    )


def is_split(found: Listing) -> bool:
    """Whether some of the training photos are to validate or to test."""
    return not {"val", "test"} <= set(found.parts)


def repeated(photos: list[Photo], sums: list[str], use: str = "") -> list[str]:
    """A line on photos of the same pixels: twice in training they weigh double, in training and
    test they flatter, in two classes one of them is wrong."""
    alike = defaultdict(list)
    for photo, pixels in zip(photos, sums, strict=True):
        alike[pixels].append(photo)
    twins = [same for same in alike.values() if len(same) > 1]
    parts, classes = (
        [same for same in twins if len({getattr(photo, key) for photo in same}) > 1]
        for key in ("part", "class_name")
    )
    told = (
        (twins, f"there more than once{use}"),
        (parts, "in more than one of train, val and test"),
        (classes, "in more than one class"),
    )
    return [
        f"{len(found)} photo{' is' if len(found) == 1 else 's are'} {where}, such as "
        f"{found[0][0].shown} = {found[0][1].shown}"
        for found, where in told
        if found
    ]
