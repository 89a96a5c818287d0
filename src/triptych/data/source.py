"""What a source of images gives, and which of its images train, validate and test.

Shapes: N images of H x W pixels, C classes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from triptych.data.rng import count_classes, split_stratified
from triptych.errors import UserError

HELD_OUT_SHARE = 0.15  # of the training images, for a split without images and size of its own


class LabelledImages(NamedTuple):
    images: Tensor  # uint8 (N, 3, H, W)
    labels: Tensor  # int64 (N,); or uint8 (N, C) of 0 and 1, any number of classes an image


class ImageSet(NamedTuple):
    """All images of a set. An image's index in `train` or `test` names it in every run.

    `splits` are indices, int64, of a set that comes split: of `train` and perhaps `val`, both into
    the training images, and perhaps of `test`. `files`, by index, name the images of a set that has
    one list for `train` and `test`: text without lone surrogates, each name once.
    """

    train: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    splits: dict[str, Tensor] | None = None
    notes: tuple[str, ...] = ()  # lines for whoever trains on the set
    files: Sequence[str] | None = None
    groups: tuple[Tensor, Tensor] | None = None  # of train and test, (N,): equal in one group


class Source:
    """Where images come from: what `data=` chooses. One that downloads nothing only reads."""

    def missing(self) -> str | None:
        """What is not on disk, and where it was looked for; None if all is."""
        return None

    def can_download(self) -> bool:
        """Whether what is missing could be downloaded now."""
        return False

    def download(self) -> None:
        """Bring what is missing; several processes may call this at once."""

    def read(self) -> ImageSet:
        """All images and labels, in the same order at every call."""
        raise NotImplementedError


def split_indices(data: ImageSet, sizes: dict[str, int | None], seed: int) -> dict[str, Tensor]:
    """Indices (int64, ascending) of the `train`, `val` and `test` images.

    A split that the set does not have is held out of its training images: `HELD_OUT_SHARE` of
    them if its size is None. Any other size of None takes all images, a number a stratified part.
    """
    splits = data.splits or {
        "train": torch.arange(len(data.train.labels)),
        "test": torch.arange(len(data.test.labels)),
    }
    pool = splits["train"]
    held_out = [name for name in ("test", "val") if name not in splits]
    nums = [sizes[name] or max(1, round(HELD_OUT_SHARE * len(pool))) for name in held_out]
    parts = split_images(data, "train", pool, [*nums, sizes["train"]], seed)
    indices = dict(zip([*held_out, "train"], parts, strict=True))
    for name in splits.keys() - indices.keys():
        [indices[name]] = split_images(data, name, splits[name], [sizes[name]], seed)
    if sizes["train"] is None:  # a quick run on a few images may lose a class
        check_classes_trained(data, indices)
    return indices


def split_images(
    data: ImageSet, split: str, index: Tensor, sizes: list[int | None], seed: int
) -> list[Tensor]:
    """Disjoint stratified parts of a split's index, of whole groups where there are any."""
    labels = (data.test if split == "test" else data.train).labels[index]
    if not data.groups:
        return [index[part] for part in split_stratified(labels, sizes, seed)]
    from triptych.data.groups import split_groups  # a default run needs nothing of it

    groups = data.groups[split == "test"][index]
    return [index[part] for part in split_groups(labels, groups, sizes, seed)]


def check_classes_trained(data: ImageSet, indices: dict[str, Tensor]) -> None:
    """Raise UserError if a class is validated or tested of which no image trains."""
    trained = count_classes(data.train.labels[indices["train"]], len(data.classes)) > 0
    for name, labels in (("val", data.train.labels), ("test", data.test.labels)):
        present = count_classes(labels[indices[name]], len(data.classes)) > 0
        if untrained := (present & ~trained).nonzero().flatten().tolist():
            raise UserError(
                f"{data.classes[untrained[0]]}: no image of this class is left for training, "
                f"some are in {name}; lower data.num_val or data.num_test, or add images"
            )


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """First 16 hex digits of SHA-256 over the tensors' bytes, little-endian."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<"), copy=False).data)
    return sha.hexdigest()[:16]
