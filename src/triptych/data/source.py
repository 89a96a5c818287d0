"""What a source of images gives, and what it must answer.

Shapes: N images of H x W pixels.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from triptych.data.rng import split_stratified
from triptych.errors import UserError


class LabelledImages(NamedTuple):
    images: Tensor  # uint8 (N, 3, H, W)
    labels: Tensor  # int64 (N,)


class ImageSet(NamedTuple):
    """`places` are of images that train, validate and test, where a set has its own: int64, `train`
    and perhaps `val` (both of `train`) and `test`. `notes` are lines for whoever trains on it.
    """

    train: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    places: dict[str, Tensor] | None = None
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """Where images come from: what `data=` chooses."""

    def missing(self) -> str | None:
        """What is not on disk and where it was looked for; None when nothing is."""

    def can_download(self) -> bool:
        """Whether what is missing could be fetched now."""

    def fetch(self) -> None:
        """Bring what is missing; several processes may try at once."""

    def read(self) -> ImageSet:
        """All images and labels, in the official order."""


# Which images train, validate and test; how many of a class learn.
#
# Shapes: N images, C classes.

SHARE = 0.15  # of the training images, for a part that is neither given nor counted
MOST_NAMED = 12


def split_indices(data: ImageSet, sizes: dict[str, int | None], seed: int) -> dict[str, Tensor]:
    """Places (int64, ascending) of the `train`, `val` and `test` images.

    What the set does not give is split off its training images. A size takes a stratified part,
    None all there are, or `SHARE` of the training images where they are split off.
    """
    given = data.places or {
        "train": torch.arange(len(data.train.labels)),
        "test": torch.arange(len(data.test.labels)),
    }
    pool = given["train"]
    lacking = [name for name in ("test", "val") if name not in given]
    wanted = [sizes[name] or max(1, round(SHARE * len(pool))) for name in lacking]
    cut = split_stratified(data.train.labels[pool], [*wanted, sizes["train"]], seed)
    parts = {name: pool[part] for name, part in zip([*lacking, "train"], cut, strict=True)}
    for name in given.keys() - parts.keys():
        labels = data.test.labels[given[name]]
        parts[name] = given[name][split_stratified(labels, [sizes[name]], seed)[0]]
    if sizes["train"] is None:  # who takes a part for a quick run may lose a class
        check_classes_trained(data, parts)
    return parts


def check_classes_trained(data: ImageSet, parts: dict[str, Tensor]) -> None:
    """Raise UserError where no image is left to train, or none of a class that is then asked for."""
    learned = set(data.train.labels[parts["train"]].tolist())
    for name, labels in (("val", data.train.labels), ("test", data.test.labels)):
        unlearned = set(labels[parts[name]].tolist()) - learned
        if unlearned:
            raise UserError(
                f"{data.classes[min(unlearned)]}: no image of this class is left for training, "
                f"some are in {name}; lower data.num_val or data.num_test, or add images"
            )


def num_per_class(labels: Tensor, num_classes: int) -> list[int]:
    return torch.bincount(labels, minlength=num_classes).tolist()


def class_weights(counts: Sequence[int]) -> Tensor:
    """float32 (C,): N / (C * count), so that every class weighs the same in a sum over images."""
    images = torch.tensor(counts, dtype=torch.float32)
    return images.sum() / (len(counts) * images.clamp(min=1))


def describe_balance(classes: Sequence[str], counts: Sequence[int]) -> str:
    """In a line, how many training images each class has; of many classes, the extremes."""
    least, most = min(counts), max(counts)
    if least == most:
        return f"{len(classes)} classes, {most} training images each"
    pairs = sorted(zip(counts, classes, strict=True), key=lambda pair: -pair[0])
    named = [f"{name} {count}" for count, name in pairs]
    if len(named) > MOST_NAMED:
        named[MOST_NAMED // 2 : -MOST_NAMED // 2] = ["..."]
    ratio = f"{most / least:.1f} to 1" if least else "some have none"
    return f"{len(classes)} classes of {', '.join(named)} training images ({ratio})"


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """First 16 hex digits of SHA-256 over the tensors' bytes, little-endian."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<"), copy=False).data)
    return sha.hexdigest()[:16]
