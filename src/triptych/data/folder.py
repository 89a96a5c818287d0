"""Your own photos, a folder a class: `photos/cat/...`, or `photos/train/cat/...` and so on.

A photo is stored once, as a square of `size` pixels: larger than networks take (224), so that they
shrink it, and small enough that 10,000 photos take 2 GB of disk. Its index in the set is that in
the sorted list of readable files.

Shapes: N photos, S pixels a side.
"""

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import __version__ as pillow
from rich.filesize import decimal
from torch import Tensor

from triptych.data.decoder import idle, read_image
from triptych.data.disk_cache import data_dir, hash_json, lock_file, map_tensor, track_progress
from triptych.data.label_table import read_labels, sort_labels
from triptych.data.names import (
    ESCAPE,
    class_name,
    decode_name,
    encode_name,
    escape_name,
    visible_part,
)
from triptych.data.photos import FITS, MAX_PIXELS, Unreadable, square
from triptych.data.source import ImageSet, LabelledImages, Source
from triptych.data.split_folders import (
    UNLABELLED,
    describe_left_out,
    describe_missing_folder,
    describe_shared_folders,
    find_parts,
    find_splits,
    format_splits,
    is_photo,
    photos_in,
    subfolders,
    suggest,
    walk_files,
)
from triptych.errors import UserError
from triptych.runs.storage import atomic_write

MAX_SIDE = 4096
MOST_NAMED = 10  # unreadable files; the rest is counted
AT_ONCE = 128  # photos decoded between two updates of the progress bar
BYTES_AT_ONCE = 2**28  # of their squares


Decoded = tuple[NDArray[np.uint8], dict[Any, Any]]  # (3, S, S), and Pillow's info


class Photo(NamedTuple):
    name: str  # its path below the root, as `names.decode_name` has it
    state: tuple[int, ...]  # what changes with the file, see `file_state`
    split: str  # train, val, test
    class_name: str


class Listing(NamedTuple):
    root: Path
    folders: dict[str, str]  # of each split that there is; "." if the root has no split folders
    photos: list[Photo]  # by split, class and name
    classes: list[str]  # the names of all folders in training, sorted
    notes: tuple[str, ...]  # on names, and on photos that no class has

    @property
    def is_split(self) -> bool:
        """Whether no training photo will have to validate or test."""
        return {"val", "test"} <= set(self.folders)


class SquareFormat(NamedTuple):
    """How a photo is stored: see `photos.square` and `photos.decode_image`."""

    side: int
    fit: str
    max_pixels: int
    max_value: float | None = None


class Squares(NamedTuple):
    images: Tensor  # uint8 (N, 3, S, S), read-only, in the order of the readable photos
    digests: list[str]  # of each image; equal if the pixels are equal
    unreadable: dict[str, str]  # why a photo, by its name, gave no image
    deep: list[float]  # the largest value of each photo of more than 8 bits, scaled by its type
    num_own_range: int  # photos of more than 8 bits that were each scaled by their own range
    index_path: Path  # of the file with digests and reasons
    states: str  # a hash of the photos' `state`s when they were decoded
    contents: str  # a hash of the photos' bytes
    num_above: int = 0  # photos with values above `max_value`


