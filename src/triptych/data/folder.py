"""Your own photos, a folder a class: `photos/cat/...`, or `photos/train/cat/...` and so on.

A photo is stored once, as a square of `size` pixels: larger than networks take (224), so that they
shrink it, and small enough that 10,000 photos take 2 GB of disk. Its place in the set is that in
the sorted list of readable files.

Shapes: N photos, S pixels a side.
"""

from collections import defaultdict
from functools import cached_property
from pathlib import Path

import torch

from triptych import Refused, legible
from triptych.data.listing import Listing, Photo, check, kinds, listed
from triptych.data.photos import FITS, MAX_PIXELS
from triptych.data.source import ImageSet, LabelledImages
from triptych.data.store import Square, Stored, stored

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

    def reachable(self) -> bool:
        # Nobody wants drawings instead, which is what a run offers where a download fails.
        raise Refused(f"data.root={self._root}: no such folder")

    def fetch(self) -> None:
        self._stored()

    def read(self) -> ImageSet:
        """Raises Refused where a class has no image that can be read."""
        found, squares = self._listing, self._stored()
        photos = [p for p in found.photos if p.file.name not in squares.unreadable]
        why = "".join(
            f" ({legible(name)}: {why})" for name, why in [*squares.unreadable.items()][:1]
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
        places = {part: torch.tensor(chosen) for part, chosen in parts.items()}
        return ImageSet(
            images, images, tuple(found.classes), places, tuple(notes(found, photos, squares))
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
        named = [f"{legible(name)} ({why})" for name, why in [*unreadable.items()][:MOST_NAMED]]
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
