"""Your own photos, a folder a class: `photos/cat/...`, or `photos/train/cat/...` and so on.

A photo is stored once, as a square of `size` pixels: larger than networks take (224), so that they
shrink it, and small enough that 10,000 photos take 2 GB of disk. Its index in the set is that in
the sorted list of readable files.

Shapes: N photos, S pixels a side.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from triptych.data.group_names import find_problems, name_groups, parse
from triptych.data.label_table import read_labels, sort_labels, split_labels
from triptych.data.names import ESCAPE, class_name, decode_name, escape_name, visible_part
from triptych.data.photos import FITS, MAX_PIXELS
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
from triptych.data.squares import Photo, SquareFormat, Squares, file_state, load_squares
from triptych.errors import UserError

MAX_SIDE = 4096
MOST_NAMED = 10  # unreadable files; the rest is counted


class Listing(NamedTuple):
    root: Path
    folders: dict[str, str]  # of each split that there is; "." if the root has no split folders
    photos: list[Photo]  # by split, class and name
    classes: list[str]  # the names of all folders in training, sorted
    notes: tuple[str, ...]  # on names, and on photos that no class has
    separator: str | None = None  # between the classes of a photo, where it has any number

    @property
    def is_split(self) -> bool:
        """Whether no training photo will have to validate or test."""
        return {"val", "test"} <= set(self.folders)


class Folder(Source):
    """The photos below `root`, in `train/`, `val/`, `test/` or to be split.

    `fit` says how a photo becomes a square: `crop`, `pad` or `stretch`. Without `test/` a test set
    is split off the training photos, without `val/` a validation set. `splits` names the folders
    below `root` in place of these, `labels` a CSV file that names the photos and their classes, any
    number for each where there is a `separator`; `groups` is as in `group_names.parse`.
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
        separator: str | None = None,
        groups: int | str | None = None,
    ) -> None:
        if type(size) is not int or not 1 <= size <= MAX_SIDE or fit not in FITS:
            raise ValueError(f"no square has size={size} and fit={fit}")
        self._root = Path(os.path.expanduser(root)).absolute()
        for problem in find_problems(groups, labels) if groups else ():
            raise UserError(problem)
        self._splits, self._labels, self._separator = splits, labels, separator
        self._groups = groups
        self.square = SquareFormat(size, fit, max_pixels, max_value)

    def missing(self) -> str | None:
        return None if self._root.is_dir() else f"data.root={describe_missing_folder(self._root)}"

    def download(self) -> None:
        load_squares(self._root, self._listing.photos, self.square)

    def read(self) -> ImageSet:
        """Raises UserError if a class has no image that can be read."""
        listing = self._listing
        squares = load_squares(self._root, listing.photos, self.square)
        photos = [photo for photo in listing.photos if photo.name not in squares.unreadable]
        readable = listing._replace(photos=photos)
        check_classes(readable, squares.unreadable, self.least_classes)
        labels = number_labels(photos, listing)
        splits = {
            split: [i for i, photo in enumerate(photos) if photo.split == split]
            for split in listing.folders
        }
        if not listing.is_split:  # copies of a photo in training and test would flatter
            firsts = {squares.digests[i]: i for i in reversed(splits["train"])}
            splits["train"] = [*firsts.values()][::-1]
        images = LabelledImages(squares.images, labels)
        _, group = np.unique([photo.group for photo in photos], return_inverse=True)
        return ImageSet(
            train=images,
            test=images,
            classes=tuple(listing.classes),
            splits={split: torch.tensor(chosen) for split, chosen in splits.items()},
            notes=(*listing.notes, *describe_problems(listing, photos, squares)),
            files=[escape_name(photo.name) for photo in photos],
            groups=(torch.from_numpy(group),) * 2 if self._groups else None,
        )

    @cached_property
    def _listing(self) -> Listing:
        places = (self._splits, self._labels, self.least_classes, self._separator)
        return list_photos(self._root, *places, self._groups)


def list_photos(
    root: Path,
    splits: Mapping[str, str] | None = None,
    labels: str | None = None,
    least_classes: int = 2,
    separator: str | None = None,
    groups: int | str | None = None,
) -> Listing:
    """The photos of a root's folders, or those that a table with their `labels` names.

    `splits` names the folder of each split. Raises UserError if there are fewer classes, or a
    folder cannot be read.
    """
    try:
        if labels:
            column = parse(groups).column if groups else None
            listing = list_table(root, labels, separator, column)
        else:
            listing = list_folders(root, splits)
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error
    check_classes(listing, {}, least_classes)
    if not groups:
        return listing
    levels = {s: 0 if labels else len(Path(f).parts) + 1 for s, f in listing.folders.items()}
    return listing._replace(photos=name_groups(groups, listing.photos, levels))


def list_table(
    root: Path, labels: str, separator: str | None = None, column: str | None = None
) -> Listing:
    """The photos below a root that a table names, with its labels: see `label_table`."""
    photos, notes = read_labels(root, labels, separator, column)
    splits = {photo.split: "." for photo in photos}
    trained = (split_labels(p.class_name, separator) for p in photos if p.split == "train")
    classes = sort_labels([name for names in trained for name in names])
    return Listing(root, splits, photos, classes, tuple(notes), separator)


def number_labels(photos: list[Photo], listing: Listing) -> Tensor:
    """Labels as `LabelledImages` has them: (N,), or (N, C) where a photo has any number."""
    number = {name: label for label, name in enumerate(listing.classes)}
    if listing.separator is None:
        return torch.tensor([number[photo.class_name] for photo in photos])
    labels = torch.zeros(len(photos), len(number), dtype=torch.uint8)
    for row, photo in zip(labels, photos, strict=True):
        row[[number[name] for name in split_labels(photo.class_name, listing.separator)]] = 1
    return labels


def list_folders(root: Path, splits: Mapping[str, str] | None) -> Listing:
    """Everything below a root but what is hidden; links are followed."""
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
    return Listing(root, splits, photos, sorted({*map(class_name, names)}), tuple(notes))


def list_files(root: Path, splits: Mapping[str, str], split: str) -> list[Path]:
    """The files below a split's folder that lie in no split inside of it."""
    top = root / splits[split]
    inner = [root / f for s, f in splits.items() if s != split and (root / f).is_relative_to(top)]
    return [path for path in walk_files(top) if not any(map(path.is_relative_to, inner))]


def describe_photo(root: Path, split: str, folder: str, path: Path) -> Photo:
    name = decode_name(Path(os.path.relpath(path, root)).as_posix())
    label = class_name(decode_name(path.relative_to(root / folder).parts[0]))
    return Photo(name, file_state(path), split, label)


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
        of_split = [photo.class_name for photo in listing.photos if photo.split == split]
        names = {name for each in of_split for name in split_labels(each, listing.separator)}
        if not of_split:
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