class Folder(Source):
    """The photos below `root`, in `train/`, `val/`, `test/` or to be split.

    `fit` says how a photo becomes a square: `crop`, `pad` or `stretch`. Without `test/` a test set
    is split off the training photos, without `val/` a validation set. `splits` names the folders
    below `root` in place of these, `labels` a CSV file that names the photos and their classes.
    Photos that cannot be read, or have more than `max_pixels`, are named and left out. `max_value`
    is that of `photos.decode_image`. Raises ValueError if `size` is not from 1 to 4096, or there is
    no such `fit`.
    """

    least_classes = 2  # to be learned; to be scored, one is enough

    def __init__(
        self,
        root: str,
        size: int = 256,
        fit: str = "crop",
        max_pixels: int = MAX_PIXELS,
        splits: Mapping[str, str] | None = None,
        labels: str | None = None,
        max_value: float | None = None,
    ) -> None:
        if type(size) is not int or not 1 <= size <= MAX_SIDE or fit not in FITS:
            raise ValueError(f"no square has size={size} and fit={fit}")
        self._root = Path(os.path.expanduser(root)).absolute()
        self._splits, self._labels = splits, labels
        self.square = SquareFormat(size, fit, max_pixels, max_value)

    def missing(self) -> str | None:
        return None if self._root.is_dir() else f"data.root={describe_missing_folder(self._root)}"

    def download(self) -> None:
        load_squares(self._listing, self.square)

    def read(self) -> ImageSet:
        """Raises UserError if a class has no image that can be read."""
        listing, squares = self._listing, load_squares(self._listing, self.square)
        photos = [photo for photo in listing.photos if photo.name not in squares.unreadable]
        readable = listing._replace(photos=photos)
        check_classes(readable, squares.unreadable, self.least_classes)
        number = {name: label for label, name in enumerate(listing.classes)}
        labels = torch.tensor([number[photo.class_name] for photo in photos])
        splits = {
            split: [i for i, photo in enumerate(photos) if photo.split == split]
            for split in listing.folders
        }
        if not listing.is_split:  # copies of a photo in training and test would flatter
            firsts = {squares.digests[i]: i for i in reversed(splits["train"])}
            splits["train"] = [*firsts.values()][::-1]
        images = LabelledImages(squares.images, labels)
        return ImageSet(
            train=images,
            test=images,
            classes=tuple(listing.classes),
            splits={split: torch.tensor(chosen) for split, chosen in splits.items()},
            notes=(*listing.notes, *describe_problems(listing, photos, squares)),
            files=[escape_name(photo.name) for photo in photos],
        )

    @cached_property
    def _listing(self) -> Listing:
        if self._labels:
            return list_table(self._root, self._labels, self.least_classes)
        return list_photos(self._root, self._splits, self.least_classes)


def list_table(root: Path, labels: str, least_classes: int = 2) -> Listing:
    """The photos below a root that a table names, with its labels: see `label_table`."""
    try:
        files, notes = read_labels(root, labels)
        photos = []
        for name, label, split in files:
            photos.append(Photo(name, file_state(root / encode_name(name)), split, label))
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error
    splits = {photo.split: "." for photo in photos}
    classes = sort_labels([photo.class_name for photo in photos if photo.split == "train"])
    listing = Listing(root, splits, photos, classes, tuple(notes))
    check_classes(listing, {}, least_classes)
    return listing


def list_photos(
    root: Path, splits: Mapping[str, str] | None = None, least_classes: int = 2
) -> Listing:
    """Everything below a root but what is hidden; links are followed.

    `splits` names the folder of each split. Raises UserError if there are fewer classes, or a
    folder cannot be read.
    """
    try:
        splits = dict(splits or find_splits(root))
        for split, folder in splits.items():
            if not (root / folder).is_dir():
                raise UserError(f"data.splits.{split}={describe_missing_folder(root / folder)}")
        files = {split: list_files(root, splits, split) for split in splits}
        photos = [
            describe_photo(root, split, folder, path)
            for split, folder in splits.items()
            for path in files[split]
            if is_photo(path) and path.parent != root / folder
        ]
        others = {root / folder for split, folder in splits.items() if split != "train"}
        train = root / splits["train"]
        names = [decode_name(n) for n in subfolders(train) if train / n not in others]
        notes = [
            *describe_names(names, [photo.name for photo in photos], splits),
            *describe_shared_folders(train),
            *describe_left_out(root, splits, (path for some in files.values() for path in some)),
        ]
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error
    listing = Listing(root, splits, photos, sorted({*map(class_name, names)}), tuple(notes))
    check_classes(listing, {}, least_classes)
    return listing


