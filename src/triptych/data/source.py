"""What a source of images gives, and what it must answer.

Shapes: N images of H x W pixels.
"""

from typing import NamedTuple, Protocol

from torch import Tensor


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

    def reachable(self) -> bool:
        """Whether what is missing could be fetched now."""

    def fetch(self) -> None:
        """Bring what is missing; several processes may try at once."""

    def read(self) -> ImageSet:
        """All images and labels, in the official order."""
