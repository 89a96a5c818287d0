"""What lies in a folder of photos: a folder a class, in `train/`, `val/`, `test/` or in none."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from triptych import Refused, legible
from triptych.data.photos import IMAGE_SUFFIXES
from triptych.data.store import File

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
        return legible(self.file.name)


class Listing(NamedTuple):
    root: Path
    parts: dict[str, str]  # the folder of each part that there is; "." where there is one part
    photos: list[Photo]  # by part, class and name
    classes: list[str]  # the names of all folders in training, sorted
    others: Counter[str]  # files that are no photos of a class, by suffix


def listed(root: Path) -> Listing:
    """Everything below a root but what is hidden; links are followed.

    Raises Refused where there are no classes to tell apart, or a folder cannot be read.
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
        raise Refused(f"{error.filename or root}: {error.strerror}") from error
    found = Listing(root, parts, photos, classes, others)
    check(found)
    return found


def parts_of(root: Path) -> dict[str, str]:
    tops = folders(root)
    found = {PARTS[top.lower()]: top for top in tops if top.lower() in PARTS}
    if "train" in found:
        return {part: found[part] for part in ("train", "val", "test") if part in found}
    if found and len(found) == len(tops):
        raise Refused(f"{root}: it has {' and '.join(tops)}, but no train")
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
    return legible(unicodedata.normalize("NFC", folder)).replace("\n", "\ufffd")


def check(found: Listing, why: str = "") -> None:
    """Raise Refused unless there are two classes or more, none of them without photos.

    `why` is what to add where there is none.
    """
    root, counts = found.root, Counter((photo.part, photo.class_name) for photo in found.photos)
    if not found.photos:
        why = why or (f" (there are {kinds(found.others)})" if found.others else "")
        raise Refused(f"{root}: no images, a folder of them for each class is expected{why}")
    for name in found.classes:
        if not counts["train", name]:
            raise Refused(f"{root / found.parts['train'] / name}: a class without images{why}")
    if len(found.classes) == 1:
        raise Refused(f"{root}: one class ({found.classes[0]}), but two or more can be told apart")
    for part, top in found.parts.items():
        names = {name for of, name in counts if of == part}
        if not names:
            raise Refused(f"{root / top}: no images in folders of classes{why}")
        if unknown := sorted(names - set(found.classes)):
            raise Refused(f"{root / top / unknown[0]}: training has no images of this class")


def kinds(others: Counter[str]) -> str:
    """The commonest kinds of files, as "12 .txt, 3 .csv"."""
    named = [f"{count} {kind}" for kind, count in sorted(others.items(), key=lambda o: (-o[1], o))]
    named = [*named[:5], *(["others"] if len(named) > 5 else [])]
    return legible(", ".join(named))