def list_files(root: Path, splits: Mapping[str, str], split: str) -> list[Path]:
    """The files below a split's folder that lie in no split inside of it."""
    top = root / splits[split]
    inner = [root / f for s, f in splits.items() if s != split and (root / f).is_relative_to(top)]
    return [path for path in walk_files(top) if not any(map(path.is_relative_to, inner))]


def describe_photo(root: Path, split: str, folder: str, path: Path) -> Photo:
    name = decode_name(Path(os.path.relpath(path, root)).as_posix())
    label = class_name(decode_name(path.relative_to(root / folder).parts[0]))
    return Photo(name, file_state(path), split, label)


def file_state(path: Path) -> tuple[int, ...]:
    """Numbers of a file that do not all stay when its content changes: the system alone sets the
    time of its last change (`ctime`), while its size and `mtime` may be those of before."""
    status = path.stat() if path.exists() else path.lstat()  # a link to nowhere
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def describe_names(
    folders: list[str], files: list[str], splits: Mapping[str, str]
) -> Iterator[str]:
    """Lines on folders of classes whose names are not what they seem."""
    names = {folder: class_name(folder) for folder in folders}
    shown = sorted({name for name in names.values() if ESCAPE.search(name)})
    if shown:
        yield f"class names that cannot be shown, with escapes (\\x: not UTF-8): {', '.join(shown)}"
    if num := sum(escape_name(last) != last for last in (n.rpartition("/")[2] for n in files)):
        yield f"{num} photos have names that cannot be shown; records have escapes for them"
    alike = defaultdict(set)
    for name in names.values():
        alike[visible_part(name)].add(name)
    for same in alike.values():
        if len(same) > 1:
            yield f"classes that look alike but are several: {', '.join(sorted(same))}"
    twins = [name for name in {*names.values()} if [*names.values()].count(name) > 1]
    if twins:
        yield f"folders of one name in two spellings of Unicode are one class: {', '.join(twins)}"
    parts = [n for n in folders if find_parts([n]) or UNLABELLED.search(n)]
    if parts and [*splits.values()] == ["."]:
        yield f"{', '.join(map(class_name, parts))}: a class like the others; if not, move it away"


def check_classes(listing: Listing, unreadable: dict[str, str], least: int = 2) -> None:
    """Raise UserError unless there are so many classes, all with photos that can be read."""
    root, classes = listing.root, set(listing.classes)
    deeper = "" if listing.is_split else suggest(root)
    hint = f"\ntype {deeper}" if deeper and deeper != f"data.root={root}" else ""
    reason = next((f" ({escape_name(n)}: {why})" for n, why in unreadable.items()), "")
    for split, folder in listing.folders.items():
        names = {photo.class_name for photo in listing.photos if photo.split == split}
        if not names:
            rest = {s: f for s, f in listing.folders.items() if s != split}
            if split != "train" and photos_in(root / folder):
                hint = f"; if they have no labels, type {format_splits(rest)}"
            raise UserError(f"{root / folder}: no images in folders of classes{reason}{hint}")
        if split == "train" and (empty := classes - names):
            raise UserError(f"{root / folder / min(empty)}: a class without images{reason}{hint}")
        if unknown := names - classes:
            raise UserError(f"{root / folder / min(unknown)}: a class without training images")
    if len(classes) < least:
        raise UserError(f"{root}: one class ({listing.classes[0]}); two or more are needed{hint}")


def describe_problems(listing: Listing, photos: list[Photo], squares: Squares) -> Iterator[str]:
    """Lines on what to know before trusting what is learned from these photos.

    Photos of the same pixels weigh double if both train, flatter in training and test, and in two
    classes one of them is wrong.
    """
    if unreadable := squares.unreadable:
        named = [f"{escape_name(n)} ({why})" for n, why in [*unreadable.items()][:MOST_NAMED]]
        rest = f"; all of them in {squares.index_path}" if len(unreadable) > MOST_NAMED else ""
        count = f"{len(unreadable)} of {len(listing.photos)} photos"
        yield f"{count} cannot be read and are left out: {', '.join(named)}{rest}"
    yield from describe_ranges(squares)
    copies = defaultdict(list)
    for photo, digest in zip(photos, squares.digests, strict=True):
        copies[digest].append(photo)
    use = "" if listing.is_split else " (training takes one copy)"
    for differs, where in (
        (lambda photo: photo.name, f"there more than once{use}"),
        (lambda photo: photo.split, "in more than one of train, val and test"),
        (lambda photo: photo.class_name, "in more than one class"),
    ):
        same = [group for group in copies.values() if len(set(map(differs, group))) > 1]
        if same:
            one, other, *_ = (escape_name(photo.name) for photo in same[0])
            count = f"{len(same)} photo{' is' if len(same) == 1 else 's are'}"
            yield f"{count} {where}, such as {one} = {other}{name_kept(same, where, use)}"


def name_kept(same: list[list[Photo]], where: str, use: str) -> str:
    """Which copies train, of photos in two classes that are not split by their folders."""
    if not use or not where.endswith("class"):
        return ""
    kept = ", ".join(escape_name(group[0].name) for group in same[:MOST_NAMED])
    return f"; kept: {kept}{' ...' if len(same) > MOST_NAMED else ''}"


def describe_ranges(squares: Squares) -> Iterator[str]:
    """Lines on photos of more than 8 bits that are darker, or brighter, than they were taken."""
    largest = max(squares.deep, default=0)
    dark = [value for value in squares.deep if 1 < value < 2**13]
    if dark and largest >= 2**15:
        yield (
            f"{len(dark)} of {len(squares.deep)} photos of 16 bits hold no value above "
            f"{max(dark):g} of 65535 and are nearly black beside the others: scale them alike first"
        )
    elif 1 < largest < 2**15:
        white = 2 ** int(largest).bit_length() - 1
        yield (
            f"{len(squares.deep)} photos of 16 bits hold no value above {largest:g} of 65535 and "
            f"are nearly black: data.max_value={white} makes that white"
        )
    if squares.num_own_range:
        yield (
            f"{squares.num_own_range} photos of more than 8 bits are each scaled by its own range: "
            "data.max_value=<white> gives them one"
        )
    if squares.num_above:
        yield f"{squares.num_above} photos hold values above data.max_value: these are white"


def load_squares(listing: Listing, form: SquareFormat) -> Squares:
    """The squares of all photos, decoded if photos are new or have changed.

    They lie in DATA_DIR (else `data/`), because the photos' own folder may be read-only; what was
    stored of an earlier state of the folder is deleted. Photos that were only copied or moved, to
    another machine's disk perhaps, are read again, not decoded. Of several processes one decodes.
    Raises UserError if the disk does not take them.
    """
    folder = data_dir() / ".folders"
    place = hash_json(str(listing.root.resolve()), form)
    index = folder / f"{place}-{hash_json(form, [p.name for p in listing.photos], pillow)}.json"
    states = hash_states(listing)
    squares = open_squares(index, form.side)
    if squares and squares.states == states:
        return squares
    with lock_file(folder / place):
        squares = open_squares(index, form.side)
        if not squares or (squares.states != states and squares.contents != hash_photos(listing)):
            for old in folder.glob(f"*{place}-*"):
                old.unlink()
            decode_squares(listing, form, index)
        elif squares.states != states:
            write_index(index, json.loads(index.read_text()) | {"states": states})
        squares = open_squares(index, form.side)
    assert squares
    return squares


def hash_states(listing: Listing) -> str:
    return hash_json([photo.state for photo in listing.photos])


def hash_photos(listing: Listing) -> str:
    """A hash of the bytes of all photos."""
    with ThreadPoolExecutor() as pool:
        paths = (listing.root / encode_name(photo.name) for photo in listing.photos)
        return hash_json(*pool.map(hash_file, paths))


def hash_file(path: Path) -> str:
    """A hash of a file's bytes; of what cannot be read an empty text."""
    try:
        if path.is_file():  # a FIFO would keep its reader waiting
            with path.open("rb") as file:
                return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        pass
    return ""


def write_index(index: Path, content: dict[str, Any]) -> None:
    with atomic_write(index) as path:
        path.write_text(json.dumps(content))


def open_squares(index: Path, side: int) -> Squares | None:
    """What is stored, mapped; None if there is nothing, or less than there should be."""
    try:
        stored = json.loads(index.read_text())
        shape = (len(stored["digests"]), 3, side, side)
        images = map_tensor(index.with_suffix(".u8"), np.uint8, shape)
    except (OSError, ValueError):
        return None
    return Squares(images, index_path=index, **stored)


def check_space(num: int, side: int, folder: Path) -> None:
    """Raise UserError where a disk has no space for so many squares."""
    num_bytes, free = 3 * side**2 * num, shutil.disk_usage(folder).free
    if num_bytes > free:
        raise UserError(
            f"data.size={side}: {num} photos take {decimal(num_bytes)} in {folder}, where "
            f"{decimal(free)} are free\nset DATA_DIR to another disk, or take a smaller size"
        )


def decode_photo(photo: Photo, root: Path, form: SquareFormat) -> tuple[str, Decoded | Unreadable]:
    """A hash of a photo's bytes, and its square or why there is none."""
    path = root / encode_name(photo.name)
    content = hash_file(path)  # first: of a photo that changes meanwhile it is not the square's
    options: dict[str, Any] = {"max_pixels": form.max_pixels, "max_value": form.max_value}
    try:
        image = read_image(path, side=form.side, **options)
        return content, (square(image, form.side, form.fit), image.info)
    except Unreadable as error:
        return content, error


def decode_squares(listing: Listing, form: SquareFormat, index: Path) -> None:
    """Decode in threads: Pillow releases Python's lock meanwhile."""
    check_space(len(listing.photos), form.side, index.parent)
    decode = partial(decode_photo, root=listing.root, form=form)
    contents, digests, unreadable, deep = list[str](), list[str](), dict[str, str](), list[float]()
    num_own_range, num_above = 0, 0
    at_once = max(1, min(AT_ONCE, BYTES_AT_ONCE // (3 * form.side**2)))
    starts = track_progress(range(0, len(listing.photos), at_once), "Decoding photos")
    with (
        atomic_write(index.with_suffix(".u8")) as path,
        path.open("wb") as file,
        ThreadPoolExecutor() as pool,
    ):
        for some in (listing.photos[start : start + at_once] for start in starts):
            for photo, (content, decoded) in zip(some, pool.map(decode, some), strict=True):
                contents.append(content)
                if isinstance(decoded, Unreadable):
                    unreadable[photo.name] = str(decoded)
                    continue
                pixels, info = decoded
                file.write(pixels.data)
                digests.append(hashlib.blake2b(pixels.data, digest_size=8).hexdigest())
                num_own_range += info.get("own_range", False)
                if form.max_value is None and not info.get("own_range", True):
                    deep.append(info["max_value"])
                num_above += info.get("max_value", 0) > (form.max_value or inf)
    idle.clear()  # ends the processes that decoded rare formats
    if not digests:
        check_classes(listing._replace(photos=[]), unreadable)
    stored: dict[str, Any] = {"unreadable": unreadable, "digests": digests, "deep": deep}
    stored |= {"num_own_range": num_own_range, "num_above": num_above}
    stored |= {"states": hash_states(listing), "contents": hash_json(*contents)}
    write_index(index, stored)  # after the pixels: if there is an index, they are whole
